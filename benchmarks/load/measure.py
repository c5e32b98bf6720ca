"""Figures: histograms of delay that can be added up, counters between two moments, and what a process used of the CPU.

Reads /proc and nothing else. All values are in the unit their name ends with.
"""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

RATIO = 1.02
"""Width of a bucket: percentiles are exact to 2 %."""
FIRST_NS = 1_000
BUCKETS = 1_000
"""From 1 us to about 400 s."""


class Histogram:
    """Durations in buckets of equal ratio."""

    def __init__(self) -> None:
        self.counts = np.zeros(BUCKETS, np.int64)
        self.max_ns = 0
        self.sum_ns = 0

    @property
    def count(self) -> int:
        return int(self.counts.sum())

    def add(self, values_ns: Any) -> None:
        """An array of durations; what is negative (clocks) counts as nothing."""
        if not len(values_ns):
            return
        values = np.maximum(np.asarray(values_ns, np.int64), 0)
        places = np.log(np.maximum(values, FIRST_NS) / FIRST_NS) / np.log(RATIO)
        self.counts += np.bincount(np.minimum(places.astype(np.int64), BUCKETS - 1), minlength=BUCKETS)
        self.max_ns = max(self.max_ns, int(values.max()))
        self.sum_ns += int(values.sum())

    def merge(self, other: "Histogram") -> None:
        self.counts += other.counts
        self.max_ns = max(self.max_ns, other.max_ns)
        self.sum_ns += other.sum_ns

    def since(self, before: "Histogram | None") -> "Histogram":
        """What was added after `before`; its maximum is known to a bucket."""
        found = Histogram()
        found.counts = self.counts - before.counts if before is not None else self.counts.copy()
        found.sum_ns = self.sum_ns - (before.sum_ns if before is not None else 0)
        used = np.flatnonzero(found.counts)
        if len(used):
            found.max_ns = min(self.max_ns, int(FIRST_NS * RATIO ** (int(used[-1]) + 1)))
        return found

    def percentile_ns(self, percent: float) -> int:
        """The duration that `percent` of all do not exceed, 0 when there are none."""
        total = self.count
        if not total:
            return 0
        place = int(np.searchsorted(np.cumsum(self.counts), max(1, total * percent / 100)))
        return min(int(FIRST_NS * RATIO ** (place + 1)), self.max_ns)

    def summary_ms(self) -> dict[str, float]:
        found = {f"p{percent}": self.percentile_ns(percent) / 1e6 for percent in (50, 90, 99)}
        return {**found, "max": self.max_ns / 1e6, "count": self.count}

    def packed(self) -> dict[str, Any]:
        """Small enough for a line of JSON."""
        places = np.flatnonzero(self.counts)
        counts = [[int(place), int(self.counts[place])] for place in places]
        return {"counts": counts, "max_ns": self.max_ns, "sum_ns": self.sum_ns}

    @classmethod
    def unpacked(cls, value: Mapping[str, Any]) -> "Histogram":
        found = cls()
        for place, count in value["counts"]:
            found.counts[place] = count
        found.max_ns, found.sum_ns = value["max_ns"], value["sum_ns"]
        return found


@dataclass(slots=True)
class Mark:
    """Everything counted up to a moment; two of them make a window. Addable over workers."""

    time_ns: int = 0
    counters: dict[str, int] = field(default_factory=dict)
    histograms: dict[str, Histogram] = field(default_factory=dict)

    def packed(self) -> dict[str, Any]:
        packed = {name: histogram.packed() for name, histogram in self.histograms.items()}
        return {"time_ns": self.time_ns, "counters": self.counters, "histograms": packed}

    @classmethod
    def unpacked(cls, value: Mapping[str, Any]) -> "Mark":
        histograms = {name: Histogram.unpacked(packed) for name, packed in value["histograms"].items()}
        return cls(value["time_ns"], dict(value["counters"]), histograms)

    def add(self, other: "Mark") -> None:
        self.time_ns = max(self.time_ns, other.time_ns)
        for name, value in other.counters.items():
            self.counters[name] = self.counters.get(name, 0) + value
        for name, histogram in other.histograms.items():
            self.histograms.setdefault(name, Histogram()).merge(histogram)


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process has used so far."""

    user_s: float = 0.0
    system_s: float = 0.0
    exact_s: float = 0.0
    """Both together as the scheduler counts them, to the nanosecond; the two above count ticks."""
    resident_bytes: int = 0
    control_s: float = 0.0
    """Of its first thread: in a Tertulia everything but forwarding."""

    def since(self, before: "Usage") -> "Usage":
        return Usage(
            self.user_s - before.user_s, self.system_s - before.system_s, self.exact_s - before.exact_s,
            self.resident_bytes, self.control_s - before.control_s,
        )  # fmt: skip


def usage(pid: int) -> Usage | None:
    """None when there is no such process (any more) or it may not be looked at."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        first_ns = int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0])
        exact_s = time.clock_gettime_ns(~pid << 3 | 2) / 1e9  # the process clock of clock_getcpuclockid(3)
    except (OSError, ValueError, IndexError):
        return None
    if fields[0] in ("Z", "X"):
        return None
    tick = os.sysconf("SC_CLK_TCK")
    ticks_s = (int(fields[11]) / tick, int(fields[12]) / tick)
    return Usage(ticks_s[0], ticks_s[1], exact_s, pages * os.sysconf("SC_PAGE_SIZE"), first_ns / 1e9)


def machine_busy_s() -> float:
    """CPU time of everything on this machine, what a hypervisor took from it included."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return 0.0
    return (sum(map(int, fields[:8])) - int(fields[3]) - int(fields[4])) / os.sysconf("SC_CLK_TCK")


def pid_of_listener(port: int) -> int:
    """The process of this machine that listens on a TCP port, 0 when it cannot be seen."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{fields[9]}]")
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            if any(os.readlink(entry) in inodes for entry in (process / "fd").iterdir()):
                return int(process.name)
        except OSError:
            continue
    return 0


def udp_drops() -> int:
    """Datagrams this machine's sockets had no room for (RcvbufErrors), whoever's they were."""
    try:
        lines = [line.split() for line in Path("/proc/net/snmp").read_text().splitlines() if line.startswith("Udp:")]
        return int(lines[1][lines[0].index("RcvbufErrors")])
    except (OSError, ValueError, IndexError):
        return 0
