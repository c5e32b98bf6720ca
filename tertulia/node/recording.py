"""Egress in the house: its configuration, its view of rooms, its Twirp methods, its webhooks and automatic starts."""

import os
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import structlog
from google.protobuf.message import Message
from livekit.protocol import egress, room, webhook

from tertulia.node.config import Config, Storage
from tertulia.node.driver import monotonic
from tertulia.node.metrics import Value
from tertulia.protocol.errors import RequestError
from tertulia.protocol.ids import mint
from tertulia.protocol.tap import TapRoom
from tertulia.signal.webhook import Target

if TYPE_CHECKING:
    from tertulia.egress.api import EgressConfig
    from tertulia.node.house import House, Seat

log = structlog.get_logger()

KINDS = ("room_composite", "participant", "track_composite", "track")
ACTIVE_STATES = (egress.EGRESS_STARTING, egress.EGRESS_ACTIVE, egress.EGRESS_ENDING)


def egress_config(config: Config) -> "EgressConfig":
    """The operator's words in those of egress."""
    from tertulia.egress.api import EgressConfig
    from tertulia.egress.outputs.addresses import AddressRules

    about = config.egress
    limits = about.session_limits
    return EgressConfig(
        root=Path(about.output_roots[0] if about.output_roots else "recordings"),
        storage=storage(about.storage),
        storage_prefix=about.storage.prefix,
        storage_presigned=about.storage.generate_presigned_url,
        backup=storage(about.backup),
        backup_prefix=about.backup.prefix,
        backup_presigned=about.backup.generate_presigned_url,
        allow_local_storage=not about.disallow_local_storage,
        addresses=AddressRules(allow_private=about.allow_private_addresses),
        cpu_cores=about.cpu_cores or float(os.cpu_count() or 1),
        max_cpu_utilization=about.max_cpu_utilization,
        jobs_limit=about.max_jobs or 100,
        video_preset=about.video_preset,
        encoder_threads=about.encoder_threads,
        nice=about.nice,
        latency_ms=round(about.latency.ms),
        track_wait_s=about.track_wait.s,
        file_max_duration_s=limits.file_output_max_duration.s,
        stream_max_duration_s=limits.stream_output_max_duration.s,
        segment_max_duration_s=limits.segment_output_max_duration.s,
        image_max_duration_s=limits.image_output_max_duration.s,
    )


def storage(about: Storage) -> egress.StorageConfig | None:
    """LiveKit's message for one storage; None when nothing is configured."""
    if about.s3.bucket:
        s3 = about.s3
        return egress.StorageConfig(
            s3=egress.S3Upload(
                access_key=str(s3.access_key),
                secret=str(s3.secret),
                session_token=str(s3.session_token),
                region=s3.region,
                endpoint=s3.endpoint,
                bucket=s3.bucket,
                force_path_style=s3.force_path_style,
            )
        )
    if about.gcp.bucket:
        return egress.StorageConfig(
            gcp=egress.GCPUpload(bucket=about.gcp.bucket, credentials=str(about.gcp.credentials_json))
        )
    if about.azure.container_name:
        azure = about.azure
        return egress.StorageConfig(
            azure=egress.AzureBlobUpload(
                account_name=azure.account_name,
                account_key=str(azure.account_key),
                container_name=azure.container_name,
            )
        )
    return None


