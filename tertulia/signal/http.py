"""Small words of HTTP on ASGI: answers any page may read, bounded bodies, refusals before an upgrade.

LiveKit's API is cross-origin by nature: without these headers a browser turns every refusal into "network error" and
the client falls back wrongly (wire contract 1.1, G9).
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import quote

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Header = tuple[bytes, bytes]

TEXT = b"text/plain; charset=utf-8"
JSON = b"application/json"

CORS: tuple[Header, ...] = (
    (b"access-control-allow-origin", b"*"),
    (b"access-control-expose-headers", b"*"),
)
PREFLIGHT: tuple[Header, ...] = (
    *CORS,
    (b"access-control-allow-methods", b"OPTIONS, HEAD, GET, POST, PATCH, DELETE"),
    (b"access-control-max-age", b"86400"),
    (b"vary", b"Access-Control-Request-Headers"),
)
_HEADER_NAMES = re.compile(rb"[A-Za-z0-9_, -]{1,1024}")
_HOST = re.compile(r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9a-fA-F:.]{2,45}\])(?::[0-9]{1,5})?")
LINGER_BYTES = 4 << 20
LINGER_S = 2.0
"""A refused body is still read for so long, so that the refusal is not lost in a reset connection."""


class BodyError(Exception):
    """A request body that is too long (413), too slow (408) or cut off (400)."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


async def respond(
    scope: Scope,
    send: Send,
    status: int,
    body: bytes | str = b"",
    content_type: bytes = TEXT,
    headers: Iterable[Header] = (),
) -> None:
    """Answer an HTTP request, or refuse a WebSocket upgrade with an HTTP answer."""
    data = body.encode() if isinstance(body, str) else body
    prefix = "websocket.http" if scope["type"] == "websocket" else "http"
    all_headers = [(b"content-type", content_type), (b"content-length", b"%d" % len(data)), *CORS, *headers]
    await send({"type": f"{prefix}.response.start", "status": status, "headers": all_headers})
    await send({"type": f"{prefix}.response.body", "body": data})


async def preflight(scope: Scope, send: Send) -> None:
    """CORS preflight (Fetch 3.2.2). The wildcard does not cover Authorization, so the asked names are repeated."""
    asked = dict(scope["headers"]).get(b"access-control-request-headers", b"*")
    names = asked if _HEADER_NAMES.fullmatch(asked) else b"*"
    headers = [*PREFLIGHT, (b"access-control-allow-headers", names)]
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


def header_text(text: str) -> bytes:
    """Any text as a header's value: percent-encoded where it could not stand there as it is."""
    return quote(text, safe=" !#$&'()*+,/:;=?@[]^_`{|}~").strip().encode()


def address_of(scope: Scope) -> str:
    """The address a client reached us at, as a WebSocket URL; only the client itself hears it, so it is believed."""
    headers = dict(scope["headers"])
    host = headers.get(b"host", b"").decode("latin-1")
    if not _HOST.fullmatch(host):
        return ""
    scheme = headers.get(b"x-forwarded-proto", scope["scheme"].encode()).split(b",")[0].strip().lower()
    return f"{'wss' if scheme in (b'https', b'wss') else 'ws'}://{host}"


async def read_body(receive: Receive, max_bytes: int, timeout_s: float) -> bytes:
    """The whole body within its bounds; raises BodyError."""
    body = bytearray()
    try:
        async with asyncio.timeout(timeout_s or None):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise BodyError(400, "the request body was cut off")
                body += message.get("body", b"")
                more = message.get("more_body", False)
                if max_bytes and len(body) > max_bytes:
                    break
                if not more:
                    return bytes(body)
    except TimeoutError:
        raise BodyError(408, f"the request body did not arrive within {timeout_s:g} s") from None
    if more:
        await _linger(receive)
    raise BodyError(413, f"the request body is longer than {max_bytes} bytes")


async def _linger(receive: Receive) -> None:
    discarded = 0
    try:
        async with asyncio.timeout(LINGER_S):
            while discarded < LINGER_BYTES:
                message = await receive()
                discarded += len(message.get("body", b""))
                if not message.get("more_body"):
                    return
    except TimeoutError:
        return


def bounded(app: App, max_bytes: int, timeout_s: float) -> App:
    """A page application that reads at most so much, and is never kept waiting by one slow reader for ever."""

    async def bound(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        seen = 0

        async def bounded_receive() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            return {"type": "http.disconnect"} if max_bytes and seen > max_bytes else message

        async def bounded_send(message: Message) -> None:
            async with asyncio.timeout(timeout_s or None):
                await send(message)

        await app(scope, bounded_receive, bounded_send)

    return bound
