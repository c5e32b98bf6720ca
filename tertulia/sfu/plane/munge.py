"""Whether a packet goes to a row, and under which numbers.

A row follows one spatial layer and changes it only at a key frame of the wanted one; meanwhile the old layer goes on.
Offsets belong to ranges of incoming sequence numbers, so that a packet that comes late, or again, keeps its range's
offset; what was left out on purpose leaves no gap, what was lost does. Timestamps of two layers are bridged by their
sender reports (RFC 3550 6.4.1), else by the time that passed, and never go back.
"""

try:
    import cython  # type: ignore[import-untyped]
except ImportError:
    from tertulia.sfu.plane import uncompiled as cython

if not cython.compiled:
    from tertulia.sfu.plane.bits import s16, s32, s64, u32
    from tertulia.sfu.plane.rows import Down, Engine, Up, past_at, rest_at
    from tertulia.sfu.plane.words import (
        C_VP8,
        C_VP9,
        D_LAYER,
        D_OLD,
        D_PADDING_ONLY,
        D_PAUSED,
        D_TEMPORAL,
        D_WAITING,
        F_KEY,
        F_PICTURE_WIDE,
        F_SYNC,
        R_SWITCHED,
        RANGES,
    )

BRIDGE_TOLERANCE_NS = 1_000_000_000
"""Sender reports that disagree with the time that passed by more than this are not believed."""

REPORTS_APART = 1 << 40
"""256 s in NTP units: reports further apart are not of one clock."""


def ticks(elapsed_ns: int, clock_hz: int) -> int:
    """Timestamp units of a duration >= 0 (below a day)."""
    return elapsed_ns // 1_000_000 * clock_hz // 1000 + elapsed_ns % 1_000_000 * clock_hz // 1_000_000_000


def open_range(d: "Down", start: int, sequence: int, picture: int, tl0: int, keyidx: int) -> None:
    """From the incoming number `start` on, these offsets hold. The range at hand goes to the ones before it."""
    k = (d.range_head + 1) & (RANGES - 1)
    d.range_head = k
    if d.n_ranges < RANGES:
        d.n_ranges += 1
    d.g_start[k] = d.c_start
    d.g_seq[k] = d.c_seq
    d.g_picture[k] = d.c_picture
    d.g_tl0[k] = d.c_tl0
    d.g_keyidx[k] = d.c_keyidx
    set_range(d, start, sequence, picture, tl0, keyidx)


def set_range(d: "Down", start: int, sequence: int, picture: int, tl0: int, keyidx: int) -> None:
    d.c_start = u32(start)
    d.c_seq = u32(sequence)
    d.c_picture = u32(picture)
    d.c_tl0 = u32(tl0)
    d.c_keyidx = u32(keyidx)


def earlier_range(d: "Down", number: int) -> int:
    """Index of the range before the one at hand that an incoming number belongs to, -1 when that was too long ago."""
    for back in range(d.n_ranges):
        k = (d.range_head - back) & (RANGES - 1)
        if s32(number - d.g_start[k]) >= 0:
            return k
    return -1


def bridged(e: "Engine", d: "Down", u: "Up", timestamp: int, arrival: int) -> int:
    """The outgoing timestamp of a layer's first packet, always after the last one sent."""
    clock = d.track.clock_hz
    elapsed = arrival - d.last_at
    if elapsed < 0:
        elapsed = 0
    expected = u32(d.last_ts + ticks(elapsed, clock))
    if d.last_layer != u.layer and d.track.has[d.last_layer] and u.sr_known:
        old = d.track.ups[d.last_layer]
        apart = s64(u.sr_ntp - old.sr_ntp)
        if old.sr_known and -REPORTS_APART < apart < REPORTS_APART:
            # the packet on the old layer's clock: what lies between the two reports, and between report and packet
            aligned = u32(old.sr_ts + (apart * clock >> 32) + s32(timestamp - u.sr_ts) - d.ts_off)
            off = s32(aligned - expected)
            if off < 0:
                off = -off
            if off < ticks(BRIDGE_TOLERANCE_NS, clock):
                expected = aligned
    if s32(expected - d.last_ts) <= 0:
        expected = u32(d.last_ts + 1)
    return expected


