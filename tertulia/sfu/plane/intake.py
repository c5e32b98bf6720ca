"""An authentic RTP packet from its transport to the rows waiting for it.

SSRC table first (named, or one of at most 32 unnamed), then the header, transport-cc, repair streams unpacked
(RFC 4588), sequence numbers checked (RFC 3550 A.1), the packet stored once, its track marked as ready to fan out.
"""

try:
    import cython  # type: ignore[import-untyped]
except ImportError:
    from tertulia.sfu.plane import uncompiled as cython

if not cython.compiled:
    from tertulia.sfu.plane.bits import Bytes, copy, rd16, rd32, s16
    from tertulia.sfu.plane.codecs import look
    from tertulia.sfu.plane.header import measure
    from tertulia.sfu.plane.repair import found, miss
    from tertulia.sfu.plane.rows import Engine, Seen, Track, Transport, Up
    from tertulia.sfu.plane.statistics import SECOND_NS, clocked, wide
    from tertulia.sfu.plane.template import kept, store
    from tertulia.sfu.plane.twcc import arrived
    from tertulia.sfu.plane.words import (
        C_H264,
        C_H265,
        C_OPUS,
        C_OTHER,
        C_RED,
        D_DUPLICATE,
        D_MALFORMED,
        D_OLD,
        D_OVERSIZE,
        D_RATE,
        D_SSRC_LIMIT,
        D_UNBOUND_SSRC,
        F_KEY,
        FLOOD_DROPS,
        LIMBO_BYTES,
        LIMBO_EACH,
        LIMBO_PACKETS,
        MAX_PACKET,
        MAX_UNBOUND,
        NACKS,
        PENDING,
        R_KEY_FRAME,
        R_SILENT,
        R_UNBOUND,
        READY,
        S_UNBOUND,
        S_UP,
        X_AUDIO_LEVEL,
        X_MID,
        X_RID,
        X_RRID,
        X_TWCC,
    )

RATE_BASE = 4000
"""Packets per second any transport may send; each named SSRC adds `RATE_EACH`."""
RATE_EACH = 2000
UNBOUND_EXPIRES_NS = 10_000_000_000
LIMBO_EXPIRES_NS = 2_000_000_000
MAX_DROPOUT = 3000
MAX_MISORDER = 500


def arm(e: "Engine", due: int) -> None:
    """`tick` has something to do at `due`; put off to the next 5 ms so that many rows share one wake-up."""
    due = due // 5_000_000 * 5_000_000 + 5_000_000
    if e.due == 0 or due < e.due:
        e.due = due


def affordable(e: "Engine", t: "Transport", now: int) -> int:
    """Before any cryptography: 0 when the transport has sent more than its share."""
    rate = RATE_BASE + RATE_EACH * (t.listed - t.unbound)
    passed = now - t.tokens_at
    if passed > SECOND_NS:
        passed = SECOND_NS
    if passed > 0:
        t.tokens += passed * rate
        t.tokens_at = now
        if t.tokens > SECOND_NS * rate:
            t.tokens = SECOND_NS * rate
    if t.tokens < SECOND_NS:
        e.drops[D_RATE] += 1
        return 0
    t.tokens -= SECOND_NS
    return 1


def find_ssrc(t: "Transport", ssrc: int) -> int:
    """Index in the transport's SSRC table, -1 when it is not there."""
    for i in range(t.listed):
        if t.s_ssrc[i] == ssrc:
            return i
    return -1


def acceptable(e: "Engine", t: "Transport", p: "Bytes", n: int, now: int) -> int:
    """Before any cryptography: 1 when the packet's SSRC is known or may still become known.

    Every authentic SSRC costs a replay window and a step of a linear search, hence the limit in front of it.
    """
    if n < 12:
        e.drops[D_MALFORMED] += 1
        return 0
    if n > MAX_PACKET:
        e.drops[D_OVERSIZE] += 1
        return 0
    if find_ssrc(t, rd32(p, 8)) >= 0 or t.unbound < MAX_UNBOUND:
        return 1
    expire_unbound(e, t, now)
    if t.unbound < MAX_UNBOUND:
        return 1
    e.drops[D_SSRC_LIMIT] += 1
    t.refused += 1
    if t.refused > FLOOD_DROPS and not t.silenced:
        t.silenced = 1
        e.report(e, R_SILENT, t.id, 0, 0)
    return 0


