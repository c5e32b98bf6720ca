"""One tapped track inside the worker: packets -> frames -> what is due at a moment of the timeline.

Decides which frames are due and what is forgotten when a track brings more than can be kept. (Imports av and numpy
through `decode`: import this module lazily.)
"""

from collections import deque

import av

from tertulia.egress.decode import SILENT_BYTES, PictureDecoder, VoiceDecoder
from tertulia.egress.depacketize import Frame, Gap, Resequencer, depacketizer_for, opus_samples
from tertulia.egress.engine import Tally
from tertulia.egress.mixer import Mixer
from tertulia.egress.plan import Channel
from tertulia.egress.timeline import SAMPLE_RATE, SampleCursor, TrackClock
from tertulia.protocol.errors import PeerError
from tertulia.protocol.machine import SECOND, Nanos
from tertulia.protocol.tap import SenderClock, TapPacket, TrackAvailable

QUEUE_LIMIT = 900
"""Frames waiting for their moment; fifteen seconds of 60 per second."""


class Lane:
    """Packets in, frames with their place on the clock out. Base of the two below; enough for passing through."""

    def __init__(self, track: TrackAvailable, clock: TrackClock, tally: Tally) -> None:
        depacketizer = depacketizer_for(track.mime_type)
        assert depacketizer is not None  # the stage leaves out what cannot be recorded
        self.track = track
        self.clock = clock
        self._depacketizer = depacketizer
        self._resequencer = Resequencer()
        self._tally = tally
        self.frames: deque[tuple[int, Frame]] = deque()
        """Unwrapped timestamp and frame, in order."""

    def feed(self, packets: list[TapPacket], now: Nanos) -> None:
        before = self._resequencer.lost
        self._take(self._resequencer.push(packets, now))
        self._tally.packets_lost += self._resequencer.lost - before

    def flush(self) -> None:
        self._take(self._resequencer.flush())

    def report(self, clock: SenderClock) -> None:
        self.clock.report(clock)

    @property
    def waits_for_key_frame(self) -> bool:
        return self._depacketizer.waiting

    @property
    def first_ns(self) -> int | None:
        """When the first waiting frame is due."""
        return self.clock.at(self.frames[0][0]) if self.frames else None

    def _take(self, items: list[TapPacket | Gap]) -> None:
        for item in items:
            if not isinstance(item, Gap) and item.payload:
                self.clock.packet(item.timestamp, item.arrival)
            for frame in self._depacketizer.push(item):
                self.frames.append((self.clock.extend(frame.timestamp), frame))
        if len(self.frames) > QUEUE_LIMIT:
            self._overflow()

    def _overflow(self) -> None:
        self._tally.frames_overflowed += len(self.frames)
        self.frames.clear()


class PictureLane(Lane):
    """A video track; `picture` is what it shows."""

    def __init__(self, track: TrackAvailable, clock: TrackClock, tally: Tally) -> None:
        super().__init__(track, clock, tally)
        self._decoder = PictureDecoder(track.mime_type)
        self._broken = False
        self.picture: av.VideoFrame | None = None
        self.picture_ns = 0

    def advance(self, until_ns: int) -> bool:
        """Decode what is due; True when there is a new picture."""
        fresh = False
        while self.frames and (due := self.clock.at(self.frames[0][0])) <= until_ns:
            _, frame = self.frames.popleft()
            if self._broken and not frame.key_frame:
                continue
            try:
                picture = self._decoder.decode(frame.data)
                self._broken = False
            except PeerError:
                self._tally.pictures_broken += 1
                self._lose()
                continue
            if picture is not None:
                self.picture, self.picture_ns, fresh = picture, due, True
        return fresh

    def forget_picture(self) -> None:
        self.picture = None

    def drop(self) -> None:
        """Go on with the next key frame."""
        if self.frames:
            self._overflow()

    @property
    def waits_for_key_frame(self) -> bool:
        return self._broken or super().waits_for_key_frame

    def _lose(self) -> None:
        self._broken = not any(frame.key_frame for _, frame in self.frames)
        if not self._broken:
            while not self.frames[0][1].key_frame:
                self.frames.popleft()

    def _overflow(self) -> None:
        super()._overflow()
        self._broken = True


class VoiceLane(Lane):
    """An audio track, added to the mix."""

    def __init__(self, track: TrackAvailable, clock: TrackClock, tally: Tally, channel: Channel) -> None:
        super().__init__(track, clock, tally)
        self._decoder = VoiceDecoder()
        self._cursor = SampleCursor()
        self._channel: Channel = channel
        self._end = -1

    def advance(self, mixer: Mixer, epoch_ns: int, until: int) -> None:
        """Add every frame that begins before sample `until` of the mix."""
        while self.frames:
            timestamp, frame = self.frames[0]
            wanted = (self.clock.at(timestamp) - epoch_ns) * SAMPLE_RATE // SECOND
            if wanted >= until:
                return
            self.frames.popleft()
            if len(frame.data) <= SILENT_BYTES or not opus_samples(frame.data):
                continue
            try:
                samples = self._decoder.decode(frame.data)
            except PeerError:
                self._tally.sounds_broken += 1
                continue
            place = self._cursor.place(timestamp, len(samples), wanted)
            if place is None:
                continue
            mixer.add(samples, place, channel=self._channel, fade=place.at != self._end)
            self._end = place.at + place.length
