"""A room to record without an SFU: synthetic publishers whose RTP is made by real encoders, in virtual time."""

import functools
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from random import Random

import av
import numpy as np
from livekit.protocol import models

from tertulia.protocol.errors import RequestError
from tertulia.protocol.machine import MILLISECOND, SECOND, Nanos
from tertulia.protocol.tap import (
    ParticipantGone,
    RoomGone,
    SenderClock,
    SpeakersChanged,
    TapEvent,
    TapPacket,
    TrackAvailable,
    TrackGone,
)

MTU = 1100
GOP = 10
RED, GREEN, BLUE, YELLOW, GREY = (81, 90, 240), (145, 54, 34), (41, 240, 110), (210, 16, 146), (126, 128, 128)
"""YUV, as cameras send them."""

_ENCODERS = {
    "video/VP8": ("libvpx", {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0", "auto-alt-ref": "0"}),
    "video/VP9": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0"}),
    "video/H264": ("libx264", {"preset": "ultrafast", "tune": "zerolatency", "profile": "baseline", "forced-idr": "1"}),
    "video/AV1": ("libsvtav1", {"preset": "11", "svtav1-params": "pred-struct=1:rc=2:rtc=1:keyint=10"}),
}


def picture(width: int, height: int, colour: tuple[int, int, int], index: int) -> av.VideoFrame:
    """One colour, a bright bar that moves, and in the first tenth of a second white (the flash)."""
    frame = av.VideoFrame(width, height, "yuv420p")
    for plane, value in zip(frame.planes, colour, strict=True):
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
        rows[:] = value
    luma = np.frombuffer(memoryview(frame.planes[0]), np.uint8).reshape(-1, frame.planes[0].line_size)
    bar = (index * 8) % max(8, width - 8)
    luma[-height // 8 :, bar : bar + 8] = 235
    if index < 3:
        for plane, value in zip(frame.planes, (235, 128, 128), strict=True):
            np.frombuffer(memoryview(plane), np.uint8)[:] = value
    return frame


@functools.cache
def video(
    mime: str, width: int, height: int, colour: tuple[int, int, int], frames: int = 30, fps: int = 30
) -> list[bytes]:
    """`frames` encoded pictures, every tenth a key frame; played round and round, in step with the clock."""
    name, options = _ENCODERS[mime]
    context = av.CodecContext.create(name, "w")
    context.width, context.height, context.pix_fmt = width, height, "yuv420p"
    context.framerate, context.time_base = Fraction(fps), Fraction(1, fps)
    context.bit_rate, context.gop_size, context.thread_count = 800_000, GOP, 1
    context.options = options
    packets: list[bytes] = []
    for index in range(frames):
        shown = picture(width, height, colour, index)
        shown.pts, shown.time_base = index, Fraction(1, fps)
        packets += [bytes(p) for p in context.encode(shown)]
    packets += [bytes(p) for p in context.encode(None)]
    assert len(packets) == frames
    return packets


@functools.cache
def tone(hertz: int, channels: int = 2) -> list[bytes]:
    """One second of Opus in 20 ms frames: a quiet tone that is loud for the first tenth of a second (the beep)."""
    context = av.CodecContext.create("libopus", "w")
    context.sample_rate, context.layout, context.format = 48_000, "stereo" if channels == 2 else "mono", "s16"
    context.bit_rate, context.options = 64_000, {"application": "audio", "frame_duration": "20"}
    at = np.arange(48_000 * 2) / 48_000
    loud = np.where(at % 1 < 0.1, 12_000, 1_500)
    wave = (np.sin(2 * math.pi * hertz * at) * loud).astype(np.int16)
    packets = []
    for start in range(0, len(wave), 960):
        samples = np.repeat(wave[start : start + 960], channels).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout=context.layout.name)
        frame.sample_rate, frame.pts, frame.time_base = 48_000, start, Fraction(1, 48_000)
        packets += [bytes(p) for p in context.encode(frame)]
    return packets[50:100]


# Packetisers: RTP payloads of one frame.


def vp8_payloads(frame: bytes) -> list[bytes]:
    parts = [frame[at : at + MTU] for at in range(0, len(frame), MTU)]
    return [bytes([0x90 if i == 0 else 0x80, 0x80, 0x81, 0x23]) + part for i, part in enumerate(parts)]


def vp9_payloads(frame: bytes, *, key: bool) -> list[bytes]:
    parts = [frame[at : at + MTU] for at in range(0, len(frame), MTU)]
    payloads = []
    for index, part in enumerate(parts):
        first = 0x80 | (0 if key else 0x40) | (0x08 if index == 0 else 0) | (0x04 if index == len(parts) - 1 else 0)
        structure = b""
        if key and index == 0:
            first |= 0x02
            structure = bytes([0x10]) + struct.pack("!HH", 320, 180)
        payloads.append(bytes([first, 0x85, 0x67]) + structure + part)
    return payloads


def nal_units(annexb: bytes) -> list[bytes]:
    parts = annexb.replace(b"\x00\x00\x00\x01", b"\x00\x00\x01").split(b"\x00\x00\x01")
    return [part for part in parts if part]


def h264_payloads(frame: bytes) -> list[bytes]:
    units = nal_units(frame)
    small = [unit for unit in units if unit[0] & 31 in (6, 7, 8)]
    payloads = []
    if small:
        payloads.append(bytes([0x78]) + b"".join(struct.pack("!H", len(unit)) + unit for unit in small))
    for unit in units:
        if unit in small:
            continue
        if len(unit) <= MTU:
            payloads.append(unit)
            continue
        parts = [unit[at : at + MTU] for at in range(1, len(unit), MTU)]
        for index, part in enumerate(parts):
            marks = (0x80 if index == 0 else 0) | (0x40 if index == len(parts) - 1 else 0)
            payloads.append(bytes([unit[0] & 0xE0 | 28, marks | unit[0] & 31]) + part)
    return payloads


def leb128(value: int) -> bytes:
    out = b""
    while value >= 0x80:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def obus(unit: bytes) -> list[bytes]:
    """The OBUs of a temporal unit, without size fields and without the delimiter."""
    found, at = [], 0
    while at < len(unit):
        head = 2 if unit[at] & 4 else 1
        size, shift, cursor = 0, 0, at + head
        while True:
            byte = unit[cursor]
            size |= (byte & 0x7F) << shift
            cursor, shift = cursor + 1, shift + 7
            if not byte & 0x80:
                break
        if unit[at] >> 3 & 15 != 2:
            found.append(bytes([unit[at] & ~2]) + unit[at + 1 : at + head] + unit[cursor : cursor + size])
        at = cursor + size
    return found


def av1_payloads(unit: bytes, *, key: bool) -> list[bytes]:
    """Every OBU an element of its own; long ones are cut over packets."""
    payloads = []
    elements = obus(unit)
    for number, obu in enumerate(elements):
        parts = [obu[at : at + MTU] for at in range(0, len(obu), MTU)]
        for index, part in enumerate(parts):
            header = (0x80 if index else 0) | (0x40 if index < len(parts) - 1 else 0)
            header |= 0x08 if key and number == index == 0 else 0
            if index % 2:
                payloads.append(bytes([header | 0x10]) + part)
            else:
                payloads.append(bytes([header]) + leb128(len(part)) + part)
    return payloads


def payloads(mime: str, frame: bytes, *, key: bool) -> list[bytes]:
    match mime:
        case "video/VP8":
            return vp8_payloads(frame)
        case "video/VP9":
            return vp9_payloads(frame, key=key)
        case "video/H264":
            return h264_payloads(frame)
        case "video/AV1":
            return av1_payloads(frame, key=key)
        case _:
            return [frame]


# The room.


class VirtualClock:
    def __init__(self) -> None:
        self.now = Nanos(1000 * SECOND)

    def __call__(self) -> Nanos:
        return self.now


@dataclass
class Track:
    """What somebody publishes: encoded frames per layer height, played from `start` on."""

    sid: str
    kind: int
    source: int
    mime: str
    layers: dict[int, list[bytes]]
    size: tuple[int, int] = (0, 0)
    fps: int = 30
    delay_ns: int = 20 * MILLISECOND
    loss: float = 0.0
    reports: bool = True
    drift: float = 0.0
    start: int = 0
    muted: bool = False
    key_requests: int = 0
    first_timestamp: int = 0xFFFF_0000
    encryption: int = 0
    damage: float = 0.0
    """Share of packets with a few wrong bytes."""

    @property
    def clock_hz(self) -> int:
        return 90_000 if self.kind == models.VIDEO else 48_000

    @property
    def period_ns(self) -> int:
        return SECOND // self.fps if self.kind == models.VIDEO else 20 * MILLISECOND

    def info(self) -> models.TrackInfo:
        width, height = self.size
        info = models.TrackInfo(
            sid=self.sid,
            type=self.kind,
            source=self.source,
            muted=self.muted,
            width=width,
            height=height,
            encryption=self.encryption,
        )
        for layer in self.layers:
            if self.kind == models.VIDEO:
                info.layers.add(height=layer, width=width * layer // height)
        return info


def camera(
    sid: str, colour: tuple[int, int, int], *, mime: str = "video/VP8", size: tuple[int, int] = (640, 360),
    heights: tuple[int, ...] = (360,), source: int = models.CAMERA, **more: object,
) -> Track:  # fmt: skip
    layers = {height: video(mime, size[0] * height // size[1] & ~1, height, colour) for height in heights}
    return Track(sid, models.VIDEO, source, mime, layers, size, **more)  # type: ignore[arg-type]


def microphone(sid: str, hertz: int, **more: object) -> Track:
    return Track(sid, models.AUDIO, models.MICROPHONE, "audio/opus", {0: tone(hertz)}, **more)  # type: ignore[arg-type]


@dataclass
class Person:
    identity: str
    sid: str
    kind: int = models.ParticipantInfo.Kind.STANDARD
    joined_at: int = 0
    tracks: dict[str, Track] = field(default_factory=dict)

    def info(self) -> models.ParticipantInfo:
        return models.ParticipantInfo(identity=self.identity, sid=self.sid, kind=self.kind, joined_at=self.joined_at)


@dataclass
class _Tap:
    track: Track
    height: int
    next_frame: int
    sequence: int
    wanted_height: int = 0
    lost: int = 0
    clock: SenderClock | None = None
    next_report: int = 0


class Studio:
    """The whole room; each `view()` is a TapRoom of its own."""

    def __init__(self, name: str = "studio") -> None:
        self.name = name
        self.clock = VirtualClock()
        self.people: dict[str, Person] = {}
        self.views: list[View] = []
        self.gone = False
        self.distant: set[str] = set()
        """Tracks that are known and cannot be tapped yet."""
        self.rng = Random(7)

    def view(self) -> "View":
        view = View(self)
        self.views.append(view)
        return view

    def rooms(self, name: str) -> "View":
        if name != self.name or self.gone:
            raise RequestError("not_found", "requested room does not exist")
        return self.view()

    def join(self, identity: str, *tracks: Track, kind: int = models.ParticipantInfo.Kind.STANDARD) -> Person:
        person = Person(identity, f"PA_{identity}", kind, joined_at=len(self.people))
        self.people[identity] = person
        for track in tracks:
            self.publish(person, track)
        return person

    def publish(self, person: Person, track: Track) -> None:
        track.start = self.clock.now
        person.tracks[track.sid] = track
        self._tell(self._available(person, track))

    def mute(self, person: Person, sid: str, muted: bool = True) -> None:
        person.tracks[sid].muted = muted
        self._tell(self._available(person, person.tracks[sid]))

    def unpublish(self, person: Person, sid: str) -> None:
        del person.tracks[sid]
        self._tell(TrackGone(person.sid, sid))

    def leave(self, person: Person) -> None:
        for sid in list(person.tracks):
            self.unpublish(person, sid)
        del self.people[person.identity]
        self._tell(ParticipantGone(person.identity, person.sid))

    def speak(self, *people: Person) -> None:
        self._tell(SpeakersChanged(tuple(person.sid for person in people)))

    def end(self) -> None:
        self.gone = True
        self._tell(RoomGone(0))

    def _available(self, person: Person, track: Track) -> TrackAvailable:
        return TrackAvailable(person.info(), track.info(), track.mime, track.clock_hz)

    def _tell(self, event: TapEvent) -> None:
        for view in self.views:
            view.pending.append(event)

    def find(self, sid: str) -> Track | None:
        return next((person.tracks[sid] for person in self.people.values() if sid in person.tracks), None)


class View:
    """Satisfies TapRoom."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        self.pending: list[TapEvent] = [
            studio._available(person, track) for person in studio.people.values() for track in person.tracks.values()
        ]
        self.taps: dict[int, _Tap] = {}
        self._next_tap = 1
        self.opened: list[tuple[str, int | None]] = []
        self.resized: list[tuple[str, int | None]] = []
        self.left = False

    @property
    def info(self) -> models.Room:
        return models.Room(name=self._studio.name, sid="RM_studio")

    def events(self) -> list[TapEvent]:
        events, self.pending = self.pending, []
        return events

    def open(self, track_sid: str, *, max_height: int | None = None) -> int:
        track = self._studio.find(track_sid)
        if track is None or track_sid in self._studio.distant:
            raise RequestError("not_found", "track does not exist")
        self.opened.append((track_sid, max_height))
        number, self._next_tap = self._next_tap, self._next_tap + 1
        next_frame = max(0, -(-(self._studio.clock.now - track.start) // track.period_ns))
        next_frame = 0 if next_frame <= 3 else next_frame
        height = self._layer(track, max_height)
        tap = _Tap(track, height, next_frame, 65_500, height)
        tap.next_report = Nanos(self._studio.clock.now + 300 * MILLISECOND)
        self.taps[number] = tap
        return number

    def resize(self, tap: int, max_height: int | None) -> None:
        of = self.taps[tap]
        self.resized.append((of.track.sid, max_height))
        of.wanted_height = self._layer(of.track, max_height)

    def request_key_frame(self, tap: int) -> None:
        self.taps[tap].track.key_requests += 1

    def take(self, tap: int) -> tuple[list[TapPacket], int]:
        of, now = self.taps[tap], self._studio.clock.now
        track, out = of.track, []
        while (captured := track.start + of.next_frame * track.period_ns) + track.delay_ns <= now:
            index = of.next_frame % len(track.layers[of.height])
            timestamp = self._timestamp(track, of.next_frame)
            of.next_frame += 1
            if track.muted:
                continue
            key = index % GOP == 0
            if key:
                of.height = of.wanted_height
            frames = track.layers[of.height]
            parts = payloads(track.mime, frames[index], key=key)
            for number, payload in enumerate(parts):
                sequence, of.sequence = of.sequence & 0xFFFF, of.sequence + 1
                if track.loss and self._studio.rng.random() < track.loss:
                    continue
                arrival = Nanos(captured + track.delay_ns)
                marker = number == len(parts) - 1
                if track.damage and self._studio.rng.random() < track.damage:
                    payload = self._damaged(payload)
                out.append(TapPacket(arrival, sequence, timestamp, marker, key, of.height, payload))
        lost, of.lost = of.lost, 0
        return out, lost

    def clock(self, tap: int) -> SenderClock | None:
        of, now = self.taps[tap], self._studio.clock.now
        if of.track.reports and now >= of.next_report:
            of.next_report = Nanos(now + SECOND)
            frame = max(0, (now - of.track.start) // of.track.period_ns)
            captured = of.track.start + frame * of.track.period_ns
            # The publisher's clock began somewhere else; the report itself takes 20 ms.
            ntp_ns = captured + 3_000_000 * SECOND
            ntp = (ntp_ns // SECOND << 32) + (ntp_ns % SECOND << 32) // SECOND
            of.clock = SenderClock(ntp, self._timestamp(of.track, frame), Nanos(captured + 20 * MILLISECOND))
        return of.clock

    def close(self, tap: int) -> None:
        del self.taps[tap]

    def leave(self) -> None:
        self.taps.clear()
        self.left = True
        self._studio.views.remove(self)

    def _damaged(self, payload: bytes) -> bytes:
        wrong = bytearray(payload)
        for _ in range(3):
            wrong[self._studio.rng.randrange(len(wrong))] ^= self._studio.rng.randrange(1, 256)
        return bytes(wrong)

    @staticmethod
    def _timestamp(track: Track, frame: int) -> int:
        ticks = frame * track.period_ns * track.clock_hz // SECOND
        return (track.first_timestamp + int(ticks * (1 + track.drift))) & 0xFFFFFFFF

    @staticmethod
    def _layer(track: Track, max_height: int | None) -> int:
        fitting = [height for height in track.layers if max_height is None or height <= max_height]
        return max(fitting, default=min(track.layers))


Script = Callable[[Studio], None]
