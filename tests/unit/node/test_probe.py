"""`tertulia probe` against real front doors."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator

import pytest
from click.testing import CliRunner, Result

from tertulia.node.main import cli
from tests.unit.signal.house import KEY, SECRET, Street, open_street

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
async def street() -> AsyncIterator[Street]:
    async with open_street() as running:
        yield running


async def run(*args: str) -> Result:
    """As a thread: the door it asks is on this one's loop."""
    return await asyncio.to_thread(CliRunner().invoke, cli, ["probe", *args])


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_servers_are_measured_and_sorted(street: Street) -> None:
    """The nearest first, those that do not answer last; asked by any of their schemes."""
    place, late_ms = street.house.place, 300

    async with open_street() as slow:
        told = slow.house.place

        def late() -> object:
            end = time.perf_counter() + late_ms / 1e3
            while time.perf_counter() < end:
                pass
            return told()

        slow.house.place = late  # type: ignore[method-assign,assignment]
        dead = f"http://127.0.0.1:{closed_port()}"
        result = await run("--json", "--count", "1", dead, slow.ws + "/", street.http)
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert [one["url"] for one in found] == [street.http, slow.ws + "/", dead]
    near, far, missing = found
    assert (near["node"], near["region"]) == (place().node, "söul??x: y")
    assert 0 < near["best_ms"] <= near["median_ms"] <= near["worst_ms"]
    assert far["best_ms"] >= late_ms
    assert near["error"] == far["error"] == ""
    assert "connect" in missing["error"].lower()


async def test_a_table(street: Street) -> None:
    result = await run(street.ws, "--count", "1")
    assert result.exit_code == 0, result.output
    heading, row = result.stdout.strip().splitlines()[:2]
    assert heading.split() == ["server", "region", "node", "median", "best", "worst"]
    assert street.ws in row
    assert row.count(" ms") == 3


async def test_the_regions_a_server_names(street: Street) -> None:
    result = await run(
        "--json", "--count", "1", "--regions", "--api-key", KEY, "--api-secret", SECRET, street.ws
    )  # fmt: skip
    found = json.loads(result.stdout)
    assert [one["url"] for one in found] == [street.ws, "wss://there"]
    assert result.exit_code == 1
    assert found[1]["error"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--regions", "--token", "nonsense", "{url}"], "answered 401"),
        (["--regions", "--token", "x", "http://127.0.0.1:{closed}"], "does not answer"),
        (["example.org"], "is not a server's address"),
        (["ftp://example.org"], "is not a server's address"),
        (["--count", "0", "{url}"], "0 is not in the range"),
        (["--dev", "--port", "{closed}"], "ws://localhost:{closed}"),
    ],
)
async def test_what_goes_wrong_is_one_line(street: Street, args: list[str], said: str) -> None:
    words = {"url": street.ws, "closed": str(closed_port())}
    result = await run(*(arg.format(**words) for arg in args))
    assert result.exit_code in (1, 2)
    assert said.format(**words) in result.output
    assert "Traceback" not in result.output


async def test_another_server_than_ours(street: Street) -> None:
    result = await run(street.http + "/elsewhere", "--count", "1")
    assert "answered 404 to /ping" in result.output
    assert result.exit_code == 1
