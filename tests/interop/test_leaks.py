"""What comes must go: a hundred joins and leaves leave no task, socket, stream or row behind."""

import asyncio
import gc
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from tertulia.node.config_read import Sources, load
from tertulia.node.serve import Node
from tests.interop.live import LiveServer, token
from tests.interop.sdk import SdkClient

pytestmark = [pytest.mark.interop, pytest.mark.timeout(300)]

ROUNDS = 100
ALLOWED_BYTES = 5 << 20


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


async def figures(server: LiveServer) -> dict[str, float]:
    metrics = await server.metrics()
    kept = ("transports", "ups", "downs", "taps", "ufrags", "tcp_connections")
    found = {kind: value for name, value in metrics.items() for kind in kept if f'kind="{kind}"' in name}
    found["tasks"] = next(value for name, value in metrics.items() if name.startswith("tertulia_tasks"))
    found["participants"] = next(v for name, v in metrics.items() if name.startswith("livekit_participant_total"))
    found["descriptors"] = descriptors(server.pid)
    return found


async def come_and_go(server: LiveServer, client: SdkClient, rounds: int) -> None:
    for number in range(rounds):
        await client.do("connect", url=server.url, token=token("doors", f"guest{number}"))
        await client.do("leave")
        await client.do("renew")


async def settled(server: LiveServer, wanted: dict[str, float]) -> dict[str, float]:
    """Poll until the figures are what they were; the last ones otherwise."""
    found: dict[str, float] = {}
    for _ in range(100):
        found = await figures(server)
        if all(found[name] <= value for name, value in wanted.items()):
            return found
        await asyncio.sleep(0.1)
    return found


async def test_a_hundred_joins_and_leaves(
    server: LiveServer, make_sdk: Callable[[], Coroutine[Any, Any, SdkClient]]
) -> None:
    host, guest = await make_sdk(), await make_sdk()
    await host.do("connect", url=server.url, token=token("doors", "host"))
    await host.do("publish_audio")
    await come_and_go(server, guest, 10)  # first of everything: caches, pools
    before = await settled(server, {"participants": 1})
    memory = server.rss_bytes()
    await come_and_go(server, guest, ROUNDS)
    after = await settled(server, before)
    assert after == before, f"left behind: {after}, before {before}"
    grown = server.rss_bytes() - memory
    assert grown < ALLOWED_BYTES, f"{ROUNDS} joins grew the server by {grown / 1e6:.1f} MB"
    assert (await host.do("state"))["connected"]


async def test_who_leaves_is_freed_without_the_cycle_collector(
    make_sdk: Callable[[], Coroutine[Any, Any, SdkClient]],
) -> None:
    """A node in this process: a large room that empties is neither kept nor collected in one long pause."""
    server = LiveServer()
    async with Node(load(Sources(body=server.config)).config).running() as node:
        host, guest = await make_sdk(), await make_sdk()
        await host.do("connect", url=server.url, token=token("doors", "host"))
        await come_and_go(server, guest, 3)
        gc.collect()
        gc.disable()
        try:
            await come_and_go(server, guest, 5)
            await _left(node, host)
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
            kept = Counter(type(one).__qualname__ for one in gc.garbage if type(one).__module__.startswith("tertulia"))
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
    assert not kept


async def _left(node: Node, host: SdkClient) -> None:
    """Everybody but the host has gone, their connections too."""
    for _ in range(100):
        if node.house.hub.totals()["transports"] == 1:
            break
        await asyncio.sleep(0.1)
    assert (await host.do("state"))["connected"]
    await asyncio.sleep(1)
