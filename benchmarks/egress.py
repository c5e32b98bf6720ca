"""What recording costs: CPU seconds per media second, as ratios measured in one run.

    python -m benchmarks.egress            all of it
    python -m benchmarks.egress composite  four 720p30 cameras, each with layers of 720 and 360 lines
    python -m benchmarks.egress track      one VP8 track and one Opus track, as they are
    python -m benchmarks.egress delay      what a forwarded packet notices of a composite in the same process

The composite runs our whole path (taps, timeline, depacketizing, decoding the layer that fits, composing, mixing,
encoding H264 and AAC, muxing MP4) against the naive one: decode every top layer, compose in RGB, encode with x264
veryfast; no sound, no RTP, no file. Everything is single-threaded and unpaced, so CPU time is exact. Only `delay` runs
in real time: the recording in its own nice'd thread, the interpreter otherwise half busy, as in `benchmarks.plane`.
"""

import asyncio
import math
import os
import resource
import statistics
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from livekit.protocol import egress, models

from benchmarks.plane import delay_ms
from tertulia.egress.api import EgressConfig
from tertulia.egress.composite import Composite
from tertulia.egress.engine import Engine, EngineSettings
from tertulia.egress.feed import Feed
from tertulia.egress.outputs.api import Output
from tertulia.egress.outputs.files import FileOutput
from tertulia.egress.outputs.upload import Depot
from tertulia.egress.passthrough import Remux
from tertulia.egress.plan import Plan, make_plan
from tertulia.egress.stage import Stage
from tertulia.egress.worker import Report, Worker
from tertulia.protocol.machine import MILLISECOND, SECOND, Nanos
from tertulia.protocol.tap import SenderClock, TapEvent, TapPacket, TrackAvailable

SECONDS = int(os.environ.get("BENCH_SECONDS", "10"))
LOOP = 4
"""Seconds of material that are played round and round."""
COMPOSITE_BUDGET, TRACK_BUDGET, DELAY_BUDGET = 0.5, 0.01, 2.0
VP8 = {"deadline": "realtime", "cpu-used": "-6", "lag-in-frames": "0", "error-resilient": "1"}


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


# Material: what webcams send, a still room with texture, a head that moves, and sensor noise.


def texture(height: int, width: int, rng: np.random.Generator) -> Any:
    picture = np.zeros((height, width), np.float32)
    for octave in range(2, 8):
        count = 2**octave
        coarse = rng.standard_normal((count + 1, count + 1)).astype(np.float32)
        y, x = np.linspace(0, count - 0.001, height), np.linspace(0, count - 0.001, width)
        row, column = y.astype(int), x.astype(int)
        down, right = (y - row)[:, None], (x - column)[None, :]
        upper = coarse[row][:, column] * (1 - right) + coarse[row][:, column + 1] * right
        lower = coarse[row + 1][:, column] * (1 - right) + coarse[row + 1][:, column + 1] * right
        picture += (upper * (1 - down) + lower * down) / 2 ** (octave * 0.8)
    picture -= picture.min()
    return picture / picture.max()


