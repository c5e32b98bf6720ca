"""Webhooks as a machine: what is posted where and when. No clock, no socket, no keys.

Each URL has a bounded queue. Events of one room (or egress, or ingress) reach a URL in the order they happened: the
next waits until the one before was accepted or given up; other rooms overtake a stuck one. Failed posts are retried
with growing, jittered pauses until the event is too old. What was dropped is told in the next event's `numDropped`
(wire contract 7.2).
"""

from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from random import Random

from google.protobuf import json_format
from livekit.protocol import models, webhook

from tertulia.protocol.ids import mint
from tertulia.protocol.machine import MILLISECOND, SECOND, Nanos
from tertulia.signal.counts import Counts, Drop

EVENTS = frozenset(
    {"room_started", "room_finished", "participant_joined", "participant_left", "participant_connection_aborted"}
    | {"track_published", "track_unpublished", "egress_started", "egress_updated", "egress_ended"}
    | {"ingress_started", "ingress_ended", "agent_job_started", "agent_job_ended"}
)
MAX_QUEUED = 1_000
"""Events waiting per URL; the oldest one not under way makes room."""
MAX_QUEUED_BYTES = 8 << 20
MAX_URLS = 64
"""Configured ones and those that came with API requests."""
PARALLEL = 8
"""Posts under way at once per URL, each of another room."""
MAX_AGE_NS = Nanos(300 * SECOND)
"""A receiver may be down so long without missing anything."""
REFUSALS = frozenset({400, 410, 413, 422, *range(300, 400)})
"""The receiver understood and said no (or sends us elsewhere): the same body will not please it later."""
FIRST_PAUSE_NS = 500 * MILLISECOND
LONGEST_PAUSE_NS = 30 * SECOND


@dataclass(frozen=True, slots=True)
class Target:
    """Where to post, signed with which API key. `guarded`: a URL from an API caller, never to our own network."""

    url: str
    api_key: str
    guarded: bool = False
    include: frozenset[str] = frozenset()
    """Only these events; empty: all."""
    exclude: frozenset[str] = frozenset()

    def wants(self, name: str) -> bool:
        return name not in self.exclude and (not self.include or name in self.include)


@dataclass(frozen=True, slots=True)
class Notify:
    """Something happened; id and time are filled in here. `targets` come on top of the configured ones."""

    event: webhook.WebhookEvent
    targets: tuple[Target, ...] = ()


@dataclass(frozen=True, slots=True)
class Posted:
    """A post was answered (`status` 200-299: accepted) or failed (`status` 0). `hopeless`: no use in trying again."""

    number: int
    status: int
    hopeless: bool = False


@dataclass(frozen=True, slots=True)
class Post:
    """Send this body now and answer with Posted."""

    number: int
    target: Target
    body: bytes


START = Nanos(0)


@dataclass(slots=True)
class _Item:
    body: bytes
    born: Nanos
    attempts: int = 0


@dataclass(slots=True)
class _Lane:
    """The events of one room for one URL, in order; the first is under way or waits until `due`."""

    items: deque[_Item] = field(default_factory=deque)
    under_way: bool = False
    due: Nanos = START


@dataclass(slots=True)
class _Queue:
    target: Target
    lanes: OrderedDict[str, _Lane] = field(default_factory=OrderedDict)
    count: int = 0
    size: int = 0
    under_way: int = 0
    dropped: int = 0


