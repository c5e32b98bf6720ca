"""One peer connection of a client: ICE (controlling, full checks, the server being lite or not), DTLS, SRTP, SCTP.

It owns its socket. Until it is connected the event loop reads it at once; then the engine sweeps it with the others.
The handshakes are those of `tertulia.sfu.transport`, seen from the other side.
"""

import asyncio
import contextlib
import secrets
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pylibsrtp import Error as SrtpError

from benchmarks.load import batch
from benchmarks.load.feedback import Arrivals, KeyFrameWanted, Repeat, SenderReport, hear
from benchmarks.load.offer import TWCC, Incoming, Local, Remote
from benchmarks.load.plan import is_own
from benchmarks.load.receiving import Stream
from benchmarks.load.sending import Layer, Route
from tertulia.protocol import stun
from tertulia.protocol.errors import PeerError
from tertulia.protocol.machine import Nanos
from tertulia.sfu.plane import srtp
from tertulia.sfu.transport.api import ChannelMessage, ChannelOpened, TransportEvent
from tertulia.sfu.transport.association import Association
from tertulia.sfu.transport.channels import ChannelOptions
from tertulia.sfu.transport.dtls import (
    DtlsConnected,
    DtlsData,
    DtlsDatagram,
    DtlsEnded,
    DtlsEndpoint,
    Role,
)

if TYPE_CHECKING:
    from benchmarks.load.engine import Engine

CHECK_NS = 50_000_000
CHECK_TRIES = 100
CONSENT_NS = 2_500_000_000
MAX_CANDIDATES = 8
SSRCS_PER_SESSION = 24
"""libsrtp looks SSRCs up one by one."""
RELIABLE, LOSSY = ChannelOptions("_reliable"), ChannelOptions("_lossy", ordered=False, max_retransmits=0)


