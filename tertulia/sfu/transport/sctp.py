"""SCTP of one transport (RFC 9260, RFC 8831): aiortc's association, with the limits and repairs a server needs.

aiortc brings chunks, streams, retransmission and congestion control. This subclass bounds what a peer can make it keep
or compute, obeys the peer's receive window and never lets an exception out. Its timers are asyncio's: it belongs to the
live node only. The channels above it are `association`'s.
"""

import asyncio
import struct
import time
from collections.abc import Callable

from aiortc import rtcsctptransport as base
from aiortc.rtcsctptransport import RTCSctpCapabilities, RTCSctpTransport
from aiortc.utils import uint32_gt, uint32_gte
from google_crc32c import value as crc32c

from tertulia.protocol.errors import PeerError
from tertulia.protocol.machine import MILLISECOND, SECOND, Nanos
from tertulia.sfu.transport.carrier import Carrier, run
from tertulia.sfu.transport.limits import Bucket

MAX_STREAMS = 1024
"""Stream numbers we keep state for; what browsers can address."""
TSN_WINDOW = 2048
"""Chunks accepted ahead of the first missing one."""
MAX_REASSEMBLY = 1400
"""Chunks waiting on one stream: an endless message, as 256 KiB are 226 of them and the window may stand before."""
SACK_DELAY_S = 0.01
"""An odd packet waits so long for another one to be acknowledged with (RFC 9260 6.2 allows 0.2)."""
FEW_GAPS = 64
MANY_GAPS_PACKETS = 16
"""With more than `FEW_GAPS` chunks out of order only every 16th packet is acknowledged: a SACK then costs 0.5 ms."""
MAX_GAPS = 200
MAX_DUPLICATES = 32
PACKET_BURST = 8000
PACKET_INTERVAL_NS = SECOND // 8000
"""Packets taken from one peer: beyond this they are lost, and its congestion control slows down."""
MAX_FLIGHT_BYTES = 512 * 1024
"""Sent and not yet acknowledged, at most."""
FIRST_WINDOW_BYTES = 10 * base.USERDATA_MAX_LENGTH
RTO_FIRST_S = 0.5
RTO_MIN_S = 0.4
"""Not lower: peers delay acknowledgements by 200 ms, and a spurious timeout costs the whole window."""
RTO_MAX_S = 3.0
"""Consent ends a dead peer within 15 s, so there is no point in waiting for minutes."""
MAX_INIT_REPEATS = 60
INIT_PATIENCE_NS = 200 * MILLISECOND
"""Both sides begin (RFC 8841 9.3), but the DTLS client knows first that there are keys: its INIT is a round trip away.
Ours waits for it so long, as two that cross cost twice the packets and gain nothing."""
INIT_RESCUE_NS = SECOND
"""The peer has begun and comes to no end so long: much is lost, and two attempts get through sooner."""
HEARTBEAT_NS = 30 * SECOND
"""RFC 9260 16 (HB.interval)."""
MAX_PACKET_BYTES = 12 + 16 + base.USERDATA_MAX_LENGTH
"""Headers and the largest DATA chunk; several small chunks share a packet up to this."""
_ALONE = (base.InitChunk, base.InitAckChunk, base.AbortChunk, base.ShutdownCompleteChunk)
"""Never bundled (RFC 9260 6.10, 3.3.7)."""
_HEARTBEAT_INFO = 1
_TSN_MASK = 0xFFFFFFFF
_LIVE = frozenset(
    {RTCSctpTransport.State.ESTABLISHED, RTCSctpTransport.State.COOKIE_ECHOED, RTCSctpTransport.State.SHUTDOWN_PENDING}
)


