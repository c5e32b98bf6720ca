"""One peer connection: ICE, DTLS and SCTP put together, and what they find told to the data plane and to the owner.

Decides the order (a proven path before DTLS, the right certificate before keys, keys before channels) and when the
whole is over. It keeps no timer: the hub wakes it.
"""

from collections.abc import Callable
from enum import Enum, auto

from tertulia.protocol.errors import RequestError
from tertulia.protocol.ids import TransportId
from tertulia.protocol.machine import SECOND, Nanos
from tertulia.sfu.plane.api import Address, Plane
from tertulia.sfu.transport.api import (
    RemoteParameters,
    TransportConnected,
    TransportEvent,
    TransportFailed,
    TransportLost,
    TransportRestored,
)
from tertulia.sfu.transport.association import Association
from tertulia.sfu.transport.channels import MAX_CHANNELS, ChannelOptions
from tertulia.sfu.transport.dtls import (
    HANDSHAKE_NS,
    DtlsConnected,
    DtlsData,
    DtlsDatagram,
    DtlsEnded,
    DtlsEndpoint,
    DtlsIdentity,
    Role,
    usable_fingerprints,
)
from tertulia.sfu.transport.ice import (
    Check,
    IceAgent,
    Path,
    PathDropped,
    PathProven,
    PathSelected,
    PeerGone,
    PeerHeard,
    PeerSilent,
    Reply,
    TcpPath,
)

FIRST_CHECK_NS = 30 * SECOND
"""From the peer's parameters to its first check; clients give up after 15 s, and TCP comes after UDP has failed."""
DEFAULT_MAX_MESSAGE_BYTES = 65536
"""When the SDP does not say (RFC 8841 6)."""


class Stage(Enum):
    """OPEN (no keys) -> CONNECTED -> ENDED; OPEN -> ENDED."""

    OPEN = auto()
    CONNECTED = auto()
    ENDED = auto()


