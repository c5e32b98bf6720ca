"""Posts webhooks: signs, sends, reads no more than it must. Never in the way of a room: `notify` only queues.

A receiver may be slow, endless, redirecting or malicious; each post has a deadline, at most 64 kB of its answer are
read and redirects are not followed. URLs that came with API requests never reach our own network (the address is
checked after resolution, so a name cannot change its mind).
"""

import asyncio
import hashlib
import socket
import time
from base64 import b64encode
from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from random import Random

import aiohttp
import structlog
from aiohttp.abc import AbstractResolver, ResolveResult
from livekit.protocol import webhook
from yarl import URL

from tertulia.protocol.machine import MILLISECOND, SECOND, Nanos
from tertulia.protocol.signing import build_token
from tertulia.protocol.token import Claims
from tertulia.signal.counts import Counts, Drop
from tertulia.signal.webhook import Notify, Post, Posted, Target, Webhooks

log = structlog.get_logger(__name__)

CONTENT_TYPE = "application/webhook+json"
TOKEN_LIFETIME_S = 300
TIMEOUT = aiohttp.ClientTimeout(total=10, connect=5)
MAX_ANSWER_BYTES = 64 << 10


class ForbiddenAddress(OSError):
    """A guarded URL leads to an address that is not public."""


class WebhookSender:
    """The node's webhooks; `notify` from anywhere on the control thread."""

    def __init__(
        self, targets: Iterable[Target], keys: Mapping[str, str], rng: Random, counts: Counts, user_agent: str
    ) -> None:
        """`keys` (API key -> secret) is read at every post."""
        now = _monotonic()
        self.machine = Webhooks(targets, rng, time.time_ns() // MILLISECOND - now // MILLISECOND, counts)
        self._keys = keys
        self._counts = counts
        self._headers = {"Content-Type": CONTENT_TYPE, "User-Agent": user_agent}
        self._sessions: dict[bool, aiohttp.ClientSession] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._quiet = asyncio.Event()
        self._quiet.set()

    def notify(self, event: webhook.WebhookEvent, targets: tuple[Target, ...] = ()) -> None:
        if self._closed:
            return
        self._quiet.clear()
        self.machine.handle(_monotonic(), Notify(event, targets))
        self._drain()

    async def close(self, grace_s: float) -> None:
        """Deliver what can be delivered within the grace, then give up the rest; later events go nowhere."""
        if self._closed:
            return
        try:
            await asyncio.wait_for(self._quiet.wait(), grace_s)
        except TimeoutError:
            log.warning("webhooks_given_up", queues=self.machine.snapshot())
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._timer is not None:
            self._timer.cancel()
        for session in self._sessions.values():
            await session.close()

    # --------------------------------------------------------------------------------------- the driver

    def _drain(self) -> None:
        while not self._closed and (post := self.machine.poll()) is not None:
            task = asyncio.get_running_loop().create_task(self._post(post))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = self.machine.next_wake()
        if due is not None and not self._closed:
            self._timer = asyncio.get_running_loop().call_later(max(0, due - _monotonic()) / SECOND, self._expired)
        elif self.machine.idle:
            self._quiet.set()

    def _expired(self) -> None:
        self._timer = None
        self.machine.wake(_monotonic())
        self._drain()

    # ------------------------------------------------------------------------------------------ one post

    async def _post(self, post: Post) -> None:
        status, hopeless = 0, False
        try:
            status = await self._send(post.target, post.body)
        except ForbiddenAddress:
            self._counts[Drop.WEBHOOK_FORBIDDEN_ADDRESS] += 1
            hopeless = True
        except aiohttp.InvalidURL:
            hopeless = True
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            if isinstance(getattr(error, "os_error", None), ForbiddenAddress):
                self._counts[Drop.WEBHOOK_FORBIDDEN_ADDRESS] += 1
                hopeless = True
            log.info("webhook_failed", url=_shown(post.target.url), error=type(error).__name__)
        self.machine.handle(_monotonic(), Posted(post.number, status, hopeless))
        self._drain()

    async def _send(self, target: Target, body: bytes) -> int:
        secret = self._keys.get(target.api_key)
        if not secret:
            raise ValueError(f"no secret for API key {target.api_key!r}")
        digest = b64encode(hashlib.sha256(body).digest()).decode()
        claims = Claims(api_key=target.api_key, identity="", sha256=digest)
        token = build_token(claims, secret, now_s=int(time.time()), lifetime_s=TOKEN_LIFETIME_S)
        url = URL(target.url)
        if target.guarded:
            check_host(url)
        async with self._session(target.guarded).post(
            url,
            data=body,
            headers={**self._headers, "Authorization": token},
            timeout=TIMEOUT,
            allow_redirects=False,
        ) as answer:
            await answer.content.read(MAX_ANSWER_BYTES)
            if not answer.content.at_eof():
                answer.close()
            return answer.status

    def _session(self, guarded: bool) -> aiohttp.ClientSession:
        session = self._sessions.get(guarded)
        if session is None:
            resolver: AbstractResolver = aiohttp.ThreadedResolver()
            connector = aiohttp.TCPConnector(resolver=PublicResolver(resolver) if guarded else resolver)
            session = aiohttp.ClientSession(
                connector=connector, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
            )
            self._sessions[guarded] = session
        return session


class PublicResolver(AbstractResolver):
    """Resolves names to public addresses only."""

    def __init__(self, inner: AbstractResolver) -> None:
        self._inner = inner

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        public = [one for one in found if is_public(one["host"])]
        if not public:
            raise ForbiddenAddress("the address is not public")
        return public

    async def close(self) -> None:
        await self._inner.close()


def check_host(url: URL) -> None:
    """A literal address is never resolved, so it is looked at here. Raises ForbiddenAddress or aiohttp.InvalidURL."""
    if url.scheme not in ("http", "https") or not url.host:
        raise aiohttp.InvalidURL(url)
    try:
        ip_address(url.host.partition("%")[0])
    except ValueError:
        return  # a name: the resolver looks at what it means
    if not is_public(url.host):
        raise ForbiddenAddress("the address is not public")


def is_public(address: str) -> bool:
    ip = ip_address(address.partition("%")[0])
    mapped = getattr(ip, "ipv4_mapped", None) or getattr(ip, "sixtofour", None)
    return ip.is_global and not ip.is_multicast and (mapped is None or mapped.is_global)


def _shown(url: str) -> str:
    """A URL without what may be secret in it."""
    try:
        parsed = URL(url)
        return str(parsed.with_user(None).with_query(None).with_fragment(None))
    except ValueError:
        return "(not a URL)"


def _monotonic() -> Nanos:
    return Nanos(time.monotonic_ns())
