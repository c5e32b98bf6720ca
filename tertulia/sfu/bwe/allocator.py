"""Divides what a path carries among the video tracks of one receiver. A pure function of demands and budget.

LiveKit's order: every track its lowest layer first, then layer by layer, higher priorities before lower ones, a screen
before cameras. Audio is never divided: it comes off the budget beforehand. A layer that is shown already is kept a
little longer than a new one would be given, so that nothing flaps around a threshold.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

PAUSED = -1
SCREEN_PRIORITY = 255
CAMERA_PRIORITY = 1
KEEP_PERCENT = 95
"""A shown layer costs this part of its rate: the budget must fall below 0.95 x the use before it goes."""
RAISE_PERCENT = 110
"""A new one must fit with this much to spare."""


@dataclass(frozen=True, slots=True)
class Demand:
    """One video track somebody wants to receive."""

    key: str
    layers: tuple[tuple[int, int], ...]
    """(layer, bits per second) of what could be shown, rising up to the wanted layer; never empty."""
    shown: int
    """The layer it has now; PAUSED for none yet."""
    priority: int = CAMERA_PRIORITY
    pausable: bool = True


class Reason(Enum):
    """Why a track has the layer it has; what an operator reads."""

    WANTED = "wanted"
    """All that was asked for."""
    BUDGET = "budget"
    """The next layer does not fit."""
    LEAST = "least"
    """Not even the lowest layer fits, and it may not be paused."""
    PAUSED = "paused"


@dataclass(frozen=True, slots=True)
class Share:
    """What one track gets."""

    layer: int
    bps: int
    reason: Reason


@dataclass(frozen=True, slots=True)
class Division:
    """Who gets what, and what the next step up would cost."""

    shares: dict[str, Share]
    used_bps: int
    next_step_bps: int
    """More than `used_bps` that the first layer left out needs, margin included; 0: everything wanted is given."""

    @property
    def is_deficient(self) -> bool:
        return self.next_step_bps > 0


def divide(demands: Sequence[Demand], budget_bps: int, *, allow_pause: bool) -> Division:
    """`budget_bps` is for video alone."""
    order = sorted(demands, key=lambda demand: -demand.priority)
    given: dict[str, int] = {}
    """Index into the layers, -1: paused."""
    left = budget_bps
    first_left_out = 0
    for demand in order:
        lowest_bps = demand.layers[0][1]
        if allow_pause and demand.pausable and _part(lowest_bps, is_new=demand.shown == PAUSED) > left:
            given[demand.key] = PAUSED
            first_left_out = first_left_out or _part(lowest_bps, is_new=True)
            continue
        given[demand.key] = 0
        left -= _cost(demand, 0)
    for priority in dict.fromkeys(demand.priority for demand in order):
        same = [demand for demand in order if demand.priority == priority]
        left, step = _raise(same, given, left)
        first_left_out = first_left_out or step
    shares = {demand.key: _share(demand, given[demand.key], left) for demand in demands}
    return Division(shares, sum(share.bps for share in shares.values()), first_left_out)


def _raise(demands: Sequence[Demand], given: dict[str, int], left: int) -> tuple[int, int]:
    """Layer by layer in turns. What is left, and the first step that did not fit (0: none)."""
    left_out = 0
    rising = True
    while rising:
        rising = False
        for demand in demands:
            index = given[demand.key]
            if index == PAUSED or index + 1 >= len(demand.layers):
                continue
            step = _cost(demand, index + 1) - _cost(demand, index)
            if step <= left:
                given[demand.key] = index + 1
                left -= step
                rising = True
    for demand in demands:
        index = given[demand.key]
        if index != PAUSED and index + 1 < len(demand.layers):
            step_bps = max(_part(demand.layers[index + 1][1], is_new=True) - demand.layers[index][1], 1)
            left_out = min(left_out, step_bps) if left_out else step_bps
    return left, left_out


def _cost(demand: Demand, index: int) -> int:
    layer, bps = demand.layers[index]
    return _part(bps, is_new=index > 0 and layer > demand.shown)


def _part(bps: int, *, is_new: bool) -> int:
    return bps * (RAISE_PERCENT if is_new else KEEP_PERCENT) // 100


def _share(demand: Demand, index: int, left: int) -> Share:
    if index == PAUSED:
        return Share(PAUSED, 0, Reason.PAUSED)
    layer, bps = demand.layers[index]
    if index + 1 == len(demand.layers):
        return Share(layer, bps, Reason.WANTED)
    return Share(layer, bps, Reason.LEAST if index == 0 and left < 0 else Reason.BUDGET)
