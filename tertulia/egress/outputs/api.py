"""What an egress job and its outputs say to each other.

Decides the shape of an output's life, not what any output does. One job has one worker thread (it decodes, composes
and encodes) and the control thread's event loop; each call below says on which of them it is made.

    made (loop) -> open(streams, epoch) (worker) -> write(packet)* (worker) -> close() or abort() (loop) -> result()

An output never raises out of `open`, `write`, `close` or `abort`: what goes wrong is in `failed`, from then on the
output takes packets and forgets them, and its neighbours notice nothing. `close` and `abort` may be called at any point
of that life, also before `open`, and more than once. After the first of them no packet is taken.

Made by (all on the loop; `name` is a clean path below the storage's root, variables already filled in):
    files.FileOutput(name, depot, hooks, container=None)         MP4, OGG, WebM, MKV, IVF, MP3: by ending or `container`
    hls.SegmentsOutput(hls.SegmentsPlan(...), depot, hooks)      MPEG-TS segments and their playlists
    rtmp.StreamsOutput(urls, rules, hooks)                       RTMP(S), any number; also add(url) and remove(url)
    websocket.WebSocketOutput(url, rules, hooks)                 PCM s16le; also muted(bool)
    images.ImagesOutput(images.ImagesPlan(...), depot, hooks)    JPEG; takes pictures (`wants`, `picture`), no packets
    upload.Depot(directory, primary, backup)                     where the files of one job are written and end up
    upload.storage_of(message) -> Storage                        S3Upload, GCPUpload, AzureBlobUpload, StorageConfig
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from livekit.protocol import egress

StreamKind = Literal["audio", "video"]
VideoCodec = Literal["h264", "vp8", "vp9", "av1"]
AudioCodec = Literal["aac", "opus", "mp3", "pcm_s16le"]


class EncodedPacket(NamedTuple):
    """One encoded frame (video: one access unit; audio: one codec frame) on the job's timeline.

    `data`: H264 as Annex B byte stream, AAC raw (no ADTS), VP8/VP9/Opus as on the wire, AV1 as a temporal unit of
    OBUs with size fields (no temporal delimiter needed), PCM interleaved little-endian 16-bit samples.
    `pts` 0 is the moment `epoch_ns` given to `open`; `dts` rises within a stream and is at most `pts`.
    """

    stream: StreamKind
    data: bytes
    pts: int
    dts: int
    time_base: Fraction
    key_frame: bool
    duration: int
    """In `time_base`; 0 when not known."""


@dataclass(frozen=True, slots=True)
class StreamSpec:
    """What a stream carries, told before its first packet."""

    kind: StreamKind
    codec: VideoCodec | AudioCodec
    time_base: Fraction
    extradata: bytes = b""
    """The encoder's out-of-band header: SPS and PPS (Annex B), AudioSpecificConfig, OpusHead. Empty for a
    passed-through track: video headers are then taken from its first key frame, OpusHead is made."""
    width: int = 0
    height: int = 0
    frame_rate: Fraction = Fraction(0)
    sample_rate: int = 48_000
    channels: int = 2
    bit_rate: int = 0


@dataclass(frozen=True, slots=True)
class Hooks:
    """What an output asks of its job. Callable from any thread; the job decides what comes of it."""

    changed: Callable[[], None] = lambda: None
    """`result()` has changed in a way an `egress_updated` webhook should tell (stream state, retries)."""
    request_key_frame: Callable[[], None] = lambda: None
    """Someone waits for a key frame (a stream that reconnected, an output that has just been added)."""


class StoredFile(NamedTuple):
    """Where a finished file ended up. With an `error` it is still readable at `location`, on the local disk."""

    name: str
    location: str
    size: int
    backup: bool = False
    error: str = ""


@dataclass(slots=True)
class OutputResult:
    """An output's pieces of EgressInfo: addresses masked, times in Unix nanoseconds, ready to be sent at any time."""

    files: list[egress.FileInfo] = field(default_factory=list)
    streams: list[egress.StreamInfo] = field(default_factory=list)
    segments: list[egress.SegmentsInfo] = field(default_factory=list)
    images: list[egress.ImagesInfo] = field(default_factory=list)
    stored: list[StoredFile] = field(default_factory=list)
    """Every object written, in order, for the manifest."""
    backup_storage_used: bool = False


class Output(Protocol):
    """Where encoded packets go."""

    @property
    def key_frame_interval_s(self) -> float | None:
        """How often the encoder must make a key frame for this output, None when it does not care."""

    @property
    def failed(self) -> str | None:
        """Why this output is over before its time, in words for EgressInfo.error; None while it is well."""

    def open(self, streams: Sequence[StreamSpec], epoch_ns: int) -> None:
        """Worker. Once, before the first packet; `epoch_ns` is the Unix time of pts 0. Returns at once (see `lane`)."""

    def write(self, packet: EncodedPacket) -> None:
        """Worker. Packets of one stream come in dts order, streams interleaved about as they happen. Returns at once:
        an output too slow for its packets loses them up to a key frame (streams) or fails (files)."""

    async def close(self) -> None:
        """Loop. Finish what is written: trailer, last segment, upload (takes as long as that); streams end in < 5 s."""

    async def abort(self, why: str) -> None:
        """Loop. End now, keep what is readable, upload nothing more. `why` becomes `failed`."""

    def result(self) -> OutputResult:
        """Loop. What EgressInfo says about this output now."""


class Depository(Protocol):
    """Where the files of one job are written and where they end up (`upload.Depot`)."""

    def local(self, name: str) -> Path:
        """Any thread. The path a file is written at; its directory exists afterwards.
        Raises RequestError(invalid_argument) for a name that leaves the directory."""

    async def store(self, name: str, content_type: str, *, last: bool = True) -> StoredFile:
        """Loop. Bring the file written at `local(name)` to storage, then to backup storage, else leave it where it is.
        Never raises. `last`: the file will not be written again, so the local copy goes once it is stored elsewhere."""

    def location(self, name: str) -> str:
        """Where `name` will be found once it is stored in the primary storage."""
