"""Two and three nodes, one room: real server processes, a real redis-server, real clients on different nodes."""

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from livekit import api

from tests.interop.conftest import Tab
from tests.interop.live import LiveServer, free_port, token
from tests.interop.nodes import Balancer, LiveRedis, MakeNode, MakeSdk, gets, readyz, room_api, roster, soon
from tests.interop.studio import ACTIVE, BLUE, COMPLETE, RED, SMALL, between_flashes, egress_config
from tests.unit.egress.bench import near, play

pytestmark = [pytest.mark.interop, pytest.mark.timeout(240)]

MakeTab = Callable[[], Coroutine[Any, Any, Tab]]


async def test_two_nodes_meet(make_node: MakeNode, make_sdk: MakeSdk) -> None:
    """Media, data, RPC, mute and the end of a member, from one node to the other and back."""
    a, b = await make_node(), await make_node()
    alice, bob = await make_sdk(), await make_sdk()
    await alice.do("connect", url=a.url, token=token("demo", "alice"))
    await bob.do("connect", url=b.url, token=token("demo", "bob"))
    await alice.until(lambda s: s["remote"] == ["bob"])
    await bob.until(lambda s: s["remote"] == ["alice"])
    for client in (alice, bob):
        await client.do("publish_video")
        await client.do("publish_audio")
    await bob.until(gets("alice"))
    await alice.until(gets("bob"))
    for hearer, speaker in ((alice, "bob"), (bob, "alice")):
        await hearer.until(lambda s, speaker=speaker: s["media"].get(f"{speaker}/audio", {}).get("loudest", 0) > 3000)
        await hearer.until(lambda s, speaker=speaker: any(e[0] == "speakers" and speaker in e[1] for e in s["events"]))
    for size in (1, 1000, 15_000):
        await alice.do("send", size=size, reliable=True, topic="r")
    heard = await bob.until(lambda s: len(s["data"]) == 3)
    assert [d["size"] for d in heard["data"]] == [1, 1000, 15_000]
    await bob.do("serve_rpc", method="echo")
    assert await alice.do("call_rpc", to="bob", method="echo", payload="hello") == "alice:hello"
    await alice.do("mute", kind="video", muted=True)
    await bob.until(lambda s: ["track_muted", "alice"] in s["events"])
    await alice.do("mute", kind="video", muted=False)
    await bob.until(lambda s: ["track_unmuted", "alice"] in s["events"])
    await bob.do("reset")
    await bob.until(gets("alice", more_than=5))
    await alice.do("leave")
    await bob.until(lambda s: ["participant_disconnected", "alice"] in s["events"])


async def relay_rows(server: LiveServer) -> float:
    """Copies this node sends to other nodes now: one per track, layer and node."""
    metrics = await server.metrics()
    return sum(value for name, value in metrics.items() if "relayed_copies" in name)


async def test_three_nodes_and_a_browser(make_node: MakeNode, make_sdk: MakeSdk, make_tab: MakeTab) -> None:
    """Everyone sees and hears everyone; however many watch on B, each track crosses once."""
    a, b, c = [await make_node() for _ in range(3)]
    ann, bob, ben, cyd = await make_tab(), await make_sdk(), await make_sdk(), await make_sdk()
    await ann.do("join", a.url, token("demo", "ann"), {"adaptiveStream": False, "dynacast": False})
    for client, name, node in ((bob, "bob", b), (ben, "ben", b), (cyd, "cyd", c)):
        await client.do("connect", url=node.url, token=token("demo", name))
    await ann.do(
        "publish", True, True, {
            "capture": {"resolution": {"width": 640, "height": 360, "frameRate": 8}},
            "publish": {"simulcast": True, "videoEncoding": {"maxBitrate": 500_000, "maxFramerate": 8}},
        },
    )  # fmt: skip
    for client in (bob, cyd):
        await client.do("publish_video", width=320, height=180, fps=8, simulcast=False)
        await client.do("publish_audio")
    await ann.until(
        lambda s: all(
            s["remote"].get(name, {}).get("video", {}).get("framesDecoded", 0) > 5
            and s["remote"][name].get("audio", {}).get("totalAudioEnergy", 0) > 0
            for name in ("bob", "cyd")
        ),
        30,
    )
    for viewer, others in ((bob, ("ann", "cyd")), (ben, ("ann", "bob", "cyd")), (cyd, ("ann", "bob"))):
        for other in others:
            await viewer.until(gets(other), 30)
            await viewer.until(gets(other, "audio"), 30)
    late = [await make_sdk() for _ in range(2)]
    for number, client in enumerate(late):
        await client.do("connect", url=b.url, token=token("demo", f"late{number}"))
        await client.until(gets("ann"), 30)
    # sound and at most three layers to each of two nodes; a copy per viewer would make ten and more
    assert 4 <= await relay_rows(a) <= 8
    await ann.do("serveRpc", "echo")
    assert await cyd.do("call_rpc", to="ann", method="echo", payload="hola") == "cyd:hola"
    async with room_api(c) as lk:
        listed = await lk.room.list_participants(api.ListParticipantsRequest(room="demo"))
        assert {p.identity for p in listed.participants} == {"ann", "bob", "ben", "cyd", "late0", "late1"}
        track = next(p for p in listed.participants if p.identity == "bob").tracks[0].sid
        await lk.room.mute_published_track(
            api.MuteRoomTrackRequest(room="demo", identity="bob", track_sid=track, muted=True)
        )
    await ben.until(lambda s: ["track_muted", "bob"] in s["events"])
    await cyd.until(lambda s: ["track_muted", "bob"] in s["events"])


