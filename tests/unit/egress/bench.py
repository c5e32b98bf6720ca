"""A service and a studio driven together in virtual time, and what a recording is judged by."""

import asyncio
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
from livekit.protocol import egress

from tertulia.egress.api import EgressConfig
from tertulia.egress.service import EgressService
from tertulia.protocol.machine import MILLISECOND, SECOND
from tests.unit.egress.studio import Studio

WALL_AT_ZERO = 1_700_000_000 * SECOND
STEP_NS = 20 * MILLISECOND


class Bench:
    """`run(3)` lets three seconds pass for the room and for the recordings, as fast as they can."""

    def __init__(self, root: Path, studio: Studio | None = None, **config: Any) -> None:
        self.root = root
        self.studio = studio or Studio()
        self.updates: list[egress.EgressInfo] = []
        self._ids = 0
        self._paused: asyncio.Future[None] | None = None
        self.service = EgressService(
            self.studio.rooms,
            EgressConfig(root, **{"cpu_cores": 64.0, **config}),
            on_update=self.updates.append,
            new_id=self._new_id,
            clock=self.studio.clock,
            wall_ns=lambda: WALL_AT_ZERO + self.studio.clock.now,
            pause=self._pause,
        )

    def _new_id(self) -> str:
        self._ids += 1
        return f"EG_{self._ids:012d}"

    async def _pause(self, seconds: float) -> None:
        self._paused = asyncio.get_running_loop().create_future()
        await self._paused

    async def run(self, seconds: float) -> None:
        for step in range(round(seconds * SECOND / STEP_NS)):
            self.studio.clock.now += STEP_NS  # type: ignore[assignment]
            await self._tick()
            if step % 8 == 7:
                await self.settle()
        await self.settle()

    async def _tick(self) -> None:
        if self._paused is not None and not self._paused.done():
            self._paused.set_result(None)
        for _ in range(3):
            await asyncio.sleep(0)

    async def settle(self) -> None:
        for session in self.service.sessions:
            if session.worker is not None:
                assert await asyncio.to_thread(session.worker.settle, 30.0)
        await asyncio.sleep(0)

    async def ended(self, egress_id: str) -> egress.EgressInfo:
        """Wait for the end of a job that has been told to end."""
        while True:
            for session in self.service.sessions:
                if session.job.egress_id == egress_id:
                    async with asyncio.timeout(60):
                        await session.done.wait()
            found = (await self.service.list(egress.ListEgressRequest(egress_id=egress_id))).items
            if found and found[0].status >= egress.EGRESS_COMPLETE:
                return found[0]
            await self._tick()

    async def stop(self, egress_id: str) -> egress.EgressInfo:
        await self.service.stop(egress.StopEgressRequest(egress_id=egress_id))
        return await self.ended(egress_id)

    async def close(self) -> None:
        await self.service.close()


@dataclass
class Played:
    """A recording, decoded to the end."""

    times: list[float] = field(default_factory=list)
    pictures: list[Any] = field(default_factory=list)
    """YUV planes as arrays, every picture."""
    sound: Any = None
    """Mono float samples at 48 kHz, on the file's timeline."""
    size: tuple[int, int] = (0, 0)
    codecs: tuple[str, ...] = ()
    duration: float = 0.0

    def colour_at(self, seconds: float, x: int, y: int) -> tuple[int, int, int]:
        """YUV of one pixel of the picture that stands at this time."""
        index = max(i for i, t in enumerate(self.times) if t <= seconds + 1e-6)
        luma, cb, cr = self.pictures[index]
        return int(luma[y, x]), int(cb[y // 2, x // 2]), int(cr[y // 2, x // 2])

    def picture_at(self, seconds: float) -> Any:
        index = max(i for i, t in enumerate(self.times) if t <= seconds + 1e-6)
        return self.pictures[index]

    def flashes(self, x: int, y: int) -> list[float]:
        """When the spot becomes white."""
        bright = [int(p[0][y, x]) > 200 and abs(int(p[1][y // 2, x // 2]) - 128) < 12 for p in self.pictures]
        return [t for t, now, before in zip(self.times, bright, [False, *bright], strict=False) if now and not before]

    def beeps(self, threshold: float = 0.12) -> list[float]:
        """When the sound becomes loud (5 ms windows)."""
        window = 240
        count = len(self.sound) // window
        level = np.abs(self.sound[: count * window].reshape(count, window)).max(axis=1)
        loud, found, quiet = level > threshold, [], 100
        for index, now in enumerate(loud):
            if now and quiet > 20:
                found.append(index * window / 48_000)
            quiet = 0 if now else quiet + 1
        return found

    def level(self, start: float, end: float) -> float:
        part = self.sound[int(start * 48_000) : int(end * 48_000)]
        return float(np.sqrt(np.mean(part**2))) if len(part) else 0.0

    def pitch(self, start: float, end: float) -> list[int]:
        """The frequencies heard, strongest first."""
        part = self.sound[int(start * 48_000) : int(end * 48_000)]
        spectrum = np.abs(np.fft.rfft(part * np.hanning(len(part))))
        peaks = [
            i for i in range(2, len(spectrum) - 2)
            if spectrum[i] == spectrum[i - 2 : i + 3].max() and spectrum[i] > spectrum.max() / 6
        ]  # fmt: skip
        peaks.sort(key=lambda i: -spectrum[i])
        return [round(i * 48_000 / len(part)) for i in peaks]


def play(path: Path) -> Played:
    """Decode everything; any error in the file is an error here."""
    found = Played()
    parts: list[tuple[float, Any]] = []
    with av.open(str(path)) as container:
        found.codecs = tuple(stream.codec_context.name for stream in container.streams)
        found.duration = (container.duration or 0) / 1e6
        resampler = av.AudioResampler("flt", "mono", 48_000)
        for packet in container.demux():
            for frame in packet.decode():
                if isinstance(frame, av.VideoFrame):
                    found.size = frame.width, frame.height
                    found.times.append(frame.time or 0.0)
                    found.pictures.append(_planes(frame))
                elif isinstance(frame, av.AudioFrame):
                    for out in resampler.resample(frame):
                        parts.append((frame.time or 0.0, out.to_ndarray().reshape(-1)))
    if parts:
        end = max(time + len(samples) / 48_000 for time, samples in parts)
        found.sound = np.zeros(int(end * 48_000) + 48_000, np.float32)
        for time, samples in parts:
            at = max(0, round(time * 48_000))
            found.sound[at : at + len(samples)] = samples[: len(found.sound) - at]
    return found


def _planes(frame: av.VideoFrame) -> list[Any]:
    planes = []
    for index, plane in enumerate(frame.planes[:3]):
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
        shift = 0 if index == 0 else 1
        planes.append(rows[: frame.height >> shift, : frame.width >> shift].copy())
    return planes


def near(colour: tuple[int, int, int], wanted: tuple[int, int, int], tolerance: int = 12) -> bool:
    return all(abs(a - b) <= tolerance for a, b in zip(colour, wanted, strict=True))


def file_size(location: str) -> int:
    return Path(location).stat().st_size


def names(root: Path, pattern: str) -> list[str]:
    return sorted(path.name for path in root.glob(f"**/{pattern}"))


async def left_on_disk(path: Path, least: float) -> Played:
    """What could be played if nothing were ever written again; the output's own thread may need a moment."""
    copy = path.with_suffix(".copy" + path.suffix)
    async with asyncio.timeout(10):
        while True:
            await asyncio.to_thread(shutil.copy, path, copy)
            played = await asyncio.to_thread(play, copy)
            if played.duration >= least:
                return played
