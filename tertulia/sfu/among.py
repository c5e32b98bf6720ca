"""A room among its replicas: what the cluster asks of it. Reads only; changes are turns of the room."""

from livekit.protocol import models

from tertulia.protocol.ids import NodeId
from tertulia.sfu import replication
from tertulia.sfu.participant import Participant
from tertulia.sfu.relay import Relay
from tertulia.sfu.state import RoomState


class Among:
    """One room's place among the nodes that hold it."""

    def __init__(self, state: RoomState) -> None:
        self._state = state

    @property
    def relay(self) -> Relay:
        """What crosses between nodes; `Room.limit_relay` changes it."""
        return self._state.relay

    def is_complete(self) -> bool:
        """Every other node that holds this room has told its members."""
        return replication.is_complete(self._state)

    def holds(self, identity: str) -> NodeId | None:
        """The node a member is connected to; None: there is none of this identity."""
        who = self._state.by_identity.get(identity)
        return None if who is None else who.node

    def other_nodes(self) -> list[NodeId]:
        """Nodes known to hold this room, too."""
        return list(self._state.replicas.nodes)

    def latest_ticket(self) -> int:
        """The highest claim of an identity among the members."""
        return max((who.ticket for who in self._state.members.values()), default=0)

    def members_here(self) -> list[Participant]:
        return [local.who for local in self._state.local_members()]

    def record(self) -> models.Room:
        """What every node agrees on: metadata, limits, timeouts."""
        shared = models.Room()
        shared.CopyFrom(self._state.room)
        return shared
