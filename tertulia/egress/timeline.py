"""One clock for all tracks of a job: RTP timestamps and sender reports -> the node's monotonic time.

Decides when a picture or a sample was captured, in the node's time, and at which sample of the mix a piece of speech
belongs. Lip sync comes from sender reports (RFC 3550 6.4.1): all tracks of one sender share its NTP clock, so one
offset per sender serves them all. Before the first report, and for senders that never report, arrival times stand in.
Corrections are small and steady (`SLEW`), except where nothing is heard or seen of a jump.
"""

from collections import deque
from typing import NamedTuple

from tertulia.protocol.machine import MILLISECOND, SECOND, Nanos
from tertulia.protocol.tap import SenderClock

SAMPLE_RATE = 48_000
JUMP_NS = 300 * MILLISECOND
"""A mapping that is wrong by more than this is replaced, not corrected."""
SLEW = 1 / 200
"""Correction per media time: 5 ms in a second."""
QUIET_NS = 500 * MILLISECOND
"""No packet for so long: the sender may have stopped its timestamps meanwhile."""
RESTART_NS = 200 * MILLISECOND
EARLY_NS = 100 * MILLISECOND
LOST_NS = 3 * SECOND
"""A timestamp this far from its arrival belongs to a new count."""
FOREIGN_NS = 1 * SECOND
"""Two tracks of one participant whose reports differ by more do not share a clock (gateways)."""
REPORTS_KEPT = 16
ARRIVAL_WINDOW_NS = 10 * SECOND

_ERA = 1 << 32


def ntp_ns(ntp: int) -> int:
    """The 64-bit NTP timestamp (32.32 bits) in nanoseconds."""
    return (ntp >> 32) * SECOND + ((ntp & 0xFFFFFFFF) * SECOND >> 32)


class SenderOffset:
    """What to add to one sender's NTP time to get ours: the least delayed of its last reports."""

    def __init__(self) -> None:
        self._samples: deque[int] = deque(maxlen=REPORTS_KEPT)

    @property
    def known(self) -> bool:
        return bool(self._samples)

    @property
    def offset_ns(self) -> int:
        return min(self._samples)

    def fits(self, sample_ns: int) -> bool:
        return not self._samples or abs(sample_ns - self.offset_ns) <= FOREIGN_NS

    def report(self, sample_ns: int) -> None:
        self._samples.append(sample_ns)


class TrackClock:
    """One track's timestamps in the node's time. Monotone for the caller who asks in order of timestamps."""

    def __init__(self, clock_hz: int, sender: SenderOffset) -> None:
        self._hz = clock_hz
        self._sender = sender
        self._extended: int | None = None
        self._offset_ns = 0
        self._target_ns: int | None = None
        self._last_arrival = 0
        self._last_report = -1
        self._reported = False
        self._window: deque[tuple[int, int]] = deque()
        self.restarts = 0

    @property
    def started(self) -> bool:
        return self._extended is not None

    def packet(self, timestamp: int, arrival: Nanos) -> int:
        """Tell the clock of a packet, in order of sequence; returns the timestamp without wrap-around."""
        if self._extended is None:
            extended = timestamp
            self._anchor(extended, arrival)
        else:
            step = _signed(timestamp - self._extended)
            extended = self._extended + step
            quiet = arrival - self._last_arrival
            if quiet > QUIET_NS and abs(quiet - self._span(step)) > RESTART_NS:
                # The count stood still (or leapt) while nothing was sent: keep the delay it had before.
                self._offset_ns += quiet - self._span(step)
                self._mistrust()
            elif abs(arrival - self._at(extended)) > LOST_NS:
                self._anchor(extended, arrival)
                self._mistrust()
            elif step < 0:
                return extended
            else:
                self._slew(self._span(step))
        self._extended, self._last_arrival = extended, arrival
        if not self._reported:
            self._note_arrival(extended, arrival)
        return extended

    def report(self, clock: SenderClock) -> None:
        """A sender report; the same one may be told again."""
        if self._extended is None or clock.arrival == self._last_report:
            return
        self._last_report = clock.arrival
        if abs(_signed(clock.timestamp - self._extended)) > LOST_NS * self._hz // SECOND:
            return  # of a count that is over, or not yet begun
        sent_ns = ntp_ns(clock.ntp)
        sample = clock.arrival - sent_ns
        if not self._sender.fits(sample):
            self._sender = SenderOffset()
        self._sender.report(sample)
        extended = self._extended + _signed(clock.timestamp - self._extended)
        self._target_ns = sent_ns + self._sender.offset_ns - self._span(extended)
        if not self._reported or abs(self._target_ns - self._offset_ns) > JUMP_NS:
            self._offset_ns = self._target_ns
        self._reported = True

    def at(self, extended: int) -> Nanos:
        """When what carries this (unwrapped) timestamp was captured."""
        return Nanos(self._at(extended))

    def extend(self, timestamp: int) -> int:
        """Unwrap a timestamp near the newest one."""
        newest = self._extended or 0
        return newest + _signed(timestamp - newest)

    def _at(self, extended: int) -> int:
        return self._span(extended) + self._offset_ns

    def _span(self, ticks: int) -> int:
        return ticks * SECOND // self._hz

    def _anchor(self, extended: int, arrival: Nanos) -> None:
        self._offset_ns = arrival - self._span(extended)

    def _mistrust(self) -> None:
        """What was known of the offset is over; the next report counts in full."""
        self._target_ns, self._reported = None, False
        self._window.clear()
        self.restarts += 1

    def _note_arrival(self, extended: int, arrival: Nanos) -> None:
        """Without reports the quickest packet of the last seconds tells the offset."""
        sample = arrival - self._span(extended)
        if self._offset_ns - sample > EARLY_NS:
            self._offset_ns = sample  # nothing arrives before it was captured: what seemed a pause was a delay
        while self._window and self._window[-1][1] >= sample:
            self._window.pop()
        self._window.append((arrival, sample))
        while self._window[0][0] < arrival - ARRIVAL_WINDOW_NS:
            self._window.popleft()
        self._target_ns = self._window[0][1]
        if abs(self._target_ns - self._offset_ns) > JUMP_NS:
            self._offset_ns = self._target_ns

    def _slew(self, passed_ns: int) -> None:
        if self._target_ns is None:
            return
        wrong = self._target_ns - self._offset_ns
        most = int(min(passed_ns, SECOND) * SLEW)
        self._offset_ns += max(-most, min(most, wrong))


