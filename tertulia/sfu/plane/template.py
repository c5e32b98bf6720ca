"""Stored packets and the copies made of them.

`store` keeps one incoming packet once for all its subscribers: the extensions worth passing on as (kind, length, bytes)
and the payload, in a ring of bytes with an index by sequence number. `build` writes what is a copy's own into the
engine's buffer: header with the subscriber's own numbers and extension ids (RFC 8285), RTX head where asked (RFC 4588
4), the start of a payload whose VP8 picture numbers are replaced (RFC 7741 4.2). The rest of the payload stays in the
ring, where the plumbing reads it to encrypt or to copy: no byte is moved twice.
"""

try:
    import cython  # type: ignore[import-untyped]
except ImportError:
    from tertulia.sfu.plane import uncompiled as cython

if not cython.compiled:
    from tertulia.sfu.plane.bits import Bytes, copy, ticked, u32, wr16, wr24, wr32
    from tertulia.sfu.plane.rows import Down, Engine, Seen, Transport, Up, departure_at
    from tertulia.sfu.plane.words import (
        F_MARKER,
        F_PICTURE_WIDE,
        PREFIX,
        X_ABS_SEND_TIME,
        X_AUDIO_LEVEL,
        X_LAYERS,
        X_MID,
        X_TIMING,
        X_TWCC,
    )


def store(u: "Up", s: "Seen", p: "Bytes", number: int, timestamp: int, now: int) -> int:
    """Keep the packet p that `s` describes; returns its slot."""
    slot = number & u.r_mask
    extra = 0
    for k in range(X_AUDIO_LEVEL, X_TIMING + 1):
        if s.at[k] >= 0 and k != X_LAYERS:
            extra += 2 + s.len[k]
    size = s.end - s.payload
    at = u.r_pos & (u.r_bytes - 1)
    if at + extra + size > u.r_bytes:
        # a packet never wraps: the tail of the ring stays unused
        u.r_pos += u.r_bytes - at
        at = 0
    u.r_off[slot] = u.r_pos
    u.r_pos += extra + size
    o = at
    for k in range(X_AUDIO_LEVEL, X_TIMING + 1):
        if s.at[k] >= 0 and k != X_LAYERS:
            u.r_data[o] = k
            u.r_data[o + 1] = s.len[k]
            copy(u.r_data, o + 2, p, s.at[k], s.len[k])
            o += 2 + s.len[k]
    copy(u.r_data, o, p, s.payload, size)
    u.r_used[slot] = 1
    u.r_seq[slot] = u32(number)
    u.r_ext[slot] = extra
    u.r_len[slot] = size
    u.r_ts[slot] = timestamp
    u.r_at[slot] = now
    u.r_flags[slot] = s.flags
    u.r_tid[slot] = s.tid
    u.r_picture_at[slot] = s.picture_at
    u.r_picture[slot] = s.picture
    u.r_tl0_at[slot] = s.tl0_at
    u.r_tl0[slot] = s.tl0
    u.r_keyidx_at[slot] = s.keyidx_at
    u.r_keyidx[slot] = s.keyidx
    return slot


def kept(u: "Up", number: int) -> int:
    """The slot of packet `number` (low 32 bits of its unwrapped sequence number), -1 when it is gone."""
    slot = number & u.r_mask
    if u.r_used[slot] and u.r_seq[slot] == u32(number) and u.r_pos - u.r_off[slot] <= u.r_bytes:
        return slot
    return -1


def head(b: "Bytes", o: int, number: int, size: int, long: int) -> int:
    """One extension element's head at b[o]; where its data goes."""
    if long:
        b[o] = number
        b[o + 1] = size
        return o + 2
    b[o] = number << 4 | (size - 1)
    return o + 1


def needs_long_form(t: "Transport", u: "Up", at: int, end: int) -> int:
    """1 when an element has an id above 14, or is empty or longer than 16 bytes."""
    if t.ids[X_TWCC] > 14 or t.ids[X_ABS_SEND_TIME] > 14 or t.ids[X_MID] > 14:
        return 1
    while at < end:
        number = t.ids[u.r_data[at]]
        size = u.r_data[at + 1]
        if number and (number > 14 or size > 16 or size == 0):
            return 1
        at += 2 + size
    return 0


