"""Encoded packets into containers by libav, into a Python file object and never into an address.

Decides how streams are declared to libav and in which time base, and repairs what a container cannot bear (timestamps
that stand still, key frames without parameter sets). Does not decide when a file begins or ends. Template streams are
used where PyAV cannot set a stream's parameters by hand: a few bytes of Ogg or FLV are opened and their stream copied.
"""

import io
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction
from typing import Any, Protocol

import av

from tertulia.egress.outputs import flv, headers
from tertulia.egress.outputs.api import EncodedPacket, StreamSpec
from tertulia.protocol.errors import PeerError

VIDEO_TIME_BASE = Fraction(1, 90_000)


class ByteSink(Protocol):
    """What libav writes to. `seek` and `tell` only for containers that need them."""

    def write(self, data: bytes, /) -> int: ...


class Muxer:
    """One container. Not thread-safe; every method may raise OSError from the sink or av.FFmpegError, `write` also
    PeerError for a frame no container should hold."""

    def __init__(
        self,
        sink: ByteSink,
        container: str,
        streams: Sequence[StreamSpec],
        options: Mapping[str, str],
        offset_ns: int,
        key_frame: bytes = b"",
    ) -> None:
        """`offset_ns` is taken from every timestamp; `key_frame` is the first the video stream has."""
        self._offset_ns = offset_ns
        self._container: Any = av.open(sink, "w", format=container, options=dict(options))
        self._streams: dict[str, Any] = {}
        self._time_bases: dict[str, Fraction] = {}
        self._last_dts: dict[str, int] = {}
        self._parameter_sets = b""
        self._av1 = next((spec.kind for spec in streams if spec.codec == "av1"), None)
        for spec in streams:
            stream = _declare(self._container, spec, key_frame)
            time_base = VIDEO_TIME_BASE if spec.kind == "video" else Fraction(1, spec.sample_rate)
            stream.time_base = time_base
            if spec.codec == "h264":
                self._parameter_sets = spec.extradata
            self._streams[spec.kind], self._time_bases[spec.kind] = stream, time_base

    def write(self, packet: EncodedPacket) -> None:
        time_base = self._time_bases.get(packet.stream)
        if time_base is None or not packet.data:
            return
        if packet.stream == self._av1 and not headers.is_whole_av1(packet.data):
            raise PeerError("a damaged AV1 frame")
        offset = self._offset_ns / (1_000_000_000 * time_base)
        scale = packet.time_base / time_base
        pts, dts = round(packet.pts * scale - offset), round(packet.dts * scale - offset)
        dts = max(dts, self._last_dts.get(packet.stream, dts - 1) + 1)
        self._last_dts[packet.stream] = dts
        out = av.Packet(self._complete(packet))
        out.time_base = time_base
        out.pts, out.dts, out.duration = max(pts, dts), dts, round(packet.duration * scale)
        out.is_keyframe = packet.key_frame
        out.stream = self._streams[packet.stream]
        self._container.mux(out)

    def _complete(self, packet: EncodedPacket) -> bytes:
        """The first key frame is where libav takes an H264 stream's parameters from, and each is where a player may
        begin, so all carry them."""
        if not (packet.key_frame and packet.stream == "video" and self._parameter_sets):
            return packet.data
        return packet.data if headers.parameter_sets(packet.data) else self._parameter_sets + packet.data

    def close(self) -> None:
        """Write the trailer."""
        self._container.close()


def _declare(container: Any, spec: StreamSpec, key_frame: bytes) -> Any:
    if spec.codec == "vp9" and key_frame:  # MP4's vpcC says profile and depth, which libav reads from a frame
        with av.open(io.BytesIO(_ivf_start(spec, key_frame)), "r", format="ivf") as source:
            return container.add_stream_from_template(source.streams.video[0], opaque=True)
    if spec.kind == "video":
        rate = spec.frame_rate or Fraction(30)
        return container.add_mux_stream(spec.codec, rate=rate, width=spec.width or 16, height=spec.height or 16)
    with _template(spec) as template:
        return container.add_stream_from_template(template, opaque=True)


@contextmanager
def _template(spec: StreamSpec) -> Iterator[Any]:
    if spec.codec == "opus":
        head = spec.extradata if spec.extradata[:8] == b"OpusHead" else headers.opus_head(spec.channels)
        start, form = headers.ogg_opus_start(head), "ogg"
    elif spec.codec == "aac":
        config = spec.extradata or headers.audio_specific_config(spec.sample_rate, spec.channels)
        start, form = _flv_start(config, spec.channels), "flv"
    else:
        raise ValueError(f"no container here takes {spec.codec}")
    with av.open(io.BytesIO(start), "r", format=form) as source:
        yield source.streams.audio[0]


def _ivf_start(spec: StreamSpec, key_frame: bytes) -> bytes:
    head = struct.pack("<4sHH4sHHIIII", b"DKIF", 0, 32, b"VP90", spec.width, spec.height, 30, 1, 1, 0)
    return head + struct.pack("<IQ", len(key_frame), 0) + key_frame


# One frame of silence, AAC-LC (ISO/IEC 14496-3 4.4.2), so that libav finds the parameters it looks for.
_AAC_SILENCE = {1: bytes.fromhex("00c800802380"), 2: bytes.fromhex("210049900219002380")}


def _flv_start(config: bytes, channels: int) -> bytes:
    sound = 0xAF if channels == 2 else 0xAE
    bodies = [bytes((sound, 0)) + config]
    bodies += [bytes((sound, 1)) + _AAC_SILENCE.get(channels, _AAC_SILENCE[2])] * 2
    tags = (flv.file_tag(flv.Tag(flv.AUDIO, 21 * index, body)) for index, body in enumerate(bodies))
    return flv.file_header(audio=True, video=False) + b"".join(tags)


def picture_size(codec: str, key_frame: bytes) -> tuple[int, int] | None:
    """Width and height as a decoder sees them in a key frame, None when it cannot read it."""
    try:
        decoder = av.CodecContext.create(codec, "r")
        frames = [*decoder.decode(av.Packet(key_frame)), *decoder.decode(None)]  # type: ignore[attr-defined]
    except av.FFmpegError:
        return None
    return (frames[0].width, frames[0].height) if frames else None
