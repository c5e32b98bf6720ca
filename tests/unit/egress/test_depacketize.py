"""Frames from RTP: what a packetiser took apart is put together again, and losses are told."""

from random import Random

import av
import pytest

from tertulia.egress.depacketize import (
    HOLD_NS,
    Frame,
    Gap,
    RedDepacketizer,
    Resequencer,
    VideoDepacketizer,
    depacketizer_for,
    opus_samples,
)
from tertulia.protocol.machine import MILLISECOND, Nanos
from tertulia.protocol.tap import TapPacket
from tests.unit.egress.studio import GOP, GREEN, obus, payloads, tone, video

MIMES = ["video/VP8", "video/VP9", "video/H264", "video/AV1"]
DECODERS = {"video/VP8": "vp8", "video/VP9": "vp9", "video/H264": "h264", "video/AV1": "libdav1d"}


def packets(mime: str, frames: list[bytes], start: int = 65_000) -> list[TapPacket]:
    found: list[TapPacket] = []
    for index, frame in enumerate(frames):
        parts = payloads(mime, frame, key=index % GOP == 0)
        for number, payload in enumerate(parts):
            sequence = (start + len(found)) & 0xFFFF
            last = number == len(parts) - 1
            found.append(TapPacket(Nanos(index * 33 * MILLISECOND), sequence, index * 3000, last, False, 0, payload))
    return found


def unpack(mime: str, items: list[TapPacket | Gap]) -> list[Frame]:
    depacketizer = depacketizer_for(mime)
    assert depacketizer is not None
    return [frame for item in items for frame in depacketizer.push(item)]


@pytest.mark.parametrize("mime", MIMES)
def test_every_frame_comes_back_and_decodes(mime: str) -> None:
    source = video(mime, 320, 180, GREEN)
    frames = unpack(mime, list(packets(mime, source)))
    assert len(frames) == len(source)
    assert [frame.key_frame for frame in frames] == [index % GOP == 0 for index in range(len(source))]
    if mime in ("video/VP8", "video/VP9"):
        assert [frame.data for frame in frames] == source
    elif mime == "video/AV1":
        assert [obus(frame.data) for frame in frames] == [obus(unit) for unit in source]
    decoder = av.CodecContext.create(DECODERS[mime], "r")
    decoded = [picture for frame in frames for picture in decoder.decode(av.Packet(frame.data))]
    decoded += decoder.decode(None)
    assert len(decoded) == len(source)


@pytest.mark.parametrize("mime", MIMES)
def test_after_a_loss_nothing_comes_before_the_next_key_frame(mime: str) -> None:
    source = packets(mime, video(mime, 320, 180, GREEN))
    victim = next(index for index, packet in enumerate(source) if packet.timestamp == 4 * 3000)
    depacketizer = depacketizer_for(mime)
    assert isinstance(depacketizer, VideoDepacketizer)
    items: list[TapPacket | Gap] = [*source[:victim], Gap(1), *source[victim + 1 :]]
    frames = []
    for item in items:
        frames += depacketizer.push(item)
        if isinstance(item, TapPacket) and 5 * 3000 <= item.timestamp < 10 * 3000:
            assert depacketizer.waiting
    assert not depacketizer.waiting
    stamps = [frame.timestamp // 3000 for frame in frames]
    assert stamps[:4] == [0, 1, 2, 3]
    assert stamps[4] == 10
    assert stamps[-1] == 29


def test_packets_out_of_order_are_put_in_order_across_the_wrap() -> None:
    source = packets("video/VP8", video("video/VP8", 640, 360, GREEN), start=65_530)
    shuffled = list(source)
    rng = Random(1)
    for at in range(0, len(shuffled) - 4, 4):
        part = shuffled[at + 1 : at + 4]
        rng.shuffle(part)
        shuffled[at + 1 : at + 4] = part
    resequencer = Resequencer()
    out = [item for packet in shuffled for item in resequencer.push([packet], packet.arrival)]
    assert out == source
    assert resequencer.lost == 0


def test_a_gap_is_waited_for_then_told() -> None:
    source = [TapPacket(Nanos(i * MILLISECOND), 10 + i, 0, True, True, 0, b"x") for i in range(5)]
    resequencer = Resequencer()
    assert resequencer.push([source[0], source[2], source[3]], Nanos(3 * MILLISECOND)) == [source[0]]
    assert resequencer.push([], Nanos(HOLD_NS)) == []
    assert resequencer.push([source[1]], Nanos(HOLD_NS)) == source[1:4]  # repaired in time

    resequencer = Resequencer()
    resequencer.push([source[0], source[2], source[3]], Nanos(3 * MILLISECOND))
    assert resequencer.push([], Nanos(HOLD_NS + 3 * MILLISECOND)) == [Gap(1), source[2], source[3]]
    assert resequencer.push([source[1]], Nanos(HOLD_NS + 4 * MILLISECOND)) == []
    assert (resequencer.lost, resequencer.late) == (1, 1)


def test_redundant_audio_fills_a_loss() -> None:
    opus = tone(440)

    def red(index: int) -> bytes:
        before = opus[index - 1]
        header = (0x80 | 111) << 24 | 960 << 10 | len(before)
        return header.to_bytes(4, "big") + bytes([111]) + before + opus[index]

    depacketizer = RedDepacketizer()
    got = []
    for index in (1, 2, 4, 5, 8):
        got += depacketizer.push(TapPacket(Nanos(0), index, index * 960, True, True, 0, red(index)))
    assert [frame.timestamp // 960 for frame in got] == [1, 2, 3, 4, 5, 7, 8]
    assert [frame.data for frame in got] == [opus[i] for i in (1, 2, 3, 4, 5, 7, 8)]
    assert depacketizer.recovered == 2


def test_opus_lengths() -> None:
    assert {opus_samples(frame) for frame in tone(440)} == {960}
    assert opus_samples(b"") == 0
    assert opus_samples(b"\x03\x3f") == 0  # 63 frames of 10 ms are more than 120 ms


@pytest.mark.parametrize("mime", [*MIMES, "audio/opus", "audio/red"])
def test_garbage_is_counted_and_harmless(mime: str) -> None:
    """Random bytes and damaged real packets: no exception, and a key frame afterwards is found."""
    rng = Random(3)
    depacketizer = depacketizer_for(mime)
    assert depacketizer is not None
    real = packets(mime, video(mime, 320, 180, GREEN)) if mime.startswith("video") else []
    for index in range(1500):
        if real and index % 2:
            payload = bytearray(rng.choice(real).payload)
            payload[rng.randrange(min(12, len(payload)))] ^= rng.randrange(256)
            payload = payload[: rng.randrange(1, len(payload) + 1)]
        else:
            payload = bytearray(rng.randbytes(rng.randrange(40)))
        marker = rng.random() < 0.5
        depacketizer.push(TapPacket(Nanos(0), index, rng.randrange(4) * 3000, marker, False, 0, bytes(payload)))
    if real:
        depacketizer.push(Gap(1))
        assert [frame.data for item in real[:] for frame in depacketizer.push(item)]
