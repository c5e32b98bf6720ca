"""How much CPU jobs are promised: an estimate per job, and a clear refusal when it does not fit.

Decides admission only. The figures are cores (CPU seconds per media second) measured by `benchmarks/egress.py`, rounded
up; the first job may always start, as with LiveKit's egress: a small machine records one room.
"""

from dataclasses import dataclass

from tertulia.egress.plan import MixSource, OneTrackSource, PairSource, PersonSource, Plan
from tertulia.egress.targets import WebSocketTarget
from tertulia.protocol.errors import RequestError

HD_RATE = 1280 * 720 * 30
ENCODE_HD = {"ultrafast": 0.14, "superfast": 0.20, "veryfast": 0.34, "faster": 0.50, "fast": 0.70, "medium": 1.20}
"""x264 on one 720p30 picture."""
COMPOSE_HD = 0.10
"""Decoding and painting tiles that fill 720p30 once."""
MIX = 0.05
PASS = 0.01
PCM = 0.02


def cost(plan: Plan, preset: str) -> float:
    """Cores this job is expected to need."""
    if isinstance(plan.source, OneTrackSource):
        return PCM if isinstance(plan.targets[0], WebSocketTarget) else PASS
    total = MIX if plan.audio is not None else 0.0
    if plan.video is not None:
        size = plan.video.width * plan.video.height * plan.video.frame_rate / HD_RATE
        alone = isinstance(plan.source, PersonSource | PairSource | MixSource)
        total += size * (ENCODE_HD.get(preset, ENCODE_HD["veryfast"]) + COMPOSE_HD * (0.6 if alone else 1.0))
    return total


@dataclass(slots=True)
class Budget:
    """What is promised to the jobs that run."""

    cores: float
    share: float
    jobs_limit: int
    preset: str = "superfast"
    promised: float = 0.0
    jobs: int = 0
    refused: int = 0

    @property
    def free(self) -> float:
        return max(0.0, self.cores * self.share - self.promised)

    def take(self, plan: Plan) -> float:
        """The cores promised from now on, to be given back. Raises RequestError(resource_exhausted)."""
        needed = cost(plan, self.preset)
        if self.jobs >= self.jobs_limit:
            self.refused += 1
            raise RequestError(
                "resource_exhausted", f"{self.jobs} egresses are running, the limit is {self.jobs_limit}"
            )
        if self.jobs and needed > self.free:
            self.refused += 1
            raise RequestError(
                "resource_exhausted",
                f"not enough CPU for this egress: it needs {needed:.2f} cores, {self.free:.2f} of "
                f"{self.cores * self.share:.2f} are free",
            )
        self.jobs += 1
        self.promised += needed
        return needed

    def give_back(self, cores: float) -> None:
        self.jobs -= 1
        self.promised = max(0.0, self.promised - cores)
