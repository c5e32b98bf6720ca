"""A path with a rate and a queue, as feedback tells of it: what is offered goes in, reports come out."""

from collections import deque
from collections.abc import Iterator

from tertulia.protocol.ids import TransportId
from tertulia.protocol.machine import MILLISECOND, SECOND, Nanos
from tertulia.sfu.plane.api import Feedback, Usage
from tertulia.sfu.plane.delay import RECENT_NS, STANDING_NS, passed, queued, usage
from tertulia.sfu.plane.rows import Transport

GROUP_NS = 20 * MILLISECOND
REPORT_NS = 100 * MILLISECOND
PACKET_BYTES = 500
BEGIN = Nanos(100 * SECOND)
TRANSPORT = TransportId(7)


class Path:
    """Packets of one size in groups; a queue of `queue_ns` at `bps`, then they are dropped."""

    def __init__(self, bps: int, *, queue_ns: int = 300 * MILLISECOND, loss: float = 0.0) -> None:
        self.bps = bps
        self.queue_ns = queue_ns
        self.loss = loss
        self.now = BEGIN
        self._free_at = 0
        self._owed = 0.0
        self._owed_loss = 0.0
        self._seen = Transport()
        """What the plane knows of the path."""
        self._before: tuple[int, int] | None = None
        self._flying: deque[tuple[int, int, int]] = deque()
        """Groups on their way: (sent, arrives, packets)."""

    def offer(self, bps: int, seconds: float, *, load_bps: int = 0) -> Iterator[Feedback]:
        """Send media at this rate, and beside it load that is not acknowledged; a report every REPORT_NS."""
        for _ in range(int(seconds * SECOND / REPORT_NS)):
            yield self._report(bps, load_bps)

    def _report(self, bps: int, load_bps: int) -> Feedback:
        begin, lost = self.now, 0
        for _ in range(REPORT_NS // GROUP_NS):
            self.now = Nanos(self.now + GROUP_NS)
            self._free_at = max(self._free_at, self.now) + load_bps * GROUP_NS // self.bps
            self._owed += bps * GROUP_NS / SECOND / 8 / PACKET_BYTES
            arriving = 0
            while self._owed >= 1:
                self._owed -= 1
                self._owed_loss += self.loss
                if self._owed_loss >= 1 or self._free_at - self.now > self.queue_ns:
                    self._owed_loss -= self._owed_loss >= 1
                    lost += 1
                    continue
                self._free_at = max(self._free_at, self.now) + PACKET_BYTES * 8 * SECOND // self.bps
                arriving += 1
            if arriving:
                self._flying.append((self.now, self._free_at, arriving))
        packets = self._land()
        return report(
            self.now,
            acknowledged_bytes=packets * PACKET_BYTES,
            acknowledged_packets=packets,
            lost_packets=lost,
            span_ns=self.now - begin,
            usage=Usage(usage(self._seen)),
            standing_ns=queued(self._seen, STANDING_NS),
            recent_ns=queued(self._seen, RECENT_NS),
        )

    def _land(self) -> int:
        """Packets that came out by now."""
        packets = 0
        while self._flying and self._flying[0][1] <= self.now:
            sent, came, count = self._flying.popleft()
            if self._before is not None:
                passed(self._seen, sent - self._before[0], came - self._before[1])
            self._before = (sent, came)
            packets += count
        return packets


def report(now: int, **more: object) -> Feedback:
    fields: dict[str, object] = {
        "acknowledged_bytes": 0,
        "acknowledged_packets": 0,
        "lost_packets": 0,
        "span_ns": REPORT_NS,
        "round_trip_ns": 40 * MILLISECOND,
        "remb_bps": 0,
    }
    return Feedback(transport=TRANSPORT, now=Nanos(now), **{**fields, **more})  # type: ignore[arg-type]
