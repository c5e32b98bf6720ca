"""The way down to one peer: estimate, probes and division in one; the peer is a client or another node.

Reports and demands go in, shares and probe bytes come out. It knows neither rooms nor the plane, and keeps the reason
of its last decision for operators.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from tertulia.protocol.ids import TransportId
from tertulia.protocol.machine import MILLISECOND, SECOND, Nanos
from tertulia.sfu.bwe.allocator import Demand, Division, divide
from tertulia.sfu.bwe.estimate import STEP_NS, Estimate, Phase
from tertulia.sfu.bwe.prober import Outcome, Prober
from tertulia.sfu.plane.api import Feedback

NO_DIVISION = Division({}, 0, 0)
SILENT_NS = 3 * SECOND
"""A peer that should give feedback and gives none for so long is not managed."""
CONTENT_NS = 3 * SECOND
"""While starting: everything wanted was given, and went well for so long."""
CLOSE_NS, STEADY_NS, CALM_NS = 50 * MILLISECOND, 250 * MILLISECOND, 4 * SECOND
"""How often reports are wanted once something was too much (when a layer is left out or probed for, and else), and
when nothing ever was. When a queue grows or packets are lost they come at once all the same."""
DIVIDE_NS = 200 * MILLISECOND
"""Rates of layers change slowly: while the estimate stays where it is, one division in so long is enough."""
FULL_NS = SECOND
"""A queue that outlives a failed probe by this was not the probe's."""


class Snapshot(NamedTuple):
    """One line for operators: what is known of a path, and why it has what it has."""

    phase: str
    estimate_bps: int
    acknowledged_bps: int
    loss: float
    queue_ms: int
    round_trip_ms: int
    remb_bps: int
    video_bps: int
    other_bps: int
    next_step_bps: int
    last_cut: str
    shares: dict[str, tuple[int, str]]
    """Track -> layer, reason."""


