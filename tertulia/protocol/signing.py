"""Making access tokens: for the command line, for refreshing a participant's token, for webhooks and agents.

The counterpart of `tertulia.protocol.token`, which reads them. Time is given as Unix seconds.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from google.protobuf import json_format
from livekit.protocol import models

from tertulia.protocol.token import GRANTS, Claims, VideoGrant, jws

MIN_SECRET_BYTES = 32
"""RFC 7518 3.2: a key at least as long as the hash."""
MIN_REFRESH_LIFETIME_S = 600


def check_secret(api_key: str, secret: str, *, dev: bool = False) -> None:
    """Raises ValueError for a secret that could be guessed; development mode accepts any that is not empty."""
    if not secret:
        raise ValueError(f"the secret of API key {api_key!r} is empty: anybody could sign tokens")
    length = len(secret.encode())
    if length < MIN_SECRET_BYTES and not dev:
        raise ValueError(
            f"the secret of API key {api_key!r} has {length} bytes; at least {MIN_SECRET_BYTES} are needed. "
            "`tertulia generate-keys` makes a good one"
        )


def build_token(claims: Claims, secret: str, *, now_s: int, lifetime_s: int, not_before_s: int | None = None) -> str:
    """Sign these claims; what `raw` holds beyond the known claims (sip, agent, ...) is carried along."""
    payload = {name: value for name, value in claims.raw.items() if name not in _OWN_CLAIMS}
    known: dict[str, Any] = {
        "name": claims.name,
        "kind": "" if claims.kind == "standard" else claims.kind,
        "kindDetails": list(claims.kind_details),
        "metadata": claims.metadata,
        "attributes": dict(claims.attributes),
        "roomPreset": claims.room_preset,
        "sha256": claims.sha256,
    }
    payload.update({name: value for name, value in known.items() if value})
    if claims.video is not None:
        payload["video"] = _video_claim(claims.video)
    if claims.room_config is not None:
        payload["roomConfig"] = json_format.MessageToDict(claims.room_config)
    valid_from_s = now_s if not_before_s is None else not_before_s
    payload.update(iss=claims.api_key, sub=claims.identity, nbf=valid_from_s, exp=now_s + lifetime_s)
    return jws.encode(json.dumps(payload, separators=(",", ":")).encode(), secret, algorithm="HS256")


_OWN_CLAIMS = frozenset(
    {"iss", "sub", "jti", "iat", "nbf", "exp", "name", "kind", "kindDetails", "metadata", "attributes", "sha256"}
    | {"roomPreset", "roomConfig", "video"}
)


def refresh_token(
    claims: Claims,
    keys: Mapping[str, str],
    now_s: int,
    *,
    name: str | None = None,
    metadata: str | None = None,
    attributes: Mapping[str, str] | None = None,
    permission: models.ParticipantPermission | None = None,
) -> str | None:
    """A token for the next reconnect: the same claims with what changed since (wire contract 5.3, 6).

    It lives as long as the original would, at least ten minutes, and is valid from when the original was: the node it
    is shown to may have a clock behind ours. None when the key was withdrawn meanwhile.
    """
    secret = keys.get(claims.api_key)
    if not secret:
        return None
    current = replace(
        claims,
        name=claims.name if name is None else name,
        metadata=claims.metadata if metadata is None else metadata,
        attributes=claims.attributes if attributes is None else attributes,
        video=claims.video if permission is None else _granted(claims.video or VideoGrant(), permission),
    )
    lifetime_s = max(MIN_REFRESH_LIFETIME_S, claims.expires_s - now_s)
    return build_token(current, secret, now_s=now_s, lifetime_s=lifetime_s, not_before_s=claims.not_before_s)


def _granted(grant: VideoGrant, permission: models.ParticipantPermission) -> VideoGrant:
    """The grant a participant with this permission would have been given."""
    return replace(
        grant,
        can_publish=permission.can_publish,
        can_subscribe=permission.can_subscribe,
        can_publish_data=permission.can_publish_data,
        can_publish_sources=tuple(models.TrackSource.Name(source).lower() for source in permission.can_publish_sources),
        can_update_own_metadata=permission.can_update_metadata,
        can_subscribe_metrics=permission.can_subscribe_metrics,
        hidden=permission.hidden,
        recorder=permission.recorder,
        agent=permission.agent,
    )


_UNSET_GRANT = VideoGrant()


def _video_claim(grant: VideoGrant) -> dict[str, Any]:
    """Only what is set; False of a tri-state grant is a statement and stays."""
    claim: dict[str, Any] = {}
    for name, written in GRANTS:
        value = getattr(grant, name)
        if value != getattr(_UNSET_GRANT, name):
            claim[written] = list(value) if isinstance(value, tuple) else value
    return claim