class Webhooks:
    """All queues of a node."""

    def __init__(self, targets: Iterable[Target], rng: Random, unix_ms_at_zero: int, counts: Counts) -> None:
        self._configured = tuple(targets)
        self._rng = rng
        self._unix_ms_at_zero = unix_ms_at_zero
        self._counts = counts
        self._queues: OrderedDict[Target, _Queue] = OrderedDict()
        self._posts: dict[int, tuple[_Queue, str]] = {}
        self._ready: deque[Post] = deque()
        self._number = 0
        self.delivered = 0
        """Posts accepted so far."""

    # ---------------------------------------------------------------------------------- the four verbs

    def handle(self, now: Nanos, event: Notify | Posted) -> None:
        if isinstance(event, Posted):
            self._posted(now, event)
            return
        full = webhook.WebhookEvent()
        full.CopyFrom(event.event)
        full.id = full.id or mint("EV_", self._rng)
        full.created_at = full.created_at or (self._unix_ms_at_zero + now // MILLISECOND) // 1000
        for target in dict.fromkeys((*self._configured, *event.targets)):
            if target.wants(full.event):
                self._enqueue(now, target, full)

    def wake(self, now: Nanos) -> None:
        for queue in list(self._queues.values()):
            self._start(now, queue)

    def next_wake(self) -> Nanos | None:
        return min(
            (
                lane.due
                for queue in self._queues.values()
                if queue.under_way < PARALLEL
                for lane in queue.lanes.values()
                if not lane.under_way
            ),
            default=None,
        )

    def poll(self) -> Post | None:
        return self._ready.popleft() if self._ready else None

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing is under way."""
        return not any(queue.lanes for queue in self._queues.values())

    @property
    def queued(self) -> int:
        """Events waiting or under way, over all URLs."""
        return sum(queue.count for queue in self._queues.values())

    # ----------------------------------------------------------------------------------------- queueing

    def _enqueue(self, now: Nanos, target: Target, event: webhook.WebhookEvent) -> None:
        queue = self._queue_of(target)
        if queue is None:
            self._counts[Drop.WEBHOOK_FULL] += 1
            return
        event.num_dropped = queue.dropped
        body = json_format.MessageToJson(event, indent=None).encode()
        self._make_room(queue, len(body))
        if queue.count >= MAX_QUEUED:  # nothing but posts under way
            self._dropped(queue, Drop.WEBHOOK_FULL)
            return
        queue.dropped = 0
        queue.lanes.setdefault(_subject(event), _Lane(due=now)).items.append(_Item(body, now))
        queue.count += 1
        queue.size += len(body)
        self._start(now, queue)

    def _queue_of(self, target: Target) -> _Queue | None:
        queue = self._queues.get(target)
        if queue is None:
            if len(self._queues) >= MAX_URLS:
                idle = next((t for t, q in self._queues.items() if not q.lanes and t not in self._configured), None)
                if idle is None:
                    return None
                del self._queues[idle]
            queue = self._queues[target] = _Queue(target)
        return queue

    def _make_room(self, queue: _Queue, size: int) -> None:
        while queue.count >= MAX_QUEUED or (queue.count and queue.size + size > MAX_QUEUED_BYTES):
            oldest = min(
                ((lane.items[lane.under_way].born, key) for key, lane in queue.lanes.items() if _droppable(lane)),
                default=None,
            )
            if oldest is None:
                return
            lane = queue.lanes[oldest[1]]
            item = lane.items[lane.under_way]
            del lane.items[lane.under_way]
            self._forget(queue, oldest[1], lane, item)
            self._dropped(queue, Drop.WEBHOOK_FULL)

    def _forget(self, queue: _Queue, key: str, lane: _Lane, item: _Item) -> None:
        queue.count -= 1
        queue.size -= len(item.body)
        if not lane.items and not lane.under_way:
            del queue.lanes[key]

    def _dropped(self, queue: _Queue, drop: Drop) -> None:
        queue.dropped += 1
        self._counts[drop] += 1

    # ------------------------------------------------------------------------------------------ posting

    def _start(self, now: Nanos, queue: _Queue) -> None:
        """Begin what is due, rooms in turn, as far as this URL's share of connections goes."""
        for key, lane in list(queue.lanes.items()):
            if queue.under_way >= PARALLEL:
                return
            if lane.under_way or lane.due > now:
                continue
            item = lane.items[0]
            item.attempts += 1
            lane.under_way = True
            queue.under_way += 1
            queue.lanes.move_to_end(key)
            self._number += 1
            self._posts[self._number] = (queue, key)
            self._ready.append(Post(self._number, queue.target, item.body))

    def _posted(self, now: Nanos, event: Posted) -> None:
        queue, key = self._posts.pop(event.number)
        lane = queue.lanes[key]
        lane.under_way = False
        queue.under_way -= 1
        item = lane.items[0]
        accepted = 200 <= event.status < 300
        refused = event.hopeless or event.status in REFUSALS
        pause_ns = self._pause(item.attempts)
        if accepted or refused or now + pause_ns > item.born + MAX_AGE_NS:
            if accepted:
                self.delivered += 1
            else:
                self._dropped(queue, Drop.WEBHOOK_REFUSED if refused else Drop.WEBHOOK_STALE)
            lane.items.popleft()
            lane.due = now
            self._forget(queue, key, lane, item)
        else:
            self._counts[Drop.WEBHOOK_FAILED] += 1
            lane.due = Nanos(now + pause_ns)
        self._start(now, queue)

    def _pause(self, attempts: int) -> int:
        """Exponential with jitter, so that many nodes do not return in step to a receiver that just came up."""
        longest = min(LONGEST_PAUSE_NS, FIRST_PAUSE_NS << min(attempts, 16))
        return self._rng.randint(longest // 2, longest)

    def snapshot(self) -> list[dict[str, object]]:
        return [
            {"url": q.target.url, "queued": q.count, "bytes": q.size, "under_way": q.under_way, "dropped": q.dropped}
            for q in self._queues.values()
        ]


def _droppable(lane: _Lane) -> bool:
    return len(lane.items) > lane.under_way


def _subject(event: webhook.WebhookEvent) -> str:
    """What the order is kept for: the room; an egress or ingress of no room is its own."""
    if event.room.name:
        return f"room {event.room.name}"
    if event.HasField("egress_info"):
        info = event.egress_info
        return f"room {info.room_name}" if info.room_name else f"egress {info.egress_id}"
    return f"ingress {event.ingress_info.ingress_id}"


def room_event(
    name: str,
    room: models.Room,
    participant: models.ParticipantInfo | None = None,
    track: models.TrackInfo | None = None,
) -> webhook.WebhookEvent:
    """An event in the shape LiveKit's server gives it: in track events the participant is only named."""
    if track is not None and participant is not None:
        participant = models.ParticipantInfo(sid=participant.sid, identity=participant.identity)
    return webhook.WebhookEvent(event=name, room=room, participant=participant, track=track)
