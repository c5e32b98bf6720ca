"""Webhooks of a scripted call, verified with livekit-api's WebhookReceiver: complete and in order, whatever happens."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from livekit import api
from livekit.protocol.webhook import WebhookEvent

from tests.interop.live import KEY, SECRET, LiveServer, free_port, token
from tests.interop.sdk import SdkClient
from tests.interop.studio import COMPLETE, RED, SMALL, Studio, egress_config, file

pytestmark = [pytest.mark.interop, pytest.mark.timeout(120)]

MakeServer = Callable[..., Coroutine[Any, Any, LiveServer]]
MakeSdk = Callable[[], Coroutine[Any, Any, SdkClient]]


class Ear:
    """An application's webhook endpoint that can be down for a while. Events that do not verify are kept apart."""

    def __init__(self) -> None:
        self.port = free_port()
        self.events: list[WebhookEvent] = []
        self.wrong: list[str] = []
        self.status = 200
        self._receiver = api.WebhookReceiver(api.TokenVerifier(KEY, SECRET))
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    async def open(self) -> None:
        app = web.Application()
        app.router.add_post("/hook", self._hear)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _hear(self, request: web.Request) -> web.Response:
        body = await request.text()
        if self.status != 200:
            return web.Response(status=self.status)
        try:
            assert request.headers["content-type"] == "application/webhook+json"
            self.events.append(self._receiver.receive(body, request.headers["authorization"]))
        except Exception as error:
            self.wrong.append(f"{error}: {body}")
        return web.Response()

    def names(self, kind: str = "") -> list[str]:
        return [event.event for event in self.events if event.event.startswith(kind)]

    async def until(self, what: Callable[[], bool], within_s: float = 15) -> None:
        try:
            async with asyncio.timeout(within_s):
                while not what():  # noqa: ASYNC110 (posts bring it about)
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"not within {within_s} s: {self.names()} {self.wrong}") from None


@contextlib.asynccontextmanager
async def heard_studio(make_server: MakeServer, make_sdk: MakeSdk, root: Path) -> AsyncIterator[tuple[Studio, Ear]]:
    ear = Ear()
    await ear.open()
    server = await make_server(egress_config(root) + f"webhook:\n  urls: ['{ear.url}']\n  api_key: {KEY}\n")
    studio = Studio(server, make_sdk, root)
    try:
        yield studio, ear
    finally:
        await studio.close()
        await server.stop()
        await ear.close()
    assert "Traceback" not in server.log(), server.log()[-6000:]


async def scripted_call(studio: Studio) -> str:
    """Every kind of room, participant, track and egress event; the egress's id."""
    made = await studio.api.room.create_room(
        api.CreateRoomRequest(name=studio.room, metadata="about", empty_timeout=60, departure_timeout=60)
    )
    assert made.metadata == "about"
    sids = await studio.enter("ada", RED)
    begun = await studio.api.egress.start_room_composite_egress(
        api.RoomCompositeEgressRequest(room_name=studio.room, advanced=SMALL, file_outputs=file("call.mp4"))
    )
    await studio.active(begun.egress_id)
    await asyncio.sleep(1)
    assert (await studio.stop(begun.egress_id)).status == COMPLETE
    await studio.people["ada"].do("unpublish", sid=sids["audio"])
    await studio.people["ada"].do("leave")
    async with asyncio.timeout(10):
        while (await studio.api.room.list_participants(api.ListParticipantsRequest(room=studio.room))).participants:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    await abort_a_join(studio)
    await studio.api.room.delete_room(api.DeleteRoomRequest(room=studio.room))
    return begun.egress_id


async def abort_a_join(studio: Studio) -> None:
    """Somebody whose signalling ends before any media connection."""
    url = f"{studio.server.http}/rtc?access_token={token(studio.room, 'zoe')}&protocol=15&sdk=js"
    async with aiohttp.ClientSession() as session, session.ws_connect(url) as socket:
        await socket.receive()
        await socket.send_bytes(bytes.fromhex("4200"))  # leave