class Timeline:
    """The clocks of a job's tracks; those of one participant share its sender's offset."""

    def __init__(self) -> None:
        self._senders: dict[str, SenderOffset] = {}

    def track(self, participant_sid: str, clock_hz: int) -> TrackClock:
        sender = self._senders.setdefault(participant_sid, SenderOffset())
        return TrackClock(clock_hz, sender)

    def forget(self, participant_sid: str) -> None:
        self._senders.pop(participant_sid, None)


class Placement(NamedTuple):
    """Where decoded samples belong in the mix: skip `skip` of them, stretch the rest to `length`, put it at `at`."""

    at: int
    skip: int
    length: int


class SampleCursor:
    """Puts one track's decoded frames on the mix's samples: exact where speech flows, corrected where it pauses."""

    TOLERANCE = SAMPLE_RATE // 500
    """2 ms: reports jitter by less."""
    PAUSE = SAMPLE_RATE * 60 // 1000
    """A gap this long hides any correction."""
    WRONG = SAMPLE_RATE * 80 // 1000
    """So far off without a gap: a clock has stepped; better a hop than bad lip sync."""
    STRETCH = 400
    """One sample in so many is added or taken away; not audible."""

    def __init__(self) -> None:
        self._next: int | None = None
        self._expected_ts = 0
        self.hops = 0

    def place(self, timestamp: int, samples: int, wanted: int) -> Placement | None:
        """`timestamp` at 48 kHz, unwrapped; `wanted` is where the clock puts it. None: all of it is too late."""
        if self._next is None:
            self._next = wanted
        else:
            gap = timestamp - self._expected_ts
            if gap >= self.PAUSE or gap < -samples:
                self._next = max(self._next, wanted)
            else:
                self._next += max(0, gap)
        wrong = wanted - self._next
        if abs(wrong) > self.WRONG:
            self.hops += 1
            if wrong < 0:
                return self._place_late(timestamp, samples, -wrong)
            self._next, wrong = wanted, 0
        at, length = self._next, samples
        if abs(wrong) > self.TOLERANCE:
            most = max(1, samples // self.STRETCH)
            length += max(-most, min(most, wrong))
        self._next = at + length
        self._expected_ts = timestamp + samples
        return Placement(at, 0, length)

    def _place_late(self, timestamp: int, samples: int, late: int) -> Placement | None:
        """The clock went back: what overlaps what has been placed is left out."""
        assert self._next is not None
        self._expected_ts = timestamp + samples
        if late >= samples:
            return None
        at = self._next
        self._next += samples - late
        return Placement(at, late, samples - late)


def _signed(difference: int) -> int:
    """32-bit serial arithmetic (RFC 1982)."""
    difference &= 0xFFFFFFFF
    return difference - _ERA if difference >= 1 << 31 else difference
