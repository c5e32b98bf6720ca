"""What people and servers say to people on other nodes: data tracks, and RPC by the server API."""

from typing import Any

import pytest
from livekit import api
from livekit.protocol import room as room_messages

from tests.interop.live import LiveServer, token
from tests.interop.nodes import MakeNode, MakeSdk, room_api

pytestmark = [pytest.mark.interop, pytest.mark.timeout(120)]


async def perform_rpc(node: LiveServer, **call: Any) -> str:
    """The Python SDK's RoomService has no such method yet; its client carries any."""
    async with room_api(node) as lk:
        service: Any = lk.room
        grant = service._auth_header(api.VideoGrants(room_admin=True, room="demo"))
        request = room_messages.PerformRpcRequest(room="demo", **call)
        answer = await service._client.request(
            "RoomService", "PerformRpc", request, grant, room_messages.PerformRpcResponse
        )
        return str(answer.payload)


async def test_rpc_of_the_api_to_a_member_of_another_node(make_node: MakeNode, make_sdk: MakeSdk) -> None:
    """Asked at the node that holds him, at one that holds the room, at one that holds neither."""
    a, b, c = [await make_node() for _ in range(3)]
    ann, bob = await make_sdk(), await make_sdk()
    await ann.do("connect", url=a.url, token=token("demo", "ann"))
    await bob.do("connect", url=b.url, token=token("demo", "bob"))
    await ann.until(lambda s: s["remote"] == ["bob"])
    await bob.do("serve_rpc", method="echo")
    await bob.do("serve_rpc", method="slow", after_s=4)
    for node in (b, a, c):
        answer = await perform_rpc(node, destination_identity="bob", method="echo", payload="ho")
        assert answer.endswith(":ho")
        with pytest.raises(api.TwirpError) as unknown:
            await perform_rpc(node, destination_identity="bob", method="nothing", payload="")
        assert "1400" in unknown.value.message
        with pytest.raises(api.TwirpError) as nobody:
            await perform_rpc(node, destination_identity="eve", method="echo", payload="")
        assert nobody.value.code == "not_found"
    answer = await perform_rpc(c, destination_identity="bob", method="slow", payload="x", response_timeout_ms=8000)
    assert answer.endswith(":x"), "the member is given the time the caller gave him"
    with pytest.raises(api.TwirpError) as late:
        await perform_rpc(a, destination_identity="bob", method="slow", payload="x", response_timeout_ms=1500)
    assert "1502" in late.value.message


async def test_data_tracks_cross(make_node: MakeNode, make_sdk: MakeSdk) -> None:
    a, b = await make_node(), await make_node()
    ann, bob, ben = [await make_sdk() for _ in range(3)]
    for client, name, node in ((ann, "ann", a), (bob, "bob", b), (ben, "ben", b)):
        await client.do("connect", url=node.url, token=token("demo", name))
    await bob.until(lambda s: s["remote"] == ["ann", "ben"])
    await ann.do("publish_data_track", name="pose")
    for client in (bob, ben):
        await client.until(lambda s: "frames/ann/pose" in s["streams"])
    await ann.do("push_frames", count=20, size=10)
    for size in (100, 5000):
        for client in (bob, ben):
            await client.do("forget_streams")
        await ann.do("push_frames", count=100, size=size)
        for client in (bob, ben):
            state = await client.until(lambda s: len(s["streams"]["frames/ann/pose"]) >= 95, 10)
            frames = state["streams"]["frames/ann/pose"]
            assert all(frame % 100_000 == size for frame in frames)
            numbers = [frame // 100_000 for frame in frames]
            assert numbers == sorted(set(numbers)), "in order, none twice"
    late = await make_sdk()
    await late.do("connect", url=b.url, token=token("demo", "late"))
    await late.until(lambda s: "frames/ann/pose" in s["streams"])
    await bob.do("publish_data_track", name="back")
    await ann.until(lambda s: "frames/bob/back" in s["streams"])
    await ann.do("push_frames", count=100, size=50)
    await bob.do("push_frames", count=100, size=50)
    await late.until(lambda s: len(s["streams"]["frames/ann/pose"]) > 50, 10)
    await ann.until(lambda s: len(s["streams"]["frames/bob/back"]) > 50, 10)
