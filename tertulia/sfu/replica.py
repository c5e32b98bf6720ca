"""What other nodes say of the room, applied to this replica. Their words may come late, twice, in any order, or not.

A member is newer when its revision is higher; a sid that left never comes back; of two members with one identity the
one with the later claim stays, on every node the same one.
"""

from collections.abc import Callable, Mapping
from typing import Any, cast

from google.protobuf.message import DecodeError
from livekit.protocol import models, rtc

from tertulia.protocol import bus
from tertulia.protocol.errors import PeerError
from tertulia.protocol.ids import NodeId
from tertulia.protocol.machine import MILLISECOND, SECOND, Nanos
from tertulia.sfu import data_tracks, leaving, publishing, replica_data, replication, subscribing
from tertulia.sfu.data import DataTrack
from tertulia.sfu.participant import Participant
from tertulia.sfu.publication import PublishedTrack
from tertulia.sfu.replicas import Elsewhere
from tertulia.sfu.state import RoomState

Reason = models.DisconnectReason
HEAR_FIRST_NS, LOOK_NS = 2 * SECOND, 20 * MILLISECOND
"""Back after we were gone, we wait so long for other nodes to tell their members, and look so often."""


def heard(state: RoomState, node: NodeId, message: bytes) -> None:
    """One message of another node. What we do not understand is counted and dropped."""
    try:
        word = bus.decode_room(message)
        instance = getattr(word, "instance", 0)
        if instance and state.replicas.lost.get(node) == instance and not isinstance(word, bus.Repeat | bus.Stale):
            state.counters["replication_stale"] += 1
            replication.say(state, bus.Stale(instance=instance), node)
            return
        HANDLERS[type(word)](state, node, word)
    except PeerError as error:
        state.counters[str(error)] += 1
    except DecodeError:
        state.counters["bus_malformed"] += 1


def nodes_here(state: RoomState, nodes: frozenset[NodeId]) -> None:
    """The store says who holds the room; those we do not know yet are asked."""
    for node in sorted(nodes - {state.node_id}):
        replication.meet(state, node)


def node_gone(state: RoomState, node: NodeId) -> None:
    """Its members leave with it. One of those who stay tells the outside."""
    elsewhere = state.replicas.nodes.get(node)
    if elsewhere is None:
        return
    if elsewhere.instance:
        state.replicas.lost[node] = elsewhere.instance
    _forget(state, elsewhere)
    spokesman = min([state.node_id, *state.replicas.nodes])
    _members_leave(state, node, tell_outside=spokesman == state.node_id)


def _forget(state: RoomState, elsewhere: Elsewhere) -> None:
    elsewhere.stop()
    del state.replicas.nodes[elsewhere.node]
    state.relay.node_gone(elsewhere.node)


def _members_leave(state: RoomState, node: NodeId, *, tell_outside: bool = False) -> None:
    for member in list(state.members.values()):
        if member.node == node:
            _leave(state, member, Reason.SIGNAL_CLOSE)
            if tell_outside:
                state.happened("participant_left", member, is_ours=True)


def _leave(state: RoomState, who: Participant, reason: int) -> None:
    state.replicas.bury(who.sid)
    leaving.remove(state, who, _reason(reason))


def _reason(number: int) -> models.DisconnectReason:
    """A reason as another node said it."""
    return cast(models.DisconnectReason, number if number in Reason.values() else Reason.UNKNOWN_REASON)


# ---------------------------------------------------------------------------------------------- replicas


def _introduce(state: RoomState, node: NodeId, instance: int) -> Elsewhere:
    """The speaker says who it is; a new replica of a node replaces the old one with all its members."""
    if not 0 < instance < 1 << 63:
        raise PeerError("bus_malformed")
    state.replicas.lost.pop(node, None)
    elsewhere = replication.meet(state, node)
    if elsewhere.instance not in (0, instance):
        _forget(state, elsewhere)
        _members_leave(state, node)
        elsewhere = replication.meet(state, node)
    elsewhere.instance = instance
    elsewhere.heard_at = state.now
    return elsewhere


def _hello(state: RoomState, node: NodeId, word: bus.Hello) -> None:
    elsewhere = _introduce(state, node, word.instance)
    replication.snapshot(state, elsewhere)
    state.relay.remind(node)


