"""From a request and its verified token to a JoinAttempt, or to a refusal with the status clients understand.

Both forms: v0 (query parameters, two peer connections) and v1 (`join_request`, one), wire contract 1.3, 1.5, 1.6.
Whether the room exists, is full or takes newcomers is the house's to say.
"""

import base64
import binascii
import json
import zlib
from collections.abc import Mapping
from dataclasses import replace
from urllib.parse import parse_qsl

from google.protobuf.message import DecodeError
from livekit.protocol import models, rtc

from tertulia.protocol.ids import SessionId
from tertulia.protocol.token import Claims, TokenError, VideoGrant, check_name
from tertulia.signal.backend import JoinAttempt, Refused
from tertulia.signal.clients import client_of_query, complete

MAX_JOIN_REQUEST_BYTES = 1 << 20
"""After decompression (LiveKit's limit)."""
MAX_QUERY_FIELDS = 64
MAX_METADATA_BYTES = 512 << 10
MAX_ATTRIBUTES_BYTES = 64 << 10
MAX_ADD_TRACKS = 20
"""LiveKit keeps no more pending tracks per participant."""


def parse_query(query_string: bytes) -> dict[str, str]:
    """Query parameters; of repeated ones the first counts. Raises Refused(400)."""
    try:
        pairs = parse_qsl(
            query_string.decode("latin-1"), keep_blank_values=True, max_num_fields=MAX_QUERY_FIELDS, errors="replace"
        )
    except ValueError:
        raise Refused(400, f"more than {MAX_QUERY_FIELDS} query parameters") from None
    query: dict[str, str] = {}
    for name, value in pairs:
        query.setdefault(name, value)
    return query


def attempt_of(
    session: SessionId, *, v1: bool, query: Mapping[str, str], claims: Claims, user_agent: str, address: str
) -> JoinAttempt:
    """Everything that can be known before asking the house; raises Refused."""
    grant = claims.video
    if grant is None:
        raise Refused(401, "permissions denied: the token has no `video` grant, so it cannot join a room")
    if claims.sha256:
        raise Refused(401, "permissions denied: this token signs a webhook, it cannot join a room")
    if not grant.room_join:
        raise Refused(401, "permissions denied: the token lacks the grant video.roomJoin")
    encoded = query.get("join_request", "")
    if v1 and not encoded:
        raise Refused(400, "join_request is required")
    if encoded:
        request = parse_join_request(encoded)
        client = complete(request.client_info, user_agent, address)
        attempt = _attempt_v1(session, request, claims, _room(grant, query), client)
    else:
        client = complete(client_of_query(query), user_agent, address)
        attempt = _attempt_v0(session, query, claims, _room(grant, query), client)
    _check_wishes(attempt, grant)
    return _with_suffix(attempt, grant, query.get("publish", ""))


def _room(grant: VideoGrant, query: Mapping[str, str]) -> str:
    name = grant.room or query.get("room", "")
    if not name:
        raise Refused(400, "room name is required: the token's video.room is empty and so is the query's `room`")
    try:
        check_name("room name", name)
    except TokenError as error:
        raise Refused(400, error.message) from None
    return name


def _check_wishes(attempt: JoinAttempt, grant: VideoGrant) -> None:
    if not attempt.claims.identity:
        raise Refused(400, "identity cannot be empty: the token has no claim `sub`")
    if (attempt.metadata or attempt.attributes) and not grant.can_update_own_metadata:
        raise Refused(401, "permissions denied: setting metadata or attributes needs video.canUpdateOwnMetadata")
    if len(attempt.metadata.encode(errors="replace")) > MAX_METADATA_BYTES:
        raise Refused(400, f"metadata is longer than {MAX_METADATA_BYTES} bytes")
    size = sum(len(k.encode(errors="replace")) + len(v.encode(errors="replace")) for k, v in attempt.attributes.items())
    if size > MAX_ATTRIBUTES_BYTES:
        raise Refused(400, f"attributes are longer than {MAX_ATTRIBUTES_BYTES} bytes")
    if len(attempt.add_tracks) > MAX_ADD_TRACKS:
        raise Refused(400, f"more than {MAX_ADD_TRACKS} tracks in one join request")


def _with_suffix(attempt: JoinAttempt, grant: VideoGrant, suffix: str) -> JoinAttempt:
    """Legacy `publish=<id>`: a second, publishing-only connection of the same person."""
    if not suffix:
        return attempt
    if grant.can_publish is False:
        raise Refused(401, "permissions denied: `publish` needs the grant video.canPublish")
    identity = f"{attempt.claims.identity}#{suffix}"
    try:
        check_name("identity", identity)
    except TokenError as error:
        raise Refused(400, error.message) from None
    video = replace(grant, can_subscribe=False)
    return replace(attempt, claims=replace(attempt.claims, identity=identity, video=video))


# ------------------------------------------------------------------------------------------------ v1


