"""The seam to other nodes' media: a track of a remote member gets a receiver here once somebody here wants it.

A room that is alone on its node uses `NoRelay`; with other nodes it is `relaying.MediaRelay`.
"""

from collections.abc import Iterator, Mapping
from typing import Protocol

from tertulia.protocol import bus
from tertulia.protocol.ids import NodeId, TransportId
from tertulia.sfu.bwe.allocator import Demand
from tertulia.sfu.media.receiver import Receiver
from tertulia.sfu.publication import PublishedTrack

Shares = Mapping[str, int]
"""The highest layer that may cross a link now, by demand."""


class Links(Protocol):
    """Media links of this node to others."""

    def open(self, node: NodeId) -> TransportId:
        """The plane's transport to and from another node; keys and addresses follow by themselves."""


class Relay(Protocol):
    """Asked by the room for media of remote members, and told what other nodes want of ours."""

    def want(self, track: PublishedTrack) -> None:
        """A member of this node wants a track that has no receiver here: attaches one if there can be one."""

    def unwant(self, track: PublishedTrack) -> None:
        """Nobody of this node's members wants it any more."""

    def review(self, track: PublishedTrack) -> None:
        """What this node's members want of a remote track may have changed."""

    def offers_changed(self, track: PublishedTrack) -> None:
        """The codecs of a remote track are others now."""

    def track_gone(self, track: PublishedTrack) -> None:
        """A track is over, ours or a remote one."""

    def layers_changed(self, track: PublishedTrack) -> None:
        """The living layers of a track of ours changed."""

    def wanted(self, track: PublishedTrack) -> Iterator[tuple[Receiver, int]]:
        """The highest layer each other node needs of a track of ours."""

    def rows(self) -> int:
        """Copies that leave for other nodes now: one per node, codec and layer."""
        ...

    def wanted_by(self, node: NodeId, wants: tuple[bus.Want, ...]) -> None:
        """Everything another node wants of us now."""

    def data_tracks_changed(self) -> None:
        """Which data tracks this node's members are subscribed to."""

    def demands(self, node: NodeId, shares: Shares) -> list[Demand]: ...

    def audio_bps(self, node: NodeId) -> int: ...

    def limit(self, node: NodeId, shares: Shares | None) -> None:
        """What the link to a node lets through; None: everything."""

    def node_gone(self, node: NodeId) -> None: ...

    def remind(self, node: NodeId) -> None:
        """Say all wishes to a node again: their word may have been lost."""

    def still_wanted_by(self, node: NodeId) -> None:
        """A node has told no other wishes since the last that were heard."""

    def expire(self) -> None:
        """Wishes of nodes that have long not confirmed them end."""

    def flush(self) -> None:
        """At the end of a turn: say what changed."""


class NoRelay:
    """All members are local: there is nothing to fetch."""

    def want(self, track: PublishedTrack) -> None:
        return

    def unwant(self, track: PublishedTrack) -> None:
        return

    def review(self, track: PublishedTrack) -> None:
        return

    def offers_changed(self, track: PublishedTrack) -> None:
        return

    def track_gone(self, track: PublishedTrack) -> None:
        return

    def layers_changed(self, track: PublishedTrack) -> None:
        return

    def wanted(self, track: PublishedTrack) -> Iterator[tuple[Receiver, int]]:
        return iter(())

    def rows(self) -> int:
        return 0

    def wanted_by(self, node: NodeId, wants: tuple[bus.Want, ...]) -> None:
        return

    def data_tracks_changed(self) -> None:
        return

    def demands(self, node: NodeId, shares: Shares) -> list[Demand]:
        return []

    def audio_bps(self, node: NodeId) -> int:
        return 0

    def limit(self, node: NodeId, shares: Shares | None) -> None:
        return

    def node_gone(self, node: NodeId) -> None:
        return

    def remind(self, node: NodeId) -> None:
        return

    def still_wanted_by(self, node: NodeId) -> None:
        return

    def expire(self) -> None:
        return

    def flush(self) -> None:
        return