async def test_a_node_is_killed(make_node: MakeNode, make_sdk: MakeSdk) -> None:
    """A's and C's people go on without a gap; B's come back through another node; rosters agree."""
    a, b, c = [await make_node() for _ in range(3)]
    ann, bob, ben, cyd = [await make_sdk() for _ in range(4)]
    for client, name, node in ((ann, "ann", a), (bob, "bob", b), (ben, "ben", b), (cyd, "cyd", c)):
        await client.do("connect", url=node.url, token=token("demo", name))
        await client.do("publish_video", width=320, height=180, fps=10, simulcast=False)
    await ann.until(lambda s: all(gets(name)(s) for name in ("bob", "ben", "cyd")), 30)
    await cyd.until(lambda s: all(gets(name)(s) for name in ("ann", "bob", "ben")), 30)
    for client in (ann, cyd):
        await client.do("reset")
    await b.stop(signal.SIGKILL)
    for client in (ann, cyd):
        await client.until(lambda s: {"bob", "ben"}.isdisjoint(s["remote"]), 15)
    # as a load balancer would send them
    for name, node in (("bob", a), ("ben", c)):
        client = await make_sdk()
        await client.do("connect", url=node.url, token=token("demo", name))
        await client.do("publish_video", width=320, height=180, fps=10, simulcast=False)
        await client.until(gets("ann"), 20)
    for client, other in ((ann, "cyd"), (cyd, "ann")):
        state = await client.until(lambda s: all(gets(name)(s) for name in ("bob", "ben")), 20)
        assert state["media"][f"{other}/video"]["max_gap_s"] < 1.0
    rosters = []
    for node in (a, c):
        async with room_api(node) as lk:
            listed = await lk.room.list_participants(api.ListParticipantsRequest(room="demo"))
            rosters.append(sorted((p.identity, p.sid, len(p.tracks)) for p in listed.participants))
    assert rosters[0] == rosters[1]
    assert [identity for identity, _, _ in rosters[0]] == ["ann", "ben", "bob", "cyd"]


async def test_redis_goes_and_comes_back_empty(redis: LiveRedis, make_node: MakeNode, make_sdk: MakeSdk) -> None:
    """No media gap, nobody twice, nobody lost; and what it knew is said again."""
    a, b = await make_node(), await make_node()
    ann, bob = await make_sdk(), await make_sdk()
    for client, name, node in ((ann, "ann", a), (bob, "bob", b)):
        await client.do("connect", url=node.url, token=token("demo", name))
        await client.do("publish_video", width=320, height=180, fps=10, simulcast=False)
    await ann.until(gets("bob"), 20)
    await bob.until(gets("ann"), 20)
    for client in (ann, bob):
        await client.do("reset")
    await redis.stop(signal.SIGKILL)
    await soon(lambda: readyz("Redis is not reachable", a, b))
    cyd = await make_sdk()
    await cyd.do("connect", url=a.url, token=token("demo", "cyd"))
    await cyd.until(gets("ann"), 20)
    await redis.start()
    await soon(lambda: readyz("ready", a, b), 15)
    await bob.until(lambda s: sorted(s["remote"]) == ["ann", "cyd"], 15)
    for client, other in ((ann, "bob"), (bob, "ann")):
        state = await client.do("state")
        assert state["media"][f"{other}/video"]["max_gap_s"] < 1.0
        assert not any(event[0] == "participant_disconnected" for event in state["events"])
    dan = await make_sdk()
    await dan.do("connect", url=b.url, token=token("demo", "dan"))
    await dan.until(lambda s: sorted(s["remote"]) == ["ann", "bob", "cyd"], 15)
    sids = []
    for node in (a, b):
        async with room_api(node) as lk:
            sids.append([room.sid for room in (await lk.room.list_rooms(api.ListRoomsRequest())).rooms])
    assert sids[0] == sids[1]
    assert len(sids[0]) == 1


