"""An encoder's manners: packets that open, layers that pause, key frames on request, repeats on demand."""

import random
import struct
from itertools import pairwise
from typing import Any

import pytest

from benchmarks.load import media, sending
from benchmarks.load.batch import Outbox
from benchmarks.load.offer import MID, RID, TWCC
from benchmarks.load.sending import Layer, Route, Sent
from tertulia.protocol.rtp import parse_rtp
from tests.unit.bench.wire import KEY, PROFILE, Pair

FRAME_NS = 33_333_333


@pytest.fixture(scope="module")
def clip() -> media.Clip:
    return media.load(media.encode({"vp8"}, {"q"}))["vp8", "q"]


class Camera:
    """One layer whose packets arrive at a `Pair`."""

    def __init__(self, clip: media.Clip, pair: Pair, **more: Any) -> None:
        self.pair, self.outbox, self.sent, self.now = pair, Outbox(), Sent(), 10**12
        self.route = Route(pair.sender, PROFILE, KEY)
        self.layer = Layer(
            clip=clip, ssrc=1, payload_type=96, mid="3", rid="q", extensions={TWCC: 3, MID: 4, RID: 10},
            due_ns=0, sequence=65_530, timestamp=2**32 - 1_000, **more,
        )  # fmt: skip

    def frames(self, count: int) -> list[bytes]:
        """Send so many frames; the packets, opened."""
        found = []
        for _ in range(count):
            self.now += FRAME_NS
            self.layer.send_frame(self.now, self.route, self.outbox, self.sent)
        self.pair.receiver.setblocking(False)
        while True:
            try:
                found.append(self.pair.inbound.unprotect(self.pair.receiver.recv(2048)))
            except BlockingIOError:
                return found


def test_packets_are_whole_numbered_and_named(clip: media.Clip) -> None:
    with Pair() as pair:
        camera = Camera(clip, pair)
        packets = [parse_rtp(data) for data in camera.frames(40)]
        assert [one.sequence for one in packets] == [65_530 + index & 0xFFFF for index in range(len(packets))]
        assert [one.extensions[3] for one in packets] == [struct.pack("!H", 1 + i) for i in range(len(packets))]
        assert packets[0].extensions[4] == b"3"
        assert packets[0].extensions[10] == b"q"
        steps = {(b.timestamp - a.timestamp) % 2**32 for a, b in pairwise(packets)}
        assert steps == {0, 3_000}
        assert sum(one.marker for one in packets) == 40
        assert camera.sent.packets == len(packets)
        assert all(one.payload[-4:] == media.MAGIC for one in packets if one.marker)


def test_the_clip_goes_round_and_begins_with_its_key_frame(clip: media.Clip) -> None:
    with Pair() as pair:
        camera = Camera(clip, pair)
        camera.frames(1)
        camera.frames(len(clip.frames) - 1)
        assert camera.sent.key_frames == 1
        assert media.begins_key_frame("vp8", parse_rtp(camera.frames(1)[0]).payload)
        assert camera.sent.key_frames == 2


def test_a_key_frame_on_request_but_not_a_flood(clip: media.Clip) -> None:
    with Pair() as pair:
        camera = Camera(clip, pair)
        camera.frames(2)
        for _ in range(5):
            camera.layer.want_key_frame(camera.now)
            camera.frames(1)
        assert camera.sent.key_frames == 1, "the first one is 100 ms old"
        camera.frames(12)
        assert camera.sent.key_frames == 2, "kept in mind until it is due"
        camera.layer.want_key_frame(camera.now + sending.KEY_FRAME_GAP_NS)
        camera.frames(1)
        assert camera.sent.key_frames == 3


def test_a_layer_that_goes_on_begins_with_a_key_frame(clip: media.Clip) -> None:
    with Pair() as pair:
        camera = Camera(clip, pair)
        camera.frames(5)
        camera.layer.set_paused(True, camera.now)
        camera.layer.set_paused(False, camera.now)
        camera.frames(1)
        assert camera.sent.key_frames == 2


def test_repeats_are_the_same_bytes(clip: media.Clip) -> None:
    with Pair() as pair:
        camera = Camera(clip, pair)
        camera.layer.send_frame(camera.now, camera.route, camera.outbox, camera.sent)
        pair.receiver.setblocking(False)
        first = pair.receiver.recv(2048)
        while True:
            try:
                pair.receiver.recv(2048)
            except BlockingIOError:
                break
        camera.layer.repeat([65_530, 7], camera.route, camera.sent)
        assert pair.receiver.recv(2048) == first
        assert camera.sent.repeats == 1


def test_sender_reports_are_compound(clip: media.Clip) -> None:
    with Pair() as pair:
        camera = Camera(clip, pair)
        camera.frames(3)
        report = camera.layer.sender_report(1_700_000_000 * 10**9)
        kinds, at = [], 0
        while at < len(report):
            kinds.append(report[at + 1])
            at += 4 + 4 * struct.unpack_from("!H", report, at + 2)[0]
        assert kinds == [200, 202]
        assert at == len(report)
        assert struct.unpack_from("!I", report, 20)[0] == camera.sent.packets


def test_frames_of_more_packets_than_the_outbox_holds(clip: media.Clip) -> None:
    rng = random.Random(1)
    huge = media.Clip("vp8", "q", 1, 1, FRAME_NS, 90_000, (tuple(rng.randbytes(200) for _ in range(600)),))
    with Pair() as pair:
        assert len(Camera(huge, pair).frames(1)) == 600
