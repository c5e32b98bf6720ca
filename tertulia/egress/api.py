"""Egress as the node sees it: its configuration and the calls behind LiveKit's Egress service.

    rooms(name) -> TapRoom      each call a view of its own; raises RequestError(not_found) for an unknown room
    on_update(EgressInfo)       on the loop, a copy, secrets masked; `job.webhook_event(info)` names the webhook
    new_id() -> str             `EG_...`
    clock() -> Nanos            monotonic, the clock of TapPacket.arrival
    wall_ns() -> int            Unix time

`service.EgressService(rooms, config, on_update=..., new_id=..., clock=..., wall_ns=...)` is the one implementation.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from livekit.protocol import egress, models
from livekit.protocol import room as room_messages

from tertulia.egress.outputs.addresses import AddressRules
from tertulia.egress.plan import Request


@dataclass(frozen=True, slots=True)
class EgressConfig:
    """Everything an operator can say about recording. Durations of 0 mean no limit."""

    root: Path
    """Local recordings end up here; recordings on their way to remote storage wait below it."""
    storage: egress.StorageConfig | None = None
    """Where files go whose request names no storage; None: they stay below `root`."""
    storage_prefix: str = ""
    """Before the name of every object in `storage`; requests with a storage of their own name what they want."""
    storage_presigned: bool = False
    """Tell locations in `storage` as links that open for seven days without a key."""
    backup: egress.StorageConfig | None = None
    """Where files go when their storage fails."""
    backup_prefix: str = ""
    backup_presigned: bool = False
    allow_local_storage: bool = True
    addresses: AddressRules = field(default_factory=AddressRules)

    cpu_cores: float = field(default_factory=lambda: float(os.cpu_count() or 1))
    max_cpu_utilization: float = 0.8
    """Share of `cpu_cores` that jobs may be promised together; the first job may always start."""
    jobs_limit: int = 100
    video_preset: str = "superfast"
    """x264's; superfast costs 0.5 dB and saves 40 % against veryfast."""
    encoder_threads: int = 0
    """0: one, and two for pictures that one thread cannot encode in time."""
    nice: int = 19
    """Of the encoding threads, 0 to 19; 19: only CPU time that nobody else wants."""

    latency_ms: int = 800
    """How far behind the room the timeline runs: room for retransmissions and for speech that comes late."""
    track_wait_s: float = 30.0
    """How long a job waits for the track or person it shall record."""
    file_max_duration_s: float = 0.0
    stream_max_duration_s: float = 0.0
    segment_max_duration_s: float = 0.0
    image_max_duration_s: float = 0.0
    drain_timeout_s: float = 30.0
    """Encoders and outputs that have not finished by then after a stop: FAILED, what is written stays."""
    ended_kept: int = 1000
    """Ended jobs that ListEgress still knows."""


class Egress(Protocol):
    """Called on the event loop. Every refusal is a RequestError with a Twirp code."""

    async def start(self, request: Request) -> egress.EgressInfo:
        """RoomComposite, Participant, TrackComposite, Track, StartEgress; Web is refused (unimplemented)."""

    async def start_room_composite(self, request: egress.RoomCompositeEgressRequest) -> egress.EgressInfo: ...

    async def start_participant(self, request: egress.ParticipantEgressRequest) -> egress.EgressInfo: ...

    async def start_track_composite(self, request: egress.TrackCompositeEgressRequest) -> egress.EgressInfo: ...

    async def start_track(self, request: egress.TrackEgressRequest) -> egress.EgressInfo: ...

    async def start_automatic(self, room: models.Room, wish: room_messages.RoomEgress) -> None:
        """CreateRoom's egress block: the room at once, then every person and every track as they come, until the
        room is gone. Raises RequestError when the room recording cannot start; never for what comes later."""

    async def update_layout(self, request: egress.UpdateLayoutRequest) -> egress.EgressInfo: ...

    async def update_stream(self, request: egress.UpdateStreamRequest) -> egress.EgressInfo: ...

    async def list(self, request: egress.ListEgressRequest) -> egress.ListEgressResponse: ...

    async def stop(self, request: egress.StopEgressRequest) -> egress.EgressInfo:
        """Answers at once with ENDING; the end comes by `on_update`. Stopped twice: the same answer."""

    def is_recording(self, room_name: str) -> bool:
        """For Room.active_recording."""

    async def close(self) -> None:
        """Finish every job as if stopped, all at the same time; refuses new ones from the first moment."""
