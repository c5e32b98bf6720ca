"""`Plane` over a `Core`: handles, reports as dataclasses, figures as tuples. The same for every life.

Orders for handles that are gone are ignored here, as the border promises.
"""

import struct
from collections.abc import Callable, Mapping
from random import Random
from typing import ParamSpec, TypeVar

from tertulia.protocol.ids import TransportId
from tertulia.protocol.machine import Nanos
from tertulia.protocol.tap import SenderClock, TapPacket
from tertulia.sfu.plane.api import (
    Address,
    AudioWindow,
    Codec,
    Datagram,
    DownStats,
    Drop,
    Extension,
    Feedback,
    KeyFrame,
    Outgoing,
    Report,
    Rtcp,
    SrtpProfile,
    Switched,
    TransportSilent,
    UnboundSsrc,
    UpStats,
    Usage,
)
from tertulia.sfu.plane.core import Core, RawReport, UnknownHandle
from tertulia.sfu.plane.taps import TapQueue
from tertulia.sfu.plane.words import (
    R_DATAGRAM,
    R_FEEDBACK,
    R_KEY_FRAME,
    R_OUTGOING,
    R_RTCP,
    R_SILENT,
    R_SWITCHED,
    R_UNBOUND,
)

MAX_ADDRESSES = 16
MAX_RTCP_BYTES = 1400
TOTALS = (
    *("packets_in", "bytes_in", "packets_out", "bytes_out", "nacks_in", "nacks_out", "plis_in", "plis_out"),
    *("retransmitted", "gso_segments", "send_errors", "checks"),
)
FEEDBACK = struct.Struct("!10q")
USAGES = tuple(Usage)

P = ParamSpec("P")
T = TypeVar("T")


