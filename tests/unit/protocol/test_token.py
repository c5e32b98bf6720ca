"""Tokens: what is accepted, what is refused, and in which words. Official SDK tokens are the reference."""

import base64
import datetime
import hmac
import json
import time
from typing import Any

import jwt
import pytest
from livekit import api
from livekit.protocol import models, room

from tertulia.protocol.signing import build_token, check_secret, refresh_token
from tertulia.protocol.token import (
    LEEWAY_S,
    MAX_LIFETIME_S,
    MAX_TOKEN_BYTES,
    Claims,
    TokenError,
    VideoGrant,
    parse_token,
    permission,
)

KEY, SECRET = "APIwhatever", "a secret of more than thirty-two bytes, surely"
KEYS = {KEY: SECRET, "other": "another secret of more than thirty-two bytes"}
NOW = 1_800_000_000


def forge(payload: dict[str, Any], secret: str = SECRET, **kwargs: Any) -> str:
    return jwt.encode({"iss": KEY, "exp": NOW + 600, **payload}, secret, **({"algorithm": "HS256"} | kwargs))


def refusal(token: str, now_s: int = NOW) -> tuple[str, str]:
    with pytest.raises(TokenError) as caught:
        parse_token(token, KEYS, now_s)
    assert len(token) < 20 or token not in caught.value.message, "a refusal must not repeat the token"
    return caught.value.reason, caught.value.message


def test_token_of_the_official_sdk() -> None:
    grants = api.VideoGrants(
        room_join=True, room="tea", can_publish=False, can_publish_sources=["camera"], hidden=True, room_admin=True
    )
    config = room.RoomConfiguration(max_participants=7, empty_timeout=30)
    token = (
        api.AccessToken(KEY, SECRET)
        .with_identity("ada")
        .with_name("Ada L.")
        .with_kind("agent")
        .with_metadata("{}")
        .with_attributes({"table": "3"})
        .with_grants(grants)
        .with_room_config(config)
        .with_room_preset("small")
        .with_ttl(datetime.timedelta(hours=1))
        .to_jwt()
    )
    now_s = int(time.time())
    claims = parse_token(token, KEYS, now_s)
    assert (claims.api_key, claims.identity, claims.name, claims.kind) == (KEY, "ada", "Ada L.", "agent")
    assert claims.attributes == {"table": "3"}
    assert claims.metadata == "{}"
    assert claims.room_preset == "small"
    assert claims.room_config is not None
    assert claims.room_config.max_participants == 7
    assert claims.video is not None
    assert claims.video.room == "tea"
    assert claims.video.room_join
    assert claims.video.room_admin
    assert claims.video.hidden
    assert claims.video.can_publish is False
    assert claims.video.can_subscribe is True
    assert claims.video.can_publish_sources == ("camera",)
    assert claims.expires_s - now_s == pytest.approx(3600, abs=5)
    allowed = permission(claims.video)
    assert (allowed.can_publish, allowed.can_subscribe, allowed.hidden) == (False, True, True)
    assert list(allowed.can_publish_sources) == [models.TrackSource.Value("CAMERA")]


def test_unset_grants_stay_unset() -> None:
    claims = parse_token(forge({"sub": "a", "video": {"roomJoin": True, "canPublish": None}}), KEYS, NOW)
    assert claims.video is not None
    assert claims.video.can_publish is None
    assert claims.video.can_publish_data is None
    assert permission(claims.video).can_publish_data


def test_identity_falls_back_to_jti_and_unknown_claims_are_kept() -> None:
    claims = parse_token(forge({"jti": "old", "sip": {"admin": True}, "video": {"newGrant": 3}}), KEYS, NOW)
    assert claims.identity == "old"
    assert claims.raw["sip"] == {"admin": True}


