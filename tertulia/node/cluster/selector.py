"""Which node comes first: LiveKit's `node_selector` as a pure function of records, words of the operator and dice.

`kind` says who is set back (too busy, too far away), `sort_by` and `algorithm` the order of the others. Nobody is left
out: whoever needs a node goes down the list, so a limit means "later", as in the reference, where a cluster that is
busy everywhere still serves. Distances are great circles between the regions' coordinates, in metres.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Literal

from tertulia.node.cluster.api import NodeRecord

Kind = Literal["any", "cpuload", "sysload", "regionaware", "random"]
SortBy = Literal["random", "sysload", "cpuload", "rooms", "clients", "tracks", "bytespersec"]
Algorithm = Literal["lowest", "twochoice"]

EARTH_RADIUS_M = 6_371_009
"""Mean radius (IUGG)."""
UNKNOWN_M = round(math.pi * EARTH_RADIUS_M)
"""Farther than any place on Earth: a region without coordinates comes last."""

FIGURES: Mapping[SortBy, Callable[[NodeRecord], float]] = {
    # Tenths: what lies below is the noise of measuring, and a tie may keep a job where it was asked for.
    "sysload": lambda record: round(record.sys_load, 1),
    "cpuload": lambda record: round(record.cpu_load, 1),
    "rooms": lambda record: record.rooms,
    "clients": lambda record: record.participants,
    "tracks": lambda record: record.tracks,
    "bytespersec": lambda record: record.bytes_per_s,
}


@dataclass(frozen=True, slots=True)
class Selector:
    """The operator's words; `places` are regions with their latitude and longitude in degrees."""

    kind: Kind = "any"
    sort_by: SortBy = "cpuload"
    algorithm: Algorithm = "lowest"
    cpu_load_limit: float = 0.9
    sysload_limit: float = 0.9
    places: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def distance_m(self, one: str, other: str) -> int:
        """From region to region; UNKNOWN_M when one of them has no coordinates."""
        if one == other:
            return 0
        if one not in self.places or other not in self.places:
            return UNKNOWN_M
        (lat, lon), (other_lat, other_lon) = self.places[one], self.places[other]
        a, b, turned = math.radians(lat), math.radians(other_lat), math.radians(other_lon - lon)
        half_chord = math.sin((b - a) / 2) ** 2 + math.cos(a) * math.cos(b) * math.sin(turned / 2) ** 2
        return round(2 * EARTH_RADIUS_M * math.asin(math.sqrt(min(1.0, half_chord))))

    def is_busy(self, record: NodeRecord) -> bool:
        """Has this node reached the limit that `kind` looks at?"""
        if self.kind == "cpuload":
            return record.cpu_load >= self.cpu_load_limit
        return self.kind in ("sysload", "regionaware") and record.sys_load >= self.sysload_limit

    def ranked(
        self,
        records: Sequence[NodeRecord],
        here: NodeRecord,
        rng: Random,
        prefer: Callable[[NodeRecord], int] = lambda record: 0,
    ) -> list[NodeRecord]:
        """All that are not leaving, the best first, seen from node `here`.

        Idle before busy, then near before far (`regionaware`), then the lowest `prefer`, then by figure or chance; of
        nodes alike in all that, `here` first.
        """
        groups: dict[tuple[bool, int, int], list[NodeRecord]] = {}
        for record in records:
            if not record.draining:
                far_m = self.distance_m(here.region, record.region) if self.kind == "regionaware" else 0
                groups.setdefault((self.is_busy(record), far_m, prefer(record)), []).append(record)
        return [record for key in sorted(groups) for record in self._ordered(groups[key], here, rng)]

    def _ordered(self, group: list[NodeRecord], here: NodeRecord, rng: Random) -> list[NodeRecord]:
        left = list(group)
        rng.shuffle(left)
        if self.kind == "random" or self.sort_by == "random":
            return left
        figure = FIGURES[self.sort_by]
        if self.algorithm == "lowest":
            return sorted(left, key=lambda record: (figure(record), record.id != here.id))
        chosen = []
        while left:
            # Two at random, the lower of them: a herd of nodes with the same stale figures does not run to one.
            best = min(left[-2:], key=figure)
            left.remove(best)
            chosen.append(best)
            rng.shuffle(left)
        return chosen
