"""Authentic nonsense: whatever a peer with valid keys sends, both lives go on, agree, and keep to their limits."""

import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pylibsrtp import Error

from tertulia.sfu.plane import srtp
from tertulia.sfu.plane.api import Address, Codec, Extension, SrtpProfile
from tests.property.test_plane_lives import Both
from tests.unit.plane.packets import rtp, vp8

ALICE = Address(0, "198.51.100.1", 4000)
BOB = Address(0, "198.51.100.2", 4000)
PASSWORD = "one that only the two know"


class Pair:
    """A publisher and a subscriber in both lives, in the clear or (`secured`) under AES-GCM."""

    def __init__(self, codec: Codec = Codec.VP8, *, secured: bool = False) -> None:
        self.both = Both(1)
        self.profile = SrtpProfile.AEAD_AES_128_GCM if secured else SrtpProfile.NULL
        self.key = bytes(range(28)) if secured else b""
        self.sessions = {source: srtp.session(self.profile, self.key, True) for source in (ALICE, BOB) if secured}
        order = self.both.order
        self.alice, self.bob = order("add_transport"), order("add_transport")
        for transport, address in ((self.alice, ALICE), (self.bob, BOB)):
            order("set_keys", transport, self.profile, self.key, self.key)
            order("allow", transport, address)
            order("select", transport, address)
            order("answer_checks", transport, "ours", PASSWORD)
            order("set_extensions", transport, {kind: kind + 1 for kind in list(Extension)[:14]})
        self.track = order("add_track", codec, 90000)
        self.up = order("add_up", self.track, self.alice, 1, 0, payload_type=96, nack=True, twcc=True)
        order("bind_rtx", self.up, 2, 97)
        self.down = order("add_down", self.track, self.bob, 3, payload_type=96, rtx_ssrc=4, rtx_payload_type=97)
        order("set_target", self.down, 0)
        self.both.compare()

    def receive(self, source: Address, *packets: bytes) -> list[bytes]:
        self.both.now += 1_000_000
        return [data for _, data in self.both.step([(tuple(source), data) for data in packets])]

    def protected(self, source: Address, packet: bytes) -> bytes:
        """As the source would send it, if it can be protected at all."""
        session = self.sessions.get(source)
        if session is None or len(packet) < 12 or packet[0] >> 6 != 2:
            return packet
        try:
            return session.protect_rtcp(packet) if 192 <= packet[1] < 224 else session.protect(packet)
        except (Error, ValueError):
            return packet

    def alive(self) -> None:
        """A key frame still crosses."""
        self.receive(ALICE, rtp(1, 1, 1, vp8(1, key=True)))
        sent = self.receive(ALICE, *[rtp(1, 5000 + i, 9000, vp8(2, key=True)) for i in range(4)])
        assert any(data[8:12] == b"\0\0\0\3" for data in sent if len(data) > 20)

    def total(self, name: str) -> int:
        return self.both.order("totals")[name]


HEADS = st.tuples(st.sampled_from([0x80, 0x90, 0xA0, 0xB0, 0x8F, 0x9F, 0xBF, 0xC0]), st.integers(0, 255))


@st.composite
def media(draw: Any) -> bytes:
    first, second = draw(HEADS)
    ssrc = draw(st.sampled_from([1, 1, 1, 2, 2, 9]))
    second = draw(st.sampled_from([96, 96 | 0x80, 97, second]))
    head = struct.pack("!BBHII", first, second, draw(st.integers(0, 65535)), draw(st.integers(0, 2**32 - 1)), ssrc)
    return (head + draw(st.binary(max_size=80)))[: draw(st.integers(0, 92))]


