"""The seam to other nodes' media: a track of a remote member gets a receiver here once somebody here wants it.

Today's room is alone on its node and uses `NoRelay`; a cluster puts its own in.
"""

from typing import Protocol

from tertulia.sfu.publication import PublishedTrack


class Relay(Protocol):
    """Asked by subscribing; answers later by attaching a Receiver to the track, then `subscribing.track_ready`."""

    def want(self, track: PublishedTrack) -> None:
        """A member of this node wants a track that has no receiver here."""

    def unwant(self, track: PublishedTrack) -> None:
        """Nobody here wants it any more."""

    def want_layer(self, track: PublishedTrack, layer: int) -> None:
        """The highest layer wanted here changed (-1: none)."""


class NoRelay:
    """All members are local: there is nothing to fetch."""

    def want(self, track: PublishedTrack) -> None:
        return

    def unwant(self, track: PublishedTrack) -> None:
        return

    def want_layer(self, track: PublishedTrack, layer: int) -> None:
        return
