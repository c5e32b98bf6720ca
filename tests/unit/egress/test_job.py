"""The job's table, and what EgressInfo tells."""

import pytest
from livekit.protocol import egress

from tertulia.egress.job import EgressJob, EndReason, Happening, webhook_event
from tertulia.egress.outputs.api import OutputResult
from tertulia.egress.plan import make_plan
from tertulia.protocol.errors import RequestError


def new_job(**fields: object) -> EgressJob:
    fields.setdefault("file_outputs", [egress.EncodedFileOutput(filepath="x")])
    plan = make_plan(egress.RoomCompositeEgressRequest(room_name="r", **fields))  # type: ignore[arg-type]
    return EgressJob("EG_1", "RM_1", plan, 1000)


def test_a_recording_that_goes_well() -> None:
    job = new_job()
    assert job.info().status == egress.EGRESS_STARTING
    assert job.happen(2000, Happening.FIRST_MEDIA)
    assert not job.happen(2001, Happening.FIRST_MEDIA)
    assert job.happen(3000, Happening.STOP, reason=EndReason.API)
    assert not job.happen(3001, Happening.STOP, reason=EndReason.SOURCE_CLOSED)
    assert job.happen(4000, Happening.FINISHED)
    info = job.info()
    assert (info.status, info.error, info.error_code) == (egress.EGRESS_COMPLETE, "", 0)
    assert (info.started_at, info.ended_at, info.updated_at) == (1000, 4000, 4000)
    assert info.details == "End reason: StopEgress API"
    assert info.source_type == egress.EGRESS_SOURCE_TYPE_SDK
    assert info.room_composite.room_name == "r"


@pytest.mark.parametrize(
    ("story", "status", "code"),
    [
        ([Happening.STOP], egress.EGRESS_ABORTED, 412),
        ([Happening.LIMIT], egress.EGRESS_ABORTED, 412),
        ([Happening.FAILURE], egress.EGRESS_FAILED, 404),
        ([Happening.FIRST_MEDIA, Happening.FAILURE, Happening.FINISHED], egress.EGRESS_FAILED, 404),
        ([Happening.FIRST_MEDIA, Happening.STOP, Happening.FAILURE, Happening.FINISHED], egress.EGRESS_FAILED, 404),
        ([Happening.FIRST_MEDIA, Happening.LIMIT, Happening.FINISHED], egress.EGRESS_LIMIT_REACHED, 413),
        ([Happening.FIRST_MEDIA, Happening.STOP, Happening.FINISHED, Happening.FAILURE], egress.EGRESS_COMPLETE, 0),
        ([Happening.STOP, Happening.FIRST_MEDIA], egress.EGRESS_ABORTED, 412),
    ],
)
def test_ends(story: list[Happening], status: int, code: int) -> None:
    job = new_job()
    for what in story:
        reason = EndReason.LIMIT if what is Happening.LIMIT else None
        job.happen(5, what, reason=reason, error="boom" if what is Happening.FAILURE else "", code=404)
    info = job.info()
    assert (info.status, info.error_code) == (status, code)
    assert info.ended_at == 5
    assert bool(info.error) == bool(code)


def test_every_story_ends_in_one_end() -> None:
    """Whatever happens in whatever order: once over, it stays over; nothing is stuck in ENDING after FINISHED."""
    from itertools import product

    for story in product(Happening, repeat=4):
        job = new_job()
        ended = None
        for what in story:
            job.happen(1, what)
            if ended is not None:
                assert job.status == ended
            elif job.over:
                ended = job.status
        if job.status == egress.EGRESS_ENDING:
            job.happen(2, Happening.FINISHED)
            assert job.over


def test_the_first_error_is_the_one_that_is_told() -> None:
    job = new_job()
    job.happen(1, Happening.FIRST_MEDIA)
    job.happen(2, Happening.FAILURE, error="disk full", code=500)
    job.happen(3, Happening.FAILURE, error="something else", code=503)
    job.happen(4, Happening.FINISHED)
    assert (job.info().error, job.info().details) == ("disk full", "End reason: Failure")


def test_results_of_one_kind_are_also_told_the_old_way() -> None:
    job = new_job()
    job.results = lambda: [OutputResult(files=[egress.FileInfo(filename="a")])]
    assert job.info().file.filename == "a"
    job.results = lambda: [
        OutputResult(files=[egress.FileInfo(filename="a")]),
        OutputResult(streams=[egress.StreamInfo(url="b")]),
    ]
    assert job.info().WhichOneof("result") is None
    assert [len(job.info().file_results), len(job.info().stream_results)] == [1, 1]


def test_what_is_over_cannot_be_changed() -> None:
    job = new_job()
    job.refuse_if_over("stopped")
    job.happen(1, Happening.STOP)
    with pytest.raises(RequestError, match="egress with status EGRESS_ABORTED cannot be stopped") as refused:
        job.refuse_if_over("stopped")
    assert refused.value.code == "failed_precondition"


def test_webhooks() -> None:
    names = [
        webhook_event(egress.EgressInfo(status=status))
        for status in (egress.EGRESS_STARTING, egress.EGRESS_ACTIVE, egress.EGRESS_ENDING, egress.EGRESS_COMPLETE)
    ]
    assert names == ["egress_started", "egress_updated", "egress_updated", "egress_ended"]
