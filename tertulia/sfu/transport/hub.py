"""Every peer connection of this node: finds the transport a datagram belongs to, keeps one timer, delivers events.

It decides little: a check goes to the transport whose ufrag it names, everything else to the transport whose address
the data plane knows. A mistake in one transport ends that transport.
"""

import asyncio
import contextlib
import heapq
import itertools
import os
import time
from base64 import b64encode
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import structlog

from tertulia.protocol import stun
from tertulia.protocol.errors import PeerError, RequestError
from tertulia.protocol.ids import TransportId
from tertulia.protocol.machine import MILLISECOND, SECOND, Nanos
from tertulia.sfu.plane.api import Address, Datagram, LivePlane, Outgoing, TransportSilent
from tertulia.sfu.transport.api import LocalParameters, RemoteParameters, TransportEvent
from tertulia.sfu.transport.channels import ChannelOptions
from tertulia.sfu.transport.dtls import DtlsIdentity
from tertulia.sfu.transport.ice import Check, Path, TcpPath
from tertulia.sfu.transport.listen import TcpEndpoint, UdpEndpoint, candidates
from tertulia.sfu.transport.tcp import TcpConnection, TcpListener
from tertulia.sfu.transport.transport import PeerTransport

UFRAG_BYTES, PWD_BYTES = 6, 18
"""Of randomness, 8 and 24 characters of the Base64 that RFC 8839 5.4 takes; it asks for 24 and 128 bits at least."""
FAR_NS, COMPANY_NS = SECOND, 100 * MILLISECOND
"""A transport that is due later than the first is woken at the next multiple of the second, with others."""
EVENTS_PER_TURN = 1024
"""Delivered before other work of the loop gets its turn."""
CERTIFICATE_RENEWAL = timedelta(days=30)
"""New transports get a new certificate when the node's is this close to its end."""

log = structlog.get_logger(__name__)


