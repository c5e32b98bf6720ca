"""Access tokens: what they say (identity and grants) and how to read them (LiveKit claims, wire contract section 6).

Decides whether a token is genuine and in force, with `now_s` given; refuses in words that tell how to mend it. What a
grant allows is decided where it is used; making tokens is `tertulia.protocol.signing`. Only HS256 (RFC 7515, 7518 3.2)
with `exp` (RFC 7519 4.1.4) is accepted.
"""

import base64
import binascii
import functools
import json
import math
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any

import jwt
from google.protobuf import json_format
from jwt.algorithms import HMACAlgorithm
from livekit.protocol import models, room

from tertulia.protocol.errors import RequestError

MAX_TOKEN_BYTES = 32_768
"""Refused unread above this: fits any request line we accept and keeps the cost of a refusal below 1 ms."""
MAX_SECRETS = 128
"""Known to be fit for signing at a time; a node has a few API keys."""
MAX_IDENTITY_CHARS = 256
LEEWAY_S = 60
"""How far the clocks of two machines may be apart (LiveKit's verifier)."""
MAX_LIFETIME_S = 10 * 366 * 86_400
"""Nobody needs more; an absurd `exp` is a mistake of the caller or an attempt to overflow something."""


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
        can_publish_sources=_sources(grant.can_publish_sources),
        hidden=grant.hidden,
        recorder=grant.recorder,
        agent=grant.agent,
        can_update_metadata=bool(grant.can_update_own_metadata),
        can_subscribe_metrics=bool(grant.can_subscribe_metrics),
    )


def _sources(names: Iterable[str]) -> list[str]:
    return [name.upper() for name in names if name.upper() in _KNOWN_SOURCES]


_KNOWN_SOURCES = frozenset(models.TrackSource.keys())


class TokenError(RequestError):
    """The token is refused; `reason` is one short word for counters, the message is for people."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__("unauthenticated", message)
        self.reason = reason


class _Hmac(HMACAlgorithm):
    """Secret lengths are judged once, by `check_secret`, not with a warning at every token. Whether a secret is another
    kind of key in truth is looked at once per secret: that takes longer than a signature."""

    @functools.lru_cache(maxsize=MAX_SECRETS)  # noqa: B019  # there is one, as old as the process
    def prepare_key(self, key: str | bytes) -> bytes:
        return super().prepare_key(key)

    def check_key_length(self, key: bytes) -> None:
        return None


def _signer() -> jwt.PyJWS:
    signer = jwt.PyJWS(algorithms=["HS256"])
    signer.unregister_algorithm("HS256")
    signer.register_algorithm("HS256", _Hmac(HMACAlgorithm.SHA256))
    return signer


jws = _signer()

# ------------------------------------------------------------------------------------------- parse


def parse_token(token: str, keys: Mapping[str, str], now_s: int) -> Claims:
    """The claims of a genuine token in force at `now_s` (Unix seconds); raises TokenError."""
    if len(token) > MAX_TOKEN_BYTES:
        raise TokenError(
            "too_long",
            f"the token is longer than {MAX_TOKEN_BYTES} bytes; put large metadata into the room, not the token",
        )
    payload = _unverified_payload(token)
    api_key = _text(payload, "iss")
    if not api_key:
        raise TokenError("no_key", "the token names no API key (claim `iss`); sign it with an API key of this server")
    secret = keys.get(api_key)
    if not secret:
        raise TokenError("unknown_key", f"invalid API key: {_shown(api_key)}; is the token meant for another server?")
    _verify_signature(token, secret, api_key)
    expires_s, not_before_s = _in_force(payload, now_s)
    return _claims(payload, api_key, expires_s, not_before_s)


def _unverified_payload(token: str) -> dict[str, Any]:
    """Read before the signature is checked, only to learn which key to check with."""
    segments = token.split(".")
    if len(segments) != 3:
        raise TokenError("malformed", "this is not an access token: a JWT has three parts separated by dots")
    try:
        segment = segments[1].encode("ascii")
        payload = json.loads(
            base64.urlsafe_b64decode(segment + b"=" * (-len(segment) % 4)), object_pairs_hook=_without_duplicates
        )
    except (binascii.Error, ValueError, RecursionError):
        raise TokenError("malformed", "the token's payload is not base64url-encoded JSON; was it cut off?") from None
    if not isinstance(payload, dict):
        raise TokenError("malformed", "the token's payload is not a JSON object")
    return payload


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Two readers could disagree about which of two equal claims counts."""
    claims = dict(pairs)
    if len(claims) != len(pairs):
        raise TokenError("malformed", "the token has the same claim twice")
    return claims


def _verify_signature(token: str, secret: str, api_key: str) -> None:
    try:
        jws.decode_complete(token, secret, algorithms=["HS256"])
    except jwt.InvalidAlgorithmError:
        raise TokenError("algorithm", "the token must be signed with HS256") from None
    except jwt.InvalidSignatureError:
        raise TokenError(
            "signature", f"the signature does not match: the token was not signed with the secret of {_shown(api_key)}"
        ) from None
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
        raise TokenError("malformed", f"the token cannot be decoded ({type(error).__name__})") from None


