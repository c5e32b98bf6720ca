"""The plumbing in plain Python: the same tables and decisions as the compiled life, one packet after the other.

Used by the simulator (datagrams in memory, time by argument), by tests, and on machines without a compiler, where a
thread polls the sockets. Every public method takes one lock.
"""

import hmac
from collections import deque
from collections.abc import Callable
from threading import RLock
from typing import Any

from pylibsrtp import Error, Session

from tertulia.protocol import stun
from tertulia.sfu.plane import consent, intake, outflow, rtcp, sizes, srtp, tables, upkeep
from tertulia.sfu.plane.core import RawReport, RawTapPacket, UnknownHandle
from tertulia.sfu.plane.rows import Departure, Down, Engine, Past, Rest, Seen, Track, Transport, Up
from tertulia.sfu.plane.statistics import lost
from tertulia.sfu.plane.template import renumber
from tertulia.sfu.plane.words import (
    ARRIVALS,
    D_AUTHENTICATION,
    D_MALFORMED,
    D_NO_KEYS,
    D_OVERSIZE,
    D_REPLAY,
    D_REPORT_QUEUE,
    D_TAP_QUEUE,
    D_UNKNOWN_ADDRESS,
    F_KEY,
    F_MARKER,
    LIMBO_BYTES,
    LIMBO_PACKETS,
    M_FRAMES,
    M_NONE,
    M_UDP,
    MAX_PASSWORD,
    MAX_UNBOUND,
    NOTE_BYTES,
    PENDING,
    R_DATAGRAM,
    R_OUTGOING,
    S_RTX,
    SENT,
    SSRCS_PER_SESSION,
    T_BYTES_IN,
    T_PACKETS_IN,
    T_SEND_ERRORS,
    TRANSACTION,
    X_KINDS,
    X_NONE,
)

Place = tuple[int, str, int]
"""(socket, host, port)."""


class Link:
    """What the plumbing knows of a transport: addresses and SRTP sessions."""

    def __init__(self, row: Transport) -> None:
        self.row = row
        self.places: set[Place] = set()
        self.place: Place | None = None
        self.profile = -1
        self.key = b""
        self.inbound: Session | None = None
        self.outbound: list[Session] = []
        self.rows_of: list[int] = []
        self.password = b""