class TransportHub:
    """`Transports` of the live node. Made and used on one running event loop."""

    def __init__(
        self,
        plane: LivePlane,
        ports: Sequence[Sequence[UdpEndpoint]],
        deliver: Callable[[str, TransportId, TransportEvent], None],
        *,
        tcp: TcpEndpoint | None = None,
        node_ip: str | None = None,
    ) -> None:
        """`ports[i]` are the bound endpoints of Port `i`. `deliver(owner, transport, event)` is called from the loop,
        never inside a call of the room, in order, and not after `close`."""
        self._plane = plane
        self._ports = ports
        self._deliver = deliver
        self._node_ip = node_ip
        self._tcp_endpoint = tcp
        self._loop = asyncio.get_running_loop()
        self._identity = DtlsIdentity()
        self._transports: dict[TransportId, PeerTransport] = {}
        self._by_ufrag: dict[str, PeerTransport] = {}
        self._loads = [0] * len(ports)
        self._counters: Counter[str] = Counter()
        self._events: deque[tuple[TransportId, TransportEvent]] = deque()
        self._delivery: asyncio.Handle | None = None
        self._timers: list[tuple[Nanos, int, PeerTransport]] = []
        self._timer_numbers = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due: Nanos | None = None
        self._listener = TcpListener(tcp, self, self._count) if tcp is not None else None
        self._candidates: list[tuple[str, ...]] = []
        self._list_candidates()

    async def start(self) -> None:
        """Listen for ICE-TCP, when configured."""
        if self._listener is not None:
            await self._listener.start()
            self._list_candidates()

    async def stop(self) -> None:
        """Close every transport and the listener."""
        for transport in list(self._transports):
            self.close(transport)
        if self._listener is not None:
            await self._listener.stop()
        self._timers.clear()
        self._events.clear()
        for handle in (self._timer, self._delivery):
            if handle is not None:
                handle.cancel()
        self._timer = self._timer_due = self._delivery = None

    # orders of the rooms ------------------------------------------------------------------------

    def open(self, owner: str) -> tuple[TransportId, LocalParameters]:
        port = min(range(len(self._loads)), key=self._loads.__getitem__)
        transport = self._plane.add_transport(port)
        if self._identity.expires - datetime.now(tz=UTC) < CERTIFICATE_RENEWAL:
            self._identity = DtlsIdentity()
        peer = PeerTransport(
            transport,
            owner,
            port,
            self._identity,
            self._plane,
            credentials=self._credentials,
            send=self._send,
            drop_path=self._drop_path,
            emit=self._emit,
            count=self._count,
        )
        self._transports[transport] = peer
        self._loads[port] += 1
        self._count("transports_opened")
        self._settle(peer)
        return transport, self._local(peer)

    def connect(self, transport: TransportId, remote: RemoteParameters) -> LocalParameters:
        peer = self._transports.get(transport)
        if peer is None:
            raise RequestError("not_found", "the peer connection is gone")
        peer.connect(monotonic(), remote)
        self._settle(peer)
        return self._local(peer)

    def restart(self, transport: TransportId) -> LocalParameters:
        peer = self._transports.get(transport)
        if peer is None:
            raise RequestError("not_found", "the peer connection is gone")
        peer.restart()
        self._settle(peer)
        return self._local(peer)

    def open_channel(self, transport: TransportId, label: str, *, ordered: bool, max_retransmits: int | None) -> None:
        peer = self._transports.get(transport)
        if peer is not None:
            options = ChannelOptions(label, ordered=ordered, max_retransmits=max_retransmits)
            self._guard(peer, lambda now: peer.open_channel(options), monotonic())

    def send(self, transport: TransportId, label: str, data: bytes) -> bool:
        peer = self._transports.get(transport)
        if peer is None:
            return False
        try:
            return peer.send(label, data)
        except Exception:
            self._crashed(peer, monotonic())
            return False

    def buffered_bytes(self, transport: TransportId, label: str) -> int:
        peer = self._transports.get(transport)
        return peer.buffered_bytes(label) if peer is not None else 0

    def round_trip_ns(self, transport: TransportId) -> int:
        peer = self._transports.get(transport)
        return peer.round_trip_ns if peer is not None else 0

    def close(self, transport: TransportId) -> None:
        peer = self._transports.pop(transport, None)
        if peer is None:
            return
        try:
            peer.close(monotonic())
        except Exception:  # saying goodbye must not keep the rest from being given back
            self._count("transports_crashed")
            log.exception("transport_crashed", transport=peer.transport, room=peer.owner)
        for ufrag in peer.registered:
            self._by_ufrag.pop(ufrag, None)
        peer.registered = ()
        for path in peer.ice.paths:
            if isinstance(path, TcpPath):
                self._drop_path(path)
        self._loads[peer.port] -= 1
        self._plane.remove_transport(transport)
        if len(self._timers) > 2 * len(self._transports):
            self._forget_timers()

    def owner(self, transport: TransportId) -> str | None:
        """The room sid given to `open`; None when the transport is gone."""
        peer = self._transports.get(transport)
        return peer.owner if peer is not None else None

    def totals(self) -> Mapping[str, int]:
        """Counters (checks, rejections by name, handshakes, messages, ...) and gauges for the metrics page."""
        gauges = {
            "transports": len(self._transports),
            "ufrags": len(self._by_ufrag),
            "tcp_connections": self._listener.connections if self._listener is not None else 0,
        }
        answered = self._plane.totals()["checks"]
        return {**self._counters, "stun_checks": self._counters["stun_checks"] + answered, **gauges}

    # what comes from the network ----------------------------------------------------------------

    def on_report(self, now: Nanos, report: Datagram | Outgoing | TransportSilent) -> None:
        """What the plane hands to the control side; the node routes every other report elsewhere."""
        match report:
            case Datagram():
                self.on_datagram(now, report)
            case Outgoing(transport, data):
                peer = self._transports.get(transport)
                if peer is not None and isinstance(peer.ice.selected, TcpPath):
                    self._send(peer.ice.selected, data)
            case TransportSilent(transport, reason):
                peer = self._transports.get(transport)
                if peer is not None:
                    peer.fail(now, reason)

    def on_datagram(self, now: Nanos, report: Datagram) -> None:
        data, transport = report.data, report.transport
        if data and data[0] < 4:
            self._check(now, report.address, data)
        elif transport is not None:
            self._dtls(now, transport, report.address, data)
        else:
            self._count("dtls_unproven")

    def tcp_frame(self, connection: TcpConnection, frame: bytes) -> None:
        """RFC 7983 on an ICE-TCP connection. The first frame must be an authentic check."""
        now = monotonic()
        first, transport = frame[0], connection.transport
        if first < 4:
            peer = self._check(now, connection.path, frame)
            if transport is None:
                if peer is not None and peer.ice.is_proven(connection.path):
                    connection.bind(peer.transport)
                else:
                    self._count("tcp_unproven")
                    connection.close()
        elif transport is None:
            self._count("tcp_unproven")
            connection.close()
        elif 20 <= first < 64:
            self._dtls(now, transport, connection.path, frame)
        elif 128 <= first < 192:
            self._plane.feed(now, transport, frame)

    def tcp_closed(self, connection: TcpConnection) -> None:
        """The peer hung up, or we did."""
        peer = self._transports.get(connection.transport) if connection.transport is not None else None
        if peer is not None:
            self._guard(peer, lambda now: peer.forget_path(now, connection.path), monotonic())

    def _check(self, now: Nanos, path: Path, data: bytes) -> PeerTransport | None:
        """A STUN message: the transport it names, if it is a request that names one."""
        try:
            request = stun.parse(data)
        except PeerError:
            self._count("stun_malformed")
            return None
        if request.kind != stun.BINDING_REQUEST:
            self._count("stun_not_request")
            return None
        peer = self._by_ufrag.get(request.local_ufrag)
        if peer is None:
            self._count("stun_unknown_ufrag")
            return None
        check = Check(path, request, self._plane.has_answered(peer.transport, request.transaction))
        self._guard(peer, lambda now: peer.handle_check(now, check), now)
        return peer

    def _dtls(self, now: Nanos, transport: TransportId, path: Path, data: bytes) -> None:
        peer = self._transports.get(transport)
        if peer is not None:
            self._guard(peer, lambda now: peer.handle_dtls(now, path, data), now)

    def _guard(self, peer: PeerTransport, step: Callable[[Nanos], None], now: Nanos) -> None:
        """One step of one transport. If it raises, that is our mistake and the end of this transport only."""
        try:
            step(now)
        except Exception:
            self._crashed(peer, now)
        self._settle(peer)

    def _crashed(self, peer: PeerTransport, now: Nanos) -> None:
        self._count("transports_crashed")
        log.exception("transport_crashed", transport=peer.transport, room=peer.owner)
        with contextlib.suppress(Exception):  # its event is out even when its goodbye fails
            peer.fail(now, "internal error")

    # what goes out ------------------------------------------------------------------------------

    def _send(self, path: Path, data: bytes) -> None:
        if isinstance(path, Address):
            self._plane.send(path, data)
        elif self._listener is not None and (connection := self._listener.connection(path)) is not None:
            connection.write(data)

    def _drop_path(self, path: TcpPath) -> None:
        if self._listener is not None and (connection := self._listener.connection(path)) is not None:
            connection.close()

    def _emit(self, transport: TransportId, event: TransportEvent) -> None:
        self._events.append((transport, event))
        if self._delivery is None:
            self._delivery = self._loop.call_soon(self._deliver_events)

    def _deliver_events(self) -> None:
        self._delivery = None
        for _ in range(min(len(self._events), EVENTS_PER_TURN)):
            transport, event = self._events.popleft()
            peer = self._transports.get(transport)
            if peer is None:
                continue
            try:
                self._deliver(peer.owner, transport, event)
            except Exception:
                self._count("deliveries_crashed")
                log.exception("event_delivery_crashed", transport=transport)
        if self._events and self._delivery is None:
            self._delivery = self._loop.call_soon(self._deliver_events)

    # the table of ufrags and the timer ----------------------------------------------------------

    def _credentials(self) -> tuple[str, str]:
        while (ufrag := b64encode(os.urandom(UFRAG_BYTES)).decode()) in self._by_ufrag:
            continue
        return ufrag, b64encode(os.urandom(PWD_BYTES)).decode()

    def _settle(self, peer: PeerTransport) -> None:
        """After every step of a transport: its ufrags into the table, its next wake into the heap."""
        if peer.transport not in self._transports:
            return
        ufrags = peer.ice.ufrags
        if ufrags != peer.registered:
            for ufrag in set(peer.registered) - set(ufrags):
                del self._by_ufrag[ufrag]
            for ufrag in ufrags:
                self._by_ufrag[ufrag] = peer
            peer.registered = ufrags
        due = peer.next_wake()
        if due is not None and due - monotonic() > FAR_NS:
            due = Nanos(due + -due % COMPANY_NS)
        if due is not None and (peer.scheduled is None or due < peer.scheduled):
            # An earlier entry stays in the heap and wakes the transport in vain; a later one is never needed.
            peer.scheduled = due
            heapq.heappush(self._timers, (due, next(self._timer_numbers), peer))
            self._arm()

    def _arm(self) -> None:
        due = self._timers[0][0] if self._timers else None
        if due == self._timer_due:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_due = None, due
        if due is not None:
            # Rounded up: the loop counts milliseconds, and what comes early would spin until its moment is here.
            delay_ms = max(0, -((monotonic() - due) // MILLISECOND))
            self._timer = self._loop.call_later(delay_ms / 1000, self._expired)

    def _expired(self) -> None:
        self._timer = self._timer_due = None
        now = monotonic()
        while self._timers and self._timers[0][0] <= now:
            due, _, peer = heapq.heappop(self._timers)
            if peer.scheduled == due:
                peer.scheduled = None
                if peer.transport in self._transports:
                    self._guard(peer, peer.wake, now)
        self._arm()

    def _forget_timers(self) -> None:
        """Entries of closed transports would keep them in memory until they are due; those that would wake in vain
        would have every further close come here again."""
        self._timers = [
            (due, number, peer)
            for due, number, peer in self._timers
            if due == peer.scheduled and peer.transport in self._transports
        ]
        heapq.heapify(self._timers)
        self._arm()

    def _list_candidates(self) -> None:
        tcp = self._tcp_endpoint
        if tcp is not None and self._listener is not None:
            tcp = TcpEndpoint(tcp.bind_host, self._listener.port, tcp.hosts)
        self._candidates = [candidates(endpoints, tcp, self._node_ip) for endpoints in self._ports]

    def _local(self, peer: PeerTransport) -> LocalParameters:
        return LocalParameters(
            ufrag=peer.ice.ufrag,
            pwd=peer.ice.pwd,
            fingerprint_algorithm="sha-256",
            fingerprint=peer.identity.fingerprint,
            candidates=self._candidates[peer.port],
        )

    def _count(self, name: str) -> None:
        self._counters[name] += 1


def monotonic() -> Nanos:
    return Nanos(time.monotonic_ns())