def _in_force(payload: Mapping[str, Any], now_s: int) -> tuple[int, int]:
    expires_s = _seconds(payload, "exp")
    if expires_s is None:
        raise TokenError("no_expiry", "the token never expires (no claim `exp`); give it a time to live")
    if now_s >= expires_s + LEEWAY_S:
        raise TokenError(
            "expired",
            f"the token expired {now_s - expires_s} s ago (server time {_clock(now_s)}); ask for a new one, "
            "or check the clock of the machine that made it",
        )
    if expires_s - now_s > MAX_LIFETIME_S + LEEWAY_S:
        raise TokenError("lifetime", "the token is valid for more than 10 years; give it a shorter time to live")
    not_before_s = _seconds(payload, "nbf") or 0
    if not_before_s > now_s + LEEWAY_S:
        raise TokenError(
            "not_yet",
            f"the token is not valid for another {not_before_s - now_s} s (server time {_clock(now_s)}); "
            "check the clock of the machine that made it",
        )
    return expires_s, not_before_s


def _seconds(payload: Mapping[str, Any], claim: str) -> int | None:
    value = payload.get(claim)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TokenError("malformed", f"the claim `{claim}` must be a number (Unix seconds)")
    return int(value)


def _claims(payload: dict[str, Any], api_key: str, expires_s: int, not_before_s: int) -> Claims:
    identity = _text(payload, "sub") or _text(payload, "jti")
    check_name("identity", identity)
    return Claims(
        api_key=api_key,
        identity=identity,
        name=_text(payload, "name"),
        kind=_text(payload, "kind") or "standard",
        kind_details=_texts(payload, "kindDetails"),
        metadata=_text(payload, "metadata"),
        attributes=_attributes(payload),
        video=_video(payload),
        room_preset=_text(payload, "roomPreset"),
        room_config=_room_config(payload),
        sha256=_text(payload, "sha256"),
        not_before_s=not_before_s,
        expires_s=expires_s,
        raw=payload,
    )


def check_name(what: str, name: str) -> None:
    """An identity or a room name that can be shown, logged and compared; raises TokenError."""
    if len(name) > MAX_IDENTITY_CHARS:
        raise TokenError("malformed", f"the {what} is longer than {MAX_IDENTITY_CHARS} characters")
    if name.isascii() and name.isprintable():
        return
    if any(unicodedata.category(char) == "Cc" or unicodedata.bidirectional(char) in _BIDI_CONTROLS for char in name):
        raise TokenError("malformed", f"the {what} contains control characters")


_BIDI_CONTROLS = frozenset({"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"})
"""They let one name be shown as another (Unicode UAX 9)."""


def _text(claims: Mapping[str, Any], claim: str) -> str:
    value = claims.get(claim)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TokenError("malformed", f"the claim `{claim}` must be text")
    try:
        value.encode()
    except UnicodeEncodeError:  # a lone surrogate: no protobuf could carry it
        raise TokenError("malformed", f"the claim `{claim}` is not valid Unicode") from None
    return value


def _texts(claims: Mapping[str, Any], claim: str) -> tuple[str, ...]:
    value = claims.get(claim)
    if value is None:
        return ()
    if not isinstance(value, list):
        raise TokenError("malformed", f"the claim `{claim}` must be a list of texts")
    return tuple(_text({claim: item}, claim) for item in value)


def _attributes(payload: Mapping[str, Any]) -> dict[str, str]:
    value = payload.get("attributes")
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise TokenError("malformed", "the claim `attributes` must be an object of texts")
    return {_text({"attributes": key}, "attributes"): _text(value, key) for key in value}


def _room_config(payload: Mapping[str, Any]) -> room.RoomConfiguration | None:
    value = payload.get("roomConfig")
    if value is None:
        return None
    try:
        return json_format.ParseDict(value, room.RoomConfiguration(), ignore_unknown_fields=True)
    except (json_format.ParseError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise TokenError(
            "malformed", f"the claim `roomConfig` is not a room configuration: {str(error)[:120]}"
        ) from None


# ------------------------------------------------------------------------------- the `video` claim


def camel(name: str) -> str:
    """`can_publish` -> `canPublish`, as protojson writes it."""
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


GRANTS = tuple((spec.name, camel(spec.name)) for spec in fields(VideoGrant))
"""Each grant as we call it and as the claim does."""
_TEXT_GRANTS = frozenset({"room", "destination_room"})


def _video(payload: Mapping[str, Any]) -> VideoGrant | None:
    claim = payload.get("video")
    if claim is None:
        return None
    if not isinstance(claim, dict):
        raise TokenError("malformed", "the claim `video` must be an object")
    grants: dict[str, Any] = {}
    for grant, name in GRANTS:
        value = claim.get(name)
        if value is None:
            continue
        if grant == "can_publish_sources":
            grants[grant] = _texts(claim, name)
        elif grant in _TEXT_GRANTS:
            grants[grant] = _text(claim, name)
        elif isinstance(value, bool):
            grants[grant] = value
        else:
            raise TokenError("malformed", f"the grant `video.{name}` must be true or false")
    check_name("room name", grants.get("room", ""))
    return VideoGrant(**grants)


def _shown(api_key: str) -> str:
    """A key's name fit for one line of text."""
    return repr(api_key[:64])


def _clock(now_s: int) -> str:
    return datetime.fromtimestamp(now_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
