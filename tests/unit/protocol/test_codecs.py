"""Payload descriptors: octets by hand from the RFCs, and what aiortc's packetizers make of real frames."""

from fractions import Fraction

import pytest
from aiortc.codecs.h264 import H264Encoder
from aiortc.codecs.vpx import Vp8Encoder
from av import VideoFrame

from tertulia.protocol.codecs import av1, h264, opus, vp8, vp9
from tertulia.protocol.errors import PeerError


def frame(pts: int) -> VideoFrame:
    picture = VideoFrame(320, 240, "yuv420p")
    for plane in picture.planes:
        plane.update(bytes(range(256)) * (plane.buffer_size // 256) + bytes(plane.buffer_size % 256))
    picture.pts, picture.time_base = pts, Fraction(1, 90000)
    return picture


def test_vp8_of_real_frames() -> None:
    encoder = Vp8Encoder()
    first, _ = encoder.encode(frame(0), force_keyframe=True)
    second, _ = encoder.encode(frame(3000))
    heads = [vp8.parse_vp8(payload) for payload in first]
    assert len(heads) > 1
    assert [head.is_frame_start for head in heads] == [True] + [False] * (len(heads) - 1)
    assert (heads[0].is_key_frame, heads[0].width, heads[0].height) == (True, 320, 240)
    assert not any(head.is_key_frame for head in heads[1:])
    later = vp8.parse_vp8(second[0])
    assert (later.is_frame_start, later.is_key_frame) == (True, False)
    assert heads[0].picture_id is not None
    assert later.picture_id == (heads[0].picture_id + 1) & 0x7FFF


def test_vp8_by_hand() -> None:
    head = vp8.parse_vp8(bytes.fromhex("b0 f0 8123 07 e5 01"))
    assert (head.header_bytes, head.picture_id, head.picture_id_bits, head.tl0_picture) == (6, 0x123, 15, 7)
    assert (head.temporal, head.layer_sync, head.key_index, head.is_discardable) == (3, True, 5, True)
    assert (head.is_frame_start, head.is_key_frame) == (True, False)
    short = vp8.parse_vp8(bytes.fromhex("8080 7f 00"))
    assert (short.header_bytes, short.picture_id, short.picture_id_bits, short.is_frame_start) == (3, 0x7F, 7, False)
    assert vp8.parse_vp8(b"\x10").header_bytes == 1


@pytest.mark.parametrize("payload", ["", "80", "8080", "808080", "8040", "8020"])
def test_vp8_cut_short(payload: str) -> None:
    with pytest.raises(PeerError):
        vp8.parse_vp8(bytes.fromhex(payload))


def test_vp9_by_hand() -> None:
    # I L B V, 15-bit id, temporal 1 spatial 0, tl0 9, structure: two layers with sizes, one picture of two references
    head = vp9.parse_vp9(bytes.fromhex("aa 8011 20 09 38 0140 00f0 0280 01e0 01 08 01 02 ff"))
    assert (head.picture_id, head.temporal, head.spatial, head.tl0_picture) == (0x11, 1, 0, 9)
    assert head.sizes == ((320, 240), (640, 480))
    assert head.header_bytes == 18
    assert head.is_key_frame
    upper = vp9.parse_vp9(bytes.fromhex("ac 05 03 07"))
    assert (upper.spatial, upper.inter_layer, upper.is_key_frame, upper.is_frame_end) == (1, True, False, True)
    flexible = vp9.parse_vp9(bytes.fromhex("f8 05 40 03 04 aa"))
    assert (flexible.header_bytes, flexible.is_predicted, flexible.tl0_picture, flexible.temporal) == (5, True, None, 2)


@pytest.mark.parametrize("payload", ["", "80", "8080", "20", "a005", "02", "0210", "0208ff", "d0 01 03 03 03"])
def test_vp9_cut_short(payload: str) -> None:
    with pytest.raises(PeerError):
        vp9.parse_vp9(bytes.fromhex(payload))


def test_h264_of_a_real_frame() -> None:
    payloads, _ = H264Encoder().encode(frame(0), force_keyframe=True)
    pieces = [piece for payload in payloads for piece in h264.parse_h264(payload)]
    assert h264.is_key_frame_start(h264.parse_h264(payloads[0]))
    units: list[bytes] = []
    for piece in pieces:
        if piece.is_first:
            units.append(b"")
        units[-1] += piece.data
        assert units[-1][0] & 0x1F == piece.nal_type
    types = [unit[0] & 0x1F for unit in units]
    assert {h264.SPS, h264.PPS, h264.IDR} <= set(types)


def test_h264_by_hand() -> None:
    assert h264.parse_h264(b"\x41abc") == [(h264.SLICE, True, True, b"\x41abc")]
    start, end = h264.parse_h264(b"\x7c\x85xy")[0], h264.parse_h264(b"\x7c\x45z")[0]
    assert start == (h264.IDR, True, False, b"\x65xy")
    assert end == (h264.IDR, False, True, b"z")
    assert not h264.is_key_frame_start([end])


@pytest.mark.parametrize("payload", ["", "1c85", "78 0005 61", "78 0000", "1d0000", "00"])
def test_h264_bad(payload: str) -> None:
    with pytest.raises(PeerError):
        h264.parse_h264(bytes.fromhex(payload))


def test_av1_by_hand() -> None:
    whole = av1.parse_av1(bytes.fromhex("28 02 0a0b 32aabb"))
    assert whole.starts_sequence
    assert [(one.obu_type, one.is_first, one.is_last) for one in whole.elements] == [(1, True, True), (6, True, True)]
    assert whole.elements[1].data == b"\x32\xaa\xbb"
    middle = av1.parse_av1(bytes.fromhex("c0 02 0102 01 30"))
    assert [(one.is_first, one.is_last) for one in middle.elements] == [(False, True), (True, False)]
    assert middle.elements[0].obu_type == -1


@pytest.mark.parametrize("payload", ["", "10", "20 02 0102", "00 05 01", "98 01", "00 ffffffffffffffffff", "00 80"])
def test_av1_bad(payload: str) -> None:
    with pytest.raises(PeerError):
        av1.parse_av1(bytes.fromhex(payload))


@pytest.mark.parametrize(
    ("packet", "milliseconds"), [("78", 20), ("79", 40), ("fc", 20), ("18", 60), ("e0", 2.5), ("fb06", 120), ("00", 10)]
)
def test_opus_durations(packet: str, milliseconds: float) -> None:
    assert opus.packet_samples(bytes.fromhex(packet)) == milliseconds * 48


@pytest.mark.parametrize("packet", ["", "fb", "fb00", "fb07", "1b03"])
def test_opus_bad(packet: str) -> None:
    with pytest.raises(PeerError):
        opus.packet_samples(bytes.fromhex(packet))


def test_red_by_hand() -> None:
    blocks = opus.parse_red(bytes.fromhex("ef 0f0003 6f 010203 0405"))
    assert blocks == [(111, 960, b"\x01\x02\x03"), (111, 0, b"\x04\x05")]


@pytest.mark.parametrize("payload", ["", "ef", "ef0f0003", "ef 0f0003 6f 01"])
def test_red_bad(payload: str) -> None:
    with pytest.raises(PeerError):
        opus.parse_red(bytes.fromhex(payload))
