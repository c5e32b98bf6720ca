"""What an egress request asks for, checked and made plain: request message -> frozen Plan.

Decides what is possible and what contradicts itself; the answer to a caller's mistake names the field, as LiveKit's
egress does. Opens nothing, knows no room: whether tracks exist is found out by the job.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Literal

from livekit.protocol import egress, models

from tertulia.egress.naming import PERSON_VARIABLES, ROOM_VARIABLES, TRACK_VARIABLES
from tertulia.egress.presets import (
    AudioCodecName,
    AudioOptions,
    VideoOptions,
    advanced_options,
    invalid,
    preset_options,
    sample_rate,
)
from tertulia.egress.targets import (
    IMAGE_OUTPUTS_LIMIT,
    FileTarget,
    ImagesTarget,
    StreamsTarget,
    Target,
    container_for,
    direct_targets,
    file_target,
    images_target,
    segments_target,
    shared_audio_codec,
    streams_target,
)
from tertulia.protocol.errors import RequestError
from tertulia.protocol.tap import TrackAvailable

Request = (
    egress.RoomCompositeEgressRequest
    | egress.ParticipantEgressRequest
    | egress.TrackCompositeEgressRequest
    | egress.TrackEgressRequest
    | egress.WebEgressRequest
    | egress.StartEgressRequest
)
Encoded = egress.RoomCompositeEgressRequest | egress.ParticipantEgressRequest | egress.TrackCompositeEgressRequest
Mixing = Literal["both", "agent", "alternate"]
Channel = Literal["both", "left", "right"]
Kind = Literal["room_composite", "participant", "track_composite", "track", "egress"]
"""The field of EgressInfo that shows the request."""

STREAM_KEY_FRAME_INTERVAL_S = 4.0
"""Streams: what LiveKit's egress uses, and services ask for."""


@dataclass(frozen=True, slots=True)
class RoomSource:
    layout: str
    mixing: Mixing


@dataclass(frozen=True, slots=True)
class PersonSource:
    identity: str
    screen_share: bool
    """True: what is neither camera nor microphone; False: camera and microphone."""


@dataclass(frozen=True, slots=True)
class PairSource:
    audio_track_id: str
    video_track_id: str


@dataclass(frozen=True, slots=True)
class OneTrackSource:
    track_id: str


@dataclass(frozen=True, slots=True)
class Route:
    """Voices that match (by track, by person, by kind of person) go to one ear or both."""

    track_id: str
    identity: str
    kind: int | None
    channel: Channel

    def takes(self, event: TrackAvailable) -> bool:
        return (
            (bool(self.track_id) and event.track.sid == self.track_id)
            or (bool(self.identity) and event.participant.identity == self.identity)
            or (self.kind is not None and event.participant.kind == self.kind)
        )


@dataclass(frozen=True, slots=True)
class MixSource:
    """Media chosen piece by piece: one picture, any voices. Goes on until the room ends or somebody stops it."""

    video_track_id: str
    video_identity: str
    prefer_screen_share: bool
    capture_all: bool
    routes: tuple[Route, ...]

    @property
    def has_video(self) -> bool:
        return bool(self.video_track_id or self.video_identity)

    def shows(self, event: TrackAvailable) -> bool:
        if self.video_track_id:
            return event.track.sid == self.video_track_id
        wanted = (models.CAMERA, models.SCREEN_SHARE) if self.prefer_screen_share else (models.CAMERA,)
        return event.participant.identity == self.video_identity and event.track.source in wanted

    def hears(self, event: TrackAvailable) -> bool:
        return self.capture_all or any(route.takes(event) for route in self.routes)


Source = RoomSource | PersonSource | PairSource | OneTrackSource | MixSource


@dataclass(frozen=True, slots=True)
class VideoPlan:
    width: int
    height: int
    frame_rate: int
    bit_rate: int
    profile: str
    key_frame_interval_s: float | None


@dataclass(frozen=True, slots=True)
class AudioPlan:
    codec: AudioCodecName
    sample_rate: int
    bit_rate: int
    channels: int = 2


@dataclass(frozen=True, slots=True)
class Plan:
    """A request that can be carried out. `video` and `audio` are None when that half is not wanted or not encoded."""

    kind: Kind
    room_name: str
    source: Source
    video: VideoPlan | None
    audio: AudioPlan | None
    targets: tuple[Target, ...]
    request: Request
    """As it came, with its secrets; never shown (see `redact`)."""

    @property
    def constant_rate(self) -> bool:
        """Players of streams and segments want every frame; files may leave out pictures that did not change."""
        return any(not isinstance(target, FileTarget | ImagesTarget) for target in self.targets)


def make_plan(request: Request, *, root: str = "") -> Plan:
    """Raises RequestError(invalid_argument) naming the field, or (unimplemented) for what needs a browser."""
    if not isinstance(request, egress.WebEgressRequest) and not request.room_name:
        raise invalid("room_name", "missing")
    match request:
        case egress.RoomCompositeEgressRequest():
            return _room_composite(request, root)
        case egress.ParticipantEgressRequest():
            if not request.identity:
                raise invalid("identity", "missing")
            source = PersonSource(request.identity, request.screen_share)
            return encoded_plan("participant", request, source, root, PERSON_VARIABLES)
        case egress.TrackCompositeEgressRequest():
            return _track_composite(request, root)
        case egress.TrackEgressRequest():
            if not request.track_id:
                raise invalid("track_id", "missing")
            targets = direct_targets(request, root, TRACK_VARIABLES)
            return Plan(
                "track", request.room_name, OneTrackSource(request.track_id), None, None, targets, deepcopy(request)
            )
        case egress.StartEgressRequest():
            from tertulia.egress.unified import unified_plan  # it is made of this module's words

            return unified_plan(request, root)
        case _:
            raise RequestError("unimplemented", "web egress needs a browser and is not offered by this server")


