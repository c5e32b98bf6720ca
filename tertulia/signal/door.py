"""The routes of the one HTTP port (wire contract 1.1): raw ASGI, no framework between a client and its session."""

import asyncio
import itertools
import re
import time
from collections.abc import Iterable, Mapping
from typing import Any

import structlog
from google.protobuf import json_format

from tertulia.protocol.errors import RequestError
from tertulia.protocol.ids import SessionId
from tertulia.protocol.machine import Nanos
from tertulia.signal.admission import attempt_of, parse_query
from tertulia.signal.auth import Doorkeys
from tertulia.signal.backend import ROOM_MISSING, Backend, JoinAttempt, Refused
from tertulia.signal.counts import Counts, Drop
from tertulia.signal.doorman import Doorman, Rate
from tertulia.signal.http import (
    JSON,
    TEXT,
    App,
    Header,
    Receive,
    Scope,
    Send,
    address_of,
    bounded,
    header_text,
    preflight,
    respond,
)
from tertulia.signal.session import Encoder
from tertulia.signal.settings import DoorSettings
from tertulia.signal.twirp import PREFIX as TWIRP
from tertulia.signal.twirp import STATUS, Twirp, error_json
from tertulia.signal.websocket import SessionSocket

log = structlog.get_logger(__name__)

METRICS = b"text/plain; version=0.0.4; charset=utf-8"
PING = "/ping"
MEASURABLE: tuple[Header, ...] = ((b"timing-allow-origin", b"*"), (b"cache-control", b"no-store"))
REGIONS_FRESH: Header = (b"cache-control", b"private, max-age=5")
"""As long as a lost node may still be listed; livekit-client asks again after that."""
NO_TOKEN = "permissions denied: no access token (`Authorization: Bearer` or `access_token`)"
LOG_LINES_PER_S = 5
"""Per status: a flood of refusals must not become a flood of lines."""
NO_SESSION = SessionId(0)
_SLASHES = re.compile(r"/{2,}")


