"""Encoded packets as FLV tag bodies, which RTMP carries as its audio, video and data messages.

Bytes only; who gets which tag when is decided in `rtmp`. Adobe Flash Video File Format 10.1, annex E.4.
"""

import struct
from collections.abc import Sequence
from typing import NamedTuple

from tertulia.egress.outputs import amf, headers
from tertulia.egress.outputs.api import EncodedPacket, StreamSpec
from tertulia.protocol.errors import PeerError

AUDIO, VIDEO, SCRIPT = 8, 9, 18

_AAC = 0xAF  # SoundFormat 10, and "44 kHz, 16 bit, stereo", which is what AAC must say whatever it is
_AVC_KEY, _AVC_INTER = 0x17, 0x27


class Tag(NamedTuple):
    kind: int
    time_ms: int
    """Decoding time on the job's timeline; negative before its origin."""
    body: bytes
    key_frame: bool = False
    header: bool = False
    """A sequence header or metadata: to be said again at the start of every connection."""


class Tagger:
    """Makes tags of one job's packets and remembers the headers for those who join later."""

    def __init__(self, streams: Sequence[StreamSpec]) -> None:
        for spec in streams:
            if spec.codec not in ("h264", "aac"):
                raise ValueError(f"RTMP carries H264 and AAC, not {spec.codec}")
        self._streams = {spec.kind: spec for spec in streams}
        self._parameter_sets: headers.ParameterSets | None = None
        self._sequence_headers: dict[int, Tag] = {}
        for spec in streams:
            if spec.codec == "aac":
                config = spec.extradata or headers.audio_specific_config(spec.sample_rate, spec.channels)
                self._sequence_headers[AUDIO] = Tag(AUDIO, 0, bytes((_AAC, 0)) + config, header=True)
            elif spec.extradata:
                self._note_parameter_sets(spec.extradata)

    @property
    def has_video(self) -> bool:
        return "video" in self._streams

    @property
    def preamble(self) -> list[Tag]:
        """What a fresh connection must hear before media."""
        return [Tag(SCRIPT, 0, self._metadata(), header=True), *self._sequence_headers.values()]

    def tags(self, packet: EncodedPacket) -> list[Tag]:
        """The packet's tag, after a new sequence header if it brings one. Nothing before the first parameter sets."""
        if packet.stream not in self._streams:
            return []
        time_ms = _milliseconds(packet.dts, packet)
        if packet.stream == "audio":
            return [Tag(AUDIO, time_ms, bytes((_AAC, 1)) + packet.data)]
        out = []
        if packet.key_frame and self._note_parameter_sets(packet.data):
            out.append(self._sequence_headers[VIDEO]._replace(time_ms=time_ms))
        if self._parameter_sets is None:
            return []
        offset_ms = max(0, _milliseconds(packet.pts, packet) - time_ms)
        head = bytes((_AVC_KEY if packet.key_frame else _AVC_INTER, 1)) + offset_ms.to_bytes(3, "big")
        out.append(Tag(VIDEO, time_ms, head + headers.annex_b_to_avc(packet.data), key_frame=packet.key_frame))
        return out

    def _note_parameter_sets(self, data: bytes) -> bool:
        found = headers.parameter_sets(data)
        if found is None or found == self._parameter_sets:
            return False
        self._parameter_sets = found
        body = bytes((_AVC_KEY, 0, 0, 0, 0)) + found.avcc
        self._sequence_headers[VIDEO] = Tag(VIDEO, 0, body, header=True)
        return True

    def _metadata(self) -> bytes:
        said: dict[str, object] = {"encoder": "Tertulia"}
        video, audio = self._streams.get("video"), self._streams.get("audio")
        if video is not None:
            said |= {
                "width": video.width,
                "height": video.height,
                "videocodecid": 7,
                "framerate": float(video.frame_rate),
            }
            said |= {"videodatarate": video.bit_rate / 1000}
        if audio is not None:
            said |= {"audiocodecid": 10, "audiosamplerate": audio.sample_rate, "stereo": audio.channels == 2}
            said |= {"audiosamplesize": 16, "audiodatarate": audio.bit_rate / 1000, "audiochannels": audio.channels}
        return amf.encode("@setDataFrame") + amf.encode("onMetaData") + amf.encode(amf.EcmaArray(said))


def _milliseconds(ticks: int, packet: EncodedPacket) -> int:
    base = packet.time_base
    return ticks * 1000 * base.numerator // base.denominator


def file_header(*, audio: bool, video: bool) -> bytes:
    return b"FLV\x01" + bytes((4 * audio | video,)) + b"\0\0\0\x09" + b"\0\0\0\0"


def file_tag(tag: Tag) -> bytes:
    """A tag as it stands in a file, with its trailing size."""
    time_ms = max(0, tag.time_ms) & 0xFFFFFFFF
    out = bytes((tag.kind,)) + len(tag.body).to_bytes(3, "big") + (time_ms & 0xFFFFFF).to_bytes(3, "big")
    out += bytes((time_ms >> 24, 0, 0, 0)) + tag.body
    return out + struct.pack(">I", len(out))


def parse_file(data: bytes) -> list[Tag]:
    """Tags of a whole FLV file, as a reader of our own recordings needs them."""
    if data[:3] != b"FLV" or len(data) < 13:
        raise PeerError("not an FLV file")
    tags, at = [], 13
    while at + 11 <= len(data):
        size = int.from_bytes(data[at + 1 : at + 4], "big")
        if at + 15 + size > len(data):
            break
        time_ms = int.from_bytes(data[at + 4 : at + 7], "big") | data[at + 7] << 24
        body = data[at + 11 : at + 11 + size]
        kind = data[at] & 31
        tags.append(Tag(kind, time_ms, body, key_frame=kind == VIDEO and body[:1] == bytes((_AVC_KEY,))))
        at += 15 + size
    return tags
