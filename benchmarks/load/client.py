"""A participant: token, WebSocket, signalling of both topologies, publishing and subscribing as the SDKs do.

It tells what happened in words (`Refused`), never with a traceback; media is the engine's.
"""

import asyncio
import base64
import contextlib
import json
import random
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlencode, urlsplit, urlunsplit

from google.protobuf.message import DecodeError
from livekit.protocol import models, rtc
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from benchmarks.load import offer
from benchmarks.load.connection import Connection
from benchmarks.load.engine import Engine
from benchmarks.load.media import LAYERS, MAGIC, STAMP, Clip
from benchmarks.load.offer import Line, Reader, Remote
from benchmarks.load.sending import Layer
from tertulia.protocol.errors import PeerError
from tertulia.protocol.signing import build_token
from tertulia.protocol.token import Claims, VideoGrant

JOIN_S = 15.0
ANSWER_S = 10.0
MAX_MESSAGE_BYTES = 16 << 20
QUALITIES = {"low": models.LOW, "medium": models.MEDIUM, "high": models.HIGH}
RID_QUALITY = {"q": models.LOW, "h": models.MEDIUM, "f": models.HIGH}
RIDS = ("q", "h", "f")


class Refused(Exception):
    """The server did not let us in, or let us down; the text says how."""


@dataclass(slots=True)
class Role:
    """What a participant does."""

    room: str
    identity: str
    publish: tuple[str, ...] = ()
    """Of `opus`, `vp8`, `h264`."""
    rids: tuple[str, ...] = RIDS
    subscribe: bool = True
    quality: str = "high"
    topology: str = "auto"


@dataclass(slots=True)
class Times:
    """Unix ns of the steps of a join."""

    started: int = 0
    joined: int = 0
    connected: int = 0
    published_before: frozenset[str] = frozenset()
    """Sids of the tracks that were there already."""


@dataclass(slots=True)
class Peer:
    """One peer connection with its negotiation."""

    connection: Connection
    target: int
    lines: list[Line] = field(default_factory=list)
    reader: Reader = field(default_factory=Reader)
    version: int = 0
    outstanding: bool = False
    dirty: bool = False
    trickled: list[tuple[str, int]] = field(default_factory=list)


