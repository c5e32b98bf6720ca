"""What other nodes say of their members, applied to this replica of the room."""

from google.protobuf.message import DecodeError
from livekit.protocol import models, rtc

from tertulia.protocol.errors import PeerError
from tertulia.protocol.ids import NodeId
from tertulia.sfu import delivering, leaving, replication, subscribing
from tertulia.sfu.data import destinations
from tertulia.sfu.participant import Participant
from tertulia.sfu.publication import PublishedTrack
from tertulia.sfu.replication import Word
from tertulia.sfu.state import RoomState

Reason = models.DisconnectReason


def heard(state: RoomState, node: NodeId, message: bytes) -> None:
    """One message of another node. What we do not understand is counted and dropped."""
    try:
        word, body = replication.parse(message)
        if word is Word.HELLO:
            _greet(state, node)
        elif word is Word.MEMBER:
            for info in rtc.ParticipantUpdate.FromString(body).participants:
                _member(state, node, info)
        else:
            packet = models.DataPacket.FromString(body)
            sender = state.members.get(packet.participant_sid)
            delivering.deliver(state, packet, body, destinations(packet), sender)
    except (PeerError, DecodeError):
        state.counters["replication_malformed"] += 1


def _greet(state: RoomState, node: NodeId) -> None:
    if node not in state.nodes:
        state.nodes.add(node)
        replication.hello(state)
    replication.members(state, [local.who.info for local in state.local_members()], node)


def node_gone(state: RoomState, node: NodeId) -> None:
    """Its members leave with it."""
    state.nodes.discard(node)
    for member in list(state.members.values()):
        if member.node == node:
            leaving.remove(state, member, Reason.SIGNAL_CLOSE)


def _member(state: RoomState, node: NodeId, info: models.ParticipantInfo) -> None:
    state.nodes.add(node)
    known = state.members.get(info.sid)
    if known is not None and known.node != node:
        state.counters["replication_foreign_member"] += 1
        return
    if info.state == models.ParticipantInfo.DISCONNECTED:
        if known is not None:
            leaving.remove(state, known, info.disconnect_reason)
        return
    if known is None:
        known = _enter(state, node, info)
        if known is None:
            return
    elif info.version <= known.info.version:
        return
    _take(state, known, info)


def _enter(state: RoomState, node: NodeId, info: models.ParticipantInfo) -> Participant | None:
    """A new remote member; of two with one identity the later one stays, on every node the same."""
    rival = state.by_identity.get(info.identity)
    if rival is not None:
        if (rival.info.joined_at_ms, rival.sid) > (info.joined_at_ms, info.sid):
            return None  # its own node hears of the rival and removes it
        state.counters["duplicate_identity"] += 1
        leaving.remove(state, rival, Reason.DUPLICATE_IDENTITY)
    who = Participant(models.ParticipantInfo(), node)
    who.info.CopyFrom(info)
    state.members[who.sid] = state.by_identity[who.identity] = who
    return who


def _take(state: RoomState, who: Participant, info: models.ParticipantInfo) -> None:
    """The member's new public state, with the tracks that came and went."""
    who.info.CopyFrom(info)
    present = {track.sid: track for track in info.tracks}
    for sid in [sid for sid in who.tracks if sid not in present]:
        subscribing.track_gone(state, who.tracks[sid])
        del who.tracks[sid], state.tracks[sid]
    for sid, told in present.items():
        track = who.tracks.get(sid)
        if track is None:
            track = PublishedTrack(models.TrackInfo(), who.sid, frozenset())
            track.info.CopyFrom(told)
            who.tracks[sid] = state.tracks[sid] = track
            subscribing.track_ready(state, track)
        else:
            track.info.CopyFrom(told)
    state.updates.mark(who, to_self=False)