async def test_strangers_and_garbage(redis: LiveRedis, make_node: MakeNode, make_sdk: MakeSdk) -> None:
    """Nothing that is not sealed with the cluster's secret is taken, on the bus or on the relay port."""
    from redis import asyncio as aioredis

    relay_port = free_port(socket.SOCK_DGRAM)
    a = await make_node(relay_port=relay_port)
    b = await make_node()
    stranger = await make_node(secret="another-secret-that-is-long-enough-to-be-one")
    ann, bob, eve = [await make_sdk() for _ in range(3)]
    await ann.do("connect", url=a.url, token=token("demo", "ann"))
    await bob.do("connect", url=b.url, token=token("demo", "bob"))
    await ann.do("publish_video", width=320, height=180, fps=10, simulcast=False)
    await bob.until(gets("ann"), 20)
    await bob.do("reset")
    client = aioredis.Redis(port=redis.port)
    channels = [name.decode() for name in await client.pubsub_channels("tertulia:*:node*")]
    assert len(channels) == 5, "three nodes of two clusters: one channel each, one for all nodes of each cluster"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as noise:
        for number in range(300):
            body = bytes((number * 7 + index) & 255 for index in range(40 + number))
            for channel in channels:
                await client.publish(channel, body)
            for head in (b"", b"\x80\x60", b"\x80\xc8", b"\x00\x01", b"\x16\xfe"):
                noise.sendto(head + body, ("127.0.0.1", relay_port))
    await client.aclose()
    await eve.do("connect", url=stranger.url, token=token("demo", "eve"))
    state = await bob.until(gets("ann", more_than=20), 20)
    assert state["media"]["ann/video"]["max_gap_s"] < 1.0
    assert state["remote"] == ["ann"]
    assert (await eve.do("state"))["remote"] == []
    metrics = await a.metrics()
    assert sum(value for name, value in metrics.items() if "bus_forged" in name) > 100
    assert sum(value for name, value in metrics.items() if "unknown_address" in name) > 100


async def test_a_hundred_rooms_made_at_once_on_two_nodes(make_node: MakeNode) -> None:
    a, b = await make_node(), await make_node()
    async with room_api(a) as one, room_api(b) as two:
        for number in range(100):
            request = api.CreateRoomRequest(name=f"room{number}", metadata="m")
            made = await asyncio.gather(one.room.create_room(request), two.room.create_room(request))
            assert made[0].sid == made[1].sid
        listed = [
            sorted((room.name, room.sid) for room in (await lk.room.list_rooms(api.ListRoomsRequest())).rooms)
            for lk in (one, two)
        ]
    assert listed[0] == listed[1]
    assert len(listed[0]) == 100


async def test_people_come_to_both_nodes_in_the_same_moment(make_node: MakeNode, make_sdk: MakeSdk) -> None:
    """Nobody made the room before; they find one another, every time."""
    a, b = await make_node(), await make_node()
    ann, bob = await make_sdk(), await make_sdk()
    for number in range(10):
        name = f"meeting{number}"
        await asyncio.gather(
            ann.do("connect", url=a.url, token=token(name, "ann")),
            bob.do("connect", url=b.url, token=token(name, "bob")),
        )
        await ann.until(lambda s: s["remote"] == ["bob"], 10)
        await bob.until(lambda s: s["remote"] == ["ann"], 10)
        sids = []
        for node in (a, b):
            async with room_api(node) as lk:
                rooms = (await lk.room.list_rooms(api.ListRoomsRequest(names=[name]))).rooms
                sids.append([(room.sid, room.num_participants) for room in rooms])
        assert sids[0] == sids[1]
        for client in (ann, bob):
            await client.do("leave")
            await client.do("renew")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
