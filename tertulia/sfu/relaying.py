"""Media between nodes: `Relay` of one room, made of what it fetches for its members and what it gives to other nodes'.

One copy of each codec and layer crosses between two nodes. Repair, key frames and congestion feedback go hop by hop
through the plane.
"""

from tertulia.protocol.ids import NodeId
from tertulia.sfu.fetching import Fetching
from tertulia.sfu.giving import Giving
from tertulia.sfu.publication import PublishedTrack
from tertulia.sfu.relay import Links
from tertulia.sfu.state import RoomState


class MediaRelay(Fetching, Giving):
    """Both sides; each keeps its own tables."""

    def __init__(self, state: RoomState, links: Links) -> None:
        Fetching.__init__(self, state, links)
        Giving.__init__(self, state, links)

    def track_gone(self, track: PublishedTrack) -> None:
        Fetching.track_gone(self, track)
        Giving.track_gone(self, track)

    def node_gone(self, node: NodeId) -> None:
        Fetching.node_gone(self, node)
        Giving.node_gone(self, node)
