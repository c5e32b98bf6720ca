"""Data packets of other nodes: reliable ones in order and once; what is missing is asked for, and skipped at last."""

from livekit.protocol import models

from tertulia.protocol import bus
from tertulia.protocol.ids import NodeId
from tertulia.sfu import data_tracks, delivering, replication
from tertulia.sfu.data import destinations
from tertulia.sfu.replicas import ASK_NS, GIVE_UP_NS, WAITING_PACKETS, Elsewhere
from tertulia.sfu.state import RoomState


def known(state: RoomState, node: NodeId, instance: int) -> Elsewhere | None:
    """The speaker, if this is the replica we know of it; else it is asked who it is."""
    elsewhere = replication.meet(state, node)
    elsewhere.heard_at = state.now
    if elsewhere.instance == instance:
        return elsewhere
    replication.ask(state, elsewhere)
    return None


def on_data(state: RoomState, node: NodeId, word: bus.Data) -> None:
    elsewhere = known(state, node, word.instance)
    if elsewhere is None:
        return
    if word.number == 0:
        _deliver(state, word.packet)
    elif elsewhere.data_next and word.number < elsewhere.data_next:
        state.counters["replication_data_repeated"] += 1
    elif len(elsewhere.waiting) >= WAITING_PACKETS and word.number != elsewhere.data_next:
        state.counters["limit_replication_data"] += 1
    else:
        elsewhere.waiting[word.number] = word.packet
        drain(state, elsewhere)


def drain(state: RoomState, elsewhere: Elsewhere) -> None:
    """Deliver what is in order; wait for what is missing before the rest."""
    while elsewhere.data_next and elsewhere.data_next in elsewhere.waiting:
        packet = elsewhere.waiting.pop(elsewhere.data_next)
        elsewhere.data_next += 1
        _deliver(state, packet)
    if not elsewhere.waiting:
        _stop_waiting(elsewhere)
    elif elsewhere.data_next:
        await_missing(state, elsewhere, max(elsewhere.waiting))


def _stop_waiting(elsewhere: Elsewhere) -> None:
    if elsewhere.patience is not None:
        elsewhere.patience.cancel()
        elsewhere.patience = None


def await_missing(state: RoomState, elsewhere: Elsewhere, newest: int) -> None:
    """Ask for packets that did not come; after a while go on without them."""
    if elsewhere.patience is not None:
        return
    elsewhere.skip_at = state.after(GIVE_UP_NS)
    _ask_data(state, elsewhere, newest)


def _ask_data(state: RoomState, elsewhere: Elsewhere, newest: int) -> None:
    last = min(elsewhere.waiting, default=newest + 1) - 1
    word = bus.Repeat(instance=elsewhere.instance, first=elsewhere.data_next, last=last)
    replication.say(state, word, elsewhere.node)
    elsewhere.patience = state.agenda.at(state.after(ASK_NS), lambda: _still_missing(state, elsewhere, newest))


def _still_missing(state: RoomState, elsewhere: Elsewhere, newest: int) -> None:
    elsewhere.patience = None
    if state.replicas.nodes.get(elsewhere.node) is not elsewhere:
        return
    newest = max([newest, *elsewhere.waiting])
    if elsewhere.data_next > newest:
        return
    if state.now >= elsewhere.skip_at:
        state.counters["replication_data_lost"] += 1
        elsewhere.data_next = min(elsewhere.waiting, default=newest + 1)
        drain(state, elsewhere)
    else:
        _ask_data(state, elsewhere, newest)


def on_repeat(state: RoomState, node: NodeId, word: bus.Repeat) -> None:
    elsewhere = state.replicas.nodes.get(node)
    if elsewhere is not None and word.instance == state.replicas.instance:
        replication.repeat(state, elsewhere, word.first, word.last)


def _deliver(state: RoomState, serialised: bytes) -> None:
    packet = models.DataPacket.FromString(serialised)
    sender = state.members.get(packet.participant_sid)
    delivering.deliver(state, packet, serialised, destinations(packet), sender)


def on_track_packet(state: RoomState, node: NodeId, word: bus.DataTrackPacket) -> None:
    data_tracks.distribute(state, word.track_sid, word.packet)
