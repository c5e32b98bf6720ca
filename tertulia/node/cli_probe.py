"""`tertulia probe URL...`: how far is each server from here; the nearest first.

Each is asked `/ping` over one open connection, one question after the other: a round trip and what the server needs for
it. With `--regions` the first URL is asked for `/settings/regions`, and every node it names is measured too.
"""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import click

from tertulia.node.main import Options, config_options

if TYPE_CHECKING:
    import aiohttp

TIMEOUT_S = 5.0
"""For connecting, and for each answer."""
TOKEN_LIFETIME_S = 60
MAX_URLS = 200


@dataclass(frozen=True, slots=True)
class Probed:
    """One server; without an `error` it answered every time."""

    url: str
    node: str = ""
    region: str = ""
    best_ms: float = 0.0
    median_ms: float = 0.0
    worst_ms: float = 0.0
    error: str = ""


@click.command()
@click.argument("urls", nargs=-1, metavar="[URL]...")
@click.option("--count", default=10, show_default=True, type=click.IntRange(1, 1000), help="Questions to each server.")
@click.option("--regions", is_flag=True, help="Also every node the first server names in /settings/regions.")
@click.option("--token", envvar="LIVEKIT_TOKEN", metavar="TOKEN", help="Access token for --regions (LIVEKIT_TOKEN).")
@click.option("--api-key", envvar="LIVEKIT_API_KEY", metavar="KEY", help="Or make one: API key (LIVEKIT_API_KEY).")
@click.option("--api-secret", envvar="LIVEKIT_API_SECRET", metavar="SECRET", help="Its secret (LIVEKIT_API_SECRET).")
@click.option("--json", "as_json", is_flag=True, help="A JSON list instead of a table.")
@config_options
@click.pass_context
def probe(
    ctx: click.Context,
    urls: Sequence[str],
    count: int,
    regions: bool,
    token: str | None,
    api_key: str | None,
    api_secret: str | None,
    as_json: bool,
) -> None:
    """Measure the way to servers and sort them, the nearest first; exit status 1 when one does not answer.

    Without a URL the server is the one this configuration describes.
    """
    if not urls or (regions and not token and not (api_key and api_secret)):
        config = ctx.ensure_object(Options).load().config
        urls = urls or (f"ws://localhost:{config.port}",)
        api_key = api_key or next(iter(config.keys))
        api_secret = api_secret or config.keys.get(api_key)
        if regions and not token and api_secret is None:
            raise click.UsageError(f"no secret for the API key {api_key!r}: give --api-secret")
    for url in urls:
        if urlsplit(url).scheme not in ("ws", "wss", "http", "https") or not urlsplit(url).hostname:
            raise click.UsageError(f"{url!r} is not a server's address, such as wss://calls.example.org")
    token = (token or make_token(api_key or "", str(api_secret))) if regions else None
    found = asyncio.run(measure(list(urls), count, token))
    found.sort(key=lambda one: (bool(one.error), one.median_ms))
    if as_json:
        click.echo(json.dumps([asdict(one) for one in found], indent=2))
    else:
        show(found)
    ctx.exit(1 if any(one.error for one in found) else 0)


def make_token(key: str, secret: str) -> str:
    """Any valid token will do: it joins no room."""
    from tertulia.protocol.signing import build_token
    from tertulia.protocol.token import Claims, VideoGrant

    claims = Claims(key, "tertulia-cli", video=VideoGrant())
    return build_token(claims, secret, now_s=int(time.time()), lifetime_s=TOKEN_LIFETIME_S)


async def measure(urls: list[str], count: int, token: str | None) -> list[Probed]:
    """One server after the other, so that they do not disturb one another."""
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        if token is not None:
            urls += [url for url in await _named(session, urls[0], token) if url not in urls]
    found = []
    for url in urls[:MAX_URLS]:
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=1)) as session:
            found.append(await _probe(session, url, count))
    return found


async def _named(session: "aiohttp.ClientSession", url: str, token: str) -> list[str]:
    import aiohttp
    from google.protobuf import json_format
    from livekit.protocol import rtc

    headers = {"authorization": f"Bearer {token}"}
    try:
        async with session.get(_http(url) + "/settings/regions", headers=headers) as answer:
            text = await answer.text()
            if answer.status != 200:
                raise click.ClickException(f"{url} answered {answer.status}: {text[:200].strip()}")
            settings = json_format.Parse(text, rtc.RegionSettings(), ignore_unknown_fields=True)
    except (aiohttp.ClientError, TimeoutError) as error:
        raise click.ClickException(f"{url} does not answer ({_words(error)})") from None
    except (json_format.ParseError, UnicodeDecodeError):
        raise click.ClickException(f"{url} has no /settings/regions that can be read") from None
    return [info.url for info in settings.regions if urlsplit(info.url).hostname]


async def _probe(session: "aiohttp.ClientSession", url: str, count: int) -> Probed:
    import aiohttp

    took_ms: list[float] = []
    node = region = ""
    try:
        for number in range(count + 1):
            begun = time.perf_counter()
            async with session.get(_http(url) + "/ping") as answer:
                await answer.read()
                if answer.status >= 400:
                    return Probed(url, error=f"answered {answer.status} to /ping")
                if number:  # the first one also connected
                    took_ms.append((time.perf_counter() - begun) * 1e3)
                node, region = (_said(answer.headers.get(f"Tertulia-{name}", "")) for name in ("Node", "Region"))
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        return Probed(url, node, region, error=_words(error))
    best_ms, median_ms, worst_ms = (round(figure, 3) for figure in (min(took_ms), median(took_ms), max(took_ms)))
    return Probed(url, node, region, best_ms, median_ms, worst_ms)


def _said(text: str) -> str:
    """A server's words, harmless to a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in unquote(text))[:200]


def _http(url: str) -> str:
    return ("http" + url.removeprefix("ws") if url.startswith("ws") else url).rstrip("/")


def _words(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {TIMEOUT_S:g} s"
    return str(error) or type(error).__name__


def show(found: Sequence[Probed]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("server", "region", "node", "median", "best", "worst"):
        table.add_column(heading, overflow="fold")
    for one in found:
        figures: list[Any] = [f"{figure:.1f} ms" for figure in (one.median_ms, one.best_ms, one.worst_ms)]
        table.add_row(one.url, one.region, one.node, *([one.error, "", ""] if one.error else figures))
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = 10_000  # a script reads whole lines
    console.print(table)