@pytest.mark.parametrize(
    ("payload", "reason", "words"),
    [
        ({"exp": None}, "no_expiry", "never expires"),
        ({"exp": NOW - LEEWAY_S}, "expired", "expired 60 s ago"),
        ({"exp": NOW - 7200}, "expired", "expired 7200 s ago (server time 2027-01-15T08:00:00Z)"),
        ({"exp": NOW + MAX_LIFETIME_S + LEEWAY_S + 1}, "lifetime", "more than 10 years"),
        ({"exp": 10**300}, "lifetime", "more than 10 years"),
        ({"exp": 1e308}, "lifetime", "more than 10 years"),
        ({"exp": float("inf")}, "malformed", "`exp` must be a number"),
        ({"exp": float("nan")}, "malformed", "`exp` must be a number"),
        ({"exp": "tomorrow"}, "malformed", "`exp` must be a number"),
        ({"exp": True}, "malformed", "`exp` must be a number"),
        ({"nbf": NOW + LEEWAY_S + 1}, "not_yet", "not valid for another 61 s"),
        ({"nbf": [1]}, "malformed", "`nbf` must be a number"),
        ({"iss": "nobody"}, "unknown_key", "invalid API key: 'nobody'"),
        ({"iss": ""}, "no_key", "names no API key"),
        ({"iss": 7}, "malformed", "`iss` must be text"),
        ({"iss": "other"}, "signature", "not signed with the secret of 'other'"),
        ({"sub": 42}, "malformed", "`sub` must be text"),
        ({"sub": "x" * 257}, "malformed", "identity is longer than 256"),
        ({"sub": "a\x00b"}, "malformed", "identity contains control characters"),
        ({"sub": "abc\u202egnp.exe"}, "malformed", "identity contains control characters"),
        ({"sub": "a", "name": "\ud800"}, "malformed", "`name` is not valid Unicode"),
        ({"sub": "a", "video": {"room": "a\nb"}}, "malformed", "room name contains control characters"),
        ({"sub": "a", "video": []}, "malformed", "`video` must be an object"),
        ({"sub": "a", "video": {"roomJoin": "yes"}}, "malformed", "`video.roomJoin` must be true or false"),
        ({"sub": "a", "video": {"canPublishSources": "camera"}}, "malformed", "must be a list of texts"),
        ({"sub": "a", "video": {"canPublishSources": [1]}}, "malformed", "must be text"),
        ({"sub": "a", "attributes": {"k": 1}}, "malformed", "`k` must be text"),
        ({"sub": "a", "attributes": "k"}, "malformed", "`attributes` must be an object"),
        ({"sub": "a", "roomConfig": {"maxParticipants": "many"}}, "malformed", "`roomConfig`"),
        ({"sub": "a", "roomConfig": 3}, "malformed", "`roomConfig`"),
    ],
)
def test_refusals_say_what_is_wrong(payload: dict[str, Any], reason: str, words: str) -> None:
    full = {"iss": KEY, "exp": NOW + 600, **payload}
    body = json.dumps({name: value for name, value in full.items() if value is not None}).encode()
    token = jwt.api_jws.encode(body, SECRET, algorithm="HS256")
    got_reason, message = refusal(token)
    assert got_reason == reason
    assert words in message


@pytest.mark.parametrize("late_s", [0, LEEWAY_S - 1])
def test_leeway(late_s: int) -> None:
    assert parse_token(forge({"sub": "a", "exp": NOW}), KEYS, NOW + late_s).identity == "a"
    assert parse_token(forge({"sub": "a", "nbf": NOW + late_s}), KEYS, NOW).identity == "a"


def segment(value: Any) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


PAYLOAD = {"iss": KEY, "sub": "a", "exp": NOW + 600, "video": {"roomJoin": True}}


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"alg": "none"}, "algorithm"),
        ({"alg": "None"}, "algorithm"),
        ({"alg": "nOnE"}, "algorithm"),
        ({"alg": None}, "algorithm"),
        ({"alg": "RS256"}, "algorithm"),
        ({"alg": "HS512"}, "algorithm"),
        ({"alg": "HS256", "crit": ["exp"]}, "malformed"),
        ({"alg": "HS256", "kid": 3}, "malformed"),
        ({"alg": "HS256", "kid": "../../dev/null", "jwk": {"kty": "oct", "k": "YQ"}}, "signature"),
        ([], "malformed"),
    ],
)
def test_forged_headers(header: Any, reason: str) -> None:
    for signature in ("", segment(b"x" * 32)):
        assert refusal(f"{segment(header)}.{segment(PAYLOAD)}.{signature}")[0] == reason


@pytest.mark.parametrize("header", [{"alg": "HS256", "typ": "JWT"}, {"typ": "JWT", "alg": "HS256"}, {"alg": "HS256"}])
def test_every_order_of_the_header(header: dict[str, str]) -> None:
    parts = [
        base64.urlsafe_b64encode(json.dumps(part, separators=(",", ":")).encode()).rstrip(b"=")
        for part in (header, {"iss": KEY, "sub": "ada", "exp": NOW + 600})
    ]
    signed = b".".join(parts)
    mac = hmac.digest(SECRET.encode(), signed, "sha256")
    token = (signed + b"." + base64.urlsafe_b64encode(mac).rstrip(b"=")).decode()
    assert parse_token(token, {KEY: SECRET}, NOW).identity == "ada"
    wrong = token[:-5] + ("A" if token[-5] != "A" else "B") + token[-4:]
    assert refusal(wrong)[0] == "signature"


def test_other_algorithms_with_the_right_secret() -> None:
    assert refusal(forge(PAYLOAD, algorithm="HS512", secret=SECRET * 2))[0] == "algorithm"
    assert refusal(jwt.encode(PAYLOAD, "", algorithm="none"))[0] == "algorithm"


