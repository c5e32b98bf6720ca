"""The room's words to the other nodes that hold a replica of it. Each node is the authority for its own members.

What is said here is applied there by `replica`. As long as no other node is known nothing is written or remembered.
Changes are numbered; digests say the newest number, so that a listener that missed one asks for a snapshot.
"""

from livekit.protocol import models

from tertulia.protocol import bus
from tertulia.protocol.ids import NodeId
from tertulia.protocol.machine import Nanos
from tertulia.sfu.data import Addressed
from tertulia.sfu.events import ToNodes
from tertulia.sfu.media.receiver import Receiver
from tertulia.sfu.participant import JOINING, Participant
from tertulia.sfu.publication import PublishedTrack
from tertulia.sfu.replicas import ASK_NS, CALM_NS, LIVELY_FOR_NS, LIVELY_NS, SCORES_NS, SILENT_NS, Elsewhere
from tertulia.sfu.state import RoomState


def say(state: RoomState, word: bus.Word, node: NodeId) -> None:
    state.emit(ToNodes(bus.encode(word), node))


def say_to_all(state: RoomState, word: bus.Word) -> None:
    """One message, carried to every node that is known to hold the room."""
    if state.replicas.nodes:
        state.emit(ToNodes(bus.encode(word)))


# ---------------------------------------------------------------------------------------------- other nodes


def meet(state: RoomState, node: NodeId) -> Elsewhere:
    """This node is known to hold the room; asks it for its members if it is new."""
    replicas = state.replicas
    elsewhere = replicas.nodes.get(node)
    if elsewhere is None:
        if not replicas.instance:
            replicas.instance = state.rng.getrandbits(52) + 1
        elsewhere = replicas.nodes[node] = Elsewhere(node, heard_at=state.now)
        replicas.scores_due = state.now
        ask(state, elsewhere)
        stay_awake(state)
    return elsewhere


def ask(state: RoomState, elsewhere: Elsewhere) -> None:
    """Ask for a snapshot, and again until it comes."""
    if elsewhere.question is not None:
        return
    say(state, bus.Hello(instance=state.replicas.instance), elsewhere.node)
    elsewhere.question = state.agenda.at(state.after(ASK_NS), lambda: _ask_again(state, elsewhere))


def _ask_again(state: RoomState, elsewhere: Elsewhere) -> None:
    elsewhere.question = None
    if state.replicas.nodes.get(elsewhere.node) is elsewhere:
        state.counters["replication_asked_again"] += 1
        ask(state, elsewhere)


def is_complete(state: RoomState) -> bool:
    """Every other node has told its members: the picture a newcomer gets is whole."""
    return all(elsewhere.number >= 0 for elsewhere in state.replicas.nodes.values())


# ---------------------------------------------------------------------------------------------- members


def flush(state: RoomState) -> None:
    """At the end of a turn: what changed of our members."""
    replicas = state.replicas
    if not (replicas.touched or replicas.left):
        return
    here = [state.members.get(sid) for sid in replicas.touched]
    members = [_member(who, replicas.number + 1) for who in here if who is not None and _is_told(who)]
    left = tuple(replicas.left)
    replicas.touched.clear()
    replicas.left.clear()
    if members or left:
        replicas.number += 1
        word = bus.Change(instance=replicas.instance, number=replicas.number, members=tuple(members), left=left)
        say_to_all(state, word)
        enliven(state)


def snapshot(state: RoomState, elsewhere: Elsewhere) -> None:
    """Everything about our members, for one node."""
    replicas = state.replicas
    flush(state)
    here = [local.who for local in state.local_members()]
    word = bus.Snapshot(
        instance=replicas.instance,
        number=replicas.number,
        members=tuple(_member(who, replicas.number) for who in here if _is_told(who)),
        data_number=elsewhere.data_sent + 1,
    )
    say(state, word, elsewhere.node)


def _is_told(who: Participant) -> bool:
    return who.local is not None and who.info.state != JOINING


def _member(who: Participant, revision: int) -> bus.Member:
    return bus.Member(
        sid=who.sid,
        revision=revision,
        ticket=who.ticket,
        info=who.info.SerializeToString(),
        rule=None if who.rule is None else who.rule.SerializeToString(),
        tracks=tuple(_track(track) for track in who.tracks.values()),
    )


def _track(track: PublishedTrack) -> bus.TrackOffer:
    return bus.TrackOffer(sid=track.sid, codecs=tuple(_codec(receiver) for receiver in track.receivers))


def _codec(receiver: Receiver) -> bus.CodecOffer:
    payload = receiver.payload
    return bus.CodecOffer(
        mime_type=payload.mime_type,
        clock_hz=payload.clock_hz,
        channels=payload.channels,
        fmtp=payload.fmtp,
        feedback=tuple(payload.feedback),
        repair=bool(payload.rtx_pt),
        layers=receiver.layers,
        mid=receiver.mid,
    )


