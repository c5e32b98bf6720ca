"""The worker's thread: what waits for it is bounded, and a slow encoder loses pictures, not the room's time."""

import os
import threading
from itertools import pairwise
from pathlib import Path

import pytest
from livekit.protocol import egress

from tertulia.egress import worker as worker_module
from tertulia.egress.composite import Composite
from tertulia.egress.engine import DROP_NS, SHED_NS, Batch, EngineSettings, Tally, TrackOpened
from tertulia.egress.feed import Feed
from tertulia.egress.outputs.files import FileOutput
from tertulia.egress.outputs.upload import Depot
from tertulia.egress.plan import make_plan
from tertulia.egress.stage import Stage
from tertulia.egress.worker import Report, Worker
from tertulia.protocol.machine import MILLISECOND, SECOND, Nanos
from tertulia.protocol.tap import TapPacket, TrackAvailable
from tests.unit.egress.bench import near, play
from tests.unit.egress.studio import RED, Studio, camera, microphone


class Held:
    """An engine that waits until it is let go."""

    def __init__(self) -> None:
        self.tally = Tally()
        self.go = threading.Event()
        self.fed: list[Batch] = []
        self.behind: list[int] = []
        self.finished_at: int | None = None
        self.started = False
        self.niceness = self.policy = 0

    def feed(self, batch: Batch, behind_ns: int) -> None:
        self.niceness = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        self.policy = os.sched_getscheduler(0)
        assert self.go.wait(30)
        self.fed.append(batch)
        self.behind.append(behind_ns)
        self.started = True

    def finish(self, now: Nanos) -> None:
        self.finished_at = now

    def key_frames_wanted(self) -> list[str]:
        return ["TR_1"] if len(self.fed) == 2 else []

    def request_key_frame(self) -> None: ...


def batch(at: int, packets: int = 0) -> Batch:
    packet = TapPacket(Nanos(at), 0, 0, True, True, 0, b"x")
    return Batch(Nanos(at), packets=[("TR_1", [packet] * packets)] if packets else [])


@pytest.mark.parametrize(("nice", "policy"), [(5, os.SCHED_BATCH), (19, os.SCHED_IDLE)])
def test_batches_in_order_reports_and_the_end(nice: int, policy: int) -> None:
    engine, reports, done = Held(), [], threading.Event()

    def report(told: Report) -> None:
        reports.append(told)
        if told.finished:
            done.set()

    worker = Worker(lambda: engine, report, name="test", nice=nice)
    worker.start()
    for at in range(5):
        worker.put(batch(at * SECOND))
    engine.go.set()
    worker.stop(Nanos(9 * SECOND))
    worker.stop(Nanos(10 * SECOND))
    worker.put(batch(11 * SECOND))
    assert done.wait(30)
    assert [b.now // SECOND for b in engine.fed] == [0, 1, 2, 3, 4]
    assert engine.finished_at == 9 * SECOND
    assert engine.niceness >= nice
    assert engine.policy == policy
    assert reports == [
        Report(started=True),
        Report(started=True, key_frames=("TR_1",)),
        Report(finished=True),
    ]


def test_pictures_go_before_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "WAITING_PACKETS_LIMIT", 100)
    engine, done = Held(), threading.Event()
    worker = Worker(lambda: engine, lambda told: told.finished and done.set(), name="test", nice=0)  # type: ignore[func-returns-value]
    studio = Studio()
    studio.join("anna", microphone("TR_2", 440))
    voice = studio.view().events()[0]
    assert isinstance(voice, TrackAvailable)
    worker.put(Batch(Nanos(0), orders=[TrackOpened(voice)]))
    for at in range(1, 30):
        packet = TapPacket(Nanos(at), 0, 0, True, True, 0, b"x")
        worker.put(Batch(Nanos(at), packets=[("TR_1", [packet] * 9), ("TR_2", [packet])]))
    worker.start()
    engine.go.set()
    worker.stop(Nanos(60))
    assert done.wait(30)
    heard = sum(len(packets) for b in engine.fed for sid, packets in b.packets if sid == "TR_2")
    seen = sum(len(packets) for b in engine.fed for sid, packets in b.packets if sid == "TR_1")
    assert heard == 29
    assert seen <= 100


def test_what_waits_is_bounded_and_orders_survive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "WAITING_PACKETS_LIMIT", 100)
    monkeypatch.setattr(worker_module, "WAITING_BATCHES_LIMIT", 10)
    engine, done = Held(), threading.Event()
    worker = Worker(lambda: engine, lambda told: told.finished and done.set(), name="test", nice=0)  # type: ignore[func-returns-value]
    worker.start()
    for at in range(50):
        worker.put(batch(at, packets=9))
    engine.go.set()
    worker.stop(Nanos(60))
    assert done.wait(30)
    fed = sum(len(packets) for b in engine.fed for _, packets in b.packets)
    assert len(engine.fed) <= 12
    assert fed <= 220
    assert fed + worker.packets_refused == 450
    assert engine.fed[-1].now == 49


def test_an_engine_that_cannot_be_made_is_told() -> None:
    reports: list[Report] = []
    done = threading.Event()

    def make() -> Held:
        raise MemoryError

    def report(told: Report) -> None:
        reports.append(told)
        done.set()

    worker = Worker(make, report, name="test", nice=0)
    worker.start()
    assert done.wait(30)
    assert reports == [Report(finished=True, failed="out of memory")]


async def test_a_worker_that_is_behind_leaves_out_pictures_and_keeps_the_sound(tmp_path: Path) -> None:
    studio = Studio()
    studio.join("anna", camera("TR_v", RED, size=(320, 180), heights=(180,)), microphone("TR_a", 440))
    plan = make_plan(
        egress.RoomCompositeEgressRequest(
            room_name="studio", file_outputs=[egress.EncodedFileOutput(filepath="x.mp4")],
            advanced=egress.EncodingOptions(width=320, height=180),
        )
    )  # fmt: skip
    output = FileOutput("x.mp4", Depot(tmp_path))
    engine = Composite(plan, [output], EngineSettings(SECOND, 0))
    behind = 0
    feed = Feed(studio.view(), Stage(plan.source, (320, 180), audio=True), lambda b: engine.feed(b, behind))
    for step in range(6 * 50):
        behind = 0
        if 150 <= step < 250:
            behind = SHED_NS + 1 if step < 240 else DROP_NS + 1
        studio.clock.now = Nanos(studio.clock.now + 20 * MILLISECOND)
        feed.tick(studio.clock.now)
    engine.finish(studio.clock.now)
    await output.close()
    assert 50 <= engine.tally.pictures_shed <= 61
    assert engine.tally.notes() == [f"{engine.tally.pictures_shed} pictures left out: not enough CPU"]
    assert engine.tally.frames_overflowed > 0
    played = play(tmp_path / "x.mp4")
    assert near(played.colour_at(5.8, 160, 60), RED)
    assert played.duration == pytest.approx(6, abs=0.2)
    beeps = played.beeps()
    assert len(beeps) in (5, 6)
    assert all(abs((after - before) - 1) < 0.02 for before, after in pairwise(beeps))