def _snapshot(state: RoomState, node: NodeId, word: bus.Snapshot) -> None:
    elsewhere = _introduce(state, node, word.instance)
    if elsewhere.question is not None:
        elsewhere.question.cancel()
        elsewhere.question = None
    for member in word.members:
        _member(state, node, member)
    if word.number >= elsewhere.number:
        elsewhere.number = word.number
        present = {member.sid for member in word.members}
        for who in list(state.members.values()):
            if who.node == node and who.sid not in present and who.revision <= word.number:
                _leave(state, who, Reason.UNKNOWN_REASON)
    if elsewhere.data_next == 0:
        elsewhere.data_next = max(1, word.data_number)
        replica_data.drain(state, elsewhere)
    state.relay.remind(node)


def _change(state: RoomState, node: NodeId, word: bus.Change) -> None:
    elsewhere = replica_data.known(state, node, word.instance)
    if elsewhere is None:
        return
    for left in word.left:
        who = state.members.get(left.sid)
        if who is not None and who.node == node:
            _leave(state, who, left.reason)
        else:
            state.replicas.bury(left.sid)
    for member in word.members:
        _member(state, node, member)
    if elsewhere.number < 0:
        return
    if word.number == elsewhere.number + 1:
        elsewhere.number = word.number
    elif word.number > elsewhere.number:
        state.counters["replication_gap"] += 1
        replication.ask(state, elsewhere)


def _digest(state: RoomState, node: NodeId, word: bus.Digest) -> None:
    elsewhere = replica_data.known(state, node, word.instance)
    if elsewhere is None:
        return
    if word.number > elsewhere.number:
        state.counters["replication_gap"] += 1
        replication.ask(state, elsewhere)
    if elsewhere.data_next and word.data_number >= elsewhere.data_next:
        replica_data.await_missing(state, elsewhere, word.data_number)
    if word.wants_number > elsewhere.wants_number:
        state.counters["relay_wants_missed"] += 1
        replication.ask(state, elsewhere)
    elif word.wants_number:
        state.relay.still_wanted_by(node)


def _goodbye(state: RoomState, node: NodeId, word: bus.Goodbye) -> None:
    elsewhere = state.replicas.nodes.get(node)
    if elsewhere is not None and word.instance in (0, elsewhere.instance):
        _forget(state, elsewhere)
        _members_leave(state, node)


def _stale(state: RoomState, node: NodeId, word: bus.Stale) -> None:
    """We were gone for them: our members come anew, so that no roster keeps half of them.

    First we hear who is there. A member whose identity came back elsewhere meanwhile leaves for good: sent to reconnect
    it would displace the one who came after it.
    """
    if word.instance != state.replicas.instance:
        return
    state.counters["replication_was_gone"] += 1
    replication.renew(state)
    _send_back(state, [local.who.sid for local in state.local_members()], state.after(HEAR_FIRST_NS))


def _send_back(state: RoomState, sids: list[str], latest: Nanos) -> None:
    """These members, when all other nodes have told theirs, or it is late."""
    if state.now < latest and not replication.is_complete(state):
        state.agenda.at(state.after(LOOK_NS), lambda: _send_back(state, sids, latest))
        return
    for sid in sids:
        who = state.members.get(sid)
        if who is not None and who.local is not None:
            state.condemn(who, Reason.STATE_MISMATCH, rtc.LeaveRequest.RECONNECT)


def _ended(state: RoomState, node: NodeId, word: bus.Ended) -> None:
    state.closing = _reason(word.reason)


# ---------------------------------------------------------------------------------------------- members


def _member(state: RoomState, node: NodeId, word: bus.Member) -> None:
    if word.sid in state.replicas.tombstones:
        return
    who = state.members.get(word.sid)
    if who is not None and who.node != node:
        state.counters["replication_foreign_member"] += 1
        return
    if who is not None and word.revision <= who.revision:
        return
    info = models.ParticipantInfo.FromString(word.info)
    if info.sid != word.sid or not info.identity or info.state == models.ParticipantInfo.DISCONNECTED:
        raise PeerError("bus_malformed")
    if who is None:
        who = _enter(state, node, word, info)
        if who is None:
            return
    who.revision = word.revision
    _take(state, who, word, info)


def _enter(state: RoomState, node: NodeId, word: bus.Member, info: models.ParticipantInfo) -> Participant | None:
    """A new remote member; of two with one identity the one with the later claim stays."""
    rival = state.by_identity.get(info.identity)
    if rival is not None:
        if (rival.ticket, rival.info.joined_at_ms, rival.sid) > (word.ticket, info.joined_at_ms, info.sid):
            return None  # its own node hears of the rival and removes it
        state.counters["duplicate_identity"] += 1
        state.replicas.bury(rival.sid)
        leaving.remove(state, rival, Reason.DUPLICATE_IDENTITY)
    copy = models.ParticipantInfo()
    copy.CopyFrom(info)
    who = Participant(copy, node)
    who.ticket = word.ticket
    state.enter(who)
    return who