def begin(e: "Engine", d: "Down", u: "Up", slot: int) -> None:
    """Follow layer u from the packet in `slot` on, continuing the row's own numbers."""
    number = u.r_seq[slot]
    if d.has:
        d.ts_off = u32(u.r_ts[slot] - bridged(e, d, u, u.r_ts[slot], u.r_at[slot]))
        width = 0x7FFF if u.r_flags[slot] & F_PICTURE_WIDE else 0x7F
        sequence = u32(number - d.last_seq - 1)
        picture = u32(u.r_picture[slot] - ((d.last_picture + 1) & width))
        tl0 = u32(u.r_tl0[slot] - d.last_tl0 - 1)
        keyidx = u32(u.r_keyidx[slot] - d.last_keyidx - 1)
    else:
        d.ts_off = u32(u.r_ts[slot] - d.first_ts)
        sequence = u32(number - d.first_seq)
        picture = 0
        tl0 = 0
        keyidx = 0
    d.n_ranges = 0
    set_range(d, number, sequence, picture, tl0, keyidx)
    d.in_top = u32(number - 1)
    d.frame_ts = u32(u.r_ts[slot] - 1)
    d.dropped_known = 0
    d.epoch = u.epoch
    d.temporal_now = d.temporal
    if d.layer != u.layer:
        d.layer = u.layer
        d.sr_due = 0
        e.report(e, R_SWITCHED, d.id, u.layer, 0)


def temporal_drop(d: "Down", u: "Up", slot: int) -> int:
    """1 when a packet's temporal layer is above what the row takes; limits change between frames only."""
    codec = d.track.codec
    if codec != C_VP8 and codec != C_VP9:
        return 0
    tid = u.r_tid[slot]
    if u.r_ts[slot] != d.frame_ts and d.temporal != d.temporal_now:
        if d.temporal < d.temporal_now or u.r_flags[slot] & F_KEY:
            d.temporal_now = d.temporal
        elif u.r_flags[slot] & F_SYNC and d.temporal_now < tid <= d.temporal:
            d.temporal_now = tid
    return 1 if tid > d.temporal_now else 0


def select(e: "Engine", d: "Down", u: "Up", slot: int) -> int:
    """1: send it, numbers in `d.o_*`. 0: not for this row (counted).

    What is left out in order leaves no gap. What is left out late had its number kept free: `d.filler` asks for an
    empty packet, so that the subscriber does not ask for it again and again.
    """
    d.filler = 0
    if not d.track.enabled or d.target < 0:
        e.drops[D_PAUSED] += 1
        return 0
    if d.raw:
        return select_raw(e, d, u, slot)
    number = u.r_seq[slot]
    if u.layer != d.layer:
        if u.layer != d.target:
            e.drops[D_LAYER] += 1
            return 0
        if not u.r_flags[slot] & F_KEY:
            u.key_wanted = 1
            e.drops[D_WAITING] += 1
            return 0
        begin(e, d, u, slot)
    elif d.epoch != u.epoch:
        # another SSRC, or a pause: enter at a key frame. Numbers that jumped: go on behind the last one sent
        if not u.r_flags[slot] & F_KEY:
            u.key_wanted = 1
            if d.epoch >> 16 != u.id:
                e.drops[D_WAITING] += 1
                return 0
        begin(e, d, u, slot)
    if s32(number - d.in_top) > 0:
        if not newest(e, d, u, slot):
            return 0
    elif u.r_len[slot] == 0:
        e.drops[D_PADDING_ONLY] += 1
        d.filler = 1
    elif u.r_tid[slot] > d.temporal_now:
        e.drops[D_TEMPORAL] += 1
        d.filler = 1
    d.o_ts = u32(u.r_ts[slot] - d.ts_off)
    if s32(number - d.c_start) >= 0:
        take_off(d, u, slot, d.c_seq, d.c_picture, d.c_tl0, d.c_keyidx)
        return 1
    k = earlier_range(d, number)
    if k < 0:
        e.drops[D_OLD] += 1
        return 0
    take_off(d, u, slot, d.g_seq[k], d.g_picture[k], d.g_tl0[k], d.g_keyidx[k])
    return 1


