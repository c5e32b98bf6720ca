"""Coming in: admission, duplicate identity, the join response, the first steps after it (wire contract 2.1-2.3, 2.7).

Coming back is `resuming`, going out is `leaving`.
"""

from livekit.protocol import models, rtc

from tertulia.protocol.errors import RequestError
from tertulia.protocol.ids import mint
from tertulia.protocol.machine import MILLISECOND, SECOND
from tertulia.protocol.token import Claims, VideoGrant, permission
from tertulia.sfu import data_tracks, leaving, negotiating, publishing, subscribing
from tertulia.sfu.events import EndSession, Join, Refresh, Send
from tertulia.sfu.negotiation import Answerer, Offerer
from tertulia.sfu.participant import (
    ACTIVE,
    DEPENDENT,
    JOINED,
    JOINING,
    KINDS,
    LocalParticipant,
    Participant,
    Peer,
    changed_attributes,
)
from tertulia.sfu.settings import JOIN_TIMEOUT_NS, server_info
from tertulia.sfu.state import RoomState, visible

Reason = models.DisconnectReason
_DETAILS = frozenset(models.ParticipantInfo.KindDetail.DESCRIPTOR.values_by_name)
ROOM_FULL = "room has exceeded its max participants"
CHANNELS = ("_reliable", "_lossy", "_data_track")
"""What we open on the subscriber connection of /rtc; on a single connection the client opens them."""


def admit(state: RoomState, claims: Claims) -> None:
    """Raises RequestError when the room cannot take this member now."""
    limit = state.room.max_participants
    if not limit or claims.identity in state.by_identity or _kind(claims, claims.video or VideoGrant()) in DEPENDENT:
        return
    if sum(1 for member in state.members.values() if not member.is_dependent) >= limit:
        raise RequestError("permission_denied", ROOM_FULL)


def is_counted(claims: Claims) -> bool:
    """Whether a member with this token counts against max_participants."""
    return _kind(claims, claims.video or VideoGrant()) not in DEPENDENT


def join(state: RoomState, event: Join) -> None:
    """A client comes in; whoever holds its identity goes."""
    try:
        if not event.ticket:  # a claim has counted already, exactly
            admit(state, event.claims)
        info = _participant_info(state, event)
    except RequestError as error:
        _refuse(state, event, error)
        return
    if (old := state.by_identity.get(event.claims.identity)) is not None:
        state.counters["duplicate_identity"] += 1
        leaving.remove(state, old, Reason.DUPLICATE_IDENTITY)
    local = _enter(state, event, info)
    state.send(local, _welcome(state, local))
    local.who.become(JOINED)
    state.changed(local.who, to_self=False, can_wait=True)
    local.deadline = state.agenda.at(state.after(JOIN_TIMEOUT_NS), lambda: _never_connected(state, local))
    for request in event.add_tracks:
        publishing.add_track(state, local, request)
    subscribing.review_all(state, local)
    data_tracks.subscribe_all(state, local)
    if event.offer is not None and event.offer.sdp:
        negotiating.on_offer(state, local, event.offer)
    refresh_token(state, local)


def _refuse(state: RoomState, event: Join, error: RequestError) -> None:
    """Only after a race: the door asked `admit` before."""
    state.counters["join_refused"] += 1
    leave = leaving.leave_message(Reason.JOIN_FAILURE)
    state.emit(Send(event.session, leave))
    state.emit(EndSession(event.session))


def _enter(state: RoomState, event: Join, info: models.ParticipantInfo) -> LocalParticipant:
    who = Participant(info, state.node_id)
    who.ticket = event.ticket
    local = who.local = LocalParticipant(who, event.claims, event.client, event.session)
    local.single_connection = event.single_connection
    local.subscriber_primary = not event.single_connection and info.permission.can_subscribe
    local.auto_subscribe = event.auto_subscribe
    local.auto_subscribe_data = event.auto_subscribe_data_track
    local.adaptive_stream = event.adaptive_stream
    local.allow_pause = event.allow_pause
    local.joined_at = state.now
    _open_connections(state, local)
    state.enter(who)
    state.sessions[event.session] = local
    return local


def _kind(claims: Claims, grant: VideoGrant) -> models.ParticipantInfo.Kind:
    if grant.recorder:
        return models.ParticipantInfo.EGRESS
    if grant.agent:
        return models.ParticipantInfo.AGENT
    return KINDS.get(claims.kind, models.ParticipantInfo.STANDARD)


