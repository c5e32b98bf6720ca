"""One direction of a simulated path: delay, jitter, loss, a rate with a finite queue; all chance from a seed."""

from dataclasses import dataclass
from random import Random

from tertulia.protocol.machine import MILLISECOND, SECOND, Nanos


@dataclass
class Link:
    """`arrival` says when a packet comes out, or None when it is lost."""

    rng: Random
    delay_ns: int = 20 * MILLISECOND
    jitter_ns: int = 0
    loss: float = 0.0
    rate_bps: int = 0
    """0: unlimited."""
    queue_ns: int = 300 * MILLISECOND
    """A packet that would wait longer than this is dropped."""
    free_at: int = 0
    sent: int = 0
    lost: int = 0

    def arrival(self, now: Nanos, size_bytes: int) -> Nanos | None:
        self.sent += 1
        if self.rng.random() < self.loss:
            self.lost += 1
            return None
        leaves = now
        if self.rate_bps:
            start = max(self.free_at, now)
            if start - now > self.queue_ns:
                self.lost += 1
                return None
            self.free_at = start + size_bytes * 8 * SECOND // self.rate_bps
            leaves = Nanos(self.free_at)
        return Nanos(leaves + self.delay_ns + (self.rng.randrange(self.jitter_ns) if self.jitter_ns else 0))
