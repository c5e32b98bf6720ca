"""Which simulcast layers of a track bring packets now. Counters come in, the set of living layers goes out.

A layer lives from its first packet, is dead after a cycle with too few, and is trusted again after a row of good
cycles (LiveKit's stream tracker: 0.5 s cycles, back after 4/20/20 of them). LiveKit wants 5 packets of the upper layers
in a cycle; calm pictures at 8 frames per second have fewer, so 2 are enough here.
"""

from collections.abc import Iterable

from tertulia.protocol.machine import MILLISECOND

CYCLE_NS = 500 * MILLISECOND
ENOUGH_PACKETS = (1, 2, 2)
GOOD_CYCLES = (4, 20, 20)
GRACE_CYCLES = 6
"""So long an encoder may take to send what was asked for again."""
ALL_LAYERS = frozenset(range(4))
"""At first the publisher sends whatever it has."""
SCREEN_CYCLES = 4
"""A screen may stand still: one packet in this many cycles is enough."""


class LayerTracker:
    """The layers of one receiver."""

    def __init__(self, *, screen: bool) -> None:
        self.live: set[int] = set()
        self._screen = screen
        self._packets: dict[int, int] = {}
        self._good: dict[int, int] = {}
        self._idle: dict[int, int] = {}
        self._distrusted: set[int] = set()
        self._expected = ALL_LAYERS
        self._grace: dict[int, int] = {}
        """Cycles in which a layer may still be silent."""

    def appear(self, layer: int) -> bool:
        """First packets or a key frame of a layer. True when that makes it live."""
        if layer in self.live or layer in self._distrusted:
            return False
        self.live.add(layer)
        self._idle[layer] = 0
        return True

    def expect(self, layers: Iterable[int]) -> None:
        """The publisher was asked for just these layers. Silence that was asked for, or that lasts until the encoder
        follows, is no reason for distrust."""
        asked = frozenset(layers)
        for layer in asked - self._expected:
            self._distrusted.discard(layer)
            self._grace[layer] = GRACE_CYCLES
        self._expected = asked

    def disappear(self, layer: int) -> None:
        """The up stream of the layer is gone."""
        for table in (self._packets, self._good, self._idle):
            table.pop(layer, None)
        self.live.discard(layer)
        self._distrusted.discard(layer)

    def measure(self, packets: dict[int, int]) -> bool:
        """Once per cycle: packets so far, by layer. True when the living layers changed."""
        before = frozenset(self.live)
        for layer, total in packets.items():
            known = self._packets.get(layer)
            self._packets[layer] = total
            if known is not None:
                self._judge(layer, total - known)
        return before != self.live

    def forgive(self) -> None:
        """The track was muted: its silence meant nothing."""
        self._packets.clear()
        self._idle.clear()
        self._distrusted.clear()

    def _judge(self, layer: int, packets: int) -> None:
        if grace := self._grace.get(layer, 0):
            self._grace[layer] = grace - 1
        index = min(layer, len(ENOUGH_PACKETS) - 1)
        enough = 1 if self._screen else ENOUGH_PACKETS[index]
        patience = SCREEN_CYCLES if self._screen else 1
        if packets >= enough:
            self._idle[layer] = 0
            self._good[layer] = self._good.get(layer, 0) + 1
            if layer not in self.live and self._good[layer] >= GOOD_CYCLES[index]:
                self._distrusted.discard(layer)
                self.live.add(layer)
        else:
            self._good[layer] = 0
            self._idle[layer] = self._idle.get(layer, 0) + 1
            if layer in self.live and self._idle[layer] >= patience:
                self.live.discard(layer)
                if layer in self._expected and not grace:
                    self._distrusted.add(layer)
