"""Recording into one file: MP4, OGG, WebM, MKV, IVF or MP3.

Decides which container holds what, when the file begins (each stream has been seen, video from a key frame on), how it
stays readable at every moment, and what FileInfo says. Bytes reach the disk through `recording`, the storage through a
`Depository`. Why MP4 is written as fragments that turn into an ordinary file at the end: ADR "hybrid MP4".
"""

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

import av
from livekit.protocol import egress

from tertulia.egress.outputs import headers
from tertulia.egress.outputs.api import Depository, EncodedPacket, Hooks, OutputResult, StoredFile, StreamSpec
from tertulia.egress.outputs.lane import LaneOutput
from tertulia.egress.outputs.mux import Muxer, picture_size
from tertulia.egress.outputs.recording import RecordingFile
from tertulia.protocol.errors import PeerError, RequestError

WAIT_FOR_STREAMS_NS = 5_000_000_000
"""How much media is held back for a stream that has not come yet; then the file goes on without it."""
HELD_LIMIT_BYTES = 16 << 20
SYNC_EVERY_NS = 5_000_000_000
"""How much media a power cut may cost. (A killed process costs a second at most.)"""

GAP_LIMIT_S = 3600
"""How long a silence is filled in; a longer one is a clock that jumped."""


@dataclass(frozen=True, slots=True)
class Container:
    """What one kind of file can hold and how libav is told to write it."""

    codecs: frozenset[str]
    content_type: str
    audio_content_type: str = ""
    options: dict[str, str] = field(default_factory=dict)
    fragmented: bool = False


def _container(codecs: str, content_type: str, audio_content_type: str = "", **options: str) -> Container:
    # A stream that pauses must not hold the other back for libav's ten seconds: what waits in it dies with the process.
    shared = {"flush_packets": "1", "max_interleave_delta": "1000000"}
    fragmented = "movflags" in options
    return Container(frozenset(codecs.split()), content_type, audio_content_type, shared | options, fragmented)


CONTAINERS = {
    "mp4": _container(
        "h264 vp9 av1 aac opus", "video/mp4", "audio/mp4",
        movflags="hybrid_fragmented+delay_moov+default_base_moof", frag_duration="1000000",
    ),
    "webm": _container("vp8 vp9 av1 opus", "video/webm", "audio/webm", cluster_time_limit="1000"),
    "mkv": _container(
        "h264 vp8 vp9 av1 aac opus", "video/x-matroska", "audio/x-matroska", cluster_time_limit="1000"
    ),
    "ogg": _container("opus", "audio/ogg", page_duration="1000000"),
    "ivf": _container("vp8 vp9 av1", "video/x-ivf"),
    "mp3": _container("mp3", "audio/mpeg"),
}  # fmt: skip
_LIBAV_NAMES = {"mkv": "matroska"}


