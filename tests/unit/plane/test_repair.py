"""NACKs both ways, RTX, sender and receiver reports, transport-cc, PLI throttle."""

import itertools
import struct

import pytest

from tertulia.protocol.machine import Nanos
from tertulia.sfu.plane.api import Feedback, Usage
from tertulia.sfu.plane.bits import ticked, unticked
from tests.unit.plane.packets import ALICE, BOB, World, parsed, rtp, vp8

WRAP = 1 << 42
"""Here the 32 bits of the times kept per packet begin anew."""


def nack(media: int, *numbers: int) -> bytes:
    fci = b"".join(struct.pack("!HH", number, 0) for number in numbers)
    return struct.pack("!BBHII", 0x81, 205, 2 + len(numbers), 1, media) + fci


def nacked(datagrams: list[bytes]) -> list[int]:
    numbers = []
    for data in datagrams:
        if data[0] == 0x81 and data[1] == 205:
            for o in range(12, len(data), 4):
                pid, mask = struct.unpack_from("!HH", data, o)
                numbers += [pid] + [(pid + 1 + bit) & 0xFFFF for bit in range(16) if mask >> bit & 1]
    return numbers


def started(now: int = 10**9, **down: object) -> tuple[World, int, int]:
    w = World()
    w.now = Nanos(now)
    up = w.up()
    row = w.down(**down)
    w.plane.set_target(row, 0)
    w.receive(rtp(0x1000, 10, 9000, vp8(5, key=True)))
    return w, up, row


def test_a_tick_is_understood_for_an_hour() -> None:
    for then in (0, 1023, 1024, 10**9, WRAP - 1, WRAP, 3 * WRAP + 5):
        for passed in (0, 1, 5000, 10**9, 4000 * 10**9):
            assert 0 <= then - unticked(ticked(then), then + passed) < 1024


def test_missing_packets_are_asked_for_five_times() -> None:
    w, up, _ = started()
    w.receive(rtp(0x1000, 14, 12000, vp8(6)))
    w.receive(rtp(0x1000, 40, 15000, vp8(7)))
    w.sent(ALICE)
    w.rest(5)
    assert nacked(w.sent(ALICE)) == [*range(11, 14), *range(15, 40)]
    w.rest(3000)
    asked = nacked(w.sent(ALICE))
    assert asked.count(11) == 4
    assert w.plane.up_stats(up).nacks_sent == 5 * 28


def test_a_repaired_packet_is_forwarded_in_its_place() -> None:
    w, up, _ = started()
    w.plane.bind_rtx(up, 0x1F00, 97)
    w.receive(rtp(0x1000, 12, 12000, vp8(7)))
    w.rest(10)
    w.receive(rtp(0x1F00, 77, 10500, struct.pack("!H", 11) + vp8(6), pt=97))
    assert [m[1] for m in w.media()] == [500, 502, 501]
    stats = w.plane.up_stats(up)
    assert (stats.repaired, stats.lost, stats.packets) == (1, 0, 3)


@pytest.mark.parametrize("now", [10**9, WRAP - 500, WRAP - 300_000_000])
def test_nack_of_a_subscriber_is_answered_by_rtx(now: int) -> None:
    w, _, row = started(now, rtx_ssrc=0x2F00, rtx_payload_type=101)
    [original] = [p for p in w.sent(BOB) if p[1] & 0x7F == 100]
    w.receive(nack(0x2000, 500), BOB)
    [(ssrc, _, timestamp, pt, _, _, payload)] = w.media()
    assert (ssrc, pt, timestamp) == (0x2F00, 101, 7000)
    assert payload == struct.pack("!H", 500) + parsed(original)[6]
    w.receive(nack(0x2000, 500), BOB)
    assert w.media() == [], "the answer may be on its way"
    for _ in range(5):
        w.now += 200_000_000
        w.receive(nack(0x2000, 500), BOB)
    assert len(w.media()) == 2, "three times in all"
    assert w.plane.down_stats(row).retransmitted == 3


