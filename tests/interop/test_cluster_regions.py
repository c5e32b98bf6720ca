"""Regions: three nodes far apart, what each says of all, and where node_selector sends a recording."""

import asyncio
import json
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from livekit import api
from playwright.async_api import async_playwright

from tests.interop.conftest import CHROMIUM_FLAGS, Tab
from tests.interop.live import KEY, ROOT, SECRET, LiveServer, token
from tests.interop.nodes import Balancer, MakeNode, room_api, soon
from tests.interop.studio import egress_config

pytestmark = [pytest.mark.interop, pytest.mark.timeout(180)]

MakeServer = Callable[..., Coroutine[Any, Any, LiveServer]]
PLACES = {"oslo": (59.91, 10.75), "paris": (48.86, 2.35), "sydney": (-33.87, 151.21)}
NEAREST = {
    "oslo": ["oslo", "paris", "sydney"],
    "paris": ["paris", "oslo", "sydney"],
    "sydney": ["sydney", "oslo", "paris"],
}


def where(region: str, *, kind: str = "regionaware", sort_by: str = "cpuload") -> str:
    """A node's place; this machine is as busy as its tests make it, so no load is a limit here."""
    known = "".join(f"    - {{name: {name}, lat: {lat}, lon: {lon}}}\n" for name, (lat, lon) in PLACES.items())
    return (
        f"region: {region}\nnode_selector:\n  kind: {kind}\n  sort_by: {sort_by}\n  sysload_limit: 1000\n"
        f"  regions:\n{known}"
    )


def node(region: str, roles: str = "sfu, egress") -> str:
    return f"node:\n  url: wss://{region}.example.org\n  roles: [{roles}]\n"


async def regions(server: LiveServer) -> list[dict[str, Any]]:
    headers = {"Authorization": f"Bearer {token('demo', 'ann')}"}
    async with (
        aiohttp.ClientSession() as session,
        session.get(server.http + "/settings/regions", headers=headers) as answer,
    ):
        assert answer.status == 200, await answer.text()
        found: list[dict[str, Any]] = (await answer.json())["regions"]
        return found


async def named(server: LiveServer) -> list[str]:
    return [one["region"] for one in await regions(server)]


async def test_every_node_names_all_the_nearest_first(make_node: MakeNode) -> None:
    nodes = {region: await make_node(where(region) + node(region)) for region in PLACES}

    async def all_known() -> bool:
        return all([len(await named(one)) == 3 for one in nodes.values()])

    await soon(all_known)
    for region, server in nodes.items():
        told = await regions(server)
        assert [one["region"] for one in told] == NEAREST[region]
        assert [one["url"] for one in told] == [f"wss://{name}.example.org" for name in NEAREST[region]]
        distances = [int(one["distance"]) for one in told]
        assert distances[0] == 0
        assert distances == sorted(set(distances))
    async with aiohttp.ClientSession() as session:
        async with session.get(nodes["oslo"].http + "/settings/regions") as refused:
            assert refused.status == 401
        ids = set()
        for region, server in nodes.items():
            async with session.get(server.http + "/ping") as answer:
                assert (answer.status, answer.headers["Tertulia-Region"]) == (200, region)
                ids.add(answer.headers["Tertulia-Node"])
        assert len(ids) == 3

    await nodes["sydney"].stop(signal.SIGKILL)

    async def without_sydney() -> bool:
        return await named(nodes["oslo"]) == ["oslo", "paris"] and await named(nodes["paris"]) == ["paris", "oslo"]

    await soon(without_sydney, 15)  # when its lease is over
    await nodes["paris"].stop(signal.SIGTERM)

    async def only_oslo() -> bool:
        return await named(nodes["oslo"]) == ["oslo"]

    await soon(only_oslo, 4)  # it said goodbye: sooner than a lease


async def jobs(server: LiveServer) -> float:
    metrics = await server.metrics()
    return sum(count for name, count in metrics.items() if "egress_requests" in name)


