"""Lines of a report: what was measured, what it may be, and whether it holds. As a table, and as figures for a page."""

import contextlib
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.load.report import machine


@dataclass(frozen=True, slots=True)
class Budget:
    """One line of the report. `at_least`: more is better."""

    what: str
    measured: float
    budget: float
    unit: str = ""
    at_least: bool = False

    @property
    def holds(self) -> bool:
        return self.measured >= self.budget if self.at_least else self.measured <= self.budget


@dataclass(frozen=True, slots=True)
class Conditions:
    """What the machine was like when the run began."""

    load: float
    begun_s: float

    @classmethod
    def now(cls) -> "Conditions":
        return cls(os.getloadavg()[0], time.time())


def table(title: str, budgets: Sequence[Budget], conditions: Conditions) -> Table:
    """As it is printed."""
    caption = f"{machine()['cpu']}, {os.cpu_count()} cores, load average {conditions.load:.1f} before the run"
    shown = Table(title=title, caption=caption, title_justify="left")
    for name in ("what", "measured", "budget", "of it", ""):
        shown.add_column(name, justify="left" if name in ("what", "") else "right", no_wrap=True)
    for one in budgets:
        unit = f" {one.unit}" if one.unit else ""
        relation = ">=" if one.at_least else "<="
        share = one.budget / one.measured if one.at_least else one.measured / one.budget
        shown.add_row(
            one.what, f"{one.measured:.2f}{unit}", f"{relation} {one.budget:g}{unit}", f"{share:.0%}",
            "[green]holds[/green]" if one.holds else "[bold red]exceeds[/bold red]",
        )  # fmt: skip
    return shown


def report(title: str, budgets: Sequence[Budget], conditions: Conditions, file: str, notes: Sequence[str] = ()) -> int:
    """Print the table with its notes, write the figures if a file is named; the exit status."""
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    console.print(table(title, budgets, conditions))
    for note in notes:
        console.print(note, style="dim", markup=False)
    if file:
        rows = [{**asdict(one), "holds": one.holds} for one in budgets]
        figures = {
            "machine": machine(), "load": conditions.load, "seconds": time.time() - conditions.begun_s,
            "budgets": rows, "notes": list(notes),
        }  # fmt: skip
        with contextlib.suppress(OSError):
            Path(file).write_text(json.dumps(figures, indent=1) + "\n")
    return 0 if all(one.holds for one in budgets) else 1