async def test_members_come_back_by_themselves(make_node: MakeNode, make_sdk: MakeSdk, how: signal.Signals) -> None:
    """Their node dies, or is told to stop: the clients reconnect through the balancer, nothing else is done."""
    a, b = await make_node(), await make_node()
    async with Balancer(b.port, a.port) as front:
        ann, bob, ben = [await make_sdk() for _ in range(3)]
        await ann.do("connect", url=a.url, token=token("demo", "ann"))
        await ann.do("publish_video", width=320, height=180, fps=10, simulcast=False)
        for client, name in ((bob, "bob"), (ben, "ben")):
            await client.do("connect", url=front.url, token=token("demo", name))
            await client.do("publish_video", width=320, height=180, fps=10, simulcast=False)
        await ann.until(lambda s: all(gets(name)(s) for name in ("bob", "ben")), 20)
        old = {name: sid for name, sid in (await roster(a)).items() if name != "ann"}
        await b.stop(how)
        for client in (ann, bob, ben):
            await client.do("reset")
        await ann.until(lambda s: all(gets(name)(s) for name in ("bob", "ben")), 15)
        for client, other in ((bob, "ben"), (ben, "bob")):
            await client.until(lambda s, other=other: gets(other)(s) and gets("ann")(s), 15)
        new = await roster(a)
        assert sorted(new) == ["ann", "ben", "bob"]
        assert set(old.values()).isdisjoint(new.values())


async def test_a_frozen_node_wakes_up(make_node: MakeNode, make_sdk: MakeSdk) -> None:
    """Stopped for longer than its lease: gone for the others, and its people are there again once, not twice."""
    a, b = await make_node(), await make_node()
    ann, bob = await make_sdk(), await make_sdk()
    await ann.do("connect", url=a.url, token=token("demo", "ann"))
    await bob.do("connect", url=b.url, token=token("demo", "bob"))
    await bob.do("publish_video", width=320, height=180, fps=10, simulcast=False)
    await ann.until(gets("bob"), 20)
    os.kill(b.pid, signal.SIGSTOP)
    await ann.until(lambda s: s["remote"] == [], 15)
    os.kill(b.pid, signal.SIGCONT)
    await ann.do("reset")
    await ann.until(gets("bob"), 30)
    assert sorted(await roster(a)) == sorted(await roster(b)) == ["ann", "bob"]
    assert await roster(a) == await roster(b)


async def test_the_last_claim_of_an_identity_wins_and_limits_are_exact(make_node: MakeNode, make_sdk: MakeSdk) -> None:
    a, b = await make_node(), await make_node()
    async with room_api(a) as lk:
        await lk.room.create_room(api.CreateRoomRequest(name="demo", max_participants=2))
    one, two, three = [await make_sdk() for _ in range(3)]
    await one.do("connect", url=a.url, token=token("demo", "ann"))
    await two.do("connect", url=b.url, token=token("demo", "ann"))
    await one.until(lambda s: not s["connected"], 10)
    assert len(await roster(a)) == 1
    assert await roster(a) == await roster(b)
    await three.do("connect", url=a.url, token=token("demo", "bob"))
    late = await make_sdk()
    for node in (a, b):
        with pytest.raises(RuntimeError, match=r"max participants|403"):
            await late.do("connect", url=node.url, token=token("demo", "cyd"))
    await three.do("leave")
    await soon(lambda: only(b, "ann"))
    await late.do("connect", url=b.url, token=token("demo", "cyd"))
    assert sorted(await roster(a)) == ["ann", "cyd"]


async def only(server: LiveServer, *names: str) -> bool:
    return sorted(await roster(server)) == sorted(names)


