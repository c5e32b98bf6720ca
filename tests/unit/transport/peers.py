"""A hub with real sockets and a plane that only carries, and the peers that talk to it."""

import asyncio
import itertools
import socket
from collections.abc import Callable
from typing import Any, cast

from aioice.ice import get_host_addresses
from aiortc import RTCDataChannel, RTCPeerConnection, RTCSessionDescription
from aiortc.sdp import SessionDescription

from tertulia.protocol import stun
from tertulia.protocol.ids import TransportId
from tertulia.protocol.machine import Nanos
from tertulia.sfu.plane.api import Address, Datagram, LivePlane, Outgoing, SrtpProfile
from tertulia.sfu.transport.api import LocalParameters, RemoteParameters, TransportEvent
from tertulia.sfu.transport.association import Association
from tertulia.sfu.transport.channels import ChannelOptions
from tertulia.sfu.transport.dtls import (
    DtlsConnected,
    DtlsData,
    DtlsDatagram,
    DtlsEnded,
    DtlsEndpoint,
    DtlsIdentity,
    Phase,
    Role,
)
from tertulia.sfu.transport.hub import TransportHub, monotonic
from tertulia.sfu.transport.listen import TcpEndpoint, UdpEndpoint

HOST = next(iter(get_host_addresses(True, False)), "127.0.0.1")
"""Not the loopback address if there is another: aioice has no candidates there."""

PEER = DtlsIdentity()


class Changes:
    """Lets a test wait for anything that happens; what nobody tells of is looked at again soon."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def tell(self, *_: object) -> None:
        self._event.set()

    async def until(self, condition: Callable[[], object], limit_s: float = 30) -> None:
        async with asyncio.timeout(limit_s):
            while not condition():
                self._event.clear()
                handle = asyncio.get_running_loop().call_later(0.02, self._event.set)
                await self._event.wait()
                handle.cancel()


class WirePlane:
    """Carries datagrams and remembers orders. No media: that is the plane's own test."""

    def __init__(self, changes: Changes, sockets: int = 1) -> None:
        self.hub: TransportHub
        self.changes = changes
        self.rows: set[TransportId] = set()
        self.keys: dict[TransportId, tuple[SrtpProfile, bytes, bytes]] = {}
        self.allowed: dict[Address, TransportId] = {}
        self.selected: dict[TransportId, Address | None] = {}
        self.fed: list[tuple[TransportId, bytes]] = []
        self.sent = 0
        self.loses: Callable[[bytes], bool] = lambda data: False
        self._numbers = itertools.count(1)
        self._sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(sockets)]
        loop = asyncio.get_running_loop()
        for index, sock in enumerate(self._sockets):
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
            sock.bind((HOST, 0))
            loop.add_reader(sock.fileno(), self._readable, index)

    def endpoint(self, index: int = 0) -> UdpEndpoint:
        return UdpEndpoint(index, HOST, self._sockets[index].getsockname()[1])

    def close(self) -> None:
        for sock in self._sockets:
            asyncio.get_running_loop().remove_reader(sock.fileno())
            sock.close()

    def _readable(self, index: int) -> None:
        for _ in range(64):
            try:
                data, (host, port) = self._sockets[index].recvfrom(65536)
            except BlockingIOError:
                break
            if not self.loses(data):
                self.arrive(Address(index, host, port), data)
        self.changes.tell()

    def arrive(self, address: Address, data: bytes) -> None:
        self.hub.on_report(monotonic(), Datagram(address, data, self.allowed.get(address)))

    def add_transport(self, port: int = 0) -> TransportId:
        transport = TransportId(next(self._numbers))
        self.rows.add(transport)
        return transport

    def remove_transport(self, transport: TransportId) -> None:
        self.rows.remove(transport)
        self.allowed = {address: other for address, other in self.allowed.items() if other != transport}
        self.selected.pop(transport, None)
        self.keys.pop(transport, None)

    def set_keys(self, transport: TransportId, profile: SrtpProfile, rx: bytes, tx: bytes) -> None:
        assert transport in self.rows
        self.keys[transport] = (profile, rx, tx)

    def allow(self, transport: TransportId, address: Address) -> None:
        assert transport in self.rows
        self.allowed[address] = transport

    def select(self, transport: TransportId, address: Address | None) -> None:
        assert transport in self.rows
        self.selected[transport] = address

    def send(self, address: Address, data: bytes) -> None:
        self.sent += 1
        if not self.loses(data):
            self._sockets[address.socket].sendto(data, (address.host, address.port))

    def answer_checks(self, transport: TransportId, ufrag: str, pwd: str) -> None:
        """Every check is the hub's here."""

    def last_check(self, transport: TransportId) -> Nanos:
        return Nanos(0)

    def has_answered(self, transport: TransportId, transaction: bytes) -> bool:
        return False

    def totals(self) -> dict[str, int]:
        return {"checks": 0}

    def feed(self, now: Nanos, transport: TransportId, data: bytes) -> None:
        self.fed.append((transport, data))

    def media(self, transport: TransportId, data: bytes) -> None:
        """A protected packet for a peer, as the plane would send it."""
        address = self.selected[transport]
        if address is None:
            self.hub.on_report(monotonic(), Outgoing(transport, data))
        else:
            self.send(address, data)