async def test_the_selector_decides_where_a_recording_runs(make_node: MakeNode, tmp_path: Path) -> None:
    outputs = egress_config(tmp_path / "out")
    nodes = {
        # asked here: the nearest that records
        "oslo": await make_node(where("oslo") + node("oslo", "sfu")),
        # asked here: the one with the fewest rooms, wherever
        "paris": await make_node(where("paris", kind="any", sort_by="rooms") + node("paris") + outputs),
        "sydney": await make_node(where("sydney") + node("sydney") + outputs),
    }

    dead: list[LiveServer] = []

    async def record(asked: str, room: str) -> str:
        alive = {name: server for name, server in nodes.items() if server not in dead}
        before = {name: await jobs(server) for name, server in alive.items()}
        async with room_api(nodes[asked]) as lk:
            await lk.room.create_room(api.CreateRoomRequest(name=room))
            begun = await lk.egress.start_room_composite_egress(
                api.RoomCompositeEgressRequest(
                    room_name=room,
                    audio_only=True,
                    file_outputs=[api.EncodedFileOutput(filepath=f"{room}.ogg")],
                )
            )
            assert begun.room_name == room
        after = {name: await jobs(server) for name, server in alive.items()}
        (found,) = [name for name in alive if after[name] > before[name]]
        return found

    async def all_known() -> bool:
        return all([len(await named(one)) == 3 for one in nodes.values()])

    await soon(all_known)
    assert [await record("oslo", f"near-oslo-{number}") for number in range(3)] == ["paris"] * 3
    assert await record("sydney", "near-sydney") == "sydney"
    # paris holds the three rooms it records, sydney one
    assert await record("paris", "fewest-rooms") == "sydney"
    # a node that is dead, but not yet missed, makes no bid: nobody waits for it
    await nodes["paris"].stop(signal.SIGKILL)
    dead.append(nodes["paris"])
    async with asyncio.timeout(4):
        assert await record("oslo", "after-paris") == "sydney"
    metrics = await nodes["oslo"].metrics()
    assert sum(count for name, count in metrics.items() if "bid_rounds" in name) == 4
    assert sum(count for name, count in metrics.items() if "bids_missed" in name) == 1


async def test_a_page_elsewhere_may_ask_and_measure(make_node: MakeNode, make_tab: Any) -> None:
    """Another origin: the preflight, the answer, and the timing in detail."""
    server = await make_node(where("oslo") + node("oslo"))
    tab: Tab = await make_tab()
    found = await tab.page.evaluate(
        """async ([base, token]) => {
            const told = await fetch(base + "/settings/regions", {headers: {Authorization: "Bearer " + token}});
            const pong = await fetch(base + "/ping");
            await pong.text();
            const seen = new Promise(tell => new PerformanceObserver(list => {
                for (const entry of list.getEntriesByName(base + "/ping")) tell(entry);
            }).observe({type: "resource", buffered: true}));
            const timing = await seen;
            return {
                regions: (await told.json()).regions,
                node: pong.headers.get("Tertulia-Node"),
                region: pong.headers.get("Tertulia-Region"),
                detail: timing.requestStart > 0 && timing.responseStart >= timing.requestStart,
            };
        }""",
        [server.http, token("demo", "ann")],
    )
    assert found["regions"] == [{"region": "oslo", "url": "wss://oslo.example.org", "distance": "0"}]
    assert found["node"].startswith("ND_")
    assert (found["region"], found["detail"]) == ("oslo", True)


async def test_a_node_alone_and_probe(make_server: MakeServer) -> None:
    """Without configuration it is where it was asked; the command asks, measures and sorts."""
    one = await make_server("region: oslo\n")
    assert await regions(one) == [{"region": "oslo", "url": one.url, "distance": "0"}]
    other = await make_server("region: paris\n")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tertulia", "probe", "--json", "--count", "3",
        "--regions", "--api-key", KEY, "--api-secret", SECRET, one.http, other.url,
        cwd=ROOT, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await process.communicate()
    assert process.returncode == 0
    found = json.loads(out)
    assert {(probed["url"], probed["region"]) for probed in found} == {
        (one.http, "oslo"),
        (other.url, "paris"),
        (one.url, "oslo"),
    }
    assert all(0 < probed["best_ms"] <= probed["median_ms"] for probed in found)
    assert found == sorted(found, key=lambda probed: probed["median_ms"])


@pytest.fixture
async def distant_tab(pages: str) -> AsyncIterator[Tab]:
    """A page whose livekit-client takes this machine for LiveKit's cloud: only there it asks for regions by itself."""
    rules = "--host-resolver-rules=MAP *.livekit.cloud 127.0.0.1"
    async with async_playwright() as playwright:
        program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        browser = await playwright.chromium.launch(executable_path=program, args=[*CHROMIUM_FLAGS, rules])
        page = await browser.new_page()
        tab = Tab(page)
        await page.goto(pages)
        yield tab
        await browser.close()


async def test_livekit_client_goes_on_to_the_next_region(make_node: MakeNode, distant_tab: Tab) -> None:
    """The node it asks takes no calls; it finds the other one by /settings/regions alone."""
    async with Balancer() as front:
        closed = await make_node(where("oslo") + node("oslo", "egress"))
        paris = await make_node(where("paris") + f"node:\n  url: {front.url}\n")
        front.cut((paris.port,))

        async def is_known() -> bool:
            return await named(closed) == ["paris"]

        await soon(is_known)
        address = f"ws://demo.livekit.cloud:{closed.port}"
        await distant_tab.do("join", address, token("demo", "ann"), {})
        async with room_api(paris) as lk:
            listed = await lk.room.list_participants(api.ListParticipantsRequest(room="demo"))
        assert [(one.identity, one.region) for one in listed.participants] == [("ann", "paris")]