class Connection:
    """A transport with what goes over it. `on_end` hears the reason when it ends by itself."""

    def __init__(self, engine: "Engine", on_end: Callable[[str], None], on_data: Callable[[bytes, int], None]) -> None:
        self.engine = engine
        self.local = Local(secrets.token_hex(4), secrets.token_hex(12), engine.identity.fingerprint)
        self.number = engine.enlist(self)
        self.remote: Remote | None = None
        self.sock: socket.socket | None = None
        self.connected: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.channels_open = asyncio.Event()
        self.connected_ns = 0
        """Unix ns."""
        self.closed = False
        self.swept = False
        self.streams: dict[int, Stream] = {}
        self.layers: list[Layer] = []
        self.arrivals = Arrivals()
        self.route: Route | None = None
        self.wants_channels = False
        self.offers_channels = False
        self._on_end = on_end
        self._on_data = on_data
        self._dtls: DtlsEndpoint | None = None
        self._sctp: Association | None = None
        self._key: stun.IntegrityKey | None = None
        self._checks = 0
        self._profile, self._rx_key = 0, b""
        self._sessions: list[tuple[Any, int]] = []
        self._rtcp_in: Any = None
        self._rtcp_out: Any = None
        self._announced: dict[int, Incoming] = {}
        self._dtls_due: int = 0
        self.heard_ns = 0
        """Unix ns of arrival of the datagram being handled."""

    # descriptions -------------------------------------------------------------------------------

    def take_remote(self, remote: Remote, extra: list[tuple[str, int]]) -> None:
        """A description of the server; the first one begins the connection."""
        first = self.remote is None
        self.remote = remote
        if not remote.candidates:
            remote.candidates = list(extra)
        self._key = stun.IntegrityKey(remote.pwd)
        self._announced = {incoming.ssrc: incoming for incoming in remote.incoming}
        if remote.extensions.get(TWCC):
            self.engine.set_twcc(self.number, remote.extensions[TWCC])
        if self._profile:
            self._sync_streams()
        if first or self.sock is None:
            self.begin_checks()

    def add_candidate(self, address: tuple[str, int]) -> None:
        """A trickled candidate."""
        if self.remote is not None and address not in self.remote.candidates:
            self.remote.candidates.append(address)
            self.begin_checks()

    def begin_checks(self) -> None:
        if self.sock is None and self.remote is not None and self.remote.candidates:
            host = self.remote.candidates[0][0]
            self.sock = batch.open_socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
            asyncio.get_running_loop().add_reader(self.sock.fileno(), self._readable)
            self._check()

    # ICE ----------------------------------------------------------------------------------------

    def _request(self) -> bytes:
        assert self.remote is not None
        assert self._key is not None
        username = f"{self.remote.ufrag}:{self.local.ufrag}"
        return stun.build_request(
            secrets.token_bytes(12), username, self._key, priority=0x7E0000FF, use_candidate=True, tie_breaker=1
        )

    def _check(self) -> None:
        """Ask every candidate until one answers; each question nominates (aggressive nomination)."""
        if self.closed or self._dtls is not None or self.sock is None or self.remote is None:
            return
        self._checks += 1
        if self._checks > CHECK_TRIES:
            self.fail("the server does not answer connectivity checks")
            return
        family = self.sock.family
        for host, port in self.remote.candidates[:MAX_CANDIDATES]:
            if (":" in host) != (family == socket.AF_INET6):
                continue
            if not self.engine.allow_remote and not is_own(host):
                self.fail(f"the server's candidate {host} is not on this machine; that needs --allow-remote")
                return
            with contextlib.suppress(OSError):
                self.sock.sendto(self._request(), (host, port))
        self.engine.later(min(CHECK_NS * self._checks, 500_000_000), self._check)

    def _consent(self) -> None:
        if not self.closed and self.sock is not None:
            with contextlib.suppress(OSError):
                self.sock.send(self._request())
            self.engine.later(CONSENT_NS, self._consent)

    def _stun(self, data: bytes, source: tuple[str, int] | None) -> None:
        try:
            message = stun.parse(data)
        except PeerError:
            return
        if message.kind == stun.BINDING_REQUEST and self.sock is not None:
            # a server that is not ICE-lite checks us as well
            peer = source or self.sock.getpeername()[:2]
            reply = stun.build_success(message.transaction, peer[0], peer[1], stun.IntegrityKey(self.local.pwd))
            with contextlib.suppress(OSError):
                self.sock.sendto(reply, peer) if source else self.sock.send(reply)
        elif message.kind == stun.BINDING_ERROR:
            self.fail(f"the server refuses connectivity checks with {message.error_code}")
        elif (
            message.kind == stun.BINDING_SUCCESS
            and self._dtls is None
            and source is not None
            and self._key is not None
            and stun.is_authentic(message, self._key)
        ):
            self._begin_dtls(source)

    # DTLS ---------------------------------------------------------------------------------------

    def _begin_dtls(self, peer: tuple[str, int]) -> None:
        assert self.sock is not None
        assert self.remote is not None
        self.sock.connect(peer)
        role = Role.SERVER if self.remote.active else Role.CLIENT
        now = Nanos(time.monotonic_ns())
        self._dtls = DtlsEndpoint(self.engine.identity, role, self.remote.fingerprints, now, self.engine.count)
        self._after_dtls()
        self.engine.later(CONSENT_NS, self._consent)

    def _after_dtls(self) -> None:
        """Carry out what the endpoint wants and arm its timer."""
        dtls = self._dtls
        if dtls is None:
            return
        while (output := dtls.poll()) is not None:
            match output:
                case DtlsDatagram(data):
                    self._send(data)
                case DtlsConnected(profile, rx, tx):
                    self._secure(int(profile), rx, tx)
                case DtlsData(data):
                    if self._sctp is not None:
                        self._sctp.handle(Nanos(time.monotonic_ns()), data)
                case DtlsEnded(reason):
                    self.fail(reason)
        due = dtls.next_wake()
        if due is not None and due != self._dtls_due:
            self._dtls_due = due
            self.engine.at(due, self._wake_dtls)

    def _wake_dtls(self) -> None:
        if self._dtls is not None and not self.closed:
            self._dtls_due = 0
            self._dtls.wake(Nanos(time.monotonic_ns()))
            self._after_dtls()

    def _secure(self, profile: int, rx: bytes, tx: bytes) -> None:
        assert self.sock is not None
        self._profile, self._rx_key = profile, rx
        self.route = Route(self.sock, profile, tx)
        self._rtcp_in = srtp.session(profile, rx, outbound=False)
        self._rtcp_out = srtp.session(profile, tx, outbound=True)
        self.connected_ns = time.time_ns()
        self._sync_streams()
        asyncio.get_running_loop().remove_reader(self.sock.fileno())
        self.swept = True
        self.engine.sweep_too(self)
        if self.wants_channels and self.remote is not None:
            self._begin_sctp(self.remote.sctp_port or 5000)
        if not self.connected.done():
            self.connected.set_result(None)

    # SCTP ---------------------------------------------------------------------------------------

    def _begin_sctp(self, port: int) -> None:
        assert self._dtls is not None
        server = self._dtls.role is Role.SERVER
        self._sctp = Association(self._send_record, server=server, emit=self._channel_event, count=self.engine.count)
        self._sctp.begin(Nanos(time.monotonic_ns()), port, 262_144)
        if self.offers_channels:
            self._sctp.open_channel(RELIABLE)
            self._sctp.open_channel(LOSSY)

    def _send_record(self, data: bytes) -> None:
        if self._dtls is not None:
            self._send(self._dtls.protect(data))

    def _channel_event(self, event: TransportEvent) -> None:
        match event:
            case ChannelOpened():
                self.channels_open.set()
            case ChannelMessage(_, data):
                self._on_data(data, self.heard_ns)
            case _:
                pass

    def send_message(self, label: str, data: bytes) -> bool:
        return self._sctp is not None and self._sctp.send(label, data)

    # streams ------------------------------------------------------------------------------------

    def _sync_streams(self) -> None:
        """A row for every announced stream, none for others."""
        for ssrc in [ssrc for ssrc in self.streams if ssrc not in self._announced]:
            self.engine.tables.remove(self.streams.pop(ssrc))
        for ssrc, incoming in self._announced.items():
            if ssrc not in self.streams:
                self.streams[ssrc] = self.engine.tables.add(
                    self.number, ssrc, incoming.repair_ssrc, incoming.kind, incoming.track, self._context(),
                    time.time_ns(), self._codec,
                )  # fmt: skip

    def _codec(self, number: int) -> str:
        return self.remote.codecs.get(number, "") if self.remote is not None else ""

    def _context(self) -> Any:
        """A session with room for another SSRC."""
        if not self._sessions or self._sessions[-1][1] >= SSRCS_PER_SESSION:
            self._sessions.append((srtp.session(self._profile, self._rx_key, outbound=False), 0))
        session, used = self._sessions[-1]
        self._sessions[-1] = (session, used + 1)
        return session._srtp[0]

    # datagrams ----------------------------------------------------------------------------------

    def _readable(self) -> None:
        """Before the connection stands."""
        while self.sock is not None and not self.swept:
            try:
                data, source = self.sock.recvfrom(2048)
            except BlockingIOError:
                return
            except OSError:
                if self._checks > 20:
                    self.fail("nobody listens at the server's media address")
                return
            self.on_datagram(data, time.time_ns(), source[:2])

    def on_datagram(self, data: bytes, unix_ns: int, source: tuple[str, int] | None = None) -> None:
        """Everything but RTP."""
        if not data or self.closed:
            return
        self.heard_ns = unix_ns
        if data[0] < 4:
            self._stun(data, source)
        elif 20 <= data[0] <= 63:
            if self._dtls is not None:
                self._dtls.handle(Nanos(time.monotonic_ns()), data)
                self._after_dtls()
        elif 128 <= data[0] <= 191 and self._rtcp_in is not None:
            try:
                plain = self._rtcp_in.unprotect_rtcp(data)
            except SrtpError:
                self.engine.count("rtcp_undecryptable")
                return
            self._rtcp(plain, unix_ns)

    def _rtcp(self, data: bytes, unix_ns: int) -> None:
        for heard in hear(data):
            match heard:
                case SenderReport(ssrc, middle):
                    if ssrc in self.streams:
                        self.streams[ssrc].sender_report = (middle, unix_ns)
                case KeyFrameWanted(ssrc):
                    for layer in self.layers:
                        if layer.ssrc == ssrc:
                            self.engine.count("key_frames_wanted")
                            layer.want_key_frame(time.monotonic_ns())
                case Repeat(ssrc, numbers):
                    for layer in self.layers:
                        if layer.ssrc == ssrc and self.route is not None:
                            layer.repeat(list(numbers), self.route, self.engine.sent)

    def send_rtcp(self, data: bytes) -> None:
        if self._rtcp_out is not None and not self.closed:
            self._send(self._rtcp_out.protect_rtcp(data))

    def _send(self, data: bytes) -> None:
        if self.sock is not None and data:
            try:
                self.sock.send(data)
            except OSError:
                self.engine.count("send_refused")

    # end ----------------------------------------------------------------------------------------

    def fail(self, reason: str) -> None:
        if not self.closed:
            self.close()
            if not self.connected.done():
                self.connected.set_exception(PeerError(reason))
                self.connected.exception()  # looked at, should nobody else
            self._on_end(reason)

    def close(self) -> None:
        """Say goodbye and give everything back."""
        if self.closed:
            return
        self.closed = True
        if self._sctp is not None:
            self._sctp.close()
        if self._dtls is not None:
            self._dtls.close()
            while (output := self._dtls.poll()) is not None:
                if isinstance(output, DtlsDatagram):
                    self._send(output.data)
        self.engine.forget(self)
        if self.sock is not None:
            if not self.swept:
                asyncio.get_running_loop().remove_reader(self.sock.fileno())
            self.sock.close()
        if not self.connected.done():
            self.connected.cancel()
