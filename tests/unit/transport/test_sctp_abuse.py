"""A peer that speaks SCTP by hand: what it can make us keep or compute is bounded, and it hurts only itself."""

import random
import struct
import time
from collections import Counter
from collections.abc import Iterator
from typing import TypeVar

import aiortc.rtcsctptransport as base
import pytest
from google_crc32c import value as crc32c

from tertulia.protocol.machine import SECOND, Nanos
from tertulia.sfu.transport import channels, sctp
from tertulia.sfu.transport.api import ChannelMessage, ChannelOpened, TransportEvent
from tertulia.sfu.transport.association import Association
from tertulia.sfu.transport.channels import ChannelOptions, build_open

from .virtual import VirtualLoop, virtual_loop

FIRST, LAST, UNORDERED = base.SCTP_DATA_FIRST_FRAG, base.SCTP_DATA_LAST_FRAG, base.SCTP_DATA_UNORDERED
TSN = 1000
TAG = 77
ChunkT = TypeVar("ChunkT", bound=base.Chunk)


class Hand:
    """The handmade peer and the association it works on."""

    def __init__(self, loop: VirtualLoop, rwnd: int = 1 << 20) -> None:
        self.loop = loop
        self.counts: Counter[str] = Counter()
        self.events: list[TransportEvent] = []
        self.sent: list[base.Chunk] = []
        self.bytes_sent = 0
        self.now = Nanos(SECOND)
        self.tsn = TSN
        self.association = Association(
            self._receive, server=True, emit=self.events.append, count=lambda name: self.counts.update([name])
        )
        self.association.begin(self.now, 5000, 65536)
        init = base.InitChunk()
        init.initiate_tag, init.advertised_rwnd, init.initial_tsn = TAG, rwnd, TSN
        init.outbound_streams = init.inbound_streams = 65535
        self.give(init, tag=0)
        ack = self.last(base.InitAckChunk)
        self.tag = ack.initiate_tag
        self.their_tsn = ack.initial_tsn
        cookie = next(value for kind, value in ack.params if kind == base.SCTP_STATE_COOKIE)
        echo = base.CookieEchoChunk()
        echo.body = cookie
        self.give(echo)
        assert self.association._association_state is Association.State.ESTABLISHED

    def _receive(self, packet: bytes) -> None:
        self.bytes_sent += len(packet)
        self.sent += base.parse_packet(packet)[3]

    def raw(self, packet: bytes) -> None:
        self.now = Nanos(self.now + 200_000)
        self.association.handle(self.now, packet)

    def give(self, chunk: base.Chunk, tag: int | None = None) -> None:
        self.raw(base.serialize_packet(5000, 5000, self.tag if tag is None else tag, chunk))

    def last(self, kind: type[ChunkT]) -> ChunkT:
        return next(chunk for chunk in reversed(self.sent) if isinstance(chunk, kind))

    def data(
        self,
        payload: bytes,
        *,
        stream: int = 0,
        ppid: int = 53,
        flags: int = FIRST | LAST,
        tsn: int | None = None,
        seq: int = 0,
    ) -> None:
        chunk = base.DataChunk(flags=flags)
        chunk.tsn = self.tsn if tsn is None else tsn
        if tsn is None:
            self.tsn += 1
        chunk.stream_id, chunk.stream_seq, chunk.protocol, chunk.user_data = stream, seq, ppid, payload
        self.give(chunk)

    def open(self, label: str = "_reliable", stream: int = 0) -> None:
        self.data(build_open(ChannelOptions(label)), stream=stream, ppid=50)

    def sack(self, cumulative: int, gaps: list[tuple[int, int]] | None = None, rwnd: int = 1 << 20) -> None:
        chunk = base.SackChunk()
        chunk.cumulative_tsn, chunk.advertised_rwnd = cumulative, rwnd
        chunk.gaps = gaps or []
        self.give(chunk)

    def alive(self, seq: int = 1) -> bool:
        """An ordinary message still arrives."""
        self.data(b"alive", seq=seq)
        return bool(self.events) and self.events[-1] == ChannelMessage("_reliable", b"alive")


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Iterator[VirtualLoop]:
    with virtual_loop(monkeypatch) as loop:
        yield loop