def _take(state: RoomState, who: Participant, word: bus.Member, info: models.ParticipantInfo) -> None:
    """The member's new public state, with the tracks that came and went."""
    was_hidden = who.is_hidden
    who.info.CopyFrom(info)
    rule = None if word.rule is None else rtc.SubscriptionPermission.FromString(word.rule)
    rule_changed, who.rule = rule != who.rule, rule
    offers = {track.sid: track.codecs for track in word.tracks}
    present = {track.sid: track for track in info.tracks}
    for sid in [sid for sid in who.tracks if sid not in present]:
        publishing.forget(state, who.tracks[sid])
    for sid, told in present.items():
        _track(state, who, told, offers.get(sid, ()))
    _data_tracks(state, who)
    if rule_changed:
        subscribing.review_publisher(state, who.sid)
    state.updates.mark(who, to_self=False, can_wait=True)
    if who.is_hidden and not was_hidden:
        state.updates.vanish(who, state.now)


def _track(state: RoomState, who: Participant, told: models.TrackInfo, offers: tuple[bus.CodecOffer, ...]) -> None:
    track = who.tracks.get(told.sid)
    if track is None:
        track = PublishedTrack(models.TrackInfo(), who.sid, frozenset())
        track.info.CopyFrom(told)
        track.offers = offers
        who.tracks[track.sid] = state.tracks[track.sid] = track
        subscribing.track_ready(state, track)
        state.taps.changed(who.info, track)
        return
    muted, had = track.info.muted, track.offers
    is_told = track.info != told
    track.info.CopyFrom(told)
    track.offers = offers
    if muted != told.muted:
        _mute(state, track)
    if had != offers:
        state.relay.offers_changed(track)
        subscribing.track_ready(state, track)
    elif is_told:
        state.taps.changed(who.info, track)


def _mute(state: RoomState, track: PublishedTrack) -> None:
    for receiver in track.receivers:
        state.plane.set_track_enabled(receiver.plane_track, not track.info.muted)
        receiver.tracker.forgive()
        if not track.info.muted and track.is_video:
            for layer in receiver.streams:
                state.plane.request_key_frame(receiver.plane_track, layer)


def _data_tracks(state: RoomState, who: Participant) -> None:
    told = {info.pub_handle: info for info in who.info.data_tracks}
    for handle in [handle for handle, info in who.data_tracks.items() if told.get(handle) != info]:
        data_tracks.end(state, who, who.data_tracks[handle])
    for handle, info in told.items():
        if handle not in who.data_tracks:
            copy = models.DataTrackInfo()
            copy.CopyFrom(info)
            who.data_tracks[handle] = copy
            state.data_tracks[copy.sid] = DataTrack(copy, who.sid)
            data_tracks.appeared(state, state.data_tracks[copy.sid])


# ---------------------------------------------------------------------------------------------- the rest


def _quality(state: RoomState, node: NodeId, word: bus.Quality) -> None:
    elsewhere = replica_data.known(state, node, word.instance)
    if elsewhere is not None and word.number > elsewhere.scores_number:
        elsewhere.scores_number = word.number
        elsewhere.scores = word.scores


def _wants(state: RoomState, node: NodeId, word: bus.Wants) -> None:
    elsewhere = replica_data.known(state, node, word.instance)
    if elsewhere is not None and word.number > elsewhere.wants_number:
        elsewhere.wants_number = word.number
        elsewhere.data_tracks = frozenset(word.data_tracks)
        state.relay.wanted_by(node, word.wants)


HANDLERS: Mapping[type, Callable[[RoomState, NodeId, Any], None]] = {
    bus.Hello: _hello,
    bus.Snapshot: _snapshot,
    bus.Change: _change,
    bus.Digest: _digest,
    bus.Data: replica_data.on_data,
    bus.Repeat: replica_data.on_repeat,
    bus.DataTrackPacket: replica_data.on_track_packet,
    bus.Quality: _quality,
    bus.Wants: _wants,
    bus.Goodbye: _goodbye,
    bus.Stale: _stale,
    bus.Ended: _ended,
}