def _participant_info(state: RoomState, event: Join) -> models.ParticipantInfo:
    claims, config = event.claims, state.config
    grant = claims.video or VideoGrant()
    metadata = event.metadata or claims.metadata
    if len(metadata.encode()) > config.max_metadata_bytes:
        raise RequestError("invalid_argument", f"metadata exceeds {config.max_metadata_bytes} bytes")
    if len(claims.name) > config.max_name_length:
        raise RequestError("invalid_argument", f"name exceeds {config.max_name_length} characters")
    own = {key: value for key, value in event.attributes.items() if value}
    return models.ParticipantInfo(
        sid=event.sid or mint("PA_", state.rng),
        identity=claims.identity,
        name=claims.name,
        state=JOINING,
        metadata=metadata,
        attributes=changed_attributes(claims.attributes, own, config.max_attributes_bytes),
        permission=permission(grant),
        joined_at=state.wall_ns() // SECOND,
        joined_at_ms=state.wall_ns() // MILLISECOND,
        region=state.region,
        kind=_kind(claims, grant),
        kind_details=[name.upper() for name in claims.kind_details if name.upper() in _DETAILS],
        version=1,
        client_protocol=event.client.client_protocol,
        capabilities=event.client.capabilities,
    )


def _open_connections(state: RoomState, local: LocalParticipant) -> None:
    """One connection for both ways, or one each (v0: the subscriber side is opened and offered by us)."""
    codecs = state.config.enabled_codecs
    local.answerer = Answerer(enabled_codecs=codecs, client=local.client, rng=state.rng, sends=local.single_connection)
    local.up = local.down = _open_peer(state, local)
    if local.single_connection:
        return
    local.down = _open_peer(state, local)
    local.offerer = Offerer(enabled_codecs=codecs, client=local.client, rng=state.rng)
    local.offer_id = state.rng.randrange(1, 256)
    for label in CHANNELS:
        reliable = label == "_reliable"
        state.transports.open_channel(
            local.down.transport, label, ordered=reliable, max_retransmits=None if reliable else 0
        )
    state.renegotiate(local)


def _open_peer(state: RoomState, local: LocalParticipant) -> Peer:
    transport, parameters = state.transports.open(state.sid)
    state.by_transport[transport] = local
    state.plane.set_feedback(transport, state.rng.randrange(1, 1 << 32))
    return Peer(transport, parameters)


def _welcome(state: RoomState, local: LocalParticipant) -> rtc.SignalResponse:
    """Wire contract 2.7 and 11.1. Filled where it stands: what a constructor or `extend` is given is serialized and
    parsed, which takes three times as long as CopyFrom."""
    server = server_info(state.node_id, state.region)
    who = local.who
    response = rtc.SignalResponse()
    welcome = response.join
    welcome.room.CopyFrom(state.info())
    welcome.participant.CopyFrom(who.info)
    welcome.participant.state = JOINED
    for other in visible(state.members.values(), who):
        welcome.other_participants.add().CopyFrom(other)
    welcome.server_version = server.version
    welcome.server_region = state.region
    welcome.server_info.CopyFrom(server)
    welcome.subscriber_primary = local.subscriber_primary
    welcome.fast_publish = who.info.permission.can_publish
    welcome.ping_interval = state.config.ping_interval_s
    welcome.ping_timeout = state.config.ping_timeout_s
    welcome.ice_servers.extend(state.config.ice_servers)
    welcome.client_configuration.SetInParent()
    welcome.sif_trailer = state.sif_trailer
    welcome.enabled_publish_codecs.extend(state.room.enabled_codecs)
    return response


def connected(state: RoomState, local: LocalParticipant) -> None:
    """The primary connection is up for the first time: everybody hears that the member is there."""
    if local.deadline is not None:
        local.deadline.cancel()
        local.deadline = None
    if local.who.info.state != JOINED:
        return
    local.who.become(ACTIVE)
    state.changed(local.who, can_wait=True)
    state.happened("participant_joined", local.who)
    subscribing.review_all(state, local)


def _never_connected(state: RoomState, local: LocalParticipant) -> None:
    if not local.is_active and not local.who.is_gone:
        state.counters["join_timeout"] += 1
        leaving.remove(state, local.who, Reason.JOIN_FAILURE)


def refresh_token(state: RoomState, local: LocalParticipant) -> None:
    """A fresh token: when a session starts, every five minutes, after changes of what it says (wire contract 5.3)."""
    if local.session is None or local.who.is_gone:
        return
    info = local.who.info
    allowed = models.ParticipantPermission()
    allowed.CopyFrom(info.permission)
    state.emit(
        Refresh(
            session=local.session,
            claims=local.claims,
            name=info.name,
            metadata=info.metadata,
            attributes=dict(info.attributes),
            permission=allowed,
        )
    )