def _room_composite(request: egress.RoomCompositeEgressRequest, root: str) -> Plan:
    if request.audio_only and request.video_only:
        raise invalid("audio_only and video_only", "not both")
    if request.custom_base_url:
        raise RequestError(
            "unimplemented", "custom_base_url: custom templates need a browser and are not offered by this server"
        )
    mixings: dict[int, Mixing] = {
        egress.DEFAULT_MIXING: "both",
        egress.DUAL_CHANNEL_AGENT: "agent",
        egress.DUAL_CHANNEL_ALTERNATE: "alternate",
    }
    if request.audio_mixing not in mixings:
        raise invalid("audio_mixing", "not known")
    if request.video_only and request.audio_mixing:
        raise invalid("audio_mixing", "contradicts video_only")
    source = RoomSource(request.layout, mixings[request.audio_mixing])
    return encoded_plan(
        "room_composite",
        request,
        source,
        root,
        ROOM_VARIABLES,
        video=not request.audio_only,
        audio=not request.video_only,
    )


def _track_composite(request: egress.TrackCompositeEgressRequest, root: str) -> Plan:
    if not request.audio_track_id and not request.video_track_id:
        raise invalid("audio_track_id or video_track_id", "missing")
    if request.audio_track_id == request.video_track_id:
        raise invalid("audio_track_id and video_track_id", "the same track")
    return encoded_plan(
        "track_composite",
        request,
        PairSource(request.audio_track_id, request.video_track_id),
        root,
        PERSON_VARIABLES,
        video=bool(request.video_track_id),
        audio=bool(request.audio_track_id),
    )


def encoded_plan(
    kind: Kind,
    request: Encoded,
    source: Source,
    root: str,
    variables: frozenset[str],
    *,
    video: bool = True,
    audio: bool = True,
) -> Plan:
    """A plan that encodes: what all such requests have in common."""
    targets = _targets(request, root, variables, video=video)
    picture, sound = _options(request)
    if all(isinstance(target, ImagesTarget) for target in targets):
        audio = False
    codec = shared_audio_codec(targets, sound, video=video) if audio else None
    targets = tuple(
        FileTarget(target.template, container_for(target, codec, video=video), target.storage, target.manifest)
        if isinstance(target, FileTarget)
        else target
        for target in targets
    )
    interval = picture.key_frame_interval_s
    if interval is None and any(isinstance(target, StreamsTarget) for target in targets):
        interval = STREAM_KEY_FRAME_INTERVAL_S
    return Plan(
        kind,
        request.room_name,
        source,
        VideoPlan(picture.width, picture.height, picture.frame_rate, picture.bit_rate, picture.profile, interval)
        if video
        else None,
        AudioPlan(codec, sample_rate(codec, sound.sample_rate), sound.bit_rate) if codec else None,
        targets,
        deepcopy(request),
    )


def _options(request: Encoded) -> tuple[VideoOptions, AudioOptions]:
    match request.WhichOneof("options"):
        case "preset":
            return preset_options(request.preset)
        case "advanced":
            return advanced_options(request.advanced)
        case _:
            return VideoOptions(), AudioOptions()


def _targets(request: Encoded, root: str, variables: frozenset[str], *, video: bool) -> tuple[Target, ...]:
    """One file, one group of streams, one set of segments, several series of images: any mix, at least one."""
    files, streams, segments = list(request.file_outputs), list(request.stream_outputs), list(request.segment_outputs)
    if not isinstance(request, egress.ParticipantEgressRequest):
        match request.WhichOneof("output"):  # the old way to say it; ignored by nobody who still uses it
            case "file":
                files.append(request.file)
            case "stream":
                streams.append(request.stream)
            case "segments":
                segments.append(request.segments)
    _at_most_one("file_outputs", files)
    _at_most_one("stream_outputs", streams)
    _at_most_one("segment_outputs", segments)
    if len(request.image_outputs) > IMAGE_OUTPUTS_LIMIT:
        raise invalid("image_outputs", f"more than {IMAGE_OUTPUTS_LIMIT}")
    if request.image_outputs and not video:
        raise invalid("image_outputs", "contradicts audio only")
    found: list[Target] = [file_target(output, "file_outputs", root, variables, video=video) for output in files]
    found += [segments_target(output, "segment_outputs", root, variables) for output in segments]
    found += [streams_target(output, "stream_outputs") for output in streams]
    found += [images_target(output, "image_outputs", root, variables) for output in request.image_outputs]
    if not found:
        raise invalid("output", "none given")
    if all(isinstance(target, StreamsTarget) and not target.urls for target in found):
        raise invalid("stream_outputs.urls", "no other output, and no address")
    return tuple(found)


def _at_most_one(field: str, outputs: Sequence[object]) -> None:
    if len(outputs) > 1:
        raise invalid(field, "multiple outputs of one kind are not possible")
