"""Which grant each Twirp method needs (wire contract 7.1), as one table. Says no in words; carries nothing out."""

from collections.abc import Callable, Mapping

from google.protobuf.message import Message

from tertulia.protocol.errors import RequestError
from tertulia.protocol.token import Claims, VideoGrant

Rule = Callable[[Claims, Message | None], str]
"""The missing grant's name, or nothing. Without a request: whether any request of this caller could pass."""

_NONE = VideoGrant()


def _video(grant: str, name: str) -> Rule:
    def rule(claims: Claims, request: Message | None) -> str:
        return "" if getattr(claims.video or _NONE, grant) else f"video.{name}"

    return rule


def _admin(claims: Claims, request: Message | None) -> str:
    """roomAdmin, and only for the room the token names."""
    grant = claims.video or _NONE
    if not grant.room_admin:
        return "video.roomAdmin"
    if request is None:
        return ""
    room: str = getattr(request, "room", "") or getattr(request, "room_name", "")
    if grant.room != room:
        return f"video.roomAdmin for room {room[:256]!r} (the token's room is {grant.room!r})"
    return ""


def _forward(claims: Claims, request: Message | None) -> str:
    grant = claims.video or _NONE
    missing = _admin(claims, request)
    if missing or request is None:
        return missing
    destination: str = getattr(request, "destination_room", "")
    return "" if grant.destination_room == destination else f"video.destinationRoom {destination[:256]!r}"


def _sip(grant: str) -> Rule:
    def rule(claims: Claims, request: Message | None) -> str:
        sip = claims.raw.get("sip")
        return "" if isinstance(sip, Mapping) and sip.get(grant) is True else f"sip.{grant}"

    return rule


def _all(*rules: Rule) -> Rule:
    def rule(claims: Claims, request: Message | None) -> str:
        return next((missing for each in rules if (missing := each(claims, request))), "")

    return rule


_create = _video("room_create", "roomCreate")
_list = _video("room_list", "roomList")
_record = _video("room_record", "roomRecord")
_ingress = _video("ingress_admin", "ingressAdmin")
_sip_admin, _sip_call = _sip("admin"), _sip("call")

RULES: Mapping[str, Mapping[str, Rule]] = {
    "RoomService": {
        "CreateRoom": _create,
        "DeleteRoom": _create,
        "ListRooms": _list,
        "ForwardParticipant": _forward,
        "MoveParticipant": _forward,
        "*": _admin,
    },
    "AgentDispatchService": {"*": _admin},
    "Egress": {"*": _record},
    "Ingress": {"*": _ingress},
    "SIP": {
        "CreateSIPParticipant": _sip_call,
        "TransferSIPParticipant": _all(_sip_call, _admin),
        "*": _sip_admin,
    },
    "Connector": {"*": _create},
}
"""`*` holds for every method of the service that is not named."""


def check(service: str, method: str, claims: Claims | None, request: Message | None) -> Claims:
    """The claims when they suffice; raises RequestError(unauthenticated), which LiveKit's SDKs expect for both.

    Called twice: with None before the body is read, so that nobody without the grant makes us parse megabytes.
    """
    if claims is None:
        raise RequestError(
            "unauthenticated", "permissions denied: no access token; send the header `Authorization: Bearer <token>`"
        )
    rules = RULES[service]
    missing = (rules.get(method) or rules["*"])(claims, request)
    if missing:
        raise RequestError("unauthenticated", f"permissions denied: {service}.{method} needs the grant {missing}")
    return claims
