"""The RTP header of an incoming packet: lengths checked, extensions found (RFC 3550 5.1, RFC 8285)."""

try:
    import cython  # type: ignore[import-untyped]
except ImportError:
    from tertulia.sfu.plane import uncompiled as cython

if not cython.compiled:
    from tertulia.sfu.plane.bits import Bytes, rd16
    from tertulia.sfu.plane.rows import Seen, Transport
    from tertulia.sfu.plane.words import F_MARKER, F_PADDING, X_KINDS


def measure(s: "Seen", t: "Transport", p: "Bytes", n: int) -> int:
    """Fill `s` from the packet p[:n]; 0 when a length does not fit, else 1.

    An extension block that is broken inside counts as «no extensions»; one that leaves the packet is malformed.
    """
    for k in range(X_KINDS):
        s.at[k] = -1
        s.len[k] = 0
    if n < 12 or p[0] >> 6 != 2:
        return 0
    o = 12 + 4 * (p[0] & 15)
    if o > n:
        return 0
    if p[0] & 0x10:
        if o + 4 > n:
            return 0
        profile = rd16(p, o)
        end = o + 4 + 4 * rd16(p, o + 2)
        if end > n:
            return 0
        if profile == 0xBEDE:
            short_form(s, t, p, o + 4, end)
        elif profile & 0xFFF0 == 0x1000:
            long_form(s, t, p, o + 4, end)
        o = end
    s.payload = o
    s.end = n
    s.padding = 0
    s.flags = F_MARKER if p[1] & 0x80 else 0
    if p[0] & 0x20:
        s.padding = p[n - 1]
        if s.padding == 0 or o + s.padding > n:
            return 0
        s.end = n - s.padding
        s.flags |= F_PADDING
    return 1


def short_form(s: "Seen", t: "Transport", p: "Bytes", o: int, end: int) -> None:
    """One-byte headers (RFC 8285 4.2): id 0 is padding, id 15 ends the list."""
    while o < end:
        first = p[o]
        o += 1
        if first == 0:
            continue
        size = (first & 15) + 1
        if first >> 4 == 15 or o + size > end:
            return
        kind = t.kinds[first >> 4]
        if kind < X_KINDS and s.at[kind] < 0:
            s.at[kind] = o
            s.len[kind] = size
        o += size


def long_form(s: "Seen", t: "Transport", p: "Bytes", o: int, end: int) -> None:
    """Two-byte headers (RFC 8285 4.3)."""
    while o + 1 < end:
        if p[o] == 0:
            o += 1
            continue
        size = p[o + 1]
        if o + 2 + size > end:
            return
        kind = t.kinds[p[o]]
        if kind < X_KINDS and s.at[kind] < 0:
            s.at[kind] = o + 2
            s.len[kind] = size
        o += 2 + size
