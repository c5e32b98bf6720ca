"""A room with recorders for plane and transports, and guests that speak signal messages. Time moves only by hand."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import count
from random import Random
from typing import Any

from livekit.protocol import models, room, rtc

from tertulia.protocol.errors import RequestError
from tertulia.protocol.ids import NodeId, SessionId, TransportId
from tertulia.protocol.machine import SECOND, Nanos
from tertulia.protocol.tap import SenderClock, TapPacket
from tertulia.protocol.token import Claims, VideoGrant
from tertulia.sfu.events import EndSession, Join, OfPlane, OfTransport, Refresh, Request, Resume, RoomInput, Send
from tertulia.sfu.plane.api import AudioWindow, Codec, DownStats, Extension, Report, UnboundSsrc, UpStats
from tertulia.sfu.room import Room, RoomConfig
from tertulia.sfu.transport.api import (
    ChannelMessage,
    ChannelOpened,
    LocalParameters,
    RemoteParameters,
    TransportConnected,
    TransportEvent,
)
from tests.sim import sdp

WALL_NS = 1_700_000_000 * SECOND
SILENT_UP = UpStats(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, Nanos(0), 0, 127)
SILENT_DOWN = DownStats(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)


class RecordingPlane:
    """Hands out numbers and remembers what it was told."""

    life = "interpreted"

    def __init__(self) -> None:
        self._numbers = count(100)
        self.tracks: dict[int, Codec] = {}
        self.ups: dict[int, dict[str, Any]] = {}
        self.downs: dict[int, dict[str, Any]] = {}
        self.taps: dict[int, int] = {}
        self.targets: dict[int, tuple[int, int]] = {}
        self.attended: dict[TransportId, int] = {}
        self.disabled: set[int] = set()
        self.key_frames: list[tuple[int, int]] = []
        self.extensions: dict[TransportId, Mapping[Extension, int]] = {}
        self.levels: list[AudioWindow] = []
        self.up_figures: dict[int, UpStats] = {}
        self.down_figures: dict[int, DownStats] = {}

    def add_track(self, codec: Codec, clock_hz: int) -> int:
        self.tracks[number := next(self._numbers)] = codec
        return number

    def remove_track(self, track: int) -> None:
        del self.tracks[track]
        self.ups = {up: about for up, about in self.ups.items() if about["track"] != track}
        self.downs = {down: about for down, about in self.downs.items() if about["track"] != track}
        self.taps = {tap: of for tap, of in self.taps.items() if of != track}

    def add_up(
        self, track: int, transport: TransportId, ssrc: int, layer: int, *, payload_type: int, nack: bool, twcc: bool
    ) -> int:
        assert track in self.tracks
        about = {"track": track, "transport": transport, "ssrc": ssrc, "layer": layer, "pt": payload_type, "rtx": 0}
        self.ups[number := next(self._numbers)] = {**about, "nack": nack, "twcc": twcc}
        return number

    def bind_rtx(self, up: int, ssrc: int, payload_type: int) -> None:
        self.ups[up]["rtx"] = ssrc

    def remove_up(self, up: int) -> None:
        del self.ups[up]

    def add_down(self, track: int, transport: TransportId, ssrc: int, **more: Any) -> int:
        assert track in self.tracks
        self.downs[number := next(self._numbers)] = {"track": track, "transport": transport, "ssrc": ssrc, **more}
        return number

    def remove_down(self, down: int) -> None:
        self.downs.pop(down, None)
        self.taps.pop(down, None)
        self.targets.pop(down, None)

    def set_target(self, down: int, layer: int, temporal: int = 7) -> None:
        assert down in self.downs or down in self.taps
        self.targets[down] = (layer, temporal)

    def add_tap(self, track: int, *, limit_packets: int = 2048) -> int:
        self.taps[number := next(self._numbers)] = track
        return number

    def take_tap(self, tap: int, limit: int = 512) -> tuple[list[TapPacket], int]:
        return [], 0

    def tap_clock(self, tap: int) -> SenderClock | None:
        return None

    def set_track_enabled(self, track: int, enabled: bool) -> None:
        (self.disabled.discard if enabled else self.disabled.add)(track)

    def request_key_frame(self, track: int, layer: int) -> None:
        self.key_frames.append((track, layer))

    def set_extensions(self, transport: TransportId, ids: Mapping[Extension, int]) -> None:
        self.extensions[transport] = ids

    def up_stats(self, up: int) -> UpStats | None:
        return self.up_figures.get(up, SILENT_UP) if up in self.ups else None

    def down_stats(self, down: int) -> DownStats | None:
        return self.down_figures.get(down, SILENT_DOWN) if down in self.downs else None

    def take_levels(self) -> list[AudioWindow]:
        levels, self.levels = self.levels, []
        return levels

    def set_feedback(self, transport: TransportId, ssrc: int) -> None: ...

    def attend(self, transport: TransportId, every_ns: int) -> None:
        self.attended[transport] = every_ns

    def set_audio_threshold(self, level: int) -> None: ...

    @property
    def is_empty(self) -> bool:
        return not (self.tracks or self.ups or self.downs or self.taps)


CANDIDATE = "1 1 udp 2130706431 192.0.2.1 7882 typ host"


class RecordingTransports:
    """Peer connections that do nothing."""

    def __init__(self) -> None:
        self._numbers = count(1)
        self.opened: set[TransportId] = set()
        self.remote: dict[TransportId, RemoteParameters] = {}
        self.restarts: list[TransportId] = []
        self.channels: dict[TransportId, list[str]] = defaultdict(list)
        self.sent: dict[TransportId, list[tuple[str, bytes]]] = defaultdict(list)
        self.buffered = 0
        self.is_full = False
        self.refuses = ""
        """What `connect` says, if it refuses (another fingerprint in mid-call, for instance)."""

    def open(self, owner: str) -> tuple[TransportId, LocalParameters]:
        transport = TransportId(next(self._numbers))
        self.opened.add(transport)
        return transport, self._parameters(transport)

    def _parameters(self, transport: TransportId) -> LocalParameters:
        return LocalParameters(f"u{transport}", "p" * 22, "sha-256", ":".join(["CD"] * 32), (CANDIDATE,))

    def connect(self, transport: TransportId, remote: RemoteParameters) -> LocalParameters:
        if self.refuses:
            raise RequestError("invalid_argument", self.refuses)
        self.remote[transport] = remote
        return self._parameters(transport)

    def restart(self, transport: TransportId) -> LocalParameters:
        self.restarts.append(transport)
        return self._parameters(transport)

    def open_channel(self, transport: TransportId, label: str, *, ordered: bool, max_retransmits: int | None) -> None:
        self.channels[transport].append(label)

    def send(self, transport: TransportId, label: str, data: bytes) -> bool:
        if self.is_full:
            return False
        self.sent[transport].append((label, data))
        return True

    def buffered_bytes(self, transport: TransportId, label: str) -> int:
        return self.buffered

    def round_trip_ns(self, transport: TransportId) -> int:
        return 0

    def close(self, transport: TransportId) -> None:
        self.opened.remove(transport)


class Guest:
    """One client of the room; `signals` is what it was told."""

    def __init__(self, stage: "Stage", name: str, session: SessionId) -> None:
        self.stage = stage
        self.name = name
        self.session = session
        self.sid = ""
        self.signals: list[rtc.SignalResponse] = []
        self.is_ended = False
        self.refreshes: list[Refresh] = []
        self.transports: list[TransportId] = []
        self.version = 0
        self.ufrag = f"{name}/first"
        self.sections = [
            *(sdp.Section(str(index), "audio", "recvonly") for index in range(2)),
            *(sdp.Section(str(index), "video", "recvonly") for index in range(2, 4)),
            sdp.Section("4", "application", "sendrecv"),
        ]

    # what it was told

    def kinds(self) -> list[str]:
        return [signal.WhichOneof("message") or "" for signal in self.signals]

    def all(self, kind: str) -> list[Any]:
        return [getattr(signal, kind) for signal in self.signals if signal.WhichOneof("message") == kind]

    def last(self, kind: str) -> Any:
        return self.all(kind)[-1]

    def forget(self) -> None:
        self.signals.clear()

    @property
    def up(self) -> TransportId:
        return self.transports[0]

    @property
    def down(self) -> TransportId:
        return self.transports[-1]

    @property
    def packets(self) -> list[models.DataPacket]:
        """Data packets it received."""
        sent = self.stage.transports.sent[self.down]
        return [models.DataPacket.FromString(data) for label, data in sent if label != "_data_track"]

    # what it does

    def say(self, **message: Any) -> None:
        self.stage.feed(Request(self.session, rtc.SignalRequest(**message)))

    def next_offer(self) -> rtc.SessionDescription:
        self.version += 1
        text = sdp.offer(self.sections, self.ufrag, self.version)
        return rtc.SessionDescription(type="offer", sdp=text, id=self.version)

    def offer(self) -> Any:
        self.say(offer=self.next_offer())
        return self.last("answer")

    def happens(self, event: TransportEvent, transport: TransportId | None = None) -> None:
        self.stage.feed(OfTransport(transport if transport is not None else self.up, event))

    def connect(self) -> None:
        """Its primary connection and its channels are up."""
        for transport in self.transports:
            self.happens(TransportConnected(), transport)
            for label in ("_reliable", "_lossy", "_data_track"):
                self.happens(ChannelOpened(label), transport)

    def add_track(self, cid: str, kind: str = "video", **more: Any) -> None:
        self.say(add_track=track_request(cid, kind, **more))

    def add_section(self, cid: str, kind: str = "video", rids: Sequence[str] = ("q", "h", "f")) -> sdp.Section:
        rids = tuple(rids) if kind == "video" else ()
        section = sdp.Section(str(len(self.sections)), kind, "sendonly", cid, rids)
        self.sections.append(section)
        return section

    def publish(self, cid: str = "cam", kind: str = "video", rids: Sequence[str] = ("q", "h", "f"), **more: Any) -> Any:
        """add_track, then an offer with its section; returns the TrackInfo it was given."""
        self.add_track(cid, kind, **more)
        info = self.last("track_published").track
        self.add_section(cid, kind, rids)
        self.offer()
        return info

    def ssrc(self, mid: str, ssrc: int, rid: str = "", repaired: str = "", pt: int = sdp.VP8) -> None:
        """An SSRC of its shows up."""
        self.stage.feed(OfPlane([UnboundSsrc(self.up, ssrc, pt, mid, rid, repaired)]))

    def send_data(self, packet: models.DataPacket, label: str = "_reliable") -> None:
        self.happens(ChannelMessage(label, packet.SerializeToString()))


def track_request(cid: str, /, kind: str = "video", **more: Any) -> rtc.AddTrackRequest:
    video = kind == "video"
    defaults: dict[str, Any] = {
        "cid": cid,
        "name": cid,
        "type": models.TrackType.VIDEO if video else models.TrackType.AUDIO,
        "source": models.TrackSource.CAMERA if video else models.TrackSource.MICROPHONE,
    }
    if video:
        layers = [
            models.VideoLayer(quality=quality, width=height * 16 // 9, height=height)
            for quality, height in ((models.LOW, 180), (models.MEDIUM, 360), (models.HIGH, 720))
        ]
        defaults |= {"width": 1280, "height": 720, "layers": layers}
        defaults["simulcast_codecs"] = [rtc.SimulcastCodec(codec="vp8", cid=cid, layers=layers)]
    return rtc.AddTrackRequest(**(defaults | more))


class Stage:
    """The room, its guests, and the clock."""

    def __init__(self, seed: int = 1, config: RoomConfig | None = None, **options: Any) -> None:
        self.now = Nanos(100 * SECOND)
        self.plane = RecordingPlane()
        self.transports = RecordingTransports()
        self.guests: dict[SessionId, Guest] = {}
        self.outputs: list[Any] = []
        """Everything that is not a message to a session."""
        self._sessions = count(1)
        self.room = Room(
            room.CreateRoomRequest(name="stage", **options),
            node_id=NodeId("ND_here"),
            region="",
            plane=self.plane,  # type: ignore[arg-type]
            transports=self.transports,
            now=self.now,
            wall_offset_ns=WALL_NS,
            rng=Random(seed),
            config=config or RoomConfig(),
        )
        self.drain()

    # time

    def pass_time(self, seconds: float) -> None:
        end = self.now + int(seconds * SECOND)
        while (due := self.room.next_wake()) is not None and due <= end:
            self.now = Nanos(max(self.now, due))
            self.room.wake(self.now)
            self.drain()
        self.now = Nanos(end)

    # the room's door

    def feed(self, event: RoomInput) -> None:
        self.room.handle(self.now, event)
        self.drain()

    def command(self, method: str, request: Any) -> Any:
        try:
            return self.room.command(self.now, method, request)
        finally:
            self.drain()

    def drain(self) -> None:
        while (output := self.room.poll()) is not None:
            match output:
                case Send(session, message):
                    guest = self.guests[session]
                    assert not guest.is_ended, f"{guest.name} is told {message} after its session ended"
                    copy = rtc.SignalResponse()
                    copy.CopyFrom(message)
                    guest.signals.append(copy)
                    guest.sid = guest.sid or copy.join.participant.sid
                case EndSession(session):
                    self.guests[session].is_ended = True
                case Refresh(session):
                    self.guests[session].refreshes.append(output)
                case _:
                    self.outputs.append(output)

    def happened(self) -> list[str]:
        return [output.name for output in self.outputs if hasattr(output, "name")]

    # guests

    def guest(self, name: str) -> Guest:
        session = SessionId(next(self._sessions))
        guest = self.guests[session] = Guest(self, name, session)
        return guest

    def join(self, name: str, *, connected: bool = True, v1: bool = True, **more: Any) -> Guest:
        """A member, connected unless said otherwise."""
        guest = self.guest(name)
        before = set(self.transports.opened)
        self.feed(self.join_event(guest, v1=v1, **more))
        guest.transports = sorted(self.transports.opened - before)
        if connected and guest.transports:
            guest.connect()
        return guest

    def join_event(self, guest: Guest, *, v1: bool = True, **more: Any) -> Join:
        grants = more.pop("grants", {})
        claims: dict[str, Any] = more.pop("claims", {})
        defaults: dict[str, Any] = {
            "session": guest.session,
            "claims": claims_of(guest.name, grants, **claims),
            "client": models.ClientInfo(sdk=models.ClientInfo.PYTHON, version="1", protocol=17),
            "single_connection": v1,
            "auto_subscribe": True,
            "adaptive_stream": False,
            "offer": guest.next_offer() if v1 else None,
        }
        return Join(**(defaults | more))

    def resume(self, old: Guest, **more: Any) -> Guest:
        guest = self.guest(old.name)
        guest.transports, guest.sid = old.transports, old.sid
        guest.sections, guest.version = old.sections, old.version
        defaults: dict[str, Any] = {"participant_sid": old.sid, "claims": claims_of(old.name), "reason": 1}
        self.feed(Resume(session=guest.session, **(defaults | more)))
        return guest

    def report(self, report: Report) -> None:
        self.feed(OfPlane([report]))


def claims_of(name: str, grants: Mapping[str, Any] | None = None, **more: Any) -> Claims:
    video = VideoGrant(room_join=True, room="stage", **(grants or {}))
    return Claims(api_key="key", identity=name, name=name.title(), video=video, expires_s=1 << 40, **more)
