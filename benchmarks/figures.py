"""Measure the figures of docs/performance.md again and write them into the page, each beside the command that made it.

    python -m benchmarks.figures [NAME ...]        without names: all of them (about a quarter of an hour)

A figure's place in the page is marked by comments; what stands between them is replaced, the rest is left alone.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
PLOTS = PAGE.parent / "plots"
RUNS: dict[str, tuple[str, ...]] = {
    "audio": ("--scenario", "audio", "--subscribers", "100,200,375,500,700", "--join-rate", "15"),
    "meeting": ("--scenario", "meeting", "--subscribers", "10,20,30,40,53,64,80", "--join-rate", "5"),
    "livestream": ("--scenario", "livestream", "--subscribers", "100,200,375,700,1000,1400", "--join-rate", "15"),
    "subscribers": ("--quality", "low", "--subscribers", "1,3,10,30,100,300,1000", "--join-rate", "15"),
    "publishers": ("--scenario", "meeting", "--subscribers", "2,4,8,16,32", "--join-rate", "5", "--duration", "5"),
    "churn": ("--scenario", "churn", "--subscribers", "5,10,20,40"),
    "data": ("--scenario", "data", "--subscribers", "10,50,100,200"),
    "rooms": ("--scenario", "rooms", "--subscribers", "10,20,40,80"),
    "versus": ("--versus", "own", "--scenario", "audio", "--subscribers", "20,80"),
}
DRAWN = ("subscribers", "publishers")
"""Of these the plots are kept."""
PROFILED = ("audio", "livestream")
BUDGETS, CLUSTER, JOINS, PROFILE = "budgets", "cluster", "joins", "profile"


def block(page: str, name: str, text: str) -> str:
    """The page with this figure in its place; ValueError when it has none."""
    pattern = re.compile(rf"(<!-- figure {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
    if not pattern.search(page):
        raise ValueError(f"the page has no place for the figure {name!r}")
    return pattern.sub(lambda match: f"{match[1]}{text.strip()}\n{match[2]}", page, count=1)


def conditions(load: float, machine: dict[str, Any]) -> str:
    where = f"{machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}"
    return f"{where}; load average {load:.1f} before; {date.today()}"


def run(name: str, folder: Path) -> str:
    """Measure one figure; its text."""
    from benchmarks.load import report

    load = os.getloadavg()[0]
    shown = " ".join(RUNS[name])
    figures = folder / f"{name}.json"
    command = [sys.executable, "-m", "tertulia", "bench", *RUNS[name], "--json", str(figures)]
    if name in DRAWN:
        command += ["--plots", str(folder / name)]
    subprocess.run(command, check=False, stdout=subprocess.DEVNULL)
    found = json.loads(figures.read_text())
    text = [f"`tertulia bench {shown}`", "", conditions(load, found["machine"]), ""]
    text += [report.markdown(report.result_of(result)) for result in found["results"]]
    if name in DRAWN:
        PLOTS.mkdir(parents=True, exist_ok=True)
        for part in ("cpu", "delay"):
            (drawn,) = (folder / name).glob(f"*-{part}.svg")
            (PLOTS / f"{name}-{part}.svg").write_text(drawn.read_text())
            text += ["", f"![{part} against {name}](plots/{name}-{part}.svg)"]
    return "\n".join(text)


def budgets(folder: Path) -> str:
    """`make bench` as a table."""
    return _table("benchmarks.all", "make bench", folder / "budgets.json")


def cluster(folder: Path) -> str:
    """`make bench-cluster` as a table."""
    return _table("benchmarks.cluster", "make bench-cluster", folder / "cluster.json")


def _table(module: str, shown: str, figures: Path) -> str:
    """Budgets, with the notes of the run."""
    subprocess.run([sys.executable, "-m", module, "--json", str(figures)], check=False, stdout=subprocess.DEVNULL)
    found = json.loads(figures.read_text())
    text = [f"`{shown}`", "", conditions(found["load"], found["machine"]), ""]
    text += ["| what | measured | budget | |", "| --- | ---: | ---: | --- |"]
    for one in found["budgets"]:
        relation, unit = (">=" if one["at_least"] else "<="), f" {one['unit']}" if one["unit"] else ""
        verdict = "holds" if one["holds"] else "**exceeds**"
        text.append(f"| {one['what']} | {one['measured']:.2f}{unit} | {relation} {one['budget']:g}{unit} | {verdict} |")
    text += ["", *(f"- {note}" for note in found["notes"])]
    return "\n".join(text)


def joins(_: Path) -> str:
    """`benchmarks.joins` as it prints it."""
    return _told("-m", "benchmarks.joins")


def where_time_goes(_: Path) -> str:
    """`benchmarks.profile` as it prints it, under loads of many small packets and of few large ones."""
    return "\n".join(_told("-m", "benchmarks.profile", "--scenario", scenario) for scenario in PROFILED)


def _told(*command: str) -> str:
    """What a program of ours prints."""
    from benchmarks.load.report import machine

    load = os.getloadavg()[0]
    told = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=True)
    return f"`python {' '.join(command)}`\n\n{conditions(load, machine())}\n\n{told.stdout}"


OWN: dict[str, Callable[[Path], str]] = {BUDGETS: budgets, CLUSTER: cluster, JOINS: joins, PROFILE: where_time_goes}
KNOWN = (*OWN, *RUNS)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(KNOWN)}")
    names = options.parse_args().names or list(KNOWN)
    if unknown := [name for name in names if name not in KNOWN]:
        options.error(f"there is no figure {unknown[0]!r}")
    with tempfile.TemporaryDirectory(prefix="tertulia-figures-") as folder:
        for name in names:
            print(name, flush=True)
            text = OWN[name](Path(folder)) if name in OWN else run(name, Path(folder))
            PAGE.write_text(block(PAGE.read_text(), name, text))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
