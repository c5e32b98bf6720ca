"""What a room is told of the configuration, and the limits of everything in it that can grow."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from livekit.protocol import models, rtc

from tertulia.protocol.machine import MILLISECOND, SECOND

SERVER_VERSION = "1.11.0"
"""The LiveKit server version whose behaviour is offered; clients compare it to choose features."""
SERVER_PROTOCOL = 17
AGENT_PROTOCOL = 1

STANDARD_CODECS = ("video/VP8", "video/H264", "video/VP9", "video/AV1", "audio/opus", "audio/red")


@dataclass(frozen=True)
class RoomConfig:
    """Defaults of rooms on this node (LiveKit's `room`, `limit`, `audio` and `video` blocks)."""

    enabled_codecs: Sequence[str] = STANDARD_CODECS
    """Mime types in order of preference."""
    ice_servers: Sequence[rtc.ICEServer] = ()
    max_participants: int = 0
    empty_timeout_s: int = 300
    departure_timeout_s: int = 20
    enable_remote_unmute: bool = False
    sync_streams: bool = False
    max_metadata_bytes: int = 512 << 10
    max_attributes_bytes: int = 64 << 10
    max_name_length: int = 256
    max_tracks: int = 100
    """Published tracks of one participant."""
    max_subscriptions: int = 2000
    """Wished tracks of one participant."""
    max_data_tracks: int = 100
    """Published data tracks of one participant."""
    audio_active_level: int = 35
    """-dBov that counts as speech."""
    audio_min_percentile: int = 40
    """Share of a window, in percent, that must be speech."""
    audio_interval_ns: int = 400 * MILLISECOND
    audio_smooth_intervals: int = 2
    dynacast_pause_ns: int = 5 * SECOND
    congestion_control: bool = True
    """Video is fitted to what each subscriber's connection carries."""
    allow_pause: bool = False
    """Video may be paused when not even lowest layers fit."""
    ping_interval_s: int = 5
    ping_timeout_s: int = 15


MAX_PENDING_TRACKS = 20
"""add_track requests of one participant that wait for their section (LIMIT_EXCEEDED)."""
MAX_UNMATCHED_SECTIONS = 50
"""Sections of one participant that wait for their add_track."""
MAX_WAITING_SSRCS = 32
"""SSRCs of one participant whose section is not matched yet."""
MAX_CODEC_CHANGES = 8
"""A track that changes its codec more often than this loses what comes in yet another one."""
MAX_LAYERS = 3
JOIN_TIMEOUT_NS = 60 * SECOND
"""From join to a connected transport (JOIN_FAILURE)."""
RESUME_WINDOW_NS = 30 * SECOND
"""A participant without signal whose transport is silent is kept this long (CONNECTION_TIMEOUT)."""
FAREWELL_NS = 2 * SECOND
"""Clients that go close their connection and say so by signal; the word may arrive so much later."""
NEGOTIATION_NS = 15 * SECOND
"""From our offer to its answer; then the client must reconnect."""
PACE_NS = 100_000
"""Per member and section: what one member's next round of negotiation waits for after its last one. A round costs the
client (and us a little for) every section of the description, and a track that comes costs everybody a round: in a
crowd one round takes several."""
MAX_PACE_NS = SECOND
MIN_PACE_NS = 20 * MILLISECOND
"""Less is not worth a wait: small calls negotiate at once."""
TOKEN_REFRESH_NS = 300 * SECOND
UNKNOWN_TRACK_NS = 60 * SECOND
"""How long a wish for an unknown track waits for it (SE_TRACK_NOTFOUND)."""
SETTINGS_DEBOUNCE_NS = 100 * MILLISECOND
"""Sizes change quickly while a window is dragged; becoming visible is not delayed."""
QUALITY_NS = 5 * SECOND
DYNACAST_FIRST_NS = 10 * SECOND
"""Nothing is paused in a track's first seconds."""
ROOM_UPDATE_NS = 5 * SECOND
"""Counts of participants and publishers are told at most this often."""
CALM_MEMBERS = 50
CALM_UPDATES = ((CALM_MEMBERS, SECOND), (8, 200 * MILLISECOND))
"""From so many local members on, comings and goings of listeners are told together after so long: one join says
JOINED and ACTIVE within it, and every member hears of every join (LiveKit: after up to 3 s in any room)."""
MAX_UPDATE_BYTES = 128 << 10
"""One ParticipantUpdate; more members go into the next."""
MAX_DEPARTED = 200
DEPARTED_NS = 120 * SECOND
"""Departures kept for clients that resume, and for how long one may be away without having heard of them."""
MAX_PERMISSION_ENTRIES = 10_000
MAX_DATA_BYTES = 256 << 10
MAX_DESTINATIONS = 1000
RELIABLE_CACHE_BYTES = 100_000
RELIABLE_CACHE_NS = 2 * SECOND
"""What a resuming participant may still get (LiveKit: 2 s or 100 kB per room)."""
WAITING_DATA_BYTES = 100_000
"""Reliable packets kept for a member whose channel is not open yet."""
LOSSY_BUFFER_BYTES = 64 << 10
"""A lossy channel with more unsent than this gets no more: late is worse than lost."""
DATA_TRACK_BUFFER_BYTES = 512 << 10
MAX_NONCES = 100
MAX_CALLS = 1000
"""RPCs of the server API that wait for an answer in one room."""

REQUESTS_PER_S, REQUEST_BURST = 200, 1000
"""Signal messages of one participant (a JS client resuming with 100 tracks sends a few hundred at once)."""
METADATA_PER_S, METADATA_BURST = 10, 50
DATA_PER_S, DATA_BURST = 5000, 10_000
"""Data packets of one participant."""


REPLICA_IDLE_NS = 60 * SECOND
"""A node that holds a room only for others lets go of it after this."""


class RateLimit:
    """A token bucket: `per_s` on average, `burst` at once."""

    __slots__ = ("_burst", "_level", "_per_s", "_updated")

    def __init__(self, per_s: float, burst: float) -> None:
        self._per_s = per_s
        self._burst = burst
        self._level = burst
        self._updated = 0

    def allow(self, now: int, cost: float = 1.0) -> bool:
        self._level = min(self._burst, self._level + (now - self._updated) * self._per_s / SECOND)
        self._updated = now
        if self._level < cost:
            return False
        self._level -= cost
        return True


@lru_cache(maxsize=8)
def server_info(node_id: str, region: str) -> models.ServerInfo:
    """The same for every join; nobody changes it."""
    return models.ServerInfo(
        edition=models.ServerInfo.Standard,
        version=SERVER_VERSION,
        protocol=SERVER_PROTOCOL,
        region=region,
        node_id=node_id,
        agent_protocol=AGENT_PROTOCOL,
    )