class House:
    """A hub, its plane, and what it told."""

    def __init__(self, *, ports: int = 1, tcp: bool = False) -> None:
        self.changes = Changes()
        self.plane = WirePlane(self.changes, ports)
        self.events: list[tuple[TransportId, TransportEvent]] = []
        self.on_event: Callable[[TransportId, TransportEvent], None] = lambda transport, event: None
        self.hub = TransportHub(
            cast(LivePlane, self.plane),
            [[self.plane.endpoint(index)] for index in range(ports)],
            self._deliver,
            tcp=TcpEndpoint(HOST, 0, (HOST,)) if tcp else None,
        )
        self.plane.hub = self.hub

    async def __aenter__(self) -> "House":
        await self.hub.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.hub.stop()
        self.plane.close()

    def _deliver(self, owner: str, transport: TransportId, event: TransportEvent) -> None:
        assert owner == self.hub.owner(transport)
        self.events.append((transport, event))
        asyncio.get_running_loop().call_soon(self.changes.tell)
        self.on_event(transport, event)

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for _, event in self.events if isinstance(event, kind)]

    async def heard(self, kind: type[Any], count: int = 1) -> list[Any]:
        await self.changes.until(lambda: len(self.of(kind)) >= count)
        return self.of(kind)


# aiortc as a client ---------------------------------------------------------------------------------


def description(local: LocalParameters, kind: str, mid: str = "0") -> RTCSessionDescription:
    """Our side as SDP with a data section, enough for aiortc."""
    lines = [
        "v=0",
        "o=- 1 2 IN IP4 0.0.0.0",
        "s=-",
        "t=0 0",
        "a=ice-lite",
        f"a=group:BUNDLE {mid}",
        "m=application 9 UDP/DTLS/SCTP webrtc-datachannel",
        "c=IN IP4 0.0.0.0",
        f"a=mid:{mid}",
        f"a=ice-ufrag:{local.ufrag}",
        f"a=ice-pwd:{local.pwd}",
        f"a=fingerprint:{local.fingerprint_algorithm} {local.fingerprint}",
        "a=setup:" + ("passive" if kind == "answer" else "actpass"),
        "a=sctp-port:5000",
        "a=max-message-size:262144",
        *(f"a=candidate:{candidate}" for candidate in local.candidates),
        "a=end-of-candidates",
    ]
    return RTCSessionDescription("\r\n".join(lines) + "\r\n", kind)