@pytest.fixture
def hand(loop: VirtualLoop) -> Iterator[Hand]:
    hands: list[Hand] = []

    async def make() -> None:
        hands.append(Hand(loop))

    loop.run_until_complete(make())
    yield hands[0]

    async def end() -> None:
        hands[0].association.close()

    loop.run_until_complete(end())
    assert loop.pending_timers == 0


def test_the_handmade_peer_is_heard(hand: Hand) -> None:
    hand.open()
    assert hand.events == [ChannelOpened("_reliable")]
    assert hand.last(base.DataChunk).user_data == channels.ACK
    assert hand.alive()


def test_a_message_is_whole_when_its_middle_comes_last(hand: Hand) -> None:
    hand.open()
    hand.data(b"be", flags=FIRST, tsn=hand.tsn, seq=1)
    hand.data(b"end", flags=LAST, tsn=hand.tsn + 2, seq=1)
    hand.data(b"gin ", flags=0, tsn=hand.tsn + 1, seq=1)
    assert hand.events[-1] == ChannelMessage("_reliable", b"begin end")


def test_an_endless_message_ends_the_association(hand: Hand) -> None:
    hand.open()
    hand.data(bytes(1100), flags=FIRST, seq=1)
    for _ in range(5000):
        hand.data(bytes(1100), flags=0, seq=1)
        if hand.association.ended:
            break
    assert hand.association.ended
    assert hand.tsn - TSN <= sctp.MAX_REASSEMBLY + 4
    assert isinstance(hand.sent[-1], base.AbortChunk)
    assert hand.counts["sctp_endless_message"] == 1


def test_gaps_for_ever_are_kept_within_the_window(hand: Hand) -> None:
    hand.open()
    for number in range(20_000):
        hand.data(b"x" * 100, stream=number % 1000, tsn=hand.tsn + 1 + 2 * number)
    association = hand.association
    assert len(association._sack_misordered) <= sctp.TSN_WINDOW
    kept = sum(len(stream.reassembly) for stream in association._inbound_streams.values())
    assert kept <= sctp.TSN_WINDOW
    assert hand.counts["sctp_window"] + hand.counts["sctp_rate_limited"] > 18_000
    assert all(len(bytes(chunk)) < 1000 for chunk in hand.sent if isinstance(chunk, base.SackChunk))


def test_the_receive_window_is_enforced(hand: Hand) -> None:
    hand.open()
    for number in range(2000):
        hand.data(bytes(1150), stream=number % 1000, flags=FIRST | LAST, tsn=hand.tsn + 1 + number, seq=5)
    assert hand.association._advertised_rwnd > -2 * 1150
    assert hand.last(base.SackChunk).advertised_rwnd <= 1150


def test_duplicates_cost_little(hand: Hand) -> None:
    hand.open()
    for _ in range(5000):
        hand.data(b"x", tsn=TSN)
    assert len(hand.association._sack_duplicates) <= sctp.MAX_DUPLICATES
    assert hand.alive()


@pytest.mark.parametrize(
    "gaps",
    [
        [(1, 65535)] * 250,
        [(5, 1)],
        [(0, 3)],
        [(2, 3), (1, 1)],
        [(65535, 65535)],
        [(position, position) for position in range(1, 600, 2)],
    ],
)
def test_lying_acknowledgements_are_refused(hand: Hand, gaps: list[tuple[int, int]]) -> None:
    hand.open()
    for _ in range(20):
        hand.association.send("_reliable", bytes(1000))
    started = time.process_time()
    for _ in range(50):
        hand.sack(hand.their_tsn, gaps)
    assert time.process_time() - started < 1.0  # the first case alone iterates 800 million times when it is believed
    assert hand.counts["sctp_refused"] == 50
    assert hand.alive()


def test_acknowledging_the_future_is_refused(hand: Hand) -> None:
    hand.open()
    hand.sack(hand.their_tsn + 1000)
    assert hand.counts["sctp_refused"] == 1
    assert hand.alive()