def take_off(d: "Down", u: "Up", slot: int, sequence: int, picture: int, tl0: int, keyidx: int) -> None:
    """The outgoing numbers: the incoming ones without a range's offsets."""
    d.o_seq = (u.r_seq[slot] - sequence) & 0xFFFF
    d.o_picture = (u.r_picture[slot] - picture) & (0x7FFF if u.r_flags[slot] & F_PICTURE_WIDE else 0x7F)
    d.o_tl0 = (u.r_tl0[slot] - tl0) & 255
    d.o_keyidx = (u.r_keyidx[slot] - keyidx) & 31


def newest(e: "Engine", d: "Down", u: "Up", slot: int) -> int:
    """A packet beyond all others of its layer: 0 when it is left out and the gap closed behind it."""
    number = u.r_seq[slot]
    d.in_top = number
    if u.r_len[slot] == 0:
        open_range(d, number + 1, d.c_seq + 1, d.c_picture, d.c_tl0, d.c_keyidx)
        e.drops[D_PADDING_ONLY] += 1
        return 0
    if temporal_drop(d, u, slot):
        skipped = 0
        if u.r_picture_at[slot] and not (d.dropped_known and d.dropped_picture == u.r_picture[slot]):
            skipped = 1
            d.dropped_known = 1
            d.dropped_picture = u.r_picture[slot]
        open_range(d, number + 1, d.c_seq + 1, d.c_picture + skipped, d.c_tl0, d.c_keyidx)
        d.frame_ts = u.r_ts[slot]
        e.drops[D_TEMPORAL] += 1
        return 0
    d.frame_ts = u.r_ts[slot]
    return 1


def select_raw(e: "Engine", d: "Down", u: "Up", slot: int) -> int:
    """Node-to-node: every packet of the wanted layer as it came, from the first one on."""
    if u.layer != d.target:
        e.drops[D_LAYER] += 1
        return 0
    if d.layer != u.layer:
        d.layer = u.layer
        d.sr_due = 0
        e.report(e, R_SWITCHED, d.id, u.layer, 0)
    d.o_seq = u.r_seq[slot] & 0xFFFF
    d.o_ts = u.r_ts[slot]
    d.o_picture = u.r_picture[slot]
    d.o_tl0 = u.r_tl0[slot]
    d.o_keyidx = u.r_keyidx[slot]
    return 1


def sent(d: "Down", u: "Up", slot: int) -> None:
    """Note what went out under d.o_*: the row's newest numbers, frames, and the history that answers NACKs."""
    if not d.has or s16(d.o_seq - d.last_seq) > 0:
        d.last_seq = d.o_seq
        d.last_layer = u.layer
        if not d.has or s32(d.o_ts - d.last_ts) > 0:
            d.last_ts = d.o_ts
            d.last_at = u.r_at[slot]
            d.frames += 1
        if u.r_picture_at[slot]:
            d.last_picture = d.o_picture
        if u.r_tl0_at[slot]:
            d.last_tl0 = d.o_tl0
        if u.r_keyidx_at[slot]:
            d.last_keyidx = d.o_keyidx
        d.has = 1
    if d.h_mask:
        past = past_at(d, d.o_seq)
        past.used = 1
        past.out = d.o_seq
        past.number = u.r_seq[slot]
        past.up = u.id
        past.ts = d.o_ts
        past.tries = 0
        if u.r_picture_at[slot] | u.r_tl0_at[slot] | u.r_keyidx_at[slot]:
            rest = rest_at(d, d.o_seq)
            rest.picture = d.o_picture
            rest.tl0 = d.o_tl0
            rest.keyidx = d.o_keyidx