class Interpreted:
    """`Core` in plain Python. `transmit` puts a datagram on the wire; False when it could not."""

    life = "interpreted"

    def __init__(self, transmit: Callable[[Place, bytes], bool], clock: Callable[[], int]) -> None:
        self.lock = RLock()
        self._transmit = transmit
        self._clock = clock
        self._links: dict[int, Link] = {}
        self._by_place: dict[Place, Link] = {}
        self._tracks: dict[int, Track] = {}
        self._ups: dict[int, Up] = {}
        self._downs: dict[int, Down] = {}
        self._queues: dict[int, deque[RawTapPacket]] = {}
        self._reports: deque[RawReport] = deque()
        e = self.engine = Engine()
        e.buf = bytearray(4096)
        e.space = 1 << 60
        e.seen = Seen()
        e.note = bytearray(NOTE_BYTES)
        e.threshold = 35
        e.emit = self._emit
        e.carry = self._carry
        e.report = self._report
        e.tap = self._tap
        e.forget = self._forget
        e.digest = self._digest

    def now(self) -> int:
        return self._clock()

    # ------------------------------------------------------------------------------------------ the engine's hooks

    def _emit(self, e: Engine, t: Transport, session: int, n: int) -> None:
        """Protect the RTCP packet that stands in the buffer and send it on its way; -1 for a session: as it is."""
        link = self._links[t.id]
        as_is = session < 0 or not link.outbound
        self._send(e, link, bytes(e.buf[:n]), bytes if as_is else link.outbound[session].protect_rtcp)

    def _carry(self, e: Engine, d: Down, as_rtx: int) -> None:
        """Complete the RTP packet that begins in the buffer, protect it and send it on its way."""
        link = self._links[d.transport.id]
        data = bytes(e.buf[: e.own])
        if e.more:
            data += e.ring[e.rest : e.rest + e.more]
        self._send(e, link, data, link.outbound[d.session].protect if link.outbound else bytes)

    def _send(self, e: Engine, link: Link, data: bytes, protect: Callable[[bytes], bytes]) -> None:
        t = link.row
        if t.mode == M_NONE or not t.keyed:
            return
        try:
            data = protect(data)
        except (Error, ValueError):
            e.drops[D_OVERSIZE] += 1
            return
        if t.mode == M_FRAMES:
            self._post((R_OUTGOING, t.id, 0, data, None))
        elif link.place is not None and not self._transmit(link.place, data):
            e.totals[T_SEND_ERRORS] += 1

    def _report(self, e: Engine, kind: int, a: int, b: int, n: int) -> None:
        self._post((kind, a, b, bytes(e.note[:n]), None))

    def _post(self, report: RawReport) -> None:
        if len(self._reports) >= sizes.REPORTS:
            self.engine.drops[D_REPORT_QUEUE] += 1
            return
        self._reports.append(report)

    def _tap(self, e: Engine, d: Down, u: Up, slot: int) -> None:
        if d.q_n >= d.q_limit:
            d.q_lost += 1
            e.drops[D_TAP_QUEUE] += 1
            return
        d.q_n += 1
        at = (u.r_off[slot] & (u.r_bytes - 1)) + u.r_ext[slot]
        payload = bytearray() if d.filler else u.r_data[at : at + u.r_len[slot]]
        if payload:
            renumber(payload, 0, u, slot, d.o_picture, d.o_tl0, d.o_keyidx)
        flags = u.r_flags[slot]
        marker, key = flags & F_MARKER, int(flags & F_KEY != 0)
        self._queues[d.id].append((u.r_at[slot], d.o_seq, d.o_ts, marker, key, u.layer, bytes(payload)))

    def _forget(self, e: Engine, t: Transport, ssrc: int) -> None:
        inbound = self._links[t.id].inbound
        if inbound is not None:
            try:
                inbound.remove_stream(ssrc)
            except Error:
                return  # never had an authentic packet

    # ------------------------------------------------------------------------------------------ what comes in

    def step(self, now: int, batch: list[tuple[Place, bytes]]) -> None:
        """A batch of datagrams, in parts of 64 with a fan-out after each; then whatever is due."""
        with self.lock:
            e = self.engine
            e.now = now
            for start in range(0, len(batch), PENDING):
                for place, data in batch[start : start + PENDING]:
                    self._datagram(now, place, data)
                outflow.fan_out(e)
            if e.due and e.due <= now:
                upkeep.tick(e, now)

    def _datagram(self, now: int, place: Place, data: bytes) -> None:
        """RFC 7983: STUN and DTLS are the control side's, the rest is media of a known address."""
        e = self.engine
        e.totals[T_PACKETS_IN] += 1
        e.totals[T_BYTES_IN] += len(data)
        if not data:
            e.drops[D_MALFORMED] += 1
            return
        link = self._by_place.get(place)
        if data[0] < 4 and link is not None and self._answered(now, link, place, data):
            return
        if data[0] < 4 or 20 <= data[0] < 64:
            self._post((R_DATAGRAM, link.row.id if link else 0, 0, data, place))
        elif not 128 <= data[0] < 192:
            e.drops[D_MALFORMED] += 1
        elif link is None:
            e.drops[D_UNKNOWN_ADDRESS] += 1
        else:
            self._media(now, link, data)

    def _answered(self, now: int, link: Link, place: Place, data: bytes) -> bool:
        t = link.row
        if t.mode != M_UDP or link.place != place:
            return False
        written = stun.address(place[1], place[2])
        t.c_place[: len(written)] = written
        t.c_place_len = len(written)
        return bool(consent.consent(self.engine, t, data, len(data), now))

    def _digest(self, e: Engine, t: Transport, n: int) -> None:
        e.note[:20] = hmac.digest(self._links[t.id].password, bytes(e.buf[:n]), "sha1")

    def _media(self, now: int, link: Link, data: bytes) -> None:
        e, t = self.engine, link.row
        if not t.keyed:
            e.drops[D_NO_KEYS] += 1
            return
        n = len(data)
        if not intake.affordable(e, t, now):
            return
        if n >= 2 and 192 <= data[1] < 224:
            if not rtcp.rtcp_acceptable(e, t, data, n):
                return
            plain = self._unprotect(link, data, True)
            if plain is not None:
                rtcp.rtcp(e, t, plain, len(plain), now)
        elif intake.acceptable(e, t, data, n, now):
            plain = self._unprotect(link, data, False)
            if plain is not None:
                intake.rtp(e, t, plain, len(plain), now)

    def _unprotect(self, link: Link, data: bytes, is_rtcp: bool) -> bytes | None:
        if link.inbound is None:
            return data
        try:
            return link.inbound.unprotect_rtcp(data) if is_rtcp else link.inbound.unprotect(data)
        except Error as error:
            self.engine.drops[D_REPLAY if srtp.is_replay(error) else D_AUTHENTICATION] += 1
        except ValueError:
            self.engine.drops[D_OVERSIZE] += 1
        return None

    # ------------------------------------------------------------------------------------------ transports

    def add_transport(self, handle: int, port: int, first_twcc: int) -> None:
        with self.lock:
            t = Transport()
            t.id, t.port, t.x_next = handle, port, first_twcc + 65536
            room_of_ssrcs(t, MAX_UNBOUND)
            t.l_data = bytearray(LIMBO_BYTES)
            t.l_off, t.l_len, t.l_ssrc, t.l_at = ([0] * LIMBO_PACKETS for _ in range(4))
            t.w_at, t.w_seq = [0] * ARRIVALS, [0] * ARRIVALS
            t.x = [Departure() for _ in range(SENT)]
            self._links[handle] = Link(t)
            make_room(self.engine.transports, self.engine.n_transports)
            tables.add_transport(self.engine, t)

    def remove_transport(self, handle: int) -> None:
        with self.lock:
            link = self._link(handle)
            for up in [up for up in self._ups.values() if up.transport is link.row]:
                self.remove_up(up.id)
            for down in [down for down in self._downs.values() if down.transport is link.row]:
                self.remove_down(down.id)
            tables.remove_transport(self.engine, link.row)
            for place in link.places:
                self._by_place.pop(place, None)
            del self._links[handle]

    def set_keys(self, handle: int, profile: int, rx: bytes, tx: bytes) -> None:
        with self.lock:
            link = self._link(handle)
            link.inbound, link.outbound = None, []
            link.profile, link.key = profile, tx
            if profile:
                link.inbound = srtp.session(profile, rx, outbound=False)
                link.outbound = [srtp.session(profile, tx, outbound=True)]
            link.rows_of = [0]
            for down in link.row.downs[: link.row.n_downs]:
                down.session = self._seat(link)
            link.row.keyed = 1

    def allow(self, handle: int, socket: int, host: str, port: int) -> None:
        with self.lock:
            link, place = self._link(handle), (socket, host, port)
            if (other := self._by_place.get(place)) is not None:
                other.places.discard(place)
            self._by_place[place] = link
            link.places.add(place)

    def disallow(self, handle: int, socket: int, host: str, port: int) -> None:
        with self.lock:
            link, place = self._link(handle), (socket, host, port)
            if place in link.places:
                link.places.discard(place)
                del self._by_place[place]

    def select(self, handle: int, address: Place | None) -> None:
        with self.lock:
            link = self._link(handle)
            link.place = address
            link.row.mode = M_FRAMES if address is None else M_UDP

    def answer_checks(self, handle: int, name: bytes, password: bytes) -> None:
        with self.lock:
            link = self._link(handle)
            if len(name) > len(link.row.c_name) or len(password) > MAX_PASSWORD:
                raise ValueError("too long for a user fragment or password")
            link.row.c_name[: len(name)] = name
            link.row.c_len = len(name)
            link.password = password

    def last_check(self, handle: int) -> int:
        with self.lock:
            return self._link(handle).row.c_at

    def has_answered(self, handle: int, transaction: bytes) -> bool:
        with self.lock:
            return len(transaction) == TRANSACTION and bool(consent.was_answered(self._link(handle).row, transaction))

    def set_extensions(self, handle: int, ids: bytes) -> None:
        with self.lock:
            t = self._link(handle).row
            t.kinds = [X_NONE] * 256
            for kind in range(X_KINDS):
                t.ids[kind] = ids[kind]
                if ids[kind]:
                    t.kinds[ids[kind]] = kind

    def set_feedback(self, handle: int, ssrc: int) -> None:
        with self.lock:
            self._link(handle).row.feedback_ssrc = ssrc

    def attend(self, handle: int, every_ns: int) -> None:
        with self.lock:
            rtcp.attend(self.engine, self._link(handle).row, every_ns)

    def send(self, socket: int, host: str, udp_port: int, data: bytes) -> None:
        with self.lock:
            if not self._transmit((socket, host, udp_port), data):
                self.engine.totals[T_SEND_ERRORS] += 1

    def send_rtcp(self, handle: int, data: bytes) -> None:
        with self.lock:
            link = self._link(handle)
            self.engine.buf[: len(data)] = data
            self._emit(self.engine, link.row, 0, len(data))

    def feed(self, now: int, handle: int, data: bytes) -> None:
        with self.lock:
            link, e = self._link(handle), self.engine
            e.now = now
            e.totals[T_PACKETS_IN] += 1
            e.totals[T_BYTES_IN] += len(data)
            if not data or not 128 <= data[0] < 192:
                e.drops[D_MALFORMED] += 1
                return
            self._media(now, link, data)
            outflow.fan_out(e)

    def _link(self, handle: int) -> Link:
        try:
            return self._links[handle]
        except KeyError:
            raise UnknownHandle(handle) from None

    def _seat(self, link: Link) -> int:
        """The session for one more row: media and repair SSRC count."""
        for index, rows in enumerate(link.rows_of):
            if rows + 2 <= SSRCS_PER_SESSION:
                link.rows_of[index] += 2
                return index
        if link.profile > 0:
            link.outbound.append(srtp.session(link.profile, link.key, outbound=True))
        link.rows_of.append(2)
        return len(link.rows_of) - 1

    # ------------------------------------------------------------------------------------------ up

    def add_track(self, handle: int, codec: int, clock_hz: int) -> None:
        with self.lock:
            tr = Track()
            tr.id, tr.codec, tr.clock_hz, tr.enabled = handle, codec, clock_hz, 1
            self._tracks[handle] = tr
            make_room(self.engine.tracks, self.engine.n_tracks)
            tables.add_track(self.engine, tr)

    def remove_track(self, handle: int) -> None:
        with self.lock:
            tr = self._of(self._tracks, handle)
            for up in [up for up in self._ups.values() if up.track is tr]:
                self.remove_up(up.id)
            for down in [down for down in self._downs.values() if down.track is tr]:
                self.remove_down(down.id)
            tables.remove_track(self.engine, tr)
            del self._tracks[handle]

    def add_up(
        self, handle: int, track: int, transport: int, ssrc: int, layer: int, payload_type: int, nack: int, twcc: int
    ) -> None:
        with self.lock:
            u = Up()
            u.id, u.ssrc, u.layer, u.pt, u.nack, u.twcc = handle, ssrc, layer, payload_type, nack, twcc
            u.track, u.transport = self._of(self._tracks, track), self._link(transport).row
            if u.track.has[layer]:
                self.remove_up(u.track.ups[layer].id)
            packets, u.r_bytes = sizes.ring(u.track.codec)
            u.r_mask = packets - 1
            u.r_data = bytearray(u.r_bytes)
            for name in RING:
                setattr(u, name, [0] * packets)
            self._ups[handle] = u
            make_room(self.engine.ups, self.engine.n_ups)
            room_of_ssrcs(u.transport, MAX_UNBOUND + u.transport.listed + 1)
            tables.add_up(self.engine, u, self.now())
            self._replay(u, ssrc)

    def bind_rtx(self, handle: int, ssrc: int, payload_type: int) -> None:
        with self.lock:
            u = self._of(self._ups, handle)
            u.rtx_ssrc, u.rtx_pt = ssrc, payload_type
            room_of_ssrcs(u.transport, MAX_UNBOUND + u.transport.listed + 1)
            tables.name_ssrc(self.engine, u.transport, u, ssrc, S_RTX, self.now())
            self._replay(u, ssrc)

    def _replay(self, u: Up, ssrc: int) -> None:
        self.engine.now = self.now()
        while intake.replay(self.engine, u.transport, ssrc):
            outflow.fan_out(self.engine)
        outflow.fan_out(self.engine)

    def remove_up(self, handle: int) -> None:
        with self.lock:
            tables.remove_up(self.engine, self._of(self._ups, handle))
            del self._ups[handle]

    def want_layer(self, track: int, layer: int) -> None:
        with self.lock:
            self.engine.now = self.now()
            outflow.want_layer(self.engine, self._of(self._tracks, track), layer)

    def enable(self, track: int, enabled: int) -> None:
        with self.lock:
            tables.enable(self._of(self._tracks, track), enabled)

    def _of(self, table: dict[int, Any], handle: int) -> Any:
        try:
            return table[handle]
        except KeyError:
            raise UnknownHandle(handle) from None

    # ------------------------------------------------------------------------------------------ down

    def add_down(
        self,
        handle: int,
        track: int,
        transport: int,
        ssrc: int,
        payload_type: int,
        rtx_ssrc: int,
        rtx_payload_type: int,
        rtx_first: int,
        mid: bytes,
        raw: int,
        first_sequence: int,
        first_timestamp: int,
    ) -> None:
        with self.lock:
            d = Down()
            d.id, d.ssrc, d.pt, d.raw = handle, ssrc, payload_type, raw
            d.rtx_ssrc, d.rtx_pt, d.rtx_next = rtx_ssrc, rtx_payload_type, rtx_first
            d.first_seq, d.first_ts = first_sequence, first_timestamp
            d.mid[: len(mid)] = list(mid)
            d.mid_len = len(mid)
            link = self._link(transport)
            d.track, d.transport = self._of(self._tracks, track), link.row
            d.session = self._seat(link) if link.rows_of else 0
            length = sizes.history(d.track.codec)
            d.h_mask = length - 1
            d.h = [Past() for _ in range(length)]
            d.h_rest = [Rest() for _ in range(length)]
            self._add(d)

    def add_tap(self, handle: int, track: int, limit: int) -> None:
        with self.lock:
            d = Down()
            d.id, d.tap, d.q_limit = handle, 1, limit
            d.track = self._of(self._tracks, track)
            self._queues[handle] = deque()
            self._add(d)

    def _add(self, d: Down) -> None:
        self._downs[d.id] = d
        make_room(d.track.downs, d.track.n_downs)
        if not d.tap:
            make_room(d.transport.downs, d.transport.n_downs)
        tables.add_down(d)

    def remove_down(self, handle: int) -> None:
        with self.lock:
            d: Down = self._of(self._downs, handle)
            tables.remove_down(d)
            del self._downs[handle]
            self._queues.pop(handle, None)
            if d.tap:
                return
            link = self._link(d.transport.id)
            if link.rows_of:
                link.rows_of[d.session] -= 2
            for ssrc in (d.ssrc, d.rtx_ssrc):
                if ssrc and link.outbound:
                    try:
                        link.outbound[d.session].remove_stream(ssrc)
                    except Error:
                        continue  # nothing was sent under it

    def aim(self, handle: int, layer: int, temporal: int) -> None:
        with self.lock:
            self.engine.now = self.now()
            outflow.aim(self.engine, self._of(self._downs, handle), layer, temporal)

    def take_tap(self, handle: int) -> tuple[list[RawTapPacket], int]:
        with self.lock:
            d: Down = self._of(self._downs, handle)
            packets, gone = list(self._queues[handle]), d.q_lost
            self._queues[handle].clear()
            d.q_n = d.q_lost = 0
            return packets, gone

    def tap_clock(self, handle: int) -> tuple[int, int, int] | None:
        with self.lock:
            d: Down = self._of(self._downs, handle)
            if d.layer < 0 or not d.track.has[d.layer] or not d.track.ups[d.layer].sr_known:
                return None
            u = d.track.ups[d.layer]
            return u.sr_ntp, (u.sr_ts - d.ts_off) & 0xFFFFFFFF, u.sr_at

    # ------------------------------------------------------------------------------------------ reports and figures

    def has_reports(self) -> bool:
        return bool(self._reports)

    def take_reports(self) -> list[RawReport]:
        with self.lock:
            taken = list(self._reports)
            self._reports.clear()
            return taken

    def up_figures(self, handle: int) -> tuple[int, ...]:
        with self.lock:
            u: Up = self._of(self._ups, handle)
            heard, u.a_heard = u.a_heard, 127
            jitter = (u.jitter16 >> 4) * 1_000_000_000 // u.track.clock_hz
            return (
                *(u.packets, u.bytes, lost(u), u.repaired, u.nacks, u.plis, u.key_frames, u.frames),
                *(jitter, u.fraction, u.last_at, u.rtt_ns or u.transport.rtt_ns, heard),
            )

    def down_figures(self, handle: int) -> tuple[int, ...]:
        with self.lock:
            d: Down = self._of(self._downs, handle)
            jitter = d.jitter * 1_000_000_000 // d.track.clock_hz
            return (
                *(d.packets, d.bytes, d.retransmitted, d.nacks, d.plis, d.lost, d.fraction),
                *(jitter, d.rtt_ns, d.layer, d.frames),
            )

    def take_levels(self) -> list[tuple[int, int, int, int]]:
        with self.lock:
            heard = []
            for u in self.engine.ups[: self.engine.n_ups]:
                if u.a_packets:
                    heard.append((u.id, u.a_packets, u.a_active, u.a_loudest))
                    u.a_packets = u.a_active = 0
                    u.a_loudest = 127
            return heard

    def set_threshold(self, level: int) -> None:
        self.engine.threshold = level

    def totals(self) -> tuple[list[int], list[int]]:
        with self.lock:
            return list(self.engine.totals), list(self.engine.drops)


RING = (
    *("r_seq", "r_used", "r_off", "r_ext", "r_len", "r_ts", "r_flags", "r_tid", "r_picture_at", "r_picture"),
    *("r_tl0_at", "r_tl0", "r_keyidx_at", "r_keyidx", "r_at"),
)


def make_room(rows: list[Any], count: int) -> None:
    """Room for one more row behind `count`."""
    if len(rows) <= count:
        rows.append(None)


def room_of_ssrcs(t: Transport, count: int) -> None:
    """Room for `count` SSRCs in a transport's table."""
    while t.room < count:
        for column in (t.s_ssrc, t.s_what, t.s_at, t.s_told):
            column.append(0)
        t.s_up.append(None)
        t.room += 1
