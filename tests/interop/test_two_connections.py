"""The older topology, /rtc with two peer connections, beside the newer one in the same room."""

from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from tests.interop.conftest import Tab
from tests.interop.live import LiveServer, token
from tests.interop.sdk import SdkClient

pytestmark = [pytest.mark.interop, pytest.mark.timeout(120)]


async def test_both_topologies_in_one_room(
    server: LiveServer,
    make_sdk: Callable[[], Coroutine[Any, Any, SdkClient]],
    make_tab: Callable[[], Coroutine[Any, Any, Tab]],
) -> None:
    old, new, tab = await make_sdk(), await make_sdk(), await make_tab()
    await old.do("connect", url=server.url, token=token("mixed", "old"), single=False)
    await new.do("connect", url=server.url, token=token("mixed", "new"))
    await tab.do("join", server.url, token("mixed", "tab"), {"singlePeerConnection": False})
    for client in (old, new):
        await client.do("publish_video", width=320, height=180, fps=10, simulcast=False)
        await client.do("publish_audio")
    await tab.do("publish")
    for client, others in ((old, ("new", "tab")), (new, ("old", "tab"))):
        await client.until(
            lambda s, others=others: all(
                s["media"].get(f"{name}/{kind}", {}).get("frames", 0) > 10
                for name in others
                for kind in ("video", "audio")
            ),
            30,
        )
    await tab.until(
        lambda s: all(
            s["remote"].get(name, {}).get("video", {}).get("framesDecoded", 0) > 10 for name in ("old", "new")
        )
    )
    await old.do("send", size=1000, topic="t")
    await tab.do("send", 1000, True, "t")
    await new.until(lambda s: {d["from"] for d in s["data"]} == {"old", "tab"})
    await old.until(lambda s: {d["from"] for d in s["data"]} == {"tab"})
    # the older topology resumes, too
    await tab.do("simulate", "signal-reconnect")
    await tab.until(lambda s: ["Reconnected", ""] in s["events"] or s["state"] == "connected")
    await new.do("reset")
    await new.until(lambda s: s["media"]["tab/video"]["frames"] > 10)
    await old.do("leave")
    await new.until(lambda s: ["participant_disconnected", "old"] in s["events"])


@pytest.mark.parametrize("scenario", ["signal-reconnect", "full-reconnect", "node-failure", "server-leave"])
async def test_scenarios_of_the_javascript_client(
    server: LiveServer, make_tab: Callable[[], Coroutine[Any, Any, Tab]], scenario: str
) -> None:
    ann, ben = await make_tab(), await make_tab()
    await ann.do("join", server.url, token("storm", "ann"))
    await ben.do("join", server.url, token("storm", "ben"))
    await ann.do("publish")
    await ben.until(lambda s: s["remote"].get("ann", {}).get("video", {}).get("framesDecoded", 0) > 5)
    await ann.do("simulate", scenario)
    if scenario == "server-leave":
        await ann.until(lambda s: s["state"] == "disconnected")
        await ben.until(lambda s: "ann" not in s["remote"])
        return
    await ann.until(
        lambda s: any(event[0] in ("Reconnected", "SignalReconnecting", "Reconnecting") for event in s["events"])
    )
    await ann.until(lambda s: s["state"] == "connected", 30)
    frames = (await ben.do("state"))["remote"].get("ann", {}).get("video", {}).get("framesDecoded", 0)
    await ben.until(
        lambda s: (
            s["remote"].get("ann", {}).get("video", {}).get("framesDecoded", 0) not in range(0, 5)
            and s["remote"]["ann"]["video"]["framesDecoded"] != frames
        ),
        30,
    )
