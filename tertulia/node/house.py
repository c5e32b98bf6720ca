"""The wiring: the one place that knows the front door, the rooms, the transports and the plane of this node.

It decides nothing about media or membership. It finds the room an event belongs to, hands it in, and carries what comes
out to where it goes: sessions, webhooks, metrics, egress, other nodes. A room that crashes ends alone.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

import structlog
from google.protobuf.message import Message
from livekit.protocol import models, room, rtc

from tertulia.node.driver import Driver, monotonic
from tertulia.node.metrics import Histogram
from tertulia.node.rpc_calls import RpcCalls
from tertulia.node.seat import Handles, PlaneOfRoom
from tertulia.protocol.errors import RequestError
from tertulia.protocol.ids import NodeId, SessionId, TransportId
from tertulia.protocol.machine import Nanos
from tertulia.protocol.signing import refresh_token
from tertulia.protocol.tap import TapRoom
from tertulia.sfu.events import (
    Closed,
    Drain,
    EndSession,
    Happened,
    Join,
    OfPlane,
    OfTransport,
    Refresh,
    Request,
    Resume,
    RoomInput,
    RoomOutput,
    RpcAnswered,
    Send,
    SessionClosed,
    ToNodes,
)
from tertulia.sfu.plane.api import (
    Datagram,
    Feedback,
    LivePlane,
    Outgoing,
    Report,
    Rtcp,
    TransportSilent,
    UnboundSsrc,
)
from tertulia.sfu.room import Room, RoomConfig
from tertulia.sfu.transport.api import TransportEvent
from tertulia.sfu.transport.hub import TransportHub
from tertulia.signal.backend import ROOM_MISSING, Command, JoinAttempt, Outlet, Place, Readiness, Refused

if TYPE_CHECKING:
    from tertulia.node.cluster.cluster import Cluster

log = structlog.get_logger()

JOIN_LATENCY_MS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000)
MAX_VERSIONS = 32
"""Clients say their protocol version; more different ones than these share a row."""


@dataclass
class HouseConfig:
    """What the house must know of the configuration file."""

    keys: Mapping[str, str] = field(repr=False)
    """API key -> secret."""
    node_id: NodeId
    region: str = ""
    auto_create: bool = True
    takes_calls: bool = True
    """False: an egress-only node."""
    presets: Mapping[str, room.RoomConfiguration] = field(default_factory=dict)
    room: RoomConfig = field(default_factory=RoomConfig)


class Seat:
    """One room at its place on this node."""

    def __init__(
        self, house: "House", request: room.CreateRoomRequest, shared: models.Room | None = None, *, is_new: bool = True
    ) -> None:
        """`shared`: its record, when other nodes may hold it too; `is_new`: this node made it."""
        self.name = request.name
        self.created = request
        self.sessions: set[SessionId] = set()
        self.plane: PlaneOfRoom[Seat] = PlaneOfRoom(house.handles, self)
        self.room = Room(
            request,
            node_id=house.config.node_id,
            region=house.config.region,
            plane=self.plane,
            transports=house.hub,
            now=monotonic(),
            wall_offset_ns=house.wall_offset_ns,
            rng=house.rng,
            config=house.config.room,
            shared=shared,
            is_new=is_new,
            links=house.cluster.links if house.cluster is not None else None,
        )
        self.snapshot_heard = asyncio.Event()
        """Another node that holds the room told its members."""
        self.record_version = 0
        self.finished: Happened | None = None
        """The end of the room, told by the last node that holds it."""
        self.is_deleter = False
        """The room was deleted here: this node tells."""
        self.driver: Driver[RoomInput, RoomOutput] = Driver(
            self.room,
            lambda output: house.on_output(self, output),
            lambda error: house.on_crash(self, error),
        )


class House:
    """The rooms of one node and everything that reaches them. `Backend` of the front door."""

    def __init__(
        self,
        config: HouseConfig,
        plane: LivePlane,
        make_hub: "Callable[[Callable[[str, TransportId, TransportEvent], None]], TransportHub]",
        rng: Random,
    ) -> None:
        self.config = config
        self.plane = plane
        self.rng = rng
        self.wall_offset_ns = time.time_ns() - time.monotonic_ns()
        self.handles: Handles[Seat] = Handles(plane)
        self.hub = make_hub(self.on_transport)
        self.seats: dict[str, Seat] = {}
        self._by_sid: dict[str, Seat] = {}
        self._outlets: dict[SessionId, Outlet] = {}
        self._of_session: dict[SessionId, Seat] = {}
        self.happened: list[Callable[[Seat | None, Happened], None]] = []
        """Who wants to hear of room events: webhooks, egress, agents. Without a seat: of a room no node holds."""
        self.counters: Counter[str] = Counter()
        self.join_latency_ms: dict[int, Histogram] = {}
        """By the client's protocol version; from the admitted request to the join response."""
        self.rpc = RpcCalls()
        self.cluster: Cluster | None = None
        """Other nodes; None: this one is alone."""
        self.relay_socket = -1
        """The socket of media links: nothing but media is taken from it."""
        self.draining = False
        self.reasons: Callable[[], tuple[str, ...]] = tuple
        """Why this node is not ready, as its other parts see it."""
        self.services: dict[str, Callable[[str, Message], Awaitable[Message]]] = {}
        """Twirp services beside RoomService: (method, request) -> answer."""
        self.created: list[Callable[[Seat], Awaitable[None]]] = []
        """Who acts on a new room: automatic egress. RequestError here refuses CreateRoom."""
        self.render_metrics: Callable[[], bytes] = bytes
        self.region_settings: Callable[[str], rtc.RegionSettings] = lambda asked_at: rtc.RegionSettings()

    # ------------------------------------------------------------------------------------------ joining

    async def validate(self, attempt: JoinAttempt) -> None:
        """Would this join be let in?"""
        self._check_open(attempt)
        if attempt.reconnect:
            return
        if (seat := self.seats.get(attempt.room)) is not None:
            seat.room.admit(attempt.claims)
        elif not await self._is_elsewhere(attempt.room):
            self._check_may_create(attempt)

    async def _is_elsewhere(self, name: str) -> bool:
        return self.cluster is not None and await self.cluster.store.room(name) is not None

    async def join(self, attempt: JoinAttempt, outlet: Outlet) -> None:
        """Let in, or raise."""
        self._check_open(attempt)
        asked_at = monotonic()
        seat = self.seats.get(attempt.room)
        if attempt.reconnect:
            self._resume(seat, attempt, outlet)
            return
        if seat is None:
            if not await self._is_elsewhere(attempt.room):
                self._check_may_create(attempt)
            seat = await self.room_for(self._creation(attempt))
        seat.room.admit(attempt.claims)
        sid, ticket = "", 0
        if self.cluster is not None:
            sid, ticket = await self.cluster.rooms.claim(seat, attempt.claims)
            if seat.driver.stopped:
                self.cluster.rooms.give_back(seat.name, attempt.claims.identity, sid)
                raise Refused(503, "the room has just ended", retry_after_s=1)
        self._enter(seat, attempt.session, outlet)
        seat.driver.handle(
            Join(
                session=attempt.session,
                claims=attempt.claims,
                client=attempt.client,
                single_connection=attempt.single_connection,
                auto_subscribe=attempt.auto_subscribe,
                adaptive_stream=attempt.adaptive_stream,
                allow_pause=attempt.allow_pause,
                auto_subscribe_data_track=attempt.auto_subscribe_data_track,
                metadata=attempt.metadata,
                attributes=attempt.attributes,
                add_tracks=attempt.add_tracks,
                offer=attempt.offer,
                sid=sid,
                ticket=ticket,
            )
        )
        self._count_join(attempt.client.protocol, (monotonic() - asked_at) / 1e6)

    def _count_join(self, protocol: int, took_ms: float) -> None:
        version = protocol if protocol in self.join_latency_ms or len(self.join_latency_ms) < MAX_VERSIONS else 0
        self.join_latency_ms.setdefault(version, Histogram(JOIN_LATENCY_MS)).observe(took_ms)

    def request(self, session: SessionId, message: rtc.SignalRequest) -> None:
        if (seat := self._of_session.get(session)) is not None:
            seat.driver.handle(Request(session, message))

    def session_closed(self, session: SessionId, reason: str) -> None:
        self.counters[f"session_closed_{reason}"] += 1
        if (seat := self._forget_session(session)) is not None:
            seat.driver.handle(SessionClosed(session))

    def _resume(self, seat: Seat | None, attempt: JoinAttempt, outlet: Outlet) -> None:
        if seat is None:
            leave = rtc.LeaveRequest(
                reason=models.DisconnectReason.STATE_MISMATCH, action=rtc.LeaveRequest.RECONNECT, can_reconnect=True
            )
            outlet.send(rtc.SignalResponse(leave=leave))
            outlet.end()
            return
        self._enter(seat, attempt.session, outlet)
        seat.driver.handle(
            Resume(
                session=attempt.session,
                participant_sid=attempt.participant_sid,
                claims=attempt.claims,
                reason=attempt.reconnect_reason,
                sync_state=attempt.sync_state,
            )
        )

    def _check_open(self, attempt: JoinAttempt) -> None:
        if self.draining:
            raise Refused(503, "this node is shutting down", retry_after_s=1)
        if not self.config.takes_calls:
            raise Refused(503, "this node takes no calls (node.roles)")

    def _check_may_create(self, attempt: JoinAttempt) -> None:
        grant = attempt.claims.video
        if not self.config.auto_create and not (grant is not None and grant.room_create):
            raise Refused(404, ROOM_MISSING)

    def _creation(self, attempt: JoinAttempt) -> room.CreateRoomRequest:
        """The room a first join makes: the token's roomConfig over its preset."""
        request = room.CreateRoomRequest(name=attempt.room, room_preset=attempt.claims.room_preset)
        if attempt.claims.room_config is not None:
            apply_configuration(request, attempt.claims.room_config)
        return request

    def _enter(self, seat: Seat, session: SessionId, outlet: Outlet) -> None:
        self._outlets[session] = outlet
        self._of_session[session] = seat
        seat.sessions.add(session)

    def _forget_session(self, session: SessionId) -> Seat | None:
        self._outlets.pop(session, None)
        seat = self._of_session.pop(session, None)
        if seat is not None:
            seat.sessions.discard(session)
        return seat

    # ------------------------------------------------------------------------------------------ rooms

    async def room_for(self, request: room.CreateRoomRequest, *, strict: bool = False) -> Seat:
        """The room of this name: here, of other nodes, or a new one. `strict`: not without its automatic egress."""
        if self.cluster is not None:
            seat, is_new = await self.cluster.rooms.open(request)
        elif (found := self.seats.get(request.name)) is not None:
            return found
        else:
            seat, is_new = self.open_room(request), True
        if is_new:
            await self._tell_created(seat, strict)
        return seat

    def open_room(self, request: room.CreateRoomRequest) -> Seat:
        """A new room on this node. Raises RequestError for an unknown preset or bad options."""
        return self.seat_room(self.prepared(request))

    def prepared(self, request: room.CreateRoomRequest) -> room.CreateRoomRequest:
        """The request over its preset."""
        if request.room_preset:
            if (preset := self.config.presets.get(request.room_preset)) is None:
                raise RequestError("invalid_argument", f"room_preset {request.room_preset!r} is not configured")
            merged = room.CreateRoomRequest(name=request.name)
            apply_configuration(merged, preset)
            merged.MergeFrom(request)
            return merged
        return request

    def seat_room(
        self, request: room.CreateRoomRequest, shared: models.Room | None = None, *, is_new: bool = True
    ) -> Seat:
        """Give a room its place on this node."""
        seat = Seat(self, request, shared, is_new=is_new)
        self.seats[seat.name] = seat
        self._by_sid[seat.room.sid] = seat
        seat.driver.drain()
        return seat

    def tap(self, seat: Seat) -> TapRoom:
        """A view of the room for one egress job."""
        return seat.room.tap()

    def set_recording(self, seat: Seat, active: bool) -> None:
        """The room is recorded (or not any more): clients on every node show it."""
        if self.cluster is None:
            seat.driver.run(lambda now: seat.room.set_recording(now, active))
        else:
            self.cluster.rooms.set_recording(seat, active)

    def on_output(self, seat: Seat, output: RoomOutput) -> None:
        """Carry one output of a room to where it goes."""
        match output:
            case Send(session, message):
                if (outlet := self._outlets.get(session)) is not None:
                    outlet.send(message)
            case EndSession(session, code):
                if (outlet := self._outlets.get(session)) is not None:
                    outlet.end(code)
                self._forget_session(session)
            case Refresh():
                self._refresh(output)
            case RpcAnswered():
                self.rpc.answered(output)
            case Happened():
                if output.name == "room_finished" and self.cluster is not None and not seat.is_deleter:
                    seat.finished = output
                else:
                    self.tell(seat, output)
            case ToNodes():
                if self.cluster is not None:
                    self.cluster.rooms.to_nodes(seat, output)
            case Closed(reason):
                self._close(seat)
                if self.cluster is not None:
                    self.cluster.rooms.closed(seat, seat.finished, reason)

    def tell(self, seat: Seat | None, event: Happened) -> None:
        """Tell who wants to hear of room events."""
        self.counters[f"event_{event.name}"] += 1
        for listener in self.happened:
            listener(seat, event)

    def on_crash(self, seat: Seat, error: Exception) -> None:
        """A bug of ours ended a room: everybody in it hears so and comes back into a fresh one."""
        self.counters["room_crashes"] += 1
        log.error("room.crashed", room=seat.name, exc_info=error)
        leave = rtc.LeaveRequest(
            reason=models.DisconnectReason.STATE_MISMATCH, action=rtc.LeaveRequest.RECONNECT, can_reconnect=True
        )
        for session in list(seat.sessions):
            if (outlet := self._outlets.get(session)) is not None:
                outlet.send(rtc.SignalResponse(leave=leave))
                outlet.end()
            self._forget_session(session)
        finished = Happened("room_finished", seat.room.info())
        self._close(seat)
        if self.cluster is None:
            self.tell(seat, finished)
        else:
            self.cluster.rooms.crashed(seat, finished)

    def _close(self, seat: Seat) -> None:
        seat.driver.stop()
        self.rpc.room_ended(seat)
        for session in list(seat.sessions):
            if (outlet := self._outlets.get(session)) is not None:
                outlet.end()
            self._forget_session(session)
        for transport in seat.room.transports():
            self.hub.close(transport)
        self.handles.forget(seat)
        self._by_sid.pop(seat.room.sid, None)
        if self.seats.get(seat.name) is seat:
            del self.seats[seat.name]

    def _refresh(self, output: Refresh) -> None:
        token = refresh_token(
            output.claims,
            self.config.keys,
            int(time.time()),
            name=output.name,
            metadata=output.metadata,
            attributes=output.attributes,
            permission=output.permission,
        )
        outlet = self._outlets.get(output.session)
        if token is not None and outlet is not None:
            outlet.send(rtc.SignalResponse(refresh_token=token))

    # ------------------------------------------------------------------------------------------ media side

    def on_transport(self, owner: str, transport: TransportId, event: TransportEvent) -> None:
        if (seat := self._by_sid.get(owner)) is not None:
            seat.driver.handle(OfTransport(transport, event))

    def on_plane(self) -> None:
        """Reports wait: hand each to its transport, and to each room its own in one turn."""
        now = monotonic()
        turns: dict[Seat, list[Report]] = {}
        for report in self.plane.reports():
            if isinstance(report, Datagram):
                if report.address.socket == self.relay_socket:
                    self.counters["relay_datagram_unexpected"] += 1
                else:
                    self.hub.on_datagram(now, report)
            elif isinstance(report, Feedback) and self.cluster is not None and self.cluster.links.on_feedback(report):
                continue
            elif isinstance(report, (Outgoing, TransportSilent)):  # a union is made anew every time
                self.hub.on_report(now, report)
            elif (seat := self._room_of(report)) is not None:
                turns.setdefault(seat, []).append(report)
        for seat, reports in turns.items():
            seat.driver.handle(OfPlane(reports))

    def _room_of(self, report: Report) -> Seat | None:
        if isinstance(report, (UnboundSsrc, Feedback, Rtcp)):
            owner = self.hub.owner(report.transport)
            return self._by_sid.get(owner) if owner is not None else None
        return self.handles.owner(report)

    # ------------------------------------------------------------------------------------------ server API

    async def command(self, command: Command) -> Message:
        """RoomService here; other services where they are registered."""
        if command.service != "RoomService":
            if self.cluster is not None and command.service == "Egress":
                return await self.cluster.placement.serve(command.method, command.request)
            serve = self.services.get(command.service)
            if serve is None:
                raise RequestError("unimplemented", f"{command.service} is not served by this node")
            return await serve(command.method, command.request)
        request = command.request
        if self.cluster is not None:
            return await self.cluster.calls.room_service(command.method, request)
        if isinstance(request, room.CreateRoomRequest):
            return await self._create_room(request)
        if isinstance(request, room.ListRoomsRequest):
            names = set(request.names)
            return room.ListRoomsResponse(
                rooms=[seat.room.info() for seat in self.seats.values() if not names or seat.name in names]
            )
        return await self._room_command(command.method, request)

    async def _create_room(self, request: room.CreateRoomRequest) -> models.Room:
        if not request.name:
            raise RequestError("invalid_argument", "name is required")
        return (await self.room_for(request, strict=True)).room.info()

    async def _tell_created(self, seat: Seat, strict: bool) -> None:
        for listener in self.created:
            try:
                await listener(seat)
            except RequestError as error:
                self.counters["room_creation_refused"] += 1
                if strict:
                    self.run_command(seat, "DeleteRoom", room.DeleteRoomRequest(room=seat.name))
                    raise
                log.warning("room.automatic_egress_refused", room=seat.name, error=error.message)

    async def _room_command(self, method: str, request: Message) -> Message:
        seat = self.seats.get(request.room)  # type: ignore[attr-defined]
        if seat is None:
            raise RequestError("not_found", ROOM_MISSING)
        return await self.carry_out(seat, method, request)

    async def carry_out(self, seat: Seat, method: str, request: Message) -> Message:
        """One method on a room that is here; an RPC waits for the member's answer."""
        if isinstance(request, room.PerformRpcRequest):
            return await self.rpc.perform(seat, request)
        return self.run_command(seat, method, request)

    def run_command(self, seat: Seat, method: str, request: Message) -> Message:
        """One method on a room that is here."""
        answer: list[Message | RequestError] = []

        def run(now: Nanos) -> None:
            try:
                answer.append(seat.room.command(now, method, request))
            except RequestError as error:
                answer.append(error)

        seat.driver.run(run)
        if not answer:
            raise RequestError("internal", "the room ended while it carried this out")
        if isinstance(answer[0], RequestError):
            raise answer[0]
        return answer[0]

    # ------------------------------------------------------------------------------------------ health

    def readiness(self) -> Readiness:
        reasons = self.reasons()
        if self.draining:
            reasons = ("draining", *reasons)
        return Readiness(not reasons, reasons)

    def place(self) -> Place:
        return Place(self.config.node_id, self.config.region)

    def regions(self, asked_at: str) -> rtc.RegionSettings:
        return self.region_settings(asked_at)

    def metrics(self) -> bytes:
        return self.render_metrics()

    def check_metadata(self, metadata: str) -> None:
        limit = self.config.room.max_metadata_bytes
        if len(metadata.encode()) > limit:
            raise RequestError("invalid_argument", f"metadata exceeds {limit} bytes")

    def drain(self) -> None:
        """Say goodbye: every client is told to reconnect, to another node."""
        self.draining = True
        for seat in list(self.seats.values()):
            seat.driver.handle(Drain())

    def stop(self) -> None:
        """End every room now: SERVER_SHUTDOWN to everybody."""
        self.draining = True
        for seat in list(self.seats.values()):
            seat.driver.run(seat.room.shut_down)


def apply_configuration(request: room.CreateRoomRequest, configuration: room.RoomConfiguration) -> None:
    """Copy what a RoomConfiguration says into a CreateRoomRequest; the fields carry the same names."""
    for descriptor, value in configuration.ListFields():
        if descriptor.name == "name" or descriptor.name not in request.DESCRIPTOR.fields_by_name:
            continue
        if descriptor.is_repeated:
            getattr(request, descriptor.name).extend(value)
        elif descriptor.message_type is not None:
            getattr(request, descriptor.name).CopyFrom(value)
        else:
            setattr(request, descriptor.name, value)