@pytest.mark.parametrize(
    "token",
    ["", ".", "..", "a.b.c", "a.b", "a.b.c.d", "é.é.é"]
    + [f"x.{segment(payload)}.y" for payload in (b"[1]", b"{", b"\xff\xfe", b'{"a":' * 2000)],
)
def test_things_that_are_not_tokens(token: str) -> None:
    assert refusal(token)[0] == "malformed"


def test_deep_json_and_long_tokens_cost_nothing() -> None:
    deep = segment(b'{"iss":' + b"[" * 9000 + b"]" * 9000 + b"}")
    assert refusal(f"{segment({'alg': 'HS256'})}.{deep}.x")[0] == "malformed"
    assert refusal("a" * (MAX_TOKEN_BYTES + 1))[0] == "too_long"


def test_duplicate_claims() -> None:
    body = json.dumps(PAYLOAD)[:-1] + f', "iss": "{KEY}"}}'
    assert refusal(jwt.api_jws.encode(body.encode(), SECRET, algorithm="HS256"))[0] == "malformed"


def test_changed_payload_or_signature() -> None:
    header, _, signature = forge({"sub": "a"}).split(".")
    assert refusal(f"{header}.{segment({**PAYLOAD, 'sub': 'root'})}.{signature}")[0] == "signature"
    assert refusal(forge({"sub": "a"}, secret="x" * 40))[0] == "signature"


# ------------------------------------------------------------------------------------------- build


def test_what_we_build_the_official_sdk_reads() -> None:
    now_s = int(time.time())
    claims = Claims(
        api_key=KEY,
        identity="ada",
        name="Ada",
        metadata="m",
        attributes={"a": "b"},
        video=VideoGrant(room_join=True, room="tea", can_publish=False, can_publish_sources=("microphone",)),
        room_config=room.RoomConfiguration(max_participants=3),
        room_preset="p",
    )
    token = build_token(claims, SECRET, now_s=now_s, lifetime_s=60)
    seen = api.TokenVerifier(KEY, SECRET).verify(token)
    assert (seen.identity, seen.name, seen.metadata, seen.attributes) == ("ada", "Ada", "m", {"a": "b"})
    assert seen.video is not None
    assert (seen.video.room, seen.video.can_publish, seen.video.can_publish_sources) == ("tea", False, ["microphone"])
    assert seen.room_config is not None
    assert seen.room_config.max_participants == 3
    again = parse_token(token, KEYS, now_s)
    assert again.video == claims.video
    assert again.attributes == claims.attributes


def test_refresh_keeps_every_claim_and_takes_what_changed() -> None:
    token = forge(
        {
            "sub": "ada",
            "kind": "agent",
            "video": {"roomJoin": True, "room": "tea", "canPublish": True, "roomAdmin": True},
            "sip": {"call": True},
            "roomConfig": {"maxParticipants": 9},
            "nbf": NOW - 100,
        }
    )
    claims = parse_token(token, KEYS, NOW)
    assert claims.video is not None
    allowed = permission(claims.video)
    allowed.can_publish = False
    refreshed = refresh_token(
        claims, KEYS, NOW + 500, name="Ada", metadata="new", attributes={"x": "y"}, permission=allowed
    )
    assert refreshed is not None
    new = parse_token(refreshed, KEYS, NOW + 500)
    assert (new.identity, new.name, new.metadata, new.kind) == ("ada", "Ada", "new", "agent")
    assert new.attributes == {"x": "y"}
    assert new.raw["sip"] == {"call": True}
    assert new.room_config is not None
    assert new.room_config.max_participants == 9
    assert new.video is not None
    assert new.video.can_publish is False
    assert new.video.room_admin
    assert new.video.room == "tea"
    assert new.expires_s == NOW + 1100, "at least ten minutes"
    assert new.not_before_s == NOW - 100, "a node whose clock is behind takes it, too"


def test_refresh_keeps_a_long_life_and_needs_the_key() -> None:
    claims = parse_token(forge({"sub": "a", "exp": NOW + 86_400}), KEYS, NOW)
    refreshed = refresh_token(claims, KEYS, NOW + 100)
    assert refreshed is not None
    assert parse_token(refreshed, KEYS, NOW + 100).expires_s == NOW + 86_400
    assert refresh_token(claims, {"other": "x" * 32}, NOW) is None


def test_secrets() -> None:
    check_secret("k", "x" * 32)
    check_secret("devkey", "secret", dev=True)
    with pytest.raises(ValueError, match="6 bytes; at least 32"):
        check_secret("devkey", "secret")
    with pytest.raises(ValueError, match="empty"):
        check_secret("devkey", "", dev=True)


@pytest.mark.filterwarnings("error")
def test_short_development_secret_does_not_warn_at_every_token() -> None:
    token = build_token(Claims(api_key="devkey", identity="a"), "secret", now_s=NOW, lifetime_s=60)
    assert parse_token(token, {"devkey": "secret"}, NOW).identity == "a"