class Channel:
    """Of one transport."""

    def __init__(self, *, allow_pause: bool = False) -> None:
        self.allow_pause = allow_pause
        self.estimate = Estimate()
        self.prober = Prober()
        self.division = NO_DIVISION
        self._divided_at, self._divided_bps = Nanos(0), 0
        self.counters: Counter[str] = Counter()
        """What happened here: cuts by cause, probes by outcome."""
        self._news: Counter[str] = Counter()
        self.other_bps = 0
        """What flows besides video: it is never divided."""
        self._attention = TransportId(0), 0
        self._content_since: Nanos | None = None
        self._began_at: Nanos | None = None
        self._probe_ended_at = 0

    @property
    def is_managed(self) -> bool:
        """Something may have to be left out."""
        return self.estimate.phase in (Phase.STARTING, Phase.LIMITED)

    def attention(self, transport: TransportId) -> int | None:
        """How often the plane shall report of this peer; None: as it knows."""
        every_ns = CALM_NS
        if self.estimate.phase is Phase.STARTING:
            every_ns = STEP_NS
        elif self.is_managed:
            every_ns = CLOSE_NS if self.prober.is_running or self.division.is_deficient else STEADY_NS
        if (transport, every_ns) == self._attention:
            return None
        self._attention = transport, every_ns
        return every_ns

    def begin(self, now: Nanos) -> None:
        """The first video flows to a peer that agreed to give feedback."""
        self._began_at = now
        self.estimate.start(now)

    def feed(self, report: Feedback, use_bps: int = 0) -> bool:
        """One report of the plane; `use_bps` is sent now, and only REMB is held against it.

        True: the estimate was cut, divide again at once.
        """
        now = report.now
        estimate = self.estimate
        self.prober.review(now)
        if self._is_probing(now, report):
            return False
        cause = estimate.feed(report, use_bps)
        if cause is None:
            return False
        self._content_since = None
        self._count(f"cut_{cause.value}")
        self.prober.was_cut(now)
        return True

    def cap(self, bps: int) -> None:
        self.estimate.cap(bps)

    def is_division_due(self, now: Nanos) -> bool:
        """The estimate moved, or enough time passed for rates and probes to have."""
        return self.estimate.bps != self._divided_bps or now - self._divided_at >= DIVIDE_NS

    def divide(self, now: Nanos, demands: Sequence[Demand]) -> Division:
        """Who gets what now."""
        estimate = self.estimate
        self._divided_at, self._divided_bps = now, estimate.bps
        budget = max(estimate.bps - self.other_bps, 0)
        self.division = divide(demands, budget, allow_pause=self.allow_pause)
        if estimate.phase is Phase.STARTING:
            self._go_on_starting(now)
        elif estimate.phase is Phase.LIMITED and self.division.is_deficient:
            self._consider_probe(now)
        return self.division

    def news(self) -> Counter[str]:
        """What happened since the last call."""
        if not self._news:
            return self._news
        news, self._news = self._news, Counter()
        return news

    def _count(self, name: str) -> None:
        self.counters[name] += 1
        self._news[name] += 1

    def reset(self) -> None:
        """Nothing flows, so nothing can be learned: as if it were new."""
        self.estimate, self.prober = Estimate(), Prober()
        self._content_since = None

    def snapshot(self) -> Snapshot:
        estimate = self.estimate
        return Snapshot(
            phase=estimate.phase.value,
            estimate_bps=estimate.bps,
            acknowledged_bps=estimate.arrivals.bps() or estimate.arrivals.last_bps(),
            loss=round(estimate.arrivals.loss(), 3),
            queue_ms=estimate.standing_ns // MILLISECOND,
            round_trip_ms=estimate.round_trip_ns // MILLISECOND,
            remb_bps=estimate.remb_bps,
            video_bps=self.division.used_bps,
            other_bps=self.other_bps,
            next_step_bps=self.division.next_step_bps,
            last_cut=estimate.cause.value if estimate.cause is not None else "",
            shares={key: (share.layer, share.reason.value) for key, share in self.division.shares.items()},
        )

    # ------------------------------------------------------------------------------------------ starting

    def _go_on_starting(self, now: Nanos) -> None:
        estimate = self.estimate
        is_silent = not estimate.has_acknowledgements
        if is_silent:
            if self._began_at is not None and now - self._began_at > SILENT_NS:
                self._count("silent")
                estimate.open()
        elif self.division.is_deficient:
            self._content_since = None
            estimate.grow(now)
        elif self._content_since is None:
            self._content_since = now
        elif now - self._content_since > CONTENT_NS:
            estimate.open()

    # ------------------------------------------------------------------------------------------ probing

    def _is_probing(self, now: Nanos, report: Feedback) -> bool:
        """While a probe runs, what the path suffers is the probe's doing and no reason for a cut."""
        prober, estimate = self.prober, self.estimate
        if not prober.is_running:
            if now - self._probe_ended_at >= FULL_NS:
                return False
            estimate.observe(report)
            return True
        estimate.observe(report)
        outcome = prober.judge(now, estimate.recent_ns, estimate.arrivals.loss(), estimate.round_trip_ns)
        if outcome is not None:
            self._count(f"probe_{outcome.value}")
            if outcome is Outcome.WON:
                estimate.prove(estimate.arrivals.bps() + prober.goal_bps)
            else:
                self._probe_ended_at = now
        return True

    def _consider_probe(self, now: Nanos) -> None:
        """Only a calm path is probed. A peer that tells REMB sees media alone: there the next layer is the probe."""
        estimate = self.estimate
        if not estimate.is_calm(now) or not self.prober.is_due(now):
            return
        wanted = (self.division.used_bps + self.other_bps + self.division.next_step_bps) * 21 // 20
        if not estimate.has_acknowledgements:
            self._count("trial_started")
            estimate.prove(wanted)
            self.prober.put_on_trial(now)
        elif acknowledged := estimate.arrivals.bps():
            self._count("probe_started")
            self.prober.start(now, wanted - acknowledged, estimate.arrivals.loss())