def expire_unbound(e: "Engine", t: "Transport", now: int) -> None:
    """Forget SSRCs that nobody named and that fell silent."""
    i = 0
    while i < t.listed:
        if t.s_what[i] == S_UNBOUND and now - t.s_at[i] > UNBOUND_EXPIRES_NS:
            forget_at(e, t, i)
        else:
            i += 1


def forget_at(e: "Engine", t: "Transport", i: int) -> None:
    """Take one SSRC out of the table and out of the SRTP session."""
    e.forget(e, t, t.s_ssrc[i])
    if t.s_what[i] == S_UNBOUND:
        t.unbound -= 1
    t.listed -= 1
    last = t.listed
    t.s_ssrc[i] = t.s_ssrc[last]
    t.s_what[i] = t.s_what[last]
    t.s_up[i] = t.s_up[last]
    t.s_at[i] = t.s_at[last]
    t.s_told[i] = t.s_told[last]


def hurry(e: "Engine", tr: "Track", due: int) -> None:
    """A row of the track has a sender report to give at `due`."""
    if tr.sr_due == 0 or due < tr.sr_due:
        tr.sr_due = due
        arm(e, due)


def rtp(e: "Engine", t: "Transport", p: "Bytes", n: int, now: int) -> None:
    """A decrypted RTP packet p[:n]."""
    e.now = now
    s = e.seen
    if not measure(s, t, p, n):
        e.drops[D_MALFORMED] += 1
        return
    if s.at[X_TWCC] >= 0 and s.len[X_TWCC] == 2:
        arrived(t, rd16(p, s.at[X_TWCC]), now)
        if t.w_on and t.w_due:
            arm(e, t.w_due)
    i = find_ssrc(t, rd32(p, 8))
    if i < 0:
        i = t.listed
        if i >= t.room:
            e.drops[D_SSRC_LIMIT] += 1
            return
        t.listed += 1
        t.unbound += 1
        t.s_ssrc[i] = rd32(p, 8)
        t.s_what[i] = S_UNBOUND
        t.s_told[i] = 0
    t.s_at[i] = now
    if t.s_what[i] == S_UNBOUND:
        unbound(e, t, s, i, p, n, now)
        return
    named(e, t, i, p, n, now, 0)


def named(e: "Engine", t: "Transport", i: int, p: "Bytes", n: int, now: int, late: int) -> None:
    """A measured packet of an SSRC that belongs to an up stream. `late`: it waited in limbo."""
    u = t.s_up[i]
    s = e.seen
    t.w_media = u.ssrc
    if t.s_what[i] == S_UP:
        if p[1] & 0x7F != u.pt:
            e.drops[D_MALFORMED] += 1
            return
        accept(e, u, p, rd16(p, 2), now, late)
    elif s.end - s.payload >= 2 and p[1] & 0x7F == u.rtx_pt:
        sequence = rd16(p, s.payload)
        s.payload += 2
        accept(e, u, p, sequence, now, 1)