def test_nack_without_rtx_repeats_the_packet() -> None:
    w, _, _ = started()
    [first] = w.media()
    w.receive(nack(0x2000, 500, 501, 65535), BOB)
    [again] = w.media()
    assert again[:5] == first[:5]
    assert again[6] == first[6]


def test_a_storm_of_plis_reaches_the_publisher_twice_a_second() -> None:
    w, _, _ = started()
    w.sent(ALICE)
    got = 0
    for _ in range(1000):
        w.rest(1)
        w.receive(struct.pack("!BBHII", 0x81, 206, 2, 1, 0x2000), BOB)
        got += sum(p[1] == 206 for p in w.sent(ALICE))
    assert 1 <= got <= 2


def test_receiver_report_counts_loss() -> None:
    w, _, _ = started()
    w.rest(10)
    w.sent(ALICE)
    w.receive(rtp(0x1000, 13, 12000, vp8(6)))
    w.rest(1100)
    [report] = [p for p in w.sent(ALICE) if p[1] == 201]
    _, _, words, sender, ssrc, fraction = struct.unpack_from("!BBHIIB", report)
    assert (words, sender, ssrc) == (7, 0xA, 0x1000)
    assert fraction == 256 * 2 // 3
    assert int.from_bytes(report[13:16], "big") == 2


def test_sender_report_carries_the_publishers_clock() -> None:
    w, _, row = started()
    ntp = 0x83AA7E80 << 32
    w.receive(struct.pack("!BBHIQIII", 0x80, 200, 6, 0x1000, ntp, 9000, 1, 1))
    w.sent(BOB)
    w.rest(500)
    [report] = [p for p in w.sent(BOB) if p[1] == 200]
    ssrc, at, stamp = struct.unpack_from("!IQI", report, 4)
    assert ssrc == 0x2000
    elapsed = (at - ntp) / 2**32
    assert 0 < elapsed < 0.02
    assert stamp == 7000 + round(elapsed * 90000)
    # Bob's report about it tells the round trip
    sent_at = w.plane._plumbing.engine.tracks[0].downs[0].sr_sent
    block = struct.pack("!IIIIII", 0x2000, 0x10000002, 500, 90, at >> 16 & 0xFFFFFFFF, 6554)
    w.now = sent_at + 180_000_000
    w.receive(struct.pack("!BBHI", 0x81, 201, 7, 1) + block, BOB)
    stats = w.plane.down_stats(row)
    assert abs(stats.round_trip_ns - 80_000_000) < 100_000
    assert (stats.fraction_lost, stats.lost, stats.jitter_ns) == (0x10, 2, 1_000_000)


def test_transport_cc_feedback_to_the_publisher() -> None:
    w, _, _ = started()
    for i in (0, 1, 2, 5, 6):
        w.now += 10_000_000
        w.receive(rtp(0x1000, 11 + i, 9000, vp8(5, start=False), extensions={3: struct.pack("!H", 65534 + i & 0xFFFF)}))
    w.rest(200)
    [feedback] = [p for p in w.sent(ALICE) if p[:2] in (b"\x8f\xcd", b"\xaf\xcd")]
    base, count = struct.unpack_from("!HH", feedback, 12)
    assert (base, count) == (65534, 7)
    [chunk] = struct.unpack_from("!H", feedback, 20)
    assert chunk == 0x8000 | 0b11100110000000


