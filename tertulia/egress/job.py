"""The life of one egress job: a table of states, and the EgressInfo that tells it.

Decides which state follows what, what the caller is told and which webhook that is; starts and stops nothing. Status
words, error codes (HTTP numbers) and `details` as LiveKit's egress uses them (egress-features 6).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal, TypeAlias

from livekit.protocol import egress

from tertulia.egress.outputs.api import OutputResult
from tertulia.egress.plan import Plan
from tertulia.egress.redact import redacted
from tertulia.protocol.errors import RequestError

Status: TypeAlias = "egress.EgressStatus"


class Happening(Enum):
    """What can happen to a job."""

    FIRST_MEDIA = "first media"
    STOP = "stop"
    """By the API, by the server going down, or because the source has ended."""
    LIMIT = "limit"
    FAILURE = "failure"
    FINISHED = "finished"
    """Encoders flushed, outputs closed, uploads done."""


class EndReason(Enum):
    """`EgressInfo.details`, in LiveKit's words."""

    API = "StopEgress API"
    SOURCE_CLOSED = "Source closed"
    SERVER_CLOSED = "Process killed"
    LIMIT = "Session limit reached"
    STREAMS_STOPPED = "All streams stopped"
    FAILURE = "Failure"


_TABLE: dict[tuple[Status, Happening], Status] = {
    (egress.EGRESS_STARTING, Happening.FIRST_MEDIA): egress.EGRESS_ACTIVE,
    (egress.EGRESS_STARTING, Happening.STOP): egress.EGRESS_ABORTED,
    (egress.EGRESS_STARTING, Happening.LIMIT): egress.EGRESS_ABORTED,
    (egress.EGRESS_STARTING, Happening.FAILURE): egress.EGRESS_FAILED,
    (egress.EGRESS_ACTIVE, Happening.STOP): egress.EGRESS_ENDING,
    (egress.EGRESS_ACTIVE, Happening.LIMIT): egress.EGRESS_ENDING,
    (egress.EGRESS_ACTIVE, Happening.FAILURE): egress.EGRESS_ENDING,
    (egress.EGRESS_ENDING, Happening.FINISHED): egress.EGRESS_COMPLETE,
    (egress.EGRESS_ENDING, Happening.FAILURE): egress.EGRESS_ENDING,
}
"""Not in the table: refused, nothing changes. A failure while ACTIVE still closes the outputs, then is FAILED."""

_OVER = frozenset({egress.EGRESS_COMPLETE, egress.EGRESS_FAILED, egress.EGRESS_ABORTED, egress.EGRESS_LIMIT_REACHED})
ABORTED_CODE, LIMIT_CODE = 412, 413
_ABORTED_TEXT = "Stop called before pipeline could start"


@dataclass(slots=True)
class EgressJob:
    """One job's status and times. `results` is asked whenever the job is told."""

    egress_id: str
    room_id: str
    plan: Plan
    accepted_wall_ns: int
    results: Callable[[], Sequence[OutputResult]] = tuple
    status: Status = egress.EGRESS_STARTING
    manifest_location: str = ""
    notes: list[str] = field(default_factory=list)
    """What the caller should know beside the reason of the end: lost pictures, a file that could not be uploaded."""
    _updated_ns: int = 0
    _ended_ns: int = 0
    _reason: EndReason | None = None
    _error: str = ""
    _error_code: int = 0
    _layout: str = ""

    @property
    def over(self) -> bool:
        return self.status in _OVER

    @property
    def stopping(self) -> bool:
        return self.over or self.status == egress.EGRESS_ENDING

    def happen(
        self, wall_ns: int, what: Happening, *, reason: EndReason | None = None, error: str = "", code: int = 0
    ) -> bool:
        """True when the status has changed. The first reason and the first error are the ones that are told."""
        after = _TABLE.get((self.status, what))
        if after is None:
            return False
        if self._reason is None:
            self._reason = EndReason.FAILURE if what is Happening.FAILURE and reason is None else reason
        if what is Happening.FAILURE and not self._error:
            self._error, self._error_code = error or "failed", code or 500
        if what is Happening.FINISHED:
            after = self._final_status()
        changed = bool(after != self.status)
        self.status, self._updated_ns = after, wall_ns
        if after == egress.EGRESS_ABORTED:
            self._error, self._error_code = _ABORTED_TEXT, ABORTED_CODE
        if self.over:
            self._ended_ns = wall_ns
        return changed

    def touch(self, wall_ns: int) -> None:
        """Something else has changed that the caller is told (a stream's state)."""
        self._updated_ns = wall_ns

    def wear(self, layout: str) -> None:
        """UpdateLayout: the layout that EgressInfo's request shows from now on."""
        self._layout = layout

    def refuse_if_over(self, verb: Literal["stopped", "updated"]) -> None:
        """Raises RequestError(failed_precondition) as LiveKit's server does."""
        if self.over:
            name = egress.EgressStatus.Name(self.status)
            raise RequestError("failed_precondition", f"egress with status {name} cannot be {verb}")

    def info(self) -> egress.EgressInfo:
        info = egress.EgressInfo(
            egress_id=self.egress_id,
            room_id=self.room_id,
            room_name=self.plan.room_name,
            source_type=egress.EGRESS_SOURCE_TYPE_SDK,
            status=self.status,
            started_at=self.accepted_wall_ns,
            ended_at=self._ended_ns,
            updated_at=self._updated_ns or self.accepted_wall_ns,
            error=self._error,
            error_code=self._error_code,
            manifest_location=self.manifest_location,
        )
        details = [f"End reason: {self._reason.value}"] if self._reason is not None else []
        info.details = "; ".join(details + self.notes)
        getattr(info, self.plan.kind).CopyFrom(redacted(self.plan.request))
        if self._layout:
            shown = info.egress.template if self.plan.kind == "egress" else info.room_composite
            shown.layout = self._layout
        self._add_results(info)
        return info

    def _add_results(self, info: egress.EgressInfo) -> None:
        for result in self.results():
            info.file_results.extend(result.files)
            info.stream_results.extend(result.streams)
            info.segment_results.extend(result.segments)
            info.image_results.extend(result.images)
            info.backup_storage_used |= result.backup_storage_used
        kinds = [bool(info.file_results), bool(info.stream_results), bool(info.segment_results)]
        if sum(kinds) != 1:
            return
        # Deprecated, still read by many: filled when there is exactly one kind of result.
        if info.file_results:
            info.file.CopyFrom(info.file_results[0])
        elif info.segment_results:
            info.segments.CopyFrom(info.segment_results[0])
        else:
            info.stream.info.extend(info.stream_results)

    def _final_status(self) -> Status:
        if self._error:
            return egress.EGRESS_FAILED
        if self._reason is EndReason.LIMIT:
            self._error, self._error_code = EndReason.LIMIT.value, LIMIT_CODE
            return egress.EGRESS_LIMIT_REACHED
        return egress.EGRESS_COMPLETE


def webhook_event(info: egress.EgressInfo) -> Literal["egress_started", "egress_updated", "egress_ended"]:
    """The webhook that tells this info: a job is told once while STARTING, and once when it is over."""
    if info.status in _OVER:
        return "egress_ended"
    return "egress_started" if info.status == egress.EGRESS_STARTING else "egress_updated"
