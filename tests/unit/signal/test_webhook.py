"""Webhooks: order, retries and bounds in virtual time; then real posts, checked by LiveKit's verifier."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import pytest
from aiohttp import web
from livekit import api
from livekit.protocol import egress, models, webhook
from yarl import URL

from tertulia.protocol.machine import SECOND, Nanos
from tertulia.signal.counts import Counts, Drop
from tertulia.signal.webhook import (
    MAX_AGE_NS,
    MAX_QUEUED,
    MAX_URLS,
    PARALLEL,
    Notify,
    Post,
    Posted,
    Target,
    Webhooks,
    room_event,
)
from tertulia.signal.webhook_io import MAX_ANSWER_BYTES, PublicResolver, WebhookSender, check_host, is_public

KEY, SECRET = "devkey", "a secret of more than thirty-two bytes, surely"
A, B = Target("http://a.example/hook", KEY), Target("http://b.example/hook", KEY)
T0 = Nanos(0)


def machine(*targets: Target, seed: int = 1) -> tuple[Webhooks, Counts]:
    counts = Counts()
    return Webhooks(targets, Random(seed), 1_700_000_000_000, counts), counts


def started(room: str, name: str = "room_started") -> Notify:
    return Notify(room_event(name, models.Room(name=room)))


def drained(hooks: Webhooks) -> list[Post]:
    posts = []
    while (post := hooks.poll()) is not None:
        posts.append(post)
    return posts


def body(post: Post) -> dict[str, Any]:
    return json.loads(post.body)  # type: ignore[no-any-return]


def test_events_of_a_room_stay_in_order_and_rooms_do_not_wait_for_each_other() -> None:
    hooks, _ = machine(A, B)
    for name in ("room_started", "participant_joined", "room_finished"):
        hooks.handle(T0, started("tea", name))
    hooks.handle(T0, started("coffee"))
    first = drained(hooks)
    assert [(p.target, body(p)["event"], body(p)["room"]["name"]) for p in first] == [
        (A, "room_started", "tea"),
        (B, "room_started", "tea"),
        (A, "room_started", "coffee"),
        (B, "room_started", "coffee"),
    ]
    hooks.handle(T0, Posted(first[0].number, 200))
    assert [(p.target, body(p)["event"]) for p in drained(hooks)] == [(A, "participant_joined")]
    assert body(first[0])["createdAt"] == "1700000000"
    assert body(first[0])["id"] == body(first[1])["id"]
    assert body(first[0])["id"].startswith("EV_")


def test_retries_grow_and_end() -> None:
    hooks, counts = machine(A)
    hooks.handle(T0, started("tea"))
    hooks.handle(T0, started("tea", "room_finished"))
    now, pauses = T0, []
    (post,) = drained(hooks)
    while body(post)["event"] == "room_started":
        hooks.handle(now, Posted(post.number, 503))
        due = hooks.next_wake()
        if due is not None:
            hooks.wake(Nanos(due - 1))
            assert not drained(hooks), "not a moment too early"
            pauses.append(due - now)
            now = due
            hooks.wake(now)
        (post,) = drained(hooks)
    assert body(post)["event"] == "room_finished"
    assert counts[Drop.WEBHOOK_STALE] == 1
    assert counts[Drop.WEBHOOK_FAILED] == len(pauses)
    assert now <= MAX_AGE_NS
    assert 0.5 * SECOND <= pauses[0] <= 1 * SECOND
    assert max(pauses) <= 30 * SECOND
    assert pauses[3] > pauses[0]
    hooks.handle(now, Posted(post.number, 200))
    assert hooks.idle
    hooks.handle(now, started("tea"))
    assert body(drained(hooks)[0])["numDropped"] == 1


@pytest.mark.parametrize(("status", "hopeless"), [(400, False), (302, False), (410, False), (0, True)])
def test_a_clear_no_is_not_asked_again(status: int, hopeless: bool) -> None:
    hooks, counts = machine(A)
    hooks.handle(T0, started("tea"))
    hooks.handle(T0, Posted(drained(hooks)[0].number, status, hopeless))
    assert hooks.idle
    assert hooks.next_wake() is None
    assert counts[Drop.WEBHOOK_REFUSED] == 1


def test_queue_is_bounded_and_the_oldest_goes_first() -> None:
    hooks, counts = machine(A)
    for number in range(MAX_QUEUED + 10):
        hooks.handle(T0, Notify(room_event("participant_joined", models.Room(name="tea", metadata=str(number)))))
    (post,) = drained(hooks)
    assert body(post)["room"]["metadata"] == "0", "the one under way is not touched"
    assert counts[Drop.WEBHOOK_FULL] == 10
    assert hooks.snapshot()[0]["queued"] == MAX_QUEUED
    hooks.handle(T0, Posted(post.number, 200))
    assert body(drained(hooks)[0])["room"]["metadata"] == "11"


def test_bytes_are_bounded() -> None:
    hooks, counts = machine(A)
    for _ in range(30):
        hooks.handle(T0, Notify(room_event("room_started", models.Room(name="tea", metadata="x" * 500_000))))
    assert counts[Drop.WEBHOOK_FULL] > 0
    size = hooks.snapshot()[0]["bytes"]
    assert isinstance(size, int)
    assert size <= 9 << 20


def test_posts_at_once_per_url() -> None:
    hooks, _ = machine(A)
    for number in range(3 * PARALLEL):
        hooks.handle(T0, started(f"room {number}"))
    seen = []
    posts = drained(hooks)
    assert len(posts) == PARALLEL
    while posts:
        seen += [body(post)["room"]["name"] for post in posts]
        hooks.handle(T0, Posted(posts.pop(0).number, 204))
        posts += drained(hooks)
        assert len(posts) <= PARALLEL
    assert set(seen) == {f"room {number}" for number in range(3 * PARALLEL)}
    assert hooks.idle


def test_filters_extra_targets_and_their_number() -> None:
    picky = Target("http://c.example", KEY, include=frozenset({"egress_ended"}))
    deaf = Target("http://d.example", KEY, exclude=frozenset({"room_started"}))
    hooks, counts = machine(picky, deaf)
    hooks.handle(T0, started("tea"))
    assert not drained(hooks)
    ended = webhook.WebhookEvent(event="egress_ended", egress_info=egress.EgressInfo(egress_id="EG_1"))
    hooks.handle(T0, Notify(ended, (A, A)))
    assert {post.target for post in drained(hooks)} == {picky, deaf, A}
    for number in range(MAX_URLS + 5):
        hooks.handle(T0, Notify(ended, (Target(f"http://{number}.example", KEY, guarded=True),)))
    assert len(hooks.snapshot()) == MAX_URLS
    assert counts[Drop.WEBHOOK_FULL] > 0


def test_any_history_ends_idle() -> None:
    for seed in range(30):
        rng = Random(seed)
        hooks, _ = machine(A, B, seed=seed)
        now, open_posts, delivered = T0, [], []
        for step in range(200):
            now = Nanos(now + rng.randint(0, 2 * SECOND))
            hooks.wake(now)
            if rng.random() < 0.5:
                room = models.Room(name=rng.choice("xyz"), metadata=str(step))
                hooks.handle(now, Notify(room_event("room_started", room)))
            open_posts += drained(hooks)
            if open_posts and rng.random() < 0.7:
                post = open_posts.pop(rng.randrange(len(open_posts)))
                status = rng.choice([200, 200, 500, 0, 404])
                if status == 200:
                    delivered.append((post.target.url, body(post)["room"]["name"], int(body(post)["room"]["metadata"])))
                hooks.handle(now, Posted(post.number, status))
        while not hooks.idle:
            open_posts += drained(hooks)
            if open_posts:
                hooks.handle(now, Posted(open_posts.pop().number, 200))
            else:
                due = hooks.next_wake()
                assert due is not None, "something waits for nothing"
                now = due
                hooks.wake(now)
        for url in (A.url, B.url):
            for room in "xyz":
                order = [step for at, name, step in delivered if (at, name) == (url, room)]
                assert order == sorted(order)


# --------------------------------------------------------------------------------------------- on wire


class Receiver:
    """A receiver as users write it: LiveKit's own verifier behind an HTTP route."""

    def __init__(self) -> None:
        self.verifier = api.WebhookReceiver(api.TokenVerifier(KEY, SECRET))
        self.events: list[webhook.WebhookEvent] = []
        self.headers: list[Any] = []
        self.failures = 0
        self.url = ""

    async def hook(self, request: web.Request) -> web.StreamResponse:
        if self.failures:
            self.failures -= 1
            return web.Response(status=500)
        self.headers.append(request.headers)
        text = await request.text()
        self.events.append(self.verifier.receive(text, request.headers["Authorization"]))
        return web.Response()

    async def away(self, request: web.Request) -> web.StreamResponse:
        raise web.HTTPFound("/hook")

    async def endless(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(bytes(MAX_ANSWER_BYTES))
        except ConnectionError:
            return response


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    one = Receiver()
    app = web.Application()
    app.router.add_post("/hook", one.hook)
    app.router.add_post("/away", one.away)
    app.router.add_post("/endless", one.endless)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    one.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield one
    await runner.cleanup()


@asynccontextmanager
async def sender(*targets: Target, keys: dict[str, str] | None = None) -> AsyncIterator[tuple[WebhookSender, Counts]]:
    counts = Counts()
    one = WebhookSender(targets, keys or {KEY: SECRET}, Random(3), counts, "Tertulia test")
    yield one, counts
    await one.close(10)


async def test_official_receiver_accepts(receiver: Receiver) -> None:
    receiver.failures = 1
    participant = models.ParticipantInfo(sid="PA_1", identity="ada", metadata="not in track events")
    room = models.Room(sid="RM_1", name="tea")
    async with sender(Target(receiver.url + "/hook", KEY)) as (hooks, counts):
        hooks.notify(room_event("room_started", room))
        hooks.notify(room_event("participant_joined", room, participant))
        hooks.notify(room_event("track_published", room, participant, models.TrackInfo(sid="TR_1")))
        await hooks.close(10)
    assert [event.event for event in receiver.events] == ["room_started", "participant_joined", "track_published"]
    assert receiver.events[1].participant.metadata
    assert not receiver.events[2].participant.metadata
    assert receiver.events[2].track.sid == "TR_1"
    assert len({event.id for event in receiver.events}) == 3
    assert receiver.headers[0]["Content-Type"] == "application/webhook+json"
    assert receiver.headers[0]["User-Agent"] == "Tertulia test"
    assert counts[Drop.WEBHOOK_FAILED] == 1


async def test_redirects_endless_answers_and_guarded_urls(receiver: Receiver) -> None:
    async with sender() as (hooks, counts):
        guarded = [
            Target(receiver.url + "/hook", KEY, guarded=True),
            Target(receiver.url.replace("127.0.0.1", "localhost") + "/hook", KEY, guarded=True),
            Target("http://[::1]/hook", KEY, guarded=True),
            Target("http://169.254.169.254/latest/meta-data", KEY, guarded=True),
        ]
        hooks.notify(webhook.WebhookEvent(event="egress_ended"), tuple(guarded))
        bad = tuple(Target(url, KEY, guarded=True) for url in ("file:///etc/passwd", "nonsense", "http://2130706433/"))
        hooks.notify(webhook.WebhookEvent(event="egress_ended"), bad)
        others = (Target(receiver.url + "/away", KEY), Target(receiver.url + "/endless", KEY))
        hooks.notify(webhook.WebhookEvent(event="egress_ended"), others)
        await hooks.close(10)
        assert hooks.machine.idle
    assert not receiver.events
    assert counts[Drop.WEBHOOK_FORBIDDEN_ADDRESS] == len(guarded)
    assert counts[Drop.WEBHOOK_REFUSED] == len(guarded) + len(bad) + 1


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("100.64.0.1", False),
        ("169.254.169.254", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::ffff:127.0.0.1", False),
        ("2002:7f00:1::", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
    ],
)
def test_public_addresses(address: str, public: bool) -> None:
    assert is_public(address) is public


async def test_names_of_public_hosts_pass() -> None:
    check_host(URL("https://hooks.example/x"))

    class Fixed:
        async def resolve(self, host: str, port: int, family: Any) -> list[Any]:
            return [{"host": "10.0.0.1"}, {"host": "8.8.8.8"}]

    found = await PublicResolver(Fixed()).resolve("x", 80)  # type: ignore[arg-type]
    assert [one["host"] for one in found] == ["8.8.8.8"]


async def test_a_withdrawn_key_is_a_failure_not_a_crash(receiver: Receiver) -> None:
    async with sender(Target(receiver.url + "/hook", "gone")) as (hooks, counts):
        hooks.notify(webhook.WebhookEvent(event="room_started"))
        while not counts[Drop.WEBHOOK_FAILED]:  # noqa: ASYNC110
            await asyncio.sleep(0)
        await hooks.close(0)
    assert not receiver.events
