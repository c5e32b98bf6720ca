"""How much of something a peer may cause: a token bucket on given time."""

from tertulia.protocol.machine import Nanos


class Bucket:
    """A token bucket in integer nanoseconds: `burst` at once, then one per `interval_ns`."""

    __slots__ = ("_full_at", "_interval_ns", "_span_ns")

    def __init__(self, burst: int, interval_ns: int) -> None:
        self._interval_ns = interval_ns
        self._span_ns = burst * interval_ns
        self._full_at = 0

    def empty(self, now: Nanos) -> bool:
        return self._full_at - now > self._span_ns - self._interval_ns

    def take(self, now: Nanos, amount: int = 1) -> bool:
        """False, and nothing taken, when there is not enough."""
        full_at = max(self._full_at, now) + amount * self._interval_ns
        if full_at - now > self._span_ns:
            return False
        self._full_at = full_at
        return True
