"""Real encoded media for the outputs: H264, VP8, VP9, AV1, AAC, Opus, made once per run by the encoders in PyAV."""

from collections.abc import Iterable, Iterator
from fractions import Fraction
from functools import lru_cache

import av
import numpy as np
from av.codec.context import Flags

from tertulia.egress.outputs.api import EncodedPacket, StreamSpec

FPS = 30
EPOCH_NS = 1_790_000_000_000_000_000

_ENCODERS = {
    "h264": ("libx264", {"preset": "ultrafast", "tune": "zerolatency", "forced-idr": "1"}),
    "vp8": ("libvpx", {"deadline": "realtime", "cpu-used": "16", "lag-in-frames": "0"}),
    "vp9": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0"}),
    "av1": ("libsvtav1", {"preset": "12"}),
}


def _picture(index: int, width: int, height: int, noisy: bool) -> av.VideoFrame:
    """A field whose brightness says the frame's number, so that frames can be told apart; or noise, for many bytes."""
    frame = av.VideoFrame(width, height, "yuv420p")
    for plane, value in zip(frame.planes, (16 + index * 5 % 200, 90, 160), strict=True):
        plane.update(bytes((value,)) * plane.buffer_size)
    if noisy:
        luma = np.random.default_rng(index).integers(16, 235, frame.planes[0].buffer_size, dtype=np.uint8)
        frame.planes[0].update(luma.tobytes())
    frame.pts, frame.time_base = index, Fraction(1, FPS)
    return frame


@lru_cache
def video(
    codec: str = "h264",
    seconds: float = 4,
    width: int = 160,
    height: int = 96,
    key_frame_s: float = 1,
    b_frames: int = 0,
    global_header: bool = False,
    bit_rate: int = 300_000,
) -> tuple[StreamSpec, tuple[EncodedPacket, ...]]:
    name, options = _ENCODERS[codec]
    options = dict(options)
    gop = int(key_frame_s * FPS)
    if codec == "h264":
        options["x264-params"] = f"keyint={gop}:min-keyint={gop}:scenecut=0:bframes={b_frames}:rc-lookahead=0"
        if b_frames:
            del options["tune"]
    encoder = av.CodecContext.create(name, "w")
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
    encoder.framerate, encoder.time_base, encoder.bit_rate = Fraction(FPS), Fraction(1, FPS), bit_rate
    encoder.gop_size, encoder.options, encoder.thread_count = gop, options, 1
    if global_header:
        encoder.flags |= Flags.global_header.value
    encoded = [
        p for i in range(int(seconds * FPS)) for p in encoder.encode(_picture(i, width, height, bit_rate > 1_000_000))
    ]
    encoded += encoder.encode(None)
    packets = tuple(
        EncodedPacket("video", bytes(p), p.pts, p.dts, Fraction(1, FPS), bool(p.is_keyframe), 1) for p in encoded
    )
    extradata = bytes(encoder.extradata or b"") if global_header else b""
    spec = StreamSpec("video", codec, Fraction(1, FPS), extradata, width, height, Fraction(FPS), bit_rate=bit_rate)
    return spec, packets


@lru_cache
def audio(
    codec: str = "aac", seconds: float = 4, rate: int = 48_000, channels: int = 2
) -> tuple[StreamSpec, tuple[EncodedPacket, ...]]:
    """A tone of 440 Hz."""
    encoder = av.CodecContext.create({"aac": "aac", "opus": "libopus", "mp3": "libmp3lame"}[codec], "w")
    samples = {"aac": 1024, "opus": 960, "mp3": 1152}[codec]
    layout = "stereo" if channels == 2 else "mono"
    encoder.sample_rate, encoder.layout, encoder.bit_rate = rate, layout, 96_000
    encoder.format = "s16" if codec == "opus" else "fltp"
    encoder.time_base = Fraction(1, rate)
    encoder.flags |= Flags.global_header.value
    encoded = []
    for index in range(int(seconds * rate / samples)):
        wave = np.sin(2 * np.pi * 440 * (np.arange(samples) + index * samples) / rate) * 0.3
        if codec == "opus":
            plane = np.repeat((wave * 32767).astype(np.int16), channels).reshape(1, -1)
        else:
            plane = np.stack([wave.astype(np.float32)] * channels)
        frame = av.AudioFrame.from_ndarray(plane, format=encoder.format.name, layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, index * samples, Fraction(1, rate)
        encoded += encoder.encode(frame)
    encoded += encoder.encode(None)
    packets = tuple(
        EncodedPacket("audio", bytes(p), p.pts, p.dts, Fraction(1, rate), True, samples) for p in encoded if p.size
    )
    extradata = bytes(encoder.extradata or b"") if codec == "aac" else b""
    spec = StreamSpec(
        "audio", codec, Fraction(1, rate), extradata, sample_rate=rate, channels=channels, bit_rate=96_000
    )
    return spec, packets


def seconds_of(packet: EncodedPacket) -> float:
    return float(packet.dts * packet.time_base)


def interleave(*streams: Iterable[EncodedPacket]) -> list[EncodedPacket]:
    return sorted((p for stream in streams for p in stream), key=seconds_of)


def shifted(packets: Iterable[EncodedPacket], by_s: float) -> Iterator[EncodedPacket]:
    for packet in packets:
        ticks = round(by_s / packet.time_base)
        yield packet._replace(pts=packet.pts + ticks, dts=packet.dts + ticks)


def annex_b_units(data: bytes) -> list[int]:
    """Kinds of the NAL units, for asserts."""
    starts = [i + 3 for i in range(len(data) - 3) if data[i : i + 3] == b"\0\0\1"]
    return [data[i] & 31 for i in starts]
