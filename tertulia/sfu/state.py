"""Everything a room knows, and the few verbs every part of it needs: emit, send, mark as changed.

No decisions here: the modules beside this one decide, each over its own part of the state.
"""

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass
from random import Random

from livekit.protocol import models, room, rtc

from tertulia.protocol.ids import NodeId, RoomSid, SessionId, TransportId, mint
from tertulia.protocol.machine import MILLISECOND, SECOND, Nanos
from tertulia.sfu.agenda import Agenda
from tertulia.sfu.data import Call, DataState, DataTrack
from tertulia.sfu.events import Happened, RoomOutput, Send
from tertulia.sfu.participant import LocalParticipant, Participant
from tertulia.sfu.plane.api import Plane
from tertulia.sfu.publication import PublishedTrack
from tertulia.sfu.quality import Ledger
from tertulia.sfu.relay import NoRelay, Relay
from tertulia.sfu.replicas import Replicas
from tertulia.sfu.settings import RoomConfig
from tertulia.sfu.speakers import Speakers
from tertulia.sfu.subscription import Subscription
from tertulia.sfu.taps import Taps
from tertulia.sfu.transport.api import Transports
from tertulia.sfu.updates import Updates

SIF_TRAILER_BYTES = 16


@dataclass(frozen=True, slots=True)
class Condemned:
    """A member that leaves at the end of this turn."""

    who: Participant
    reason: models.DisconnectReason
    action: rtc.LeaveRequest.Action


