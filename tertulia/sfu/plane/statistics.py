"""Reception figures and the reports made of them (RFC 3550 6.4, A.3, A.8; PLI RFC 4585 6.3.1)."""

try:
    import cython  # type: ignore[import-untyped]
except ImportError:
    from tertulia.sfu.plane import uncompiled as cython

if not cython.compiled:
    from tertulia.sfu.plane.bits import Bytes, int_of, rd16, rd24, rd32, s32, u32, wr16, wr24, wr32, wr64
    from tertulia.sfu.plane.munge import ticks
    from tertulia.sfu.plane.rows import Down, Up

SECOND_NS = 1_000_000_000


def clocked(u: "Up", timestamp: int, now: int) -> None:
    """Interarrival jitter, in sixteenths of a timestamp unit (A.8)."""
    transit = ticks(now, u.track.clock_hz) - timestamp
    if u.transit_known:
        d = s32(transit - u.transit)
        if d < 0:
            d = -d
        u.jitter16 += d - ((u.jitter16 + 8) >> 4)
    u.transit = transit
    u.transit_known = 1


def lost(u: "Up") -> int:
    """Cumulative loss, never below zero."""
    if not u.started:
        return 0
    gone = u.top - u.base + 1 - u.received
    return gone if gone > 0 else 0


def report_block(u: "Up", b: "Bytes", o: int, now: int) -> int:
    """One reception report block at b[o] (24 bytes); closes the loss interval. The offset behind it."""
    expected = u.top - u.base + 1
    interval = expected - u.expected_before
    missing = interval - (u.received - u.received_before)
    u.expected_before = expected
    u.received_before = u.received
    u.fraction = 0
    if interval > 0 and missing > 0:
        u.fraction = int_of((missing << 8) // interval)
        if u.fraction > 255:
            u.fraction = 255
    gone = lost(u)
    if gone > 0x7FFFFF:
        gone = 0x7FFFFF
    wr32(b, o, u.ssrc)
    b[o + 4] = u.fraction
    wr24(b, o + 5, gone)
    wr32(b, o + 8, u32(u.top))
    wr32(b, o + 12, u32(u.jitter16 >> 4))
    if u.sr_known:
        wr32(b, o + 16, u32(u.sr_ntp >> 16))
        held = now - u.sr_at
        wr32(b, o + 20, u32(held // SECOND_NS << 16 | (held % SECOND_NS << 16) // SECOND_NS))
    else:
        wr32(b, o + 16, 0)
        wr32(b, o + 20, 0)
    return o + 24


def receiver_report(b: "Bytes", sender: int, blocks: int) -> int:
    """The head of an RR whose blocks stand at b[8:] already; its length."""
    b[0] = 0x80 | blocks
    b[1] = 201
    wr16(b, 2, 1 + 6 * blocks)
    wr32(b, 4, sender)
    return 8 + 24 * blocks


def sender_report(d: "Down", u: "Up", b: "Bytes", now: int) -> int:
    """An SR for a row: the publisher's report carried on to now, in the row's timestamps; its length."""
    since = now - u.sr_at
    ntp = u.sr_ntp + ((since // SECOND_NS << 32) | (since % SECOND_NS << 32) // SECOND_NS)
    b[0] = 0x80
    b[1] = 200
    wr16(b, 2, 6)
    wr32(b, 4, d.ssrc)
    wr64(b, 8, ntp)
    wr32(b, 16, u32(u.sr_ts + ticks(since, u.track.clock_hz) - (0 if d.raw else d.ts_off)))
    wr32(b, 20, u32(d.packets))
    wr32(b, 24, u32(d.octets))
    d.sr_mid = rd32(b, 10)
    d.sr_sent = now
    return 28


def picture_loss(b: "Bytes", sender: int, media: int) -> int:
    """A PLI; its length."""
    b[0] = 0x81
    b[1] = 206
    wr16(b, 2, 2)
    wr32(b, 4, sender)
    wr32(b, 8, media)
    return 12


def reported(d: "Down", p: "Bytes", o: int, now: int) -> None:
    """A subscriber's reception report block p[o:o+24] about a row."""
    d.told_mid = 1
    d.fraction = p[o + 4]
    d.lost = rd24(p, o + 5)
    if d.lost & 0x800000:
        d.lost = 0
    d.jitter = rd32(p, o + 12)
    middle = rd32(p, o + 16)
    if middle and middle == d.sr_mid and d.sr_sent:
        held = rd32(p, o + 20)
        rtt = now - d.sr_sent - ((held >> 16) * SECOND_NS + ((held & 0xFFFF) * SECOND_NS >> 16))
        if rtt > 0:
            d.rtt_ns = (d.rtt_ns * 7 + rtt) // 8 if d.rtt_ns else rtt
            known = d.transport.rtt_ns
            d.transport.rtt_ns = (known * 7 + rtt) // 8 if known else rtt


def remb(p: "Bytes", o: int, end: int) -> int:
    """Bits per second of a REMB whose FCI is p[o:end], -1 when it is not one (draft-alvestrand-rmcat-remb-03 2.2)."""
    if o + 8 > end or rd32(p, o) != 0x52454D42:
        return -1
    if o + 8 + 4 * p[o + 4] > end:
        return -1
    exponent: int = p[o + 5] >> 2
    mantissa = (p[o + 5] & 3) << 16 | rd16(p, o + 6)
    if exponent > 40:
        return -1
    return wide(mantissa) << exponent


def wide(v: int) -> int:
    """64 bits before a shift (compiled)."""
    return v
