"""What one path carries: unknown (and then unlimited) until there is feedback, cut at once when it is too much.

Rate control after draft-ietf-rmcat-gcc-02 5.5, with one difference: an SFU sends what publishers send, mostly far less
than the path could carry, so the estimate does not grow with time. It grows by what was proven: rates that arrived
without a queue, and probes. A peer that tells only its own estimate (REMB) is believed.
"""

from enum import Enum

from tertulia.protocol.machine import MILLISECOND, SECOND, Nanos
from tertulia.sfu.bwe.feedback import Arrivals
from tertulia.sfu.bwe.loss import MUCH, LossBound
from tertulia.sfu.plane.api import Feedback, Usage

UNLIMITED_BPS = 100_000_000
"""LiveKit's value for a path nothing is known of."""
START_BPS = 1_500_000
LEAST_BPS = 30_000
DECREASE = 0.85
GROWTH = 2.0
"""Per step while nothing was ever too much."""
STEP_NS = 500 * MILLISECOND
CALM_NS = SECOND
"""After a cut nothing counts as proven for so long: what arrives now may have waited in the queue."""
REMB_MARGIN = 0.95
REMB_PATIENCE_NS = 3 * SECOND
"""A peer's estimate follows what it receives: below the use it may still be on its way up, unless it falls."""
EXCUSED_NS = 300 * MILLISECOND
"""How long a cut takes to be felt, besides a round trip."""


class Phase(Enum):
    """How much is known of the path."""

    UNKNOWN = "unknown"
    """No feedback, or none is due: unlimited."""
    STARTING = "starting"
    """Feedback is due: from START_BPS upwards in steps as long as all goes well."""
    OPEN = "open"
    """Everything that was asked for fits; nothing was ever too much."""
    LIMITED = "limited"
    """Something was too much once; only what is proven goes up."""


class Cause(Enum):
    """Why the estimate was cut."""

    DELAY = "delay"
    LOSS = "loss"
    REMB = "remb"


class Estimate:
    """Of one path, from its feedback."""

    def __init__(self) -> None:
        self.phase = Phase.UNKNOWN
        self.bps = UNLIMITED_BPS
        self.usage = Usage.NORMAL
        self.standing_ns = self.recent_ns = 0
        """A queue that stays, as the plane sees it (`plane.delay`)."""
        self.arrivals = Arrivals()
        self.round_trip_ns = 0
        self.remb_bps = 0
        self.has_acknowledgements = False
        """Transport-cc; then REMB is not looked at."""
        self.cause: Cause | None = None
        """Of the last cut."""
        self._loss = LossBound()
        self._cut_at = 0
        self._step_at = 0
        self._short_since: Nanos | None = None
        """The peer's estimate is below the use."""

    def start(self, now: Nanos) -> None:
        """Feedback is due from this peer and video begins: go up from a rate most paths carry."""
        if self.phase is Phase.UNKNOWN:
            self.phase, self.bps = Phase.STARTING, START_BPS
            self._step_at = now + STEP_NS

    def open(self) -> None:
        """Nothing speaks against sending everything."""
        self.phase, self.bps = Phase.OPEN, UNLIMITED_BPS

    def feed(self, report: Feedback, expected_bps: int) -> Cause | None:
        """One report; why the estimate was cut, None when it was not."""
        before = self.remb_bps
        self.observe(report)
        if report.acknowledged_packets or report.lost_packets:
            return self._judge(report.now)
        if report.remb_bps and not self.has_acknowledgements:
            return self._believe(report.now, expected_bps, is_falling=report.remb_bps < before)
        return None

    def observe(self, report: Feedback) -> None:
        """Take note without a judgement."""
        self.round_trip_ns = report.round_trip_ns or self.round_trip_ns
        self.remb_bps = report.remb_bps
        if report.acknowledged_packets or report.lost_packets:
            self.has_acknowledgements = True
            self.arrivals.add(report)
            self.usage = report.usage
            self.standing_ns, self.recent_ns = report.standing_ns, report.recent_ns

    def settles(self, now: Nanos) -> bool:
        """The last cut is not felt yet."""
        return now < self._cut_at + self.round_trip_ns + EXCUSED_NS

    def is_calm(self, now: Nanos) -> bool:
        """Nothing was too much lately."""
        return self.usage is not Usage.OVER and now - self._cut_at > CALM_NS

    def grow(self, now: Nanos) -> None:
        """A step up while starting; to be called while more is wanted than the estimate allows."""
        if self.phase is Phase.STARTING and now >= self._step_at and self.usage is Usage.NORMAL:
            self._step_at = now + STEP_NS
            self.bps = int(self.bps * GROWTH)
            if self.bps >= UNLIMITED_BPS:
                self.open()

    def prove(self, bps: int) -> None:
        """So much went through."""
        if self.phase is Phase.LIMITED:
            self.bps = max(self.bps, bps)

    def cap(self, bps: int) -> None:
        """A test wants the path to look no wider."""
        if bps < self.bps:
            self.phase, self.bps = Phase.LIMITED, bps

    def _judge(self, now: Nanos) -> Cause | None:
        rate, loss = self.arrivals.bps(), self.arrivals.loss()
        bound = self._loss.judge(now, loss, rate)
        if self.usage is Usage.OVER and rate and not self.settles(now):
            return self._cut(now, int(DECREASE * rate), Cause.DELAY)
        if bound is not None and bound < self.bps:
            return self._cut(now, bound, Cause.LOSS)
        if loss <= MUCH and self.is_calm(now):
            self.prove(rate)
        return None

    def _believe(self, now: Nanos, expected_bps: int, *, is_falling: bool) -> Cause | None:
        """Only an estimate of the peer's that falls or stays below the use says that it is too much."""
        if self.remb_bps < REMB_MARGIN * expected_bps:
            self._short_since = self._short_since or now
            if is_falling or now - self._short_since >= REMB_PATIENCE_NS:
                self._short_since = None
                return self._cut(now, self.remb_bps, Cause.REMB)
            return None
        self._short_since = None
        if self.is_calm(now):
            self.prove(self.remb_bps)
        return None

    def _cut(self, now: Nanos, bps: int, cause: Cause) -> Cause:
        self._cut_at = now
        self.phase, self.cause = Phase.LIMITED, cause
        self.bps = max(min(bps, self.bps), LEAST_BPS)
        return cause