class RoomState:
    """One room on this node."""

    def __init__(
        self,
        options: room.CreateRoomRequest,
        *,
        node_id: NodeId,
        region: str,
        plane: Plane,
        transports: Transports,
        now: Nanos,
        wall_offset_ns: int,
        rng: Random,
        config: RoomConfig,
        shared: models.Room | None = None,
    ) -> None:
        self.options = options
        self.node_id = node_id
        self.region = region
        self.plane = plane
        self.transports = transports
        self.relay: Relay = NoRelay()
        self.now = now
        self.rng = rng
        self.config = config
        self.agenda = Agenda()
        self.counters: Counter[str] = Counter()
        self.outputs: deque[RoomOutput] = deque()
        self.is_closed = False
        self._wall_offset_ns = wall_offset_ns
        self.room = models.Room()
        self.room.CopyFrom(shared or new_room(options, config, RoomSid(mint("RM_", rng)), self.wall_ns()))
        self.sif_trailer = bytes(rng.randrange(1, 256) for _ in range(SIF_TRAILER_BYTES))
        # who and what, wherever it is
        self.members: dict[str, Participant] = {}
        self.by_identity: dict[str, Participant] = {}
        self.tracks: dict[str, PublishedTrack] = {}
        self.data_tracks: dict[str, DataTrack] = {}
        self.calls: dict[str, Call] = {}
        """RPCs of the server API that wait for their answer, by id."""
        self.replicas = Replicas()
        """The other nodes that hold this room."""
        # what is here
        self._here: dict[str, LocalParticipant] = {}
        self.sessions: dict[SessionId, LocalParticipant] = {}
        self.by_transport: dict[TransportId, LocalParticipant] = {}
        self.tracks_by_up: dict[int, PublishedTrack] = {}
        self.downs: dict[int, Subscription] = {}
        # parts
        self.updates = Updates()
        self.speakers = Speakers(config)
        self.ledger = Ledger()
        self.data = DataState()
        self.taps = Taps(plane)
        self.loudest: tuple[str, ...] = ()
        """Speakers now, by participant sid."""
        # what the end of the turn must do
        self.renegotiations: dict[str, LocalParticipant] = {}
        self.condemned: list[Condemned] = []
        self.closing: models.DisconnectReason | None = None

    @property
    def sid(self) -> RoomSid:
        return RoomSid(self.room.sid)

    def wall_ns(self) -> int:
        return self.now + self._wall_offset_ns

    def enter(self, who: Participant) -> None:
        self.members[who.sid] = self.by_identity[who.identity] = who
        if who.local is not None:
            self._here[who.sid] = who.local

    def remove(self, who: Participant) -> None:
        del self.members[who.sid]
        self._here.pop(who.sid, None)
        if self.by_identity.get(who.identity) is who:
            del self.by_identity[who.identity]

    def local_members(self) -> list[LocalParticipant]:
        """Members of this node; a list of its own, so that members may leave while it is walked over."""
        return list(self._here.values())

    # ------------------------------------------------------------------------------------------ out

    def emit(self, output: RoomOutput) -> None:
        self.outputs.append(output)

    def send(self, local: LocalParticipant, message: rtc.SignalResponse) -> None:
        """To the member's present session; without one the message is lost, and a resume tells the state anew."""
        if local.session is None:
            self.counters["signal_without_session"] += 1
            return
        self.emit(Send(local.session, message))

    def broadcast(self, message: rtc.SignalResponse) -> None:
        for session in self.sessions:
            self.emit(Send(session, message))

    def happened(
        self,
        name: str,
        who: Participant | None = None,
        track: models.TrackInfo | None = None,
        *,
        is_ours: bool = False,
    ) -> None:
        """Told once: by the member's own node, or by the one that speaks for a node that is gone (`is_ours`)."""
        if who is None or who.node == self.node_id or is_ours:
            self.emit(Happened(name, self.info(), _copy_info(who), _copy_track(track)))

    def info(self) -> models.Room:
        """The room as clients and APIs see it."""
        info = models.Room()
        info.CopyFrom(self.room)
        participants = publishers = 0
        for member in self.members.values():
            if not member.is_dependent:
                participants += 1
                if member.tracks or member.data_tracks:
                    publishers += 1
        info.num_participants, info.num_publishers = participants, publishers
        return info

    def set_recording(self, active: bool) -> None:
        if self.room.active_recording != active:
            self.room.active_recording = active
            self.broadcast(rtc.SignalResponse(room_update=rtc.RoomUpdate(room=self.info())))

    # ------------------------------------------------------------------------------------------ marks

    def changed(self, who: Participant, *, to_self: bool = True, can_wait: bool = False) -> None:
        """The public state of a member changed: everybody hears it at the end of the turn."""
        who.touch()
        self.updates.mark(who, to_self=to_self, can_wait=can_wait)
        if who.local is not None:
            self.replicas.touch(who.sid)

    def renegotiate(self, local: LocalParticipant) -> None:
        """Something was asked of the negotiation: it speaks at the end of the turn."""
        self.renegotiations[local.sid] = local

    def condemn(
        self,
        who: Participant,
        reason: models.DisconnectReason,
        action: rtc.LeaveRequest.Action = rtc.LeaveRequest.DISCONNECT,
    ) -> None:
        """Remove a member at the end of the turn (safe while its state is walked over)."""
        self.condemned.append(Condemned(who, reason, action))

    def after(self, delay_ns: int) -> Nanos:
        return Nanos(self.now + delay_ns)


def new_room(options: room.CreateRoomRequest, config: RoomConfig, sid: RoomSid, wall_ns: int) -> models.Room:
    """What a room is when it begins."""
    return models.Room(
        sid=sid,
        name=options.name,
        empty_timeout=options.empty_timeout or config.empty_timeout_s,
        departure_timeout=options.departure_timeout or config.departure_timeout_s,
        max_participants=options.max_participants or config.max_participants,
        creation_time=wall_ns // SECOND,
        creation_time_ms=wall_ns // MILLISECOND,
        enabled_codecs=[models.Codec(mime=mime) for mime in config.enabled_codecs],
        metadata=options.metadata,
    )


def visible(members: Iterable[Participant], to: Participant) -> list[models.ParticipantInfo]:
    """The members one of them may see, without itself."""
    return [member.info for member in members if member is not to and not member.is_hidden]


def _copy_info(who: Participant | None) -> models.ParticipantInfo | None:
    if who is None:
        return None
    info = models.ParticipantInfo()
    info.CopyFrom(who.info)
    return info


def _copy_track(track: models.TrackInfo | None) -> models.TrackInfo | None:
    if track is None:
        return None
    info = models.TrackInfo()
    info.CopyFrom(track)
    return info
