"""Where a job's media shall go, as callers' messages say it: files, segments, streams, images, WebSocket.

Decides what is a valid wish, and which codecs and container all outputs of one encode can share. LiveKit's order of
precedence for storage: the output's own, else the request's, else the server's configuration (`storage` None here).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from livekit.protocol import egress

from tertulia.egress.naming import ROOM_VARIABLES, refuse_tricks
from tertulia.egress.outputs.addresses import parse_rtmp, parse_websocket
from tertulia.egress.presets import AudioCodecName, AudioOptions, invalid

Container = Literal["mp4", "ogg", "mp3"]
Storage = egress.S3Upload | egress.GCPUpload | egress.AzureBlobUpload

SEGMENT_SECONDS = (1, 60)
IMAGE_SECONDS = (1, 24 * 3600)
URLS_LIMIT = 16
IMAGE_OUTPUTS_LIMIT = 8


@dataclass(frozen=True, slots=True)
class FileTarget:
    template: str
    container: Container | None
    """None: chosen by what the track carries."""
    storage: Storage | None
    manifest: bool


@dataclass(frozen=True, slots=True)
class SegmentsTarget:
    """`playlist`, `live_playlist` and `prefix` as asked for; empty ones are made up when the names are filled in."""

    playlist: str
    live_playlist: str
    prefix: str
    duration_s: int
    suffix: int
    """egress.SegmentedFileSuffix"""
    storage: Storage | None
    manifest: bool


@dataclass(frozen=True, slots=True)
class StreamsTarget:
    urls: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ImagesTarget:
    prefix: str
    interval_s: int
    width: int
    height: int
    """0: the picture's own."""
    suffix: int
    """egress.ImageFileSuffix"""
    storage: Storage | None
    manifest: bool


@dataclass(frozen=True, slots=True)
class WebSocketTarget:
    url: str


Target = FileTarget | SegmentsTarget | StreamsTarget | ImagesTarget | WebSocketTarget


class StoredOutput(Protocol):
    """The storage block that several messages share; each declares the fields for itself."""

    @property
    def s3(self) -> egress.S3Upload: ...
    @property
    def gcp(self) -> egress.GCPUpload: ...
    @property
    def azure(self) -> egress.AzureBlobUpload: ...


def storage_of_output(output: StoredOutput, field: str) -> Storage | None:
    kind: str | None = output.WhichOneof("output")  # type: ignore[attr-defined]
    if kind is None:
        return None
    if kind == "aliOSS":
        raise invalid(f"{field}.aliOSS", "use s3 with the service's S3-compatible endpoint")
    storage: Storage = getattr(output, kind)
    bucket = storage.container_name if isinstance(storage, egress.AzureBlobUpload) else storage.bucket
    if not bucket:
        raise invalid(f"{field}.{kind}", "bucket missing")
    return storage


def file_target(
    output: egress.EncodedFileOutput, field: str, root: str, variables: frozenset[str], *, video: bool
) -> FileTarget:
    containers: dict[int, Container | None] = {
        egress.DEFAULT_FILETYPE: None,
        egress.MP4: "mp4",
        egress.OGG: "ogg",
        egress.MP3: "mp3",
    }
    if output.file_type not in containers:
        raise invalid(f"{field}.file_type", "MP4, OGG or MP3")
    container = containers[output.file_type]
    if video and container in ("ogg", "mp3"):
        raise invalid(f"{field}.file_type", f"format {container} incompatible with video; set audio_only or take MP4")
    storage = storage_of_output(output, field)
    template = _path(output.filepath, f"{field}.filepath", root, variables, storage)
    return FileTarget(template, container, storage, not output.disable_manifest)


def segments_target(
    output: egress.SegmentedFileOutput, field: str, root: str, variables: frozenset[str]
) -> SegmentsTarget:
    if output.protocol not in (egress.DEFAULT_SEGMENTED_FILE_PROTOCOL, egress.HLS_PROTOCOL):
        raise invalid(f"{field}.protocol", "HLS_PROTOCOL (MPEG-TS segments)")
    if output.filename_suffix not in (egress.INDEX, egress.TIMESTAMP):
        raise invalid(f"{field}.filename_suffix", "INDEX or TIMESTAMP")
    duration = output.segment_duration or 4
    if not SEGMENT_SECONDS[0] <= duration <= SEGMENT_SECONDS[1]:
        raise invalid(f"{field}.segment_duration", f"between {SEGMENT_SECONDS[0]} and {SEGMENT_SECONDS[1]} seconds")
    storage = storage_of_output(output, field)
    names = [
        _path(getattr(output, name), f"{field}.{name}", root, variables, storage)
        for name in ("playlist_name", "live_playlist_name", "filename_prefix")
    ]
    playlist, live, prefix = names
    if live and live == playlist:
        raise invalid(f"{field}.live_playlist_name", "must differ from playlist_name")
    if live and playlist and live.rpartition("/")[0] != playlist.rpartition("/")[0]:
        raise invalid(f"{field}.live_playlist_name", "must be in the directory of playlist_name")
    home = playlist.rpartition("/")[0]
    if prefix and home and not (prefix.startswith(home + "/") or "/" not in prefix):
        raise invalid(f"{field}.filename_prefix", "must be in the directory of playlist_name or below")
    return SegmentsTarget(
        playlist, live, prefix, duration, output.filename_suffix, storage, not output.disable_manifest
    )


