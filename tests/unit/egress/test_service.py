"""The service: refusals, lists, ends of every kind. A recording must never be stuck, and never take others with it."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from livekit.protocol import egress, models
from livekit.protocol import room as room_messages

from tertulia.egress.composite import Composite
from tertulia.protocol.errors import RequestError
from tests.unit.egress.bench import Bench, names, play
from tests.unit.egress.studio import GREEN, RED, camera, microphone


def sound(filepath: str = "{egress_id}.ogg", **fields: Any) -> egress.RoomCompositeEgressRequest:
    fields.setdefault("file_outputs", [egress.EncodedFileOutput(filepath=filepath)])
    return egress.RoomCompositeEgressRequest(room_name="studio", audio_only=True, **fields)


async def refusal(work: Any) -> tuple[str, str]:
    with pytest.raises(RequestError) as refused:
        await work
    return refused.value.code, refused.value.message


async def test_unknown_rooms_and_jobs(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    request = sound()
    request.room_name = "nowhere"
    assert (await refusal(bench.service.start(request)))[0] == "not_found"
    for call in (
        bench.service.stop(egress.StopEgressRequest(egress_id="EG_x")),
        bench.service.update_layout(egress.UpdateLayoutRequest(egress_id="EG_x")),
        bench.service.update_stream(egress.UpdateStreamRequest(egress_id="EG_x", add_output_urls=["rtmp://h/a/k"])),
    ):
        assert await refusal(call) == ("not_found", "egress does not exist")
    code, message = await refusal(bench.service.stop(egress.StopEgressRequest()))
    assert (code, "egress_id" in message) == ("invalid_argument", True)
    assert bench.updates == []
    assert bench.service.budget.jobs == 0
    assert bench.studio.views == []


async def test_stop_before_the_first_frame_and_stop_twice(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    info = await bench.service.start(sound())
    await bench.run(0.5)
    ended = await bench.stop(info.egress_id)
    assert (ended.status, ended.error_code) == (egress.EGRESS_ABORTED, 412)
    assert [update.status for update in bench.updates] == [egress.EGRESS_STARTING, egress.EGRESS_ABORTED]
    code, message = await refusal(bench.service.stop(egress.StopEgressRequest(egress_id=info.egress_id)))
    assert (code, message) == ("failed_precondition", "egress with status EGRESS_ABORTED cannot be stopped")
    assert names(tmp_path, "*.ogg") == []

    bench.studio.join("anna", microphone("TR_a", 440))
    info = await bench.service.start(sound())
    await bench.run(1)
    first = await bench.service.stop(egress.StopEgressRequest(egress_id=info.egress_id))
    second = await bench.service.stop(egress.StopEgressRequest(egress_id=info.egress_id))
    assert (first.status, second.status) == (egress.EGRESS_ENDING, egress.EGRESS_ENDING)
    ended = await bench.ended(info.egress_id)
    assert ended.status == egress.EGRESS_COMPLETE
    assert bench.studio.views == []
    assert not bench.service.is_recording("studio")


async def test_the_room_ends(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.studio.join("anna", microphone("TR_a", 440))
    info = await bench.service.start(sound("x.ogg"))
    await bench.run(2)
    assert bench.service.is_recording("studio")
    bench.studio.end()
    await bench.run(0.1)
    ended = await bench.ended(info.egress_id)
    assert (ended.status, ended.details) == (egress.EGRESS_COMPLETE, "End reason: Source closed")
    assert play(tmp_path / "x.ogg").duration == pytest.approx(2, abs=0.2)


async def test_not_enough_cpu_is_said_with_numbers(tmp_path: Path) -> None:
    bench = Bench(tmp_path, cpu_cores=1.0)
    video = egress.RoomCompositeEgressRequest(
        room_name="studio", file_outputs=[egress.EncodedFileOutput(filepath="a/")]
    )
    first = await bench.service.start(video)
    second = await bench.service.start(video)
    code, message = await refusal(bench.service.start(video))
    assert code == "resource_exhausted"
    assert "it needs 0.35 cores, 0.10 of 0.80 are free" in message
    await bench.service.start(sound())  # sound alone still fits
    assert len(bench.studio.views) == 3
    for info in (first, second):
        await bench.stop(info.egress_id)
    await bench.service.start(video)
    await bench.close()
    assert bench.service.budget.promised == pytest.approx(0)
    assert bench.service.budget.refused == 1


async def test_lists(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    one = await bench.service.start(sound())
    two = await bench.service.start(sound())
    await bench.run(0.1)
    await bench.stop(one.egress_id)

    async def ids(**wish: Any) -> list[str]:
        return [info.egress_id for info in (await bench.service.list(egress.ListEgressRequest(**wish))).items]

    assert await ids() == [one.egress_id, two.egress_id]
    assert await ids(active=True) == [two.egress_id]
    assert await ids(room_name="studio", active=False) == [one.egress_id, two.egress_id]
    assert await ids(room_name="other") == []
    assert await ids(egress_id=one.egress_id, room_name="other") == [one.egress_id]
    await bench.close()


async def test_ended_jobs_are_forgotten_at_a_limit(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ended_kept=2)
    for _ in range(4):
        info = await bench.service.start(sound())
        await bench.stop(info.egress_id)
        await bench.run(0.02)
    listed = (await bench.service.list(egress.ListEgressRequest())).items
    assert [info.egress_id for info in listed] == ["EG_000000000003", "EG_000000000004"]


async def test_going_down_finishes_everything(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.studio.join("anna", microphone("TR_a", 440))
    infos = [await bench.service.start(sound(f"{number}.ogg")) for number in range(3)]
    await bench.run(2)
    closing = asyncio.create_task(bench.close())
    await asyncio.sleep(0)
    assert (await refusal(bench.service.start(sound())))[0] == "unavailable"
    await closing
    for number, info in enumerate(infos):
        ended = await bench.ended(info.egress_id)
        assert (ended.status, ended.details) == (egress.EGRESS_COMPLETE, "End reason: Process killed")
        assert play(tmp_path / f"{number}.ogg").duration == pytest.approx(2, abs=0.2)


async def test_a_limit_ends_a_recording(tmp_path: Path) -> None:
    bench = Bench(tmp_path, file_max_duration_s=2.0)
    bench.studio.join("anna", microphone("TR_a", 440))
    info = await bench.service.start(sound("x.ogg"))
    await bench.run(3.5)
    ended = await bench.ended(info.egress_id)
    assert (ended.status, ended.error_code) == (egress.EGRESS_LIMIT_REACHED, 413)
    assert play(tmp_path / "x.ogg").duration == pytest.approx(2.2, abs=0.5)


async def test_a_bug_ends_one_recording_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path)
    bench.studio.join("anna", microphone("TR_a", 440))
    good = await bench.service.start(sound("good.ogg"))
    await bench.run(1)
    fed = Composite.feed
    victims: list[Composite] = []

    def broken(self: Composite, *arguments: Any) -> None:
        if not self.started and len(victims) < 1:
            victims.append(self)
        if self in victims:
            raise ZeroDivisionError
        fed(self, *arguments)

    monkeypatch.setattr(Composite, "feed", broken)
    bad = await bench.service.start(sound("bad.ogg"))
    await bench.run(1)
    ended = await bench.ended(bad.egress_id)
    assert (ended.status, ended.error) == (egress.EGRESS_FAILED, "internal error: ZeroDivisionError")
    assert (await bench.stop(good.egress_id)).status == egress.EGRESS_COMPLETE


async def test_a_directory_that_cannot_be_written_fails_clearly(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file where a directory should be")
    bench = Bench(tmp_path)
    bench.studio.join("anna", microphone("TR_a", 440))
    code, message = await refusal(bench.service.start(sound("taken/x.ogg")))
    assert (code, "filepath" in message) == ("invalid_argument", True)
    assert bench.studio.views == []
    assert bench.service.budget.jobs == 0


async def test_no_local_files_when_they_are_off(tmp_path: Path) -> None:
    bench = Bench(tmp_path, allow_local_storage=False)
    code, message = await refusal(bench.service.start(sound()))
    assert (code, "output" in message) == ("invalid_argument", True)


async def test_a_dead_stream_harms_nobody_and_streams_change(tmp_path: Path) -> None:
    """A peer that refuses is FAILED alone; the file goes on; addresses come and go, keys stay masked."""
    bench = Bench(tmp_path)
    bench.studio.join("anna", camera("TR_v", RED, size=(320, 180), heights=(180,)), microphone("TR_a", 440))
    request = egress.RoomCompositeEgressRequest(
        room_name="studio", advanced=egress.EncodingOptions(width=320, height=180),
        file_outputs=[egress.EncodedFileOutput(filepath="x.mp4")],
        stream_outputs=[egress.StreamOutput(urls=["rtmp://127.0.0.1:1/app/secretkey123"])],
    )  # fmt: skip
    info = await bench.service.start(request)
    await bench.run(1)
    async with asyncio.timeout(20):
        while not any(s.status == egress.StreamInfo.FAILED for s in bench.updates[-1].stream_results):
            await bench.run(0.5)
            await asyncio.sleep(0.01)  # the refusal comes in real time
    assert bench.updates[-1].status == egress.EGRESS_ACTIVE
    await bench.service.update_stream(
        egress.UpdateStreamRequest(egress_id=info.egress_id, add_output_urls=["rtmp://127.0.0.1:1/app/otherkey123"])
    )
    code, _ = await refusal(
        bench.service.update_stream(
            egress.UpdateStreamRequest(egress_id=info.egress_id, remove_output_urls=["rtmp://127.0.0.1:1/app/unknown"])
        )
    )
    assert code == "not_found"
    ended = await bench.stop(info.egress_id)
    assert (ended.status, ended.error) == (egress.EGRESS_COMPLETE, "")
    assert len(ended.stream_results) == 2
    assert play(tmp_path / "x.mp4").duration > 0.8
    for update in bench.updates:
        assert "secretkey123" not in str(update)
        assert "otherkey123" not in str(update)


async def test_only_streams_and_all_dead_is_a_failure(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.studio.join("anna", microphone("TR_a", 440))
    info = await bench.service.start(
        sound(file_outputs=[], stream_outputs=[egress.StreamOutput(urls=["rtmp://127.0.0.1:1/app/key"])])
    )
    await bench.run(1)
    async with asyncio.timeout(20):
        while bench.updates[-1].status < egress.EGRESS_COMPLETE:
            await bench.run(0.5)
            await asyncio.sleep(0.01)
    ended = await bench.ended(info.egress_id)
    assert (ended.status, ended.error_code) == (egress.EGRESS_FAILED, 503)
    assert "no stream is left" in ended.error


async def test_layouts_belong_to_rooms_with_pictures(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    info = await bench.service.start(sound())
    code, _ = await refusal(
        bench.service.update_layout(egress.UpdateLayoutRequest(egress_id=info.egress_id, layout="x"))
    )
    assert code == "failed_precondition"
    code, _ = await refusal(
        bench.service.update_stream(
            egress.UpdateStreamRequest(egress_id=info.egress_id, add_output_urls=["rtmp://h/a/k"])
        )
    )
    assert code == "failed_precondition"
    await bench.close()


async def test_a_room_that_records_itself(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    room = models.Room(name="studio", sid="RM_studio")
    wish = room_messages.RoomEgress(
        room=sound("room.ogg"),
        participant=egress.AutoParticipantEgress(
            advanced=egress.EncodingOptions(width=320, height=180),
            file_outputs=[egress.EncodedFileOutput(filepath="{publisher_identity}/")],
        ),
        tracks=egress.AutoTrackEgress(filepath="tracks/"),
    )
    await bench.service.start_automatic(room, wish)
    await bench.run(0.5)
    anna = bench.studio.join("anna", microphone("TR_a", 440), camera("TR_v", GREEN, size=(320, 180), heights=(180,)))
    await bench.run(2)
    bench.studio.leave(anna)
    await bench.run(0.5)
    bench.studio.join("anna", microphone("TR_a2", 880))
    await bench.run(1)
    bench.studio.end()
    await bench.run(0.2)
    for session in bench.service.sessions:
        await session.done.wait()
    items = (await bench.service.list(egress.ListEgressRequest())).items
    kinds = sorted(info.WhichOneof("request") for info in items)
    assert kinds == ["participant", "participant", "room_composite", "track", "track", "track"]
    assert {info.status for info in items} == {egress.EGRESS_COMPLETE}
    assert len(names(tmp_path, "anna/*.mp4")) == 2
    assert len(names(tmp_path, "tracks/TR_*.ogg")) == 2
    assert len(names(tmp_path, "tracks/TR_v-*.webm")) == 1
    assert bench.studio.views == []


async def test_a_listener_that_fails_does_not_end_the_recording(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.studio.join("anna", microphone("TR_a", 440))
    told: list[int] = []

    def deaf(info: egress.EgressInfo) -> None:
        told.append(info.status)
        raise KeyError("nobody home")

    monkey = bench.service._around
    bench.service._around = type(monkey)(monkey.config, monkey.clock, monkey.wall_ns, deaf)
    info = await bench.service.start(sound("x.ogg"))
    await bench.run(2)
    ended = await bench.stop(info.egress_id)
    assert ended.status == egress.EGRESS_COMPLETE
    assert told == [egress.EGRESS_STARTING, egress.EGRESS_ACTIVE, egress.EGRESS_ENDING, egress.EGRESS_COMPLETE]


async def test_people_who_publish_nothing_are_not_found(tmp_path: Path) -> None:
    bench = Bench(tmp_path, track_wait_s=1.0)
    info = await bench.service.start_participant(
        egress.ParticipantEgressRequest(
            room_name="studio", identity="anna", file_outputs=[egress.EncodedFileOutput(filepath="x")]
        )
    )
    await bench.run(1.2)
    ended = await bench.ended(info.egress_id)
    assert (ended.status, ended.error_code) == (egress.EGRESS_FAILED, 404)
    assert ended.error == "participant anna with a track to record not found"
