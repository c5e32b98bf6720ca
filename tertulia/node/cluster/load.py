"""How busy this machine is, as its record tells the others: processor, load average, bytes per second.

Read from the kernel when somebody asks, at most every half second: figures over less would be noise.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

MIN_WINDOW_NS = 500_000_000
IDLE = (3, 4)
"""Fields of /proc/stat's first line: idle and waiting for a disk (proc_stat(5))."""


class MachineLoad:
    """The share of all cores that was busy lately, and the media bytes per second; between two questions."""

    def __init__(self, bytes_so_far: Callable[[], int], stat: Path = Path("/proc/stat")) -> None:
        self._bytes_so_far = bytes_so_far
        self._stat = stat
        self._asked_at_ns = 0
        self._ticks = (0, 0)
        self._bytes = 0
        self.cpu_load = 0.0
        self.bytes_per_s = 0

    def read(self) -> None:
        """Bring the figures up to date; the first time they are of all the time since the machine started."""
        now = time.monotonic_ns()
        if self._asked_at_ns and now - self._asked_at_ns < MIN_WINDOW_NS:
            return
        busy, total = self._read_ticks()
        before_busy, before_total = self._ticks
        if total > before_total:
            self.cpu_load = min(1.0, max(0.0, (busy - before_busy) / (total - before_total)))
        so_far = self._bytes_so_far()
        if self._asked_at_ns:
            self.bytes_per_s = max(0, round((so_far - self._bytes) * 1e9 / (now - self._asked_at_ns)))
        self._asked_at_ns, self._ticks, self._bytes = now, (busy, total), so_far

    def _read_ticks(self) -> tuple[int, int]:
        """Busy and all ticks of all cores; without Linux's figures the load average stands for them."""
        try:
            # guest time (fields 9 and 10) is part of user time already
            fields = [int(word) for word in self._stat.read_text().split("\n", 1)[0].split()[1:9]]
            total = sum(fields)
            return total - sum(fields[index] for index in IDLE), total
        except (OSError, ValueError, IndexError):
            before_busy, before_total = self._ticks
            return before_busy + round(100 * min(1.0, sys_load())), before_total + 100


def sys_load() -> float:
    """Processes that want a core, per core, over the last minute."""
    try:
        return os.getloadavg()[0] / (os.cpu_count() or 1)
    except OSError:
        return 0.0
