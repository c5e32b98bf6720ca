"""What a run found, for people (a table), for programs (JSON) and for the eye (SVG). Decides nothing but the words."""

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from benchmarks.load.plan import Plan
from benchmarks.load.plots import Series, line_plot
from benchmarks.load.scenarios import Result, Row

SIZES = {
    "audio": "subscribers",
    "meeting": "members",
    "livestream": "subscribers",
    "churn": "joins/s",
    "data": "receivers",
    "rooms": "rooms",
}
CLOSE = 0.15
"""Two servers whose costs differ by less are called equal."""


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    model = ""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    except OSError:
        pass
    return {"cpu": model or platform.processor(), "cores": os.cpu_count(), "kernel": platform.release(),
            "python": platform.python_version()}  # fmt: skip


def delay(row: Row) -> dict[str, float]:
    """The delay that counts in this scenario."""
    for summary in (row.delay_video_ms, row.delay_audio_ms, row.delay_data_ms):
        if summary.get("count"):
            return summary
    return {"p50": 0.0, "p90": 0.0, "p99": 0.0, "max": 0.0}


def columns(result: Result) -> list[str]:
    """Headings of `_cells`."""
    cost = "CPU ms/join" if result.plan.scenario == "churn" else "CPU us/pkt"
    return [
        *(["server"] if len(result.servers) > 1 else []), SIZES[result.plan.scenario], "in/s", "out/s", "loss",
        "delay p50", "p90", "p99", "max ms", "join p50", "p99 ms", "frame p50 ms", cost, "user+sys s", "cores",
        "control", "KiB each", "load gen", "others",
    ]  # fmt: skip


def cells(result: Result) -> list[list[str]]:
    several = len(result.servers) > 1
    return [([row.server] if several else []) + _cells(row) for row in result.rows]


def ending(result: Result) -> str:
    """How the growth ended."""
    if result.saturation:
        return f"Saturated at {result.saturation}."
    if result.rows and not result.interrupted and not result.problems:
        return f"Not saturated at {result.rows[-1].size} {SIZES[result.plan.scenario]}."
    return ""


def markdown(result: Result) -> str:
    """The table for a page of documentation."""
    head = columns(result)
    lines = ["| " + " | ".join(head) + " |", "|" + " ---: |" * len(head)]
    lines += ["| " + " | ".join(row) + " |" for row in cells(result)]
    lines += ["", *filter(None, [ending(result), *comparison(result), *result.problems])]
    return "\n".join(lines)


def table(result: Result) -> RenderableType:
    """Rows by size, then what ended the growth and what went wrong."""
    found = Table(title=f"{result.plan.scenario}: {_described(result)}", title_justify="left", header_style="bold")
    for name in columns(result):
        found.add_column(name, justify="left" if name == "server" else "right", no_wrap=True)
    for row in cells(result):
        found.add_row(*row)
    parts: list[RenderableType] = [found]
    if text := ending(result):
        parts.append(Text(text, style="bold yellow" if result.saturation else ""))
    parts += [Text(line) for line in comparison(result)]
    parts += [Text(f"Problem: {problem}", style="red") for problem in result.problems]
    if result.interrupted:
        parts.append(Text("Interrupted: this is what was measured so far.", style="yellow"))
    return Group(*parts)


def _described(result: Result) -> str:
    plan = result.plan
    match plan.scenario:
        case "meeting":
            what = f"everybody sends {plan.codec} and Opus and takes the {plan.quality} layer of everybody"
        case "rooms":
            what = f"rooms of {plan.members}, everybody sends and takes {plan.codec} and Opus"
        case "livestream":
            what = f"{plan.publishers} send {plan.codec} ({'3 layers' if plan.simulcast else '1 layer'}) and Opus"
        case "audio":
            what = f"{plan.publishers} send Opus"
        case "churn":
            what = f"visitors of a room where {plan.publishers} send Opus"
        case _:
            kind = "reliable" if plan.reliable else "lossy"
            what = f"{plan.publishers} send {plan.messages_per_s} {kind} messages/s of {plan.message_bytes} B"
    return f"{what}; {plan.seconds:g} s at each size"


