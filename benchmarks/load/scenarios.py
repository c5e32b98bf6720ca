"""The scenarios: who joins at each size, what is measured there, when growth ends, and how two servers are compared.

Runs as the coordinator, beside the workers. A row is one size; rows that were measured stay when the run is cut short.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from benchmarks.load import media
from benchmarks.load.client import RIDS, Role
from benchmarks.load.fleet import Fleet, Overwhelmed, RunError
from benchmarks.load.measure import Histogram, Mark, Usage
from benchmarks.load.plan import Plan, Target

SAMPLE_S = 0.5
STALE_DELAY_MS = 250.0
"""A p99 of more than this is a server that no longer keeps up."""
CHURN_STAY_S = 2.0
ROOM = "bench"


class Watcher(Protocol):
    """Who wants to see how far it is."""

    def stage(self, text: str, total: float) -> None: ...

    def advance(self, amount: float) -> None: ...


@dataclass(slots=True)
class Row:
    """One size of one scenario on one server. `_s` of rates: per second of the measured window."""

    server: str
    size: int
    participants: int
    seconds: float
    packets_up_s: float = 0.0
    """Into the server."""
    packets_down_s: float = 0.0
    mbit_down_s: float = 0.0
    lost: int = 0
    loss: float = 0.0
    recovered: int = 0
    silent_streams: int = 0
    """Announced and without a packet in the window."""
    streams: int = 0
    delay_audio_ms: dict[str, float] = field(default_factory=dict)
    delay_video_ms: dict[str, float] = field(default_factory=dict)
    delay_data_ms: dict[str, float] = field(default_factory=dict)
    join_ms: dict[str, float] = field(default_factory=dict)
    """From the first byte of the WebSocket to a standing media connection, of those who joined for this size."""
    first_frame_ms: dict[str, float] = field(default_factory=dict)
    joins_s: float = 0.0
    join_cpu_ms: float | None = None
    messages_down_s: float = 0.0
    cpu_user_s: float | None = None
    cpu_system_s: float | None = None
    cpu_cores: float | None = None
    """Of the server."""
    control_cores: float | None = None
    """Of them, its first thread: signalling, rooms, estimation; forwarding is in the others."""
    other_cores: float = 0.0
    """What everything else on this machine used meanwhile: figures of a busy machine mean little."""
    cpu_us_per_packet: float | None = None
    """Server CPU per packet (or message) that reached a subscriber."""
    resident_bytes: int | None = None
    bytes_per_participant: int | None = None
    generator_cores: float = 0.0
    generator_us_per_packet: float = 0.0
    generator_drops: int = 0
    generator_late_frames: int = 0
    generator_lag_ms: float = 0.0
    participants_lost: int = 0


@dataclass(slots=True)
class Result:
    """What a run found out."""

    plan: Plan
    servers: list[str]
    rows: list[Row] = field(default_factory=list)
    saturation: str = ""
    """Which size was too much, and what gave in; empty when none was."""
    problems: list[str] = field(default_factory=list)
    interrupted: bool = False


@dataclass(frozen=True, slots=True)
class Window:
    """Two marks and what the server used between them."""

    before: Mark
    after: Mark
    used: Usage | None
    seconds: float

    def counter(self, name: str) -> int:
        return self.after.counters.get(name, 0) - self.before.counters.get(name, 0)

    def histogram(self, name: str) -> Histogram:
        return self.after.histograms.get(name, Histogram()).since(self.before.histograms.get(name))


def codecs_of(plan: Plan) -> tuple[set[str], set[str]]:
    """Codecs and layers whose clips are needed."""
    roles = roles_between(plan, 0, plan.steps[0]) if plan.scenario != "churn" else publishers(plan)
    codecs = {codec for role in roles for codec in role.publish}
    return codecs, {rid for role in roles for rid in role.rids}


def publishers(plan: Plan) -> list[Role]:
    """Who sends in the scenarios with a stage and an audience."""
    publish = {"audio": ("opus",), "churn": ("opus",), "data": (), "livestream": (plan.codec, "opus")}[plan.scenario]
    rids = RIDS if plan.simulcast else RIDS[-1:]
    return [
        Role(ROOM, f"publisher-{number}", publish, rids, False, plan.quality, plan.topology)
        for number in range(plan.publishers)
    ]


def roles_between(plan: Plan, before: int, size: int) -> list[Role]:
    """Who joins when a scenario grows from one size to the next."""
    rids = RIDS if plan.simulcast else RIDS[-1:]
    both = ("opus", plan.codec)
    if plan.scenario == "meeting":
        return [
            Role(ROOM, f"member-{number}", both, rids, True, plan.quality, plan.topology)
            for number in range(before, size)
        ]
    if plan.scenario == "rooms":
        return [
            Role(f"{ROOM}-{room}", f"member-{number}", both, rids[:2], True, "high", plan.topology)
            for room in range(before, size)
            for number in range(plan.members)
        ]
    audience = [
        Role(ROOM, f"subscriber-{number}", (), (), True, plan.quality, plan.topology) for number in range(before, size)
    ]
    return (publishers(plan) if before == 0 else []) + audience


class Runner:
    """One scenario against one server or two."""

    def __init__(self, plan: Plan, targets: Sequence[Target], workers: int, watcher: Watcher) -> None:
        self.plan = plan
        self.watcher = watcher
        self.result = Result(plan, [target.name for target in targets])
        self.stop = asyncio.Event()
        """Set it to end early with what was measured."""
        self._fleets = [Fleet(target, plan, workers) for target in targets]
        self._baseline: dict[int, int] = {}

    async def run(self, clips: Path) -> Result:
        """Never raises for what a server does: that is in `problems`."""
        try:
            for fleet in self._fleets:
                fleet.on_progress = self.watcher.advance
                await fleet.start(clips)
            await self._grow()
        except RunError as error:
            self.result.problems.append(str(error))
        finally:
            for fleet in self._fleets:
                for reason, count in fleet.failures.items():
                    self.result.problems.append(f"{count} could not join {fleet.target.name}: {reason}")
                self.result.problems += [f"participants lost at {fleet.target.name}: {reason}" for reason in fleet.lost]
            await asyncio.gather(*(fleet.stop() for fleet in self._fleets))
        self.result.interrupted = self.stop.is_set()
        return self.result

    async def _grow(self) -> None:
        before = 0
        for fleet in self._fleets:
            _, used = await fleet.mark()
            self._baseline[id(fleet)] = used.resident_bytes if used is not None else 0
        for size in self.plan.steps:
            try:
                rows = await self._step(before, size)
            except Overwhelmed as error:
                if not before:
                    raise
                self.result.saturation = f"size {size}: the generator cannot serve so many ({error})"
                return
            self.result.rows += rows
            before = size
            if self.stop.is_set():
                return
            causes = [cause for row in rows if (cause := saturation(row, self.plan))]
            if causes:
                self.result.saturation = f"size {size}: {causes[0]}"
                return

    async def _step(self, before: int, size: int) -> list[Row]:
        churn = self.plan.scenario == "churn"
        roles = (publishers(self.plan) if before == 0 else []) if churn else roles_between(self.plan, before, size)
        joins: dict[int, Mark] = {}
        for fleet in self._fleets:
            joins[id(fleet)], _ = await fleet.mark()
            self.watcher.stage(f"{fleet.target.name}: {len(roles)} join for size {size}", len(roles))
            await self._until_stopped(fleet.join(roles))
            if self.stop.is_set():
                return []
        for fleet in self._fleets:
            if churn:
                role = Role(ROOM, "visitor", (), (), True, "high", self.plan.topology)
                await fleet.churn(True, role, size, CHURN_STAY_S)
            if self.plan.scenario == "data":
                await fleet.data(True, size + self.plan.publishers - 1)
        await self._sleep(self.plan.settle_s + (CHURN_STAY_S if churn else 0))
        windows = await self._windows(size)
        rows = [
            self._row(fleet, size, window, joins[id(fleet)])
            for fleet, window in zip(self._fleets, windows, strict=True)
            if window is not None
        ]
        for fleet in self._fleets:
            if churn:
                await fleet.churn(False, role, size, CHURN_STAY_S)
            if self.plan.scenario == "data":
                await fleet.data(False, 0)
        return rows

    async def _until_stopped(self, work: Any) -> None:
        """Do it, unless the run is to end."""
        task = asyncio.ensure_future(work)
        stop = asyncio.create_task(self.stop.wait())
        try:
            await asyncio.wait((task, stop), return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
        finally:
            stop.cancel()
            if not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def _sleep(self, seconds: float) -> None:
        """Watching that the servers are there."""
        end = time.monotonic() + seconds
        while not self.stop.is_set() and (left := end - time.monotonic()) > 0:
            await self._until_stopped(asyncio.sleep(min(SAMPLE_S, left)))
            for fleet in self._fleets:
                if fleet.everyone_lost:
                    reasons = ", ".join(fleet.lost)
                    raise RunError(f"{fleet.target.name} vanished: every participant was lost ({reasons})")

    async def _windows(self, size: int) -> list[Window | None]:
        """One window per fleet."""
        seconds = self.plan.seconds
        self.watcher.stage(f"size {size}: measuring", seconds * len(self._fleets))
        # all of them loaded all the time and measured at the same time: whatever else the machine does, all have it
        return list(await asyncio.gather(*(self._window(fleet, seconds) for fleet in self._fleets)))

    async def _window(self, fleet: Fleet, seconds: float) -> Window | None:
        before, used_before = await fleet.mark()
        begun = time.monotonic()
        while (spent := time.monotonic() - begun) < seconds and not self.stop.is_set():
            await self._sleep(min(SAMPLE_S, seconds - spent))
            self.watcher.advance(min(SAMPLE_S, seconds - spent))
        after, used_after = await fleet.mark()
        passed = (after.time_ns - before.time_ns) / 1e9
        if passed < 0.3:
            return None
        if fleet.target.pid and (used_before is None or used_after is None):
            raise RunError(f"{fleet.target.name} vanished: there is no process {fleet.target.pid} any more")
        used = used_after.since(used_before) if used_after is not None and used_before is not None else None
        return Window(before, after, used, passed)

    def _row(self, fleet: Fleet, size: int, window: Window, joins: Mark) -> Row:
        seconds = window.seconds
        down, lost = window.counter("packets_in"), max(0, window.counter("lost"))
        messages, data = window.counter("data_in"), self.plan.scenario == "data"
        if data:
            lost = max(0, window.counter("data_expected") - messages)
            lost = lost if lost > 0.002 * messages else 0  # the edges of the window
        moved = messages if data else down
        row = Row(fleet.target.name, size, window.after.counters["clients"], round(seconds, 3))
        row.packets_up_s, row.packets_down_s = window.counter("packets_out") / seconds, down / seconds
        row.mbit_down_s = window.counter("bytes_in") * 8 / seconds / 1e6
        row.lost, row.loss = lost, lost / max(1, moved + lost)
        row.recovered, row.messages_down_s = window.counter("recovered"), messages / seconds
        row.streams, row.silent_streams = window.after.counters["streams"], window.after.counters["silent"]
        row.delay_audio_ms = window.histogram("delay_audio").summary_ms()
        row.delay_video_ms = window.histogram("delay_video").summary_ms()
        row.delay_data_ms = window.histogram("delay_data").summary_ms()
        since = window.before if self.plan.scenario == "churn" else joins
        whole = Window(since, window.after, None, seconds)
        row.join_ms = whole.histogram("join_media").summary_ms()
        row.first_frame_ms = whole.histogram("first_frame").summary_ms()
        row.joins_s = window.counter("count_joins") / seconds
        row.participants_lost = window.counter("count_participants_lost")
        row.generator_cores = window.counter("cpu_ns") / 1e9 / seconds
        row.generator_us_per_packet = window.counter("cpu_ns") / 1e3 / max(1, moved + window.counter("packets_out"))
        row.generator_drops = window.counter("kernel_drops")
        row.generator_late_frames = window.counter("late_frames")
        row.generator_lag_ms = window.after.counters["lag_ns"] / 1e6
        row.other_cores = max(0.0, window.counter("machine_busy_ns") / 1e9 / seconds - row.generator_cores)
        if window.used is not None:
            used = window.used
            row.control_cores = used.control_s / seconds
            row.other_cores = max(0.0, row.other_cores - used.exact_s / seconds)
            row.cpu_user_s, row.cpu_system_s = used.user_s, used.system_s
            row.cpu_cores = used.exact_s / seconds
            row.cpu_us_per_packet = used.exact_s * 1e6 / moved if moved else None
            row.resident_bytes = used.resident_bytes
            grown = used.resident_bytes - self._baseline[id(fleet)]
            row.bytes_per_participant = max(0, grown) // max(1, row.participants)
            if self.plan.scenario == "churn" and window.counter("count_joins"):
                row.join_cpu_ms = used.exact_s * 1e3 / window.counter("count_joins")
        return row


def saturation(row: Row, plan: Plan) -> str:
    """What gave in at this size, empty when nothing did."""
    load = f"server {row.cpu_cores:.2f} cores, " if row.cpu_cores is not None else ""
    load += f"generator {row.generator_cores:.2f} cores, others {row.other_cores:.2f}"
    frames = max(1.0, row.packets_up_s * row.seconds)
    if row.generator_drops or row.generator_late_frames > 0.05 * frames:
        drops, late = row.generator_drops, row.generator_late_frames
        return f"the generator cannot make more ({drops} datagrams dropped unread, {late} frames late; {load})"
    if row.loss > plan.stop_loss:
        return f"{row.loss:.2%} of the packets lost ({load})"
    expected = plan.participants(row.size)
    if plan.scenario != "churn" and row.participants < 0.98 * expected:
        return f"{expected - row.participants} of {expected} participants are not in ({load})"
    delays = [summary["p99"] for summary in (row.delay_audio_ms, row.delay_video_ms, row.delay_data_ms) if summary]
    if delays and max(delays) > STALE_DELAY_MS:
        return f"p99 of the delay is {max(delays):.0f} ms ({load})"
    return ""


def encode_clips(plan: Plan, where: Path) -> Path:
    """The media of a plan in a file for the workers."""
    path = where / "clips"
    codecs, rids = codecs_of(plan)
    path.write_bytes(media.encode(codecs, rids))
    return path
