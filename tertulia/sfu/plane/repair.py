"""Asking publishers again for what is missing (RFC 4585 6.2.1): five tries, by round trip, at most 250 at a time."""

try:
    import cython  # type: ignore[import-untyped]
except ImportError:
    from tertulia.sfu.plane import uncompiled as cython

if not cython.compiled:
    from tertulia.sfu.plane.bits import Bytes, int_of, wr16, wr32
    from tertulia.sfu.plane.rows import Up
    from tertulia.sfu.plane.words import NACK_TRIES, NACKS

SHORTEST_NS = 20_000_000
LONGEST_NS = 400_000_000
ASSUMED_RTT_NS = 70_000_000


def pause_ns(u: "Up", tries: int) -> int:
    """How long to wait for an answer to the given number of tries."""
    wait = u.rtt_ns if u.rtt_ns else ASSUMED_RTT_NS
    if wait < SHORTEST_NS:
        wait = SHORTEST_NS
    for _ in range(tries - 1):
        wait = wait * 5 // 4
    return LONGEST_NS if wait > LONGEST_NS else wait


def miss(u: "Up", first: int, end: int, now: int) -> None:
    """Packets first..end-1 have not come. When there is no room the oldest are given up."""
    if end - first > NACKS:
        first = end - NACKS
    over = u.n_missing + int_of(end - first) - NACKS
    if over > 0:
        forget_first(u, over)
    while first < end:
        k = u.n_missing
        u.n_seq[k] = first
        u.n_due[k] = now
        u.n_sent[k] = 0
        u.n_tries[k] = 0
        u.n_missing += 1
        first += 1


def forget_first(u: "Up", count: int) -> None:
    if count > u.n_missing:
        count = u.n_missing
    u.n_missing -= count
    for k in range(u.n_missing):
        move(u, k, k + count)


def move(u: "Up", to: int, k: int) -> None:
    u.n_seq[to] = u.n_seq[k]
    u.n_due[to] = u.n_due[k]
    u.n_sent[to] = u.n_sent[k]
    u.n_tries[to] = u.n_tries[k]


def found(u: "Up", number: int, now: int) -> int:
    """A late packet came: off the list. 1 when we had asked for it (then the round trip is learnt, too)."""
    for k in range(u.n_missing):
        if u.n_seq[k] == number:
            asked = u.n_tries[k]
            if asked == 1:
                sample = now - u.n_sent[k]
                u.rtt_ns = (u.rtt_ns * 7 + sample) // 8 if u.rtt_ns else sample
            u.n_missing -= 1
            for j in range(k, u.n_missing):
                move(u, j, j + 1)
            return 1 if asked else 0
    return 0


def next_due(u: "Up") -> int:
    """When the list wants attention; 0 when it is empty."""
    due = u.n_due[0] if u.n_missing else 0
    for k in range(1, u.n_missing):
        if u.n_due[k] < due:
            due = u.n_due[k]
    return due


def ask(u: "Up", b: "Bytes", sender: int, now: int) -> int:
    """A NACK for everything due in b; its length, 0 when nothing is. Numbers asked for five times are given up."""
    o = 12
    pid = 0
    mask = 0
    left = 0
    for k in range(u.n_missing):
        if u.n_due[k] <= now:
            if u.n_tries[k] >= NACK_TRIES:
                continue
            u.n_tries[k] += 1
            u.n_sent[k] = now
            u.n_due[k] = now + pause_ns(u, u.n_tries[k])
            u.nacks += 1
            ahead = u.n_seq[k] - pid
            if o > 12 and 0 < ahead <= 16:
                mask |= 1 << (ahead - 1)
                wr16(b, o - 2, mask)
            else:
                pid = u.n_seq[k]
                mask = 0
                wr16(b, o, pid & 0xFFFF)
                wr16(b, o + 2, 0)
                o += 4
        if left != k:
            move(u, left, k)
        left += 1
    u.n_missing = left
    if o == 12:
        return 0
    b[0] = 0x81
    b[1] = 205
    wr16(b, 2, (o >> 2) - 1)
    wr32(b, 4, sender)
    wr32(b, 8, u.ssrc)
    return o
