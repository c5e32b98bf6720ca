"""Room: the door of everything in this package. It dispatches what happens, and ends every turn in good order.

A turn is one `handle`, `wake` or `command`. At its end the condemned leave, wishes are negotiated, updates go out, and
the room looks whether anybody is left. Time, chance, plane and transports are given (`protocol.machine`).
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from random import Random
from typing import Any

from google.protobuf.message import Message
from livekit.protocol import models, room

from tertulia.protocol.ids import NodeId, RoomSid, TransportId
from tertulia.protocol.machine import SECOND, Nanos
from tertulia.protocol.tap import RoomGone, TapRoom
from tertulia.protocol.token import Claims
from tertulia.sfu import (
    calling,
    commands,
    delivering,
    downlink,
    joining,
    leaving,
    negotiating,
    publishing,
    replica,
    replication,
    requests,
    resuming,
)
from tertulia.sfu.agenda import Appointment
from tertulia.sfu.among import Among
from tertulia.sfu.bwe.channel import Snapshot
from tertulia.sfu.events import (
    Closed,
    Drain,
    FromNode,
    Join,
    NodeGone,
    NodesHere,
    OfPlane,
    OfTransport,
    PerformRpc,
    Renewed,
    Request,
    Resume,
    RoomInput,
    RoomOutput,
    SessionClosed,
)
from tertulia.sfu.participant import LocalParticipant, Peer
from tertulia.sfu.plane.api import Feedback, KeyFrame, Plane, Report, Rtcp, Switched, TransportSilent, UnboundSsrc
from tertulia.sfu.relay import Links, Shares
from tertulia.sfu.relaying import MediaRelay
from tertulia.sfu.rounds import Rounds
from tertulia.sfu.settings import CALM_UPDATES, REPLICA_IDLE_NS, RoomConfig
from tertulia.sfu.state import RoomState
from tertulia.sfu.tap import RoomTap
from tertulia.sfu.transport.api import (
    ChannelClosed,
    ChannelMessage,
    ChannelOpened,
    TransportConnected,
    TransportEvent,
    TransportFailed,
    TransportLost,
    Transports,
)

__all__ = ["Room", "RoomConfig"]

Reason = models.DisconnectReason


class Room:
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
        is_new: bool = True,
        links: Links | None = None,
    ) -> None:
        """`shared`: the room's record when there are other nodes, `is_new` if we made it, `links` the way to them."""
        self._state = RoomState(
            options,
            node_id=node_id,
            region=region,
            plane=plane,
            transports=transports,
            now=now,
            wall_offset_ns=wall_offset_ns,
            rng=rng,
            config=config,
            shared=shared,
        )
        if links is not None:
            self._state.relay = MediaRelay(self._state, links)
        self.among = Among(self._state)
        """What the cluster asks of this room."""
        self._rounds = Rounds(self._state)
        self._farewell: Appointment | None = None
        """The end of a room without members."""
        self._idle: Appointment | None = None
        """The end of a replica without members of this node."""
        self._was_joined = False
        self._calm: Appointment | None = None
        """The next batch of updates in a big room."""
        plane.set_audio_threshold(config.audio_active_level)
        if is_new:
            self._state.happened("room_started")
        self._end_turn()

    # ------------------------------------------------------------------------------------------ what it is

    @property
    def sid(self) -> RoomSid:
        return self._state.sid

    @property
    def counters(self) -> Counter[str]:
        """Everything that was refused, dropped or limited, by name."""
        return self._state.counters

    def info(self) -> models.Room:
        return self._state.info()

    def transports(self) -> list[TransportId]:
        """Peer connections it holds now."""
        return list(self._state.by_transport)

    def size(self) -> tuple[int, int]:
        """Members here, and tracks they publish."""
        sessions = self._state.sessions.values()
        return len(sessions), sum(len(local.who.tracks) for local in sessions)

    def figures(self) -> Mapping[str, int]:
        """Gauges for metrics: members here, published and subscribed tracks by kind."""
        state = self._state
        here = {local.sid for local in state.sessions.values()}
        figures = Counter({"participants": len(here), "members": len(state.members)})
        figures["relay_rows"] = state.relay.rows()
        for track in state.tracks.values():
            kind = "video" if track.is_video else "audio"
            figures[f"published_{kind}"] += track.publisher_sid in here
            figures[f"subscribed_{kind}"] += len(track.subscriptions)
        return figures

    def losses(self) -> Iterator[tuple[str, str, int, int, int]]:
        """Each living stream's direction, kind, plane handle, packets lost (after repair) and packets that came."""
        state = self._state
        for track in state.tracks.values():
            kind = "video" if track.is_video else "audio"
            for receiver in track.receivers:
                for stream in receiver.streams.values():
                    if (up := state.plane.up_stats(stream.up)) is not None:
                        yield "incoming", kind, stream.up, max(0, up.lost), up.packets
        for handle, wish in state.downs.items():
            if (down := state.plane.down_stats(handle)) is not None:
                kind = "video" if wish.track.is_video else "audio"
                yield "outgoing", kind, handle, max(0, down.lost), down.packets

    def downlinks(self) -> Mapping[str, Snapshot]:
        """What each member's way down carries, and why it gets the layers it gets; by identity."""
        return downlink.snapshots(self._state)

    # ------------------------------------------------------------------------------------------ calls

    def admit(self, claims: Claims) -> None:
        """Raises RequestError when the room cannot take this member now; changes nothing."""
        joining.admit(self._state, claims)

    def command(self, now: Nanos, method: str, request: Message) -> Message:
        """One RoomService method on this room; RequestError with LiveKit's code and text."""
        self._state.now = now
        try:
            return commands.run(self._state, method, request)
        finally:
            self._end_turn()

    def tap(self) -> TapRoom:
        """A view for one egress job."""
        return RoomTap(self._state)

    def set_recording(self, now: Nanos, active: bool) -> None:
        """Egress records this room (or not any more): clients show it."""
        self._state.now = now
        self._state.set_recording(active)
        self._end_turn()

    def shut_down(self, now: Nanos) -> None:
        """The node stops: clients may come back to another one."""
        self._state.now = now
        self._state.closing = Reason.SERVER_SHUTDOWN
        self._end_turn()

    def limit_relay(self, now: Nanos, node: NodeId, shares: Shares | None) -> None:
        self._state.now = now
        self._state.relay.limit(node, shares)
        self._end_turn()

    def give_up(self, now: Nanos) -> None:
        """Another room of this name is the real one: members come back into that."""
        self._state.now = now
        leaving.drain(self._state)
        self._state.closing = Reason.STATE_MISMATCH
        self._end_turn()

    # ------------------------------------------------------------------------------------------ the four verbs

    def handle(self, now: Nanos, event: RoomInput) -> None:
        if self._state.is_closed:
            return
        self._state.now = now
        HANDLERS[type(event)](self, event)
        self._end_turn()

    def wake(self, now: Nanos) -> None:
        if self._state.is_closed:
            return
        self._state.now = now
        self._state.agenda.run(now)
        self._end_turn()

    def next_wake(self) -> Nanos | None:
        return None if self._state.is_closed else self._state.agenda.next_due()

    def poll(self) -> RoomOutput | None:
        outputs = self._state.outputs
        return outputs.popleft() if outputs else None

    # ------------------------------------------------------------------------------------------ transports and plane

    def _on_transport(self, event: OfTransport) -> None:
        local = self._state.by_transport.get(event.transport)
        if local is None:
            self.counters["transport_event_late"] += 1
            return
        peer = local.up if local.up.transport == event.transport else local.down
        self._of_peer(local, peer, event.event)

    def _of_peer(self, local: LocalParticipant, peer: Peer, event: TransportEvent) -> None:
        match event:
            case ChannelMessage(label, data):
                delivering.on_message(self._state, local, label, data)
            case ChannelOpened(label):
                delivering.channel_opened(self._state, local, peer, label)
            case ChannelClosed(label):
                delivering.channel_closed(peer, label)
            case TransportConnected():
                peer.is_connected, peer.is_lost = True, False
                if peer is local.primary:
                    joining.connected(self._state, local)
            case TransportLost():
                peer.is_lost = True
                if peer is local.primary and local.session is None:
                    leaving.await_return(self._state, local)
            case TransportFailed(reason):
                leaving.connection_failed(self._state, local, reason)
            case _:  # restored
                peer.is_lost = False
                leaving.returned(local)

    def _on_reports(self, reports: Sequence[Report]) -> None:
        for report in reports:
            self._on_report(report)

    def _on_report(self, report: Report) -> None:
        match report:
            case UnboundSsrc():
                local = self._state.by_transport.get(report.transport)
                if local is not None:
                    publishing.on_unbound(self._state, local, report)
            case Switched(down, layer):
                if (wish := self._state.downs.get(down)) is not None:
                    wish.forwarder.forwarded = layer
            case KeyFrame(up):
                publishing.layer_seen(self._state, up)
            case TransportSilent(transport, reason):
                if (local := self._state.by_transport.get(transport)) is not None:
                    leaving.connection_failed(self._state, local, reason)
            case Feedback():
                downlink.on_feedback(self._state, report)
            case Rtcp():
                self.counters["report_unused"] += 1
            case _:
                self.counters["report_unexpected"] += 1

    # ------------------------------------------------------------------------------------------ end of a turn

    def _end_turn(self) -> None:
        state = self._state
        if state.is_closed:
            return
        while state.condemned:
            one = state.condemned.pop(0)
            leaving.remove(state, one.who, one.reason, one.action)
        if state.closing is not None:
            self._close(state.closing)
            return
        self._flush_updates()
        for local in list(state.renegotiations.values()):
            negotiating.speak(state, local)
        state.renegotiations.clear()
        replication.flush(state)
        state.relay.flush()
        self._rounds.ensure()
        self._watch_emptiness()

    def _flush_updates(self) -> None:
        """At once, or in batches when listeners come and go in a room that is not small (E.15)."""
        state = self._state
        if not state.updates.is_waiting:
            return
        wait_ns = 0 if state.updates.is_urgent else _calm_ns(len(state.sessions))
        if not wait_ns:
            self._send_updates()
        elif self._calm is None:
            self._calm = state.agenda.at(state.after(wait_ns), self._send_updates)

    def _send_updates(self) -> None:
        state = self._state
        if self._calm is not None:
            self._calm.cancel()
            self._calm = None
        digest = state.updates.take()
        for local in state.sessions.values():
            for message in digest.messages_for(local.who):
                state.send(local, message)

    def _watch_emptiness(self) -> None:
        """Nobody but agents and egress: the room ends after its timeout (LiveKit: 300 s unjoined, 20 s left)."""
        state = self._state
        occupied = any(not member.is_dependent for member in state.members.values())
        self._was_joined |= occupied
        if occupied and self._farewell is not None:
            self._farewell.cancel()
            self._farewell = None
        elif not occupied and self._farewell is None:
            seconds = state.room.departure_timeout if self._was_joined else state.room.empty_timeout
            self._farewell = state.agenda.at(state.after(seconds * SECOND), self._expire)
        self._watch_idleness()

    def _watch_idleness(self) -> None:
        """With members on other nodes only, this node gives its replica up after a while."""
        state = self._state
        idle = bool(state.replicas.nodes) and not state.local_members() and not state.taps.views
        if not idle and self._idle is not None:
            self._idle.cancel()
            self._idle = None
        elif idle and self._idle is None:
            self._idle = state.agenda.at(state.after(REPLICA_IDLE_NS), self._expire)

    def _expire(self) -> None:
        self._state.closing = Reason.ROOM_CLOSED

    def _close(self, reason: Reason) -> None:
        state = self._state
        for member in list(state.members.values()):
            leaving.remove(state, member, reason)
        state.taps.tell(RoomGone(reason))
        state.happened("room_finished")
        replication.flush(state)
        replication.end(state, reason)
        state.agenda.clear()
        state.is_closed = True
        state.emit(Closed(reason))


def _calm_ns(members: int) -> int:
    """How long what listeners do may wait."""
    return next((wait_ns for least, wait_ns in CALM_UPDATES if members >= least), 0)


HANDLERS: Mapping[type[RoomInput], Callable[[Room, Any], None]] = {
    Join: lambda self, event: joining.join(self._state, event),
    Resume: lambda self, event: resuming.resume(self._state, event),
    Request: lambda self, event: requests.on_request(self._state, event),
    PerformRpc: lambda self, event: calling.perform(self._state, event),
    SessionClosed: lambda self, event: leaving.session_closed(self._state, event.session),
    OfTransport: Room._on_transport,
    OfPlane: lambda self, event: self._on_reports(event.reports),
    FromNode: lambda self, event: replica.heard(self._state, event.node, event.data),
    NodeGone: lambda self, event: replica.node_gone(self._state, event.node),
    NodesHere: lambda self, event: replica.nodes_here(self._state, event.nodes),
    Renewed: lambda self, event: commands.renew(self._state, event.room),
    Drain: lambda self, event: leaving.drain(self._state),
}
