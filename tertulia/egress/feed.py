"""The loop's side of one job: the room's events to the stage, the stage's wishes to the room, packets to the worker.

Decides nothing about media. `tick` is called every 20 ms or so by the service; it never waits.
"""

import logging
from collections.abc import Callable
from dataclasses import replace

from tertulia.egress.engine import Batch, Order, TrackClosed, TrackMuted, TrackOpened
from tertulia.egress.stage import CloseTrack, MuteTrack, OpenTrack, ResizeTrack, Scene, SourceEnded, Stage
from tertulia.protocol.errors import RequestError
from tertulia.protocol.machine import MILLISECOND, Nanos
from tertulia.protocol.tap import TapRoom

log = logging.getLogger(__name__)

KEY_FRAME_EVERY_NS = 500 * MILLISECOND
"""How often one track is asked for a key frame; publishers need time to make one."""
RETRY_EVERY_NS = 200 * MILLISECOND
"""How often a track is tried that cannot be tapped yet: it may have to come from another node first."""


class Feed:
    """One job's taps."""

    def __init__(
        self,
        room: TapRoom,
        stage: Stage,
        put: Callable[[Batch], None],
        *,
        opened: Callable[[TrackOpened], None] = lambda order: None,
        muted: Callable[[bool], None] = lambda muted: None,
    ) -> None:
        """`opened` is told of each track before its first packet is put, `muted` of mutes of opened tracks."""
        self.room = room
        self.stage = stage
        self._put = put
        self._opened = opened
        self._muted = muted
        self._taps: dict[str, int] = {}
        self._asked: dict[str, Nanos] = {}
        self._unopened: dict[str, OpenTrack] = {}
        self._retry_at = Nanos(0)
        self.ended = False
        """The source is over."""
        self.tracks_opened = 0
        self.packets_lost = 0
        """To the taps' own queue limit."""

    def tick(self, now: Nanos) -> None:
        for event in self.room.events():
            self.stage.handle(now, event)
        wake = self.stage.next_wake()
        if wake is not None and now >= wake:
            self.stage.wake(now)
        batch = Batch(now)
        # What has come so far is taken before taps are closed: the last words count.
        self._collect(batch)
        opened_before = len(self._taps)
        batch.orders = self._carry_out()
        if self._unopened and now >= self._retry_at:
            self._retry_at = Nanos(now + RETRY_EVERY_NS)
            for wish in list(self._unopened.values()):
                self._open(wish, batch.orders)
        if len(self._taps) > opened_before:
            self._collect(batch)
        self._put(batch)

    def ask_key_frames(self, sids: tuple[str, ...], now: Nanos) -> None:
        for sid in sids:
            tap = self._taps.get(sid)
            if tap is not None and now - self._asked.get(sid, -KEY_FRAME_EVERY_NS) >= KEY_FRAME_EVERY_NS:
                self._asked[sid] = now
                self.room.request_key_frame(tap)

    def close(self) -> None:
        """Leave the room; the taps are gone with it."""
        self._taps.clear()
        self.room.leave()

    def _carry_out(self) -> list[Order]:
        orders: list[Order] = []
        while (wish := self.stage.poll()) is not None:
            match wish:
                case OpenTrack():
                    self._open(wish, orders)
                case ResizeTrack(track_sid=sid, max_height=height):
                    if sid in self._taps:
                        self.room.resize(self._taps[sid], height)
                    elif sid in self._unopened:
                        self._unopened[sid] = replace(self._unopened[sid], max_height=height)
                case CloseTrack(track_sid=sid):
                    tap = self._taps.pop(sid, None)
                    self._asked.pop(sid, None)
                    self._unopened.pop(sid, None)
                    if tap is not None:
                        self.room.close(tap)
                        orders.append(TrackClosed(sid))
                case MuteTrack(track_sid=sid, muted=muted):
                    orders.append(TrackMuted(sid, muted))
                    self._muted(muted)
                case Scene():
                    orders.append(wish)
                case SourceEnded():
                    self.ended = True
        return orders

    def _open(self, wish: OpenTrack, orders: list[Order]) -> None:
        sid = wish.track.track.sid
        try:
            self._taps[sid] = self.room.open(sid, max_height=wish.max_height)
        except RequestError as error:
            if sid not in self._unopened:
                log.info("egress: track %s cannot be tapped yet: %s", sid, error.message)
            self._unopened[sid] = wish
            return
        self._unopened.pop(sid, None)
        self.tracks_opened += 1
        order = TrackOpened(wish.track, wish.channel)
        orders.append(order)
        self._opened(order)

    def _collect(self, batch: Batch) -> None:
        for sid, tap in self._taps.items():
            packets, lost = self.room.take(tap)
            self.packets_lost += lost
            if packets:
                batch.packets.append((sid, packets))
            clock = self.room.clock(tap)
            if clock is not None:
                batch.clocks.append((sid, clock))
