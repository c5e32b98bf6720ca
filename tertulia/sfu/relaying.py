"""Media between nodes: fetched from the publisher's node with the first wish here, given up with the last.

The viewers' node picks SSRCs and says which layers its members are to be shown; the publisher's node adds one raw row
per codec and layer towards it: one copy, however many viewers. Repair, key frames and congestion feedback go hop by
hop through the plane. A layer that is not needed any more lingers, because its viewers switch at a key frame.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from tertulia.protocol import bus
from tertulia.protocol.ids import NodeId, TransportId
from tertulia.protocol.machine import SECOND, Nanos
from tertulia.sfu import dynacast, replication, subscribing, telling
from tertulia.sfu.agenda import Appointment
from tertulia.sfu.bwe.allocator import CAMERA_PRIORITY, SCREEN_PRIORITY, Demand
from tertulia.sfu.downlink import layer_bps
from tertulia.sfu.media.receiver import Receiver
from tertulia.sfu.negotiation import Payload, PublishedSection
from tertulia.sfu.publication import PublishedTrack
from tertulia.sfu.relay import Links, Shares
from tertulia.sfu.settings import MAX_LAYERS
from tertulia.sfu.state import RoomState

PAYLOAD_TYPE, RTX_PAYLOAD_TYPE = 96, 97
"""On a link streams are told apart by SSRC alone."""
LINGER_NS = 2 * SECOND
CUT_LINGER_NS = SECOND // 4
"""The same on a link that is too thin: long enough for a key frame that is on its way."""
EXPIRE_NS = 30 * SECOND
"""Wishes that are not repeated end after this: their node is deaf or forgot us."""
MAX_WANTS = 5000
"""Wishes of one node."""
MAX_CODECS = 4

Wishes = tuple[tuple[bus.Want, ...], tuple[str, ...]]
"""Media and data tracks."""
NO_WISHES: Wishes = ((), ())


@dataclass
class Row:
    """One layer on its way to another node."""

    down: int
    ssrc: int
    lingers: Appointment | None = None


@dataclass
class Given:
    """One codec of a track of ours, as another node wants it."""

    want: bus.Want
    receiver: Receiver
    rows: dict[int, Row] = field(default_factory=dict)
    """By layer."""


@dataclass
class Fetched:
    """One remote track with receivers here."""

    track: PublishedTrack
    node: NodeId
    transport: TransportId


class MediaRelay:
    """`Relay` of one room."""

    def __init__(self, state: RoomState, links: Links) -> None:
        self._state = state
        self._links = links
        self._fetched: dict[str, Fetched] = {}
        self._given: dict[NodeId, dict[tuple[str, str], Given]] = {}
        """By track sid and mime type."""
        self._heard_at: dict[NodeId, Nanos] = {}
        self._shares: dict[NodeId, Shares] = {}
        """What thin links let through."""
        self._due: set[NodeId] = set()
        self._told: dict[NodeId, Wishes] = {}

    # ------------------------------------------------------------------------------------------ fetching

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
        for given in self._given.values():
            for key in [key for key in given if key[0] == track.sid]:
                self._withdraw(given.pop(key))

    def flush(self) -> None:
        """Tell each node what changed of our wishes."""
        due, self._due = self._due, set()
        for node in sorted(due):
            wishes = tuple(self._wants(node)), self._data_wants(node)
            if wishes != self._told.get(node, NO_WISHES):
                self._say(node, wishes)
                replication.enliven(self._state)

    def remind(self) -> None:
        for node, wishes in list(self._told.items()):
            self._say(node, wishes)
        self._expire()

    def _say(self, node: NodeId, wishes: Wishes) -> None:
        state = self._state
        if node not in state.replicas.nodes:
            self._told.pop(node, None)
            return
        wants, data_tracks = wishes
        for want in wants:
            self._expect(want)
        self._told[node] = wishes
        state.replicas.wants_number += 1
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

    # ------------------------------------------------------------------------------------------ giving

    def wanted_by(self, node: NodeId, wants: tuple[bus.Want, ...]) -> None:
        self._heard_at[node] = self._state.now
        if len(wants) > MAX_WANTS:
            self._state.counters["limit_relay_wants"] += 1
            wants = wants[:MAX_WANTS]
        given = self._given.setdefault(node, {})
        wanted = {(want.track_sid, want.mime_type.lower()): want for want in wants}
        touched: dict[str, None] = {}
        for key in [key for key in given if key not in wanted]:
            touched[key[0]] = None
            self._withdraw(given.pop(key))
        for key, want in wanted.items():
            if self._take(node, given, key, want):
                touched[key[0]] = None
        for sid in touched:
            if (track := self._state.tracks.get(sid)) is not None:
                dynacast.review(self._state, track)

    def _take(self, node: NodeId, given: dict[tuple[str, str], Given], key: tuple[str, str], want: bus.Want) -> bool:
        """One wish, new or changed. False: nothing new, or no such track (any more)."""
        state = self._state
        track = state.tracks.get(key[0])
        publisher = state.members.get(track.publisher_sid) if track is not None else None
        receiver = track.receiver_for(want.mime_type) if track is not None else None
        if track is None or receiver is None or publisher is None or publisher.local is None:
            state.counters["relay_want_unknown"] += 1
            return False
        known = given.get(key)
        if known is not None and known.want == want and known.receiver is receiver:
            return False
        if known is None or known.receiver is not receiver or known.want.streams != want.streams:
            if known is not None:
                self._withdraw(known)
            given[key] = known = Given(want, receiver)
        known.want = want
        self._align(node, track, known)
        telling.first_subscriber(state, track)
        return True

    def _align(self, node: NodeId, track: PublishedTrack, given: Given, linger_ns: int = LINGER_NS) -> None:
        """Rows for the layers that serve the wish best now."""
        live = given.receiver.tracker.live
        shares = self._shares.get(node)
        allowed = (layer if shares is None else shares.get(_key(given, layer), layer) for layer in given.want.layers)
        needed = {_serving(layer, live) for layer in allowed if layer >= 0}
        for layer in sorted(needed):
            if layer < len(given.want.streams):
                self._row(node, given, layer)
        for layer, row in given.rows.items():
            if layer not in needed and row.lingers is None:
                self._linger(given, layer, row, linger_ns)

    def _linger(self, given: Given, layer: int, row: Row, linger_ns: int) -> None:
        row.lingers = self._state.agenda.at(self._state.after(linger_ns), lambda: self._end_row(given, layer))

    def _row(self, node: NodeId, given: Given, layer: int) -> None:
        state, row = self._state, given.rows.get(layer)
        if row is not None:
            if row.lingers is not None:
                row.lingers.cancel()
                row.lingers = None
                state.plane.request_key_frame(given.receiver.plane_track, layer)
            return
        stream = given.want.streams[layer]
        down = state.plane.add_down(
            given.receiver.plane_track,
            self._links.open(node),
            stream.ssrc,
            payload_type=given.want.payload_type,
            rtx_ssrc=stream.rtx_ssrc,
            rtx_payload_type=given.want.rtx_payload_type,
            raw=True,
        )
        given.rows[layer] = Row(down, stream.ssrc)
        state.plane.set_target(down, layer)
        state.counters["relay_rows"] += 1

    def _end_row(self, given: Given, layer: int) -> None:
        row = given.rows.pop(layer, None)
        if row is not None:
            self._state.plane.remove_down(row.down)

    def _withdraw(self, given: Given) -> None:
        for layer, row in list(given.rows.items()):
            if row.lingers is not None:
                row.lingers.cancel()
            self._end_row(given, layer)

    def layers_changed(self, track: PublishedTrack) -> None:
        for node, given in self._given.items():
            for (sid, _), one in given.items():
                if sid == track.sid:
                    self._align(node, track, one)

    def wanted(self, track: PublishedTrack) -> Iterator[tuple[Receiver, int]]:
        for given in self._given.values():
            for (sid, _), one in given.items():
                if sid == track.sid:
                    yield one.receiver, max(one.want.layers, default=-1)

    # ------------------------------------------------------------------------------------------ thin links

    def demands(self, node: NodeId, shares: Shares) -> list[Demand]:
        """Video another node wants of us: one for each layer, with the rates of those that live."""
        found = []
        for (sid, _), given in self._given.get(node, {}).items():
            track = self._state.tracks[sid]
            if not track.is_video or track.info.muted:
                continue
            live = given.receiver.tracker.live
            for wanted in given.want.layers:
                possible = sorted(layer for layer in live if layer <= wanted) or [min(live, default=wanted)]
                rates = tuple((layer, layer_bps(track, given.receiver, layer)) for layer in possible)
                key = _key(given, wanted)
                priority = SCREEN_PRIORITY if track.is_screen else CAMERA_PRIORITY
                found.append(Demand(key, rates, shares.get(key, -1), priority, pausable=False))
        return found

    def audio_bps(self, node: NodeId) -> int:
        given = self._given.get(node, {}).items()
        tracks = [one for (sid, _), one in given if not self._state.tracks[sid].is_video]
        return int(sum(stream.bps for one in tracks for stream in one.receiver.streams.values()))

    def limit(self, node: NodeId, shares: Shares | None) -> None:
        """The link's division: the highest layer of each demand that may cross."""
        if shares is None:
            self._shares.pop(node, None)
        else:
            self._shares[node] = shares
        for (sid, _), given in self._given.get(node, {}).items():
            self._align(node, self._state.tracks[sid], given, CUT_LINGER_NS)

    # ------------------------------------------------------------------------------------------ ends

    def node_gone(self, node: NodeId) -> None:
        given = self._given.pop(node, {})
        self._heard_at.pop(node, None)
        self._shares.pop(node, None)
        self._told.pop(node, None)
        for one in given.values():
            self._withdraw(one)
        for sid in dict.fromkeys(key[0] for key in given):
            if (track := self._state.tracks.get(sid)) is not None:
                dynacast.review(self._state, track)

    def _expire(self) -> None:
        now = self._state.now
        for node in [node for node, at in self._heard_at.items() if now - at > EXPIRE_NS and self._given.get(node)]:
            self._state.counters["relay_wants_expired"] += 1
            self.wanted_by(node, ())


def _key(given: Given, layer: int) -> str:
    return f"{given.want.track_sid}/{given.want.mime_type}/{layer}"


def _serving(wanted: int, live: set[int]) -> int:
    """The wanted layer or the best living one below it, else the lowest above."""
    if not live or wanted in live:
        return wanted
    below = [layer for layer in live if layer < wanted]
    return max(below) if below else min(live)
