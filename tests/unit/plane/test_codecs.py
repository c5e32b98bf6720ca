"""What the first bytes of a payload say, codec by codec (RFC 7741, 9628, 6184, 7798, AV1 RTP 1.0)."""

import pytest

from tertulia.sfu.plane.api import Codec
from tertulia.sfu.plane.codecs import look
from tertulia.sfu.plane.rows import Seen
from tertulia.sfu.plane.words import F_KEY, F_PICTURE_WIDE, F_START, F_SYNC
from tests.unit.plane.packets import vp8


def seen(codec: Codec, payload: bytes) -> Seen:
    s = Seen()
    look(s, codec, payload, 0, len(payload))
    return s


@pytest.mark.parametrize(
    ("codec", "payload", "key"),
    [
        (Codec.VP8, vp8(1, key=True), True),
        (Codec.VP8, vp8(1), False),
        (Codec.VP8, vp8(1, key=True)[:6], False),
        (Codec.VP8, b"\x10\x10\x00\x00", True),  # no extension at all
        (Codec.VP8, b"\x11\x10\x00\x00", False),  # second partition
        (Codec.VP8, b"\x00\x10\x00\x00", False),  # not the start
        (Codec.H264, b"\x67\x42", True),  # SPS
        (Codec.H264, b"\x65\x88", True),  # IDR
        (Codec.H264, b"\x41\x9a", False),
        (Codec.H264, b"\x78\x00\x02\x67\x42\x00\x02\x68\xce", True),  # STAP-A of SPS and PPS
        (Codec.H264, b"\x78\x00\x02\x41\x9a\x00\x02\x65\x88", True),
        (Codec.H264, b"\x78\x00\x00\x00\x00", False),  # lengths of zero
        (Codec.H264, b"\x78\xff\xff\x41", False),  # length beyond the packet
        (Codec.H264, b"\x7c\x85\x88", True),  # FU-A, start of an IDR
        (Codec.H264, b"\x7c\x05\x88", False),  # FU-A, its middle
        (Codec.VP9, b"\x88\x81\x00", True),  # I, B
        (Codec.VP9, b"\xc8\x81\x00", False),  # P: predicted
        (Codec.VP9, b"\x80\x81\x00", False),  # not the beginning of a frame
        (Codec.VP9, b"\xa8\x81\x00\x02\x00", False),  # spatial layer 1
        (Codec.AV1, b"\x18\x0a", True),  # N: new coded video sequence
        (Codec.AV1, b"\x10\x0a", False),
        (Codec.AV1, b"\x98\x0a", False),  # Z: goes on from the packet before
        (Codec.H265, b"\x40\x01", True),  # VPS
        (Codec.H265, b"\x26\x01", True),  # IDR_W_RADL
        (Codec.H265, b"\x02\x01", False),
        (Codec.H265, b"\x62\x01\x93", True),  # FU, start of an IDR
        (Codec.H265, b"\x62\x01\x13", False),
        (Codec.OPUS, b"\xfc", True),
        (Codec.OTHER, b"?", True),
    ],
)
def test_key_frames(codec: Codec, payload: bytes, key: bool) -> None:
    assert bool(seen(codec, payload).flags & F_KEY) == key


def test_vp8_numbers() -> None:
    s = seen(Codec.VP8, vp8(0x1234, key=True, tid=2, sync=True, tl0=77))
    assert (s.picture_at, s.picture, s.tl0_at, s.tl0, s.tid) == (2, 0x1234, 4, 77, 2)
    assert s.flags == F_KEY | F_START | F_SYNC | F_PICTURE_WIDE
    assert (s.width, s.height) == (640, 360)


def test_vp8_short_picture_id_and_key_index() -> None:
    s = seen(Codec.VP8, b"\x90\x90\x7b\x1f\x11")
    assert (s.picture_at, s.picture, s.keyidx_at, s.keyidx, s.tl0_at) == (2, 0x7B, 3, 31, 0)


def test_vp9_size_of_a_key_frame() -> None:
    s = seen(Codec.VP9, b"\x8a\x05\x18\x02\x80\x01\x68")
    assert s.flags & F_KEY
    assert (s.width, s.height) == (640, 360)


@pytest.mark.parametrize("codec", list(Codec))
def test_every_prefix_is_survived(codec: Codec) -> None:
    for payload in (vp8(1, key=True), b"\xff" * 12, b"\x78\x00\x03\x67\x42\x00", b"\xea\xff\xff\xff\xff"):
        for size in range(len(payload) + 1):
            seen(codec, payload[:size])
