"""The engine that composes: all tracks decoded onto one canvas and one mix, encoded once, given to every output.

Decides when the recording begins, which tick shows which picture, and what is left out when there is too little CPU.
(Imports av and numpy: import this module lazily.)
"""

from collections import deque
from collections.abc import Sequence

from tertulia.egress.compose import Canvas, TilePainter
from tertulia.egress.encode import AudioEncoder, VideoEncoder
from tertulia.egress.engine import (
    DROP_NS,
    SHED_NS,
    Batch,
    EngineSettings,
    Order,
    Tally,
    TrackClosed,
    TrackMuted,
    TrackOpened,
)
from tertulia.egress.lanes import Lane, PictureLane, VoiceLane
from tertulia.egress.mixer import Mixer
from tertulia.egress.outputs.api import EncodedPacket, Output, StreamSpec
from tertulia.egress.outputs.images import ImagesOutput
from tertulia.egress.plan import Plan
from tertulia.egress.stage import Scene, Tile
from tertulia.egress.timeline import SAMPLE_RATE, Timeline
from tertulia.protocol.machine import MILLISECOND, SECOND, Nanos
from tertulia.protocol.tap import TrackAvailable

BLOCK = 960
"""Samples mixed at a time: 20 ms."""
SOUND_ALONE_NS = 500 * MILLISECOND
"""With sound and no video track in sight, the recording begins after this."""
PATIENCE_NS = 5 * SECOND
"""With tracks that bring nothing, it begins after this."""
STALL_NS = 5 * SECOND
"""A camera without a new picture for so long is shown as off; a screen may well stand still."""
UNCHANGED_NS = 1 * SECOND
"""Files get a picture at least so often, also when nothing moves."""
LAST_PICTURES = 3
"""At the end none of these is left out: decoding times lag by two pictures, and a track lasts as long as they say."""
KEY_FRAME_INTERVAL_S = 4.0
EXTRA_KEY_NS = 500 * MILLISECOND
"""Outputs that ask for key frames get no more than this."""


class _Shown:
    """A tile of the scene and the painter that fills it."""

    def __init__(self, tile: Tile, painter: TilePainter) -> None:
        self.tile = tile
        self.painter = painter
        self.blank = False


