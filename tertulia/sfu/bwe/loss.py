"""The bound that loss sets, for paths that drop instead of queueing (draft-ietf-rmcat-gcc-02 6).

Below a tenth nothing is bounded: radio links lose that much without being full.
"""

from tertulia.protocol.machine import SECOND, Nanos

MUCH = 0.10
FULL = 0.2
"""Beyond this nothing is gained by going down in steps: what arrived is what the path carries."""
AGAIN = 0.75
"""When that was too much still: half of what arrives may be repetitions of what was lost, which keep the path full."""
BETWEEN_NS = SECOND
"""A bound is followed by a whole window before the next one."""


class LossBound:
    """One path."""

    def __init__(self) -> None:
        self._quiet_until = 0
        self._fully = 0
        """Bounds in a row beyond FULL."""

    def judge(self, now: Nanos, loss: float, acknowledged_bps: int) -> int | None:
        """The rate that should remain; None: loss does not bound it now."""
        if loss <= MUCH:
            self._fully = 0
        if loss <= MUCH or now < self._quiet_until or not acknowledged_bps:
            return None
        self._quiet_until = now + BETWEEN_NS
        if loss > FULL:
            self._fully += 1
            return int(acknowledged_bps * AGAIN ** (self._fully - 1))
        self._fully = 0
        return int(acknowledged_bps / (1 - loss) * (1 - 0.5 * loss))
