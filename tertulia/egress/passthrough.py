"""The engines for one track: as it came from the publisher, or as PCM for a WebSocket.

Decides where the recording begins (a key frame, a first sound) and each frame's time; nothing is encoded. (`PcmEngine`
imports av and numpy through `lanes`: import this module lazily.)
"""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from tertulia.egress.decode import SILENT_BYTES, VoiceDecoder
from tertulia.egress.depacketize import Frame, opus_samples
from tertulia.egress.engine import Batch, EngineSettings, Tally, TrackOpened
from tertulia.egress.lanes import Lane
from tertulia.egress.outputs.api import EncodedPacket, Output, StreamKind, StreamSpec, VideoCodec
from tertulia.egress.timeline import SAMPLE_RATE, Timeline
from tertulia.protocol.errors import PeerError
from tertulia.protocol.machine import SECOND, Nanos

VIDEO_CODECS: dict[str, VideoCodec] = {"video/vp8": "vp8", "video/vp9": "vp9", "video/h264": "h264", "video/av1": "av1"}
ENDINGS = {
    "video/vp8": (".webm", ".ivf", ".mkv"),
    "video/vp9": (".webm", ".ivf", ".mkv", ".mp4"),
    "video/av1": (".webm", ".ivf", ".mkv", ".mp4"),
    "video/h264": (".mp4", ".mkv"),
}
"""Containers that take a codec as it is; the first is the usual one."""
VOICE_ENDINGS = (".ogg", ".webm", ".mkv", ".mp4")

PCM_GAP_LIMIT = SAMPLE_RATE // 2
"""Gaps up to half a second are filled with silence; a longer one is a mute, and the listener is told."""


def file_ending(mime_type: str, wish: str = "") -> str:
    """The ending of the file: that of the name that was asked for when its container takes the track as it is."""
    endings = ENDINGS.get(mime_type.lower(), VOICE_ENDINGS)
    return next((ending for ending in endings if wish.lower().endswith(ending)), endings[0])


class _OneTrack:
    """What both engines share: one lane, and the moment the recording begins."""

    def __init__(self, outputs: Sequence[Output], settings: EngineSettings) -> None:
        self.tally = Tally()
        self._outputs = outputs
        self._settings = settings
        self._lane: Lane | None = None
        self._first: int | None = None
        self._restarts = 0
        self._shift = 0
        self._epoch_ns = 0
        self._key_wanted = False

    @property
    def started(self) -> bool:
        return self._first is not None

    def feed(self, batch: Batch, behind_ns: int) -> None:
        for order in batch.orders:
            if isinstance(order, TrackOpened) and self._lane is None:
                clock = Timeline().track(order.track.participant.sid, order.track.clock_hz)
                self._lane = Lane(order.track, clock, self.tally)
        if self._lane is None:
            return
        for _, clock_report in batch.clocks:
            self._lane.report(clock_report)
        for _, packets in batch.packets:
            self._lane.feed(packets, batch.now)
        self._pass(self._lane)

    def finish(self, now: Nanos) -> None:
        if self._lane is not None:
            self._lane.flush()
            self._pass(self._lane)

    def key_frames_wanted(self) -> list[str]:
        lane = self._lane
        if lane is None or lane.track.track.muted or not (lane.waits_for_key_frame or self._key_wanted):
            return []
        self._key_wanted = False
        return [lane.track.track.sid]

    def request_key_frame(self) -> None:
        self._key_wanted = True

    def _pass(self, lane: Lane) -> None:
        while lane.frames:
            timestamp, frame = lane.frames.popleft()
            if self._first is None:
                self._first, self._epoch_ns = timestamp, lane.clock.at(timestamp)
                self._restarts = lane.clock.restarts
                spec = self._spec(lane)
                for output in self._outputs:
                    output.open([spec], self._epoch_ns + self._settings.wall_offset_ns)
            if lane.clock.restarts != self._restarts:
                self._realign(lane, timestamp)
            self._frame(timestamp - self._first + self._shift, frame)

    def _realign(self, lane: Lane, timestamp: int) -> None:
        """The publisher's count has stood still or begun anew: the clock says where this belongs."""
        assert self._first is not None
        self._restarts = lane.clock.restarts
        wanted = (lane.clock.at(timestamp) - self._epoch_ns) * lane.track.clock_hz // SECOND
        self._shift = wanted - (timestamp - self._first)

    def _spec(self, lane: Lane) -> StreamSpec:
        raise AssertionError("a subclass's business")

    def _frame(self, position: int, frame: Frame) -> None:
        raise AssertionError("a subclass's business")

    def _write(self, packet: EncodedPacket) -> None:
        for output in self._outputs:
            output.write(packet)


class Remux(_OneTrack):
    """Frames go into the file as they are."""

    _kind: StreamKind = "audio"
    _time_base = Fraction(1, SAMPLE_RATE)
    _last = -1

    def _spec(self, lane: Lane) -> StreamSpec:
        track = lane.track.track
        codec = VIDEO_CODECS.get(lane.track.mime_type.lower())
        if codec is None:
            return StreamSpec("audio", "opus", self._time_base, channels=2)
        self._kind, self._time_base = "video", Fraction(1, lane.track.clock_hz)
        return StreamSpec("video", codec, self._time_base, width=track.width, height=track.height)

    def _frame(self, position: int, frame: Frame) -> None:
        if position <= self._last:
            self.tally.packets_late += 1
            return
        self._last = position
        length = opus_samples(frame.data) if self._kind == "audio" else 0
        self._write(EncodedPacket(self._kind, frame.data, position, position, self._time_base, frame.key_frame, length))


class Pcm(_OneTrack):
    """Speech as samples: 16-bit, 48 kHz, stereo (what LiveKit's egress sends to a WebSocket)."""

    def __init__(self, outputs: Sequence[Output], settings: EngineSettings) -> None:
        super().__init__(outputs, settings)
        self._decoder = VoiceDecoder()
        self._next = 0

    def _spec(self, lane: Lane) -> StreamSpec:
        return StreamSpec("audio", "pcm_s16le", Fraction(1, SAMPLE_RATE), channels=2)

    def _frame(self, position: int, frame: Frame) -> None:
        if position < self._next:
            self.tally.packets_late += 1
            return
        if position - self._next <= PCM_GAP_LIMIT:
            self._samples(np.zeros((position - self._next, 2), np.int16).tobytes(), self._next)
        samples = opus_samples(frame.data)
        if len(frame.data) <= SILENT_BYTES:
            sound = np.zeros((samples, 2), np.int16).tobytes()
        else:
            try:
                sound = self._decoder.decode(frame.data).tobytes()
            except PeerError:
                self.tally.sounds_broken += 1
                return
        self._samples(sound, position)

    def _samples(self, sound: bytes, position: int) -> None:
        if sound:
            count = len(sound) // 4
            self._write(EncodedPacket("audio", sound, position, position, Fraction(1, SAMPLE_RATE), True, count))
            self._next = position + count
