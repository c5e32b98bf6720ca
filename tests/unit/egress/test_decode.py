"""Decoders: broken and monstrous pictures are the peer's fault, and cost nothing."""

import resource
import struct

import pytest

from tertulia.egress.decode import PictureDecoder, VoiceDecoder
from tertulia.protocol.errors import PeerError
from tests.unit.egress.studio import GREEN, RED, tone, video


def monster(width: int, height: int) -> bytes:
    """A VP8 key frame header that claims a size (RFC 6386 9.1), and rubbish."""
    first_part = 2000
    tag = first_part << 5 | 1 << 4
    return tag.to_bytes(3, "little") + b"\x9d\x01\x2a" + struct.pack("<HH", width, height) + bytes(4000)


def test_a_header_that_claims_a_giant_takes_no_memory() -> None:
    decoder = PictureDecoder("video/VP8")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(3):
        with pytest.raises(PeerError):
            decoder.decode(monster(16383, 16383))
    assert (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000
    )  # kilobytes; 400 MB if it were believed
    picture = decoder.decode(video("video/VP8", 320, 180, GREEN)[0])
    assert picture is not None
    assert (picture.width, picture.height) == (320, 180)


@pytest.mark.parametrize("mime", ["video/VP8", "video/VP9", "video/H264", "video/AV1"])
def test_sizes_may_change_at_any_key_frame(mime: str) -> None:
    decoder = PictureDecoder(mime)
    sizes = []
    for width, height, colour in ((320, 180, GREEN), (640, 360, RED), (320, 180, GREEN)):
        picture = decoder.decode(video(mime, width, height, colour)[0])
        assert picture is not None  # at once: nothing is held back for reordering
        sizes.append((picture.width, picture.height))
    assert sizes == [(320, 180), (640, 360), (320, 180)]


def test_voices_are_always_stereo() -> None:
    for channels in (1, 2):
        decoder = VoiceDecoder()
        shapes = {decoder.decode(frame).shape for frame in tone(440, channels)}
        assert shapes == {(960, 2)}
    assert decoder.decode(tone(440)[0]).shape == (960, 2)
    with pytest.raises(PeerError):
        decoder.decode(b"\xff\xff\xff")