class BoundedSctp(RTCSctpTransport):
    """One association without its channels. Names of odd things go to `count`."""

    def __init__(
        self,
        send: Callable[[bytes], None],
        *,
        server: bool,
        count: Callable[[str], None],
    ) -> None:
        self.carrier = Carrier(send, server)
        super().__init__(self.carrier)  # type: ignore[arg-type]  # the part of a DTLS transport that is used
        self._timers = asyncio.get_running_loop()
        self.round_trip_ns = 0
        self.ended = False
        self._count = count
        self._now = Nanos(0)
        self._packets = Bucket(PACKET_BURST, PACKET_INTERVAL_NS)
        self._peer_window_bytes = FIRST_WINDOW_BYTES
        self._unacknowledged = 0
        self._sack_handle: asyncio.TimerHandle | None = None
        self._heartbeat: tuple[bytes, Nanos] | None = None
        self._heartbeat_due = Nanos(0)
        self._init_due: Nanos | None = None
        self._is_corked = False
        """A packet of the peer is being handled: what answers it goes out together."""
        self._controls: list[bytes] = []
        self._datas: list[bytes] = []
        self._corked_bytes = 0
        self._rto = RTO_FIRST_S
        self._cwnd = FIRST_WINDOW_BYTES
        self._inbound_streams_max = MAX_STREAMS

    # what the transport asks --------------------------------------------------------------------

    def begin(self, now: Nanos, port: int, max_message_bytes: int) -> None:
        """Send INIT, or wait for the peer's."""
        self._now = now
        self._heartbeat_due = Nanos(now + HEARTBEAT_NS)
        run(self.start(RTCSctpCapabilities(maxMessageSize=max_message_bytes), port))

    def handle(self, now: Nanos, packet: bytes) -> None:
        """One packet of the peer. Whatever is wrong with it stays here."""
        if self.ended:
            return
        if not self._packets.take(now):
            self._count("sctp_rate_limited")
            return
        self._now = now
        self._is_corked = True
        try:
            run(self._handle_data(packet))
            self._measure(now)
        except PeerError:
            self._count("sctp_refused")
        except Exception:
            # aiortc asserts and unpacks on what peers say; its state is left as it was before the chunk.
            self._count("sctp_malformed")
        finally:
            self._uncork()
            self._is_corked = False

    async def _init(self) -> None:
        if self.is_server and self._init_due is None:
            self._init_due = Nanos(self._now + INIT_PATIENCE_NS)
        else:
            self._init_due = None
            await super()._init()

    def wake(self, now: Nanos) -> None:
        self._now = now
        if self._init_due is not None and now >= self._init_due and not self.ended:
            run(self._init())
        self._measure(now)

    def _measure(self, now: Nanos) -> None:
        """The round trip, when its time has come: acknowledgements of data are delayed, those of HEARTBEAT are not."""
        if self.ended or now < self._heartbeat_due:
            return
        self._heartbeat_due = Nanos(now + HEARTBEAT_NS)
        if self._association_state is self.State.ESTABLISHED:
            chunk = base.HeartbeatChunk()
            info = int(now).to_bytes(8, "big")
            chunk.params.append((_HEARTBEAT_INFO, info))
            self._heartbeat = (info, now)
            run(self._send_chunk(chunk))

    def next_wake(self) -> Nanos | None:
        if self.ended:
            return None
        return self._heartbeat_due if self._init_due is None else min(self._init_due, self._heartbeat_due)

    def close(self) -> None:
        """ABORT, and give every timer back."""
        if not self.ended:
            self.ended = True
            run(self.stop())
            self._end()

    # receiving, bounded -------------------------------------------------------------------------

    async def _handle_data(self, data: bytes) -> None:
        """As the base does, but what is dropped whole (RFC 9260 6.8, 8.5) has a name; a ValueError is `malformed`."""
        _, _, tag, chunks = base.parse_packet(data)
        begins = base.InitChunk in map(type, chunks)
        if begins and len(chunks) > 1:
            raise PeerError("INIT is not alone in its packet")
        if tag != (0 if begins else self._local_verification_tag):
            self._count("sctp_wrong_tag")
            return
        for chunk in chunks:
            if isinstance(chunk, base.DataChunk):  # most are, and the base would ask nothing else
                await self._receive_data_chunk(chunk)
            else:
                await self._receive_chunk(chunk)
        if self._sack_needed and not self.ended:
            await self._send_sack()

    async def _receive_chunk(self, chunk: base.Chunk) -> None:
        if isinstance(chunk, base.InitChunk):
            if self._association_state is self.State.ESTABLISHED:
                # A late duplicate would reset the sequence numbers; a restart (RFC 9260 5.2.2) needs a new DTLS.
                raise PeerError("INIT on an established association")
            self._peer_window_bytes = chunk.advertised_rwnd
            if self._init_due is not None:
                self._init_due = Nanos(self._now + INIT_RESCUE_NS)
        elif isinstance(chunk, base.InitAckChunk):
            self._peer_window_bytes = chunk.advertised_rwnd
        elif isinstance(chunk, base.HeartbeatAckChunk):
            self._receive_heartbeat_ack(chunk)
        await super()._receive_chunk(chunk)

    def _receive_heartbeat_ack(self, chunk: base.HeartbeatAckChunk) -> None:
        if self._heartbeat is not None and (_HEARTBEAT_INFO, self._heartbeat[0]) in chunk.params:
            self.round_trip_ns = self._now - self._heartbeat[1]
            self._heartbeat = None

    async def _receive_data_chunk(self, chunk: base.DataChunk) -> None:
        if self._association_state not in _LIVE or self._last_received_tsn is None:
            raise PeerError("DATA before the association stands")
        if chunk.stream_id >= MAX_STREAMS or not chunk.user_data:
            raise PeerError("DATA on a stream out of range, or empty")
        self._sack_needed = True
        ahead = (chunk.tsn - self._last_received_tsn) & _TSN_MASK
        if TSN_WINDOW < ahead < 0x80000000 or (self._advertised_rwnd <= 0 and ahead != 1):
            self._count("sctp_window")
            return
        gaps = bool(self._sack_misordered)
        if self._mark_received(chunk.tsn):
            return
        stream = self._get_inbound_stream(chunk.stream_id)
        stream.add_chunk(chunk)
        self._advertised_rwnd -= len(chunk.user_data)
        if len(stream.reassembly) > MAX_REASSEMBLY:
            self._count("sctp_endless_message")
            self.close()
            return
        if gaps or chunk.flags & base.SCTP_DATA_LAST_FRAG:  # nothing else can complete a message
            for message in stream.pop_messages():
                self._advertised_rwnd += len(message[2])
                await self._receive(*message)
        await self._reset_deferred_streams()

    def _get_inbound_stream(self, stream_id: int) -> base.InboundStream:
        if stream_id >= MAX_STREAMS:
            raise PeerError("stream out of range")
        return super()._get_inbound_stream(stream_id)

    def _mark_received(self, tsn: int) -> bool:
        """True for a duplicate. The same as the base's, without sorting what is missing for every packet."""
        last = self._last_received_tsn
        assert last is not None
        if uint32_gte(last, tsn) or tsn in self._sack_misordered:
            if len(self._sack_duplicates) < MAX_DUPLICATES:
                self._sack_duplicates.append(tsn)
            return True
        if tsn != (last + 1) & _TSN_MASK:
            self._sack_misordered.add(tsn)
            return False
        while (tsn + 1) & _TSN_MASK in self._sack_misordered:
            tsn = (tsn + 1) & _TSN_MASK
            self._sack_misordered.discard(tsn)
        self._last_received_tsn = tsn
        return False

    async def _receive_sack_chunk(self, chunk: base.SackChunk) -> None:
        """Refuse what acknowledges things never sent or has gaps out of order, before the base iterates on it."""
        sent = (self._local_tsn - 1 - chunk.cumulative_tsn) & _TSN_MASK
        if sent > 0x7FFFFFFF:
            raise PeerError("SACK of data never sent")
        end = 0
        for first, last in chunk.gaps:
            if not end < first <= last <= sent:
                raise PeerError("SACK with bad gaps")
            end = last
        if not uint32_gt(self._last_sacked_tsn, chunk.cumulative_tsn):
            self._peer_window_bytes = chunk.advertised_rwnd
        await super()._receive_sack_chunk(chunk)

    # acknowledging ------------------------------------------------------------------------------

    async def _send_sack(self) -> None:
        """At once for every second packet, while something is missing and with data that goes out anyway, else after
        `SACK_DELAY_S`."""
        self._sack_needed = False
        self._unacknowledged += 1
        misordered = len(self._sack_misordered)
        wanted = MANY_GAPS_PACKETS if misordered > FEW_GAPS else 1 if misordered or self._sack_duplicates else 2
        if self._unacknowledged >= wanted or self._datas:
            await self._send_sack_now()
        elif self._sack_handle is None:
            self._sack_handle = self._timers.call_later(SACK_DELAY_S, self._sack_later)

    def _sack_later(self) -> None:
        self._sack_handle = None
        if self._unacknowledged and not self.ended:
            run(self._send_sack_now())

    async def _send_sack_now(self) -> None:
        last = self._last_received_tsn
        if last is None:
            return
        gaps: list[tuple[int, int]] = []
        for position in sorted((tsn - last) & _TSN_MASK for tsn in self._sack_misordered):
            if gaps and position == gaps[-1][1] + 1:
                gaps[-1] = (gaps[-1][0], position)
            elif len(gaps) < MAX_GAPS:
                gaps.append((position, position))
            else:
                break
        sack = base.SackChunk()
        sack.cumulative_tsn = last
        sack.advertised_rwnd = max(0, self._advertised_rwnd)
        sack.duplicates = self._sack_duplicates[:]
        sack.gaps = gaps
        self._sack_duplicates.clear()
        self._unacknowledged = 0
        await self._send_chunk(sack)

    # sending, bounded ---------------------------------------------------------------------------

    async def _send_chunk(self, chunk: base.Chunk) -> None:
        """INIT carries tag 0 even when the peer's INIT has told its tag (RFC 9260 8.5.1)."""
        data = bytes(chunk)
        if not self._is_corked or isinstance(chunk, _ALONE):
            self._uncork()
            self._send_packet(0 if isinstance(chunk, base.InitChunk) else self._remote_verification_tag, data)
            return
        if self._corked_bytes + len(data) > MAX_PACKET_BYTES - 12:
            self._uncork()
        (self._datas if isinstance(chunk, base.DataChunk) else self._controls).append(data)
        self._corked_bytes += len(data)

    def _uncork(self) -> None:
        """Control chunks go before DATA (RFC 9260 6.10)."""
        if self._corked_bytes:
            data = b"".join((*self._controls, *self._datas))
            self._controls.clear()
            self._datas.clear()
            self._corked_bytes = 0
            self._send_packet(self._remote_verification_tag, data)

    def _send_packet(self, tag: int, chunks: bytes) -> None:
        header = struct.pack("!HHL", self._local_port, self._remote_port or 0, tag)
        checksum = crc32c(header + b"\0\0\0\0" + chunks)
        self.carrier.send(header + struct.pack("<L", checksum) + chunks)

    async def _transmit(self) -> None:
        """Within the peer's window and ours (RFC 9260 6.1); a closed window is probed with one chunk."""
        congestion_window = self._cwnd
        self._cwnd = min(congestion_window, MAX_FLIGHT_BYTES, max(self._peer_window_bytes, 1))
        try:
            await super()._transmit()
        finally:
            self._cwnd = congestion_window

    def _update_rto(self, R: float) -> None:
        if not 0 <= R < 10:  # the base measures with the wall clock, which may be set
            return
        super()._update_rto(R)
        assert self._srtt is not None
        assert self._rttvar is not None
        self._rto = max(RTO_MIN_S, min(self._srtt + 4 * self._rttvar, RTO_MAX_S))

    def _t1_expired(self) -> None:
        """INIT and COOKIE-ECHO are repeated every 0.5 to 2 s; the base gives up after 4.5 s."""
        self._t1_handle = None
        self._t1_failures += 1
        self._rto = min(self._rto * 1.5, 2.0)
        if self._t1_failures > MAX_INIT_REPEATS or self._t1_chunk is None:
            self._set_state(self.State.CLOSED)
            return
        self._t1_handle = self._timers.call_later(self._rto, self._t1_expired)
        run(self._send_chunk(self._t1_chunk))

    def _t3_expired(self) -> None:
        self._count("sctp_timeouts")
        super()._t3_expired()
        self._rto = min(self._rto * 2, RTO_MAX_S)  # RFC 9260 6.3.3 E2

    def _get_timestamp(self) -> int:
        return int(time.monotonic())  # of the state cookie: must not jump

    # ending -------------------------------------------------------------------------------------

    def _set_state(self, state: RTCSctpTransport.State) -> None:
        if state is not self.State.ESTABLISHED:
            super()._set_state(state)
        elif state is not self._association_state:
            # the base would make a task to send what waits: so it goes out with what answers the peer
            self._association_state = state
            self._init_due = None
            run(self._data_channel_flush())
            if not self.round_trip_ns:
                self._heartbeat_due = self._now
        if state is self.State.CLOSED:
            self._end()

    def _end(self) -> None:
        """Closed by either side: this association takes and sends nothing any more."""
        self.ended = True
        self.carrier.open = False
        if self._sack_handle is not None:
            self._sack_handle.cancel()
            self._sack_handle = None