# ---------------------------------------------------------------------------------------------- digests


def enliven(state: RoomState) -> None:
    """Something happened: say soon where we stand, because the word of it may be lost."""
    state.replicas.lively_until = state.after(LIVELY_FOR_NS)
    digest = state.replicas.digest
    if digest is None or digest.due > state.now + LIVELY_NS:
        _schedule(state, LIVELY_NS)


def stay_awake(state: RoomState) -> None:
    if state.replicas.digest is None:
        _schedule(state, LIVELY_NS)


def _schedule(state: RoomState, delay_ns: int) -> None:
    if state.replicas.digest is not None:
        state.replicas.digest.cancel()
    due = state.after(delay_ns)
    # on the second: what many rooms of a node say then goes out together
    state.replicas.digest = state.agenda.at(Nanos(due - due % LIVELY_NS), lambda: _digest(state))


def _digest(state: RoomState) -> None:
    replicas = state.replicas
    replicas.digest = None
    if not replicas.nodes:
        return
    for elsewhere in replicas.nodes.values():
        word = bus.Digest(
            instance=replicas.instance,
            number=replicas.number,
            data_number=elsewhere.data_sent,
            wants_number=elsewhere.wants_told,
        )
        say(state, word, elsewhere.node)
        if state.now - elsewhere.heard_at > SILENT_NS:
            ask(state, elsewhere)
    state.relay.expire()
    _schedule(state, LIVELY_NS if state.now < replicas.lively_until else CALM_NS)


# ---------------------------------------------------------------------------------------------- data


def data(state: RoomState, packet: models.DataPacket, serialised: bytes, to: Addressed) -> None:
    """A packet of a member here (or of the API) for members elsewhere; addressed ones go where they must."""
    reliable = packet.kind == models.DataPacket.RELIABLE
    for elsewhere in _addressees(state, to):
        number = elsewhere.keep(state.now, serialised) if reliable else 0
        word = bus.Data(instance=state.replicas.instance, number=number, packet=serialised)
        say(state, word, elsewhere.node)
        if reliable:
            enliven(state)


def _addressees(state: RoomState, to: Addressed) -> list[Elsewhere]:
    nodes = state.replicas.nodes
    if not nodes or not (to.identities or to.sids):
        return list(nodes.values())
    named = [state.by_identity.get(identity) for identity in to.identities]
    named += [state.members.get(sid) for sid in to.sids]
    found = {member.node for member in named if member is not None and member.local is None}
    return [elsewhere for node, elsewhere in nodes.items() if node in found]


def repeat(state: RoomState, elsewhere: Elsewhere, first: int, last: int) -> None:
    """Say reliable packets again that did not arrive."""
    for sent in elsewhere.sent:
        if first <= sent.number <= last:
            state.counters["replication_repeated"] += 1
            word = bus.Data(instance=state.replicas.instance, number=sent.number, packet=sent.packet)
            say(state, word, elsewhere.node)


def data_track_packet(state: RoomState, track_sid: str, packet: bytes) -> None:
    """A packet of a member's data track, to nodes with subscribers."""
    for elsewhere in state.replicas.nodes.values():
        if track_sid in elsewhere.data_tracks:
            say(state, bus.DataTrackPacket(track_sid=track_sid, packet=packet), elsewhere.node)


# ---------------------------------------------------------------------------------------------- the rest


def scores(state: RoomState, scored: dict[str, float]) -> None:
    """How good our members' connections are: when it changed, and now and then, because a word may be lost."""
    replicas = state.replicas
    told = {sid: round(score) for sid, score in scored.items()}
    if not replicas.nodes or (told == replicas.scores_told and state.now < replicas.scores_due):
        return
    replicas.scores_told, replicas.scores_due = told, state.after(SCORES_NS)
    replicas.scores_number += 1
    say_to_all(state, bus.Quality(instance=replicas.instance, number=replicas.scores_number, scores=told))


def end(state: RoomState, reason: models.DisconnectReason) -> None:
    """This replica ends, or the room for everybody."""
    if reason == models.DisconnectReason.ROOM_DELETED:
        say_to_all(state, bus.Ended(reason=reason))
    else:
        say_to_all(state, bus.Goodbye(instance=state.replicas.instance))


def renew(state: RoomState) -> None:
    """We were gone for others: from now on this is another replica, unknown to everybody."""
    replicas = state.replicas
    replicas.instance = state.rng.getrandbits(52) + 1
    replicas.number = 0
    replicas.touched.clear()
    replicas.left.clear()
    for node in list(replicas.nodes):
        replicas.nodes[node].stop()
        replicas.nodes[node] = Elsewhere(node, heard_at=Nanos(state.now))
        ask(state, replicas.nodes[node])