def webcam(width: int, height: int, frames: int, seed: int) -> Iterator[av.VideoFrame]:
    rng = np.random.default_rng(seed)
    room = texture(height, width, rng) * 150 + 40
    head_h, head_w = int(height * 0.62), int(width * 0.28)
    head = texture(head_h, head_w, rng) * 110 + 80
    y, x = np.mgrid[0:head_h, 0:head_w]
    oval = ((y - head_h / 2) / (head_h / 2)) ** 2 + ((x - head_w / 2) / (head_w / 2)) ** 2 < 1
    chroma = [(texture(height // 2, width // 2, rng) * 40 + 108).astype(np.uint8) for _ in range(2)]
    noise = [(rng.standard_normal((height, width)) * 2).astype(np.float32) for _ in range(7)]
    for index in range(frames):
        at = index / 30
        luma = room.copy()
        left = int(width * (0.36 + 0.05 * math.sin(at * 1.3 + seed) + 0.01 * math.sin(at * 5)))
        top = int(height * (0.25 + 0.03 * math.sin(at * 2.1 + seed)))
        luma[top : top + head_h, left : left + head_w][oval] = head[oval]
        luma = np.clip(luma + noise[index % 7], 16, 235).astype(np.uint8)
        frame = av.VideoFrame(width, height, "yuv420p")
        for plane, values in zip(frame.planes, (luma, *chroma), strict=True):
            rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
            rows[:, : values.shape[1]] = values
        frame.pts, frame.time_base = index, Fraction(1, 30)
        yield frame


def encoded(width: int, height: int, bit_rate: int, seed: int) -> list[bytes]:
    context: Any = av.CodecContext.create("libvpx", "w")
    context.width, context.height, context.pix_fmt = width, height, "yuv420p"
    context.framerate, context.time_base = Fraction(30), Fraction(1, 30)
    context.bit_rate, context.gop_size, context.thread_count, context.options = bit_rate, LOOP * 30, 2, VP8
    packets = [bytes(p) for frame in webcam(width, height, LOOP * 30, seed) for p in context.encode(frame)]
    return packets + [bytes(p) for p in context.encode(None)]


def speech(seed: int) -> list[bytes]:
    context: Any = av.CodecContext.create("libopus", "w")
    context.sample_rate, context.layout, context.format, context.bit_rate = 48_000, "stereo", "s16", 32_000
    rng, packets = np.random.default_rng(seed), []
    for index in range(LOOP * 50):
        at = (np.arange(960) + index * 960) / 48_000
        loud = (math.sin(index / 17 + seed) > -0.3) * (0.5 + 0.5 * math.sin(index / 3))
        tone = np.sin(2 * np.pi * (140 + 20 * seed) * at) + 0.5 * np.sin(2 * np.pi * 1900 * at)
        wave = ((tone + 0.1 * rng.standard_normal(960)) * loud * 6000).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(np.repeat(wave, 2).reshape(1, -1), format="s16", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = 48_000, index * 960, Fraction(1, 48_000)
        packets += [bytes(p) for p in context.encode(frame)]
    return packets


# The room: packets made beforehand, so that the benchmark measures recording only.


class Source:
    def __init__(
        self, available: TrackAvailable, layers: dict[int, list[bytes]], period_ns: int, start: int, seconds: int
    ) -> None:
        self._seconds = seconds
        self.available, self.period_ns, self.start = available, period_ns, start
        self.packets = {height: self._packets(frames) for height, frames in layers.items()}
        """Per layer, per frame: arrival-ordered packets of the whole benchmark."""

    def _packets(self, frames: list[bytes]) -> list[list[TapPacket]]:
        video = self.available.track.type == models.VIDEO
        out, sequence = [], 0
        for index in range((self._seconds + 1) * SECOND // self.period_ns):
            data = frames[index % len(frames)]
            parts = [data[at : at + 1100] for at in range(0, len(data), 1100)]
            timestamp = index * self.period_ns * self.available.clock_hz // SECOND & 0xFFFFFFFF
            group = []
            for number, part in enumerate(parts):
                if video:
                    part = struct.pack("!BBH", 0x90 if number == 0 else 0x80, 0x80, 0x8000 | index & 0x7FFF) + part
                arrival = Nanos(self.start + index * self.period_ns)
                marker = number == len(parts) - 1
                group.append(TapPacket(arrival, sequence & 0xFFFF, timestamp, marker, False, 0, part))
                sequence += 1
            out.append(group)
        return out


class Room:
    """Satisfies TapRoom."""

    def __init__(self, sources: list[Source]) -> None:
        self.now = sources[0].start
        self._sources = {source.available.track.sid: source for source in sources}
        self._events: list[TapEvent] = [source.available for source in sources]
        self._taps: dict[int, tuple[Source, int, int]] = {}
        self.info = models.Room(name="bench", sid="RM_bench")

    def events(self) -> list[TapEvent]:
        events, self._events = self._events, []
        return events

    def open(self, track_sid: str, *, max_height: int | None = None) -> int:
        source = self._sources[track_sid]
        heights = [height for height in source.packets if max_height is None or height <= max_height]
        self._taps[len(self._taps)] = source, max(heights, default=min(source.packets)), 0
        return len(self._taps) - 1

    def resize(self, tap: int, max_height: int | None) -> None:
        raise AssertionError("nobody moves in this room")

    def request_key_frame(self, tap: int) -> None: ...

    def take(self, tap: int) -> tuple[list[TapPacket], int]:
        source, height, index = self._taps[tap]
        out: list[TapPacket] = []
        while source.start + index * source.period_ns <= self.now:
            out += source.packets[height][index]
            index += 1
        self._taps[tap] = source, height, index
        return out, 0

    def clock(self, tap: int) -> SenderClock | None:
        return None

    def close(self, tap: int) -> None: ...

    def leave(self) -> None: ...


def person(index: int, kind: models.TrackType, mime: str, hertz: int) -> TrackAvailable:
    who = models.ParticipantInfo(sid=f"PA_{index}", identity=f"p{index}", joined_at=index)
    track = models.TrackInfo(sid=f"TR_{index}_{kind}", type=kind, source=models.CAMERA)
    if kind == models.VIDEO:
        track.width, track.height = 1280, 720
        for height in (360, 720):
            track.layers.add(width=height * 16 // 9, height=height)
    else:
        track.source = models.MICROPHONE
    return TrackAvailable(who, track, mime, hertz)


def cameras() -> list[tuple[list[bytes], list[bytes]]]:
    """Four people: 720 and 360 lines of the same scene."""
    return [(encoded(1280, 720, 1_700_000, seed), encoded(640, 360, 450_000, seed)) for seed in (0, 10, 20, 30)]


async def record(plan: Plan, sources: list[Source], make: Callable[[list[Output]], Engine], name: str) -> float:
    """CPU seconds per media second of one recording, taps to file."""
    room = Room(sources)
    with tempfile.TemporaryDirectory() as directory:
        output = FileOutput(name, Depot(Path(directory)))
        size = (plan.video.width, plan.video.height) if plan.video else None
        engine = make([output])
        feed = Feed(room, Stage(plan.source, size, audio=True), lambda batch: engine.feed(batch, 0))
        before = cpu_s()
        for _ in range(SECONDS * 50):
            room.now += 20 * MILLISECOND
            feed.tick(Nanos(room.now))
        engine.finish(Nanos(room.now))
        await output.close()
        used = cpu_s() - before
        assert output.failed is None, output.failed
        assert os.path.getsize(Path(directory) / name) > 10_000  # noqa: ASYNC240
    return used / SECONDS


def composite_of(
    material: list[tuple[list[bytes], list[bytes]]], start: int, seconds: int
) -> tuple[Plan, list[Source]]:
    request = egress.RoomCompositeEgressRequest(
        room_name="bench", file_outputs=[egress.EncodedFileOutput(filepath="c.mp4")]
    )
    sources = []
    for index, (high, low) in enumerate(material):
        camera = person(index, models.VIDEO, "video/VP8", 90_000)
        sources.append(Source(camera, {720: high, 360: low}, SECOND // 30, start + index * 7 * MILLISECOND, seconds))
        voice = person(index, models.AUDIO, "audio/opus", 48_000)
        sources.append(Source(voice, {0: speech(index)}, 20 * MILLISECOND, start, seconds))
    return make_plan(request), sources


async def composite(material: list[tuple[list[bytes], list[bytes]]], preset: str) -> float:
    plan, sources = composite_of(material, 1000 * SECOND, SECONDS)
    settings = EngineSettings(1000 * MILLISECOND, 0, preset)
    return await record(plan, sources, lambda outputs: Composite(plan, outputs, settings), "c.mp4")


async def in_real_time(plan: Plan, sources: list[Source], stop: threading.Event) -> None:
    """One composite as a node runs it: the feed on a loop, the engine in a nice'd thread."""
    room, finished = Room(sources), asyncio.Event()
    loop = asyncio.get_running_loop()
    with tempfile.TemporaryDirectory() as directory:
        output = FileOutput("c.mp4", Depot(Path(directory)))
        engine = Composite(plan, [output], EngineSettings(1000 * MILLISECOND, 0))

        def told(report: Report) -> None:
            assert report.failed is None, report.failed
            if report.finished:
                loop.call_soon_threadsafe(finished.set)

        worker = Worker(lambda: engine, told, name="bench", nice=EgressConfig(root=Path(directory)).nice)
        worker.start()
        feed = Feed(room, Stage(plan.source, (1280, 720), audio=True), worker.put)
        while not stop.is_set():
            room.now = time.monotonic_ns()
            feed.tick(Nanos(room.now))
            await asyncio.sleep(0.02)
        worker.stop(Nanos(room.now))
        await finished.wait()
        await output.close()
        assert output.failed is None, output.failed


def delay(material: list[tuple[list[bytes], list[bytes]]]) -> bool:
    """The plane's delay without and with a composite beside it, three times each. A lost packet is a timeout."""
    seconds = min(SECONDS, 5.0)
    alone, beside = [], []
    for _ in range(3):
        alone.append(delay_ms(seconds, "compiled"))
        stop, begins = threading.Event(), time.monotonic_ns() + 3 * SECOND
        plan, sources = composite_of(material, begins, 30)
        time.sleep(max(0.0, (begins - time.monotonic_ns()) / 1e9))
        thread = threading.Thread(target=lambda *what: asyncio.run(in_real_time(*what)), args=(plan, sources, stop))
        thread.start()
        time.sleep(1.5)  # past its beginning, where encoders open
        beside.append(delay_ms(seconds, "compiled"))
        stop.set()
        thread.join()
    for name, runs in (("alone", alone), ("beside a composite", beside)):
        p90, p99 = (statistics.median(run[i] for run in runs) for i in (0, 1))
        print(f"plane's delay {name:48} p90 {p90:6.3f} ms  p99 {p99:6.3f} ms", flush=True)
    ratio = statistics.median(run[1] for run in beside) / statistics.median(run[1] for run in alone)
    met = ratio <= DELAY_BUDGET
    print(f"{'p99 beside / alone':62} {ratio:8.2f}  (budget {DELAY_BUDGET}: {'ok' if met else 'MISSED'})")
    return met


async def track(frames: list[bytes], mime: str, hertz: int, name: str) -> float:
    kind = models.VIDEO if hertz == 90_000 else models.AUDIO
    available = person(0, kind, mime, hertz)
    plan = make_plan(
        egress.TrackEgressRequest(
            room_name="bench", track_id=available.track.sid, file=egress.DirectFileOutput(filepath=name)
        )
    )
    period = SECOND // 30 if kind == models.VIDEO else 20 * MILLISECOND
    source = Source(available, {720: frames}, period, 1000 * SECOND, SECONDS)
    return await record(plan, [source], lambda outputs: Remux(outputs, EngineSettings(0, 0)), name)


def naive(material: list[tuple[list[bytes], list[bytes]]]) -> float:
    """Every top layer decoded, scaled and composed in RGB, encoded with x264 veryfast."""
    decoders: list[Any] = [av.CodecContext.create("vp8", "r") for _ in material]
    for decoder in decoders:
        decoder.thread_count = 1
    encoder: Any = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = 1280, 720, "yuv420p"
    encoder.framerate, encoder.time_base = Fraction(30), Fraction(1, 30)
    encoder.bit_rate, encoder.thread_count = 3_000_000, 1
    encoder.options = {"preset": "veryfast", "profile": "main", "x264-params": "vbv-maxrate=3000:vbv-bufsize=6000"}
    before = cpu_s()
    for index in range(SECONDS * 30):
        canvas = np.zeros((720, 1280, 3), np.uint8)
        for place, (decoder, (high, _)) in enumerate(zip(decoders, material, strict=True)):
            picture = decoder.decode(av.Packet(high[index % len(high)]))[0]
            tile = picture.reformat(640, 360, "rgb24", interpolation="BILINEAR", threads=1).to_ndarray()
            y, x = place // 2 * 360, place % 2 * 640
            canvas[y : y + 360, x : x + 640] = tile
        frame = av.VideoFrame.from_ndarray(canvas, format="rgb24").reformat(format="yuv420p", threads=1)
        frame.pts, frame.time_base = index, Fraction(1, 30)
        encoder.encode(frame)
    encoder.encode(None)
    return (cpu_s() - before) / SECONDS


def show(what: str, cost: float, remark: str = "") -> None:
    print(f"{what:62} {cost:8.4f} CPU-s/media-s  {remark}", flush=True)


async def costs(what: str, material: list[tuple[list[bytes], list[bytes]]]) -> int:
    """How many budgets were missed."""
    failed = 0
    if what in ("all", "composite"):
        base = naive(material)
        show("naive: 4 x 720p VP8, composed in RGB, x264 veryfast", base)
        for preset in ("superfast", "veryfast", "ultrafast"):
            cost = await composite(material, preset)
            ratio = cost / base
            judged = preset == "superfast"
            failed += judged and ratio > COMPOSITE_BUDGET
            verdict = (
                f" (budget {COMPOSITE_BUDGET}: {'ok' if ratio <= COMPOSITE_BUDGET else 'MISSED'})" if judged else ""
            )
            show(f"composite: 4 tiles 720p30 + 4 voices, {preset}", cost, f"{ratio:.2f} x naive{verdict}")
    if what in ("all", "track"):
        for mime, frames, hertz, name in (
            ("video/VP8", material[0][0], 90_000, "v.webm"),
            ("audio/opus", speech(0), 48_000, "a.ogg"),
        ):
            cost = await track(frames, mime, hertz, name)
            failed += cost > TRACK_BUDGET
            verdict = "ok" if cost <= TRACK_BUDGET else "MISSED"
            show(f"track as it is: {mime}", cost, f"(budget {TRACK_BUDGET}: {verdict})")
    return failed


def main(what: str) -> int:
    material = cameras()
    missed = asyncio.run(costs(what, material))
    if what in ("all", "delay"):
        missed += not delay(material)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "all"))