class FileOutput(LaneOutput):
    """One recording in one file. Satisfies `api.Output`."""

    def __init__(self, name: str, depot: Depository, hooks: Hooks = Hooks(), container: str | None = None) -> None:  # noqa: B008
        """On the loop. `container`: a key of CONTAINERS, by default the name's ending. Raises RequestError."""
        super().__init__(name, hooks)
        kind = container or name.rpartition(".")[2].lower()
        if kind not in CONTAINERS:
            raise RequestError(
                "invalid_argument", f"request has missing or invalid field: filepath (.{kind} is unknown)"
            )
        self._kind, self._container, self._depot = kind, CONTAINERS[kind], depot
        depot.local(name)  # a name that leaves the directory is refused here, not in mid-recording
        self._streams: dict[str, StreamSpec] = {}
        self._epoch_ns = 0
        self._file: RecordingFile | None = None
        self._writer: Muxer | _Plain | None = None
        self._held: list[EncodedPacket] = []
        self._first_ns = self._last_ns = self._synced_ns = 0
        self._ogg_next: Fraction | None = None
        self._stored_file: StoredFile | None = None
        self.late_packets = 0
        """Packets of a stream that came too late to be in the file, and video before its first key frame."""
        self.bad_packets = 0
        """Packets the container refused."""

    # In the lane's thread.

    def _begin(self, streams: Sequence[StreamSpec], epoch_ns: int) -> None:
        for spec in streams:
            if spec.codec not in self._container.codecs:
                raise RequestError("invalid_argument", f"{self._kind.upper()} cannot hold {spec.codec}")
        self._streams = {spec.kind: spec for spec in streams}
        self._epoch_ns = epoch_ns
        self._file = RecordingFile(self._depot.local(self._name))

    def _take(self, packet: EncodedPacket) -> None:
        if packet.stream not in self._streams:
            self.late_packets += 1
            return
        if self._writer is not None:
            self._put(packet)
            return
        waits_for_key = packet.stream == "video" and not any(held.stream == "video" for held in self._held)
        if waits_for_key and not packet.key_frame:
            self.late_packets += 1
            if self.late_packets % 30 == 1:
                self._hooks.request_key_frame()
            return
        self._held.append(packet)
        span_ns = _pts_ns(packet) - _pts_ns(self._held[0])
        complete = {held.stream for held in self._held} == set(self._streams)
        if complete or span_ns >= WAIT_FOR_STREAMS_NS or sum(len(p.data) for p in self._held) > HELD_LIMIT_BYTES:
            self._start()

    def _start(self) -> None:
        """Every stream is known, or waited for long enough."""
        assert self._file is not None
        present = {packet.stream for packet in self._held}
        key_frame = next((packet.data for packet in self._held if packet.stream == "video"), b"")
        self._streams = {kind: _measured(spec, key_frame) for kind, spec in self._streams.items() if kind in present}
        self._first_ns = self._last_ns = self._synced_ns = min(map(_pts_ns, self._held))
        if self._kind == "mp3":
            self._writer = _Plain(self._file)
        else:
            libav_name = _LIBAV_NAMES.get(self._kind, self._kind)
            streams, options = list(self._streams.values()), self._container.options
            self._writer = Muxer(self._file, libav_name, streams, options, self._first_ns, key_frame)
        held, self._held = self._held, []
        for packet in held:
            self._put(packet)

    def _put(self, packet: EncodedPacket) -> None:
        assert self._writer is not None
        assert self._file is not None
        if self._kind == "ogg":
            self._fill_gap(packet)
        try:
            self._writer.write(packet)
        except (PeerError, av.InvalidDataError, av.ArgumentError):
            self.bad_packets += 1  # one frame lost; it came from a publisher, and the next may be well again
            return
        self._last_ns = max(self._last_ns, _pts_ns(packet) + _ns(packet.duration, packet))
        if self._last_ns - self._synced_ns >= SYNC_EVERY_NS:
            self._synced_ns = self._last_ns
            self._file.sync()

    def _fill_gap(self, packet: EncodedPacket) -> None:
        """Ogg counts samples and knows no gaps: silence stands where nothing was sent (DTX, mute, loss)."""
        assert self._writer is not None
        rate, step = headers.OPUS_RATE_HZ, headers.OPUS_SILENCE_SAMPLES
        at = packet.pts * packet.time_base * rate
        if self._ogg_next is not None and at - self._ogg_next < GAP_LIMIT_S * rate:
            silence = headers.opus_silence(self._streams["audio"].channels)
            while at - self._ogg_next >= step:
                begun = round(self._ogg_next)
                self._writer.write(EncodedPacket("audio", silence, begun, begun, Fraction(1, rate), True, step))
                self._ogg_next += step
        self._ogg_next = max(at, self._ogg_next or at) + headers.opus_samples(packet.data)

    def _finish(self) -> None:
        if self._file is None:
            return
        file, self._file = self._file, None
        if self._writer is None and self._held and not self._broken:
            self._file = file
            self._start()
            self._file = None
        if self._writer is None:
            file.discard()
            return
        try:
            if not self._broken:
                self._writer.close()
                file.commit()
                return
            _close_quietly(self._writer)
        except (OSError, av.FFmpegError):
            file.salvage(fragmented=self._container.fragmented)
            raise
        file.salvage(fragmented=self._container.fragmented)

    # On the loop.

    async def _stored(self, *, upload: bool) -> None:
        if self._writer is None:
            return
        if upload:
            self._stored_file = await self._depot.store(self._name, self._content_type)
            if self._stored_file.error:
                self._fail(self._stored_file.error)
        else:
            path = self._depot.local(self._name)
            size = os.stat(path).st_size if path.exists() else 0
            self._stored_file = StoredFile(self._name, str(path), size)

    @property
    def _content_type(self) -> str:
        audio_only = "video" not in self._streams
        return (
            self._container.audio_content_type or self._container.content_type
            if audio_only
            else self._container.content_type
        )

    def result(self) -> OutputResult:
        info = egress.FileInfo(filename=self._name)
        if self._writer is not None:
            info.started_at = self._epoch_ns + self._first_ns
            info.ended_at = self._epoch_ns + self._last_ns
            info.duration = self._last_ns - self._first_ns
        stored = self._stored_file
        if stored is None:
            return OutputResult(files=[info])
        info.size, info.location = stored.size, stored.location
        return OutputResult(files=[info], stored=[stored], backup_storage_used=stored.backup)


def _measured(spec: StreamSpec, key_frame: bytes) -> StreamSpec:
    """Passed-through video says its size in its first key frame only."""
    if spec.kind != "video" or spec.extradata:
        return spec
    size = picture_size(spec.codec, key_frame) or (spec.width, spec.height)
    return replace(spec, width=size[0], height=size[1])


class _Plain:
    """MP3 frames need no container."""

    def __init__(self, file: RecordingFile) -> None:
        self._file = file

    def write(self, packet: EncodedPacket) -> None:
        self._file.write(packet.data)

    def close(self) -> None:
        pass


def _close_quietly(writer: Muxer | _Plain) -> None:
    with contextlib.suppress(OSError, av.FFmpegError):  # it is broken already; the file is salvaged
        writer.close()


def _ns(ticks: int, packet: EncodedPacket) -> int:
    return ticks * 1_000_000_000 * packet.time_base.numerator // packet.time_base.denominator


def _pts_ns(packet: EncodedPacket) -> int:
    return _ns(packet.pts, packet)
