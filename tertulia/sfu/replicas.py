"""What this replica of a room knows of the other nodes that hold one: how far it heard each, what it told each.

Bookkeeping only; what is said is `replication`, what is heard is applied by `replica`.
"""

from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from tertulia.protocol import bus
from tertulia.protocol.ids import NodeId
from tertulia.protocol.machine import MILLISECOND, SECOND, Nanos
from tertulia.sfu.agenda import Appointment

ASK_NS = 200 * MILLISECOND
"""A question that was not answered is put again after this."""
LIVELY_NS, CALM_NS = SECOND, 10 * SECOND
"""Digests come this often while things change, and when nothing does."""
LIVELY_FOR_NS = 5 * SECOND
SCORES_NS = 30 * SECOND
"""Scores that did not change are told again after this: the word of them may have been lost."""
SILENT_NS = 25 * SECOND
"""A node that said nothing for this long is asked whether it still holds the room."""
KEPT_BYTES = 8 << 20
KEPT_NS = 5 * SECOND
"""Reliable packets one other node may ask for again."""
WAITING_PACKETS = 1024
"""Reliable packets of one other node that wait for an earlier one."""
GIVE_UP_NS = 3 * SECOND
"""An earlier packet that does not come is skipped after this."""
MAX_TOMBSTONES = 2000
START = Nanos(0)


@dataclass
class Sent:
    """A reliable packet that may be asked for again."""

    at: Nanos
    number: int
    packet: bytes


@dataclass
class Elsewhere:
    """Another node's replica of the room."""

    node: NodeId
    instance: int = 0
    """0: not heard of yet."""
    number: int = -1
    """Its changes up to this one are known here without a gap; -1: no snapshot yet."""
    heard_at: Nanos = START
    question: Appointment | None = None
    """A snapshot was asked for; asks again."""
    scores: Mapping[str, float] = field(default_factory=dict)
    scores_number: int = 0
    wants_number: int = 0
    """Of the last wishes heard from there."""
    wants_told: int = 0
    """Of the last wishes told there."""
    data_tracks: frozenset[str] = frozenset()
    """Data tracks of members here that somebody there is subscribed to."""
    # reliable data from there
    data_next: int = 0
    """0: not told yet."""
    waiting: dict[int, bytes] = field(default_factory=dict)
    patience: Appointment | None = None
    skip_at: Nanos = START
    # reliable data to there
    data_sent: int = 0
    sent: deque[Sent] = field(default_factory=deque)
    sent_bytes: int = 0

    def keep(self, now: Nanos, packet: bytes) -> int:
        """Number a reliable packet and remember it for a while."""
        self.data_sent += 1
        self.sent.append(Sent(now, self.data_sent, packet))
        self.sent_bytes += len(packet)
        while self.sent and (self.sent_bytes > KEPT_BYTES or self.sent[0].at < now - KEPT_NS):
            self.sent_bytes -= len(self.sent.popleft().packet)
        return self.data_sent

    def stop(self) -> None:
        for appointment in (self.question, self.patience):
            if appointment is not None:
                appointment.cancel()
        self.question = self.patience = None


class Replicas:
    """All other nodes of one room, and what of our own members they must still be told."""

    def __init__(self) -> None:
        self.instance = 0
        """Names this replica; drawn when the first other node appears."""
        self.number = 0
        """Of our last change."""
        self.nodes: dict[NodeId, Elsewhere] = {}
        self.touched: dict[str, None] = {}
        self.left: list[bus.Left] = []
        self.tombstones: OrderedDict[str, None] = OrderedDict()
        self.lost: dict[NodeId, int] = {}
        """Nodes that were gone, and the instance that must not come back."""
        self.lively_until: Nanos = START
        self.digest: Appointment | None = None
        self.wants_number = 0
        self.scores_number = 0
        self.scores_told: dict[str, int] = {}
        self.scores_due: Nanos = START
        """They are told again then, changed or not."""

    def touch(self, sid: str) -> None:
        """A member of this node changed."""
        if self.nodes:
            self.touched[sid] = None

    def depart(self, sid: str, reason: int) -> None:
        """A member of this node left."""
        if self.nodes:
            self.touched.pop(sid, None)
            self.left.append(bus.Left(sid=sid, reason=reason))

    def bury(self, sid: str) -> None:
        """This sid never comes back."""
        self.tombstones[sid] = None
        if len(self.tombstones) > MAX_TOMBSTONES:
            self.tombstones.popitem(last=False)

    def scores(self) -> dict[str, float]:
        """Connection scores of members elsewhere."""
        return {sid: score for elsewhere in self.nodes.values() for sid, score in elsewhere.scores.items()}