class Client:
    """One participant, from join to leave. `on_lost` hears why it ended when it did not end by its own will."""

    def __init__(
        self, engine: Engine, url: str, key: str, secret: str, role: Role, clips: dict[tuple[str, str], Clip],
        on_lost: Callable[["Client", str], None],
    ) -> None:  # fmt: skip
        self.engine = engine
        self.role = role
        self.times = Times()
        self.ended = False
        self._reason = ""
        """Why it ended, when not by its own will."""
        self.v0 = role.topology == "v0"
        self._url, self._key, self._secret = url, key, secret
        self._clips = clips
        self._on_lost = on_lost
        self._socket: ClientConnection | None = None
        self._reader: asyncio.Task[None] | None = None
        self._up: Peer | None = None
        self._down: Peer | None = None
        self._published: dict[str, asyncio.Future[str]] = {}
        self._sections: dict[str, tuple[str, Line]] = {}
        """cid -> codec and section, of tracks that are not sending yet."""
        self._layers: dict[str, list[tuple[str, Layer]]] = {}
        """Track sid -> (rid, layer)."""
        self._sids: dict[str, str] = {}
        self._asked: set[str] = set()
        self._answered = asyncio.Event()
        self._video_sids: set[str] = set()
        self._live: dict[str, asyncio.Event] = {}

    # joining ------------------------------------------------------------------------------------

    async def join(self) -> None:
        """Until the peer connection stands and everything to be published flows; Refused otherwise."""
        self.times.started = time.time_ns()
        try:
            async with asyncio.timeout(JOIN_S):
                await self._open()
                assert self._up is not None
                self._reader = asyncio.create_task(self._read())
                primary = self._down if self._down is not None else self._up
                await primary.connection.connected
                self.times.connected = time.time_ns()
                for codec in self.role.publish:
                    await self._publish(codec)
        except TimeoutError:
            await self.leave()
            raise Refused(f"joining took more than {JOIN_S:.0f} s ({self._stage()})") from None
        except PeerError as error:
            await self.leave()
            raise Refused(str(error)) from None
        except asyncio.CancelledError:
            # the futures of a connection that ends are cancelled: that is the server's doing, not a cancelled task
            await self.leave()
            if self._reason:
                raise Refused(self._reason) from None
            raise

    def _stage(self) -> str:
        if not self.times.joined:
            return "no answer to the join request"
        if not self.times.connected:
            return "the media connection did not come up"
        return "publishing was not confirmed"

    async def _open(self) -> None:
        if not self.v0:
            self._up = Peer(self._connection(True), rtc.SignalTarget.PUBLISHER)
            if self.role.subscribe:
                self._up.lines = [Line(str(mid), "audio" if mid < 3 else "video", "recvonly") for mid in range(6)]
            self._up.lines.append(Line(str(len(self._up.lines)), "application", "sendrecv"))
            try:
                await self._dial("/rtc/v1", self._v1_query())
                return
            except Refused as refused:
                if "404" not in str(refused) or self.role.topology == "v1":
                    raise
                self._up.connection.close()
                self.v0 = True
        self._up = Peer(self._connection(True), rtc.SignalTarget.PUBLISHER)
        self._up.lines = [Line("0", "application", "sendrecv")]
        self._down = Peer(self._connection(False), rtc.SignalTarget.SUBSCRIBER)
        await self._dial("/rtc", self._v0_query())

    def _connection(self, ours: bool) -> Connection:
        connection = Connection(self.engine, self._lost, self._on_data)
        connection.wants_channels = True
        connection.offers_channels = ours
        return connection

    def _v1_query(self) -> dict[str, str]:
        assert self._up is not None
        self._up.version, self._up.outstanding = 1, True
        text = offer.offer(self._up.lines, self._up.connection.local, 1)
        request = rtc.JoinRequest(
            client_info=models.ClientInfo(sdk=models.ClientInfo.PYTHON, version="1.2.0", protocol=17, os="linux"),
            connection_settings=rtc.ConnectionSettings(
                auto_subscribe=self.role.subscribe, adaptive_stream=self._is_adaptive
            ),
            publisher_offer=rtc.SessionDescription(type="offer", sdp=text, id=1),
        )
        import gzip

        wrapped = rtc.WrappedJoinRequest(
            compression=rtc.WrappedJoinRequest.GZIP, join_request=gzip.compress(request.SerializeToString(), 1)
        )
        return {"join_request": base64.urlsafe_b64encode(wrapped.SerializeToString()).decode()}

    @property
    def _is_adaptive(self) -> bool:
        """Who shows others small says so when it comes, as browsers do, and is not sent the highest layer first."""
        return self.role.quality != "high"

    def _v0_query(self) -> dict[str, str]:
        subscribe, adaptive = ("1" if on else "0" for on in (self.role.subscribe, self._is_adaptive))
        return {
            "sdk": "go",
            "version": "2.0.0",
            "protocol": "16",
            "auto_subscribe": subscribe,
            "adaptive_stream": adaptive,
        }

    def _token(self) -> str:
        claims = Claims(
            api_key=self._key, identity=self.role.identity, video=VideoGrant(room_join=True, room=self.role.room)
        )
        return build_token(claims, self._secret, now_s=int(time.time()), lifetime_s=3_600)

    async def _dial(self, path: str, query: dict[str, str]) -> None:
        parts = urlsplit(self._url)
        scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
        url = urlunsplit((scheme, parts.netloc, parts.path.rstrip("/") + path, urlencode(query), ""))
        try:
            self._socket = await connect(
                url, additional_headers={"Authorization": f"Bearer {self._token()}"}, max_size=MAX_MESSAGE_BYTES,
                open_timeout=JOIN_S, close_timeout=1, compression=None, proxy=None, ping_interval=None,
            )  # fmt: skip
            first = await asyncio.wait_for(self._socket.recv(), JOIN_S)
        except InvalidStatus as error:
            body = bytes(error.response.body or b"").decode(errors="replace").strip()
            raise Refused(f"HTTP {error.response.status_code}{': ' + body[:200] if body else ''}") from None
        except (InvalidHandshake, InvalidURI) as error:
            raise Refused(f"not a WebSocket answer: {error}") from None
        except ConnectionClosed as error:
            raise Refused(f"the connection was closed before the join: {error}") from None
        except TimeoutError:
            raise Refused(f"no answer within {JOIN_S:.0f} s") from None
        except OSError as error:
            raise Refused(f"no connection to {parts.netloc}: {error.strerror or error}") from None
        response = _parse(first)
        kind = response.WhichOneof("message")
        if kind == "leave":
            raise Refused(f"the server says leave: {models.DisconnectReason.Name(response.leave.reason)}")
        if kind != "join":
            raise Refused(f"the server's first message is {kind or 'nothing we know'}, not `join`")
        self.times.joined = time.time_ns()
        there = (track.sid for info in response.join.other_participants for track in info.tracks)
        self.times.published_before = frozenset(there)
        for info in response.join.other_participants:
            self._see(info)

    # signalling ---------------------------------------------------------------------------------

    async def _say(self, message: rtc.SignalRequest) -> None:
        if self._socket is not None:
            with contextlib.suppress(ConnectionClosed):
                await self._socket.send(message.SerializeToString())

    async def _read(self) -> None:
        assert self._socket is not None
        reason = "the server closed the signal connection"
        try:
            async for data in self._socket:
                message = _parse(data)
                if message.WhichOneof("message") == "leave":
                    reason = f"the server says leave: {models.DisconnectReason.Name(message.leave.reason)}"
                    break
                await self._take(message)
        except ConnectionClosed:
            pass
        except (PeerError, Refused, ValueError) as error:
            reason = f"the server's message is wrong: {error}"
        self._lost(reason)

    async def _take(self, message: rtc.SignalResponse) -> None:
        match message.WhichOneof("message"):
            case "answer":
                await self._take_answer(message.answer)
            case "offer":
                await self._take_offer(message.offer)
            case "trickle":
                self._trickle(message.trickle)
            case "update":
                for info in message.update.participants:
                    self._see(info)
            case "track_published":
                future = self._published.get(message.track_published.cid)
                if future is not None and not future.done():
                    future.set_result(message.track_published.track.sid)
            case "media_sections_requirement":
                await self._more_sections(message.media_sections_requirement)
            case "subscribed_quality_update":
                self._qualities(message.subscribed_quality_update)
            case _:
                pass

    def _see(self, info: models.ParticipantInfo) -> None:
        self._video_sids.update(track.sid for track in info.tracks if track.type == models.TrackType.VIDEO)

    async def _negotiate(self, peer: Peer) -> None:
        """Offer, or note that another offer is needed once the answer to this one is here."""
        if peer.outstanding:
            peer.dirty = True
            return
        peer.version += 1
        peer.outstanding, peer.dirty = True, False
        text = offer.offer(peer.lines, peer.connection.local, peer.version)
        await self._say(rtc.SignalRequest(offer=rtc.SessionDescription(type="offer", sdp=text, id=peer.version)))

    async def _take_answer(self, answer: rtc.SessionDescription) -> None:
        peer = self._up
        if peer is None or (answer.id and answer.id != peer.version):
            return
        remote = peer.reader.read(answer.sdp)
        if len(remote.sections) != len(peer.lines) and not peer.dirty:
            raise PeerError(f"an answer with {len(remote.sections)} sections to an offer with {len(peer.lines)}")
        peer.outstanding = False
        peer.connection.take_remote(remote, peer.trickled)
        self._begin_sending(peer, remote)
        await self._ask_qualities(remote)
        self._answered.set()
        if peer.dirty:
            await self._negotiate(peer)

    async def _take_offer(self, description: rtc.SessionDescription) -> None:
        peer = self._down
        if peer is None:
            raise PeerError("an offer on a single connection")
        remote = peer.reader.read(description.sdp)
        peer.version += 1
        text = offer.answer(remote, peer.connection.local, peer.version)
        peer.connection.wants_channels = bool(remote.sctp_port)
        peer.connection.take_remote(remote, peer.trickled)
        await self._say(rtc.SignalRequest(answer=rtc.SessionDescription(type="answer", sdp=text, id=description.id)))
        await self._ask_qualities(remote)

    def _trickle(self, trickle: rtc.TrickleRequest) -> None:
        peer = self._down if trickle.target == rtc.SignalTarget.SUBSCRIBER else self._up
        if peer is None:
            return
        ranked: dict[tuple[str, int], int] = {}
        with contextlib.suppress(ValueError):
            offer.add_candidate(ranked, str(json.loads(trickle.candidateInit).get("candidate", "")))
        for address in ranked:
            peer.trickled.append(address)
            peer.connection.add_candidate(address)

    async def _more_sections(self, wanted: rtc.MediaSectionsRequirement) -> None:
        peer = self._up
        if peer is None or self.v0:
            return
        for kind, number in (("audio", wanted.num_audios), ("video", wanted.num_videos)):
            for _ in range(number):
                peer.lines.append(Line(str(len(peer.lines)), kind, "recvonly"))
        await self._negotiate(peer)

    async def _ask_qualities(self, remote: Remote) -> None:
        """The layer we want of each new video track; the highest comes by itself."""
        if self.role.quality == "high":
            return
        for incoming in remote.incoming:
            if incoming.kind == "video" and incoming.track not in self._asked:
                self._asked.add(incoming.track)
                rid = {"low": "q", "medium": "h"}[self.role.quality]
                width, height, _ = LAYERS[rid]
                settings = rtc.UpdateTrackSettings(
                    track_sids=[incoming.track], quality=QUALITIES[self.role.quality], width=width, height=height
                )
                await self._say(rtc.SignalRequest(track_setting=settings))

    # publishing ---------------------------------------------------------------------------------

    async def _publish(self, codec: str) -> None:
        """add_track, its confirmation, an offer, its answer; then media flows."""
        peer = self._up
        assert peer is not None
        cid = f"{codec}-{secrets.token_hex(4)}"
        video = codec != "opus"
        rids = tuple(rid for rid in RIDS if rid in self.role.rids) if video else ()
        request = rtc.AddTrackRequest(
            cid=cid, name=codec, type=models.TrackType.VIDEO if video else models.TrackType.AUDIO,
            source=models.TrackSource.CAMERA if video else models.TrackSource.MICROPHONE,
        )  # fmt: skip
        if video:
            request.width, request.height = LAYERS[rids[-1]][:2]
            for rid in rids:
                width, height, bps = LAYERS[rid]
                quality = RID_QUALITY[rid] if len(rids) > 1 else models.HIGH
                request.layers.add(quality=quality, width=width, height=height, bitrate=bps)
            request.simulcast_codecs.add(codec=codec, cid=cid).layers.extend(request.layers)
        self._published[cid] = asyncio.get_running_loop().create_future()
        await self._say(rtc.SignalRequest(add_track=request))
        self._sids[cid] = await asyncio.wait_for(self._published[cid], ANSWER_S)
        line = Line(str(len(peer.lines)), "video" if video else "audio", "sendonly", codec, cid)
        if len(rids) > 1:
            line.rids = rids
        else:
            line.ssrc = random.getrandbits(31) + 1
        peer.lines.append(line)
        self._sections[cid] = (codec, line)
        self._live[cid] = asyncio.Event()
        await self._negotiate(peer)
        await asyncio.wait_for(self._live[cid].wait(), ANSWER_S)
        await peer.connection.connected

    def _begin_sending(self, peer: Peer, remote: Remote) -> None:
        """Encoders start for the sections that this answer has accepted."""
        directions = {mid: direction for mid, _, direction, _ in remote.sections}
        for cid, (codec, line) in list(self._sections.items()):
            if line.mid not in directions:
                continue
            if directions[line.mid] not in ("recvonly", "sendrecv"):
                raise PeerError(f"the server's answer declines our {codec} track ({directions[line.mid]})")
            del self._sections[cid]
            if peer.connection.connected.done():
                self._start_layers(peer, remote, cid, codec, line)
            else:
                peer.connection.connected.add_done_callback(
                    lambda done, cid=cid, codec=codec, line=line: (  # type: ignore[misc]
                        None if done.cancelled() or done.exception()
                        else self._start_layers(peer, remote, cid, codec, line)
                    )
                )  # fmt: skip

    def _start_layers(self, peer: Peer, remote: Remote, cid: str, codec: str, line: Line) -> None:
        sid = self._sids[cid]
        numbers = [number for number, name in remote.codecs.items() if name == codec]
        own = offer.PAYLOAD_TYPES[codec]
        payload_type = own if own in numbers or not numbers else numbers[0]
        allowed = {name: number for name, number in remote.extensions.items() if name in offer.EXTENSIONS[line.kind]}
        now = time.monotonic_ns()
        made = []
        for rid in line.rids or ("",):
            name = rid or (self.role.rids[-1] if codec != "opus" else "")
            clip = self._clips[codec, name]
            layer = Layer(
                clip=clip, ssrc=line.ssrc or random.getrandbits(31) + 1, payload_type=payload_type, mid=line.mid,
                rid=rid, extensions=allowed, due_ns=now + random.randrange(clip.interval_ns),
                sequence=random.getrandbits(15), timestamp=random.getrandbits(32), picture=random.getrandbits(15),
                quality=RID_QUALITY.get(name, models.HIGH) if rid else models.HIGH,
            )  # fmt: skip
            made.append((rid, layer))
            self.engine.add_layer(peer.connection, layer)
        self._layers[sid] = made
        self._live[cid].set()

    def _qualities(self, update: rtc.SubscribedQualityUpdate) -> None:
        """Dynacast: send what somebody watches."""
        wanted = list(update.subscribed_qualities)
        for codec in update.subscribed_codecs:
            wanted += codec.qualities
        enabled = {int(item.quality): item.enabled for item in wanted}
        now = time.monotonic_ns()
        for _, layer in self._layers.get(update.track_sid, []):
            if layer.quality in enabled:
                layer.set_paused(not enabled[layer.quality], now)

    # data ---------------------------------------------------------------------------------------

    @property
    def channels_open(self) -> asyncio.Event:
        assert self._up is not None
        return self._up.connection.channels_open

    async def ready_for_data(self) -> None:
        """In the topology with two connections data needs the publishing one."""
        assert self._up is not None
        if self.v0 and self._up.version == 0:
            await self._negotiate(self._up)
        await asyncio.wait_for(self.channels_open.wait(), ANSWER_S)

    def send_data(self, number: int, size: int, reliable: bool) -> bool:
        assert self._up is not None
        payload = bytes(max(0, size - STAMP.size)) + STAMP.pack(time.time_ns(), number, MAGIC)
        packet = models.DataPacket(
            kind=models.DataPacket.RELIABLE if reliable else models.DataPacket.LOSSY,
            user=models.UserPacket(payload=payload, topic="bench"),
        )
        return self._up.connection.send_message("_reliable" if reliable else "_lossy", packet.SerializeToString())

    def _on_data(self, data: bytes, now: int) -> None:
        try:
            payload = models.DataPacket.FromString(data).user.payload
        except DecodeError:
            self.engine.count("data_malformed")
            return
        if len(payload) >= STAMP.size:
            sent_ns, _, magic = STAMP.unpack_from(payload, len(payload) - STAMP.size)
            if magic == MAGIC:
                self.engine.data_received += 1
                self.engine.data_delay.add([now - sent_ns])

    # figures and leaving ------------------------------------------------------------------------

    def first_frames(self) -> list[int]:
        """Unix ns of the first whole frame of each stream that has one and whose track was there before us."""
        return [
            stream.first_frame_ns
            for peer in (self._up, self._down)
            if peer is not None
            for stream in peer.connection.streams.values()
            if stream.first_frame_ns and stream.track in self.times.published_before
        ]

    def subscriptions(self) -> int:
        return sum(len(peer.connection.streams) for peer in (self._up, self._down) if peer is not None)

    def _lost(self, reason: str) -> None:
        if not self.ended:
            self.ended, self._reason = True, reason
            for peer in (self._up, self._down):
                if peer is not None:
                    peer.connection.close()
            for future in self._published.values():
                if not future.done():
                    future.set_exception(PeerError(reason))
                    future.exception()
            self._on_lost(self, reason)

    async def leave(self) -> None:
        """Say `leave`, close everything."""
        self.ended = True
        if self._reader is not None:
            self._reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reader
        await self._say(rtc.SignalRequest(leave=rtc.LeaveRequest(reason=models.DisconnectReason.CLIENT_INITIATED)))
        for peer in (self._up, self._down):
            if peer is not None:
                peer.connection.close()
        if self._socket is not None:
            with contextlib.suppress(Exception):
                await asyncio.wait_for(self._socket.close(), 2)


def _parse(data: str | bytes) -> rtc.SignalResponse:
    """A signal message; Refused when it is none."""
    if isinstance(data, str):
        raise Refused("the server sends text where protobuf is expected")
    try:
        return rtc.SignalResponse.FromString(data)
    except DecodeError:
        raise Refused("the server sends something that is no signal message") from None
