"""A member of a room: its public state, the same on every node, and what only its own node keeps."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from livekit.protocol import models, rtc

from tertulia.protocol.errors import RequestError
from tertulia.protocol.ids import NodeId, SessionId, TransportId
from tertulia.protocol.machine import Nanos
from tertulia.protocol.token import Claims
from tertulia.sfu import settings
from tertulia.sfu.agenda import Appointment
from tertulia.sfu.bwe.channel import Channel
from tertulia.sfu.negotiation import Answerer, Offerer, PublishedSection
from tertulia.sfu.plane.api import UnboundSsrc
from tertulia.sfu.publication import Pending, PublishedTrack
from tertulia.sfu.settings import RateLimit
from tertulia.sfu.subscription import Subscription
from tertulia.sfu.transport.api import LocalParameters

State = models.ParticipantInfo.State
JOINING, JOINED = models.ParticipantInfo.JOINING, models.ParticipantInfo.JOINED
ACTIVE, DISCONNECTED = models.ParticipantInfo.ACTIVE, models.ParticipantInfo.DISCONNECTED

TRANSITIONS: Mapping[int, frozenset[int]] = {
    JOINING: frozenset({JOINED, DISCONNECTED}),
    JOINED: frozenset({ACTIVE, DISCONNECTED}),
    ACTIVE: frozenset({DISCONNECTED}),
    DISCONNECTED: frozenset(),
}
"""JOINING before the join response, JOINED after it, ACTIVE once its primary connection is up."""

KINDS = {
    "ingress": models.ParticipantInfo.INGRESS,
    "egress": models.ParticipantInfo.EGRESS,
    "sip": models.ParticipantInfo.SIP,
    "agent": models.ParticipantInfo.AGENT,
    "connector": models.ParticipantInfo.CONNECTOR,
    "bridge": models.ParticipantInfo.BRIDGE,
}
DEPENDENT = frozenset({models.ParticipantInfo.AGENT, models.ParticipantInfo.EGRESS})
"""Kinds that neither keep a room open nor count against max_participants."""


class Participant:
    """One member, wherever it is connected."""

    def __init__(self, info: models.ParticipantInfo, node: NodeId) -> None:
        self.info = info
        self.node = node
        self.is_dependent = info.kind in DEPENDENT or info.permission.recorder or info.permission.agent
        """Neither keeps the room open nor counts. The kind is fixed at join."""
        self.tracks: dict[str, PublishedTrack] = {}
        self.data_tracks: dict[int, models.DataTrackInfo] = {}
        """By the publisher's handle."""
        self.ticket = 0
        """Order of claims of its identity among nodes: the later one stays."""
        self.revision = 0
        """Of a remote member: the change of its node that is applied here."""
        self.rule: rtc.SubscriptionPermission | None = None
        """Who may subscribe to this member's tracks; None: everybody."""
        self.local: LocalParticipant | None = None

    @property
    def sid(self) -> str:
        return self.info.sid

    @property
    def identity(self) -> str:
        return self.info.identity

    @property
    def is_hidden(self) -> bool:
        return self.info.permission.hidden

    @property
    def is_gone(self) -> bool:
        return self.info.state == DISCONNECTED

    @property
    def is_publisher(self) -> bool:
        return bool(self.tracks or self.data_tracks)

    def become(self, state: State) -> None:
        """Change state by the table."""
        assert state in TRANSITIONS[self.info.state], f"{self.info.state} to {state}"
        self.info.state = state

    def touch(self) -> None:
        """The public state changed: bring the lists up to date and raise the version."""
        info = self.info
        del info.tracks[:]
        info.tracks.extend(track.info for track in self.tracks.values())
        del info.data_tracks[:]
        info.data_tracks.extend(self.data_tracks.values())
        info.is_publisher = self.is_publisher
        info.version += 1

    def may_publish(self, source: models.TrackSource) -> bool:
        permission = self.info.permission
        return permission.can_publish and (
            not permission.can_publish_sources or source in permission.can_publish_sources
        )

    def allows(self, subscriber: "Participant", track_sid: str) -> bool:
        """May this member's track go to `subscriber` (subscription_permission, wire contract 5.1)?"""
        rule = self.rule
        if rule is None or rule.all_participants:
            return True
        return any(
            entry.all_tracks or track_sid in entry.track_sids
            for entry in rule.track_permissions
            if subscriber.identity == entry.participant_identity or subscriber.sid == entry.participant_sid
        )


@dataclass
class Peer:
    """One peer connection of a local participant."""

    transport: TransportId
    parameters: LocalParameters
    is_connected: bool = False
    is_lost: bool = False
    trickled: bool = False
    """Our candidates were sent as messages."""
    channels: set[str] = field(default_factory=set)
    """Data channels that are open."""


