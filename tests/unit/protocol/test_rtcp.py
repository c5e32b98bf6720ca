"""RTCP: octets by hand, aiortc as second opinion, and one bad packet among good ones."""

import pytest
from aiortc import rtp as aiortc_rtp

from tertulia.protocol import rtcp
from tertulia.protocol.errors import PeerError

REPORT = rtcp.ReceptionReport(0xAABBCCDD, 12, -5, 70_000, 33, 0x11112222, 65536)
EVERY: list[rtcp.RtcpPacket] = [
    rtcp.SenderReport(1, 2**63 + 7, 3, 4, 5, (REPORT,)),
    rtcp.ReceiverReport(1, (REPORT, REPORT)),
    rtcp.SourceDescription(((1, "someone@here"), (2, ""))),
    rtcp.Goodbye((1, 2)),
    rtcp.Nack(1, 2, (65530, 65535, 0, 9, 40)),
    rtcp.PictureLoss(1, 2),
    rtcp.FullIntraRequest(1, ((2, 255),)),
    rtcp.ReceiverEstimate(1, 1_000_000, (2, 3)),
    rtcp.TransportFeedback(1, 2, 65534, 9, (64_000_000, None, 64_250_000)),
]


@pytest.mark.parametrize("packet", EVERY, ids=lambda packet: type(packet).__name__)
def test_there_and_back(packet: rtcp.RtcpPacket) -> None:
    data = rtcp.build_compound([packet])
    assert len(data) % 4 == 0
    assert rtcp.parse_compound(data) == [packet]


def test_a_compound_of_all() -> None:
    assert rtcp.parse_compound(rtcp.build_compound(EVERY)) == EVERY


def test_a_receiver_report_by_hand() -> None:
    data = bytes.fromhex("81c90007 00000001 00000002 80 fffffe 00010003 00000004 00000005 00000006")
    report = rtcp.ReceptionReport(2, 0x80, -2, 0x10003, 4, 5, 6)
    assert rtcp.parse_compound(data) == [rtcp.ReceiverReport(1, (report,))]
    extended = data[:3] + b"\x08" + data[4:] + b"prof"
    assert rtcp.parse_compound(extended) == [rtcp.ReceiverReport(1, (report,))], "a profile's extension"


def test_nack_by_hand() -> None:
    data = bytes.fromhex("81cd0003 00000001 00000002 ffff 8001")
    assert rtcp.parse_compound(data) == [rtcp.Nack(1, 2, (65535, 0, 15))]
    assert rtcp.build_compound([rtcp.Nack(1, 2, (65535, 0, 15))]) == data
    assert rtcp.build_compound([rtcp.Nack(1, 2, (0, 15, 65535))]) == data


def test_remb_rounds_down_to_eighteen_bits() -> None:
    (estimate,) = rtcp.parse_compound(rtcp.build_compound([rtcp.ReceiverEstimate(1, 2_500_001, (7,))]))
    assert isinstance(estimate, rtcp.ReceiverEstimate)
    assert 2_500_001 - 16 < estimate.bitrate_bps <= 2_500_001


def test_a_second_opinion() -> None:
    sender, receiver, source, goodbye, nack, pli, _, remb = aiortc_rtp.RtcpPacket.parse(rtcp.build_compound(EVERY[:-1]))
    assert (sender.sender_info.ntp_timestamp, sender.sender_info.packet_count) == (2**63 + 7, 4)
    assert (receiver.reports[1].packets_lost, receiver.reports[1].highest_sequence) == (-5, 70_000)
    assert (source.chunks[0].ssrc, source.chunks[0].items) == (1, [(1, b"someone@here")])
    assert goodbye.sources == [1, 2]
    assert [number & 0xFFFF for number in nack.lost] == [65530, 65535, 0, 9, 40]
    assert (pli.fmt, pli.media_ssrc) == (1, 2)
    assert aiortc_rtp.unpack_remb_fci(remb.fci) == (1_000_000, [2, 3])


def test_one_bad_packet_leaves_its_neighbours() -> None:
    good = rtcp.build_compound([rtcp.PictureLoss(1, 2)])
    for bad in (
        "81cd0000",
        "a1c90001 00000000",
        "81c90001 00000001",
        "81ca0002 00000001 01ff4142",
        "8fcd0001 00000000",
    ):
        first, second, third = rtcp.parse_compound(good + bytes.fromhex(bad) + good)
        assert isinstance(second, rtcp.Unreadable), bad
        assert first == third == rtcp.PictureLoss(1, 2)


def test_other_kinds_come_as_they_are() -> None:
    data = bytes.fromhex("80cf0001 00000001 80cc0002 00000001 41424344 8fce0003 00000001 00000002 41424344")
    assert [type(packet) for packet in rtcp.parse_compound(data)] == [rtcp.Other] * 3
    assert rtcp.build_compound(rtcp.parse_compound(data)) == data


def test_padding_is_taken_off() -> None:
    data = bytes.fromhex("a1ce0003 00000001 00000002 00000004")
    assert rtcp.parse_compound(data) == [rtcp.PictureLoss(1, 2)]


@pytest.mark.parametrize("data", ["", "80", "40c90001 00000001", "80c90002 00000001", "80c90000" * 65])
def test_what_is_no_compound(data: str) -> None:
    with pytest.raises(PeerError):
        rtcp.parse_compound(bytes.fromhex(data))
