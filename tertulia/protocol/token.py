"""What an access token says: identity and grants (LiveKit claims, wire contract section 6)."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from livekit.protocol import models, room


@dataclass(frozen=True, slots=True)
class VideoGrant:
    """The `video` claim. `None` means unset: publish and subscribe default to yes, data follows publish."""

    room_create: bool = False
    room_list: bool = False
    room_record: bool = False
    room_admin: bool = False
    room_join: bool = False
    room: str = ""
    destination_room: str = ""
    can_publish: bool | None = None
    can_subscribe: bool | None = None
    can_publish_data: bool | None = None
    can_publish_sources: tuple[str, ...] = ()
    can_update_own_metadata: bool | None = None
    ingress_admin: bool = False
    hidden: bool = False
    recorder: bool = False
    agent: bool = False
    can_subscribe_metrics: bool | None = None


@dataclass(frozen=True, slots=True)
class Claims:
    """One verified access token."""

    api_key: str
    identity: str
    name: str = ""
    kind: str = "standard"
    kind_details: tuple[str, ...] = ()
    metadata: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)
    video: VideoGrant | None = None
    room_preset: str = ""
    room_config: room.RoomConfiguration | None = None
    sha256: str = ""
    not_before_s: int = 0
    expires_s: int = 0
    raw: Mapping[str, object] = field(default_factory=dict)
    """The decoded payload, kept so that a refresh token can carry every claim."""


def permission(grant: VideoGrant) -> models.ParticipantPermission:
    """What the participant may do, as clients see it (server `ParticipantPermission` from grants)."""
    publish = grant.can_publish is not False
    return models.ParticipantPermission(
        can_subscribe=grant.can_subscribe is not False,
        can_publish=publish,
        can_publish_data=publish if grant.can_publish_data is None else grant.can_publish_data,
        can_publish_sources=[
            models.TrackSource.Value(source.upper())
            for source in grant.can_publish_sources
            if source.upper() in models.TrackSource.keys()
        ],
        hidden=grant.hidden,
        recorder=grant.recorder,
        agent=grant.agent,
        can_update_metadata=bool(grant.can_update_own_metadata),
        can_subscribe_metrics=bool(grant.can_subscribe_metrics),
    )