def remote_parameters(sdp: str) -> RemoteParameters:
    media = SessionDescription.parse(sdp).media[0]
    assert media.dtls is not None
    assert media.ice is not None
    assert media.ice.usernameFragment is not None
    assert media.ice.password is not None
    setup = {"auto": "actpass", "client": "active", "server": "passive"}[media.dtls.role]
    return RemoteParameters(
        ufrag=media.ice.usernameFragment,
        pwd=media.ice.password,
        fingerprints=tuple((each.algorithm, each.value) for each in media.dtls.fingerprints),
        setup=setup,
        sctp_port=media.sctp_port,
        max_message_bytes=media.sctpCapabilities.maxMessageSize if media.sctpCapabilities else 0,
    )


class AiortcClient:
    """A whole RTCPeerConnection of another implementation."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.pc = RTCPeerConnection()
        self.inbox: list[tuple[str, bytes]] = []
        self.channels: dict[str, RTCDataChannel] = {}
        self.pc.on("datachannel", self.watch)

    def watch(self, channel: RTCDataChannel) -> RTCDataChannel:
        self.channels[channel.label] = channel

        def message(data: bytes) -> None:
            self.inbox.append((channel.label, data))
            self.house.changes.tell()

        channel.on("message", message)
        channel.on("open", self.house.changes.tell)
        return channel

    async def join(self) -> TransportId:
        """One peer connection, the client offers."""
        self.watch(self.pc.createDataChannel("_lossy", ordered=False, maxRetransmits=0))
        self.watch(self.pc.createDataChannel("_reliable"))
        await self.pc.setLocalDescription(await self.pc.createOffer())
        transport, _ = self.house.hub.open("RM_test")
        local = self.house.hub.connect(transport, remote_parameters(self.pc.localDescription.sdp))
        await self.pc.setRemoteDescription(description(local, "answer"))
        return transport

    async def accept(self) -> TransportId:
        """The server offers (two-connection topology, subscriber side)."""
        transport, local = self.house.hub.open("RM_test")
        self.house.hub.open_channel(transport, "_reliable", ordered=True, max_retransmits=None)
        self.house.hub.open_channel(transport, "_lossy", ordered=False, max_retransmits=0)
        await self.pc.setRemoteDescription(description(local, "offer"))
        await self.pc.setLocalDescription(await self.pc.createAnswer())
        self.house.hub.connect(transport, remote_parameters(self.pc.localDescription.sdp))
        return transport


# a client in small pieces ---------------------------------------------------------------------------


class SmallClient:
    """ICE checks, DTLS and SCTP with nothing but a way to send; the test decides what is said and when."""

    def __init__(self, house: House, send: Callable[[bytes], None]) -> None:
        self.house = house
        self.send = send
        self.ufrag = "peer1"
        self.transport: TransportId
        self.local: LocalParameters
        self.answers: list[stun.Binding] = []
        self.media: list[bytes] = []
        self.events: list[TransportEvent] = []
        self.ended = ""
        self.keys: DtlsConnected | None = None
        self.dtls: DtlsEndpoint | None = None
        self.sctp: Association | None = None
        self._transactions = itertools.count(1)
        self._timer: asyncio.TimerHandle | None = None

    def remote(
        self, *, setup: str = "actpass", fingerprint: str = "", sctp_port: int | None = 5000
    ) -> RemoteParameters:
        return RemoteParameters(
            self.ufrag, "p" * 24, (("sha-256", fingerprint or PEER.fingerprint),), setup, sctp_port, 262144
        )

    def open(self, **changes: Any) -> TransportId:
        self.transport, _ = self.house.hub.open("RM_test")
        self.local = self.house.hub.connect(self.transport, self.remote(**changes))
        return self.transport

    def check(self, *, nominate: bool = False, pwd: str | None = None, ufrag: str | None = None) -> bytes:
        data = stun.build_request(
            next(self._transactions).to_bytes(12, "big"),
            f"{ufrag or self.local.ufrag}:{self.ufrag}",
            stun.IntegrityKey(pwd or self.local.pwd),
            use_candidate=nominate,
        )
        self.send(data)
        return data

    def hello(self, role: Role = Role.CLIENT, identity: DtlsIdentity = PEER) -> None:
        expected = [(self.local.fingerprint_algorithm, self.local.fingerprint)]
        self.dtls = DtlsEndpoint(identity, role, expected, monotonic(), lambda name: None)
        self._settle()

    def receive(self, data: bytes) -> None:
        if data[0] < 4:
            self.answers.append(stun.parse(data))
        elif data[0] >= 128:
            self.media.append(data)
        elif self.dtls is not None:
            self.dtls.handle(monotonic(), data)
            self._settle()
        self.house.changes.tell()

    def start_sctp(self) -> None:
        assert self.dtls is not None
        dtls = self.dtls
        self.sctp = Association(
            lambda packet: self.send(dtls.protect(packet)),
            server=False,
            emit=self._emit,
            count=lambda name: None,
        )
        self.sctp.begin(monotonic(), 5000, 262144)

    def open_channel(self, label: str) -> None:
        assert self.sctp is not None
        self.sctp.open_channel(ChannelOptions(label))

    def _emit(self, event: TransportEvent) -> None:
        self.events.append(event)
        self.house.changes.tell()

    def _settle(self) -> None:
        dtls = self.dtls
        assert dtls is not None
        while (output := dtls.poll()) is not None:
            match output:
                case DtlsDatagram(data):
                    self.send(data)
                case DtlsConnected():
                    self.keys = output
                case DtlsData(data):
                    if self.sctp is not None:
                        self.sctp.handle(monotonic(), data)
                case DtlsEnded(reason):
                    self.ended = reason
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = dtls.next_wake()
        if due is not None and dtls.phase is not Phase.CLOSED:
            self._timer = asyncio.get_running_loop().call_later(max(0, due - monotonic()) / 1e9, self._wake)

    def _wake(self) -> None:
        assert self.dtls is not None
        self.dtls.wake(monotonic())
        self._settle()

    def stop(self) -> None:
        if self.sctp is not None:
            self.sctp.close()
        if self._timer is not None:
            self._timer.cancel()


class UdpPipe(asyncio.DatagramProtocol):
    """A client's UDP socket."""

    def __init__(self) -> None:
        self.receive: Callable[[bytes], None] = lambda data: None
        self._transport: asyncio.DatagramTransport
        self._to: tuple[str, int]

    async def start(self, house: House, index: int = 0) -> "UdpPipe":
        endpoint = house.plane.endpoint(index)
        self._to = (endpoint.host, endpoint.port)
        loop = asyncio.get_running_loop()
        await loop.create_datagram_endpoint(lambda: self, local_addr=(HOST, 0))
        return self

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        self.receive(data)

    def send(self, data: bytes) -> None:
        self._transport.sendto(data, self._to)

    @property
    def address(self) -> Address:
        host, port = self._transport.get_extra_info("sockname")
        return Address(0, host, port)

    def close(self) -> None:
        self._transport.close()


class TcpPipe(asyncio.Protocol):
    """A client's ICE-TCP connection with RFC 4571 framing."""

    def __init__(self, changes: Changes) -> None:
        self.receive: Callable[[bytes], None] = lambda data: None
        self.lost = False
        self.stream: asyncio.Transport
        self._changes = changes
        self._buffer = b""

    async def start(self, house: House) -> "TcpPipe":
        loop = asyncio.get_running_loop()
        port = int(next(line for line in house.hub._candidates[0] if " tcp " in line).split()[5])
        await loop.create_connection(lambda: self, HOST, port)
        return self

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.stream = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= 2:
            size = int.from_bytes(self._buffer[:2], "big")
            if len(self._buffer) < 2 + size:
                break
            frame, self._buffer = self._buffer[2 : 2 + size], self._buffer[2 + size :]
            self.receive(frame)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self._changes.tell()

    def send(self, data: bytes) -> None:
        self.stream.write(len(data).to_bytes(2, "big") + data)

    def close(self) -> None:
        self.stream.close()
