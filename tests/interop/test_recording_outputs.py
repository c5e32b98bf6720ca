"""Where recordings of a live room go: HLS, RTMP, WebSocket, object stores; and when those refuse, die or are full."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import obstore
import pytest
from aiohttp import web
from livekit import api
from playwright.async_api import Browser

from tests.interop.live import LiveServer
from tests.interop.sdk import SdkClient
from tests.interop.studio import (
    ACTIVE,
    BLUE,
    COMPLETE,
    FAILED,
    RED,
    SMALL,
    Studio,
    between_flashes,
    egress_config,
    file,
    lasts,
    near,
    play,
    probe,
    streams,
)
from tests.interop.test_egress_outputs_hls import play as play_hls
from tests.interop.test_egress_outputs_hls import site
from tests.interop.test_egress_outputs_rtmp import Nginx, nginx
from tests.interop.test_egress_outputs_storage import moto, reader

__all__ = ["nginx", "site"]
"""Fixtures."""

pytestmark = [pytest.mark.interop, pytest.mark.timeout(120)]

MakeServer = Callable[..., Coroutine[Any, Any, LiveServer]]
MakeSdk = Callable[[], Coroutine[Any, Any, SdkClient]]
REFUSING = "rtmp://127.0.0.1:9/live/nobody"


async def until(what: Callable[[], bool], within_s: float = 10) -> None:
    async with asyncio.timeout(within_s):
        while not what():  # noqa: ASYNC110 (another process brings it about)
            await asyncio.sleep(0.1)


def composite(room: str, **outputs: Any) -> api.RoomCompositeEgressRequest:
    return api.RoomCompositeEgressRequest(room_name=room, layout="speaker", advanced=SMALL, **outputs)


async def test_segments_play_in_a_browser(
    studio: Studio, node_parts: Path, site: str, browser: Browser, tmp_path: Path
) -> None:
    """While the recording runs and after it; images and a file come from the same encode."""
    await studio.enter("ada", RED)
    begun = await studio.api.egress.start_room_composite_egress(
        composite(
            studio.room,
            segment_outputs=[
                api.SegmentedFileOutput(
                    filename_prefix="hls/part",
                    playlist_name="hls/all.m3u8",
                    live_playlist_name="hls/live.m3u8",
                    segment_duration=1,
                )
            ],
            image_outputs=[api.ImageOutput(filename_prefix="hls/shot", capture_interval=2)],
            file_outputs=file("hls/all.mp4"),
        )
    )
    await studio.active(begun.egress_id)
    live = tmp_path / "hls/live.m3u8"
    await until(lambda: live.exists() and live.read_text().count("#EXTINF") >= 2)
    playing = await play_hls(browser, site, "hls/live.m3u8", 2)
    assert playing["errors"] == []
    assert playing["time"] >= 2
    await asyncio.sleep(2)
    info = await studio.stop(begun.egress_id)
    assert info.status == COMPLETE, info
    (made,) = info.segment_results
    whole = await asyncio.to_thread((tmp_path / "hls/all.m3u8").read_text)
    assert whole.count("#EXTINF") == made.segment_count
    assert "#EXT-X-ENDLIST" in whole
    parts = await asyncio.to_thread(lambda: sorted(tmp_path.glob("hls/part_*.ts")))
    assert len(parts) == made.segment_count
    assert made.size == sum(part.stat().st_size for part in parts)
    found = streams(tmp_path / "hls/all.m3u8")
    assert (found["video"]["codec_name"], found["audio"]["codec_name"]) == ("h264", "aac")
    lasts(info.file_results[0], tmp_path / "hls/all.mp4")
    shown = await play_hls(browser, site, "hls/all.m3u8", 60)
    assert shown["errors"] == []
    assert shown["ended"]
    assert shown["time"] == pytest.approx(made.duration / 1e9, abs=0.3)
    assert shown["width"] == 320
    shots = await asyncio.to_thread(lambda: list(tmp_path.glob("hls/shot_*.jpeg")))
    assert info.image_results[0].image_count == len(shots) >= 2


async def test_streams_arrive_and_one_dead_address_harms_nobody(studio: Studio, nginx: Nginx) -> None:
    await studio.enter("ada", RED)
    begun = await studio.api.egress.start_room_composite_egress(
        composite(
            studio.room, stream_outputs=[api.StreamOutput(urls=[nginx.url("alpha"), REFUSING])], file_outputs=file("a")
        )
    )
    dead = await studio.until(
        begun.egress_id,
        lambda info: any(one.status == api.StreamInfo.Status.FAILED for one in info.stream_results),
    )
    assert dead.status == ACTIVE
    assert [one.status for one in dead.stream_results] == [api.StreamInfo.Status.ACTIVE, api.StreamInfo.Status.FAILED]
    assert "alpha" not in str(dead.stream_results), "stream keys are masked"
    await asyncio.sleep(2)
    changed = await studio.api.egress.update_stream(
        api.UpdateStreamRequest(egress_id=begun.egress_id, add_output_urls=[nginx.url("beta")])
    )
    assert len(changed.stream_results) == 3
    await asyncio.sleep(4)
    await studio.api.egress.update_stream(
        api.UpdateStreamRequest(egress_id=begun.egress_id, remove_output_urls=[nginx.url("alpha")])
    )
    await asyncio.sleep(1)
    info = await studio.stop(begun.egress_id)
    assert info.status == COMPLETE, info
    assert [one.status for one in info.stream_results] == [
        api.StreamInfo.Status.FINISHED,
        api.StreamInfo.Status.FAILED,
        api.StreamInfo.Status.FINISHED,
    ]
    await asyncio.sleep(0.5)
    for key, stream in (("alpha", info.stream_results[0]), ("beta", info.stream_results[2])):
        (path,) = nginx.recordings(key)
        found = probe(path)
        assert {one["codec_name"] for one in found["streams"]} == {"h264", "aac"}
        footage = play(path)
        # all streams begin as far behind the room as the timeline runs; one that is removed also ends there
        assert footage.times[-1] - footage.times[0] == pytest.approx(stream.duration / 1e9, abs=1.7)
        assert near(footage.colour_at(between_flashes(footage, 160, 90), 160, 90), RED)
    lasts(info.file_results[0], studio.root / "a.mp4")


async def test_a_stream_outlives_its_sink(studio: Studio, nginx: Nginx) -> None:
    await studio.enter("ada", RED)
    begun = await studio.api.egress.start_room_composite_egress(
        composite(studio.room, stream_outputs=[api.StreamOutput(urls=[nginx.url("key")])])
    )
    await studio.active(begun.egress_id)
    await asyncio.sleep(4)
    nginx.kill()
    await asyncio.sleep(1)
    nginx.start()
    await studio.until(begun.egress_id, lambda info: info.stream_results[0].retries > 0, 10)
    await until(lambda: len(nginx.recordings("key")) == 2, 15)
    await asyncio.sleep(3)
    info = await studio.stop(begun.egress_id)
    assert info.status == COMPLETE, info
    await asyncio.sleep(0.5)
    second = nginx.recordings("key")[-1]
    probe(second)
    footage = play(second)
    assert footage.times[-1] - footage.times[0] >= 2.5
    assert near(footage.colour_at(between_flashes(footage, 160, 90), 160, 90), RED)
    assert len(footage.beeps()) >= 2


async def test_streams_that_all_fail_end_the_job(studio: Studio, nginx: Nginx) -> None:
    await studio.enter("ada", RED)
    denied = nginx.url("key", app="deny")
    begun = await studio.api.egress.start_room_composite_egress(
        composite(studio.room, stream_outputs=[api.StreamOutput(urls=[REFUSING, denied])])
    )
    info = await studio.ended(begun.egress_id)
    assert info.status == FAILED
    assert info.error_code == 503
    assert info.error


async def test_sound_over_a_websocket(studio: Studio) -> None:
    """PCM at 48 kHz with words about muting; the peer hanging up fails the job, the peer refusing too."""
    pcm, words, kinds = bytearray(), [], []

    async def listen(request: web.Request) -> web.WebSocketResponse:
        kinds.append(request.headers["content-type"])
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            if message.type == aiohttp.WSMsgType.BINARY:
                pcm.extend(message.data)
            elif message.type == aiohttp.WSMsgType.TEXT:
                words.append(json.loads(message.data))
            if request.path == "/rude" and len(pcm) > 100_000:
                await socket.close()
        return socket

    app = web.Application()
    app.router.add_get("/{any}", listen)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    try:
        sids = await studio.enter("ada", RED, tone_hz=500)

        def wish(path: str) -> api.TrackEgressRequest:
            return api.TrackEgressRequest(
                room_name=studio.room, track_id=sids["audio"], websocket_url=f"ws://127.0.0.1:{port}/{path}"
            )

        begun = await studio.api.egress.start_track_egress(wish("ear"))
        await studio.active(begun.egress_id)
        await asyncio.sleep(3)
        await studio.people["ada"].do("mute", kind="audio", muted=True)
        await asyncio.sleep(1)
        await studio.people["ada"].do("mute", kind="audio", muted=False)
        await asyncio.sleep(1.5)
        info = await studio.stop(begun.egress_id)
        assert info.status == COMPLETE, info
        assert kinds == ["audio/x-raw"]
        assert words == [{"muted": True}, {"muted": False}]
        sound = np.frombuffer(bytes(pcm), np.int16).reshape(-1, 2)
        # nothing is sent while it is muted
        assert len(sound) / 48_000 == pytest.approx(info.stream_results[0].duration / 1e9 - 1, abs=0.5)
        spectrum = np.abs(np.fft.rfft(sound[48_000:96_000, 0].astype(float)))
        assert spectrum[500] > 20 * spectrum[700:800].max()
        assert np.abs(sound).max() > 10_000

        pcm.clear()
        rude = await studio.api.egress.start_track_egress(wish("rude"))
        info = await studio.ended(rude.egress_id)
        assert (info.status, info.error_code) == (FAILED, 503)
    finally:
        await runner.cleanup()
    gone = await studio.api.egress.start_track_egress(wish("ear"))
    assert (await studio.ended(gone.egress_id)).status == FAILED


async def test_an_object_equals_the_local_file(studio: Studio) -> None:
    """Into S3, named by the request; the file that waited on disk is held by a second name to compare."""
    async with moto() as endpoint:
        async with aiohttp.ClientSession() as session, session.put(f"{endpoint}/rec") as answer:
            assert answer.status == 200
        s3 = api.S3Upload(
            access_key="canarykey", secret="canarysecretcanary", region="us-east-1", endpoint=endpoint, bucket="rec",
            force_path_style=True,
        )  # fmt: skip
        await studio.enter("ada", RED)
        begun = await studio.api.egress.start_room_composite_egress(
            composite(studio.room, file_outputs=file("calls/{room_name}.mp4", s3=s3))
        )
        assert "canary" not in str(begun)
        await studio.active(begun.egress_id)
        await asyncio.sleep(3)
        held = studio.root / "held.mp4"
        (waiting,) = [path for path in studio.root.glob(".pending/**/*.mp4*") if path.is_file()]
        os.link(waiting, held)
        info = await studio.stop(begun.egress_id)
        assert info.status == COMPLETE, info
        (made,) = info.file_results
        got = await obstore.get_async(reader(endpoint), f"calls/{studio.room}.mp4")
        content = bytes(await got.bytes_async())
        assert made.location == f"{endpoint}/rec/calls/{studio.room}.mp4"
        assert len(content) == made.size
        assert content == held.read_bytes()
        fetched = studio.root / "fetched.mp4"
        fetched.write_bytes(content)
        found = streams(fetched)
        assert float(found["video"]["duration"]) == pytest.approx(made.duration / 1e9, abs=0.3)
        assert "canary" not in studio.server.log()


@pytest.mark.parametrize(
    "answer",
    [403, 500, pytest.param(None, marks=pytest.mark.long)],
)
async def test_stores_that_refuse(studio: Studio, answer: int | None) -> None:
    """403, 500 or silence for everything: FAILED with words, and the recording stays on the disk."""
    over = asyncio.Event()

    async def refuse(request: web.Request) -> web.Response:
        await request.read()
        if answer is None:
            await over.wait()
        return web.Response(status=answer or 500, text="<Error/>", content_type="application/xml")

    app = web.Application(client_max_size=1 << 26)
    app.router.add_route("*", "/{any:.*}", refuse)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    s3 = api.S3Upload(
        access_key="canarykey", secret="canarysecretcanary", region="us-east-1", endpoint=f"http://127.0.0.1:{port}",
        bucket="rec", force_path_style=True,
    )  # fmt: skip
    try:
        await studio.enter("ada", RED)
        begun = await studio.api.egress.start_room_composite_egress(
            composite(studio.room, file_outputs=file("kept.mp4", s3=s3))
        )
        await studio.active(begun.egress_id)
        await asyncio.sleep(2)
        await studio.api.egress.stop_egress(api.StopEgressRequest(egress_id=begun.egress_id))
        info = await studio.ended(begun.egress_id, 100)
        assert info.status == FAILED
        assert "canary" not in str(info)
        assert info.error
        kept = [path for path in studio.root.glob("**/kept.mp4") if path.is_file()]
        assert kept, "the recording is gone"
        streams(kept[0])
        assert str(kept[0]) in str(info), "the caller is told where"
        for path in kept:
            path.unlink()
            shutil.rmtree(studio.root / ".pending", ignore_errors=True)
    finally:
        over.set()
        await runner.cleanup()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "small"
    place.mkdir()
    if os.getuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", place]).returncode:
        pytest.skip("mounting needs root")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


async def test_a_disk_that_fills_up(make_server: MakeServer, make_sdk: MakeSdk, small_disk: Path) -> None:
    server = await make_server(egress_config(small_disk))
    studio = Studio(server, make_sdk, small_disk)
    try:
        sids = await studio.enter("ada", BLUE)
        other = await studio.api.egress.start_track_egress(
            api.TrackEgressRequest(
                room_name=studio.room, track_id=sids["audio"], file=api.DirectFileOutput(filepath="sound")
            )
        )
        rich = api.EncodingOptions(width=1280, height=720, framerate=10, video_bitrate=8000)
        begun = await studio.api.egress.start_room_composite_egress(
            api.RoomCompositeEgressRequest(
                room_name=studio.room, advanced=rich, file_outputs=file("full.mp4"), layout="single-speaker"
            )
        )
        await studio.active(begun.egress_id)
        await asyncio.sleep(5)
        ballast = small_disk / "ballast"
        with ballast.open("wb", buffering=0) as out:
            try:
                while True:
                    out.write(bytes(4096))
            except OSError:
                pass
        for one in (begun, other):
            info = await studio.ended(one.egress_id, 30)
            assert info.status == FAILED, info
            assert "disk is full" in info.error
            assert near(play(small_disk / "full.mp4").colour_at(0.9, 640, 360), BLUE)
        assert (await studio.api.room.list_rooms(api.ListRoomsRequest())).rooms[0].num_participants == 1
        assert not (await studio.api.egress.list_egress(api.ListEgressRequest(active=True))).items
        assert server.process is not None
        assert server.process.returncode is None
    finally:
        await studio.close()
    assert await server.stop(signal.SIGTERM) == 0
    assert "Traceback" not in server.log(), server.log()[-6000:]
