"""A published track: what it is, what clients see of it (`info`), and its receivers on this node.

Decides TrackInfo from an add_track request (LiveKit participant.go addPendingTrackLocked, wire contract 3.7). A track
of another node's member has the same form; its receiver is then fed by a relay instead of a client.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

from livekit.protocol import models, rtc

from tertulia.protocol import bus
from tertulia.protocol.errors import RequestError
from tertulia.protocol.ids import mint
from tertulia.sfu.media.receiver import Receiver
from tertulia.sfu.negotiation import Preference

if TYPE_CHECKING:
    from tertulia.sfu.subscription import Subscription

FALLBACK_HEIGHTS = (180, 360)
"""Heights of the lower layers when the publisher did not say (LiveKit: 180, 360, original)."""
UNKNOWN_HEIGHT = 720
VIDEO, SCREEN_SHARE = models.TrackType.VIDEO, models.TrackSource.SCREEN_SHARE
"""Asked for all the time; the generated enums look every name up."""
MAX_DIMENSION = 16_384
MAX_DESCRIBED_LAYERS = 8
MAX_DESCRIBED_CODECS = 4
LAYER_RID = ("q", "h", "f")
SVC_CODECS = frozenset({"video/vp9", "video/av1"})


@dataclass
class DynacastPlan:
    """What the publisher was told of the need for its layers."""

    told: dict[str, int] = field(default_factory=dict)
    """Highest wanted quality by mime type."""
    quiet_until: int = 0
    is_due: bool = False


class PublishedTrack:
    """One track of a member; without receivers until its section is negotiated."""

    def __init__(self, info: models.TrackInfo, publisher_sid: str, cids: frozenset[str]) -> None:
        self.info = info
        self.publisher_sid = publisher_sid
        self.cids = cids
        """The client's names of it, one per codec."""
        self.receivers: list[Receiver] = []
        """The primary codec first, then backups."""
        self.offers: tuple[bus.CodecOffer, ...] = ()
        """Of a remote member's track: what its node can relay."""
        self.subscriptions: dict[str, Subscription] = {}
        """Wishes of this node's members, by subscriber sid."""
        self.dynacast = DynacastPlan()
        self.codec_changes = 0
        self.subscribed_told = False
        """`track_subscribed` was sent to the publisher."""

    @property
    def sid(self) -> str:
        return self.info.sid

    @property
    def is_video(self) -> bool:
        return self.info.type == VIDEO

    @property
    def is_screen(self) -> bool:
        return self.info.source == SCREEN_SHARE

    def receiver_for(self, mime_type: str) -> Receiver | None:
        wanted = mime_type.lower()
        return next((receiver for receiver in self.receivers if receiver.mime_type.lower() == wanted), None)

    def heights(self, layers: int) -> Sequence[int]:
        """Height of each layer in pixels, low to high."""
        said = [layer.height for layer in self.info.layers][:layers]
        if len(said) == layers and all(said):
            return said
        own = self.info.height or UNKNOWN_HEIGHT
        return [*FALLBACK_HEIGHTS[: layers - 1], own]

    def preference(self, cid: str) -> Preference:
        """How the client shall send the section with this cid."""
        info = self.info
        codec = next((codec for codec in info.codecs if codec.cid == cid), info.codecs[0] if info.codecs else None)
        return Preference(
            mime_type=codec.mime_type if codec is not None else "",
            stereo=info.stereo or models.AudioTrackFeature.TF_STEREO in info.audio_features,
            dtx=not info.disable_dtx and models.AudioTrackFeature.TF_NO_DTX not in info.audio_features,
        )

    def attach(self, receiver: Receiver, cid: str) -> None:
        """A codec of the track is negotiated: say so in `info`."""
        info = self.info
        if not self.receivers:
            info.mid, info.mime_type = receiver.mid, receiver.mime_type
        self.receivers.append(receiver)
        described = next(
            (codec for codec in info.codecs if codec.cid == cid),
            next((codec for codec in info.codecs if not codec.mid), None),
        )
        if described is None:
            described = info.codecs.add(cid=cid)
            described.layers.extend(info.layers)
        described.mid, described.mime_type = receiver.mid, receiver.mime_type
        if described.video_layer_mode == models.VideoLayer.MODE_UNUSED and self.is_video:
            described.video_layer_mode = _layer_mode(receiver)

    def replace(self, old: Receiver, receiver: Receiver) -> None:
        """The client sends another codec on the same section."""
        place = self.receivers.index(old)
        self.receivers[place] = receiver
        described = next((codec for codec in self.info.codecs if codec.mid == old.mid), None)
        if described is not None:
            described.mime_type = receiver.mime_type
        if place == 0:
            self.info.mime_type = receiver.mime_type