def parse_join_request(encoded: str) -> rtc.JoinRequest:
    """`join_request` of the query; raises Refused(400)."""
    try:
        wrapped = rtc.WrappedJoinRequest.FromString(_base64(encoded))
    except (binascii.Error, ValueError):
        raise Refused(400, "join_request is not base64") from None
    except DecodeError:
        raise Refused(400, "join_request is not a WrappedJoinRequest") from None
    data = wrapped.join_request
    if wrapped.compression == rtc.WrappedJoinRequest.Compression.Value("GZIP"):
        data = _gunzip(data)
    elif wrapped.compression != rtc.WrappedJoinRequest.Compression.Value("NONE"):
        raise Refused(400, f"join_request has an unknown compression ({wrapped.compression})")
    try:
        return rtc.JoinRequest.FromString(data)
    except DecodeError:
        raise Refused(400, "join_request does not hold a JoinRequest") from None


def _base64(text: str) -> bytes:
    """Both alphabets, padded or not; an unescaped `+` has become a space on its way through the query."""
    standard = text.replace("-", "+").replace("_", "/").replace(" ", "+").rstrip("=")
    return base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True)


def _gunzip(data: bytes) -> bytes:
    inflater = zlib.decompressobj(wbits=31)
    try:
        plain = inflater.decompress(data, MAX_JOIN_REQUEST_BYTES + 1)
    except zlib.error:
        raise Refused(400, "join_request is not a gzip stream") from None
    if len(plain) > MAX_JOIN_REQUEST_BYTES:
        raise Refused(400, f"join_request is longer than {MAX_JOIN_REQUEST_BYTES} bytes when decompressed")
    if not inflater.eof:
        raise Refused(400, "join_request's gzip stream is cut off")
    return plain


def _set(attributes: Mapping[str, str]) -> dict[str, str]:
    """An empty value would delete an attribute, and those of the token are not the client's to delete."""
    return {name: value for name, value in attributes.items() if value}


def _attempt_v1(
    session: SessionId, request: rtc.JoinRequest, claims: Claims, room: str, client: models.ClientInfo
) -> JoinAttempt:
    settings = request.connection_settings
    return JoinAttempt(
        session=session,
        room=room,
        claims=claims,
        client=client,
        single_connection=True,
        auto_subscribe=settings.auto_subscribe,
        adaptive_stream=settings.adaptive_stream,
        allow_pause=settings.subscriber_allow_pause,
        auto_subscribe_data_track=settings.auto_subscribe_data_track,
        disable_ice_lite=settings.disable_ice_lite,
        metadata=request.metadata,
        attributes=_set(request.participant_attributes),
        add_tracks=tuple(request.add_track_requests),
        offer=request.publisher_offer if request.HasField("publisher_offer") else None,
        reconnect=request.reconnect,
        participant_sid=request.participant_sid,
        reconnect_reason=request.reconnect_reason,
        sync_state=request.sync_state if request.HasField("sync_state") else None,
    )


# ------------------------------------------------------------------------------------------------ v0


def _attempt_v0(
    session: SessionId, query: Mapping[str, str], claims: Claims, room: str, client: models.ClientInfo
) -> JoinAttempt:
    reason = query.get("reconnect_reason", "")
    return JoinAttempt(
        session=session,
        room=room,
        claims=claims,
        client=client,
        single_connection=False,
        auto_subscribe=_flag(query, "auto_subscribe", default=True),
        adaptive_stream=_flag(query, "adaptive_stream"),
        allow_pause=_flag(query, "subscriber_allow_pause"),
        auto_subscribe_data_track=_flag(query, "auto_subscribe_data_track"),
        disable_ice_lite=_flag(query, "disable_ice_lite"),
        metadata=query.get("metadata", ""),
        attributes=_set(_attributes(query.get("attributes", ""))),
        reconnect=_flag(query, "reconnect"),
        participant_sid=query.get("sid", ""),
        reconnect_reason=int(reason) if reason.isascii() and reason.isdigit() and reason in _REASONS else 0,
    )


_REASONS = frozenset(str(number) for number in models.ReconnectReason.values())


def _flag(query: Mapping[str, str], name: str, default: bool = False) -> bool:
    value = query.get(name, "").lower()
    return value in ("1", "true") if value else default


def _attributes(encoded: str) -> dict[str, str]:
    if not encoded:
        return {}
    try:
        attributes = json.loads(_base64(encoded))
    except (binascii.Error, ValueError, RecursionError):
        raise Refused(400, "`attributes` is not base64-encoded JSON") from None
    if not isinstance(attributes, dict) or not all(isinstance(value, str) for value in attributes.values()):
        raise Refused(400, "`attributes` is not a JSON object of texts")
    try:
        "".join(attributes).encode(), "".join(attributes.values()).encode()
    except UnicodeEncodeError:
        raise Refused(400, "`attributes` is not valid Unicode") from None
    return attributes