def extend(e: "Engine", d: "Down", u: "Up", at: int, end: int) -> int:
    """The extension block at e.buf[12:]; its end, 12 when there is nothing to say."""
    t = d.transport
    b = e.buf
    long = needs_long_form(t, u, at, end)
    o = 16
    with_mid = 1 if d.mid_len and not d.told_mid and t.ids[X_MID] else 0
    if with_mid and d.mid_len > 16:
        long = 1
    if t.ids[X_TWCC]:
        o = head(b, o, t.ids[X_TWCC], 2, long)
        wr16(b, o, t.x_next & 0xFFFF)
        o += 2
    if t.ids[X_ABS_SEND_TIME]:
        o = head(b, o, t.ids[X_ABS_SEND_TIME], 3, long)
        wr24(b, o, (e.now // 1_000_000_000 & 63) << 18 | ((e.now % 1_000_000_000) << 18) // 1_000_000_000)
        o += 3
    if with_mid:
        o = head(b, o, t.ids[X_MID], d.mid_len, long)
        copy(b, o, d.mid, 0, d.mid_len)
        o += d.mid_len
    while at < end:
        number = t.ids[u.r_data[at]]
        size = u.r_data[at + 1]
        if number:
            o = head(b, o, number, size, long)
            copy(b, o, u.r_data, at + 2, size)
            o += size
        at += 2 + size
    if o == 16:
        return 12
    while o & 3:
        b[o] = 0
        o += 1
    wr16(b, 12, 0x1000 if long else 0xBEDE)
    wr16(b, 14, (o - 16) >> 2)
    return o


def renumber(b: "Bytes", o: int, u: "Up", slot: int, picture: int, tl0: int, keyidx: int) -> None:
    """The row's own VP8 numbers in a copy of the payload at b[o:]."""
    if u.r_picture_at[slot]:
        if u.r_flags[slot] & F_PICTURE_WIDE:
            wr16(b, o + u.r_picture_at[slot], 0x8000 | (picture & 0x7FFF))
        else:
            b[o + u.r_picture_at[slot]] = picture & 0x7F
    if u.r_tl0_at[slot]:
        b[o + u.r_tl0_at[slot]] = tl0 & 255
    if u.r_keyidx_at[slot]:
        b[o + u.r_keyidx_at[slot]] = (b[o + u.r_keyidx_at[slot]] & 0xE0) | (keyidx & 31)


def build(
    e: "Engine",
    d: "Down",
    u: "Up",
    slot: int,
    sequence: int,
    timestamp: int,
    picture: int,
    tl0: int,
    keyidx: int,
    repair: int,
) -> int:
    """A copy of a stored packet: its own part in e.buf, the rest named in e.rest and e.more; its whole length.

    `repair`: as RTX where the row has one. To be carried away at once.
    """
    b = e.buf
    t = d.transport
    at = u.r_off[slot] & (u.r_bytes - 1)
    o = extend(e, d, u, at, at + u.r_ext[slot])
    as_rtx = 1 if repair and d.rtx_ssrc else 0
    b[0] = 0x90 if o > 12 else 0x80
    b[1] = (0x80 if u.r_flags[slot] & F_MARKER else 0) | (d.rtx_pt if as_rtx else d.pt)
    wr32(b, 4, timestamp)
    if as_rtx:
        wr16(b, 2, d.rtx_next & 0xFFFF)
        d.rtx_next += 1
        wr32(b, 8, d.rtx_ssrc)
    else:
        wr16(b, 2, sequence)
        wr32(b, 8, d.ssrc)
    e.head = o
    at += u.r_ext[slot]
    mine = 0
    size = u.r_len[slot]
    if as_rtx:
        wr16(b, o, sequence)
        o += 2
    renumbered = 0 if d.raw else u.r_picture_at[slot] | u.r_tl0_at[slot] | u.r_keyidx_at[slot]
    if as_rtx or renumbered:
        mine = PREFIX - (o - e.head)
        if mine > size:
            mine = size
        copy(b, o, u.r_data, at, mine)
        if renumbered:
            renumber(b, o, u, slot, picture, tl0, keyidx)
    e.own = o + mine
    e.ring = u.r_data
    e.rest = at + mine
    e.more = size - mine
    depart(e, t, o + size)
    return o + size


def fill(e: "Engine", d: "Down", u: "Up") -> int:
    """An empty packet under the numbers at hand in e.buf; its length. To be carried away at once."""
    b = e.buf
    o = extend(e, d, u, 0, 0)
    b[0] = 0x90 if o > 12 else 0x80
    b[1] = d.pt
    wr16(b, 2, d.o_seq)
    wr32(b, 4, d.o_ts)
    wr32(b, 8, d.ssrc)
    e.head = o
    e.own = o
    e.more = 0
    depart(e, d.transport, o)
    return o


def depart(e: "Engine", t: "Transport", size: int) -> None:
    """Note a packet for the peer's transport-cc feedback, if there is to be any."""
    if t.ids[X_TWCC]:
        departure = departure_at(t, t.x_next)
        departure.at = ticked(e.now)
        departure.size = size
        departure.state = 1
        t.x_next += 1
