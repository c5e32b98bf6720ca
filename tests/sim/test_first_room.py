"""Three members, one camera in three layers, bad links: fifty stories told from their seeds."""

from random import Random

import pytest
from livekit.protocol import models

from tertulia.protocol.machine import MILLISECOND
from tests.sim.world import World

SEEDS = range(50)


def path(rng: Random) -> dict[str, int | float]:
    """A link somebody really has."""
    return {
        "delay_ns": rng.randrange(2, 80) * MILLISECOND,
        "jitter_ns": rng.choice([0, 0, 3, 15]) * MILLISECOND,
        "loss": rng.choice([0.0, 0.0, 0.01, 0.05]),
    }


def story(seed: int) -> World:
    world = World(seed)
    rng = Random(seed)
    ann, ben, cyd = (world.client(name, path(rng), path(rng)) for name in ("ann", "ben", "cyd"))
    for client in (ann, ben):
        world.at(world.now, client.join)
    world.run(1)
    ann.publish("video")
    ann.publish("audio")
    world.run(rng.uniform(0.2, 1.5))
    cyd.join()
    world.run(3)
    world.check_rosters()
    camera = next(track for track in ann.published.values() if track.type == models.TrackType.VIDEO)
    ben.settings(camera.sid, width=160, height=90)
    world.run(2)
    low = ben.video_from(camera.sid)
    high = cyd.video_from(camera.sid)
    assert low is not None
    assert high is not None
    newest = max(low.stamps)
    assert low.stamps[newest][1] == 0, f"seed {seed}: asked for 160x90, got layer {low.stamps[newest][1]}"
    assert high.stamps[max(high.stamps)][1] == 2, f"seed {seed}: the other viewer keeps the best layer"
    ben.settings(camera.sid, width=1280, height=720)
    world.run(2)
    assert low.stamps[max(low.stamps)][1] == 2, f"seed {seed}: asked for 720p again"
    ann.unpublish(next(cid for cid, track in ann.published.items() if track.sid == camera.sid))
    world.run(2)
    world.check_rosters()
    for client in (ann, ben, cyd):
        client.leave()
    world.run(8)
    world.check_media()
    world.check_empty()
    return world


@pytest.mark.parametrize("seed", SEEDS)
def test_story(seed: int) -> None:
    story(seed)


def test_same_seed_same_trace() -> None:
    assert story(7).trace.hexdigest() == story(7).trace.hexdigest()
    assert story(7).trace.hexdigest() != story(8).trace.hexdigest()