@pytest.mark.parametrize("now", [10**9, WRAP - 95_000_000])
def test_transport_cc_of_a_subscriber_is_summed_up(now: int) -> None:
    w, _, _ = started(now)
    for i in range(19):
        w.now += 10_000_000
        w.receive(rtp(0x1000, 11 + i, 9000 + i, vp8(5, start=False)))
    numbers = [struct.unpack("!H", m[5][5])[0] for m in w.media()]
    assert numbers == [(numbers[0] + i) & 0xFFFF for i in range(20)]
    # eighteen arrived 10 ms apart, the two after them did not
    body = struct.pack("!HHI", numbers[0], 20, 1000 << 8) + struct.pack("!HH", 0x2000 | 18, 2)
    body += bytes([40] * 18)
    body += bytes(-len(body) % 4)
    w.receive(struct.pack("!BBHII", 0x8F, 205, 2 + len(body) // 4, 1, 0x2000) + body, BOB)
    w.rest(60)
    [feedback] = [r for r in w.plane.reports() if isinstance(r, Feedback)]
    assert (feedback.acknowledged_packets, feedback.lost_packets) == (18, 2)
    assert feedback.transport == w.bob
    assert (feedback.usage, feedback.standing_ns, feedback.recent_ns) == (Usage.NORMAL, 0, 0)
    assert feedback.span_ns == 170_000_000


def test_summaries_wait_while_all_is_well_and_come_at_once_when_it_is_not() -> None:
    w, _, _ = started()
    sequence, steps_come = 11, 1000 << 8

    def seconds_until_told(steps: int, rounds: int) -> float:
        """Rounds of 100 ms: ten packets 10 ms apart, which arrive so many quarters of a millisecond apart."""
        nonlocal sequence, steps_come
        for number in range(1, rounds + 1):
            for _ in range(10):
                w.now += 10_000_000
                w.receive(rtp(0x1000, sequence, 9000 + sequence, vp8(5, start=False)))
                sequence += 1
            base = struct.unpack("!H", w.media()[-10][5][5])[0]
            body = struct.pack("!HHI", base, 10, steps_come >> 8 << 8) + struct.pack("!H", 0x2000 | 10)
            body += bytes([steps_come & 255] + [steps] * 9)
            body += bytes(-len(body) % 4)
            steps_come += 10 * steps
            w.receive(struct.pack("!BBHII", 0x8F, 205, 2 + len(body) // 4, 1, 0x2000) + body, BOB)
            if any(isinstance(one, Feedback) for one in w.plane.reports()):
                return number / 10
        return 0.0

    assert seconds_until_told(40, 10) <= 0.2
    w.plane.attend(w.bob, 1_000_000_000)
    seconds_until_told(40, 12)
    assert seconds_until_told(40, 12) >= 0.9
    assert 0 < seconds_until_told(60, 12) <= 0.4, "a queue grows"


def test_long_summaries_of_many_peers_come_together() -> None:
    w = World()
    heard = struct.pack("!BBHI", 0x81, 201, 7, 1) + bytes(24)
    times: dict[int, list[int]] = {w.alice: [], w.bob: []}
    for transport, peer in ((w.alice, ALICE), (w.bob, BOB)):
        w.receive(heard, peer)
        w.rest(31)
        assert [report.transport for report in w.plane.reports() if isinstance(report, Feedback)] == [transport]
        w.plane.attend(transport, 4_000_000_000)
    for _ in range(900):
        w.rest(15)
        for peer in (ALICE, BOB):
            w.receive(heard, peer)
            for report in w.plane.reports():
                if isinstance(report, Feedback):
                    times[report.transport].append(report.now)
    assert len(times[w.bob]) >= 3
    assert times[w.alice] == times[w.bob]
    assert all(4.0 <= (later - at) / 1e9 <= 4.1 for at, later in itertools.pairwise(times[w.bob]))


def test_malformed_feedback_is_dropped_and_the_rest_used() -> None:
    w, _, _ = started()
    w.sent(BOB)
    broken = struct.pack("!BBHIIHHI", 0x8F, 205, 4, 1, 0x2000, 1, 65535, 0)
    w.receive(broken + nack(0x2000, 500), BOB)
    assert len(w.media()) == 1
    assert w.plane.totals()["drop_malformed"] == 1
