"""Clips: what an encoder really made, cut so that a decoder takes it back, with a stamp that does not disturb."""

from typing import Any

import av
import pytest

from benchmarks.load import media
from benchmarks.load.media import STAMP


@pytest.fixture(scope="module")
def clips() -> dict[tuple[str, str], media.Clip]:
    return media.load(media.encode({"vp8", "h264", "opus"}, {"q"}))


STAMPED = STAMP.pack(1, 2, media.MAGIC)


def unpacked(clip: media.Clip, payloads: tuple[bytes, ...]) -> bytes:
    """A frame as a depacketizer gives it to the decoder, stamp and all."""
    if clip.codec != "h264":
        return b"".join(payloads) + STAMPED
    units = b""
    for payload in (*payloads[:-1], payloads[-1] + STAMPED):
        kind = payload[0] & 31
        if kind == 24:
            at = 1
            while at < len(payload):
                size = int.from_bytes(payload[at : at + 2], "big")
                units += b"\0\0\0\1" + payload[at + 2 : at + 2 + size]
                at += 2 + size
        elif kind == 28:
            if payload[1] & 0x80:
                units += b"\0\0\0\1" + bytes([payload[0] & 0xE0 | payload[1] & 31])
            units += payload[2:]
        else:
            units += b"\0\0\0\1" + payload
    return units


@pytest.mark.parametrize("codec", ["vp8", "h264"])
def test_a_video_clip_decodes_with_its_stamps(clips: dict[tuple[str, str], media.Clip], codec: str) -> None:
    clip = clips[codec, "q"]
    decoder: Any = av.CodecContext.create(codec, "r")
    shown = []
    for payloads in clip.frames:
        shown += decoder.decode(av.Packet(unpacked(clip, payloads)))
    shown += decoder.decode(None)
    assert len(shown) == len(clip.frames) == media.FPS * media.CLIP_S
    assert {(frame.width, frame.height) for frame in shown} == {(320, 180)}
    assert not any(frame.is_corrupt for frame in shown)


def test_the_opus_clip_decodes_with_its_stamps(clips: dict[tuple[str, str], media.Clip]) -> None:
    decoder: Any = av.CodecContext.create("opus", "r")
    decoder.sample_rate, decoder.layout = 48_000, "mono"
    clip = clips["opus", ""]
    heard = [frame for payloads in clip.frames for frame in decoder.decode(av.Packet(payloads[0] + STAMPED))]
    assert len(heard) == len(clip.frames)
    loud = [abs(frame.to_ndarray()).max() for frame in heard[10:]]
    assert 0.05 < sorted(loud)[len(loud) // 2] < 0.6
    assert {frame.samples for frame in heard} == {960}


@pytest.mark.parametrize("codec", ["vp8", "h264"])
def test_only_the_first_frame_is_a_key_frame(clips: dict[tuple[str, str], media.Clip], codec: str) -> None:
    begins = []
    for number, payloads in enumerate(clips[codec, "q"].frames):
        first = media.vp8_descriptor(number, number, True) + payloads[0] if codec == "vp8" else payloads[0]
        begins.append(media.begins_key_frame(codec, first))
    assert begins[0]
    assert not any(begins[1:])
    continued = media.vp8_descriptor(1, 1, False) + clips["vp8", "q"].frames[0][-1]
    assert not media.begins_key_frame("vp8", continued)


def test_the_bitrate_is_about_what_was_asked(clips: dict[tuple[str, str], media.Clip]) -> None:
    for codec in ("vp8", "h264"):
        clip = clips[codec, "q"]
        bps = sum(len(part) for frame in clip.frames for part in frame) * 8 / media.CLIP_S
        assert 0.6 * media.LAYERS["q"][2] < bps < 1.5 * media.LAYERS["q"][2]


def test_parts_are_even_and_whole() -> None:
    for size in (1, 1_099, 1_100, 1_101, 5_000, 100_003):
        parts = media.even_parts(bytes(size), media.PAYLOAD_BYTES)
        assert sum(map(len, parts)) == size
        assert max(map(len, parts)) <= media.PAYLOAD_BYTES
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_annex_b_is_split_at_both_start_codes() -> None:
    assert media.split_annex_b(b"\0\0\0\1\x67ab\0\0\1\x68c\0\0\0\1\x65" + b"d" * 5) == [b"gab", b"hc", b"eddddd"]
    assert media.split_annex_b(b"nothing") == []


def test_long_units_become_fragments_that_join_again() -> None:
    unit = b"\0\0\0\1\x65" + bytes(range(256)) * 20
    payloads = media.cut_h264(unit)
    assert len(payloads) == 5
    assert payloads[0][1] & 0xC0 == 0x80
    assert payloads[-1][1] & 0xC0 == 0x40
    assert all(payload[1] & 0xC0 == 0 for payload in payloads[1:-1])
    assert b"\0\0\0\1\x65" + b"".join(payload[2:] for payload in payloads) == unit


def test_cut_short_payloads_begin_nothing() -> None:
    for codec in ("vp8", "h264"):
        for payload in (b"", b"\x90", b"\x90\x80", b"\x90\xff\xff", b"\x7c"):
            assert not media.begins_key_frame(codec, payload)


def test_opus_of_more_frames_is_refused() -> None:
    with pytest.raises(ValueError, match="one frame"):
        media.padded_opus(b"\x01abc")
