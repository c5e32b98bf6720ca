"""Is a queue growing on the way down? From the distances between packet groups, at our end and at the peer's.

The delay part of Google congestion control (draft-ietf-rmcat-gcc-02 5.1-5.4: trend of the one-way delay, adaptive
threshold), held against the standing queue as CoDel understands it (RFC 8289 3: the minimum over a window): nothing
here paces, so a key frame alone raises the trend, but it leaves no queue behind. It runs where feedback is read,
because there are about a hundred groups per second and subscriber; the estimator hears the outcome.
"""

try:
    import cython  # type: ignore[import-untyped]
except ImportError:
    from tertulia.sfu.plane import uncompiled as cython

if not cython.compiled:
    from tertulia.sfu.plane.rows import Transport
    from tertulia.sfu.plane.words import BASES, PAST_GROUPS, U_NORMAL, U_OVER, U_UNDER

MILLISECOND = 1_000_000
POINTS = 20
SMOOTHING = 0.9
GAIN = 4.0
MOST_DELTAS = 60
FIRST_THRESHOLD_MS = 12.5
THRESHOLD_UP = 0.0087
THRESHOLD_DOWN = 0.039
LEAST_THRESHOLD_MS = 6.0
MOST_THRESHOLD_MS = 600.0
OUTLIER_MS = 15.0
"""A trend this far above the threshold is a spike the threshold does not follow."""
LONGEST_MS = 100.0
OVERUSE_NS = 10_000_000
STANDING_NS = 300_000_000
"""What is still queued after this long is no burst."""
RECENT_NS = 80_000_000
BASE_NS = 500_000_000
"""The emptiest moment of BASES times this long counts as no queue."""
NEVER = 0x7FFFFFFFFFFFFFFF
GROWING_QUEUE_NS = 25_000_000
"""With a rising trend this much of a standing queue is overuse."""
FULL_QUEUE_NS = 100_000_000
"""This much is overuse even when it grows no more."""
SOME_QUEUE_NS = 10_000_000
"""The estimator wants to look closely from here on, before it is overuse."""
SOME_LOSS = 20
"""Likewise when one packet of so many is lost, of at least so many."""


def passed(t: "Transport", send_delta: int, arrival_delta: int) -> None:
    """One group more: its distance from the one before, here and there."""
    if t.d_n == 0:
        t.d_threshold_ms = FIRST_THRESHOLD_MS
        for i in range(BASES):
            t.d_base[i] = NEVER
    t.d_sent += send_delta
    t.d_arrived += arrival_delta
    variation = t.d_arrived - t.d_sent
    remember(t, variation)
    k = t.d_n & (PAST_GROUPS - 1)
    t.d_smoothed_ms = SMOOTHING * t.d_smoothed_ms + (1 - SMOOTHING) * (variation / MILLISECOND)
    t.d_at[k] = t.d_sent
    t.d_variation[k] = variation
    t.d_point[k] = t.d_smoothed_ms
    t.d_n += 1
    t.d_trend_ms = slope(t) * min(t.d_n, MOST_DELTAS) * GAIN
    if t.d_trend_ms > t.d_threshold_ms:
        t.d_over_ns += max(send_delta, 0)
    else:
        t.d_over_ns = 0
    adapt(t, send_delta / MILLISECOND)


def remember(t: "Transport", variation: int) -> None:
    """The emptiest moments, one for each BASE_NS."""
    slot = max(t.d_sent // BASE_NS, t.d_slot)
    if slot - t.d_slot > BASES:
        t.d_slot = slot - BASES
    while t.d_slot < slot:
        t.d_slot += 1
        t.d_base[t.d_slot % BASES] = NEVER
    if variation < t.d_base[slot % BASES]:
        t.d_base[slot % BASES] = variation


def slope(t: "Transport") -> float:
    """Least squares over the last points; 0 until there are enough."""
    if t.d_n < POINTS:
        return 0.0
    begin = t.d_n - POINTS
    first = t.d_at[begin & (PAST_GROUPS - 1)]
    mean_x = 0.0
    mean_y = 0.0
    for i in range(POINTS):
        k = (begin + i) & (PAST_GROUPS - 1)
        mean_x += (t.d_at[k] - first + t.d_variation[k]) / MILLISECOND
        mean_y += t.d_point[k]
    mean_x /= POINTS
    mean_y /= POINTS
    over = 0.0
    under = 0.0
    for i in range(POINTS):
        k = (begin + i) & (PAST_GROUPS - 1)
        x = (t.d_at[k] - first + t.d_variation[k]) / MILLISECOND - mean_x
        over += x * (t.d_point[k] - mean_y)
        under += x * x
    return over / under if under > 0 else 0.0


def adapt(t: "Transport", elapsed_ms: float) -> None:
    """The threshold follows the trend's size, slower up than down; of spikes it takes no notice."""
    distance = abs(t.d_trend_ms) - t.d_threshold_ms
    if distance > OUTLIER_MS:
        return
    speed = THRESHOLD_UP if distance > 0 else THRESHOLD_DOWN
    moved = t.d_threshold_ms + speed * distance * min(max(elapsed_ms, 0.0), LONGEST_MS)
    t.d_threshold_ms = min(max(moved, LEAST_THRESHOLD_MS), MOST_THRESHOLD_MS)


def queued(t: "Transport", window_ns: int) -> int:
    """Delay above the emptiest moment that stayed for this long."""
    if t.d_n == 0:
        return 0
    base = t.d_base[0]
    for i in range(1, BASES):
        base = min(base, t.d_base[i])
    oldest = t.d_at[(t.d_n - 1) & (PAST_GROUPS - 1)] - window_ns
    least = NEVER
    for i in range(min(t.d_n, PAST_GROUPS)):
        k = (t.d_n - 1 - i) & (PAST_GROUPS - 1)
        if t.d_at[k] < oldest:
            break
        least = min(least, t.d_variation[k])
    return least - base


def usage(t: "Transport") -> int:
    """Too much, falling, or neither."""
    standing = queued(t, STANDING_NS)
    if standing > FULL_QUEUE_NS and t.d_trend_ms > -t.d_threshold_ms:
        return U_OVER
    if t.d_over_ns > OVERUSE_NS and standing > GROWING_QUEUE_NS:
        return U_OVER
    return U_UNDER if t.d_trend_ms < -t.d_threshold_ms else U_NORMAL


def is_pressing(t: "Transport") -> int:
    """Not all is well, or will not be soon: the estimator shall hear without delay."""
    total = t.f_packets + t.f_lost
    if total >= SOME_LOSS and t.f_lost * SOME_LOSS > total:
        return 1
    if t.d_over_ns > 0 and queued(t, RECENT_NS) > SOME_QUEUE_NS:
        return 1
    return 1 if queued(t, STANDING_NS) > SOME_QUEUE_NS else 0