def _cells(row: Row) -> list[str]:
    late = delay(row)
    moved = row.messages_down_s or row.packets_down_s
    cost = row.join_cpu_ms if row.join_cpu_ms is not None else row.cpu_us_per_packet
    return [
        str(row.size),
        f"{row.packets_up_s:,.0f}",
        f"{moved:,.0f}",
        f"{row.loss:.2%}" if row.lost else "0",
        *(f"{late.get(name, 0):.2f}" for name in ("p50", "p90", "p99", "max")),
        f"{row.join_ms.get('p50', 0):.1f}" if row.join_ms.get("count") else "-",
        f"{row.join_ms.get('p99', 0):.1f}" if row.join_ms.get("count") else "-",
        f"{row.first_frame_ms.get('p50', 0):.0f}" if row.first_frame_ms.get("count") else "-",
        "-" if cost is None else f"{cost:.2f}",
        "-" if row.cpu_user_s is None else f"{row.cpu_user_s:.2f}+{row.cpu_system_s:.2f}",
        "-" if row.cpu_cores is None else f"{row.cpu_cores:.2f}",
        "-" if row.control_cores is None else f"{row.control_cores:.2f}",
        "-" if row.bytes_per_participant is None else f"{row.bytes_per_participant / 1024:.0f}",
        f"{row.generator_cores:.2f}",
        f"{row.other_cores:.2f}",
    ]


def comparison(result: Result) -> list[str]:
    """Of two servers: the first one's figures over the second one's, at each size."""
    if len(result.servers) != 2:
        return []
    lines = []
    first, second = result.servers
    for size in dict.fromkeys(row.size for row in result.rows):
        pair = [next((row for row in result.rows if row.size == size and row.server == name), None)
                for name in (first, second)]  # fmt: skip
        one, other = pair
        if one is None or other is None:
            continue
        ratios = []
        if one.cpu_us_per_packet and other.cpu_us_per_packet:
            ratios.append(f"CPU per packet {ratio(one.cpu_us_per_packet, other.cpu_us_per_packet)}")
        if delay(one)["p50"] and delay(other)["p50"]:
            ratios.append(f"median delay {delay(one)['p50'] / delay(other)['p50']:.2f}")
        if one.bytes_per_participant and other.bytes_per_participant:
            ratios.append(f"memory per participant {one.bytes_per_participant / other.bytes_per_participant:.2f}")
        if ratios:
            lines.append(f"{first} / {second} at {size}: {', '.join(ratios)}")
    return lines


def ratio(one: float, other: float) -> str:
    value = one / other
    if abs(value - 1) <= CLOSE:
        return f"{value:.2f} (equal within {CLOSE:.0%})"
    return f"{value:.2f}"


def show(results: Sequence[Result], console: Console) -> None:
    # as wide as the table needs when nobody looks at it through a terminal
    if not console.is_terminal:
        console = Console(width=240)
    for result in results:
        console.print(table(result))


def as_json(results: Sequence[Result], plane: str = "") -> str:
    """Everything, with what it depends on."""
    found = [{**asdict(result), "plan": asdict(result.plan)} for result in results]
    return json.dumps({"machine": machine(), "plane": plane, "results": found}, indent=1) + "\n"


def result_of(value: dict[str, Any]) -> Result:
    """A result that `as_json` wrote."""
    plan = Plan(**{**value["plan"], "steps": tuple(value["plan"]["steps"])})
    rows = [Row(**row) for row in value["rows"]]
    return Result(plan, value["servers"], rows, value["saturation"], value["problems"], value["interrupted"])


def plots(result: Result) -> dict[str, str]:
    """File name -> SVG."""
    if not result.rows:
        return {}
    scenario, x_name = result.plan.scenario, SIZES[result.plan.scenario]
    by_server = {name: [row for row in result.rows if row.server == name] for name in result.servers}
    several = len(by_server) > 1

    def drawn(file: str, title: str, unit: str, series: list[Series]) -> tuple[str, str]:
        return f"{scenario}-{file}.svg", line_plot(f"{scenario}: {title}", x_name, unit, series)

    found = []
    cpu, cores, memory, late = [], [], [], []
    for name, rows in by_server.items():
        cpu.append(Series(name, [(r.size, r.cpu_us_per_packet) for r in rows if r.cpu_us_per_packet is not None]))
        cores.append(Series(name, [(r.size, r.cpu_cores) for r in rows if r.cpu_cores is not None]))
        memory.append(Series(name, [(r.size, r.resident_bytes / 2**20) for r in rows if r.resident_bytes]))
        late += [
            Series(f"{name} {part}" if several else part, [(r.size, delay(r)[part]) for r in rows])
            for part in ("p50", "p90", "p99")
        ]
    found.append(drawn("cpu", "server CPU per forwarded packet", "us", cpu))
    found.append(drawn("cores", "server CPU", "cores", cores))
    found.append(drawn("memory", "server memory", "MiB", memory))
    found.append(drawn("delay", "delay from sender to receiver", "ms", late))
    return dict(found)


def write(results: Sequence[Result], json_path: str, plots_path: str) -> list[str]:
    """Write what was asked for; the paths written."""
    written = []
    if json_path:
        Path(json_path).write_text(as_json(results))
        written.append(json_path)
    if plots_path:
        folder = Path(plots_path)
        folder.mkdir(parents=True, exist_ok=True)
        for result in results:
            for name, text in plots(result).items():
                (folder / name).write_text(text)
                written.append(str(folder / name))
    return written
