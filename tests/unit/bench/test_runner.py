"""How a run ends: with the last size, with what gave in, or with what went wrong."""

from pathlib import Path
from typing import cast

import pytest

from benchmarks.load.fleet import Overwhelmed
from benchmarks.load.plan import Plan
from benchmarks.load.scenarios import Row, Runner, Watcher


class Overrun(Runner):
    """Its generator serves members up to a size."""

    def __init__(self, most: int) -> None:
        super().__init__(Plan("livestream", (10, 20)), [], 1, cast("Watcher", None))
        self._most = most

    async def _step(self, before: int, size: int) -> list[Row]:
        if size > self._most:
            raise Overwhelmed("a worker did not finish `join` within 87 s")
        return []


@pytest.mark.parametrize(("most", "saturation", "problems"), [(10, "size 20", 0), (5, "", 1), (20, "", 0)])
async def test_a_generator_that_is_overwhelmed_names_the_size(most: int, saturation: str, problems: int) -> None:
    result = await Overrun(most).run(Path())
    assert result.saturation.startswith(saturation)
    assert bool(result.saturation) == bool(saturation)
    assert len(result.problems) == problems, "at the first size there is nothing to report"
