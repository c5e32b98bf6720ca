"""Counting: loss, disorder, repeats, repairs, key frames, delays, over real sockets and real SRTP."""

import random
import struct
import time

import pytest

from benchmarks.load import batch, media
from benchmarks.load.media import MAGIC, STAMP, vp8_descriptor
from benchmarks.load.receiving import find_extension
from tertulia.protocol.rtp import build_extensions
from tests.unit.bench.wire import Pair

KEY_FRAME = vp8_descriptor(1, 1, True) + b"\0\0\0\x9d\x01\x2a" + bytes(20)
DELTA = vp8_descriptor(2, 2, True) + b"\1\0\0" + bytes(20)


def stamp(before_ns: int = 0) -> bytes:
    return STAMP.pack(time.time_ns() - before_ns, 1, MAGIC)


@pytest.fixture(params=["recvmmsg", "one by one"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The same tests without the system call."""
    if request.param != "recvmmsg":
        monkeypatch.setattr(batch, "library", None)
    return str(request.param)


@pytest.mark.parametrize("start", [0, 30_000, 65_530])
def test_everything_in_order(start: int) -> None:
    with Pair() as pair:
        for begin in range(0, 300, 50):
            pair.send(*(pair.packet(start + number, KEY_FRAME) for number in range(begin, begin + 50)))
            pair.count()
        assert (pair.tables.packets, pair.tables.total_lost(), pair.tables.duplicates) == (300, 0, 0)
        assert pair.stream.missing == {}


def test_gaps_are_lost_and_noticed() -> None:
    with Pair() as pair:
        pair.send(*(pair.packet(number, DELTA) for number in (65_534, 65_535, 2, 3, 6)))
        pair.count()
        assert pair.tables.packets == 5
        assert pair.tables.total_lost() == 4
        assert [number & 0xFFFF for number in pair.stream.missing] == [0, 1, 4, 5]
        pair.send(pair.packet(4, DELTA), pair.packet(7, DELTA))
        pair.count()
        assert (pair.tables.total_lost(), pair.tables.recovered) == (3, 1)


def test_disorder_within_a_batch_is_no_loss() -> None:
    with Pair() as pair:
        pair.send(pair.packet(10, DELTA))
        pair.count()
        pair.send(*(pair.packet(number, DELTA) for number in (13, 11, 12, 14)))
        pair.count()
        assert (pair.tables.packets, pair.tables.total_lost()) == (5, 0)


def test_repeats_do_not_hide_loss() -> None:
    """Two of the same and one missing: as many as expected, and yet one is lost."""
    with Pair() as pair:
        pair.send(pair.packet(10, DELTA))
        pair.count()
        twice = pair.packet(11, DELTA)
        pair.send(twice, twice, pair.packet(13, DELTA))
        pair.count()
        assert (pair.tables.total_lost(), pair.tables.duplicates, pair.tables.packets) == (1, 1, 3)


def test_a_repair_stream_fills_the_gap() -> None:
    with Pair() as pair:
        pair.send(*(pair.packet(number, DELTA) for number in (10, 12)))
        pair.count()
        pair.send(pair.packet(1, struct.pack("!H", 11) + DELTA, ssrc=2, kind=97))
        pair.count()
        assert (pair.tables.total_lost(), pair.tables.recovered, pair.tables.repair_packets) == (0, 1, 1)
        pair.send(pair.packet(2, struct.pack("!H", 11) + DELTA, ssrc=2, kind=97))
        pair.count()
        assert pair.tables.duplicates == 1


def test_strangers_and_other_protocols_are_kept_apart() -> None:
    with Pair() as pair:
        pair.send(b"\0\1\0\0stun", b"\x16\xfe\xfddtls", pair.packet(5, DELTA, ssrc=99), b"\x80\xc8\0\6rtcp", b"\x80")
        pair.count()
        assert len(pair.others) == 4
        assert (pair.tables.unannounced, pair.tables.packets) == (1, 0)


def test_forgeries_are_counted_when_they_are_opened() -> None:
    with Pair() as pair:
        good = bytearray(pair.packet(5, KEY_FRAME, marker=True))
        good[-1] ^= 1
        pair.send(bytes(good))
        pair.count()
        assert (pair.tables.undecryptable, pair.stream.first_frame_ns) == (1, 0)


def test_the_first_frame_needs_a_key_frame_and_its_end() -> None:
    with Pair() as pair:
        pair.send(pair.packet(1, DELTA, marker=True))
        pair.count()
        assert pair.stream.first_frame_ns == 0
        pair.send(pair.packet(2, KEY_FRAME))
        pair.count()
        assert pair.stream.first_frame_ns == 0
        before = time.time_ns()
        pair.send(pair.packet(3, vp8_descriptor(1, 1, False) + b"end", marker=True))
        pair.count()
        assert before - 10**7 < pair.stream.first_frame_ns <= time.time_ns() + 10**7
        opened = pair.tables.decrypted
        pair.send(pair.packet(4, DELTA), pair.packet(5, DELTA))
        pair.count()
        assert pair.tables.decrypted == opened, "only the packet that ends a frame is opened from now on"


def test_delays_come_from_the_stamp() -> None:
    with Pair() as pair:
        pair.send(pair.packet(1, KEY_FRAME + stamp(), marker=True))
        pair.send(pair.packet(2, DELTA + stamp(50_000_000), marker=True))
        pair.send(pair.packet(3, DELTA + bytes(16), marker=True))
        pair.count()
        delay = pair.tables.delay["video"]
        assert delay.count == 2
        assert delay.max_ns >= 50_000_000
        assert pair.tables.other_stamp == 1


def test_audio_is_stamped_in_every_packet() -> None:
    with Pair("audio", "opus") as pair:
        pair.send(*(pair.packet(number, b"\x7b\x41\x10" + bytes(60) + stamp(), kind=111) for number in range(1, 21)))
        pair.count()
        assert pair.tables.delay["audio"].count == 20
        assert pair.stream.first_frame_ns > 0


def test_transport_sequence_numbers_wherever_they_stand() -> None:
    with Pair() as pair:
        pair.twcc[0] = 3
        shapes = [
            [(3, b"\1\2")],
            [(4, b"0"), (3, b"\1\3")],
            [(10, b"f"), (4, b"mid0"), (3, b"\1\4"), (1, b"\x80")],
            [(4, b"0")],
            [(3, b"\1\5")],
        ]
        for number, shape in enumerate(shapes):
            pair.send(pair.packet(number, DELTA, block=build_extensions(shape)))
        pair.send(pair.packet(9, DELTA))
        pair.count()
        assert pair.sequenced == [0x102, 0x103, 0x104, 0x105]


def test_removed_streams_keep_their_loss_and_give_their_row_back() -> None:
    with Pair() as pair:
        pair.send(*(pair.packet(number, DELTA) for number in (1, 4)))
        pair.count()
        pair.tables.remove(pair.stream)
        assert pair.tables.total_lost() == 2
        pair.send(pair.packet(5, DELTA))
        pair.count()
        assert pair.tables.unannounced == 1
        again = pair.add(1, 0, "video", "vp8")
        assert again.row == pair.stream.row
        pair.send(pair.packet(900, KEY_FRAME))
        pair.count()
        assert pair.tables.total_lost() == 2


def test_many_streams_at_random() -> None:
    """Against a plain count of sets."""
    rng = random.Random(11)
    with Pair() as pair:
        streams = {1: pair.stream} | {ssrc: pair.add(ssrc, 0, "video", "vp8") for ssrc in range(3, 400)}
        sent: dict[int, set[int]] = {ssrc: set() for ssrc in streams}
        numbers = {ssrc: rng.randrange(65_536) for ssrc in streams}
        for _ in range(20):
            packets = []
            for ssrc in rng.sample(sorted(streams), 60):
                for _ in range(rng.randrange(1, 4)):
                    numbers[ssrc] += 1 + (rng.random() < 0.1)
                    sent[ssrc].add(numbers[ssrc])
                    packets.append(pair.packet(numbers[ssrc], DELTA, ssrc=ssrc))
            rng.shuffle(packets)
            pair.send(*packets)
            pair.count()
        assert pair.tables.packets == sum(map(len, sent.values()))
        for ssrc, found in sent.items():
            # disorder at the very start of a stream may move its first number back
            lost = max(found) - min(found) + 1 - len(found) if found else 0
            assert pair.tables.row_lost(streams[ssrc].row) == lost


def test_the_extension_is_found_or_not() -> None:
    head = bytes(12)
    assert find_extension(head, 3) == 0
    block = build_extensions([(4, b"ab"), (3, b"\0\1")])
    assert find_extension(b"\x90" + bytes(11) + block, 3) == 19
    assert find_extension(b"\x90" + bytes(11) + block, 5) == 0
    two_byte = build_extensions([(3, b""), (4, b"x")])
    assert find_extension(b"\x90" + bytes(11) + two_byte, 3) == 0
    assert find_extension(b"\x90" + bytes(11) + b"\xbe\xde\xff\xff" + bytes(40), 3) == 0


def test_payload_of_our_own_clip_is_recognised() -> None:
    clip = media.load(media.encode({"opus"}, set()))["opus", ""]
    assert media.begins_key_frame("opus", clip.frames[0][0])
