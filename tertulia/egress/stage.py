"""Who is in the recording: which tracks are tapped, in which layer, and where each picture stands.

Decides from the room's events and the layout; opens no tap and draws nothing. Order and stability as LiveKit's default
template has them (egress-features 2.1): screen shares first, then who speaks or spoke last; nobody moves without need.
"""

from collections import deque
from dataclasses import dataclass

from livekit.protocol import models

from tertulia.egress.casting import Casting
from tertulia.egress.layout import Layout, Rect, Theme, capacity, parse_layout, rectangles
from tertulia.egress.plan import Channel, OneTrackSource, PairSource, RoomSource, Source
from tertulia.protocol.machine import MILLISECOND, Nanos
from tertulia.protocol.tap import (
    ParticipantGone,
    RoomGone,
    SpeakersChanged,
    TapEvent,
    TrackAvailable,
    TrackGone,
)

AUDIO_LIMIT = 64
"""Voices mixed at once; beyond, the earliest stay."""
MAIN_HOLD_NS = 1500 * MILLISECOND
"""The speaker's place changes no more often."""
LAYER_STRETCH = 1.1
"""A layer this much smaller than its tile will do: nobody sees it, and the next one costs four times as much."""


@dataclass(frozen=True, slots=True)
class OpenTrack:
    """Tap this track. For video `max_height` says which layer will do."""

    track: TrackAvailable
    max_height: int | None
    channel: Channel = "both"


@dataclass(frozen=True, slots=True)
class ResizeTrack:
    track_sid: str
    max_height: int | None


@dataclass(frozen=True, slots=True)
class CloseTrack:
    track_sid: str


@dataclass(frozen=True, slots=True)
class MuteTrack:
    track_sid: str
    muted: bool


@dataclass(frozen=True, slots=True)
class Tile:
    track_sid: str
    rect: Rect
    whole: bool
    """Show all of the picture (screens, upright cameras); False: fill the tile, cut what is too much."""
    muted: bool
    screen: bool


@dataclass(frozen=True, slots=True)
class Scene:
    tiles: tuple[Tile, ...]
    theme: Theme


@dataclass(frozen=True, slots=True)
class SourceEnded:
    """Nothing more will come: the room, the person or the tracks are gone."""


StageOutput = OpenTrack | ResizeTrack | CloseTrack | MuteTrack | Scene | SourceEnded


@dataclass(slots=True)
class _Actor:
    """One track that belongs in this recording."""

    available: TrackAvailable
    order: int
    channel: Channel = "both"
    open_height: int | None = None
    is_open: bool = False
    spoke: int = 0

    @property
    def is_video(self) -> bool:
        return bool(self.available.track.type == models.VIDEO)

    @property
    def is_screen(self) -> bool:
        return bool(self.available.track.source == models.SCREEN_SHARE)


