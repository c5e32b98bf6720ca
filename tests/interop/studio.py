"""A room with publishers of known colours and sounds, recorded through a real server's API, and what the files hold.

Colours are YUV. Publishers flash white and beep together with every second (sdk_client.py, `perform`).
"""

import asyncio
import json
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from typing import Any

from livekit import api

from tests.interop.live import KEY, ROOT, SECRET, LiveServer, token
from tests.interop.sdk import SdkClient
from tests.unit.egress.bench import Played, near, play

RED, GREEN, BLUE, YELLOW = (81, 90, 240), (145, 54, 34), (41, 240, 110), (210, 16, 146)
SMALL = api.EncodingOptions(width=320, height=180, framerate=10, video_bitrate=400)
"""What two shared cores encode without noticing."""
FLUENT = api.EncodingOptions(width=320, height=180, framerate=30, video_bitrate=500)
"""Fine enough in time to see when a flash begins."""
OVER = api.EgressStatus.EGRESS_COMPLETE
COMPLETE, FAILED, ABORTED = OVER, api.EgressStatus.EGRESS_FAILED, api.EgressStatus.EGRESS_ABORTED
ACTIVE = api.EgressStatus.EGRESS_ACTIVE
ARTIFACTS = ROOT / "artifacts"


def egress_config(root: Path, more: str = "") -> str:
    return f"egress:\n  output_roots: ['{root}']\n  allow_private_addresses: true\n{more}"


class Studio:
    """One live server with one room; `api` is livekit-api's client."""

    def __init__(
        self, server: LiveServer, make_sdk: Callable[[], Awaitable[SdkClient]], root: Path, room: str = "studio"
    ) -> None:
        self.server, self.root, self.room = server, root, room
        self.api = api.LiveKitAPI(server.http, KEY, SECRET)
        self._make_sdk = make_sdk
        self.people: dict[str, SdkClient] = {}
        self.sids: dict[str, dict[str, str]] = {}

    async def enter(self, name: str, colour: tuple[int, int, int], **how: Any) -> dict[str, str]:
        """Connect a publisher (of this name for the first time or again) and let it perform; its track sids."""
        client = self.people.get(name) or await self._make_sdk()
        again = name in self.people
        self.people[name] = client
        if again:
            await client.do("renew")
        await client.do("connect", url=self.server.url, token=token(self.room, name), auto_subscribe=False)
        self.sids[name] = await client.do("perform", colour=colour, **how)
        return self.sids[name]

    async def info(self, egress_id: str) -> api.EgressInfo:
        found = (await self.api.egress.list_egress(api.ListEgressRequest(egress_id=egress_id))).items
        assert len(found) == 1, f"{egress_id} is listed {len(found)} times"
        return found[0]

    async def until(
        self, egress_id: str, what: Callable[[api.EgressInfo], bool], within_s: float = 20
    ) -> api.EgressInfo:
        info = None
        try:
            async with asyncio.timeout(within_s):
                while True:
                    info = await self.info(egress_id)
                    if what(info):
                        return info
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"not within {within_s} s: {info}\n{self.server.log()[-3000:]}") from None

    async def active(self, egress_id: str, within_s: float = 20) -> api.EgressInfo:
        return await self.until(egress_id, lambda info: info.status >= ACTIVE, within_s)

    async def ended(self, egress_id: str, within_s: float = 30) -> api.EgressInfo:
        return await self.until(egress_id, lambda info: info.status >= OVER, within_s)

    async def stop(self, egress_id: str) -> api.EgressInfo:
        await self.api.egress.stop_egress(api.StopEgressRequest(egress_id=egress_id))
        return await self.ended(egress_id)

    async def record(self, egress_id: str, seconds: float) -> api.EgressInfo:
        """Let a started egress run for so long from its first media on, then stop it; it must end well."""
        info = await self.active(egress_id)
        assert info.status == ACTIVE, info
        await asyncio.sleep(seconds)
        info = await self.stop(egress_id)
        assert info.status == COMPLETE, info
        return info

    async def close(self) -> None:
        await self.api.aclose()


def probe(path: Path | str) -> dict[str, Any]:
    """ffprobe's view of a file, and a full decode by ffmpeg that must say nothing."""
    words = ["ffprobe", "-v", "error", "-show_streams", "-show_format", "-of", "json", str(path)]
    shown = subprocess.run(words, capture_output=True, timeout=60)
    assert shown.returncode == 0, shown.stderr
    assert not shown.stderr, shown.stderr
    decoded = subprocess.run(
        ["ffmpeg", "-v", "error", "-xerror", "-i", str(path), "-map", "0", "-f", "null", "-"],
        capture_output=True,
        timeout=120,
    )
    assert decoded.returncode == 0, decoded.stderr
    assert not decoded.stderr, decoded.stderr
    answer: dict[str, Any] = json.loads(shown.stdout)
    return answer


def streams(path: Path | str) -> dict[str, dict[str, Any]]:
    """{video: {...}, audio: {...}} of ffprobe."""
    return {stream["codec_type"]: stream for stream in probe(path)["streams"]}


def file(path: str, **more: Any) -> list[api.EncodedFileOutput]:
    return [api.EncodedFileOutput(filepath=path, **more)]


def lasts(info: api.FileInfo, path: Path) -> dict[str, dict[str, Any]]:
    """The file decodes and is as long and as large as EgressInfo says, +-0.3 s; its streams."""
    assert info.location == str(path)
    assert info.size == path.stat().st_size
    assert abs(info.duration - (info.ended_at - info.started_at)) < 1e6
    found = streams(path)
    for stream in found.values():
        if "duration" in stream:
            assert abs(float(stream["duration"]) - info.duration / 1e9) <= 0.3, (stream, info)
    return found


def between_flashes(footage: Played, x: int, y: int, after_s: float = 0.0) -> float:
    """A moment half a second after a flash: when the publishers show their colours."""
    return next(flash + 0.5 for flash in footage.flashes(x, y) if flash >= after_s)


def offsets_ms(footage: Played, x: int, y: int) -> list[float]:
    """For each flash, how much later its beep is; those without a partner within 300 ms are left out."""
    found, beeps = [], footage.beeps()
    for flash in footage.flashes(x, y):
        nearest = min(beeps, key=lambda beep: abs(beep - flash), default=None)
        if nearest is not None and abs(nearest - flash) < 0.3:
            found.append((nearest - flash) * 1000)
    return found


def in_sync(footage: Played, x: int, y: int, at_least: int) -> float:
    """The median offset in ms; AssertionError beyond what people accept (60 ms)."""
    offsets = offsets_ms(footage, x, y)
    assert len(offsets) >= at_least, f"{len(offsets)} pairs; flashes {footage.flashes(x, y)}, beeps {footage.beeps()}"
    middle = median(offsets)
    assert abs(middle) <= 60, offsets
    return middle


def keep_frame(path: Path, at_s: float, name: str) -> None:
    """A PNG of this moment under artifacts/, to be looked at."""
    ARTIFACTS.mkdir(exist_ok=True)
    command = ["ffmpeg", "-v", "error", "-y", "-ss", f"{at_s:.3f}", "-i", str(path), "-frames:v", "1"]
    subprocess.run([*command, str(ARTIFACTS / f"{name}.png")], check=True, timeout=60)


__all__ = ["near", "play"]
