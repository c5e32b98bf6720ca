"""Transport-wide congestion control, both ends (draft-holmer-rmcat-transport-wide-cc-extensions-01 3.1).

For publishers we note arrivals and build feedback; for subscribers we read theirs against what we sent and sum it up:
bytes and packets acknowledged, packets lost; what groups of packets that left within 5 ms tell of the delay is for
`delay`.
"""

try:
    import cython  # type: ignore[import-untyped]
except ImportError:
    from tertulia.sfu.plane import uncompiled as cython

if not cython.compiled:
    from tertulia.sfu.plane.bits import Bytes, rd16, rd24, s16, s32, unticked, wr16, wr24, wr32
    from tertulia.sfu.plane.delay import passed
    from tertulia.sfu.plane.rows import Engine, Transport, departure_at
    from tertulia.sfu.plane.words import ARRIVALS, SENT

TICK_NS = 250_000
REFERENCE_NS = 64_000_000
FEWEST_NS = 100_000_000
"""Feedback every 100 ms, every 50 ms once it covers many packets."""
MANY = 40
STATUSES = 400
"""In one feedback packet; more make another packet."""
BURST_NS = 5_000_000


def arrived(t: "Transport", sequence: int, now: int) -> None:
    """Note a packet's transport-wide number."""
    if not t.w_started:
        t.w_started = 1
        t.w_next = sequence + 65536
        t.w_top = t.w_next
    number = t.w_top + s16(sequence - t.w_top)
    if number < t.w_next:
        return
    if number - t.w_next >= ARRIVALS:
        # too long a gap to report: begin again here
        t.w_next = number
        t.w_pending = 0
    k = number & (ARRIVALS - 1)
    if number < t.w_top and t.w_seq[k] == number:
        return
    if number >= t.w_top:
        t.w_top = number + 1
    t.w_seq[k] = number
    t.w_at[k] = now
    t.w_pending += 1
    if t.w_due == 0:
        t.w_due = now + (FEWEST_NS // 2 if t.w_pending > MANY else FEWEST_NS)
    elif t.w_pending == MANY and t.w_due > now + FEWEST_NS // 2:
        t.w_due = now + FEWEST_NS // 2


def statuses(t: "Transport", kinds: "Bytes", reference: int) -> int:
    """Symbols (0 lost, 1 small delta, 2 large delta) from w_next on; how many fit one feedback packet."""
    clock = reference * REFERENCE_NS
    count = 0
    number = t.w_next
    while number < t.w_top and count < STATUSES:
        k = number & (ARRIVALS - 1)
        kinds[count] = 0
        if t.w_seq[k] == number:
            delta = steps(t.w_at[k] - clock)
            if delta < -32768 or delta > 32767:
                break
            kinds[count] = 1 if 0 <= delta <= 255 else 2
            clock += delta * TICK_NS
        count += 1
        number += 1
    return count


def steps(elapsed: int) -> int:
    """Quarter milliseconds, towards zero."""
    if elapsed < 0:
        return -(-elapsed // TICK_NS)
    return elapsed // TICK_NS


def feedback(e: "Engine", t: "Transport") -> int:
    """One feedback packet in e.buf about the arrivals not yet reported; its length, 0 when there are none."""
    first = t.w_next
    while first < t.w_top and t.w_seq[first & (ARRIVALS - 1)] != first:
        first += 1
    if first >= t.w_top:
        t.w_next = t.w_top
        t.w_pending = 0
        return 0
    if first - t.w_next >= STATUSES:
        t.w_next = first
    b = e.buf
    reference = t.w_at[first & (ARRIVALS - 1)] // REFERENCE_NS
    count = statuses(t, e.note, reference)
    wr16(b, 12, t.w_next & 0xFFFF)
    wr16(b, 14, count)
    wr24(b, 16, reference & 0xFFFFFF)
    b[19] = t.w_count & 255
    t.w_count += 1
    o = chunks(b, 20, e.note, count)
    clock = reference * REFERENCE_NS
    for i in range(count):
        if e.note[i]:
            k = (t.w_next + i) & (ARRIVALS - 1)
            delta = steps(t.w_at[k] - clock)
            clock += delta * TICK_NS
            t.w_pending -= 1
            if e.note[i] == 1:
                b[o] = delta & 255
                o += 1
            else:
                wr16(b, o, delta & 0xFFFF)
                o += 2
    t.w_next += count
    spare = -o & 3
    for i in range(spare):
        b[o + i] = 0
    o += spare
    b[0] = 0x8F
    if spare:
        b[0] = 0xAF
        b[o - 1] = spare
    b[1] = 205
    wr16(b, 2, (o >> 2) - 1)
    wr32(b, 4, t.feedback_ssrc)
    wr32(b, 8, t.w_media)
    return o


def chunks(b: "Bytes", o: int, kinds: "Bytes", count: int) -> int:
    """Status chunks: run lengths where they pay, else vectors of 14 one-bit or 7 two-bit symbols."""
    i = 0
    while i < count:
        run = 1
        while i + run < count and kinds[i + run] == kinds[i]:
            run += 1
        if run > 14 or i + run == count:
            wr16(b, o, kinds[i] << 13 | run)
            i += run
        else:
            wide = 0
            for j in range(14):
                if i + j < count and kinds[i + j] == 2:
                    wide = 1
            word = 0
            if wide:
                for j in range(7):
                    if i + j < count:
                        word |= kinds[i + j] << (12 - 2 * j)
                wr16(b, o, 0xC000 | word)
                i += 7
            else:
                for j in range(14):
                    if i + j < count:
                        word |= kinds[i + j] << (13 - j)
                wr16(b, o, 0x8000 | word)
                i += 14
        o += 2
    return o


def after_chunks(p: "Bytes", o: int, end: int, count: int) -> int:
    """Where the deltas begin, -1 when the chunks leave the packet."""
    told = 0
    while told < count:
        if o + 2 > end:
            return -1
        word = rd16(p, o)
        if not word & 0x8000:
            told += word & 0x1FFF
            if not word & 0x1FFF:
                return -1
        elif word & 0x4000:
            told += 7
        else:
            told += 14
        o += 2
    return o


def receive(t: "Transport", p: "Bytes", o: int, end: int, now: int) -> int:
    """Feedback of a subscriber, p[o:end] from the base sequence number on. 0 when it is malformed."""
    if o + 8 > end:
        return 0
    base = rd16(p, o)
    count = rd16(p, o + 2)
    reference = rd24(p, o + 4)
    if count == 0 or count > SENT:
        return 0
    q = after_chunks(p, o + 8, end, count)
    if q < 0:
        return 0
    if not t.x_clock_known:
        t.x_clock_known = 1
        t.x_clock = reference + 0x1000000
    t.x_clock += s32((reference - t.x_clock) << 8) >> 8
    arrival = t.x_clock * REFERENCE_NS
    number = t.x_next + s16(base - t.x_next)
    c = o + 8
    told = 0
    while told < count:
        word = rd16(p, c)
        c += 2
        run = word & 0x1FFF if not word & 0x8000 else (7 if word & 0x4000 else 14)
        for j in range(run):
            if told >= count:
                break
            if not word & 0x8000:
                kind = word >> 13 & 3
            elif word & 0x4000:
                kind = word >> (12 - 2 * j) & 3
            else:
                kind = word >> (13 - j) & 1
            if kind == 1:
                if q + 1 > end:
                    return 0
                arrival += p[q] * TICK_NS
                q += 1
                acknowledge(t, number, arrival, now)
            elif kind == 2:
                if q + 2 > end:
                    return 0
                arrival += s16(rd16(p, q)) * TICK_NS
                q += 2
                acknowledge(t, number, arrival, now)
            elif kind == 0:
                lose(t, number)
            else:
                return 0
            number += 1
            told += 1
    t.f_any = 1
    return 1


def is_kept(t: "Transport", number: int) -> int:
    """1 while the entry of a number has not been given to a later one. (Nothing was sent under it: state 0.)"""
    return 1 if number >= 0 and 0 < t.x_next - number <= SENT else 0


def lose(t: "Transport", number: int) -> None:
    x = departure_at(t, number)
    if is_kept(t, number) and x.state == 1:
        x.state = 2
        t.f_lost += 1


def acknowledge(t: "Transport", number: int, arrival: int, now: int) -> None:
    """A packet we sent arrived at `arrival` on the peer's clock."""
    x = departure_at(t, number)
    if not is_kept(t, number) or x.state == 0 or x.state == 3:
        return
    if x.state == 2 and t.f_lost > 0:
        t.f_lost -= 1
    x.state = 3
    t.f_bytes += x.size
    if t.f_packets == 0 or arrival < t.f_first:
        t.f_first = arrival
    if t.f_packets == 0 or arrival > t.f_last:
        t.f_last = arrival
    t.f_packets += 1
    left = unticked(x.at, now)
    if t.g_open and left < t.g_sent_first:
        return
    if t.g_open and left - t.g_sent_first > BURST_NS:
        close_group(t)
    if not t.g_open:
        t.g_open = 1
        t.g_sent_first = left
        t.g_arrived = arrival
    t.g_sent_last = left
    if arrival > t.g_arrived:
        t.g_arrived = arrival


def close_group(t: "Transport") -> None:
    """The open group is complete: what its distance from the one before tells."""
    if t.g_before:
        passed(t, t.g_sent_last - t.g_before_sent, t.g_arrived - t.g_before_arrived)
    t.g_before = 1
    t.g_before_sent = t.g_sent_last
    t.g_before_arrived = t.g_arrived
    t.g_open = 0
