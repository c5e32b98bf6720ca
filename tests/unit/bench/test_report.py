"""Tables, JSON, plots, comparison and the naming of saturation, from rows made by hand."""

import json
import math
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import figures
from benchmarks.load import plots, report
from benchmarks.load.plan import Plan
from benchmarks.load.plots import Series, line_plot
from benchmarks.load.scenarios import Result, Row, saturation

PLAN = Plan("livestream", (1, 10, 100))


def row(size: int, server: str = "server", cost: float = 4.0) -> Row:
    return Row(
        server, size, size + 1, 10.0, packets_up_s=340, packets_down_s=240.0 * size,
        delay_video_ms={"p50": 0.2 * size, "p90": 0.5 * size, "p99": 1.0 * size, "max": 9.0, "count": 100},
        join_ms={"p50": 10, "p99": 20, "count": 5}, cpu_user_s=1.0, cpu_system_s=2.0, cpu_cores=0.3,
        cpu_us_per_packet=cost, resident_bytes=100 << 20, bytes_per_participant=300 << 10,
    )  # fmt: skip


def shown(result: Result) -> str:
    console = Console(width=240, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(report.table(result))
    return console.export_text()


def test_the_table_says_what_was_measured_and_where_it_ended() -> None:
    text = shown(Result(PLAN, ["server"], [row(1), row(10), row(100)]))
    assert "24,000" in text
    assert "1.00+2.00" in text
    assert "Not saturated at 100 subscribers." in text
    full = Result(PLAN, ["server"], [row(1)], saturation="size 10: 5 % lost", problems=["2 could not join"])
    assert "Saturated at size 10" in shown(full)
    assert "Problem: 2 could not join" in shown(full)
    assert "Interrupted" in shown(Result(PLAN, ["server"], [row(1)], interrupted=True))


def test_a_server_whose_process_is_unknown_has_no_cpu_figures() -> None:
    unknown = replace(row(1), cpu_user_s=None, cpu_system_s=None, cpu_cores=None, cpu_us_per_packet=None,
                      resident_bytes=None, bytes_per_participant=None)  # fmt: skip
    result = Result(PLAN, ["server"], [unknown])
    assert " - " in shown(result)
    assert "no data" in report.plots(result)["livestream-cpu.svg"]
    json.loads(report.as_json([result]))


@pytest.mark.parametrize(
    ("first", "second", "says"), [(4.0, 4.4, "0.91 (equal within 15%)"), (4.0, 20.0, "0.20,"), (8.0, 4.0, "2.00,")]
)
def test_two_servers_are_compared(first: float, second: float, says: str) -> None:
    rows = [row(10, "first", first), row(10, "second", second)]
    (line,) = report.comparison(Result(PLAN, ["first", "second"], rows))
    assert says in line + ","
    assert "median delay 1.00" in line


def test_json_and_plots_are_written(tmp_path: Path) -> None:
    result = Result(PLAN, ["server"], [row(1), row(10)])
    written = report.write([result], str(tmp_path / "out.json"), str(tmp_path / "plots"))
    assert len(written) == 5
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["results"][0]["rows"][1]["size"] == 10
    assert found["machine"]["cores"]
    for path in written[1:]:
        ElementTree.parse(path)


def test_a_result_is_read_back_and_becomes_a_table_of_a_page() -> None:
    result = Result(PLAN, ["server"], [row(1), row(10)], saturation="size 10: too much", problems=["one"])
    again = report.result_of(json.loads(report.as_json([result]))["results"][0])
    assert again == result
    text = report.markdown(again)
    assert text.splitlines()[2].startswith("| 1 | 340 | 240 |")
    assert text.endswith("Saturated at size 10: too much.\none")


def test_a_figure_takes_its_place_in_the_page_and_no_other() -> None:
    page = "a\n<!-- figure x -->\nold\n\nold\n<!-- end x -->\nb\n<!-- figure y -->\n<!-- end y -->\n"
    new = figures.block(page, "x", "new \\1\n")
    assert new == "a\n<!-- figure x -->\nnew \\1\n<!-- end x -->\nb\n<!-- figure y -->\n<!-- end y -->\n"
    with pytest.raises(ValueError, match="no place"):
        figures.block(page, "z", "")


def test_every_figure_has_its_place_in_the_page() -> None:
    page = figures.PAGE.read_text()
    for name in (figures.BUDGETS, *figures.RUNS):
        figures.block(page, name, "")


def test_no_rows_no_plots() -> None:
    assert report.plots(Result(PLAN, ["server"])) == {}


# -------------------------------------------------------------------------------------------- plots


def points(svg: str) -> list[tuple[float, float]]:
    line = ElementTree.fromstring(svg).find("{http://www.w3.org/2000/svg}polyline")
    assert line is not None
    return [(float(x), float(y)) for x, _, y in (pair.partition(",") for pair in line.attrib["points"].split())]


def test_lines_stand_where_their_values_say() -> None:
    svg = line_plot("t", "n", "us", [Series("a", [(1, 0.0), (2, 5.0), (3, 10.0)])])
    (x1, y1), (x2, y2), (x3, y3) = points(svg)
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.2)
    assert y1 - y2 == pytest.approx(y2 - y3, abs=0.2)
    assert (x1, y3) == (plots.LEFT, plots.TOP)


def test_wide_ranges_are_logarithmic() -> None:
    (x1, _), (x2, _), (x3, _) = points(line_plot("t", "n", "us", [Series("a", [(1, 1), (10, 1), (100, 1)])]))
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.2)


def test_names_are_escaped_and_nothing_is_drawn_of_nothing() -> None:
    assert "<b>" not in line_plot("<b>", "&", "<", [Series("<i>", [(1, 1)])])
    ElementTree.fromstring(line_plot("t", "n", "y", [Series("a", [])]))
    ElementTree.fromstring(line_plot("t", "n", "y", [Series("a", [(5, 0)])]))


@pytest.mark.parametrize("value", [0.003, 0.99, 1, 1.01, 3, 7, 99, 1234])
def test_the_top_is_round_and_high_enough(value: float) -> None:
    top = plots.nice_top(value)
    assert value * 0.999 <= top <= 2.5 * value
    assert top / 10 ** math.floor(math.log10(top)) == pytest.approx(
        min((1, 2, 2.5, 5), key=lambda step: abs(step - top / 10 ** math.floor(math.log10(top))))
    )


# --------------------------------------------------------------------------------------- saturation


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({}, ""),
        ({"loss": 0.02}, "2.00% of the packets lost (server 0.30 cores, generator 0.00 cores, others 0.00)"),
        ({"loss": 0.02, "generator_drops": 5}, "the generator cannot make more (5 datagrams dropped unread"),
        ({"generator_late_frames": 900}, "the generator cannot make more"),
        ({"participants": 9}, "2 of 11 participants are not in"),
        ({"delay_video_ms": {"p99": 400.0}}, "p99 of the delay is 400 ms"),
    ],
)
def test_what_gave_in_is_named(change: dict[str, object], says: str) -> None:
    cause = saturation(replace(row(10), **change), PLAN)  # type: ignore[arg-type]
    assert cause.startswith(says)
    assert bool(cause) == bool(says)
