"""Histograms that can be added, subtracted and sent; processes seen through /proc."""

import os
import random
import socket
import subprocess
import sys

import pytest

from benchmarks.load import measure
from benchmarks.load.measure import Histogram, Mark


def test_percentiles_are_exact_to_a_bucket() -> None:
    rng = random.Random(3)
    values = sorted(rng.randrange(2_000, 50_000_000) for _ in range(10_000))
    histogram = Histogram()
    histogram.add(values)
    for percent in (1, 50, 90, 99, 99.9):
        exact = values[int(len(values) * percent / 100) - 1]
        assert exact <= histogram.percentile_ns(percent) * 1.0001
        assert histogram.percentile_ns(percent) <= exact * measure.RATIO * 1.001
    assert histogram.max_ns == values[-1]
    assert histogram.percentile_ns(100) == values[-1]


def test_an_empty_histogram_and_negative_values() -> None:
    histogram = Histogram()
    assert histogram.percentile_ns(99) == 0
    assert histogram.summary_ms()["count"] == 0
    histogram.add([-5, 10**18])
    assert histogram.count == 2
    assert histogram.max_ns == 10**18


def test_windows_are_differences() -> None:
    histogram = Histogram()
    histogram.add([1_000_000] * 100)
    before = Histogram()
    before.merge(histogram)
    histogram.add([9_000_000] * 10)
    histogram.add([500_000_000])
    window = histogram.since(before)
    assert window.count == 11
    assert 8.9e6 < window.percentile_ns(50) < 9.3e6
    assert window.max_ns == 500_000_000
    assert histogram.since(None).count == 111


def test_marks_survive_the_pipe_and_add_up() -> None:
    one = Mark(5, {"a": 1, "b": 2}, {"x": Histogram()})
    one.histograms["x"].add([1_500, 2_000_000])
    copy = Mark.unpacked(one.packed())
    assert copy.packed() == one.packed()
    copy.add(one)
    assert copy.counters == {"a": 2, "b": 4}
    assert copy.histograms["x"].count == 4
    assert one.histograms["x"].count == 2


def test_a_process_is_seen_and_its_end_too() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", "sum(range(10**6)); print(1, flush=True); input()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert child.stdout is not None
    child.stdout.readline()
    used = measure.usage(child.pid)
    assert used is not None
    assert used.exact_s > 0
    assert used.resident_bytes > 1 << 20
    later = measure.usage(child.pid)
    assert later is not None
    assert later.since(used).exact_s >= 0
    child.communicate(b"\n")
    assert measure.usage(child.pid) is None


def test_the_listener_of_a_port_is_found() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert measure.pid_of_listener(server.getsockname()[1]) == os.getpid()
        port = server.getsockname()[1]
    assert measure.pid_of_listener(port) == 0


@pytest.mark.parametrize("pid", [2**22 + 1, 0])
def test_no_such_process(pid: int) -> None:
    assert measure.usage(pid) is None