def _layer_mode(receiver: Receiver) -> models.VideoLayer.Mode:
    if receiver.mime_type.lower() in SVC_CODECS and receiver.layers == 1:
        return models.VideoLayer.MULTIPLE_SPATIAL_LAYERS_PER_STREAM
    return models.VideoLayer.ONE_SPATIAL_LAYER_PER_STREAM


@dataclass
class Pending:
    """An add_track that waits for its section."""

    track: PublishedTrack
    request: rtc.AddTrackRequest

    @property
    def kind(self) -> str:
        return "video" if self.track.is_video else "audio"


def check_request(request: rtc.AddTrackRequest) -> None:
    """RequestError for what cannot be a track."""
    if request.type not in (models.TrackType.AUDIO, models.TrackType.VIDEO):
        raise RequestError("unimplemented", "only audio and video tracks can be added")
    if not request.cid:
        raise RequestError("invalid_argument", "cid is required")
    if max(request.width, request.height) > MAX_DIMENSION:
        raise RequestError("invalid_argument", f"dimensions above {MAX_DIMENSION} are refused")
    if len(request.layers) > MAX_DESCRIBED_LAYERS or len(request.simulcast_codecs) > MAX_DESCRIBED_CODECS:
        raise RequestError("invalid_argument", "too many layers or codecs")


def new_track(
    request: rtc.AddTrackRequest, participant_sid: str, rng: Random, enabled_codecs: Sequence[str]
) -> PublishedTrack:
    """TrackInfo of a checked add_track request."""
    info = models.TrackInfo(
        sid=mint(_sid_prefix(request), rng),
        type=request.type,
        name=request.name,
        width=request.width,
        height=request.height,
        muted=request.muted,
        source=request.source,
        disable_dtx=request.disable_dtx,
        stereo=request.stereo,
        disable_red=request.disable_red,
        encryption=request.encryption,
        stream=request.stream or _stream(request.source),
        audio_features=request.audio_features,
        backup_codec_policy=request.backup_codec_policy,
        packet_trailer_features=request.packet_trailer_features,
    )
    info.layers.extend(_layers(request.layers))
    for codec in request.simulcast_codecs:
        described = info.codecs.add(mime_type=_mime_type(request, codec.codec, enabled_codecs), cid=codec.cid)
        described.layers.extend(_layers(codec.layers or request.layers))
        described.video_layer_mode = codec.video_layer_mode
    info.simulcast = request.type == models.TrackType.VIDEO and len(info.layers) > 1
    cids = {request.cid, *(codec.cid for codec in request.simulcast_codecs if codec.cid)}
    return PublishedTrack(info, participant_sid, frozenset(cids))


def _mime_type(request: rtc.AddTrackRequest, name: str, enabled: Sequence[str]) -> str:
    """`vp8` -> `video/VP8`; a codec the room does not enable becomes its first one of that kind (wire contract 3.6)."""
    kind = "video" if request.type == models.TrackType.VIDEO else "audio"
    if not name:
        return ""
    wanted = f"{kind}/{name}".lower()
    same_kind = [mime for mime in enabled if mime.lower().startswith(kind)]
    return next((mime for mime in same_kind if mime.lower() == wanted), same_kind[0] if same_kind else "")


def _layers(layers: Sequence[models.VideoLayer]) -> list[models.VideoLayer]:
    """Sorted by quality, with rid and spatial layer filled in."""
    found = []
    for index, layer in enumerate(sorted(layers, key=lambda layer: layer.quality)):
        copy = models.VideoLayer()
        copy.CopyFrom(layer)
        copy.spatial_layer = index
        if not copy.rid and len(layers) > 1 and index < len(LAYER_RID):
            copy.rid = LAYER_RID[index]
        found.append(copy)
    return found


_SOURCE_LETTER = {
    models.TrackSource.CAMERA: "C",
    models.TrackSource.MICROPHONE: "M",
    models.TrackSource.SCREEN_SHARE: "S",
    models.TrackSource.SCREEN_SHARE_AUDIO: "s",
}


def _sid_prefix(request: rtc.AddTrackRequest) -> str:
    kind = "V" if request.type == models.TrackType.VIDEO else "A"
    return "TR_" + kind + _SOURCE_LETTER.get(request.source, "")


def _stream(source: models.TrackSource) -> str:
    if source in (models.TrackSource.CAMERA, models.TrackSource.MICROPHONE):
        return "camera"
    if source in (models.TrackSource.SCREEN_SHARE, models.TrackSource.SCREEN_SHARE_AUDIO):
        return "screen_share"
    return "unknown"
