"""The arithmetic of the plane's bench."""

from dataclasses import replace

import pytest

from benchmarks import plane
from benchmarks.plane import Costs

RUN = Costs(bare=0.8, bare_gso=0.2, sealed=0.1, ordinary=5.0, copy=1.0, segmented=0.5, gso=0.5)


def test_the_lowest_ratio_is_that_of_kernel_and_cipher_alone() -> None:
    assert RUN.lowest_gso == pytest.approx(0.3 / 0.9)


def test_ratios_are_taken_in_each_process_and_their_median_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plane, "feedback_ns", lambda: 9.0)
    runs = [RUN, replace(RUN, bare=1.6, copy=2.4, gso=0.4), replace(RUN, bare=0.2, gso=0.9)]
    copy, gso, lowest, *_ = plane.budgets(runs, 100)
    assert copy.measured == pytest.approx(1.5)  # of 1.25, 1.5, 5; not of the medians
    assert gso.measured == 0.5
    assert lowest.measured == pytest.approx(0.5 * 0.9 / 0.3)
    assert dict(plane.rows_of(runs, 3.0, 0.4))["copy, one packet per wake-up"] == 3.0


def test_of_the_interpreted_life_only_what_can_be_said_of_it() -> None:
    lines = plane.budgets([replace(RUN, sealed=0.0)], 10)
    assert len(lines) == 4
    assert not any("ADR 24" in line.what for line in lines)