class PeerTransport:
    """One row of the hub."""

    def __init__(
        self,
        transport: TransportId,
        owner: str,
        port: int,
        identity: DtlsIdentity,
        plane: Plane,
        *,
        credentials: Callable[[], tuple[str, str]],
        send: Callable[[Path, bytes], None],
        drop_path: Callable[[TcpPath], None],
        emit: Callable[[TransportId, TransportEvent], None],
        count: Callable[[str], None],
    ) -> None:
        self.transport = transport
        self.owner = owner
        self.port = port
        self.identity = identity
        self.stage = Stage.OPEN
        self.ice = IceAgent(credentials, count)
        self.registered: tuple[str, ...] = ()
        """Local ufrags the hub's table holds for us."""
        self.scheduled: Nanos | None = None
        """When the hub's timer will look at us next."""
        self._plane = plane
        self._send = send
        self._drop_path = drop_path
        self._emit_event = emit
        self._count = count
        self._remote: RemoteParameters | None = None
        self._due: Nanos | None = None
        """The next step towards keys must have come by then."""
        self._dtls: DtlsEndpoint | None = None
        self._sctp: Association | None = None
        self._wanted: list[ChannelOptions] = []
        self._entrusted = ("", "")
        """Credentials whose checks the data plane answers."""

    # orders -------------------------------------------------------------------------------------

    def connect(self, now: Nanos, remote: RemoteParameters) -> None:
        """The peer's parameters, the first time or again."""
        if usable_fingerprints(remote.fingerprints) is None:
            raise RequestError("invalid_argument", "the SDP has no DTLS fingerprint with a hash we know")
        known = self._remote
        if known is not None and self._dtls is not None and set(known.fingerprints) != set(remote.fingerprints):
            raise RequestError("invalid_argument", "the DTLS fingerprint changed: this needs a new peer connection")
        self._remote = remote
        self.ice.set_remote(remote.ufrag)
        if known is None:
            self._due = Nanos(now + FIRST_CHECK_NS)
        self._begin_as_client(now)
        self._begin_sctp(now)
        self._drain(now)

    def restart(self) -> None:
        """New ICE credentials for an offer of ours."""
        self.ice.restart()
        self._entrust()  # the oldest may have gone

    def open_channel(self, options: ChannelOptions) -> None:
        if self._sctp is not None:
            self._sctp.open_channel(options)
        elif self.stage is not Stage.ENDED and len(self._wanted) < MAX_CHANNELS:
            self._wanted.append(options)

    def send(self, label: str, data: bytes) -> bool:
        if self._sctp is None:
            self._count("data_not_open")
            return False
        return self._sctp.send(label, data)

    def buffered_bytes(self, label: str) -> int:
        return self._sctp.buffered_bytes(label) if self._sctp is not None else 0

    @property
    def round_trip_ns(self) -> int:
        """By SCTP HEARTBEAT when there is data, else by the DTLS handshake; 0 while unknown."""
        if self._sctp is not None and self._sctp.round_trip_ns:
            return self._sctp.round_trip_ns
        return self._dtls.round_trip_ns if self._dtls is not None else 0

    def close(self, now: Nanos) -> None:
        """Say goodbye and end, without an event."""
        if self._sctp is not None:
            self._sctp.close()
        if self._dtls is not None:
            self._dtls.close()
            self._drain_dtls(now)
        self._sctp = self._dtls = None  # their memory goes now, not when cycles are next collected
        self.stage = Stage.ENDED
        self._wanted.clear()

    def fail(self, now: Nanos, reason: str) -> None:
        """End with an event; the owner closes us when it has heard."""
        if self.stage is Stage.ENDED:
            return
        self.stage = Stage.ENDED
        try:
            self.close(now)
        finally:
            self._count("transports_failed")
            self._emit(TransportFailed(reason))

    # the network --------------------------------------------------------------------------------

    def handle_check(self, now: Nanos, check: Check) -> None:
        if self.stage is Stage.ENDED:
            return
        self.ice.heard(self._plane.last_check(self.transport))
        self.ice.handle(now, check)
        self._drain(now)

    def handle_dtls(self, now: Nanos, path: Path, data: bytes) -> None:
        """DTLS, from a proven path only: a ClientHello costs us a handshake."""
        if self.stage is Stage.ENDED:
            return
        if not self.ice.is_proven(path):
            self._count("dtls_unproven")
            return
        if self._dtls is None and not self._begin_as_server(now):
            self._count("dtls_early")
            return
        assert self._dtls is not None
        self._dtls.handle(now, data)
        self._drain(now)

    def forget_path(self, now: Nanos, path: Path) -> None:
        self.ice.forget(path)
        self._drain(now)

    def wake(self, now: Nanos) -> None:
        if self.stage is Stage.ENDED:
            return
        if self._due is not None and now >= self._due:
            self.fail(now, "no DTLS handshake came" if self.ice.paths else "no connectivity check came")
            return
        if (due := self.ice.next_wake()) is not None and now >= due:
            self.ice.heard(self._plane.last_check(self.transport))
            self.ice.wake(now)
        if self._dtls is not None:
            self._dtls.wake(now)
        if self._sctp is not None:
            self._sctp.wake(now)
        self._drain(now)

    def next_wake(self) -> Nanos | None:
        if self.stage is Stage.ENDED:
            return None
        first = self._due
        for part in (self.ice, self._dtls, self._sctp):
            due = part.next_wake() if part is not None else None
            if due is not None and (first is None or due < first):
                first = due
        return first

    # DTLS and SCTP begin ------------------------------------------------------------------------

    def _begin_as_server(self, now: Nanos) -> bool:
        if self._remote is None or self._remote.setup == "passive":
            return False
        self._begin(now, Role.SERVER, self._remote)
        return True

    def _begin_as_client(self, now: Nanos) -> None:
        """Only for a peer that insists on waiting for our ClientHello."""
        remote = self._remote
        if self._dtls is None and remote is not None and remote.setup == "passive" and self.ice.selected is not None:
            self._begin(now, Role.CLIENT, remote)

    def _begin(self, now: Nanos, role: Role, remote: RemoteParameters) -> None:
        self._due = None  # from now on DTLS has a deadline of its own
        self._dtls = DtlsEndpoint(self.identity, role, remote.fingerprints, now, self._count)

    def _begin_sctp(self, now: Nanos) -> None:
        """As soon as there are keys and an application section, in whichever order they come."""
        remote, dtls = self._remote, self._dtls
        if self.stage is not Stage.CONNECTED or self._sctp is not None or remote is None or dtls is None:
            return
        if remote.sctp_port is None:
            return
        self._sctp = Association(self._send_record, server=dtls.role is Role.SERVER, emit=self._emit, count=self._count)
        self._sctp.begin(now, remote.sctp_port, remote.max_message_bytes or DEFAULT_MAX_MESSAGE_BYTES)
        for options in self._wanted:
            self._sctp.open_channel(options)
        self._wanted.clear()

    def _send_record(self, packet: bytes) -> None:
        assert self._dtls is not None
        record = self._dtls.protect(packet)
        if record and self.ice.selected is not None:
            self._send(self.ice.selected, record)

    # what they found ----------------------------------------------------------------------------

    def _drain(self, now: Nanos) -> None:
        proven: Path | None = None
        while (output := self.ice.poll()) is not None:
            match output:
                case Reply(path, data):
                    self._send(path, data)
                case PathProven(path):
                    self._proven(now)
                    self._allow(path)
                    proven = path
                case PathSelected(path):
                    self._select(now, path, is_allowed=path == proven)
                case PathDropped(path):
                    if isinstance(path, TcpPath):
                        self._drop_path(path)
                case PeerSilent():
                    if self.stage is Stage.CONNECTED:
                        self._emit(TransportLost())
                case PeerHeard():
                    if self.stage is Stage.CONNECTED:
                        self._emit(TransportRestored())
                case PeerGone():
                    self.fail(now, "no connectivity check for 15 s")
        self._drain_dtls(now)
        self._entrust()

    def _entrust(self) -> None:
        """Once there are keys, a peer that only says that it is still there is the data plane's."""
        if self.stage is Stage.CONNECTED and self.ice.entrusted != self._entrusted:
            self._entrusted = self.ice.entrusted
            self._plane.answer_checks(self.transport, *self._entrusted)

    def _drain_dtls(self, now: Nanos) -> None:
        dtls = self._dtls
        while dtls is not None and (output := dtls.poll()) is not None:
            match output:
                case DtlsDatagram(data):
                    if self.ice.selected is not None:
                        self._send(self.ice.selected, data)
                case DtlsData(data):
                    if self._sctp is not None:
                        self._sctp.handle(now, data)
                case DtlsConnected(profile, rx, tx):
                    self._plane.set_keys(self.transport, profile, rx, tx)
                    self.stage = Stage.CONNECTED
                    self._emit(TransportConnected())
                    self._begin_sctp(now)
                case DtlsEnded(reason):
                    self.fail(now, reason)

    def _proven(self, now: Nanos) -> None:
        """The first path: the handshake may take its time from here, once."""
        if self._due is not None and self._dtls is None and len(self.ice.paths) == 1:
            self._due = Nanos(now + HANDSHAKE_NS)

    def _allow(self, path: Path) -> None:
        if isinstance(path, Address):
            selected = self.ice.selected
            if isinstance(selected, Address) and selected != path:
                self._plane.allow(self.transport, selected)  # the youngest again, so that it never is the one to go
            self._plane.allow(self.transport, path)

    def _select(self, now: Nanos, path: Path, *, is_allowed: bool) -> None:
        if isinstance(path, Address):
            if not is_allowed:
                self._plane.allow(self.transport, path)
            self._plane.select(self.transport, path)
        else:
            self._plane.select(self.transport, None)
        self._begin_as_client(now)

    def _emit(self, event: TransportEvent) -> None:
        self._emit_event(self.transport, event)
