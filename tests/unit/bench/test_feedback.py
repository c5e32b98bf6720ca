"""RTCP of the load's receivers, read back by the project's own parsers; and what its senders obey."""

import random
import struct

import numpy as np
import pytest

from benchmarks.load import feedback
from benchmarks.load.feedback import Arrivals, KeyFrameWanted, Repeat, SenderReport, hear
from tertulia.protocol import twcc
from tests.unit.bench.test_receiving import DELTA
from tests.unit.bench.wire import Pair

START_NS = 1_764_000_000_000_000_000


def read(packets: list[bytes]) -> list[twcc.TransportFeedback]:
    found = []
    for packet in packets:
        first, kind, words = struct.unpack_from("!BBH", packet)
        assert kind == 205
        assert first & 31 == 15
        assert len(packet) == 4 + 4 * words
        body = packet[4 : -packet[-1]] if first & 0x20 else packet[4:]
        found.append(twcc.parse_body(body))
    return found


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 399])
def test_the_quick_feedback_says_what_the_careful_one_says(count: int) -> None:
    rng = random.Random(count)
    numbers = np.arange(65_500, 65_500 + count) & 0xFFFF
    times = START_NS + np.cumsum([rng.randrange(0, 20_000_000) for _ in range(count)])
    quick = feedback.quick_feedback(numbers, times, 9, 0)
    assert quick is not None
    careful = twcc.build(feedback.OWN_SSRC, 0, 9, list(zip(numbers.tolist(), times.tolist(), strict=True)))
    assert read(quick) == read(careful)


@pytest.mark.parametrize(
    ("numbers", "steps_ms"),
    [([1, 3], [0, 1]), ([2, 1], [0, 1]), ([1, 1], [0, 1]), ([1, 2], [0, -1]), ([1, 2], [0, 70])],
)
def test_the_unusual_is_left_to_the_careful_one(numbers: list[int], steps_ms: list[int]) -> None:
    times = START_NS + np.array(steps_ms) * 1_000_000
    assert feedback.quick_feedback(np.array(numbers), times, 0, 0) is None


def test_arrivals_are_said_once_and_in_datagrams() -> None:
    arrivals = Arrivals()
    assert arrivals.feedback() == []
    for begin in range(0, 3_000, 100):
        numbers = np.array([number for number in range(begin, begin + 100) if number % 17])
        arrivals.note(numbers, START_NS + numbers * 100_000)
    packets = arrivals.feedback()
    assert max(map(len, packets)) <= feedback.MAX_BYTES
    said = sum(arrival is not None for one in read(packets) for arrival in one.arrivals_ns)
    assert said == sum(number % 17 != 0 for number in range(3_000))
    assert [one.count for one in read(packets)] == list(range(len(packets)))
    assert arrivals.feedback() == []


def test_receiver_reports_count_per_interval() -> None:
    with Pair() as pair:
        pair.send(*(pair.packet(number, DELTA) for number in range(10) if number not in (4, 5)))
        pair.count()
        pair.stream.sender_report = (0x11223344, START_NS)
        (report,) = feedback.receiver_reports([pair.stream], pair.tables, START_NS + 500_000_000)
        ssrc, loss, highest, _, middle, since = struct.unpack_from("!IIIIII", report, 8)
        assert (ssrc, highest & 0xFFFF, middle, since) == (1, 9, 0x11223344, 32_768)
        assert (loss >> 24, loss & 0xFFFFFF) == (2 * 256 // 10, 2)
        (report,) = feedback.receiver_reports([pair.stream], pair.tables, START_NS)
        assert struct.unpack_from("!I", report, 12)[0] >> 24 == 0


def test_streams_without_packets_are_not_reported() -> None:
    with Pair() as pair:
        assert feedback.receiver_reports([pair.stream], pair.tables, START_NS) == []


def test_missing_packets_are_asked_for_in_time_and_not_forever() -> None:
    with Pair() as pair:
        pair.send(*(pair.packet(number, DELTA) for number in (1, 3)))
        pair.count()
        noticed = pair.stream.missing[(1 << 16) + 2][0]
        assert feedback.nack(pair.stream, noticed + feedback.NACK_AFTER_NS - 1) == b""
        now, asked = noticed + feedback.NACK_AFTER_NS, 0
        while pair.stream.missing:
            packet = feedback.nack(pair.stream, now)
            if packet:
                assert hear(packet) == [Repeat(1, (2,))]
                assert feedback.nack(pair.stream, now + 1) == b""
                asked += 1
            now += feedback.NACK_EVERY_NS
        assert asked == feedback.MAX_NACKS


def test_what_senders_hear() -> None:
    report = struct.pack("!BBHIIIIII", 0x80, 200, 6, 5, 0x1111AABB, 0xCCDD2222, 0, 0, 0)
    fir = struct.pack("!BBHIIIB3x", 0x84, 206, 4, 7, 0, 66, 1)
    nack = struct.pack("!BBHIIHH", 0x81, 205, 3, 7, 5, 65_535, 0b101)
    heard = hear(report + feedback.key_frame_request(65) + fir + nack)
    assert heard == [
        SenderReport(5, 0xAABBCCDD),
        KeyFrameWanted(65),
        KeyFrameWanted(66),
        Repeat(5, (65_535, 0, 2)),
    ]


def test_garbage_is_passed_over() -> None:
    rng = random.Random(5)
    whole = feedback.key_frame_request(65) + struct.pack("!BBHIIHH", 0x81, 205, 3, 7, 5, 1, 0)
    for _ in range(2_000):
        data = bytearray(whole)
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        hear(bytes(data[: rng.randrange(len(data) + 1)]))
