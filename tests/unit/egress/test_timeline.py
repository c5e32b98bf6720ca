"""One clock for all tracks: what sender reports, losses, pauses and drift may do to it."""

from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tertulia.egress.timeline import SampleCursor, Timeline, TrackClock, ntp_ns
from tertulia.protocol.machine import MILLISECOND, SECOND, Nanos
from tertulia.protocol.tap import SenderClock

START = 5000 * SECOND


def ntp(ns: int) -> int:
    return (ns // SECOND << 32) + (ns % SECOND << 32) // SECOND


def frames(clock: TrackClock, hz: int, first: int, count: int, period_ns: int, delays: list[int]) -> list[int]:
    """Feed `count` frames captured every `period_ns` from START; returns capture error of each (ns)."""
    errors = []
    for index in range(count):
        captured = START + index * period_ns
        timestamp = (first + index * period_ns * hz // SECOND) & 0xFFFFFFFF
        extended = clock.packet(timestamp, Nanos(captured + delays[index % len(delays)]))
        errors.append(clock.at(extended) - captured)
    return errors


def report(clock: TrackClock, hz: int, first: int, at_ns: int, *, sender_ahead_ns: int, delay_ns: int) -> None:
    timestamp = (first + (at_ns - START) * hz // SECOND) & 0xFFFFFFFF
    clock.report(SenderClock(ntp(at_ns + sender_ahead_ns), timestamp, Nanos(at_ns + delay_ns)))


def test_ntp_time() -> None:
    assert ntp_ns(ntp(3 * SECOND + 500 * MILLISECOND)) == pytest.approx(3 * SECOND + 500 * MILLISECOND, abs=2)


@pytest.mark.parametrize("first", [0, 0xFFFF_FF00, 0x7FFF_FFF0])
def test_arrivals_stand_in_for_reports_and_timestamps_may_wrap(first: int) -> None:
    clock = Timeline().track("PA_1", 90_000)
    errors = frames(clock, 90_000, first, 600, 33_333_333, [40 * MILLISECOND, 30 * MILLISECOND, 60 * MILLISECOND])
    # The first packet was 10 ms slower than the quickest: that is made good at 5 ms in a second.
    assert all(25 * MILLISECOND <= error <= 45 * MILLISECOND for error in errors)
    assert abs(errors[-1] - 30 * MILLISECOND) < MILLISECOND
    steps = [after - before for before, after in pairwise(errors)]
    assert max(map(abs, steps)) <= MILLISECOND // 5


def test_reports_bring_the_tracks_of_one_sender_together() -> None:
    timeline = Timeline()
    voice, picture = timeline.track("PA_1", 48_000), timeline.track("PA_1", 90_000)
    frames(voice, 48_000, 7, 50, 20 * MILLISECOND, [20 * MILLISECOND])
    frames(picture, 90_000, 99, 30, 33_333_333, [190 * MILLISECOND])
    at = START + 900 * MILLISECOND
    report(voice, 48_000, 7, at, sender_ahead_ns=10**18, delay_ns=25 * MILLISECOND)
    report(picture, 90_000, 99, at, sender_ahead_ns=10**18, delay_ns=25 * MILLISECOND)
    moment = START + SECOND
    heard = voice.at(voice.extend((7 + 48_000) & 0xFFFFFFFF))
    seen = picture.at(picture.extend((99 + 90_000) & 0xFFFFFFFF))
    assert abs(heard - seen) < MILLISECOND
    assert abs(heard - moment) < 30 * MILLISECOND


def test_a_gateway_whose_tracks_have_clocks_of_their_own() -> None:
    timeline = Timeline()
    voice, picture = timeline.track("PA_1", 48_000), timeline.track("PA_1", 90_000)
    frames(voice, 48_000, 0, 50, 20 * MILLISECOND, [20 * MILLISECOND])
    frames(picture, 90_000, 0, 30, 33_333_333, [30 * MILLISECOND])
    at = START + 900 * MILLISECOND
    report(voice, 48_000, 0, at, sender_ahead_ns=10**18, delay_ns=20 * MILLISECOND)
    report(picture, 90_000, 0, at, sender_ahead_ns=5 * 10**17, delay_ns=20 * MILLISECOND)
    for clock, hz in ((voice, 48_000), (picture, 90_000)):
        assert abs(clock.at(clock.extend(hz)) - (START + SECOND)) < 40 * MILLISECOND


def test_a_count_that_stood_still_while_muted_is_put_right() -> None:
    clock = Timeline().track("PA_1", 48_000)
    for index in range(100):
        clock.packet(index * 960, Nanos(START + index * 20 * MILLISECOND))
    pause = 7 * SECOND
    for index in range(100, 200):
        captured = START + index * 20 * MILLISECOND + pause
        extended = clock.packet(index * 960, Nanos(captured))
        assert abs(clock.at(extended) - captured) < 25 * MILLISECOND
    assert clock.restarts == 1


def test_a_count_that_runs_on_while_muted_is_left_alone() -> None:
    clock = Timeline().track("PA_1", 48_000)
    for index in [*range(100), *range(450, 500)]:
        captured = START + index * 20 * MILLISECOND
        assert abs(clock.at(clock.packet(index * 960, Nanos(captured))) - captured) < 5 * MILLISECOND
    assert clock.restarts == 0


def test_a_new_count_begins_anew() -> None:
    clock = Timeline().track("PA_1", 90_000)
    frames(clock, 90_000, 1000, 30, 33_333_333, [0])
    later = START + 2 * SECOND
    extended = clock.packet(3_000_000_000, Nanos(later))
    assert abs(clock.at(extended) - later) < MILLISECOND
    assert clock.restarts == 1


def test_an_outage_does_not_move_the_clock() -> None:
    """Everything of 700 ms comes at once: late, not paused."""
    clock = Timeline().track("PA_1", 48_000)
    for index in range(100):
        clock.packet(index * 960, Nanos(START + index * 20 * MILLISECOND))
    released = START + 135 * 20 * MILLISECOND
    for index in range(100, 200):
        captured = START + index * 20 * MILLISECOND
        extended = clock.packet(index * 960, Nanos(max(released, captured)))
        if index > 145:
            assert abs(clock.at(extended) - captured) < 110 * MILLISECOND


@pytest.mark.parametrize("drift", [-100e-6, 100e-6])
def test_drift_is_followed_without_jumps(drift: float) -> None:
    """A sender's audio clock that is 100 ppm wrong, one hour: positions stay near, nothing hops."""
    timeline = Timeline()
    clock, cursor = timeline.track("PA_1", 48_000), SampleCursor()
    frame_ns = round(20 * MILLISECOND / (1 + drift))
    placed = 0
    for index in range(3600 * 50 // 10):
        captured = START + index * frame_ns
        extended = clock.packet(index * 960 & 0xFFFFFFFF, Nanos(captured + 20 * MILLISECOND))
        if index % 50 == 25:
            clock.report(SenderClock(ntp(captured), index * 960 & 0xFFFFFFFF, Nanos(captured + 20 * MILLISECOND)))
        wanted = (clock.at(extended) - START) * 48_000 // SECOND
        place = cursor.place(extended, 960, wanted)
        assert place is not None
        assert place.at >= placed
        placed = place.at + place.length
        true = (captured - START) * 48_000 // SECOND
        assert abs(place.at - true) < 48 * 40
    assert cursor.hops == 0


def test_losses_leave_their_gap() -> None:
    cursor = SampleCursor()
    first = cursor.place(0, 960, 10_000)
    after_loss = cursor.place(2 * 960, 960, 10_000 + 2 * 960)
    assert first is not None
    assert after_loss is not None
    assert (first.at, first.length) == (10_000, 960)
    assert (after_loss.at, after_loss.length) == (10_000 + 2 * 960, 960)


def test_small_errors_are_stretched_away_and_large_ones_hop() -> None:
    cursor = SampleCursor()
    cursor.place(0, 960, 0)
    place = cursor.place(960, 960, 960 + 480)  # 10 ms behind
    assert place is not None
    assert place.at == 960
    assert 960 < place.length <= 963
    place = cursor.place(1920, 960, 1920 + 48_000)
    assert place is not None
    assert place.at == 1920 + 48_000
    assert cursor.hops == 1


def test_after_a_pause_the_position_is_exact() -> None:
    cursor = SampleCursor()
    cursor.place(0, 960, 0)
    place = cursor.place(48_000, 960, 48_000 - 1000)
    assert place is not None
    assert (place.at, place.length) == (47_000, 960)


def test_a_clock_that_goes_back_repeats_nothing() -> None:
    cursor = SampleCursor()
    end = 0
    for index in range(200):
        wanted = index * 960 - (24_000 if index > 50 else 0)
        place = cursor.place(index * 960, 960, wanted)
        if place is not None:
            assert place.at >= end
            end = place.at + place.length
    assert abs(end - (200 * 960 - 24_000)) < 4000


@given(st.lists(st.tuples(st.integers(0, 0xFFFFFFFF), st.integers(-(10**9), 10**10)), max_size=60), st.randoms())
def test_any_packets_leave_a_working_clock(packets: list[tuple[int, int]], rng: Random) -> None:
    """Timestamps and arrivals at random: no exception, and an orderly stream afterwards is followed."""
    clock = Timeline().track("PA_1", 90_000)
    now = START
    for timestamp, step in packets:
        now += step
        clock.at(clock.packet(timestamp, Nanos(now)))
        if rng.random() < 0.2:
            clock.report(SenderClock(rng.getrandbits(64), rng.getrandbits(32), Nanos(now)))
    for index in range(90):
        captured = now + 20 * SECOND + index * 33_333_333
        extended = clock.packet(index * 3000, Nanos(captured))
    assert abs(clock.at(extended) - captured) < 400 * MILLISECOND