@st.composite
def control(draw: Any) -> bytes:
    parts = b""
    for _ in range(draw(st.integers(1, 4))):
        kind, form = draw(st.integers(200, 207)), draw(st.integers(0, 31))
        body = draw(st.sampled_from([b"", b"\0\0\0\1", b"\0\0\0\7\0\0\0\3"])) + draw(st.binary(max_size=60))
        words = draw(st.sampled_from([len(body) // 4, len(body) // 4, draw(st.integers(0, 65535))]))
        parts += struct.pack("!BBH", draw(st.sampled_from([0x80, 0xA0])) | form, kind, words) + body
    return parts


@settings(max_examples=150, deadline=None)
@given(
    codec=st.sampled_from(list(Codec)),
    secured=st.booleans(),
    batch=st.lists(st.tuples(st.sampled_from([ALICE, BOB]), st.one_of(media(), control(), st.binary(max_size=60)))),
)
def test_nonsense_is_dropped_alike(codec: Codec, secured: bool, batch: list[tuple[Address, bytes]]) -> None:
    pair = Pair(codec, secured=secured)
    for source, data in batch:
        pair.receive(source, pair.protected(source, data))
    pair.both.now += 2 * 10**9
    pair.both.step([])
    assert len(pair.both.order("up_stats", pair.up)) == 13


@pytest.mark.parametrize(
    "broken",
    [
        rtp(1, 9, 9, b"abc", padding=4)[:-1] + b"\0",
        rtp(1, 9, 9, b"abc", padding=4)[:-1] + b"\xff",
        struct.pack("!BBHII", 0xA0, 96, 9, 9, 1),
        struct.pack("!BBHIIHH", 0x90, 96, 9, 9, 1, 0xBEDE, 500),
        struct.pack("!BBHII", 0x8F, 96, 9, 9, 1),
        struct.pack("!BBHII", 0xC0, 96, 9, 9, 1)[:11],
        b"\x80\xc8\0",
        struct.pack("!BBHI", 0x80, 201, 500, 1),
        struct.pack("!BBHI", 0xA0, 201, 1, 0xFF),
        bytes([64]) * 30,
        bytes([127]) * 30,
        b"",
    ],
)
def test_malformed_packets_are_counted_and_nothing_else(broken: bytes) -> None:
    pair = Pair()
    assert [data for data in pair.receive(ALICE, broken) if not 192 <= data[1] < 224] == []
    assert pair.total("drop_malformed") == 1
    pair.alive()


@pytest.mark.parametrize(
    "block",
    [
        struct.pack("!HH", 0xBEDE, 1) + b"\xf0abc",  # id 15 ends the list
        struct.pack("!HH", 0xBEDE, 1) + b"\x1fabc",  # longer than the block
        struct.pack("!HH", 0x1000, 1) + b"\x01\xffab",
        struct.pack("!HH", 0x1234, 1) + b"abcd",  # a profile nobody knows
        struct.pack("!HH", 0xBEDE, 1) + bytes(4),
    ],
)
def test_broken_extensions_are_no_extensions(block: bytes) -> None:
    pair = Pair()
    packet = struct.pack("!BBHII", 0x90, 96, 9, 9, 1) + block + vp8(1, key=True)
    sent = [data for data in pair.receive(ALICE, packet) if not 192 <= data[1] < 224]
    assert len(sent) == 1
    assert sent[0].endswith(vp8(1, key=True))


def test_a_flood_of_media_costs_its_sender_only() -> None:
    pair = Pair()
    pair.both.now += 10**9
    for start in range(0, 50_000, 64):
        batch = [(tuple(ALICE), rtp(1, start + i, 9000, b"x")) for i in range(64)]
        pair.both.now += 1_280_000  # 50 000 packets a second
        pair.both.step(batch)
    taken = 50_000 - pair.total("drop_rate")
    assert 8_000 <= taken <= 18_000, "4000 a second and 2000 for each of two SSRCs, and a second's burst"
    sent = pair.receive(BOB, struct.pack("!BBHI", 0x80, 203, 1, 7))
    assert pair.total("drop_rate") == 50_000 - taken, "the bystander is not limited"
    del sent


def test_a_flood_of_nacks_is_answered_within_a_budget() -> None:
    pair = Pair()
    numbers = []
    for i in range(300):
        sent = pair.receive(ALICE, rtp(1, 100 + i, 9000 + i, vp8(i, key=i == 0)))
        numbers += [struct.unpack_from("!H", data, 2)[0] for data in sent if data[8:12] == b"\0\0\0\3"]
    answered = 0
    for _ in range(200):
        fci = b"".join(struct.pack("!HH", number, 0xFFFF) for number in numbers[::17])
        nack = struct.pack("!BBHII", 0x81, 205, 2 + len(fci) // 4, 1, 3) + fci
        answered += sum(data[8:12] == b"\0\0\0\4" for data in pair.receive(BOB, nack))
    assert 300 <= answered <= 3 * 300
    assert pair.both.order("down_stats", pair.down).retransmitted == answered


def test_rtcp_from_ever_new_senders_is_capped() -> None:
    pair = Pair()
    for sender in range(500):
        pair.receive(BOB, struct.pack("!BBHI", 0x80, 201, 1, 0x9000 + sender))
    assert pair.total("drop_ssrc_limit") == 500 - 64


def test_missing_packets_never_exceed_their_list() -> None:
    pair = Pair()
    pair.receive(ALICE, rtp(1, 1, 1, vp8(1, key=True)))
    number = 1
    for gap in (100, 100, 100, 249, 250, 251, 2000):
        number += gap + 1
        pair.receive(ALICE, rtp(1, number, 1, vp8(2)))
        assert pair.both.cores[0].engine.ups[0].n_missing <= 250
    pair.alive()


def test_oversize_and_unknown_keys_have_names() -> None:
    pair = Pair()
    pair.receive(ALICE, rtp(1, 1, 1, bytes(1600)))
    assert pair.total("drop_oversize") == 1
    stranger = Address(0, "198.51.100.3", 4000)
    transport = pair.both.order("add_transport")
    pair.both.order("allow", transport, stranger)
    pair.receive(stranger, rtp(1, 1, 1, b"x"))
    assert pair.total("drop_no_keys") == 1