def unbound(e: "Engine", t: "Transport", s: "Seen", i: int, p: "Bytes", n: int, now: int) -> None:
    """Tell about an SSRC nobody named, once and again when it says its mid or rid; keep its packet for later."""
    told = 1
    if s.at[X_MID] >= 0 or s.at[X_RID] >= 0 or s.at[X_RRID] >= 0:
        told = 2
    if told > t.s_told[i]:
        t.s_told[i] = told
        e.note[0] = p[1] & 0x7F
        o = word(e, s, p, X_MID, 1)
        o = word(e, s, p, X_RID, o)
        o = word(e, s, p, X_RRID, o)
        e.report(e, R_UNBOUND, t.id, wide(t.s_ssrc[i]), o)
    if t.l_n >= LIMBO_PACKETS or t.l_end + n > LIMBO_BYTES:
        tidy_limbo(e, t, now)
    waiting = 0
    for j in range(t.l_n):
        if t.l_len[j] and t.l_ssrc[j] == t.s_ssrc[i]:
            waiting += 1
    if waiting >= LIMBO_EACH or t.l_n >= LIMBO_PACKETS or t.l_end + n > LIMBO_BYTES:
        e.drops[D_UNBOUND_SSRC] += 1
        return
    k = t.l_n
    t.l_off[k] = t.l_end
    t.l_len[k] = n
    t.l_ssrc[k] = t.s_ssrc[i]
    t.l_at[k] = now
    copy(t.l_data, t.l_end, p, 0, n)
    t.l_end += n
    t.l_n += 1


def tidy_limbo(e: "Engine", t: "Transport", now: int) -> None:
    """Make room: packets that were replayed, or that nobody wanted for two seconds, go."""
    left = 0
    end = 0
    for k in range(t.l_n):
        n = t.l_len[k]
        if n == 0 or now - t.l_at[k] > LIMBO_EXPIRES_NS:
            if n:
                e.drops[D_UNBOUND_SSRC] += 1
            continue
        # through the buffer: the two places may overlap
        copy(e.buf, 0, t.l_data, t.l_off[k], n)
        copy(t.l_data, end, e.buf, 0, n)
        t.l_off[left] = end
        t.l_len[left] = n
        t.l_ssrc[left] = t.l_ssrc[k]
        t.l_at[left] = t.l_at[k]
        left += 1
        end += n
    t.l_n = left
    t.l_end = end


def word(e: "Engine", s: "Seen", p: "Bytes", kind: int, o: int) -> int:
    """A text extension into the note: its length, its bytes."""
    size = s.len[kind] if s.at[kind] >= 0 else 0
    e.note[o] = size
    if size:
        copy(e.note, o + 1, p, s.at[kind], size)
    return o + 1 + size


def replay(e: "Engine", t: "Transport", ssrc: int) -> int:
    """An SSRC was named: its packets in limbo go their way. 1 when there are more, after a fan-out."""
    i = find_ssrc(t, ssrc)
    if i < 0:
        return 0
    others = 0
    done = 0
    for k in range(t.l_n):
        if t.l_len[k] == 0:
            continue
        if t.l_ssrc[k] != ssrc:
            others += 1
            continue
        if done == PENDING:
            return 1
        done += 1
        copy(e.buf, 0, t.l_data, t.l_off[k], t.l_len[k])
        if measure(e.seen, t, e.buf, t.l_len[k]):
            named(e, t, i, e.buf, t.l_len[k], t.l_at[k], 1)
        t.l_len[k] = 0
    if others == 0:
        t.l_n = 0
        t.l_end = 0
    return 0


def accept(e: "Engine", u: "Up", p: "Bytes", sequence: int, now: int, late: int) -> None:
    """A packet of an up stream, `e.seen` describing it. `late`: repaired or replayed, so no measure of jitter."""
    s = e.seen
    timestamp = rd32(p, 4)
    number = placed(e, u, sequence, now)
    if number < 0:
        return
    fresh = 1 if number > u.top or not u.started else 0
    if not fresh and kept(u, number) >= 0:
        e.drops[D_DUPLICATE] += 1
        return
    if fresh:
        advance(u, number, now)
        if u.n_missing:
            arm(e, now + 1)
    elif found(u, number, now):
        u.repaired += 1
    u.received += 1
    u.packets += 1
    u.bytes += s.end - s.payload
    u.last_at = now
    if not late and s.end > s.payload:
        clocked(u, timestamp, now)
    look(s, u.track.codec, p, s.payload, s.end)
    judge(e, u, p, timestamp, fresh)
    slot = store(u, s, p, number, timestamp, now)
    pend(e, u, slot)


