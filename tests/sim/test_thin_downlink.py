"""A thin way down costs its owner layers of video, never audio, and nobody else anything."""

from random import Random

import pytest
from livekit.protocol import models

from tertulia.protocol.machine import MILLISECOND
from tests.sim.client import Client
from tests.sim.encoder import HEAVY
from tests.sim.world import World

SAMPLE_S = 0.25


class Scene:
    """Ann speaks and shows herself in 125, 490 and 1700 kbit/s; Ben has the way down in question, Cyd a wide one."""

    def __init__(self, seed: int, *, is_mute: bool = False, **down: float) -> None:
        self.world = World(seed)
        self.ann, self.ben, self.cyd = (
            self.world.client(name, None, down if name == "ben" else None).congestible()  # type: ignore[arg-type]
            for name in ("ann", "ben", "cyd")
        )
        self.ann.camera_packets = HEAVY
        self.ben.twcc = not is_mute  # what its sections agree to stays
        self.layers: list[int] = []
        """What Ben saw, every SAMPLE_S."""
        for client in (self.ann, self.ben, self.cyd):
            client.join()
        self.world.run(1)
        self.ann.publish("audio")
        self.ann.publish("video")
        self.world.run(0.5)

    def track(self, kind: models.TrackType) -> str:
        return next(track.sid for track in self.ann.published.values() if track.type == kind)

    def run(self, seconds: float) -> list[int]:
        """The layers Ben saw meanwhile."""
        begin = len(self.layers)
        for _ in range(int(seconds / SAMPLE_S)):
            self.world.run(SAMPLE_S)
            self.layers.append(self.layer(self.ben))
        return self.layers[begin:]

    def layer(self, client: Client) -> int:
        received = client.video_from(self.track(models.TrackType.VIDEO))
        return received.stamps[max(received.stamps)][1] if received is not None and received.stamps else -1

    def audio_loss(self, client: Client) -> float:
        received = client.video_from(self.track(models.TrackType.AUDIO))
        assert received is not None
        return 1 - len(received.stamps) / (max(received.stamps) - min(received.stamps) + 1)

    def why(self) -> str:
        return f"{self.world.room.downlinks()['ben']} {self.layers}"

    def check(self) -> None:
        assert self.audio_loss(self.ben) < 0.01, self.why()
        assert self.audio_loss(self.cyd) == 0
        assert self.layer(self.cyd) == 2, "the other viewer keeps the best layer"
        self.world.check_media()


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("rate_bps", "fits"), [(400_000, 0), (1_000_000, 1), (3_000_000, 2)])
def test_a_thin_link_gets_the_layer_that_fits_and_keeps_it(rate_bps: int, fits: int, seed: int) -> None:
    scene = Scene(seed, rate_bps=rate_bps)
    scene.run(4)
    assert scene.run(16) == [fits] * 64, scene.why()
    scene.check()


@pytest.mark.parametrize(("rate_bps", "fits"), [(400_000, 0), (1_000_000, 1)])
def test_a_drop_is_answered_within_two_seconds(rate_bps: int, fits: int) -> None:
    scene = Scene(5, rate_bps=3_000_000)
    assert scene.run(5)[-1] == 2
    scene.ben.down.rate_bps = rate_bps
    scene.run(2)
    assert scene.run(8) == [fits] * 32, scene.why()
    scene.check()


@pytest.mark.parametrize("seed", range(2))
def test_a_rise_is_used_within_fifteen_seconds(seed: int) -> None:
    scene = Scene(seed, rate_bps=400_000)
    assert scene.run(10)[-1] == 0
    scene.ben.down.rate_bps = 3_000_000
    scene.run(15)
    assert scene.run(4) == [2] * 16, scene.why()
    scene.check()


@pytest.mark.parametrize("seed", range(4))
def test_what_is_not_congestion_costs_nothing(seed: int) -> None:
    rng = Random(seed)
    scene = Scene(
        seed,
        delay_ns=rng.randrange(2, 80) * MILLISECOND,
        jitter_ns=rng.choice([1, 3]) * MILLISECOND,
        loss=rng.choice([0.0, 0.01, 0.03]),
    )
    scene.run(2)
    assert scene.run(8) == [2] * 32, scene.why()
    counters = scene.world.room.counters
    assert not any(name.startswith("downlink_cut") for name in counters), dict(counters)


def test_a_client_without_feedback_gets_what_it_asked_for() -> None:
    """It agreed to give some, and then says nothing."""
    scene = Scene(1, is_mute=True)
    scene.run(6)
    assert scene.run(4) == [2] * 16
    assert scene.world.room.downlinks()["ben"].phase == "open"
