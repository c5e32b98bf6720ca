"""Who gets a data packet: the others, or those it names; now, or when their channel opens.

Streams, RPC, chat and transcriptions are only forwarded (wire contract 4.2-4.6). Packets of and for members of other
nodes travel through `replication`.
"""

from livekit.protocol import models

from tertulia.protocol.errors import PeerError
from tertulia.sfu import data_tracks, replication, rpc
from tertulia.sfu.data import DATA_TRACK, LOSSY, RELIABLE, Addressed, Kept, destinations, parse_packet, stamp_sender
from tertulia.sfu.participant import LocalParticipant, Participant, Peer
from tertulia.sfu.settings import LOSSY_BUFFER_BYTES, WAITING_DATA_BYTES
from tertulia.sfu.state import RoomState

# ------------------------------------------------------------------------------------------ channels


def channel_opened(state: RoomState, local: LocalParticipant, peer: Peer, label: str) -> None:
    peer.channels.add(label)
    if label == RELIABLE and peer is local.data_peer:
        _flush(state, local)


def channel_closed(peer: Peer, label: str) -> None:
    peer.channels.discard(label)


def on_message(state: RoomState, local: LocalParticipant, label: str, data: bytes) -> None:
    """A message of a client's channel."""
    if label == DATA_TRACK:
        data_tracks.on_packet(state, local, data)
        return
    if label not in (RELIABLE, LOSSY):
        state.counters["data_unknown_channel"] += 1
        return
    if not local.data_packets.allow(state.now):
        state.counters["limit_data_rate"] += 1
        return
    try:
        packet = parse_packet(data)
    except PeerError as error:
        state.counters[str(error)] += 1
        return
    problem = _problem(state, local, label, packet)
    if problem:
        state.counters[problem] += 1
        return
    if rpc.consume(state, local, packet):
        return
    stamp_sender(packet, label, local.who.info)
    state.counters[f"data_{label[1:]}"] += 1
    send(state, packet, sender=local.who)


def _problem(state: RoomState, local: LocalParticipant, label: str, packet: models.DataPacket) -> str:
    """Why this packet is not forwarded; empty when it is."""
    info = local.who.info
    value = packet.WhichOneof("value")
    if label == RELIABLE and packet.sequence:
        if packet.sequence <= local.last_sequence:
            return "data_duplicate"
        local.last_sequence = packet.sequence
    if value == "user" and state.data.is_repeated(packet.user.nonce):
        return "data_duplicate"
    if value == "metrics":
        return ""  # about the own connection: needs no permission
    if not info.permission.can_publish_data:
        return "data_not_allowed"
    if value == "transcription" and info.kind != models.ParticipantInfo.AGENT:
        return "data_not_allowed"
    if value == "speaker":
        return "data_not_allowed"  # only the server says who speaks
    return ""


# ------------------------------------------------------------------------------------------ out


def send(state: RoomState, packet: models.DataPacket, *, sender: Participant | None) -> None:
    """To everybody it is for, on this node and on others. `sender` None: the server itself."""
    to = destinations(packet)
    data = packet.SerializeToString()
    deliver(state, packet, data, to, sender)
    replication.data(state, packet, data, to)


def deliver(
    state: RoomState, packet: models.DataPacket, data: bytes, to: Addressed, sender: Participant | None
) -> None:
    """To the members of this node."""
    label = RELIABLE if packet.kind == models.DataPacket.RELIABLE else LOSSY
    sender_sid = sender.sid if sender is not None else ""
    if label == RELIABLE and packet.sequence and sender is not None:
        state.data.keep(Kept(state.now, sender_sid, packet.sequence, to, data))
    metrics_only = packet.WhichOneof("value") == "metrics"
    for local in _receivers(state, to):
        if local.sid == sender_sid or (metrics_only and not local.who.info.permission.can_subscribe_metrics):
            continue
        if label == RELIABLE:
            _send_reliable(state, local, data)
        else:
            _send_lossy(state, local, data)


def _receivers(state: RoomState, to: Addressed) -> list[LocalParticipant]:
    """Addressed packets (RPC, mostly) do not walk over the whole room."""
    if not (to.identities or to.sids):
        return state.local_members()
    named = [state.by_identity.get(identity) for identity in to.identities]
    named += [state.members.get(sid) for sid in to.sids]
    unique = {member.sid: member.local for member in named if member is not None}
    return [local for local in unique.values() if local is not None]


def _send_reliable(state: RoomState, local: LocalParticipant, data: bytes) -> None:
    """A channel that is not open yet (somebody is just joining) gets it when it opens (E.14)."""
    if RELIABLE not in local.data_peer.channels:
        if local.waiting_data_bytes + len(data) > WAITING_DATA_BYTES:
            state.counters["limit_data_waiting"] += 1
            return
        local.waiting_data.append(data)
        local.waiting_data_bytes += len(data)
    elif not state.transports.send(local.data_peer.transport, RELIABLE, data):
        state.counters["data_reliable_dropped"] += 1


def _send_lossy(state: RoomState, local: LocalParticipant, data: bytes) -> None:
    transport = local.data_peer.transport
    if LOSSY not in local.data_peer.channels:
        state.counters["data_lossy_not_open"] += 1
        return
    has_room = state.transports.buffered_bytes(transport, LOSSY) <= LOSSY_BUFFER_BYTES
    if not (has_room and state.transports.send(transport, LOSSY, data)):
        state.counters["data_lossy_dropped"] += 1


def _flush(state: RoomState, local: LocalParticipant) -> None:
    waiting = list(local.waiting_data)
    local.waiting_data.clear()
    local.waiting_data_bytes = 0
    for data in waiting:
        _send_reliable(state, local, data)


def send_to(state: RoomState, local: LocalParticipant, packet: models.DataPacket) -> None:
    """A reliable packet of the server for one member."""
    _send_reliable(state, local, packet.SerializeToString())


def replay(state: RoomState, local: LocalParticipant, received: dict[str, int]) -> None:
    """What a resumed member missed (wire contract 4.3)."""
    who = local.who
    for data in state.data.missed(received, who.identity, who.sid):
        state.counters["data_replayed"] += 1
        _send_reliable(state, local, data)
