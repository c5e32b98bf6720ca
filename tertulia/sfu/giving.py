"""Media of our members for other nodes: one raw row per codec and layer towards each, however many viewers it has.

A layer that is not needed any more lingers, because its viewers switch at a key frame; one that is too much for a thin
link goes sooner. Wishes that are not confirmed end.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from tertulia.protocol import bus
from tertulia.protocol.ids import NodeId
from tertulia.protocol.machine import SECOND, Nanos
from tertulia.sfu import dynacast, telling
from tertulia.sfu.agenda import Appointment
from tertulia.sfu.bwe.allocator import CAMERA_PRIORITY, SCREEN_PRIORITY, Demand
from tertulia.sfu.downlink import layer_bps
from tertulia.sfu.media.receiver import Receiver
from tertulia.sfu.publication import PublishedTrack
from tertulia.sfu.relay import Links, Shares
from tertulia.sfu.state import RoomState

LINGER_NS = 2 * SECOND
CUT_LINGER_NS = SECOND // 4
"""The same on a link that is too thin: long enough for a key frame that is on its way."""
EXPIRE_NS = 30 * SECOND
"""Wishes that are not confirmed end after this: their node is deaf or forgot us."""
MAX_WANTS = 5000
"""Wishes of one node."""


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


class Giving:
    """The publishers' side of a room's relay."""

    def __init__(self, state: RoomState, links: Links) -> None:
        self._state = state
        self._links = links
        self._given: dict[NodeId, dict[tuple[str, str], Given]] = {}
        """By track sid and mime type."""
        self._heard_at: dict[NodeId, Nanos] = {}
        self._shares: dict[NodeId, Shares] = {}
        """What thin links let through."""

    def rows(self) -> int:
        return sum(len(one.rows) for given in self._given.values() for one in given.values())

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

    def track_gone(self, track: PublishedTrack) -> None:
        for given in self._given.values():
            for key in [key for key in given if key[0] == track.sid]:
                self._withdraw(given.pop(key))

    def node_gone(self, node: NodeId) -> None:
        given = self._given.pop(node, {})
        self._heard_at.pop(node, None)
        self._shares.pop(node, None)
        for one in given.values():
            self._withdraw(one)
        for sid in dict.fromkeys(key[0] for key in given):
            if (track := self._state.tracks.get(sid)) is not None:
                dynacast.review(self._state, track)

    def still_wanted_by(self, node: NodeId) -> None:
        if node in self._heard_at:
            self._heard_at[node] = self._state.now

    def expire(self) -> None:
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