class Orders:
    """The orders of `Plane`. `rng` picks the first numbers of what is sent."""

    def __init__(self, core: Core, rng: Random) -> None:
        self._core = core
        self._rng = rng
        self._handles = 0
        self._addresses: dict[int, dict[Address, None]] = {}
        self._at: dict[Address, int] = {}
        self._taps: dict[int, tuple[TapQueue, int]] = {}
        self._tap_layers: dict[int, int] = {}
        self._tracks: dict[int, tuple[set[int], set[int]]] = {}
        self._track_of: dict[int, int] = {}
        self._transport_of: dict[int, int] = {}

    @property
    def life(self) -> str:
        return self._core.life

    def _handle(self) -> int:
        self._handles += 1
        return self._handles

    def _try(self, order: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> bool:
        """Give an order; False when what it names is gone."""
        try:
            order(*args, **kwargs)
        except UnknownHandle:
            return False
        return True

    # transports ---------------------------------------------------------------------------------

    def add_transport(self, port: int = 0) -> TransportId:
        handle = self._handle()
        self._core.add_transport(handle, port, self._rng.getrandbits(15))
        self._addresses[handle] = {}
        return TransportId(handle)

    def remove_transport(self, transport: TransportId) -> None:
        for address in self._addresses.pop(transport, ()):
            del self._at[address]
        for handle in [handle for handle, owner in self._transport_of.items() if owner == transport]:
            self._forget(handle)
        self._try(self._core.remove_transport, transport)

    def set_keys(self, transport: TransportId, profile: SrtpProfile, rx: bytes, tx: bytes) -> None:
        self._try(self._core.set_keys, transport, int(profile), rx, tx)

    def allow(self, transport: TransportId, address: Address) -> None:
        known = self._addresses.get(transport)
        if known is None:
            return
        if (before := self._at.get(address)) is not None:
            del self._addresses[before][address]
        self._at[address] = transport
        known[address] = None
        if len(known) > MAX_ADDRESSES:
            oldest = next(iter(known))
            del known[oldest], self._at[oldest]
            self._try(self._core.disallow, transport, oldest.socket, oldest.host, oldest.port)
        self._try(self._core.allow, transport, address.socket, address.host, address.port)

    def select(self, transport: TransportId, address: Address | None) -> None:
        self._try(
            self._core.select, transport, None if address is None else (address.socket, address.host, address.port)
        )

    def set_extensions(self, transport: TransportId, ids: Mapping[Extension, int]) -> None:
        table = bytearray(16)
        for kind, number in ids.items():
            if 0 < number < 256:
                table[kind] = number
        self._try(self._core.set_extensions, transport, bytes(table))

    def set_feedback(self, transport: TransportId, ssrc: int) -> None:
        self._try(self._core.set_feedback, transport, ssrc & 0xFFFFFFFF)

    def attend(self, transport: TransportId, every_ns: int) -> None:
        self._try(self._core.attend, transport, every_ns)

    def answer_checks(self, transport: TransportId, ufrag: str, pwd: str) -> None:
        self._try(self._core.answer_checks, transport, f"{ufrag}:".encode() if ufrag else b"", pwd.encode())

    def last_check(self, transport: TransportId) -> Nanos:
        try:
            return Nanos(self._core.last_check(transport))
        except UnknownHandle:
            return Nanos(0)

    def has_answered(self, transport: TransportId, transaction: bytes) -> bool:
        try:
            return self._core.has_answered(transport, transaction)
        except UnknownHandle:
            return False

    def send(self, address: Address, data: bytes) -> None:
        self._core.send(address.socket, address.host, address.port, data)

    def send_rtcp(self, transport: TransportId, data: bytes) -> None:
        if 8 <= len(data) <= MAX_RTCP_BYTES:
            self._try(self._core.send_rtcp, transport, data)

    def feed(self, now: Nanos, transport: TransportId, data: bytes) -> None:
        self._try(self._core.feed, now, transport, data)

    # up -----------------------------------------------------------------------------------------

    def add_track(self, codec: Codec, clock_hz: int) -> int:
        handle = self._handle()
        self._core.add_track(handle, int(codec), max(1, clock_hz))
        self._tracks[handle] = (set(), set())
        return handle

    def remove_track(self, track: int) -> None:
        ups, downs = self._tracks.pop(track, (set(), set()))
        for handle in [*ups, *downs]:
            self._forget(handle)
        self._try(self._core.remove_track, track)

    def add_up(
        self, track: int, transport: TransportId, ssrc: int, layer: int, *, payload_type: int, nack: bool, twcc: bool
    ) -> int:
        handle = self._handle()
        layer = min(max(layer, 0), 3)
        if self._try(
            self._core.add_up,
            *(handle, track, transport, ssrc & 0xFFFFFFFF, layer, payload_type & 0x7F, int(nack), int(twcc)),
        ):
            self._own(handle, track, transport, 0)
        return handle

    def bind_rtx(self, up: int, ssrc: int, payload_type: int) -> None:
        self._try(self._core.bind_rtx, up, ssrc & 0xFFFFFFFF, payload_type & 0x7F)

    def remove_up(self, up: int) -> None:
        self._forget(up)
        self._try(self._core.remove_up, up)

    def request_key_frame(self, track: int, layer: int) -> None:
        self._try(self._core.want_layer, track, layer)

    def set_track_enabled(self, track: int, enabled: bool) -> None:
        self._try(self._core.enable, track, int(enabled))

    # down ---------------------------------------------------------------------------------------

    def add_down(
        self,
        track: int,
        transport: TransportId,
        ssrc: int,
        *,
        payload_type: int,
        rtx_ssrc: int = 0,
        rtx_payload_type: int = 0,
        mid: str = "",
        raw: bool = False,
        first_sequence: int = 1,
        first_timestamp: int = 0,
    ) -> int:
        handle = self._handle()
        if not (rtx_ssrc and rtx_payload_type):
            rtx_ssrc = rtx_payload_type = 0
        given = self._try(
            self._core.add_down,
            handle,
            track,
            transport,
            ssrc & 0xFFFFFFFF,
            payload_type & 0x7F,
            rtx_ssrc & 0xFFFFFFFF,
            rtx_payload_type & 0x7F,
            self._rng.getrandbits(15),
            mid.encode()[:32],
            int(raw),
            first_sequence & 0xFFFF,
            first_timestamp & 0xFFFFFFFF,
        )
        if given:
            self._own(handle, track, transport, 1)
        return handle

    def remove_down(self, down: int) -> None:
        self._forget(down)
        self._try(self._core.remove_down, down)

    def set_target(self, down: int, layer: int, temporal: int = 7) -> None:
        if down in self._taps:
            self._tap_layers[down] = layer
        self._try(self._core.aim, down, min(layer, 3), max(0, temporal))

    # taps ---------------------------------------------------------------------------------------

    def add_tap(self, track: int, *, limit_packets: int = 2048) -> int:
        handle = self._handle()
        if self._try(self._core.add_tap, handle, track, max(1, limit_packets)):
            self._own(handle, track, 0, 1)
            self._taps[handle] = (TapQueue(), track)
        return handle

    def take_tap(self, tap: int, limit: int = 512) -> tuple[list[TapPacket], int]:
        if tap not in self._taps:
            return [], 0
        queue, track = self._taps[tap]
        try:
            packets, gone = self._core.take_tap(tap)
        except UnknownHandle:
            return [], 0
        queue.put(packets)
        taken, gave_up = queue.take(Nanos(self._core.now()), limit)
        if gave_up or gone:
            self.request_key_frame(track, self._tap_layers.get(tap, 0))
        return taken, gone

    def tap_clock(self, tap: int) -> SenderClock | None:
        try:
            clock = self._core.tap_clock(tap)
        except UnknownHandle:
            return None
        return None if clock is None else SenderClock(clock[0], clock[1], Nanos(clock[2]))

    # reports and figures ------------------------------------------------------------------------

    def reports(self) -> list[Report]:
        return [report for raw in self._core.take_reports() if (report := told(raw)) is not None]

    def up_stats(self, up: int) -> UpStats | None:
        try:
            figures = self._core.up_figures(up)
        except UnknownHandle:
            return None
        return UpStats._make(figures)

    def down_stats(self, down: int) -> DownStats | None:
        try:
            return DownStats._make(self._core.down_figures(down))
        except UnknownHandle:
            return None

    def set_audio_threshold(self, level: int) -> None:
        self._core.set_threshold(level)

    def take_levels(self) -> list[AudioWindow]:
        return [AudioWindow(*window) for window in self._core.take_levels()]

    def totals(self) -> Mapping[str, int]:
        totals, drops = self._core.totals()
        figures = dict(zip(TOTALS, totals, strict=False))
        for drop in Drop:
            figures[f"drop_{drop.name.lower()}"] = drops[drop]
        figures["transports"] = len(self._addresses)
        figures["ups"] = sum(len(ups) for ups, _ in self._tracks.values())
        figures["taps"] = len(self._taps)
        figures["downs"] = sum(len(downs) for _, downs in self._tracks.values()) - len(self._taps)
        return figures

    # who belongs to whom ------------------------------------------------------------------------

    def _own(self, handle: int, track: int, transport: int, side: int) -> None:
        self._tracks[track][side].add(handle)
        self._track_of[handle] = track
        if transport:
            self._transport_of[handle] = transport

    def _forget(self, handle: int) -> None:
        self._transport_of.pop(handle, None)
        self._taps.pop(handle, None)
        self._tap_layers.pop(handle, None)
        if (track := self._track_of.pop(handle, None)) is not None and track in self._tracks:
            for side in self._tracks[track]:
                side.discard(handle)


def told(raw: RawReport) -> Report | None:
    """A report in words."""
    kind, handle, number, body, place = raw
    transport = TransportId(handle)
    match kind:
        case _ if kind == R_FEEDBACK:
            now, *figures, usage, standing, recent = FEEDBACK.unpack(body)
            return Feedback._make((transport, now, *figures, USAGES[usage], standing, recent))
        case _ if kind == R_DATAGRAM and place is not None:
            return Datagram(Address(*place), body, transport if handle else None)
        case _ if kind == R_OUTGOING:
            return Outgoing(transport, body)
        case _ if kind == R_UNBOUND:
            words, o = [], 1
            for _ in range(3):
                words.append(body[o + 1 : o + 1 + body[o]].decode("ascii", "replace"))
                o += 1 + body[o]
            return UnboundSsrc(transport, number, body[0], *words)
        case _ if kind == R_SWITCHED:
            return Switched(handle, number)
        case _ if kind == R_KEY_FRAME:
            return KeyFrame(handle, number >> 16, number & 0xFFFF)
        case _ if kind == R_RTCP:
            return Rtcp(transport, body)
        case _ if kind == R_SILENT:
            return TransportSilent(transport, "too many SSRCs nobody announced")
    return None
