"""Media links to other nodes: one plane transport per node, both ways, over the relay port.

Keys come from the cluster's secret and a half from each side, exchanged over the bus; a side that restarts brings a new
half, and both take new keys. Addresses are those the other node says of itself over the bus; nothing is learnt from
packets. Repair, transport-cc and key frames are the plane's business, hop by hop.
"""

import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from tertulia.node.cluster.seal import Seal
from tertulia.protocol import bus
from tertulia.protocol.ids import NodeId, TransportId
from tertulia.sfu.linkload import Crossing, LinkLoad
from tertulia.sfu.plane.api import Address, Extension, Feedback, Plane, SrtpProfile

HALF_BYTES = 16
EXTENSIONS: Mapping[Extension, int] = {
    Extension.TWCC: 1,
    Extension.AUDIO_LEVEL: 2,
    Extension.DEPENDENCY_DESCRIPTOR: 3,
    Extension.PLAYOUT_DELAY: 4,
    Extension.VIDEO_ORIENTATION: 5,
    Extension.ABS_CAPTURE_TIME: 6,
    Extension.COLOR_SPACE: 7,
    Extension.VIDEO_CONTENT_TYPE: 8,
    Extension.VIDEO_TIMING: 9,
}
"""The same on every link."""


@dataclass(frozen=True, slots=True)
class RelaySocket:
    """Where this node's links come out: plane Port, socket number, and the address others reach."""

    port: int
    socket: int
    host: str
    udp_port: int


@dataclass
class Link:
    """One other node."""

    node: NodeId
    transport: TransportId
    mine: bytes
    theirs: bytes = b""
    heard: bytes = b""
    """My half as the other side last said it knows it."""
    host: str = ""
    udp_port: int = 0
    load: LinkLoad | None = None

    @property
    def is_up(self) -> bool:
        return bool(self.theirs) and self.heard == self.mine


class Links:
    """All links of this node (`sfu.relay.Links`)."""

    def __init__(
        self, plane: Plane, seal: Seal, relay: RelaySocket, say: Callable[[NodeId, bus.LinkHello], None]
    ) -> None:
        self._plane = plane
        self._seal = seal
        self._relay = relay
        self._say = say
        self.links: dict[NodeId, Link] = {}
        self._by_transport: dict[TransportId, Link] = {}
        self.crossings: Callable[[], Iterable[Crossing]] = tuple
        """The rooms that use links."""
        self.counters: Counter[str] = Counter()

    def open(self, node: NodeId) -> TransportId:
        link = self.links.get(node)
        if link is None:
            link = self.links[node] = Link(
                node, self._plane.add_transport(self._relay.port), secrets.token_bytes(HALF_BYTES)
            )
            self._by_transport[link.transport] = link
            link.load = LinkLoad(node, link.transport, self._plane, lambda: self.crossings())
            self._plane.set_extensions(link.transport, EXTENSIONS)
            self._plane.set_feedback(link.transport, 1 + secrets.randbelow(0xFFFFFFFE))
            self._greet(link)
        return link.transport

    def _greet(self, link: Link) -> None:
        hello = bus.LinkHello(nonce=link.mine, heard=link.theirs, host=self._relay.host, port=self._relay.udp_port)
        self._say(link.node, hello)

    def heard(self, node: NodeId, word: bus.LinkHello) -> None:
        """The other side's half, and whether it knows ours."""
        if len(word.nonce) != HALF_BYTES or not 0 < word.port < 65_536:
            self.counters["link_malformed"] += 1
            return
        self.open(node)
        link = self.links[node]
        changed = (link.theirs, link.host, link.udp_port) != (word.nonce, word.host, word.port)
        link.heard = word.heard
        if changed:
            self.counters["link_keyed"] += 1
            link.theirs, link.host, link.udp_port = word.nonce, word.host, word.port
            rx, tx = self._seal.link_keys(node, link.mine, link.theirs)
            self._plane.set_keys(link.transport, SrtpProfile.AEAD_AES_128_GCM, rx, tx)
            address = Address(self._relay.socket, word.host, word.port)
            self._plane.allow(link.transport, address)
            self._plane.select(link.transport, address)
        if changed or word.heard != link.mine:
            self._greet(link)

    def on_feedback(self, report: Feedback) -> bool:
        """A summary of congestion feedback; False: not of a link."""
        link = self._by_transport.get(report.transport)
        if link is None or link.load is None:
            return False
        link.load.feed(report)
        return True

    def remind(self) -> None:
        """Links that are not up yet: the word of them may have been lost."""
        for link in self.links.values():
            if not link.is_up:
                self._greet(link)

    def close(self, node: NodeId) -> None:
        if (link := self.links.pop(node, None)) is not None:
            del self._by_transport[link.transport]
            self._plane.remove_transport(link.transport)

    def close_all(self) -> None:
        for node in list(self.links):
            self.close(node)
