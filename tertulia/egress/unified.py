"""StartEgress, the one request for everything (LiveKit's second form): its sources and outputs -> the plan's own words.

Decides what the first form cannot say: media chosen and routed track by track, storage named once for all outputs,
one track passed through. What both forms share is decided in `plan` and `targets`.
"""

from copy import deepcopy
from dataclasses import replace

from livekit.protocol import egress

from tertulia.egress.naming import ROOM_VARIABLES, TRACK_VARIABLES
from tertulia.egress.plan import MixSource, OneTrackSource, Plan, RoomSource, Route, encoded_plan
from tertulia.egress.presets import invalid
from tertulia.egress.targets import file_target
from tertulia.protocol.errors import RequestError

ROUTES_LIMIT = 64


def unified_plan(request: egress.StartEgressRequest, root: str) -> Plan:
    """Raises RequestError."""
    kept = deepcopy(request)
    plain = _outputs(request)
    match request.WhichOneof("source"):
        case "template":
            template = request.template
            if template.audio_only and template.video_only:
                raise invalid("audio_only and video_only", "not both")
            if template.custom_base_url:
                raise RequestError("unimplemented", "custom_base_url: custom templates need a browser")
            plan = encoded_plan(
                "egress",
                plain,
                RoomSource(template.layout, "both"),
                root,
                ROOM_VARIABLES,
                video=not template.audio_only,
                audio=not template.video_only,
            )
        case "media" if request.preset == egress.PASSTHROUGH and request.WhichOneof("encoding") == "preset":
            return replace(_passthrough(request, plain, root), request=kept)
        case "media":
            source = _mix(request.media)
            plan = encoded_plan(
                "egress",
                plain,
                source,
                root,
                ROOM_VARIABLES,
                video=source.has_video,
                audio=source.capture_all or bool(source.routes),
            )
        case "web":
            raise RequestError("unimplemented", "web egress needs a browser and is not offered by this server")
        case _:
            raise invalid("source", "template or media")
    return replace(plan, request=kept)


def _mix(media: egress.MediaSource) -> MixSource:
    if len(media.audio.routes) > ROUTES_LIMIT:
        raise invalid("media.audio.routes", f"more than {ROUTES_LIMIT}")
    channels = {egress.AUDIO_CHANNEL_LEFT: "left", egress.AUDIO_CHANNEL_RIGHT: "right"}
    routes = []
    for route in media.audio.routes:
        match route.WhichOneof("match"):
            case "track_id" | "participant_identity" as field if getattr(route, field):
                kind = None
            case "participant_kind":
                kind = int(route.participant_kind)
            case _:
                raise invalid("media.audio.routes", "track_id, participant_identity or participant_kind")
        channel = channels.get(route.channel, "both")
        routes.append(Route(route.track_id, route.participant_identity, kind, channel))  # type: ignore[arg-type]
    person = media.participant_video
    if media.WhichOneof("video") == "participant_video" and not person.identity:
        raise invalid("media.participant_video.identity", "missing")
    found = MixSource(
        media.video_track_id, person.identity, person.prefer_screen_share, media.audio.capture_all, tuple(routes)
    )
    if not found.has_video and not found.capture_all and not found.routes:
        raise invalid("media", "neither video nor audio")
    return found


def _passthrough(request: egress.StartEgressRequest, plain: egress.RoomCompositeEgressRequest, root: str) -> Plan:
    """Exactly one track, named, into exactly one file."""
    mix = _mix(request.media)
    voices = [route.track_id for route in mix.routes if route.track_id]
    tracks = voices + [mix.video_track_id] * bool(mix.video_track_id)
    if len(tracks) != 1 or mix.video_identity or mix.capture_all or len(voices) != len(mix.routes):
        raise invalid("preset", "PASSTHROUGH takes exactly one track, by its id")
    files = plain.file_outputs
    if len(files) != 1 or len(request.outputs) != 1 or files[0].file_type != egress.DEFAULT_FILETYPE:
        raise invalid("outputs", "PASSTHROUGH takes exactly one file output of the default type")
    target = file_target(files[0], "outputs", root, TRACK_VARIABLES, video=False)
    return Plan("egress", request.room_name, OneTrackSource(tracks[0]), None, None, (target,), request)


def _outputs(request: egress.StartEgressRequest) -> egress.RoomCompositeEgressRequest:
    """The outputs, options and storage in the words of the first form."""
    plain = egress.RoomCompositeEgressRequest(room_name=request.room_name)
    match request.WhichOneof("encoding"):
        case "preset":
            plain.preset = request.preset
        case "advanced":
            plain.advanced.CopyFrom(request.advanced)
        case _:
            pass
    for output in request.outputs:
        storage = output.storage if output.storage.WhichOneof("provider") else request.storage
        match output.WhichOneof("config"):
            case "file":
                file = plain.file_outputs.add(
                    file_type=output.file.file_type,
                    filepath=output.file.filepath,
                    disable_manifest=output.file.disable_manifest,
                )
                _store(file, storage)
            case "stream":
                plain.stream_outputs.append(output.stream)
            case "segments":
                plain.segment_outputs.append(output.segments)
                _store(plain.segment_outputs[-1], storage)
            case "images":
                plain.image_outputs.append(output.images)
                _store(plain.image_outputs[-1], storage)
            case _:
                raise invalid("outputs", "file, stream, segments or images")
    return plain


def _store(
    output: egress.EncodedFileOutput | egress.SegmentedFileOutput | egress.ImageOutput, storage: egress.StorageConfig
) -> None:
    kind = storage.WhichOneof("provider")
    if kind is not None and output.WhichOneof("output") is None:
        getattr(output, kind).CopyFrom(getattr(storage, kind))
