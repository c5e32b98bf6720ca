"""RTP packets: the octets of RFC 3550 and RFC 8285, and what is no packet."""

import pytest

from tertulia.protocol import rtp
from tertulia.protocol.errors import PeerError

PLAIN = bytes.fromhex("80 e0 0102 00000003 00000004".replace(" ", "")) + b"payload"


def test_plain() -> None:
    packet = rtp.parse_rtp(PLAIN)
    assert packet == rtp.RtpPacket(96, 0x0102, 3, 4, b"payload", marker=True)
    assert rtp.build_rtp(packet) == PLAIN


def test_everything_at_once() -> None:
    block = bytes.fromhex("bede000310ff000031aabb0042010203".replace(" ", ""))
    data = bytes.fromhex("b2600102000000030000000400000007 00000008".replace(" ", "")) + block + b"xy\x00\x00\x03"
    packet = rtp.parse_rtp(data)
    assert packet.csrcs == (7, 8)
    assert packet.extensions == {1: b"\xff", 3: b"\xaa\xbb", 4: b"\x01\x02\x03"}
    assert (packet.payload, packet.padding_bytes, packet.marker) == (b"xy", 3, False)
    assert rtp.parse_rtp(rtp.build_rtp(packet)) == packet


def test_two_byte_form() -> None:
    packet = rtp.RtpPacket(96, 1, 2, 3, b"z", extensions={20: b"", 1: b"q" * 17})
    data = rtp.build_rtp(packet)
    assert data[12:14] == b"\x10\x00"
    assert rtp.parse_rtp(data) == packet
    assert rtp.parse_rtp(data[:12] + b"\x10\x05" + data[14:]) == packet, "appbits are ignored"


def test_id_fifteen_ends_a_one_byte_block() -> None:
    data = bytes.fromhex("90600001000000020000000 3 bede0002 10aa f0bb 20cc0000".replace(" ", ""))
    assert rtp.parse_rtp(data).extensions == {1: b"\xaa"}


def test_unknown_profiles_are_stepped_over() -> None:
    data = bytes.fromhex("90600001000000020000000 3 abcd0001 01020304 ff".replace(" ", ""))
    assert rtp.parse_rtp(data).payload == b"\xff"
    assert rtp.parse_rtp(data).extensions == {}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        PLAIN[:11],
        b"\x40" + PLAIN[1:],
        b"\x8f" + PLAIN[1:],
        b"\x90" + PLAIN[1:],
        b"\xa0" + PLAIN[1:12],
        b"\xa0" + PLAIN[1:12] + b"\x00",
        b"\xa0" + PLAIN[1:12] + b"ab\x04",
        b"\x90" + PLAIN[1:12] + bytes.fromhex("bede0001 13000000"),
        b"\x90" + PLAIN[1:12] + bytes.fromhex("10000001 01040000"),
        b"\x90" + PLAIN[1:12] + bytes.fromhex("10000001 00000001"),
    ],
)
def test_what_is_no_packet(data: bytes) -> None:
    with pytest.raises(PeerError):
        rtp.parse_rtp(data)


def test_extension_values() -> None:
    assert rtp.parse_audio_level(rtp.build_audio_level(True, 35)) == (True, 35)
    assert rtp.parse_transport_sequence(rtp.build_transport_sequence(65535)) == 65535
    value = rtp.abs_send_time_of_ns(63_500_000_000)
    assert rtp.ns_of_abs_send_time(value) == 63_500_000_000
    assert rtp.abs_send_time_of_ns(64_000_000_000) == b"\0\0\0"
    for parse in (rtp.parse_audio_level, rtp.parse_transport_sequence, rtp.ns_of_abs_send_time):
        with pytest.raises(PeerError):
            parse(b"")


def test_rtcp_is_told_apart() -> None:
    assert rtp.is_rtcp(b"\x80\xc8")
    assert not rtp.is_rtcp(b"\x80\xe0")
    assert not rtp.is_rtcp(b"\x80")