def test_a_closed_window_is_probed_not_flooded(hand: Hand) -> None:
    hand.open()
    hand.sack(hand.their_tsn, rwnd=0)
    before = len(hand.sent)
    for _ in range(100):
        assert hand.association.send("_reliable", bytes(1000))
    assert sum(isinstance(chunk, base.DataChunk) for chunk in hand.sent[before:]) == 1
    probe = hand.last(base.DataChunk)
    hand.sack(probe.tsn, rwnd=5000)
    assert 2 <= sum(isinstance(chunk, base.DataChunk) for chunk in hand.sent[before:]) <= 7


def test_what_is_in_flight_is_bounded(hand: Hand) -> None:
    """However open a peer's window is, we send no more than the flight limit ahead."""
    hand.open()
    for _ in range(160):
        assert hand.association.send("_reliable", bytes(60_000))
    most = 0
    for acknowledged in range(hand.their_tsn, hand.their_tsn + 4000, 2):
        hand.sack(acknowledged, rwnd=0xFFFFFFFF)
        most = max(most, hand.association._flight_size)
    assert sctp.MAX_FLIGHT_BYTES <= most <= sctp.MAX_FLIGHT_BYTES + 1200


def test_packets_dropped_whole_have_a_name(hand: Hand) -> None:
    hand.open()
    before = hand.counts["sctp_malformed"]
    sack = base.SackChunk()
    sack.cumulative_tsn, sack.advertised_rwnd = hand.their_tsn, 1 << 20
    whole = base.serialize_packet(5000, 5000, hand.tag, sack)
    for packet in (b"", b"\x13", whole[:-1], whole[:20] + b"\xff" + whole[21:], whole + bytes(3)):
        hand.raw(packet)
    assert hand.counts["sctp_malformed"] == before + 5
    hand.give(sack, tag=hand.tag ^ 1)
    assert hand.counts["sctp_wrong_tag"] == 1
    init = base.InitChunk()
    hand.give(init)
    assert hand.counts["sctp_wrong_tag"] == 2
    assert hand.alive()


def test_repeated_inits_change_nothing(hand: Hand) -> None:
    hand.open()
    assert hand.alive()
    init = base.InitChunk()
    init.initiate_tag, init.advertised_rwnd, init.initial_tsn = 1234, 1, 5
    init.outbound_streams = init.inbound_streams = 1
    for _ in range(2000):
        hand.give(init, tag=0)
    assert hand.counts["sctp_refused"] == 2000
    assert hand.alive(seq=2)


def test_forged_tags_and_checksums_are_dropped(hand: Hand) -> None:
    hand.open()
    events = list(hand.events)
    chunk = base.DataChunk(flags=FIRST | LAST)
    chunk.tsn, chunk.protocol, chunk.user_data, chunk.stream_seq = hand.tsn, 53, b"forged", 1
    hand.give(chunk, tag=hand.tag ^ 1)
    packet = base.serialize_packet(5000, 5000, hand.tag, chunk)
    hand.raw(packet[:8] + bytes(4) + packet[12:])
    hand.give(base.AbortChunk(), tag=hand.tag ^ 1)
    assert hand.events == events
    assert hand.alive()


def test_a_flood_of_channels_is_limited(hand: Hand) -> None:
    hand.open()
    for stream in range(2, 1000):
        hand.open(f"channel {stream}", stream)
    assert len(hand.association._channels) == channels.MAX_CHANNELS
    assert sum(isinstance(event, ChannelOpened) for event in hand.events) == channels.MAX_CHANNELS
    for stream in range(1024, 10_000, 7):
        hand.open("beyond", stream)
    assert len(hand.association._inbound_streams) <= sctp.MAX_STREAMS
    assert hand.alive()


