"""The words of a Room's door: what goes in (`RoomInput`) and what comes out (`RoomOutput`).

LiveKit's protobufs are the vocabulary; frozen dataclasses where none fits.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from livekit.protocol import models, room, rtc

from tertulia.protocol.errors import RequestError
from tertulia.protocol.ids import NodeId, SessionId, TransportId
from tertulia.protocol.token import Claims
from tertulia.sfu.plane.api import Report
from tertulia.sfu.transport.api import TransportEvent

# ---------------------------------------------------------------------------------------------- in


@dataclass(frozen=True, slots=True)
class Join:
    """A client asks in. Admission (token, limits known beforehand) is done; the room mints sid and answers."""

    session: SessionId
    claims: Claims
    client: models.ClientInfo
    single_connection: bool
    """True on /rtc/v1 (the client always offers); False on /rtc (two peer connections)."""
    auto_subscribe: bool
    adaptive_stream: bool
    allow_pause: bool = False
    auto_subscribe_data_track: bool = False
    metadata: str = ""
    attributes: dict[str, str] = field(default_factory=dict)
    add_tracks: tuple[rtc.AddTrackRequest, ...] = ()
    offer: rtc.SessionDescription | None = None
    sid: str = ""
    """The participant sid the identity was claimed with; empty: the room mints one."""
    ticket: int = 0
    """Number of that claim; 0: there was none."""


@dataclass(frozen=True, slots=True)
class Resume:
    """A client that lost its WebSocket wants its participant back."""

    session: SessionId
    participant_sid: str
    claims: Claims
    reason: int
    sync_state: rtc.SyncState | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """One signal message of a joined session (ping and ping_req are answered by the session itself)."""

    session: SessionId
    message: rtc.SignalRequest


@dataclass(frozen=True, slots=True)
class SessionClosed:
    """The WebSocket is gone without a leave: the participant may resume."""

    session: SessionId


@dataclass(frozen=True, slots=True)
class OfTransport:
    """Something happened on a peer connection of this room."""

    transport: TransportId
    event: TransportEvent


@dataclass(frozen=True, slots=True)
class OfPlane:
    """Data-plane reports that concern this room, as they came."""

    reports: Sequence[Report]


@dataclass(frozen=True, slots=True)
class PerformRpc:
    """RoomService.PerformRpc; answered by one `RpcAnswered` with the same ticket."""

    ticket: int
    request: room.PerformRpcRequest


@dataclass(frozen=True, slots=True)
class FromNode:
    """A replication message of another node (bytes of a `tertulia.protocol.bus` message)."""

    node: NodeId
    data: bytes


@dataclass(frozen=True, slots=True)
class NodeGone:
    """Another node's lease ended: its members leave."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class NodesHere:
    """Nodes that hold this room, as the store says."""

    nodes: frozenset[NodeId]


@dataclass(frozen=True, slots=True)
class Renewed:
    """The room's record was changed, here or elsewhere: metadata, recording."""

    room: models.Room


@dataclass(frozen=True, slots=True)
class Drain:
    """This node is about to stop and there are others: members shall go there."""


RoomInput = (
    Join
    | Resume
    | Request
    | SessionClosed
    | OfTransport
    | OfPlane
    | PerformRpc
    | FromNode
    | NodeGone
    | NodesHere
    | Renewed
    | Drain
)

# ---------------------------------------------------------------------------------------------- out


@dataclass(frozen=True, slots=True)
class Send:
    """A signal message for one session."""

    session: SessionId
    message: rtc.SignalResponse


@dataclass(frozen=True, slots=True)
class EndSession:
    """Flush, then close the WebSocket with this code."""

    session: SessionId
    code: int = 1000


@dataclass(frozen=True, slots=True)
class Refresh:
    """Give the session a fresh token: the same claims with what changed since (the room cannot sign)."""

    session: SessionId
    claims: Claims
    name: str
    metadata: str
    attributes: dict[str, str]
    permission: models.ParticipantPermission


@dataclass(frozen=True, slots=True)
class RpcAnswered:
    """The end of a PerformRpc: the member's payload, or the error for the caller."""

    ticket: int
    payload: str = ""
    error: RequestError | None = None


@dataclass(frozen=True, slots=True)
class Happened:
    """Something the outside may want to know: webhooks, metrics, agents, automatic egress.

    Names are LiveKit's webhook events: room_started, room_finished, participant_joined, participant_left,
    participant_connection_aborted, track_published, track_unpublished.
    """

    name: str
    room: models.Room
    participant: models.ParticipantInfo | None = None
    track: models.TrackInfo | None = None


@dataclass(frozen=True, slots=True)
class ToNodes:
    """Replicate to the other nodes of this room (`node` None: all of them)."""

    data: bytes
    node: NodeId | None = None


@dataclass(frozen=True, slots=True)
class Closed:
    """The room is over; everything it held has been given back."""

    reason: int


RoomOutput = Send | EndSession | Refresh | RpcAnswered | Happened | ToNodes | Closed
