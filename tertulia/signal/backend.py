"""What the front door asks of the house behind it (implemented by the node), and the words they share.

The front door decides who is let in as far as the request itself tells (token, limits, form); the house decides what
only it can know (does the room exist, is it full, is the node draining). LiveKit behaviour: wire contract 1.3-1.6, 7.1.
Everything here is called on the control thread's event loop.
"""

from dataclasses import dataclass, field
from typing import Protocol

from google.protobuf.message import Message
from livekit.protocol import models, rtc

from tertulia.protocol.ids import SessionId
from tertulia.protocol.token import Claims


class Refused(Exception):
    """No entry: an HTTP status before the upgrade, and a sentence the client's user will read.

    Statuses that clients understand (wire contract 1.4): 401 bad token or missing grant, 403 not now and not by
    retrying (room full, banned), 404 only with ROOM_MISSING (a bare 404 makes livekit-client try for ever), 429 too
    fast, 503 node full or draining (clients retry).
    """

    def __init__(self, status: int, text: str, *, retry_after_s: int | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.retry_after_s = retry_after_s


ROOM_MISSING = "requested room does not exist"
"""livekit-client looks for these words in a 404 and then gives up at once instead of falling back to v0."""
ROOM_FULL = "room has exceeded its max participants"
NODE_FULL = "resources not available"


@dataclass(frozen=True, slots=True)
class JoinAttempt:
    """A verified wish to join or to resume; `validate` carries the same with no session behind it (session 0)."""

    session: SessionId
    room: str
    """Room name: the token's, or the query's when the token names none."""
    claims: Claims
    """Verified; identity is final (it already carries the legacy `publish` suffix)."""
    client: models.ClientInfo
    """Completed from the User-Agent and with the client's address."""
    single_connection: bool
    """True on /rtc/v1 or with a join request; False on /rtc: two peer connections."""
    auto_subscribe: bool
    adaptive_stream: bool
    allow_pause: bool = False
    auto_subscribe_data_track: bool = False
    disable_ice_lite: bool = False
    metadata: str = ""
    """What the client wishes over its token; non-empty only with canUpdateOwnMetadata."""
    attributes: dict[str, str] = field(default_factory=dict)
    add_tracks: tuple[rtc.AddTrackRequest, ...] = ()
    offer: rtc.SessionDescription | None = None
    reconnect: bool = False
    participant_sid: str = ""
    reconnect_reason: int = 0
    sync_state: rtc.SyncState | None = None


class Outlet(Protocol):
    """The way out to one client: a bounded queue with a WebSocket behind it. Never waits, never raises.

    The first message to reach the client is `join`, `reconnect` or `leave`: others sent before it are held back and
    follow it. A client too slow for the bound is dropped (`session_closed` tells why).
    """

    @property
    def session(self) -> SessionId: ...

    def send(self, message: rtc.SignalResponse) -> None:
        """Queue one message; ignored once the session has ended."""

    def end(self, code: int = 1000) -> None:
        """Flush what is queued, then close the WebSocket with this code. No `session_closed` follows."""


@dataclass(frozen=True, slots=True)
class Command:
    """One Twirp call whose token and grants are already checked."""

    service: str
    """`RoomService`, `Egress`, `AgentDispatchService`, ... (package `livekit`)."""
    method: str
    claims: Claims
    request: Message
    client_address: str = ""


@dataclass(frozen=True, slots=True)
class Readiness:
    """Should a load balancer send people here? With the reasons why not."""

    ready: bool
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """Which node this is, and where."""

    node: str
    region: str


class Backend(Protocol):
    """The house behind the door."""

    async def validate(self, attempt: JoinAttempt) -> None:
        """Would `join` let this in? No side effects. Raises Refused (or RequestError)."""

    async def join(self, attempt: JoinAttempt, outlet: Outlet) -> None:
        """Let in, or raise Refused (or RequestError): then nothing of the attempt may remain.

        After a return the WebSocket is upgraded and the session lives: `join`, `reconnect` or `leave` is expected on
        the outlet within 5 s. A resume of an unknown participant is not refused: send leave(STATE_MISMATCH, RECONNECT)
        and end.
        """

    def request(self, session: SessionId, message: rtc.SignalRequest) -> None:
        """One message of a joined client, in order. `ping` and `ping_req` never come here."""

    def session_closed(self, session: SessionId, reason: str) -> None:
        """The WebSocket is gone and the house did not end it; exactly once. `reason` is a `session.Gone`."""

    async def command(self, command: Command) -> Message:
        """Carry out a Twirp call. RequestError(code, message) becomes the Twirp error of that code;
        `unimplemented` for methods this node does not serve."""

    def readiness(self) -> Readiness: ...

    def place(self) -> Place: ...

    def regions(self, asked_at: str) -> rtc.RegionSettings:
        """Where people may connect, the nearest first; `asked_at` is the address this request came to."""

    def metrics(self) -> bytes:
        """The text of /metrics in the Prometheus exposition format."""
