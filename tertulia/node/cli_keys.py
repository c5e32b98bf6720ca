"""`tertulia generate-keys` and `tertulia token create`: what an application needs to let people in."""

import json
import os
import secrets
import time
from typing import Any

import click

from tertulia.node.main import Options, config_options

SOURCES = ("camera", "microphone", "screen_share", "screen_share_audio")
KINDS = ("standard", "agent", "sip", "ingress", "egress")


@click.command("generate-keys")
def generate_keys() -> None:
    """Make an API key and its secret; put both under `keys:` in the configuration."""
    from random import SystemRandom

    from tertulia.protocol.ids import mint

    click.echo(f"API Key: {mint('API', SystemRandom())}")
    click.echo(f"API Secret: {secrets.token_urlsafe(33)}")


@click.group()
def token() -> None:
    """Make access tokens."""


@token.command("create")
@click.option("--room", metavar="NAME", help="The room the token is for; without it any room (with --join).")
@click.option("--identity", metavar="ID", help="Who it is for; unique in a room.")
@click.option("--name", metavar="TEXT", help="Name others see.")
@click.option("--metadata", metavar="TEXT", help="Application data others see.")
@click.option("--attribute", "attributes", multiple=True, metavar="KEY=VALUE", help="May be repeated.")
@click.option("--kind", type=click.Choice(KINDS), default="standard", help="What sort of participant.")
@click.option("--join", is_flag=True, help="May join (the default with --room).")
@click.option("--create", is_flag=True, help="May create and delete rooms.")
@click.option("--list", "list_rooms", is_flag=True, help="May list rooms.")
@click.option("--admin", is_flag=True, help="May moderate the room.")
@click.option("--egress", "--record", "record", is_flag=True, help="May record and stream.")
@click.option("--hidden", is_flag=True, help="Others do not see this participant.")
@click.option("--recorder", is_flag=True, help="Shown as recording.")
@click.option("--agent", is_flag=True, help="May register as an agent.")
@click.option("--publish/--no-publish", default=None, help="May publish tracks (default yes).")
@click.option("--subscribe/--no-subscribe", default=None, help="May receive tracks (default yes).")
@click.option("--publish-data/--no-publish-data", default=None, help="May send data (default as --publish).")
@click.option("--allow-source", "allowed", multiple=True, type=click.Choice(SOURCES), help="Publish only these.")
@click.option("--allow-update-metadata", is_flag=True, help="May change its own name and metadata.")
@click.option("--room-preset", metavar="NAME", help="Preset of room.room_configurations for the room it creates.")
@click.option("--valid-for", metavar="DURATION", default="6h", show_default=True, help="Such as 30m or 24h.")
@click.option("--api-key", metavar="KEY", envvar="LIVEKIT_API_KEY", help="Which key signs (LIVEKIT_API_KEY).")
@click.option("--api-secret", metavar="SECRET", envvar="LIVEKIT_API_SECRET", help="Its secret (LIVEKIT_API_SECRET).")
@click.option("--url", metavar="URL", help="Where people reach the server, for the link.")
@click.option("--token-only", is_flag=True, help="Print the token and nothing else.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@config_options
@click.pass_context
def create(ctx: click.Context, /, token_only: bool, as_json: bool, url: str | None, **given: Any) -> None:
    """Make a token and, where the server shows its demo page, a link that joins with it.

    The key is --api-key with --api-secret, or the first of the configuration (`tertulia --dev token create ...` takes
    the development key, `tertulia --config config.yaml token create ...` yours).
    """
    options = ctx.ensure_object(Options)
    key, secret, link_base = _signing_key(options, given["api_key"], given["api_secret"])
    made = _build(key, secret, **given)
    base = "http" + url.removeprefix("ws") if url and url.startswith("ws") else url or link_base
    link = f"{base.rstrip('/')}/#token={made}" if base and (given["room"] or given["join"]) else ""
    if as_json:
        click.echo(json.dumps({"token": made, "identity": given["identity"], "room": given["room"], "link": link}))
    elif token_only:
        click.echo(made)
    else:
        click.echo(f"token: {made}")
        if link:
            click.echo(f"link:  {link}")


def _signing_key(options: Options, api_key: str | None, api_secret: str | None) -> tuple[str, str, str]:
    """(key, secret, address of the demo page or "")."""
    if api_key and api_secret:
        return api_key, api_secret, ""
    if not (options.file or options.body or options.dev or options.flags or _in_environment()):
        raise click.UsageError(
            "no key to sign with: add --dev, --config FILE or --keys 'key: secret' before `token`, "
            "or give --api-key and --api-secret"
        )
    config = options.load().config
    key = api_key or next(iter(config.keys))
    if key not in config.keys:
        raise click.UsageError(f"the configuration has no key {key!r}; it has {', '.join(config.keys)}")
    return key, str(config.keys[key]), f"http://localhost:{config.port}" if config.pages.demo else ""


def _in_environment() -> bool:
    return any(name in os.environ for name in ("LIVEKIT_CONFIG", "LIVEKIT_KEYS", "LIVEKIT_KEY_FILE"))


def _build(key: str, secret: str, **given: Any) -> str:
    from tertulia.node.config_types import parse_duration
    from tertulia.protocol.signing import build_token
    from tertulia.protocol.token import Claims, TokenError, VideoGrant, check_name

    joins = bool(given["room"] or given["join"]) and not (given["admin"] and not given["identity"])
    if joins and not given["identity"]:
        raise click.UsageError("--identity is needed to join a room: --identity ada")
    if not any(given[name] for name in ("room", "join", "create", "list_rooms", "admin", "record", "agent")):
        raise click.UsageError("the token would allow nothing: give --room, --join, --create, --list, --admin, ...")
    try:
        lifetime_s = parse_duration(given["valid_for"]).s
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--valid-for") from None
    if lifetime_s < 1:
        raise click.BadParameter("at least 1s", param_hint="--valid-for")
    grant = VideoGrant(
        room_create=given["create"],
        room_list=given["list_rooms"],
        room_record=given["record"],
        room_admin=given["admin"],
        room_join=joins,
        room=given["room"] or "",
        can_publish=given["publish"],
        can_subscribe=given["subscribe"],
        can_publish_data=given["publish_data"],
        can_publish_sources=tuple(given["allowed"]),
        can_update_own_metadata=given["allow_update_metadata"] or None,
        hidden=given["hidden"],
        recorder=given["recorder"],
        agent=given["agent"],
    )
    identity = given["identity"] or ""
    try:
        for what, text in (("identity", identity), ("room name", grant.room), ("name", given["name"] or "")):
            check_name(what, text)
    except TokenError as error:
        raise click.UsageError(error.message) from None
    claims = Claims(
        api_key=key,
        identity=identity,
        name=given["name"] or "",
        kind=given["kind"],
        metadata=given["metadata"] or "",
        attributes=_attributes(given["attributes"]),
        video=grant,
        room_preset=given["room_preset"] or "",
    )
    return build_token(claims, secret, now_s=int(time.time()), lifetime_s=int(lifetime_s))


def _attributes(pairs: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (name and equals):
            raise click.BadParameter(f"{pair!r} is not KEY=VALUE", param_hint="--attribute")
        found[name] = value
    return found
