"""The arithmetic of the plane's bench."""

import pytest

from benchmarks.plane import Costs


def test_the_lowest_ratio_is_that_of_kernel_and_cipher_alone() -> None:
    found = Costs(bare=0.8, bare_gso=0.2, sealed=0.1, ordinary=5.0, copy=1.0, segmented=0.5, gso=0.5)
    assert found.lowest_gso == pytest.approx(0.3 / 0.9)