def streams_target(output: egress.StreamOutput, field: str) -> StreamsTarget:
    urls = [*output.urls, *(destination.url for destination in output.destinations)]
    if output.protocol in (egress.SRT, egress.WEBSOCKET) or any(url.lower().startswith("srt:") for url in urls):
        raise invalid(f"{field}.protocol", "only RTMP and RTMPS are supported")
    return StreamsTarget(stream_urls(urls, f"{field}.urls"))


def stream_urls(urls: Sequence[str], field: str) -> tuple[str, ...]:
    """The addresses, checked; the same one twice is a mistake."""
    if len(urls) > URLS_LIMIT:
        raise invalid(field, f"more than {URLS_LIMIT}")
    for url in urls:
        parse_rtmp(url)
    if len(set(urls)) != len(urls):
        raise invalid(field, "the same address twice")
    return tuple(urls)


def images_target(output: egress.ImageOutput, field: str, root: str, variables: frozenset[str]) -> ImagesTarget:
    interval = output.capture_interval or 10
    if not IMAGE_SECONDS[0] <= interval <= IMAGE_SECONDS[1]:
        raise invalid(f"{field}.capture_interval", f"between {IMAGE_SECONDS[0]} and {IMAGE_SECONDS[1]} seconds")
    for name in ("width", "height"):
        size: int = getattr(output, name)
        if size and (not 16 <= size <= 4096 or size % 2):
            raise invalid(f"{field}.{name}", "even, between 16 and 4096")
    if output.filename_suffix not in egress.ImageFileSuffix.values():
        raise invalid(f"{field}.filename_suffix", "not known")
    storage = storage_of_output(output, field)
    prefix = _path(output.filename_prefix, f"{field}.filename_prefix", root, variables, storage)
    return ImagesTarget(
        prefix, interval, output.width, output.height, output.filename_suffix, storage, not output.disable_manifest
    )


def direct_targets(request: egress.TrackEgressRequest, root: str, variables: frozenset[str]) -> tuple[Target, ...]:
    """A track's file or WebSocket: exactly one of them."""
    kind = request.WhichOneof("output")
    if kind == "file":
        storage = storage_of_output(request.file, "file")
        template = _path(request.file.filepath, "file.filepath", root, variables, storage)
        return (FileTarget(template, None, storage, not request.file.disable_manifest),)
    if kind == "websocket_url":
        parse_websocket(request.websocket_url)
        return (WebSocketTarget(request.websocket_url),)
    raise invalid("output", "file or websocket_url")


def shared_audio_codec(targets: Sequence[Target], options: AudioOptions, *, video: bool) -> AudioCodecName:
    """The codec that all outputs of one encode take: the one asked for, else what the first output likes best."""
    common: list[AudioCodecName] | None = None
    for target in targets:
        taken = _codecs_of(target, video=video)
        if taken is not None:
            common = taken if common is None else [codec for codec in common if codec in taken]
    if common is None:
        common = ["aac", "opus"]
    if options.codec is None:
        if not common:
            raise invalid("outputs", "no supported codec is compatible with all outputs")
        return common[0]
    if options.codec not in common:
        raise invalid("audio_codec", f"format incompatible with codec {options.codec}; possible: {' '.join(common)}")
    return options.codec


def container_for(target: FileTarget, codec: AudioCodecName | None, *, video: bool) -> Container:
    """What DEFAULT_FILETYPE becomes: MP4 with video, else the first that holds the codec."""
    if target.container is not None:
        return target.container
    if video or codec == "aac":
        return "mp4"
    return "mp3" if codec == "mp3" else "ogg"


def _codecs_of(target: Target, *, video: bool) -> list[AudioCodecName] | None:
    match target:
        case FileTarget(container="ogg"):
            return ["opus"]
        case FileTarget(container="mp3"):
            return ["mp3"]
        case FileTarget(container="mp4"):
            return ["aac", "opus"]
        case FileTarget():
            return ["aac", "opus"] if video else ["opus", "aac", "mp3"]
        case SegmentsTarget() | StreamsTarget():
            return ["aac"]
        case _:
            return None


def _path(template: str, field: str, root: str, variables: frozenset[str], storage: Storage | None) -> str:
    if storage is not None:
        template = template.lstrip("/")  # object keys: callers write "/a/b", buckets have no root
    return refuse_tricks(template, field, root=root, variables=variables or ROOM_VARIABLES)
