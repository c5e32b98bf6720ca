"""The pages' web application: static files from the bundle, one endpoint for development tokens, strict headers.

Mounted by the front door for every path that is not its own (`/rtc`, `/twirp`, `/healthz`, ...); `/` comes here only
when the client asks for text/html. Decides which pages exist (`config.pages`, `config.development`). Tokens are handed
out in development mode alone, and only to pages of this origin.
"""

import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tertulia.node.config import Config
from tertulia.protocol.errors import RequestError
from tertulia.protocol.signing import build_token
from tertulia.protocol.token import Claims, VideoGrant, check_name

DIST = Path(__file__).with_name("dist")
"""Where `npm run build` in web/ writes the bundle."""
MAX_NAME_CHARS = 256
TOKEN_LIFETIME_S = 86_400

MakeToken = Callable[[str, str, str], str]
"""(room, identity, name) -> a token to join, publish and subscribe. RequestError for what it refuses."""

_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; "
    "img-src 'self' data: blob:; media-src 'self' blob: mediastream:; connect-src 'self'; worker-src 'self' blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "permissions-policy": "camera=(self), microphone=(self), display-capture=(self), fullscreen=(self)",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",
}

_UNBUILT = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Tertulia</title>
<h1>Tertulia is running</h1>
<p>The demo page has not been built on this machine. It needs Node.js 18 or newer with npm.
In the source tree, run:
<pre>make web</pre>
<p>and reload. Everything else works without it: clients connect to this address, and
<code>tertulia token create --room demo --identity you</code> makes a token.
"""


def pages_app(config: Config, make_token: MakeToken | None = None, *, dist: Path = DIST) -> ASGIApp:
    """The ASGI application for everything the front door does not route itself.

    /            the demo call (`?room=demo&name=Ada` fill its form), when pages.demo
    /check       the connection test, when pages.demo
    /assets/*    the bundle
    /dev/token   ?room=&identity=&name= -> {"token", "room", "identity"}; development mode only, else 404

    Tokens are signed with the configuration's first key unless `make_token` is given.
    """
    demo = config.development if config.pages.demo is None else config.pages.demo
    routes: list[Route | Mount] = []
    if demo:
        routes += [
            Route("/", _page(dist, "index.html")),
            Route("/check", _page(dist, "check.html")),
            Mount("/assets", _Assets(directory=dist / "assets", check_dir=False)),
        ]
    if config.development:
        routes.append(Route("/dev/token", _token_endpoint(make_token or signed_with(config.keys))))
    return _Strict(Starlette(routes=routes, exception_handlers={HTTPException: _plain_error, 500: _server_error}))


class _Assets(StaticFiles):
    """The bundle; it may be built, or missing, while the server runs."""

    async def check_config(self) -> None:
        return None


def signed_with(keys: Mapping[str, str]) -> MakeToken:
    """Tokens to join, publish and subscribe, valid for a day."""

    def make(room: str, identity: str, name: str) -> str:
        check_name("room name", room)
        check_name("identity", identity)
        check_name("name", name)
        api_key, secret = next(iter(keys.items()))
        claims = Claims(api_key, identity, name or identity, video=VideoGrant(room_join=True, room=room))
        return build_token(claims, secret, now_s=int(time.time()), lifetime_s=TOKEN_LIFETIME_S)

    return make


def _page(dist: Path, name: str) -> Callable[[Request], Awaitable[Response]]:
    async def page(request: Request) -> Response:
        file = dist / name
        return FileResponse(file, media_type="text/html") if file.is_file() else HTMLResponse(_UNBUILT)

    return page


def _token_endpoint(make_token: MakeToken) -> Callable[[Request], Awaitable[Response]]:
    async def token(request: Request) -> Response:
        # A page of another origin may send this request but must learn nothing from it.
        if request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return PlainTextResponse("only pages of this server may ask for tokens", 403)
        room, identity, name = (request.query_params.get(key, "").strip() for key in ("room", "identity", "name"))
        for what, value in (("room", room), ("identity", identity)):
            if not value:
                return PlainTextResponse(f"{what} is missing: /dev/token?room=demo&identity=ada", 400)
        if any(len(value) > MAX_NAME_CHARS for value in (room, identity, name)):
            return PlainTextResponse(f"names have at most {MAX_NAME_CHARS} characters", 400)
        try:
            made = make_token(room, identity, name)
        except RequestError as error:
            return PlainTextResponse(error.message, 400)
        return JSONResponse({"token": made, "room": room, "identity": identity}, headers={"cache-control": "no-store"})

    return token


async def _plain_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return PlainTextResponse(str(error.detail).lower(), error.status_code, headers=error.headers)


async def _server_error(request: Request, error: Exception) -> Response:
    return PlainTextResponse("internal error", 500)


class _Strict:
    """Adds the security headers to every answer that does not set them itself."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def strict_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, strict_send)
