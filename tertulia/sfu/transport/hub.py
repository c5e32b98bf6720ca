"""Every peer connection of this node: finds the transport a datagram belongs to, keeps one timer, delivers events."""

from collections.abc import Callable, Mapping, Sequence

from tertulia.protocol.ids import TransportId
from tertulia.protocol.machine import Nanos
from tertulia.sfu.plane.api import Datagram, LivePlane, Outgoing, TransportSilent
from tertulia.sfu.transport.api import LocalParameters, RemoteParameters, TransportEvent
from tertulia.sfu.transport.listen import TcpEndpoint, UdpEndpoint


class TransportHub:
    """`Transports` of the live node. Made and used on one running event loop."""

    def __init__(
        self,
        plane: LivePlane,
        ports: Sequence[Sequence[UdpEndpoint]],
        deliver: Callable[[TransportId, TransportEvent], None],
        *,
        tcp: TcpEndpoint | None = None,
        node_ip: str | None = None,
    ) -> None:
        """`ports[i]` are the bound endpoints of Port `i`. `deliver(transport, event)` is called from the loop,
        never inside a call of the room, in order, and not after `close`."""

    async def start(self) -> None:
        """Listen for ICE-TCP, when configured."""

    async def stop(self) -> None:
        """Close every transport and the listener."""

    def on_report(self, now: Nanos, report: Datagram | Outgoing | TransportSilent) -> None:
        """What the plane hands to the control side; the node routes every other report elsewhere."""

    def open(self, owner: str) -> tuple[TransportId, LocalParameters]: ...

    def connect(self, transport: TransportId, remote: RemoteParameters) -> LocalParameters: ...

    def restart(self, transport: TransportId) -> LocalParameters: ...

    def open_channel(
        self, transport: TransportId, label: str, *, ordered: bool, max_retransmits: int | None
    ) -> None: ...

    def send(self, transport: TransportId, label: str, data: bytes) -> bool: ...

    def buffered_bytes(self, transport: TransportId, label: str) -> int: ...

    def round_trip_ns(self, transport: TransportId) -> int: ...

    def close(self, transport: TransportId) -> None: ...

    def owner(self, transport: TransportId) -> str | None:
        """The room sid given to `open`; None when the transport is gone."""

    def totals(self) -> Mapping[str, int]:
        """Counters (checks, rejections by name, handshakes, messages, ...) and gauges for the metrics page."""