OF_ROOM = [
    "room_started",
    "participant_joined",
    "track_published",
    "track_published",
    "track_unpublished",
    "track_unpublished",
    "participant_left",
    "participant_connection_aborted",
    "room_finished",
]
OF_EGRESS = ["egress_started", "egress_updated", "egress_updated", "egress_ended"]


def check(ear: Ear, egress_id: str) -> None:
    assert not ear.wrong
    of_room = [event for event in ear.events if not event.event.startswith("egress")]
    assert [event.event for event in of_room] == OF_ROOM
    of_egress = [event for event in ear.events if event.event.startswith("egress")]
    assert [event.event for event in of_egress] == OF_EGRESS
    assert len({event.id for event in ear.events}) == len(ear.events)
    assert all(event.id.startswith("EV_") for event in ear.events)
    assert all(event.num_dropped == 0 for event in ear.events)
    times = [event.created_at for event in of_room]
    assert times == sorted(times)
    assert {event.room.name for event in of_room} == {"studio"}
    assert len({event.room.sid for event in of_room}) == 1
    assert of_room[0].room.metadata == "about"
    people = [event.participant.identity for event in of_room[1:8]]
    assert people == ["ada"] * 6 + ["zoe"]
    published, unpublished = of_room[2:4], of_room[4:6]
    assert {event.track.sid for event in published} == {event.track.sid for event in unpublished}
    assert unpublished[0].track.type == api.TrackType.AUDIO
    assert of_room[6].participant.disconnect_reason == api.DisconnectReason.CLIENT_INITIATED
    assert {event.egress_info.egress_id for event in of_egress} == {egress_id}
    statuses = [event.egress_info.status for event in of_egress]
    assert statuses == [0, 1, 2, COMPLETE]
    assert of_egress[-1].egress_info.file_results[0].size > 0


async def test_a_call_is_told_whole_and_in_order(make_server: MakeServer, make_sdk: MakeSdk, tmp_path: Path) -> None:
    async with heard_studio(make_server, make_sdk, tmp_path) as (studio, ear):
        egress_id = await scripted_call(studio)
        await ear.until(lambda: "room_finished" in ear.names() and "egress_ended" in ear.names())
        await asyncio.sleep(0.3)
        check(ear, egress_id)


async def test_a_receiver_that_was_down_hears_it_all_later(
    make_server: MakeServer, make_sdk: MakeSdk, tmp_path: Path
) -> None:
    """Down for 10 s from the first join on: refused connections, then 503, then well again."""
    async with heard_studio(make_server, make_sdk, tmp_path) as (studio, ear):
        await ear.close()

        async def come_back() -> None:
            await asyncio.sleep(7)
            ear.status = 503
            await ear.open()
            await asyncio.sleep(3)
            assert not ear.events
            ear.status = 200

        returning = asyncio.create_task(come_back())
        egress_id = await scripted_call(studio)
        await returning
        await ear.until(lambda: "room_finished" in ear.names() and "egress_ended" in ear.names(), 60)
        await asyncio.sleep(0.3)
        check(ear, egress_id)


async def test_a_request_may_name_its_own_receiver(make_server: MakeServer, make_sdk: MakeSdk, tmp_path: Path) -> None:
    """Egress events also go where the request says, signed with the key it names."""
    async with heard_studio(make_server, make_sdk, tmp_path) as (studio, ear):
        own = Ear()
        await own.open()
        try:
            await studio.enter("ada", RED)
            request = api.RoomCompositeEgressRequest(
                room_name=studio.room,
                advanced=SMALL,
                file_outputs=file("call.mp4"),
                webhooks=[api.WebhookConfig(url=own.url, signing_key=KEY)],
            )
            begun = await studio.api.egress.start_room_composite_egress(request)
            await studio.record(begun.egress_id, 1)
            await own.until(lambda: "egress_ended" in own.names())
            assert own.names() == OF_EGRESS
            await ear.until(lambda: "egress_ended" in ear.names())
            request.webhooks[0].signing_key = "nobody"
            with pytest.raises(api.TwirpError) as refusal:
                await studio.api.egress.start_room_composite_egress(request)
            assert refusal.value.code == "invalid_argument"
            assert "webhooks" in refusal.value.message
        finally:
            await own.close()