async def test_every_call_is_answered_alike_on_each_node(make_node: MakeNode, make_sdk: MakeSdk) -> None:
    """One person on A; B holds the room, too; C does not."""
    a, b, c = [await make_node() for _ in range(3)]
    ann, bob = await make_sdk(), await make_sdk()
    await ann.do("connect", url=a.url, token=token("demo", "ann"))
    await ann.do("publish_audio")
    await bob.do("connect", url=b.url, token=token("demo", "bob"))
    await bob.until(gets("ann", "audio"), 20)
    for number, node in enumerate((a, b, c)):
        async with room_api(node) as lk:
            rooms = (await lk.room.list_rooms(api.ListRoomsRequest())).rooms
            assert [(room.name, room.num_participants, room.num_publishers) for room in rooms] == [("demo", 2, 1)]
            assert len((await lk.room.list_rooms(api.ListRoomsRequest(names=["other"]))).rooms) == 0
            who = await lk.room.get_participant(api.RoomParticipantIdentity(room="demo", identity="ann"))
            sid = who.tracks[0].sid
            assert who.identity == "ann"
            again = await lk.room.create_room(api.CreateRoomRequest(name="demo"))
            assert again.sid == rooms[0].sid
            changed = await lk.room.update_participant(
                api.UpdateParticipantRequest(room="demo", identity="ann", metadata=f"m{number}")
            )
            assert changed.metadata == f"m{number}"
            await lk.room.update_room_metadata(api.UpdateRoomMetadataRequest(room="demo", metadata=f"r{number}"))
            await lk.room.mute_published_track(
                api.MuteRoomTrackRequest(room="demo", identity="ann", track_sid=sid, muted=True)
            )
            await ann.do("mute", kind="audio", muted=False)
            await lk.room.update_subscriptions(
                api.UpdateSubscriptionsRequest(room="demo", identity="bob", track_sids=[sid], subscribe=True)
            )
            await lk.room.send_data(
                api.SendDataRequest(room="demo", data=b"x" * (number + 1), kind=0, destination_identities=["bob"])
            )
            with pytest.raises(api.TwirpError) as missing:
                await lk.room.get_participant(api.RoomParticipantIdentity(room="demo", identity="nobody"))
            assert missing.value.code == "not_found"
            with pytest.raises(api.TwirpError) as nowhere:
                await lk.room.list_participants(api.ListParticipantsRequest(room="nowhere"))
            assert nowhere.value.code == "not_found"
    state = await bob.until(lambda s: len(s["data"]) == 3, 10)
    assert sorted(d["size"] for d in state["data"]) == [1, 2, 3]
    for node in (a, b, c):
        async with room_api(node) as lk:
            assert (await lk.room.list_rooms(api.ListRoomsRequest())).rooms[0].metadata == "r2"
    async with room_api(a) as lk:
        await lk.room.create_room(api.CreateRoomRequest(name="spare"))
    for node in (a, b, c):
        async with room_api(node) as lk:
            named = (await lk.room.list_rooms(api.ListRoomsRequest(names=["demo"]))).rooms
            assert [room.name for room in named] == ["demo"], "asked for by name, wherever it is held"
            both = (await lk.room.list_rooms(api.ListRoomsRequest())).rooms
            assert sorted(room.name for room in both) == ["demo", "spare"]
    async with room_api(c) as lk:
        await lk.room.delete_room(api.DeleteRoomRequest(room="spare"))
        await lk.room.remove_participant(api.RoomParticipantIdentity(room="demo", identity="ann"))
        await soon(lambda: only(b, "bob"))
        await lk.room.delete_room(api.DeleteRoomRequest(room="demo"))
    await bob.until(lambda s: not s["connected"], 10)
    for node in (a, b, c):
        async with room_api(node) as lk:
            assert (await lk.room.list_rooms(api.ListRoomsRequest())).rooms == []