class Stage:
    """A machine over TapEvents. `size` None: no picture is made; `audio` False: no sound."""

    def __init__(self, source: Source, size: tuple[int, int] | None, *, audio: bool) -> None:
        self._source = source
        self._size = size
        self._layout = parse_layout(source.layout if isinstance(source, RoomSource) else "single-speaker")
        self._actors: dict[str, _Actor] = {}
        self._seats: list[str] = []
        self._speaking: tuple[str, ...] = ()
        self._turn = 0
        self._main_since = Nanos(0)
        self._now, self._stale = Nanos(0), False
        self._wake_at: Nanos | None = None
        self._scene: Scene | None = None
        self._out: deque[StageOutput] = deque()
        self._ended = False
        self._order = 0
        self.casting = Casting(source, video=size is not None, audio=audio)

    # the four verbs

    def handle(self, now: Nanos, event: TapEvent) -> None:
        match event:
            case TrackAvailable():
                self._available(event)
            case TrackGone(track_sid=sid):
                self._gone(sid)
            case SpeakersChanged(sids=sids):
                self._speakers(sids)
            case ParticipantGone(sid=sid, identity=identity):
                for track_sid in [a for a, actor in self._actors.items() if actor.available.participant.sid == sid]:
                    self._gone(track_sid)
                if self.casting.ends_with(identity):
                    self._end()
            case RoomGone():
                self._end()
        self._now, self._stale = now, True

    def wake(self, now: Nanos) -> None:
        if self._wake_at is not None and now >= self._wake_at:
            self._wake_at = None
            self._now, self._stale = now, True

    def next_wake(self) -> Nanos | None:
        return self._wake_at

    def poll(self) -> StageOutput | None:
        if self._stale:
            # Once for all that has happened: ten people in a room are one change of the picture, not ten.
            self._stale = False
            self._arrange(self._now)
        return self._out.popleft() if self._out else None

    def set_layout(self, now: Nanos, name: str) -> None:
        self._layout = parse_layout(name)
        self._seats.clear()
        self._now, self._stale = now, True

    @property
    def layout(self) -> Layout:
        return self._layout

    # what the events say

    def _available(self, event: TrackAvailable) -> None:
        sid = event.track.sid
        known = self._actors.get(sid)
        if known is not None:
            was_muted = known.available.track.muted
            known.available = event
            if known.is_open and was_muted != event.track.muted:
                self._out.append(MuteTrack(sid, event.track.muted))
            return
        if not self.casting.admit(event):
            return
        self._order += 1
        self._actors[sid] = _Actor(event, self._order, self.casting.channel(event))

    def _gone(self, sid: str) -> None:
        actor = self._actors.pop(sid, None)
        if actor is None:
            return
        if actor.is_open:
            self._out.append(CloseTrack(sid))
        if not self._actors and isinstance(self._source, PairSource | OneTrackSource):
            self._end()

    def _speakers(self, sids: tuple[str, ...]) -> None:
        self._speaking = sids
        self._turn += 1
        for actor in self._actors.values():
            if actor.available.participant.sid in sids:
                actor.spoke = self._turn

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self._out.append(SourceEnded())

    # who sits where

    def _arrange(self, now: Nanos) -> None:
        if self._ended:
            return
        self._arrange_sound()
        if self._size is None:
            return
        wanted = [sid for sid, actor in sorted(self._actors.items(), key=self._rank) if actor.is_video]
        shape = self._layout.shape
        if shape == "grid" and any(self._actors[sid].is_screen for sid in wanted):
            shape = "speaker"
        seats = wanted[: capacity(shape, *self._size)]
        self._seats = self._seated(now, seats, stage_has_main=shape != "grid")
        places = rectangles(shape, len(self._seats), *self._size)
        tiles = tuple(self._tile(sid, rect) for sid, rect in zip(self._seats, places, strict=True))
        self._tap_tiles(tiles)
        scene = Scene(tiles, self._layout.theme)
        if scene != self._scene:
            self._scene = scene
            self._out.append(scene)

    def _arrange_sound(self) -> None:
        as_it_is = isinstance(self._source, OneTrackSource)
        voices = sorted((a for a in self._actors.values() if as_it_is or not a.is_video), key=lambda actor: actor.order)
        for actor in voices[:AUDIO_LIMIT]:
            if not actor.is_open:
                actor.is_open = True
                self._out.append(OpenTrack(actor.available, None, actor.channel))

    def _rank(self, item: tuple[str, _Actor]) -> tuple[int, int, int, int, int, int]:
        actor = item[1]
        joined = actor.available.participant.joined_at
        if actor.is_screen:
            return (0, 0, 0, 0, joined, actor.order)
        sid = actor.available.participant.sid
        loud = self._speaking.index(sid) if sid in self._speaking else len(self._speaking)
        return (1, loud, -actor.spoke, int(actor.available.track.muted), joined, actor.order)

    def _seated(self, now: Nanos, wanted: list[str], *, stage_has_main: bool) -> list[str]:
        """Keep everybody's seat who stays; newcomers take the seats of those who leave."""
        staying = [sid for sid in self._seats if sid in self._actors]
        main = staying[0] if staying else None
        if stage_has_main and main and main != wanted[0] and not self._actors[wanted[0]].is_screen:
            due = Nanos(self._main_since + MAIN_HOLD_NS)
            if now < due:
                self._wake_at = due
                wanted = [main, *(sid for sid in wanted if sid != main)][: len(wanted)]
        newcomers = [sid for sid in wanted if sid not in staying]
        seats: list[str] = []
        for sid in staying:
            if sid in wanted:
                seats.append(sid)
            elif newcomers:
                seats.append(newcomers.pop(0))
        seats += newcomers
        if stage_has_main and seats:
            # The new main changes places with the old one.
            at = seats.index(wanted[0])
            seats[0], seats[at] = seats[at], seats[0]
            if seats[0] != main:
                self._main_since = now
        return seats

    def _tile(self, sid: str, rect: Rect) -> Tile:
        actor = self._actors[sid]
        track = actor.available.track
        upright = track.height > track.width
        alone = not isinstance(self._source, RoomSource)
        return Tile(sid, rect, actor.is_screen or upright or alone, track.muted, actor.is_screen)

    def _tap_tiles(self, tiles: tuple[Tile, ...]) -> None:
        seen = {tile.track_sid for tile in tiles}
        for sid, actor in self._actors.items():
            if actor.is_video and actor.is_open and sid not in seen:
                actor.is_open = False
                self._out.append(CloseTrack(sid))
        for tile in tiles:
            actor = self._actors[tile.track_sid]
            height = _layer_height(actor.available.track, tile)
            if not actor.is_open:
                actor.is_open, actor.open_height = True, height
                self._out.append(OpenTrack(actor.available, height))
            elif actor.open_height != height:
                actor.open_height = height
                self._out.append(ResizeTrack(tile.track_sid, height))


def _layer_height(track: models.TrackInfo, tile: Tile) -> int:
    """The height of the smallest layer that fills the tile, give or take a tenth."""
    width, height = track.width or 16, track.height or 9
    sides = tile.rect.width / width, tile.rect.height / height
    needed = height * (min(sides) if tile.whole else max(sides))
    heights = sorted(layer.height for layer in track.layers if layer.height)
    for layer in heights:
        if layer * LAYER_STRETCH >= needed:
            return int(layer)
    return int(heights[-1]) if heights else max(2, round(needed))