class Composite:
    """Satisfies `engine.Engine`. Everything happens at moments of the timeline, `latency_ns` behind the room."""

    def __init__(
        self, plan: Plan, outputs: Sequence[Output], settings: EngineSettings, images: Sequence[ImagesOutput] = ()
    ) -> None:
        """`images` are those of the outputs that take pictures."""
        self.tally = Tally()
        self._images = images
        self._plan = plan
        self._outputs = outputs
        self._settings = settings
        self._timeline = Timeline()
        self._pictures: dict[str, PictureLane] = {}
        self._voices: dict[str, VoiceLane] = {}
        self._orders: deque[tuple[Nanos, Order]] = deque()
        self._first_opened: Nanos | None = None
        self._epoch: int | None = None
        self._tick = 0
        self._frame_rate = plan.video.frame_rate if plan.video else 50
        self._canvas = Canvas(plan.video.width, plan.video.height) if plan.video else None
        self._scene = Scene((), "dark")
        self._shown: list[_Shown] = []
        self._dirty = True
        self._last_encoded = -1
        self._next_key_ns = self._last_key_ns = 0
        self._key_wanted = False
        self._mixer = Mixer()
        self._video: VideoEncoder | None = None
        self._audio: AudioEncoder | None = None
        if plan.video is not None and len(images) < len(outputs):
            self._video = VideoEncoder(
                plan.video,
                preset=settings.video_preset,
                threads=settings.encoder_threads,
                constant_rate=plan.constant_rate,
            )
        if plan.audio is not None:
            self._audio = AudioEncoder(plan.audio)
        intervals = [output.key_frame_interval_s for output in outputs]
        asked = [plan.video.key_frame_interval_s if plan.video else None, *intervals]
        self._key_interval_ns = int(min([i for i in asked if i] or [KEY_FRAME_INTERVAL_S]) * SECOND)

    # Engine

    @property
    def started(self) -> bool:
        return self._epoch is not None

    def feed(self, batch: Batch, behind_ns: int) -> None:
        for order in batch.orders:
            self._order(batch.now, order)
        for sid, clock in batch.clocks:
            if (lane := self._lane(sid)) is not None:
                lane.report(clock)
        for sid, packets in batch.packets:
            if (lane := self._lane(sid)) is not None:
                lane.feed(packets, batch.now)
        if behind_ns > DROP_NS:
            for picture in self._pictures.values():
                picture.drop()
        if self._epoch is None:
            self._try_start(batch.now)
        if self._epoch is not None:
            self._advance(batch.now - self._settings.latency_ns, shed=behind_ns > SHED_NS)

    def finish(self, now: Nanos) -> None:
        for lane in (*self._pictures.values(), *self._voices.values()):
            lane.flush()
        if self._epoch is None:
            return
        self._advance(now, shed=False)
        if self._video is not None:
            for tick in range(max(self._last_encoded + 1, self._tick - LAST_PICTURES), self._tick):
                self._encode_picture(tick)
        if self._video is not None:
            self._write(self._video.flush())
        if self._audio is not None:
            self._write(self._audio.flush())

    def key_frames_wanted(self) -> list[str]:
        return [sid for sid, lane in self._pictures.items() if lane.waits_for_key_frame and not lane.track.track.muted]

    def request_key_frame(self) -> None:
        self._key_wanted = True

    # tracks

    def _lane(self, sid: str) -> Lane | None:
        return self._pictures.get(sid) or self._voices.get(sid)

    def _order(self, now: Nanos, order: Order) -> None:
        """Tracks open at once; everything else happens when the timeline gets there."""
        if isinstance(order, TrackOpened):
            self._open(order)
            self._first_opened = self._first_opened or now
        else:
            self._orders.append((now, order))

    def _open(self, order: TrackOpened) -> None:
        track: TrackAvailable = order.track
        sid = track.track.sid
        clock = self._timeline.track(track.participant.sid, track.clock_hz)
        if track.mime_type.lower().startswith("video/"):
            self._pictures[sid] = PictureLane(track, clock, self.tally)
        else:
            self._voices[sid] = VoiceLane(track, clock, self.tally, order.channel)
        # A track that closes and opens again is one that stays.
        self._orders = deque(o for o in self._orders if not (isinstance(o[1], TrackClosed) and o[1].track_sid == sid))

    def _close(self, sid: str) -> None:
        lane = self._pictures.pop(sid, None) or self._voices.pop(sid, None)
        if lane is None:
            return
        person = lane.track.participant.sid
        lanes = (*self._pictures.values(), *self._voices.values())
        if not any(other.track.participant.sid == person for other in lanes):
            self._timeline.forget(person)

    def _run_orders(self, until_ns: int) -> None:
        while self._orders and self._orders[0][0] <= until_ns:
            order = self._orders.popleft()[1]
            match order:
                case TrackClosed(track_sid=sid):
                    self._close(sid)
                case TrackMuted(track_sid=sid, muted=True):
                    if sid in self._pictures:
                        self._pictures[sid].forget_picture()
                case Scene():
                    self._set_scene(order)

    # the beginning

    def _try_start(self, now: Nanos) -> None:
        begins = self._beginning(now)
        if begins is None:
            return
        self._epoch = self._next_key_ns = self._last_key_ns = begins
        streams: list[StreamSpec] = []
        if self._video is not None:
            streams.append(self._video.spec)
        if self._audio is not None:
            streams.append(self._audio.spec)
        for output in self._outputs:
            output.open(streams, begins + self._settings.wall_offset_ns)

    def _beginning(self, now: Nanos) -> int | None:
        pictures = [lane.first_ns for lane in self._pictures.values() if lane.first_ns is not None]
        if pictures:
            return min(pictures)
        voices = [lane.first_ns for lane in self._voices.values() if lane.first_ns is not None]
        if voices and (self._canvas is None or (not self._pictures and now - min(voices) > SOUND_ALONE_NS)):
            return min(voices)
        if self._first_opened is not None and now - self._first_opened > PATIENCE_NS:
            return min([now, *voices])
        return None

    # going on

    def _advance(self, until_ns: int, *, shed: bool) -> None:
        assert self._epoch is not None
        half = SECOND // self._frame_rate // 2
        while (at := self._epoch + self._tick * SECOND // self._frame_rate) <= until_ns - half:
            self._run_orders(at)
            self._mix((at - self._epoch) * SAMPLE_RATE // SECOND)
            if self._canvas is not None:
                self._show(at + half, self._canvas)  # the picture nearest to the tick, not the last before it
                self._give_images(at, self._canvas)
                if self._video is not None:
                    self._maybe_encode(at, shed=shed)
            self._tick += 1

    def _mix(self, until: int) -> None:
        if self._audio is None:
            return
        while (position := self._mixer.position) + BLOCK <= until:
            for lane in self._voices.values():
                lane.advance(self._mixer, self._epoch or 0, position + BLOCK)
            self._write(self._audio.encode(self._mixer.take(BLOCK), position))

    def _set_scene(self, scene: Scene) -> None:
        self._scene = scene
        self._shown = [
            _Shown(tile, TilePainter(tile.rect, "whole" if tile.whole else "fill", scene.theme)) for tile in scene.tiles
        ]
        assert self._canvas is not None
        self._canvas.clear(scene.theme)
        for shown in self._shown:
            lane = self._pictures.get(shown.tile.track_sid)
            if lane is not None and lane.picture is not None and not shown.tile.muted:
                shown.painter.paint(self._canvas, lane.picture)
            else:
                shown.painter.blank(self._canvas)
                shown.blank = True
        self._dirty = True

    def _show(self, at: int, canvas: Canvas) -> None:
        for shown in self._shown:
            lane = self._pictures.get(shown.tile.track_sid)
            fresh = lane is not None and lane.advance(at)
            if lane is not None and fresh and lane.picture is not None and not shown.tile.muted:
                shown.painter.paint(canvas, lane.picture)
                shown.blank, self._dirty = False, True
            elif not shown.blank and self._is_over(shown, lane, at):
                shown.painter.blank(canvas)
                shown.blank = self._dirty = True

    def _is_over(self, shown: _Shown, lane: PictureLane | None, at: int) -> bool:
        """The picture that stands there is no longer true."""
        if lane is None or lane.picture is None or shown.tile.muted:
            return True
        return not shown.tile.screen and at - lane.picture_ns > STALL_NS

    def _give_images(self, at: int, canvas: Canvas) -> None:
        pts_ns = at - (self._epoch or 0)
        due = [output for output in self._images if output.wants(pts_ns)]
        if due:
            still = canvas.copy()
            for output in due:
                output.picture(still, pts_ns)

    def _maybe_encode(self, at: int, *, shed: bool) -> None:
        since_ns = (self._tick - self._last_encoded) * SECOND // self._frame_rate
        if shed and since_ns < UNCHANGED_NS:
            self.tally.pictures_shed += 1
            return
        if not self._dirty and not self._key_frame_due(at) and not self._plan.constant_rate and since_ns < UNCHANGED_NS:
            self.tally.pictures_unchanged += 1
            return
        self._encode_picture(self._tick)

    def _key_frame_due(self, at: int) -> bool:
        """By the schedule, which wishes do not move (segments are cut by it), or because an output waits."""
        return at >= self._next_key_ns or (self._key_wanted and at - self._last_key_ns >= EXTRA_KEY_NS)

    def _encode_picture(self, tick: int) -> None:
        assert self._video is not None
        assert self._canvas is not None
        assert self._epoch is not None
        at = self._epoch + tick * SECOND // self._frame_rate
        key_frame = self._key_frame_due(at)
        if key_frame:
            self._key_wanted, self._last_key_ns = False, at
            while self._next_key_ns <= at:
                self._next_key_ns += self._key_interval_ns
        self._write(self._video.encode(self._canvas.frame, tick, key_frame=key_frame))
        self.tally.pictures_encoded += 1
        self._last_encoded, self._dirty = tick, False

    def _write(self, packets: list[EncodedPacket]) -> None:
        for packet in packets:
            for output in self._outputs:
                output.write(packet)
