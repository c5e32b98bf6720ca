"""Congestion control with a real browser: its feedback counts, probes do not disturb it, a cap costs layers."""

from collections.abc import Callable, Coroutine
from typing import Any

import aiohttp
import pytest

from tests.interop.conftest import Tab
from tests.interop.live import LiveServer, token

pytestmark = [pytest.mark.interop, pytest.mark.timeout(180)]

MakeTab = Callable[[], Coroutine[Any, Any, Tab]]
CAMERA = {"capture": {"resolution": {"width": 640, "height": 360, "frameRate": 15}}, "publish": {"simulcast": True}}


def picture(height: int) -> Callable[[dict[str, Any]], bool]:
    return lambda s: s["remote"].get("ann", {}).get("video", {}).get("frameHeight") == height


async def counters(server: LiveServer) -> dict[str, float]:
    """What rooms counted about ways down, by name."""
    async with aiohttp.ClientSession() as session, session.get(f"{server.http}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    return {
        line.split('"downlink_')[1].split('"')[0]: float(line.rsplit(" ", 1)[1])
        for line in lines
        if '"downlink_' in line
    }


async def test_a_thin_way_down_costs_a_browser_layers_and_probes_cost_it_nothing(
    server: LiveServer, make_tab: MakeTab
) -> None:
    ann, ben = await make_tab(), await make_tab()
    await ann.do("join", server.url, token("thin", "ann"))
    await ben.do("join", server.url, token("thin", "ben"), {"adaptiveStream": False})
    await ann.do("publish", True, True, CAMERA)
    await ben.until(picture(360), 30)
    await ben.page.evaluate("window.room.simulateScenario('subscriber-bandwidth', 150000)")
    await ben.until(picture(180), 20)
    # the browser's feedback is there, so the next layer is probed for; what the probes send it does not mind
    found: dict[str, float] = {}
    while not found.get("probe_won"):
        decoded = (await ben.do("state"))["remote"]["ann"]["video"]["framesDecoded"]
        await ben.until(lambda s, had=decoded: s["remote"]["ann"]["video"]["framesDecoded"] > had + 5)  # type: ignore[misc]
        found = await counters(server)
    assert found.get("probe_started", 0) >= 1, found
    assert found.get("lowered", 0) >= 1, found
    await ben.page.evaluate("window.room.simulateScenario('subscriber-bandwidth', 0)")
    await ben.until(picture(360), 20)
    assert not [line for line in ben.console if line.startswith("PAGE ERROR")]
