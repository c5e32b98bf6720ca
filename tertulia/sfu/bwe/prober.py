"""Finds out whether more would fit: load beside the media for a moment, stronger in stages, stopped at the first sign
of a queue.

Decides when to probe, how many bytes are due now, and how a probe ended. What the bytes are is the caller's; they need
no acknowledgement, since it is the delay and loss of the media beside them that is judged. Waiting times after LiveKit:
3 s, half as long again after each failure; the longest wait is shorter, because such a probe costs no picture.
"""

import math
from enum import Enum

from tertulia.protocol.machine import MILLISECOND, SECOND, Nanos

FIRST_WAIT_NS = 3 * SECOND
LONGEST_WAIT_NS = 10 * SECOND
BACKOFF = 1.5
QUICK_WAIT_NS = SECOND
"""After a probe that went well: what was gained must be in use before the next step is tried."""
LEAST_BPS = 200_000
MOST_BPS = 5_000_000
STAGE_NS = 250 * MILLISECOND
STAGE_FACTOR = 1.5
FEEL_NS = 200 * MILLISECOND
"""From the last byte until feedback tells of it, besides a round trip."""
TRIAL_NS = 8 * SECOND
"""What was gained is on trial for so long: a cut in this time counts as a failed probe."""
QUEUE_NS = 40 * MILLISECOND
"""So much of a queue ends a probe."""
LOSS = 0.04
"""More loss than before the probe, by so much, ends it too."""


class Outcome(Enum):
    WON = "won"
    FAILED = "failed"


class Prober:
    """Of one path."""

    def __init__(self) -> None:
        self.wait_ns = FIRST_WAIT_NS
        self.goal_bps = 0
        """Of the running probe, besides the media."""
        self._next_at = 0
        self._started_at: Nanos | None = None
        self._sending_until = 0
        self._taken_at = 0
        self._owed_bits = 0
        self._loss_before = 0.0
        self._trial_until = 0

    @property
    def is_running(self) -> bool:
        return self._started_at is not None

    def is_due(self, now: Nanos) -> bool:
        return self._started_at is None and now >= self._next_at

    def start(self, now: Nanos, extra_bps: int, loss: float) -> None:
        self.goal_bps = min(max(extra_bps, LEAST_BPS), MOST_BPS)
        stages = 1 + math.ceil(math.log(self.goal_bps / LEAST_BPS, STAGE_FACTOR))
        self._started_at = self._taken_at = now
        self._sending_until = now + (stages + 1) * STAGE_NS  # the last stage is held twice as long
        self._owed_bits = 0
        self._loss_before = loss

    def take(self, now: Nanos) -> int | None:
        """Bytes due since the last call; None: nothing more is to be sent."""
        if self._started_at is None or self._taken_at >= self._sending_until:
            return None
        until = min(now, self._sending_until)
        stage = (self._taken_at - self._started_at) // STAGE_NS
        rate = min(int(LEAST_BPS * STAGE_FACTOR**stage), self.goal_bps)
        self._owed_bits += rate * (until - self._taken_at) // SECOND
        self._taken_at = until
        due, self._owed_bits = divmod(self._owed_bits, 8)
        return due

    def judge(self, now: Nanos, queue_ns: int, loss: float, round_trip_ns: int) -> Outcome | None:
        """With every report while it runs; an outcome ends it."""
        if self._started_at is None:
            return None
        if queue_ns > QUEUE_NS or loss > self._loss_before + LOSS:
            self._started_at = None
            self.failed(now)
            return Outcome.FAILED
        if now >= self._sending_until + FEEL_NS + round_trip_ns:
            self._started_at = None
            self.put_on_trial(now)
            return Outcome.WON
        return None

    def put_on_trial(self, now: Nanos) -> None:
        """More is sent from now on."""
        self._trial_until = now + TRIAL_NS
        self._next_at = now + QUICK_WAIT_NS

    def failed(self, now: Nanos) -> None:
        """It was too much: wait longer."""
        self._next_at = now + self.wait_ns
        self.wait_ns = min(int(self.wait_ns * BACKOFF), LONGEST_WAIT_NS)
        self._trial_until = 0

    def was_cut(self, now: Nanos) -> None:
        """The estimate was cut: on trial, the last probe lied; else the path changed, and the waiting begins anew."""
        self._started_at = None
        if now < self._trial_until:
            self.failed(now)
        else:
            self.wait_ns = FIRST_WAIT_NS
            self._next_at = now + self.wait_ns

    def review(self, now: Nanos) -> None:
        """What was gained held: the waiting begins anew."""
        if self._trial_until and now >= self._trial_until:
            self._trial_until = 0
            self.wait_ns = FIRST_WAIT_NS
