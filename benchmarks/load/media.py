"""Media to send: clips encoded once with PyAV, cut into RTP payloads, and the stamp their packets carry.

A clip begins with its only key frame, so a key-frame request is obeyed by starting it again, as its end is. The stamp
(send time) rides where decoders do not look: behind the last packet of a video frame, in the padding of an Opus packet
(RFC 6716 3.2.5). Whoever receives the stream can still decode it.
"""

import pickle
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np

PAYLOAD_BYTES = 1_100
"""Of the codec's data in one packet."""
FPS = 30
CLIP_S = 4
STAMP = struct.Struct("!QI4s")
"""Unix time in ns, frame number, magic."""
MAGIC = b"tBn1"
LAYERS = {"f": (1280, 720, 1_500_000), "h": (640, 360, 450_000), "q": (320, 180, 150_000)}
"""rid -> width, height, bits per second; the order browsers announce is q, h, f."""
OPUS_BPS = 32_000
_ENCODERS = {
    "vp8": ("libvpx", {"deadline": "realtime", "cpu-used": "10", "lag-in-frames": "0", "error-resilient": "1"}),
    "h264": ("libx264", {"preset": "ultrafast", "tune": "zerolatency", "profile": "baseline"}),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Clip:
    """Frames as lists of RTP payloads, without what changes from packet to packet (VP8 descriptor, stamp)."""

    codec: str
    rid: str
    width: int
    height: int
    interval_ns: int
    clock_hz: int
    frames: tuple[tuple[bytes, ...], ...]

    @property
    def packets_per_s(self) -> float:
        return sum(map(len, self.frames)) / len(self.frames) * 1e9 / self.interval_ns


def encode(codecs: set[str], rids: set[str]) -> bytes:
    """The clips of these codecs (`vp8`, `h264`, `opus`) and layers, ready to be handed to another process."""
    clips = []
    for codec in sorted(codecs):
        clips += [_opus()] if codec == "opus" else [_video(codec, rid) for rid in LAYERS if rid in rids]
    return pickle.dumps(clips)


def load(data: bytes) -> dict[tuple[str, str], Clip]:
    """What `encode` gave, by codec and layer. Only our own coordinator's bytes come here."""
    return {(clip.codec, clip.rid): clip for clip in pickle.loads(data)}


def pictures(width: int, height: int, count: int) -> Iterator[Any]:
    """A wandering texture: costs bits in every frame, like a camera, without being noise."""
    rng = np.random.default_rng(7)
    coarse = rng.integers(40, 216, (height // 8 + 40, width // 8 + 40), dtype=np.uint8)
    texture = np.kron(coarse, np.ones((8, 8), dtype=np.uint8))
    grain = rng.integers(-12, 12, texture.shape, dtype=np.int16)
    texture = np.clip(texture + grain, 16, 235).astype(np.uint8)
    chroma = np.full((height // 2, width), 128, dtype=np.uint8)
    for number in range(count):
        x, y = (number * 3) % 300, int(40 + 38 * np.sin(number / 9))
        luma = texture[y : y + height, x % 300 : x % 300 + width]
        yield np.concatenate((luma, chroma), axis=0)


def _video(codec: str, rid: str) -> Clip:
    import av

    width, height, bps = LAYERS[rid]
    name, options = _ENCODERS[codec]
    encoder: Any = av.CodecContext.create(name, "w")
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
    encoder.bit_rate, encoder.gop_size, encoder.time_base = bps, 100_000, Fraction(1, FPS)
    encoder.framerate = Fraction(FPS)
    encoder.thread_count = 1
    rate = {"maxrate": str(bps), "minrate": str(bps), "bufsize": str(bps // 2)} if codec == "vp8" else {
        "maxrate": str(bps), "bufsize": str(bps // 2)
    }  # fmt: skip
    encoder.options = {**options, **rate}
    units: list[bytes] = []
    for number, picture in enumerate(pictures(width, height, FPS * CLIP_S)):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="yuv420p")
        frame.pts = number
        units += [bytes(packet) for packet in encoder.encode(frame)]
    units += [bytes(packet) for packet in encoder.encode(None)]
    cut = cut_vp8 if codec == "vp8" else cut_h264
    return Clip(codec, rid, width, height, 1_000_000_000 // FPS, 90_000, tuple(tuple(cut(unit)) for unit in units))


def _opus() -> Clip:
    import av

    encoder: Any = av.CodecContext.create("libopus", "w")
    encoder.sample_rate, encoder.layout, encoder.format = 48_000, "mono", "s16"
    encoder.bit_rate, encoder.time_base = OPUS_BPS, Fraction(1, 48_000)
    encoder.options = {"application": "voip", "frame_duration": "20"}
    units: list[bytes] = []
    at = np.arange(960)
    for number in range(50 * CLIP_S):
        phase = (number * 960 + at) / 48_000
        voice = np.sin(phase * 2 * np.pi * 180) * (1 + np.sin(phase * 2 * np.pi * 3)) * 6_000
        frame = av.AudioFrame.from_ndarray(voice.astype(np.int16)[None, :], format="s16", layout="mono")
        frame.sample_rate, frame.pts = 48_000, number * 960
        units += [bytes(packet) for packet in encoder.encode(frame)]
    units += [bytes(packet) for packet in encoder.encode(None)]
    return Clip("opus", "", 0, 0, 20_000_000, 48_000, tuple((padded_opus(unit),) for unit in units))


# ------------------------------------------------------------------------------------------ payloads


def even_parts(data: bytes, limit: int) -> list[bytes]:
    """About equal parts of at most `limit` bytes, as libwebrtc cuts frames."""
    count = max(1, -(-len(data) // limit))
    edges = [len(data) * index // count for index in range(count + 1)]
    return [data[begin:end] for begin, end in pairwise(edges)]


def cut_vp8(unit: bytes) -> list[bytes]:
    """Frame data only; the descriptor (RFC 7741 4.2) is written when it is sent."""
    return even_parts(unit, PAYLOAD_BYTES)


def cut_h264(unit: bytes) -> list[bytes]:
    """Annex B to single NAL units, one STAP-A of the parameter sets, and FU-As (RFC 6184 5.6 to 5.8)."""
    units = [nal for nal in split_annex_b(unit) if nal[0] & 31 not in (6, 9)]  # no SEI, no delimiters
    sets = [nal for nal in units if nal[0] & 31 in (7, 8)]
    payloads: list[bytes] = []
    if sets:
        payloads.append(bytes([0x78]) + b"".join(struct.pack("!H", len(nal)) + nal for nal in sets))
    for nal in units:
        if nal[0] & 31 in (7, 8):
            continue
        if len(nal) <= PAYLOAD_BYTES:
            payloads.append(nal)
            continue
        parts = even_parts(nal[1:], PAYLOAD_BYTES - 2)
        for index, part in enumerate(parts):
            edge = (0x80 if index == 0 else 0) | (0x40 if index == len(parts) - 1 else 0)
            payloads.append(bytes([nal[0] & 0xE0 | 28, edge | nal[0] & 31]) + part)
    return payloads


def split_annex_b(unit: bytes) -> list[bytes]:
    """NAL units between start codes."""
    found: list[bytes] = []
    begin = unit.find(b"\0\0\1")
    while begin >= 0:
        end = unit.find(b"\0\0\1", begin + 3)
        nal = unit[begin + 3 : end if end >= 0 else len(unit)]
        if end >= 0:
            nal = nal.rstrip(b"\0")
        if nal:
            found.append(nal)
        begin = end
    return found


def padded_opus(unit: bytes) -> bytes:
    """The same one-frame packet in the form with padding; the padding (the stamp) comes when it is sent."""
    if not unit or unit[0] & 3:
        raise ValueError("not an Opus packet of one frame")
    return bytes([unit[0] | 3, 0x41, STAMP.size]) + unit[1:]


def vp8_descriptor(picture: int, tl0: int, start: bool) -> bytes:
    """15-bit picture id, TL0PICIDX, temporal layer 0 (RFC 7741 4.2)."""
    return bytes((0x90 if start else 0x80, 0xE0, 0x80 | picture >> 8 & 0x7F, picture & 0xFF, tl0 & 0xFF, 0))


def begins_key_frame(codec: str, payload: bytes) -> bool:
    """The first packet of a key frame, in what a receiver got."""
    if codec == "opus":
        return True
    if codec == "vp8":
        at = vp8_header_bytes(payload)
        return 0 < at < len(payload) and payload[0] & 0x17 == 0x10 and not payload[at] & 1
    if len(payload) < 2:
        return False
    kind = payload[0] & 31
    if kind == 28:
        return bool(payload[1] & 0x80) and payload[1] & 31 in (5, 7)
    if kind == 24:
        return len(payload) > 3 and payload[3] & 31 in (5, 7)
    return kind in (5, 7)


def vp8_header_bytes(payload: bytes) -> int:
    """Size of the payload descriptor, 0 when it is cut short."""
    if len(payload) < 2:
        return 0
    if not payload[0] & 0x80:
        return 1
    at = 2
    if payload[1] & 0x80:
        if at >= len(payload):
            return 0
        at += 2 if payload[at] & 0x80 else 1
    if payload[1] & 0x40:
        at += 1
    if payload[1] & 0x30:
        at += 1
    return at if at <= len(payload) else 0
