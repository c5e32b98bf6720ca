"""Our HLS in Chromium with hls.js: a finished recording, and one that is being made."""

import asyncio
import functools
import threading
import time
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser

from tertulia.egress.outputs.hls import SegmentsOutput, SegmentsPlan
from tertulia.egress.outputs.upload import Depot
from tests.unit.egress_outputs import media

pytestmark = pytest.mark.interop

_PLAY = """async ({url, seconds}) => {
  const video = document.querySelector('video'), errors = [], started = performance.now();
  const hls = new Hls({maxBufferLength: 4, liveSyncDurationCount: 2});
  hls.on(Hls.Events.ERROR, (_, data) => errors.push(`${data.type} ${data.details} fatal=${data.fatal}`));
  hls.loadSource(url); hls.attachMedia(video); await video.play();
  while (video.currentTime < seconds && !video.ended && performance.now() - started < 30000)
    await new Promise(done => setTimeout(done, 50));
  const quality = video.getVideoPlaybackQuality();
  return {errors, time: video.currentTime, ended: video.ended, frames: quality.totalVideoFrames,
          audio: video.webkitAudioDecodedByteCount, width: video.videoWidth};
}"""


@pytest.fixture
def site(tmp_path: Path, node_parts: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

    (tmp_path / "hls.js").write_bytes((node_parts / "node_modules/hls.js/dist/hls.min.js").read_bytes())
    (tmp_path / "index.html").write_text("<!doctype html><script src=hls.js></script><video muted></video>")
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=tmp_path))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


async def play(browser: Browser, site: str, playlist: str, seconds: float) -> dict[str, Any]:
    page = await browser.new_page()
    await page.goto(site)
    played: dict[str, Any] = await page.evaluate(_PLAY, {"url": f"{site}/{playlist}", "seconds": seconds})
    await page.close()
    return played


async def test_a_finished_recording_plays_to_its_end(browser: Browser, site: str, tmp_path: Path) -> None:
    (video_spec, video), (audio_spec, audio) = (
        media.video(seconds=6, global_header=True),
        media.audio(seconds=6),
    )
    out = SegmentsOutput(SegmentsPlan("rec/s", "rec/all.m3u8", segment_s=2), Depot(tmp_path))
    out.open([video_spec, audio_spec], media.EPOCH_NS)
    for packet in media.interleave(video, audio):
        out.write(packet)
    await out.close()
    assert out.failed is None
    played = await play(browser, site, "rec/all.m3u8", 60)
    assert played["errors"] == []
    assert played["ended"]
    assert abs(played["time"] - 6) < 0.2
    assert played["frames"] > 150
    assert played["audio"] > 30_000
    assert played["width"] == 160


async def test_a_recording_can_be_watched_while_it_is_made(browser: Browser, site: str, tmp_path: Path) -> None:
    (video_spec, video), (audio_spec, audio) = media.video(seconds=16, global_header=True), media.audio(seconds=16)
    out = SegmentsOutput(SegmentsPlan("s", "all.m3u8", "live.m3u8", segment_s=1), Depot(tmp_path))
    out.open([video_spec, audio_spec], time.time_ns())

    async def record() -> None:
        begun = time.monotonic()
        for packet in media.interleave(video, audio):
            await asyncio.sleep(max(0, media.seconds_of(packet) - (time.monotonic() - begun)))
            out.write(packet)

    recording = asyncio.create_task(record())
    async with asyncio.timeout(10):
        while out.result().segments[0].segment_count < 3:  # noqa: ASYNC110 (another thread)
            await asyncio.sleep(0.05)
    played = await play(browser, site, "live.m3u8", 6)
    recording.cancel()
    await out.close()
    assert played["errors"] == []
    assert played["time"] >= 6
    assert played["frames"] > 100
    assert played["audio"] > 30_000
