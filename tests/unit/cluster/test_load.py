"""What a node says of its own load, from the kernel's figures."""

from pathlib import Path

import pytest

from tertulia.node.cluster import load
from tertulia.node.cluster.load import MachineLoad, sys_load


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    now = [10**12]
    monkeypatch.setattr("tertulia.node.cluster.load.time.monotonic_ns", lambda: now[0])
    return now


def test_the_busy_share_is_that_since_the_last_question(tmp_path: Path, clock: list[int]) -> None:
    stat, sent = tmp_path / "stat", [1000]
    stat.write_text("cpu  100 0 100 700 100 0 0 0 50 0\ncpu0 1 2 3\n")
    machine = MachineLoad(lambda: sent[0], stat)
    machine.read()
    assert (machine.cpu_load, machine.bytes_per_s) == (0.2, 0)
    stat.write_text("cpu  170 5 110 710 105 0 0 0 90 0\n")
    sent[0] = 3000
    clock[0] += load.MIN_WINDOW_NS // 2
    machine.read()  # too soon: what was read stays
    assert (machine.cpu_load, machine.bytes_per_s) == (0.2, 0)
    clock[0] += load.MIN_WINDOW_NS // 2
    machine.read()
    assert (machine.cpu_load, machine.bytes_per_s) == (0.85, 4000)


@pytest.mark.parametrize("text", ["", "cpu\n", "cpu a b c d e\n", None])
def test_a_machine_without_the_figures_has_its_load_average(tmp_path: Path, text: str | None) -> None:
    stat = tmp_path / "stat"
    if text is not None:
        stat.write_text(text)
    machine = MachineLoad(int, stat)
    machine.read()
    assert 0 <= machine.cpu_load <= 1
    assert machine.cpu_load == pytest.approx(min(1.0, sys_load()), abs=0.2)


def test_this_machine() -> None:
    machine = MachineLoad(int)
    machine.read()
    assert 0 <= machine.cpu_load <= 1
    assert machine.bytes_per_s == 0
