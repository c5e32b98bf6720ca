"""What comes must go: a hundred joins and leaves leave no task, socket, stream or row behind."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

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
