"""Media of remote members: fetched from their node with the first wish here, given up with the last.

This node picks the SSRCs and says which layers its members are to be shown (`bus.Wants`); a digest tells their number,
because a word may be lost.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from tertulia.protocol import bus
from tertulia.protocol.ids import NodeId, TransportId
from tertulia.sfu import replication, subscribing
from tertulia.sfu.media.receiver import Receiver
from tertulia.sfu.negotiation import Payload, PublishedSection
from tertulia.sfu.publication import PublishedTrack
from tertulia.sfu.relay import Links
from tertulia.sfu.settings import MAX_LAYERS
from tertulia.sfu.state import RoomState

PAYLOAD_TYPE, RTX_PAYLOAD_TYPE = 96, 97
"""On a link streams are told apart by SSRC alone."""
MAX_CODECS = 4

Wishes = tuple[tuple[bus.Want, ...], tuple[str, ...]]
"""Media and data tracks."""
NO_WISHES: Wishes = ((), ())


@dataclass
class Fetched:
    """One remote track with receivers here."""

    track: PublishedTrack
    node: NodeId
    transport: TransportId


class Fetching:
    """The viewers' side of a room's relay."""

    def __init__(self, state: RoomState, links: Links) -> None:
        self._state = state
        self._links = links
        self._fetched: dict[str, Fetched] = {}
        self._due: set[NodeId] = set()
        self._told: dict[NodeId, Wishes] = {}

    def want(self, track: PublishedTrack) -> None:
        publisher = self._state.members.get(track.publisher_sid)
        if publisher is None or publisher.local is not None or not track.offers or track.sid in self._fetched:
            return
        fetched = Fetched(track, publisher.node, self._links.open(publisher.node))
        self._fetched[track.sid] = fetched
        self._attach(fetched)
        self._due.add(fetched.node)
        subscribing.track_ready(self._state, track)

    def _attach(self, fetched: Fetched) -> None:
        """A receiver for every codec that is offered and has none."""
        track = fetched.track
        for offer in track.offers[:MAX_CODECS]:
            if track.receiver_for(offer.mime_type) is None:
                receiver = self._receiver(fetched, offer)
                track.receivers.append(receiver)
                for stream in receiver.streams.values():
                    self._state.tracks_by_up[stream.up] = track
                if track.info.muted:
                    self._state.plane.set_track_enabled(receiver.plane_track, False)

    def _receiver(self, fetched: Fetched, offer: bus.CodecOffer) -> Receiver:
        state = self._state
        layers = max(1, min(offer.layers, MAX_LAYERS))
        ssrcs = tuple(state.rng.randrange(1, 1 << 32) for _ in range(2 * layers))
        payload = Payload(
            pt=PAYLOAD_TYPE,
            mime_type=offer.mime_type,
            clock_hz=offer.clock_hz,
            channels=offer.channels,
            fmtp=offer.fmtp,
            rtx_pt=RTX_PAYLOAD_TYPE,
            feedback=("nack", "nack pli", "transport-cc"),
        )
        section = PublishedSection(
            mid=offer.mid,
            kind="video" if fetched.track.is_video else "audio",
            stream_id="",
            cid="",
            rids=(),
            payloads=(payload,),
            ssrcs=ssrcs[:layers],
            rtx_ssrcs=dict(zip(ssrcs[:layers], ssrcs[layers:], strict=True)),
        )
        return Receiver(state.plane, fetched.transport, section, payload, screen=fetched.track.is_screen)

    def unwant(self, track: PublishedTrack) -> None:
        if track.sid in self._fetched and not track.subscriptions and not self._state.taps.has(track):
            self._give_up(track)

    def _give_up(self, track: PublishedTrack) -> None:
        fetched = self._fetched.pop(track.sid)
        for receiver in list(track.receivers):
            self._drop(track, receiver)
        self._due.add(fetched.node)

    def _drop(self, track: PublishedTrack, receiver: Receiver) -> None:
        for stream in receiver.streams.values():
            self._state.tracks_by_up.pop(stream.up, None)
        track.receivers.remove(receiver)
        subscribing.receiver_gone(self._state, track, receiver)
        receiver.close()

    def review(self, track: PublishedTrack) -> None:
        if (fetched := self._fetched.get(track.sid)) is not None:
            self._due.add(fetched.node)
            self.unwant(track)

    def offers_changed(self, track: PublishedTrack) -> None:
        fetched = self._fetched.get(track.sid)
        if fetched is None:
            return
        offered = {offer.mime_type.lower() for offer in track.offers}
        for receiver in [receiver for receiver in track.receivers if receiver.mime_type.lower() not in offered]:
            self._drop(track, receiver)
        self._attach(fetched)
        self._due.add(fetched.node)

    def track_gone(self, track: PublishedTrack) -> None:
        if track.sid in self._fetched:
            self._give_up(track)

    def flush(self) -> None:
        """Tell each node what changed of our wishes."""
        due, self._due = self._due, set()
        for node in sorted(due):
            wishes = tuple(self._wants(node)), self._data_wants(node)
            if wishes != self._told.get(node, NO_WISHES):
                self._say(node, wishes)
                replication.enliven(self._state)

    def remind(self, node: NodeId) -> None:
        if (wishes := self._told.get(node)) is not None:
            self._say(node, wishes)

    def _say(self, node: NodeId, wishes: Wishes) -> None:
        state = self._state
        elsewhere = state.replicas.nodes.get(node)
        if elsewhere is None:
            self._told.pop(node, None)
            return
        wants, data_tracks = wishes
        for want in wants:
            self._expect(want)
        self._told[node] = wishes
        state.replicas.wants_number += 1
        elsewhere.wants_told = state.replicas.wants_number
        word = bus.Wants(
            instance=state.replicas.instance,
            number=state.replicas.wants_number,
            wants=wants,
            data_tracks=data_tracks,
        )
        replication.say(state, word, node)

    def _data_wants(self, node: NodeId) -> tuple[str, ...]:
        """Data tracks of that node's members that somebody here is subscribed to."""
        members = self._state.members
        return tuple(
            sid
            for sid, track in sorted(self._state.data_tracks.items())
            if track.subscribers and (who := members.get(track.publisher_sid)) is not None and who.node == node
        )

    def data_tracks_changed(self) -> None:
        """Somebody here subscribed to a data track of elsewhere, or does not want it any more."""
        self._due.update(self._state.replicas.nodes)

    def _expect(self, want: bus.Want) -> None:
        """A layer that is fetched again: its past silence is no reason for distrust."""
        fetched = self._fetched.get(want.track_sid)
        receiver = fetched.track.receiver_for(want.mime_type) if fetched is not None else None
        if receiver is not None:
            receiver.tracker.expect(want.layers)

    def _wants(self, node: NodeId) -> Iterator[bus.Want]:
        for fetched in self._fetched.values():
            if fetched.node == node:
                for receiver in fetched.track.receivers:
                    yield self._want(fetched.track, receiver)

    def _want(self, track: PublishedTrack, receiver: Receiver) -> bus.Want:
        heights = track.heights(receiver.layers)
        layers = {
            wish.forwarder.wanted_layer(receiver.layers, heights)
            for wish in track.subscriptions.values()
            if wish.receiver is receiver
        }
        layers.update(layer for tapped, layer in self._state.taps.wanted(track) if tapped is receiver)
        streams = (receiver.streams[layer] for layer in sorted(receiver.streams))
        return bus.Want(
            track_sid=track.sid,
            mime_type=receiver.mime_type,
            streams=tuple(bus.Stream(ssrc=stream.ssrc, rtx_ssrc=stream.rtx_ssrc) for stream in streams),
            layers=tuple(sorted(layer for layer in layers if layer >= 0)),
            payload_type=PAYLOAD_TYPE,
            rtx_payload_type=RTX_PAYLOAD_TYPE,
        )

    def node_gone(self, node: NodeId) -> None:
        self._told.pop(node, None)