class Door:
    """The ASGI application. `pages` serves whatever is not a route of ours."""

    def __init__(
        self,
        backend: Backend,
        keys: Mapping[str, str],
        settings: DoorSettings,
        doorman: Doorman,
        counts: Counts,
        pages: App | None = None,
    ) -> None:
        self.settings = settings
        self.counts = counts
        self.sessions: dict[SessionId, SessionSocket] = {}
        self.draining = False
        self._backend = backend
        self._doorkeys = Doorkeys(keys, counts)
        self._doorman = doorman
        self._twirp = Twirp(backend.command, settings, counts)
        self._pages = bounded(pages, settings.body_bytes, settings.body_timeout_s) if pages is not None else None
        self._encoder = Encoder()
        self._session_numbers = itertools.count(1)
        self._log_rate = Rate(LOG_LINES_PER_S, LOG_LINES_PER_S)
        self._quiet = asyncio.Event()
        self._quiet.set()

    async def quiet(self) -> None:
        """Until no session is left."""
        await self._quiet.wait()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind not in ("http", "websocket"):
            return
        # SDK users write `ws://host/`, so their clients ask for `//rtc`.
        path = _SLASHES.sub("/", scope["path"])
        path = path.rstrip("/") or "/"
        try:
            if kind == "websocket":
                await self._websocket(scope, receive, send, path)
            else:
                await self._http(scope, receive, send, path)
        except Refused as refusal:
            await self._refuse(scope, send, refusal)

    async def _refuse(self, scope: Scope, send: Send, refusal: Refused) -> None:
        if scope["type"] == "websocket" and not self._log_rate.take(Nanos(time.monotonic_ns()), str(refusal.status)):
            log.info("join_refused", status=refusal.status, reason=refusal.text, peer=_peer(scope))
        headers = [(b"retry-after", b"%d" % refusal.retry_after_s)] if refusal.retry_after_s else []
        await respond(scope, send, refusal.status, refusal.text, headers=headers)

    # -------------------------------------------------------------------------------------------- http

    async def _http(self, scope: Scope, receive: Receive, send: Send, path: str) -> None:
        method = scope["method"]
        if method == "OPTIONS":
            await preflight(scope, send)
        elif path.startswith(TWIRP):
            await self._call(scope, receive, send, path)
        elif path in ("/rtc/validate", "/rtc/v1/validate"):
            await self._validate(scope, send, v1=path == "/rtc/v1/validate")
        elif path in ("/rtc", "/rtc/v1", "/agent"):
            raise Refused(404, "this address takes WebSocket connections only")
        elif path == "/" and not self._wants_page(scope):
            ready = self._backend.readiness().ready and not self.draining
            await self._plain(scope, send, 200 if ready else 406, "OK" if ready else "Not Ready")
        elif path == "/healthz":
            await self._plain(scope, send, 200, "OK")
        elif path == "/readyz":
            await self._readyz(scope, send)
        elif path == PING:
            await self._ping(scope, send)
        elif path == "/settings/regions":
            await self._regions(scope, send)
        elif path == "/metrics" and self.settings.serve_metrics:
            await self._plain(scope, send, 200, self._backend.metrics(), METRICS)
        elif self._pages is not None:
            await self._pages(scope, receive, send)
        else:
            raise Refused(404, "not found")

    def _wants_page(self, scope: Scope) -> bool:
        """A browser at `/` sees the page, a client or a probe the health word."""
        return self._pages is not None and b"text/html" in dict(scope["headers"]).get(b"accept", b"")

    async def _plain(
        self,
        scope: Scope,
        send: Send,
        status: int,
        body: bytes | str,
        kind: bytes = TEXT,
        headers: Iterable[Header] = (),
    ) -> None:
        if scope["method"] not in ("GET", "HEAD"):
            raise Refused(405, "only GET and HEAD are allowed")
        await respond(scope, send, status, body, kind, headers)

    async def _ping(self, scope: Scope, send: Send) -> None:
        """Nothing, fast, and from whom: for measuring the way here, from a browser too (Resource Timing 4.5)."""
        place = self._backend.place()
        named = [(b"tertulia-node", header_text(place.node)), (b"tertulia-region", header_text(place.region))]
        await self._plain(scope, send, 200, "", headers=[*named, *MEASURABLE])

    async def _regions(self, scope: Scope, send: Send) -> None:
        """livekit.RegionSettings in the JSON form of protobuf: the Rust SDK insists on `distance` as text."""
        if self._doorkeys.claims(dict(scope["headers"]), parse_query(scope["query_string"])) is None:
            raise Refused(401, NO_TOKEN)
        settings = self._backend.regions(address_of(scope))
        body = json_format.MessageToJson(settings, always_print_fields_with_no_presence=True, indent=None)
        await self._plain(scope, send, 200, body, JSON, (REGIONS_FRESH,))

    async def _readyz(self, scope: Scope, send: Send) -> None:
        readiness = self._backend.readiness()
        reasons = (*(("draining",) if self.draining else ()), *readiness.reasons)
        ready = readiness.ready and not self.draining
        await self._plain(scope, send, 200 if ready else 503, "ready" if ready else "\n".join(reasons) or "not ready")

    async def _validate(self, scope: Scope, send: Send, *, v1: bool) -> None:
        attempt = self._attempt(scope, NO_SESSION, v1=v1)
        await self._ask(self._backend.validate(attempt))
        await self._plain(scope, send, 200, "success")

    async def _call(self, scope: Scope, receive: Receive, send: Send, path: str) -> None:
        headers = dict(scope["headers"])
        try:
            claims = self._doorkeys.claims(headers, parse_query(scope["query_string"]))
        except Refused as refusal:
            # LiveKit answers plain text here; its SDKs understand JSON better.
            body = error_json("unauthenticated" if refusal.status == 401 else "malformed", refusal.text)
            await respond(scope, send, refusal.status, body, b"application/json")
            return
        await self._twirp(scope, receive, send, path, claims, self._doorman.address(_peer(scope), headers))

    # --------------------------------------------------------------------------------------- websocket

    async def _websocket(self, scope: Scope, receive: Receive, send: Send, path: str) -> None:
        await receive()  # websocket.connect
        if path == "/agent":
            raise Refused(501, "agent workers are not supported by this server")
        if path not in ("/rtc", "/rtc/v1"):
            raise Refused(404, "not found")
        session = SessionId(next(self._session_numbers))
        attempt = self._attempt(scope, session, v1=path == "/rtc/v1")
        socket = SessionSocket(session, self._backend, self.counts, scope, send, self._encoder)
        await self._ask(self._backend.join(attempt, socket))
        del attempt  # the house keeps what it needs; the offer alone may have 20 kB
        self.sessions[session] = socket
        self._quiet.clear()
        try:
            await socket.run(receive)
        finally:
            del self.sessions[session]
            if not self.sessions:
                self._quiet.set()

    def _attempt(self, scope: Scope, session: SessionId, *, v1: bool) -> JoinAttempt:
        """What stands in the request, within this address's share. Raises Refused."""
        headers = dict(scope["headers"])
        address = self._doorman.address(_peer(scope), headers)
        if wait_s := self._doorman.upgrade(Nanos(time.monotonic_ns()), address):
            self.counts[Drop.UPGRADE_RATE] += 1
            raise Refused(429, f"too many joins from this address; try again in {wait_s} s", retry_after_s=wait_s)
        if self.draining:
            raise Refused(503, "this server is shutting down", retry_after_s=1)
        if self.settings.sessions and len(self.sessions) >= self.settings.sessions:
            self.counts[Drop.SESSIONS] += 1
            raise Refused(503, "this server has no room for more sessions", retry_after_s=5)
        query = parse_query(scope["query_string"])
        claims = self._doorkeys.claims(headers, query)
        if claims is None:
            raise Refused(401, NO_TOKEN)
        agent = headers.get(b"user-agent", b"").decode("latin-1")
        try:
            return attempt_of(session, v1=v1, query=query, claims=claims, user_agent=agent, address=address)
        except Refused:
            self.counts[Drop.BAD_REQUEST] += 1
            raise

    async def _ask(self, answer: Any) -> None:
        """The house's word on an attempt, always as Refused when it is no."""
        deadline = asyncio.timeout(self.settings.join_timeout_s)
        try:
            async with deadline:
                await answer
        except Refused:
            self.counts[Drop.REFUSED] += 1
            raise
        except RequestError as error:
            self.counts[Drop.REFUSED] += 1
            status = STATUS.get(error.code, 500)
            if status == 404 and ROOM_MISSING not in error.message:
                status = 403  # clients take any other 404 for a server without this path, and try again for ever
            raise Refused(status, error.message) from None
        except Exception:
            if deadline.expired():
                self.counts[Drop.JOIN_TIMEOUT] += 1
                log.warning("join_timed_out", after_s=self.settings.join_timeout_s)
                raise Refused(503, "this server could not let you in in time; try again", retry_after_s=1) from None
            log.exception("join_failed")
            raise Refused(500, "internal error") from None


def _peer(scope: Scope) -> str:
    client = scope.get("client")
    return client[0] if client else ""
