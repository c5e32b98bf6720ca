"""What a media link to another node carries: one estimate for all rooms that use it, divided among their tracks.

A thin link costs layers, never audio, and never a track's lowest layer. Links begin open, because nodes mostly stand
close to each other: nothing is held back before the path has shown that it is too much.
"""

from collections.abc import Callable, Iterable
from typing import Protocol

from tertulia.protocol.ids import NodeId, TransportId
from tertulia.protocol.machine import Nanos
from tertulia.sfu.bwe.allocator import Demand
from tertulia.sfu.bwe.channel import Channel
from tertulia.sfu.downlink import PROBE, PROBE_PACKET_BYTES
from tertulia.sfu.plane.api import Feedback, Plane
from tertulia.sfu.relay import Shares


class Crossing(Protocol):
    """One room's use of links."""

    def demands(self, node: NodeId, shares: Shares) -> list[Demand]:
        """Video towards a node, one for each layer it wants; `shares` is what they have now."""

    def audio_bps(self, node: NodeId) -> int: ...

    def limit(self, now: Nanos, node: NodeId, shares: Shares | None) -> None:
        """None: no limit."""


class LinkLoad:
    """Of one link; fed with the plane's feedback summaries, its only clock."""

    def __init__(
        self, node: NodeId, transport: TransportId, plane: Plane, crossings: Callable[[], Iterable[Crossing]]
    ) -> None:
        self.channel = Channel()
        self.channel.estimate.open()
        self._node = node
        self._transport = transport
        self._plane = plane
        self._crossings = crossings
        self._shares: Shares = {}
        self._probe_bytes = 0

    def feed(self, report: Feedback) -> None:
        was_cut = self.channel.feed(report)
        if (every_ns := self.channel.attention(self._transport)) is not None:
            self._plane.attend(self._transport, every_ns)
        if not self.channel.is_managed:
            return
        if was_cut or self.channel.is_division_due(report.now):
            self._divide(report.now)
        self._probe(report.now)

    def _divide(self, now: Nanos) -> None:
        crossings = list(self._crossings())
        self.channel.other_bps = sum(crossing.audio_bps(self._node) for crossing in crossings)
        demands = [one for crossing in crossings for one in crossing.demands(self._node, self._shares)]
        division = self.channel.divide(now, demands)
        shares = {key: share.layer for key, share in division.shares.items()}
        if shares != self._shares:
            self._shares = shares
            for crossing in crossings:
                crossing.limit(now, self._node, shares)

    def _probe(self, now: Nanos) -> None:
        self._probe_bytes += self.channel.prober.take(now) or 0
        while self._probe_bytes >= PROBE_PACKET_BYTES:
            self._probe_bytes -= PROBE_PACKET_BYTES
            self._plane.send_rtcp(self._transport, PROBE)