@pytest.mark.parametrize(
    "message",
    [
        b"\x03",
        b"\x03\x00\x00\x00\x00\x00\x00\x00\xff\xff\x00\x00" + b"a" * 10,
        b"\x03\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\xff\xfe",
        b"\x03\x00\x00\x00\x00\x00\x00\x00\x04\x00\x00\x00" + b"a" * 1024,
        b"\x02\x00",
        b"\x09",
        build_open(ChannelOptions("twice on one stream")),
    ],
)
def test_odd_channel_handshakes_are_refused(hand: Hand, message: bytes) -> None:
    hand.open()
    hand.data(message, ppid=50, seq=1)
    assert hand.counts["sctp_refused"] == 1
    hand.data(b"\x02", ppid=50, stream=40)  # ACK of nothing
    assert hand.alive(seq=2)


def test_messages_without_a_channel_or_with_odd_types_are_counted(hand: Hand) -> None:
    hand.open()
    hand.data(b"x", stream=9)
    hand.data(b"x", ppid=99, seq=1)
    assert (hand.counts["data_unknown_channel"], hand.counts["data_unknown_ppid"]) == (1, 1)
    assert hand.alive(seq=2)


def test_jumps_of_forward_tsn_harm_only_the_sender(hand: Hand) -> None:
    hand.open()
    chunk = base.ForwardTsnChunk()
    chunk.cumulative_tsn = hand.tsn + 0x7000_0000
    chunk.streams = [(stream, 65535) for stream in range(200)]
    hand.give(chunk)
    chunk.streams = [(60_000, 1)]
    chunk.cumulative_tsn += 1
    hand.give(chunk)
    assert len(hand.association._inbound_streams) <= 200
    assert not hand.association.ended
    hand.tsn = chunk.cumulative_tsn + 1
    hand.data(b"behind the jump", stream=300)
    assert hand.counts["data_unknown_channel"] == 1


def test_a_flood_of_packets_is_limited(hand: Hand) -> None:
    hand.open()
    for _ in range(3 * sctp.PACKET_BURST):
        hand.association.handle(hand.now, b"\0" * 12)
    assert hand.counts["sctp_rate_limited"] >= 2 * sctp.PACKET_BURST - 10
    hand.now = Nanos(hand.now + SECOND)
    assert hand.alive()


@pytest.mark.parametrize("seed", range(6))
def test_mutated_packets_never_get_out(hand: Hand, seed: int) -> None:
    """Every kind of chunk with random damage but a right checksum and tag; nothing raises, nothing grows."""
    dice = random.Random(seed)
    hand.open()
    hand.association.send("_reliable", bytes(5000))
    kinds = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 14, 130, 192, 193, 64]
    for _ in range(1500):
        body = dice.randbytes(dice.choice([0, 1, 3, 4, 8, 12, 16, 20, 40, 100]))
        if dice.random() < 0.5 and len(body) >= 4:
            body = struct.pack("!L", (hand.tsn + dice.randrange(-5, 300)) & 0xFFFFFFFF) + body[4:]
        kind = dice.choice([kind for kind in kinds if kind not in (6, 7, 14)])
        chunk = struct.pack("!BBH", kind, dice.randrange(256), len(body) + 4) + body + bytes(-len(body) % 4)
        tag = 0 if kind == 1 else hand.tag
        header = struct.pack("!HHL", 5000, 5000, tag)
        checksum = crc32c(header + bytes(4) + chunk)
        hand.raw(header + struct.pack("<L", checksum) + chunk)
    association = hand.association
    assert len(association._inbound_streams) <= sctp.MAX_STREAMS
    assert len(association._sack_misordered) <= sctp.TSN_WINDOW
    assert len(association._channels) <= channels.MAX_CHANNELS
    assert association._advertised_rwnd <= 1 << 20


def test_a_dead_association_stays_dead(hand: Hand) -> None:
    hand.open()
    hand.give(base.AbortChunk())
    assert hand.association.ended
    sent = len(hand.sent)
    init = base.InitChunk()
    init.initiate_tag, init.advertised_rwnd, init.initial_tsn = TAG, 1 << 20, TSN
    init.outbound_streams = init.inbound_streams = 10
    hand.give(init, tag=0)
    hand.association.wake(Nanos(hand.now + 100 * SECOND))
    assert len(hand.sent) == sent
    assert hand.association.next_wake() is None