class LocalParticipant:
    """What the node a member is connected to keeps about it."""

    def __init__(self, who: Participant, claims: Claims, client: models.ClientInfo, session: SessionId) -> None:
        self.who = who
        self.claims = claims
        self.client = client
        self.session: SessionId | None = session
        self.single_connection = True
        self.subscriber_primary = False
        self.auto_subscribe = True
        self.auto_subscribe_data = False
        self.adaptive_stream = False
        self.allow_pause = False
        self.joined_at: Nanos = Nanos(0)
        self.deadline: Appointment | None = None
        """Removal when it never connects, or does not come back."""
        # connections
        self.up: Peer
        self.down: Peer
        """The same as `up` on a single connection."""
        self.answerer: Answerer
        self.offerer: Offerer | None = None
        self.offer_id = 0
        self.offer_deadline: Appointment | None = None
        self.paced_until: Nanos = Nanos(0)
        """The next round of negotiation we ask for waits until then, if nothing asks for one sooner."""
        self.pacing: Appointment | None = None
        # up
        self.pending: dict[str, Pending] = {}
        """add_track requests that wait for their section, by cid."""
        self.queued: dict[str, rtc.AddTrackRequest] = {}
        """add_track requests whose cid is still published."""
        self.unmatched: dict[str, PublishedSection] = {}
        """Sections that wait for their add_track, by mid."""
        self.by_mid: dict[str, PublishedTrack] = {}
        self.waiting_ssrcs: deque[UnboundSsrc] = deque(maxlen=settings.MAX_WAITING_SSRCS)
        # down
        self.subscriptions: dict[str, Subscription] = {}
        self.wishes: dict[str, bool] = {}
        """What the client said explicitly, by track sid; else `auto_subscribe` counts."""
        self.awaited: set[str] = set()
        """Unknown tracks that were wished for and may still come."""
        self.viewer_settings: dict[str, rtc.UpdateTrackSettings] = {}
        self.channel = Channel()
        """What the way down to this member carries."""
        self.gives_feedback = False
        """It agreed to transport-cc feedback about what we send."""
        self.is_held_back = False
        """The stream allocator set ceilings."""
        self.paused_since: Nanos | None = None
        """All its video, for want of bandwidth."""
        self.is_probing = False
        self.probe_bytes = 0
        """Due of a running probe, and not sent yet."""
        self.bandwidth_cap_bps = 0
        """A test wants this member's downlink to look no wider; 0: no cap."""
        # data
        self.last_sequence = 0
        """Newest reliable data packet received."""
        self.waiting_data: deque[bytes] = deque()
        """Reliable packets for a channel that is not open yet."""
        self.waiting_data_bytes = 0
        # told
        self.heard: dict[str, float] = {}
        """Speakers and their levels as this client knows them."""
        self.told_quality: dict[str, int] = {}
        self.pretended: Appointment | None = None
        """The end of a pretended speech."""
        # simulation of faults (wire contract 5.9)
        self.drop_resume_until = 0
        self.drop_resume_silently = False
        # limits
        self.requests = RateLimit(settings.REQUESTS_PER_S, settings.REQUEST_BURST)
        self.data_packets = RateLimit(settings.DATA_PER_S, settings.DATA_BURST)
        self.metadata_updates = RateLimit(settings.METADATA_PER_S, settings.METADATA_BURST)

    @property
    def sid(self) -> str:
        return self.who.sid

    @property
    def is_active(self) -> bool:
        return self.who.info.state == ACTIVE

    @property
    def data_peer(self) -> Peer:
        """Data goes down where media does; to a client of /rtc that may not subscribe, on its own channels (4.1)."""
        return self.down if self.single_connection or self.subscriber_primary else self.up

    @property
    def peers(self) -> tuple[Peer, ...]:
        return (self.up,) if self.up is self.down else (self.up, self.down)

    @property
    def primary(self) -> Peer:
        """The connection that decides whether the member is there."""
        return self.down if self.subscriber_primary else self.up

    def forget_announced(self) -> None:
        """Nothing that was announced or offered will be published any more."""
        self.pending.clear()
        self.queued.clear()
        self.unmatched.clear()
        self.waiting_ssrcs.clear()

    def wants(self, track_sid: str) -> bool:
        return self.wishes.get(track_sid, self.auto_subscribe)


def changed_attributes(current: Mapping[str, str], change: Mapping[str, str], limit_bytes: int) -> dict[str, str]:
    """Attributes after a change (an empty value deletes); RequestError when they grow beyond the limit."""
    merged = {key: value for key, value in {**current, **change}.items() if value}
    if sum(len(key.encode()) + len(value.encode()) for key, value in merged.items()) > limit_bytes:
        raise RequestError("invalid_argument", f"attributes exceed {limit_bytes} bytes")
    return merged
