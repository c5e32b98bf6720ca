"""Recordings that take minutes: lip sync through loss and mute, and what a killed server leaves behind."""

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles

import pytest
from livekit import api

from tests.interop.studio import (
    BLUE,
    COMPLETE,
    FLUENT,
    RED,
    SMALL,
    Studio,
    file,
    keep_frame,
    lasts,
    near,
    play,
    probe,
)

pytestmark = [pytest.mark.interop, pytest.mark.long, pytest.mark.timeout(420)]

MINUTES = 3


@contextmanager
def loss(port: int, one_in: int) -> Iterator[None]:
    """Every n-th datagram to this UDP port of loopback is lost, by chance; nobody else's are."""
    table = f"tertulia{port}"
    words = [
        f"add table inet {table}",
        f"add chain inet {table} in {{ type filter hook input priority 0; }}",
        f"add rule inet {table} in udp dport {port} numgen random mod {one_in} 0 drop",
    ]
    done = subprocess.run(["nft", "-f", "-"], input="\n".join(words), text=True, capture_output=True)
    if done.returncode:
        pytest.skip(f"no packet filter here: {done.stderr[:100]}")
    try:
        yield
    finally:
        subprocess.run(["nft", "delete", "table", "inet", table], check=True)


@pytest.mark.skipif(os.getuid() != 0 or shutil.which("nft") is None, reason="losing packets needs root and nft")
async def test_lip_sync_through_loss_and_mute(studio: Studio) -> None:
    await studio.enter("ada", RED, tone_hz=300, fps=20)
    await studio.enter("bob", BLUE, tone_hz=500, fps=20)
    with loss(studio.server.udp_port, 50):
        begun = await studio.api.egress.start_room_composite_egress(
            api.RoomCompositeEgressRequest(
                room_name=studio.room, layout="grid", advanced=FLUENT, file_outputs=file("long.mp4")
            )
        )
        await studio.active(begun.egress_id)
        clock = asyncio.get_running_loop().time
        zero = clock()
        await asyncio.sleep(20 * MINUTES)
        ada = studio.people["ada"]
        for kind in ("audio", "video"):
            await ada.do("mute", kind=kind, muted=True)
        muted = clock() - zero
        await asyncio.sleep(10)
        for kind in ("audio", "video"):
            await ada.do("mute", kind=kind, muted=False)
        unmuted = clock() - zero
        await asyncio.sleep(60 * MINUTES - unmuted)
        wall = clock() - zero
        info = await studio.stop(begun.egress_id)
    assert info.status == COMPLETE, info
    path = studio.root / "long.mp4"
    lasts(info.file_results[0], path)
    assert info.file_results[0].duration / 1e9 == pytest.approx(wall, abs=1.5)  # it begins a second before ACTIVE
    figures = await studio.server.metrics()
    print({name: value for name, value in figures.items() if "nack" in name or "lost" in name or "loss" in name})

    footage = play(path)
    beeps = footage.beeps()
    for x, name in ((80, "ada"), (240, "bob")):
        flashes = footage.flashes(x, 90)
        away = [flash for flash in flashes if muted + 1.5 < flash < unmuted - 1.5]
        assert (not away) == (name == "ada"), f"{name} while ada is muted: {away}"
        pairs = [
            (flash, (beep - flash) * 1000)
            for flash in flashes
            for beep in [min(beeps, key=lambda beep, flash=flash: abs(beep - flash))]  # type: ignore[misc]
            if abs(beep - flash) < 0.3
        ]
        assert len(pairs) >= (60 * MINUTES - 14) * 0.95, f"{name}: {len(pairs)} of {len(flashes)} flashes with a beep"
        offsets = sorted(abs(offset) for _, offset in pairs)
        print(name, "median", median(offsets), "p95", quantiles(offsets, n=20)[-1], "max", offsets[-1], len(offsets))
        assert quantiles(offsets, n=20)[-1] <= 60, offsets[-20:]
        for begin in range(0, 60 * MINUTES, 30):
            part = [offset for flash, offset in pairs if begin <= flash < begin + 30]
            assert abs(median(part)) <= 60, f"{name} from {begin} s on: {part}"
    at = next(flash for flash in footage.flashes(240, 90) if flash > muted + 3) + 0.5
    keep_frame(path, at, "long-muted")
    assert near(footage.colour_at(at, 240, 90), BLUE)
    assert not near(footage.colour_at(at, 80, 90), RED), "a muted camera shows nothing"
    at = next(flash for flash in footage.flashes(80, 90) if flash > unmuted + 3) + 0.5
    keep_frame(path, at, "long-unmuted")
    assert near(footage.colour_at(at, 80, 90), RED)


async def test_a_killed_server_leaves_what_it_recorded(studio: Studio) -> None:
    sids = await studio.enter("ada", RED, tone_hz=300)
    start = studio.api.egress
    jobs = [
        await start.start_room_composite_egress(
            api.RoomCompositeEgressRequest(room_name=studio.room, advanced=SMALL, file_outputs=file("room.mp4"))
        ),
        await start.start_room_composite_egress(
            api.RoomCompositeEgressRequest(room_name=studio.room, audio_only=True, file_outputs=file("sound.ogg"))
        ),
        await start.start_track_egress(
            api.TrackEgressRequest(
                room_name=studio.room, track_id=sids["video"], file=api.DirectFileOutput(filepath="track")
            )
        ),
    ]
    for job in jobs:
        await studio.active(job.egress_id)
    await asyncio.sleep(20)
    assert await studio.server.stop(signal.SIGKILL) == -signal.SIGKILL
    left = {path.name.partition(".")[0]: path for path in await asyncio.to_thread(lambda: list(studio.root.iterdir()))}
    for name in ("room", "sound", "track"):
        path: Path = left[name]
        probe(path)
        footage = play(path)
        length = footage.times[-1] if footage.times else len(footage.sound) / 48_000 - 1  # a second of silence is added
        assert length >= 18, f"{path} plays {length} s"
        if name != "sound":
            assert near(footage.colour_at(17.95, 160, 90), RED) or footage.flashes(160, 90)
        if name != "track":
            assert len(footage.beeps()) >= 17