def placed(e: "Engine", u: "Up", sequence: int, now: int) -> int:
    """The unwrapped sequence number, -1 for a packet out of any order (two in a row begin anew, A.1)."""
    if not u.started:
        u.base = sequence + 65536
        u.floor = u.base
        u.top = u.base - 1
        u.started = 1
        u.transport.rr_due = now
        arm(e, now)
        return u.base
    number = u.top + s16(sequence - u.top)
    ahead = number - u.top
    if -MAX_MISORDER < ahead < MAX_DROPOUT:
        if number < u.floor:
            e.drops[D_OLD] += 1
            return -1
        u.strange_known = 0
        return number
    if not u.strange_known or u.strange != sequence:
        u.strange_known = 1
        u.strange = (sequence + 1) & 0xFFFF
        e.drops[D_OLD] += 1
        return -1
    # the loss figures go on as if nothing had been lost in between
    expected = u.top - u.base + 1
    u.strange_known = 0
    u.epoch += 1
    u.n_missing = 0
    for k in range(u.r_mask + 1):
        u.r_used[k] = 0
    number = (u.top & ~0xFFFF) + 0x10000 + sequence
    u.floor = number
    u.top = number - 1
    u.base = number - expected
    u.transit_known = 0
    return number


def advance(u: "Up", number: int, now: int) -> None:
    """A new highest number; what it left out is missing."""
    gap = number - u.top - 1
    if gap > 0 and u.nack:
        if gap > NACKS:
            u.n_missing = 0
            u.key_wanted = 1
        else:
            miss(u, u.top + 1, number, now)
    u.top = number


def judge(e: "Engine", u: "Up", p: "Bytes", timestamp: int, fresh: int) -> None:
    """Key frames, frames and loudness of a packet just parsed."""
    s = e.seen
    codec = u.track.codec
    if s.end == s.payload:
        s.flags &= ~F_KEY
    elif codec in (C_H264, C_H265):
        if s.parameters:
            u.parameters_seen = 1
        elif u.parameters_seen:
            # a stream that sends parameter sets is entered at them, not at the picture behind them
            s.flags &= ~F_KEY
    if codec in (C_OPUS, C_RED, C_OTHER):
        loudness(e, u, p)
    elif s.flags & F_KEY and s.end > s.payload:
        u.key_wanted = 0
        if not u.key_known or u.key_ts != timestamp:
            u.key_known = 1
            u.key_ts = timestamp
            u.key_frames += 1
            e.report(e, R_KEY_FRAME, u.id, wide(s.width) << 16 | s.height, 0)
    if fresh and (not u.frame_known or u.frame_ts != timestamp):
        u.frame_known = 1
        u.frame_ts = timestamp
        u.frames += 1


def loudness(e: "Engine", u: "Up", p: "Bytes") -> None:
    """RFC 6464 level of one packet into the window of its up stream."""
    s = e.seen
    if s.at[X_AUDIO_LEVEL] < 0:
        return
    level = p[s.at[X_AUDIO_LEVEL]] & 0x7F
    u.a_packets += 1
    if level <= e.threshold:
        u.a_active += 1
    if level < u.a_loudest:
        u.a_loudest = level
    if level < u.a_heard:
        u.a_heard = level


def pend(e: "Engine", u: "Up", slot: int) -> None:
    """List the packet with its track, and the track with those to fan out. The plumbing keeps both lists short."""
    tr = u.track
    if tr.p_n >= PENDING:
        return
    tr.p_up[tr.p_n] = u
    tr.p_slot[tr.p_n] = slot
    tr.p_n += 1
    if not tr.waiting and e.n_ready < READY:
        tr.waiting = 1
        e.ready[e.n_ready] = tr
        e.n_ready += 1
