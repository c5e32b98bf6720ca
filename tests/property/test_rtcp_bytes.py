"""Whatever bytes come: packets or a PeerError; whatever is built comes back."""

import contextlib
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from tertulia.protocol import rtcp, rtp, twcc
from tertulia.protocol.codecs import av1, h264, opus, vp8, vp9
from tertulia.protocol.errors import PeerError
from tertulia.protocol.seq import Unwrapper, distance

u8, u16, u32, u64 = (st.integers(0, 2**bits - 1) for bits in (8, 16, 32, 64))
reports = st.lists(
    st.builds(rtcp.ReceptionReport, u32, u8, st.integers(-(2**23), 2**23 - 1), u32, u32, u32, u32), max_size=31
).map(tuple)
packets = st.one_of(
    st.builds(rtcp.SenderReport, u32, u64, u32, u32, u32, reports),
    st.builds(rtcp.ReceiverReport, u32, reports),
    st.builds(
        rtcp.SourceDescription, st.lists(st.tuples(u32, st.text(st.characters(codec="ascii"))), max_size=31).map(tuple)
    ),
    st.builds(rtcp.Goodbye, st.lists(u32, max_size=31).map(tuple)),
    st.builds(rtcp.PictureLoss, u32, u32),
    st.builds(rtcp.FullIntraRequest, u32, st.lists(st.tuples(u32, u8), max_size=9).map(tuple)),
)


@given(st.lists(packets, min_size=1, max_size=8))
def test_compounds_come_back(compound: list[rtcp.RtcpPacket]) -> None:
    assert rtcp.parse_compound(rtcp.build_compound(compound)) == compound


@given(u32, u32, st.lists(u16, min_size=1, max_size=60, unique=True))
def test_nacks_come_back(sender: int, media: int, lost: list[int]) -> None:
    near = [(lost[0] + number % 4000) & 0xFFFF for number in lost]
    (nack,) = rtcp.parse_compound(rtcp.build_compound([rtcp.Nack(sender, media, tuple(near))]))
    assert isinstance(nack, rtcp.Nack)
    assert set(nack.lost) == set(near)
    assert len(nack.lost) == len(set(near))


@given(u32, st.integers(0, 2**64 - 1))
def test_estimates_lose_at_most_their_rounding(ssrc: int, bitrate_bps: int) -> None:
    (estimate,) = rtcp.parse_compound(rtcp.build_compound([rtcp.ReceiverEstimate(ssrc, bitrate_bps, (1,))]))
    assert isinstance(estimate, rtcp.ReceiverEstimate)
    assert bitrate_bps * (1 - 2**-17) <= estimate.bitrate_bps <= bitrate_bps


@given(st.binary(max_size=120))
def test_any_bytes(data: bytes) -> None:
    parsers: tuple[Callable[[bytes], object], ...] = (
        rtcp.parse_compound,
        rtp.parse_rtp,
        twcc.parse_body,
        vp8.parse_vp8,
        vp9.parse_vp9,
        h264.parse_h264,
        av1.parse_av1,
        opus.packet_samples,
        opus.parse_red,
    )
    for parse in parsers:
        with contextlib.suppress(PeerError):
            parse(data)


@given(st.sampled_from((200, 201, 202, 203, 205, 206)), st.integers(0, 31), st.binary(max_size=80), st.booleans())
def test_any_inside_of_a_known_packet(packet_type: int, count: int, body: bytes, padded: bool) -> None:
    body = body[: len(body) // 4 * 4]
    head = bytes([0xA0 if padded else 0x80 | count, packet_type]) + (len(body) // 4).to_bytes(2, "big")
    assert len(rtcp.parse_compound(head + body)) == 1


@given(
    u16,
    st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 2**40)), min_size=1, max_size=80),
)
def test_feedback_says_what_arrived(base: int, seen: list[tuple[int, int]]) -> None:
    arrivals = [((base + offset) & 0xFFFF, time_ns) for offset, time_ns in seen]
    expected: dict[int, int] = {}
    for sequence, time_ns in arrivals:
        expected.setdefault(sequence, time_ns // twcc.TICK_NS * twcc.TICK_NS)
    said: dict[int, int] = {}
    for number, data in enumerate(twcc.build(1, 2, 7, arrivals)):
        (feedback,) = rtcp.parse_compound(data)
        assert isinstance(feedback, twcc.TransportFeedback)
        assert feedback.count == (7 + number) & 0xFF
        for place, arrival_ns in enumerate(feedback.arrivals_ns):
            if arrival_ns is not None:
                said[(feedback.base_sequence + place) & 0xFFFF] = arrival_ns
    assert said == expected


extensions = st.dictionaries(
    st.integers(1, 255).filter(lambda number: number != 15), st.binary(max_size=40), max_size=6
)


@given(
    st.builds(
        rtp.RtpPacket,
        st.integers(0, 127),
        u16,
        u32,
        u32,
        st.binary(max_size=60),
        st.booleans(),
        st.lists(u32, max_size=15).map(tuple),
        extensions,
        st.integers(0, 255),
    )
)
def test_rtp_packets_come_back(packet: rtp.RtpPacket) -> None:
    assert rtp.parse_rtp(rtp.build_rtp(packet)) == packet


@given(st.lists(st.integers(-100, 300), max_size=200), u16)
def test_unwrapping_follows_the_line(steps: list[int], start: int) -> None:
    line, place = Unwrapper(), start
    assert line.unwrap(start) == start
    for step in steps:
        place += step
        assert distance(line.unwrap(place & 0xFFFF), place) == 0
        assert line.unwrap(place & 0xFFFF) == place


@given(
    st.booleans(),
    st.none() | st.integers(0, 0x7FFF),
    st.none() | u8,
    st.none() | st.integers(0, 3),
    st.none() | st.integers(0, 31),
    st.binary(max_size=4),
)
def test_vp8_descriptors_come_back(
    start: bool, picture_id: int | None, tl0: int | None, temporal: int | None, key_index: int | None, rest: bytes
) -> None:
    head = vp8.build_vp8_descriptor(
        is_frame_start=start, picture_id=picture_id, tl0_picture=tl0, temporal=temporal, key_index=key_index
    )
    parsed = vp8.parse_vp8(head + rest)
    assert parsed.header_bytes == len(head)
    assert (parsed.is_frame_start, parsed.picture_id, parsed.tl0_picture) == (start, picture_id, tl0)
    assert (parsed.temporal, parsed.key_index) == (temporal, key_index)


@given(
    st.lists(st.tuples(st.integers(0, 127), st.integers(0, 2**14 - 1), st.binary(max_size=40)), min_size=1, max_size=4)
)
def test_red_comes_back(blocks: list[tuple[int, int, bytes]]) -> None:
    red = [opus.RedBlock(*block) for block in blocks]
    red[-1] = red[-1]._replace(timestamp_offset=0)
    assert opus.parse_red(opus.build_red(red)) == red
