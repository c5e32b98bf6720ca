"""`tertulia egress start|list|stop`: record and stream rooms of a running server, through its API like any client."""

import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tertulia.node.main import Options, config_options

if TYPE_CHECKING:
    from google.protobuf.message import Message

TYPES = {
    "room-composite": ("StartRoomCompositeEgress", "RoomCompositeEgressRequest"),
    "participant": ("StartParticipantEgress", "ParticipantEgressRequest"),
    "track-composite": ("StartTrackCompositeEgress", "TrackCompositeEgressRequest"),
    "track": ("StartTrackEgress", "TrackEgressRequest"),
    "web": ("StartWebEgress", "WebEgressRequest"),
}
TOKEN_LIFETIME_S = 60
TIMEOUT_S = 30
PIPE_WIDTH = 10_000


@dataclass(frozen=True, slots=True)
class Server:
    url: str
    key: str
    secret: str


@click.group()
@click.option("--url", envvar="LIVEKIT_URL", metavar="URL", help="The server (LIVEKIT_URL); default: this machine's.")
@click.option("--api-key", envvar="LIVEKIT_API_KEY", metavar="KEY", help="API key (LIVEKIT_API_KEY).")
@click.option("--api-secret", envvar="LIVEKIT_API_SECRET", metavar="SECRET", help="Its secret (LIVEKIT_API_SECRET).")
@config_options
@click.pass_context
def egress(ctx: click.Context, url: str | None, api_key: str | None, api_secret: str | None) -> None:
    """Record and stream rooms of a running server.

    Without --url the server is the one this configuration describes: `tertulia --dev egress list`.
    """
    if url and api_key and api_secret:
        ctx.meta["server"] = Server(url, api_key, api_secret)
        return
    config = ctx.ensure_object(Options).load(keyless=True).config
    key = api_key or next(iter(config.keys), None)
    if key is None:
        raise click.UsageError("no API key: add --dev, --config FILE, or --api-key with --api-secret")
    secret = api_secret or config.keys.get(key)
    if secret is None:
        raise click.UsageError(f"no secret for the API key {key!r}: give --api-secret")
    ctx.meta["server"] = Server(url or f"http://localhost:{config.port}", key, str(secret))