class Recording:
    """The egress of one node, joined to its house."""

    def __init__(
        self,
        house: "House",
        config: Config,
        rng: Random,
        notify: Callable[[webhook.WebhookEvent, tuple[Target, ...]], None],
    ) -> None:
        from tertulia.egress.service import EgressService

        self._house = house
        self._notify = notify
        self._guarded = not config.egress.allow_private_addresses
        self._recorded: dict[str, str] = {}
        """Egress id -> name of the room that is being recorded."""
        self.service: EgressService = EgressService(
            self._view,
            egress_config(config),
            on_update=self._on_update,
            new_id=lambda: mint("EG_", rng),
            clock=monotonic,
            wall_ns=lambda: monotonic() + house.wall_offset_ns,
        )
        service = self.service
        self._methods: Mapping[str, Callable[[Any], Awaitable[Message]]] = {
            "StartRoomCompositeEgress": service.start_room_composite,
            "StartParticipantEgress": service.start_participant,
            "StartTrackCompositeEgress": service.start_track_composite,
            "StartTrackEgress": service.start_track,
            "StartWebEgress": service.start,
            "StartEgress": service.start,
            "UpdateLayout": service.update_layout,
            "UpdateStream": service.update_stream,
            "ListEgress": service.list,
            "StopEgress": service.stop,
        }
        house.services["Egress"] = self.serve
        house.services["AutomaticEgress"] = self._serve_automatic
        house.created.append(self._on_created)

    async def serve(self, method: str, request: Message) -> Message:
        """One call of the Twirp service `Egress`."""
        if (call := self._methods.get(method)) is None:
            raise RequestError("unimplemented", f"{method} is not served by this node")
        self._check_webhooks(request)
        return await call(request)

    def _check_webhooks(self, request: Message) -> None:
        """Receivers of the request's own: signed with a key of ours that the request names."""
        for one in getattr(request, "webhooks", ()):
            if one.signing_key not in self._house.config.keys:
                raise RequestError(
                    "invalid_argument", "request has missing or invalid field: webhooks.signing_key (not a key here)"
                )
            if not one.url.startswith(("http://", "https://")):
                raise RequestError("invalid_argument", "request has missing or invalid field: webhooks.url")

    async def _serve_automatic(self, method: str, request: Message) -> Message:
        """A room made on a node that takes no jobs; only other nodes ask this."""
        assert isinstance(request, room.CreateRoomRequest)
        if (seat := self._house.seats.get(request.name)) is None:
            raise RequestError("not_found", "requested room does not exist")
        await self._on_created(seat)
        return egress.EgressInfo(room_name=request.name)

    def figures(self) -> dict[str, Value | Mapping[tuple[str, ...], Value]]:
        """For metrics: whether jobs are taken, and the running ones by kind."""
        running: Counter[tuple[str, ...]] = Counter({(kind,): 0 for kind in KINDS})
        for session in self.service.sessions:
            running[session.plan.kind,] += 1
        free = self.service.budget.free > 0 or not self.service.sessions
        return {"egress_available": int(free), "egress_requests": dict(running)}

    async def close(self) -> None:
        await self.service.close()

    def _view(self, name: str) -> TapRoom:
        seat = self._house.seats.get(name)
        if seat is None:
            raise RequestError("not_found", "requested room does not exist")
        return self._house.tap(seat)

    async def _on_created(self, seat: "Seat") -> None:
        """CreateRoom's (or the token's) egress block."""
        if seat.created.HasField("egress"):
            await self.service.start_automatic(seat.room.info(), seat.created.egress)

    def _on_update(self, info: egress.EgressInfo) -> None:
        from tertulia.egress.job import webhook_event

        event = webhook.WebhookEvent(event=webhook_event(info), egress_info=info)
        self._notify(event, self._receivers(info))
        self._show(info)

    def _receivers(self, info: egress.EgressInfo) -> tuple[Target, ...]:
        kind = info.WhichOneof("request")
        wishes = getattr(getattr(info, kind), "webhooks", ()) if kind is not None else ()
        return tuple(
            Target(
                one.url,
                one.signing_key,
                guarded=self._guarded,
                include=frozenset(one.filter_params.include_events),
                exclude=frozenset(one.filter_params.exclude_events),
            )
            for one in wishes
        )

    def _show(self, info: egress.EgressInfo) -> None:
        """Room.active_recording: somebody is being recorded, as LiveKit's recorder participant would show."""
        before = info.room_name in self._recorded.values()
        if info.status in ACTIVE_STATES:
            self._recorded[info.egress_id] = info.room_name
        else:
            self._recorded.pop(info.egress_id, None)
        running = info.room_name in self._recorded.values()
        if running != before and (seat := self._house.seats.get(info.room_name)) is not None:
            self._house.set_recording(seat, running)