async def test_a_recording_runs_at_the_idle_node(make_node: MakeNode, make_sdk: MakeSdk, tmp_path: Path) -> None:
    """Started at A, run by the egress-only node C: people of A and B are in the picture and in the sound."""
    outputs = egress_config(tmp_path / "out")
    a, b = await make_node("node:\n  roles: [sfu]\n"), await make_node(outputs)
    c = await make_node(outputs + "node:\n  roles: [egress]\n")

    async def everybody_is_known() -> bool:
        return a.log().count("node.seen") == 2  # nodes look around once a second

    await soon(everybody_is_known)
    ada, bob, watcher = [await make_sdk() for _ in range(3)]
    await ada.do("connect", url=a.url, token=token("studio", "ada"), auto_subscribe=False)
    await ada.do("perform", colour=RED, tone_hz=300)
    await bob.do("connect", url=b.url, token=token("studio", "bob"), auto_subscribe=False)
    await bob.do("perform", colour=BLUE, tone_hz=500)
    with pytest.raises(RuntimeError, match=r"takes no calls|503"):
        await watcher.do("connect", url=c.url, token=token("studio", "eve"))
    async with room_api(a) as lk:
        begun = await lk.egress.start_room_composite_egress(
            api.RoomCompositeEgressRequest(
                room_name="studio",
                layout="grid",
                advanced=SMALL,
                file_outputs=[api.EncodedFileOutput(filepath="both.mp4")],
            )
        )
        assert begun.egress_id.startswith("EG_")

        async def status(wanted: int) -> bool:
            listed = await lk.egress.list_egress(api.ListEgressRequest(egress_id=begun.egress_id))
            assert len(listed.items) == 1
            return listed.items[0].status >= wanted

        await soon(lambda: status(ACTIVE), 30)

        async def is_shown() -> bool:
            async with room_api(b) as other:
                return (await other.room.list_rooms(api.ListRoomsRequest())).rooms[0].active_recording

        await soon(is_shown)
        await asyncio.sleep(6)
        await lk.egress.stop_egress(api.StopEgressRequest(egress_id=begun.egress_id))
        await soon(lambda: status(COMPLETE), 30)
        info = (await lk.egress.list_egress(api.ListEgressRequest(egress_id=begun.egress_id))).items[0]
        wish = api.RoomEgress(
            room=api.RoomCompositeEgressRequest(
                layout="grid", advanced=SMALL, file_outputs=[api.EncodedFileOutput(filepath="by-itself.mp4")]
            )
        )
        await lk.room.create_room(api.CreateRoomRequest(name="automatic", egress=wish))
        (started,) = (await lk.egress.list_egress(api.ListEgressRequest(room_name="automatic"))).items
        assert started.egress_id not in a.log(), "made at A, which takes no jobs"
    assert info.status == COMPLETE, info.error
    assert begun.egress_id in c.log(), [line for line in a.log().splitlines() if "egress" in line]
    assert begun.egress_id not in a.log() + b.log()
    footage = play(Path(info.file_results[0].location))
    at = between_flashes(footage, 80, 90, 2)
    tiles = footage.colour_at(at, 80, 90), footage.colour_at(at, 240, 90)
    assert any(near(tiles[0], left) and near(tiles[1], right) for left, right in ((RED, BLUE), (BLUE, RED))), tiles
    assert {300, 500} <= {round(hz, -2) for hz in footage.pitch(at, at + 0.4)}


async def test_a_redis_that_hangs(redis: LiveRedis, make_node: MakeNode, make_sdk: MakeSdk) -> None:
    """It accepts connections and answers nothing for longer than a lease: nobody is declared gone, nothing stops."""
    a, b = await make_node(), await make_node()
    ann, bob = await make_sdk(), await make_sdk()
    for client, name, node in ((ann, "ann", a), (bob, "bob", b)):
        await client.do("connect", url=node.url, token=token("demo", name))
        await client.do("publish_video", width=320, height=180, fps=10, simulcast=False)
    await ann.until(gets("bob"), 20)
    await bob.until(gets("ann"), 20)
    for client in (ann, bob):
        await client.do("reset")
    redis.freeze(True)
    await soon(lambda: readyz("Redis is not reachable", a, b), 15)
    await asyncio.sleep(5)  # both leases are over when it wakes up
    redis.freeze(False)
    await soon(lambda: readyz("ready", a, b), 15)
    await ann.do("send", size=7, reliable=True, topic="t")
    await bob.until(lambda s: [d["size"] for d in s["data"]] == [7], 10)
    for client, other in ((ann, "bob"), (bob, "ann")):
        state = await client.do("state")
        assert state["media"][f"{other}/video"]["max_gap_s"] < 1.0
        assert not any(event[0] == "participant_disconnected" for event in state["events"])


async def test_a_node_cut_off_and_back(redis: LiveRedis, make_node: MakeNode, make_sdk: MakeSdk) -> None:
    """B loses Redis and A does not: gone for A, its own calls go on; healed, there is one room with everybody once."""
    async with Balancer(redis.port) as wire:
        a, b = await make_node(), await make_node(redis_port=wire.port)
        ann, bob, ben = [await make_sdk() for _ in range(3)]
        for client, name, node in ((ann, "ann", a), (bob, "bob", b), (ben, "ben", b)):
            await client.do("connect", url=node.url, token=token("demo", name))
            await client.do("publish_video", width=320, height=180, fps=10, simulcast=False)
        await ann.until(lambda s: gets("bob")(s) and gets("ben")(s), 20)
        await ben.until(gets("bob"), 20)
        wire.cut()
        await ann.until(lambda s: s["remote"] == [], 15)
        await ben.do("reset")
        await ben.until(gets("bob"), 10)
        wire.cut((redis.port,))
        await soon(lambda: readyz("ready", a, b), 15)
        for client in (ann, ben):
            await client.do("reset")
        await ann.until(lambda s: gets("bob")(s) and gets("ben")(s), 30)
        await ben.until(lambda s: gets("ann")(s) and gets("bob")(s), 30)
        assert sorted(await roster(a)) == ["ann", "ben", "bob"]
        assert await roster(a) == await roster(b)