@egress.command("start")
@click.option("--type", "kind", type=click.Choice(list(TYPES)), default="room-composite", show_default=True)
@click.option("--room", metavar="NAME", help="The room.")
@click.option("--identity", metavar="ID", help="The participant (type participant).")
@click.option("--track", "track_id", metavar="SID", help="The track (type track).")
@click.option("--audio-track", "audio_track_id", metavar="SID", help="Type track-composite.")
@click.option("--video-track", "video_track_id", metavar="SID", help="Type track-composite.")
@click.option("--layout", metavar="NAME", help="grid, speaker, single-speaker, ... (type room-composite).")
@click.option("--audio-only", is_flag=True, help="Type room-composite.")
@click.option("--file", "files", multiple=True, metavar="PATH", help="Write a file; variables such as {room_name}.")
@click.option("--stream", "streams", multiple=True, metavar="URL", help="Stream to rtmp:// or rtmps://; repeatable.")
@click.option("--segments", metavar="PREFIX", help="Write HLS segments and playlists.")
@click.argument("request_file", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.pass_context
def start(ctx: click.Context, /, kind: str, request_file: Path | None, **given: Any) -> None:
    """Start an egress from options, or from REQUEST_FILE: the request as JSON, as `lk egress start` takes it."""
    method, message = TYPES[kind]
    request = _request(message, request_file, given)
    if request_file is None and kind != "web" and not given["room"]:
        raise click.UsageError("which room? --room NAME")
    if request_file is None and not (given["files"] or given["streams"] or given["segments"]):
        raise click.UsageError("where to? --file PATH, --stream URL or --segments PREFIX")
    _print([_call(ctx.meta["server"], method, request, "EgressInfo", room=getattr(request, "room_name", ""))])


@egress.command("list")
@click.option("--room", default="", metavar="NAME", help="Only this room's.")
@click.option("--id", "egress_id", default="", metavar="ID", help="Only this one.")
@click.option("--active", is_flag=True, help="Only running ones.")
@click.option("--json", "as_json", is_flag=True, help="Everything about each, as JSON.")
@click.pass_context
def list_egress(ctx: click.Context, room: str, egress_id: str, active: bool, as_json: bool) -> None:
    """Show egresses and their outputs."""
    from google.protobuf import json_format
    from livekit.protocol import egress as messages

    request = messages.ListEgressRequest(room_name=room, egress_id=egress_id, active=active)
    answer: Any = _call(ctx.meta["server"], "ListEgress", request, "ListEgressResponse")
    if as_json:
        click.echo(json_format.MessageToJson(answer, preserving_proto_field_name=True))
    else:
        _print(answer.items)


@egress.command("stop")
@click.argument("egress_ids", nargs=-1, required=True, metavar="ID...")
@click.pass_context
def stop(ctx: click.Context, egress_ids: tuple[str, ...]) -> None:
    """Stop egresses; their files are finished and uploaded."""
    from livekit.protocol import egress as messages

    _print(
        [
            _call(ctx.meta["server"], "StopEgress", messages.StopEgressRequest(egress_id=one), "EgressInfo")
            for one in egress_ids
        ]
    )


def _request(name: str, request_file: Path | None, given: dict[str, Any]) -> "Message":
    from google.protobuf import json_format
    from livekit.protocol import egress as messages

    request: Message = getattr(messages, name)()
    if request_file is not None:
        try:
            json_format.Parse(request_file.read_text(encoding="utf-8"), request)
        except (json_format.ParseError, UnicodeDecodeError) as error:
            raise click.UsageError(f"{request_file}: {str(error).splitlines()[0]}") from None
    fields = request.DESCRIPTOR.fields_by_name
    plain = {"room": "room_name", "identity": "identity", "track_id": "track_id", "layout": "layout"}
    plain |= {"audio_track_id": "audio_track_id", "video_track_id": "video_track_id", "audio_only": "audio_only"}
    for option, field_name in plain.items():
        if not given[option]:
            continue
        if field_name not in fields:
            raise click.UsageError(f"--{option.replace('_id', '').replace('_', '-')} does not go with this --type")
        setattr(request, field_name, given[option])
    _outputs(request, given)
    return request


def _outputs(request: Any, given: dict[str, Any]) -> None:
    from livekit.protocol import egress as messages

    if given["files"] and "file_outputs" in request.DESCRIPTOR.fields_by_name:
        request.file_outputs.extend(messages.EncodedFileOutput(filepath=path) for path in given["files"])
    elif given["files"]:  # a track is written as it is, to one file
        request.file.CopyFrom(messages.DirectFileOutput(filepath=given["files"][0]))
    if given["streams"] and "stream_outputs" not in request.DESCRIPTOR.fields_by_name:
        raise click.UsageError("--stream does not go with this --type")
    if given["streams"]:
        request.stream_outputs.append(messages.StreamOutput(urls=given["streams"]))
    if given["segments"] and "segment_outputs" not in request.DESCRIPTOR.fields_by_name:
        raise click.UsageError("--segments does not go with this --type")
    if given["segments"]:
        request.segment_outputs.append(
            messages.SegmentedFileOutput(filename_prefix=given["segments"], playlist_name=given["segments"] + ".m3u8")
        )


# ----------------------------------------------------------------------------------------------- calls


def _call(server: Server, method: str, request: "Message", answer: str, *, room: str = "") -> "Message":
    """One Twirp call, or one line on stderr and exit status 1."""
    from livekit.protocol import egress as messages

    result: Message = getattr(messages, answer)()
    body = asyncio.run(_post(server, method, request.SerializeToString(), room))
    result.ParseFromString(body)
    return result


async def _post(server: Server, method: str, body: bytes, room: str) -> bytes:
    import aiohttp

    from tertulia.protocol.signing import build_token
    from tertulia.protocol.token import Claims, VideoGrant

    grant = VideoGrant(room_record=True, room_admin=bool(room), room=room)
    claims = Claims(server.key, "tertulia-cli", video=grant)
    token = build_token(claims, server.secret, now_s=int(time.time()), lifetime_s=TOKEN_LIFETIME_S)
    base = "http" + server.url.removeprefix("ws") if server.url.startswith("ws") else server.url
    url = f"{base.rstrip('/')}/twirp/livekit.Egress/{method}"
    headers = {"authorization": f"Bearer {token}", "content-type": "application/protobuf"}
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)) as session,
            session.post(url, data=body, headers=headers) as answer,
        ):
            content = await answer.read()
            status = answer.status
    except aiohttp.InvalidURL:
        raise click.UsageError(f"{base} is not a URL such as https://calls.example.org") from None
    except (aiohttp.ClientError, TimeoutError) as error:
        raise click.ClickException(f"{base} does not answer ({_reason(error)}); is the server running?") from None
    if status != 200:
        raise click.ClickException(_twirp_words(status, content))
    return content


def _reason(error: Exception) -> str:
    """Why there is no connection, in the system's words where it has some."""
    cause = getattr(error, "os_error", error)
    if isinstance(cause, TimeoutError):
        return f"no answer within {TIMEOUT_S} s"
    if isinstance(cause, OSError) and cause.errno is not None and cause.errno > 0:
        return os.strerror(cause.errno)
    return getattr(cause, "strerror", None) or type(cause).__name__


def _twirp_words(status: int, content: bytes) -> str:
    import json

    try:
        error = json.loads(content)
        return f"{error['msg']} ({error['code']})"
    except (ValueError, KeyError, TypeError):
        return f"this is no Tertulia, or something before it refused: status {status}"


def _print(items: Sequence[Any]) -> None:
    from livekit.protocol import egress as messages
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("egress", "state", "room", "outputs", "error"):
        table.add_column(heading, no_wrap=heading == "egress", overflow="fold")
    for info in items:
        outputs = [file.location or file.filename for file in info.file_results]
        outputs += [stream.url for stream in info.stream_results]
        outputs += [segments.playlist_location or segments.playlist_name for segments in info.segment_results]
        state = messages.EgressStatus.Name(info.status).removeprefix("EGRESS_").lower()
        table.add_row(info.egress_id, state, info.room_name, "\n".join(outputs), info.error)
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = PIPE_WIDTH  # a script reads whole lines
    console.print(table if items else "none")
