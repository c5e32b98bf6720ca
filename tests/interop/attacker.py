"""A member of a room with a valid token, valid keys and bad manners: the load generator's client, driven by hand.

It joins, publishes and subscribes like an SDK; then a test says what it sends, under its keys, from whatever address.
"""

import asyncio
import base64
import contextlib
import gzip
import re
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

import aiortc.rtcsctptransport as base
from livekit.protocol import rtc
from pylibsrtp import Error as SrtpError

from benchmarks.load.client import Client, Role
from benchmarks.load.connection import Connection
from benchmarks.load.engine import Engine
from benchmarks.load.media import Clip
from benchmarks.load.offer import Remote
from benchmarks.load.receiving import Stream
from benchmarks.load.sending import Layer
from tertulia.protocol import stun
from tertulia.protocol.rtp import build_extensions
from tertulia.sfu.plane import srtp
from tests.interop.live import KEY, SECRET

VP8_KEY_FRAME = b"\x10\x02\x00\x9d\x01\x2a\x40\x01\xb4\x00" + bytes(300)
"""Frame data as far as a forwarder looks (RFC 6386 9.1): a key frame of 320 x 180."""
VP8_FRAME = b"\x11\x02\x00" + bytes(300)
H264_FRAME = (b"\x78\x00\x04\x67\x42\x00\x1f\x00\x02\x68\xce", b"\x65\x88" + bytes(300))
PACE = 100
"""Datagrams sent in a row before others get a turn."""


def tiny_clips() -> dict[tuple[str, str], Clip]:
    """What it says when nothing special is asked of it: 30 small pictures or 50 grains of sound in a second."""
    clips = {("opus", ""): Clip("opus", "", 0, 0, 20_000_000, 48_000, ((b"\xfc" + bytes(60),),) * 50)}
    for rid in ("q", "h", "f"):
        vp8 = ((VP8_KEY_FRAME,),) + ((VP8_FRAME,),) * 89
        clips["vp8", rid] = Clip("vp8", rid, 320, 180, 33_333_333, 90_000, vp8)
        clips["h264", rid] = Clip("h264", rid, 320, 180, 33_333_333, 90_000, (H264_FRAME,) * 90)
    return clips


class Keyed(Connection):
    """It keeps the key it sends with, so that a test can make sessions that know nothing of what was sent."""

    profile, sending_key = 0, b""

    def _secure(self, profile: int, rx: bytes, tx: bytes) -> None:
        self.profile, self.sending_key = profile, tx
        super()._secure(profile, rx, tx)


class Speechless(Keyed):
    """Checks are answered, and then no handshake begins: the test writes the datagrams."""

    def _begin_dtls(self, peer: tuple[str, int]) -> None:
        assert self.sock is not None
        if not self.connected.done():
            self.sock.connect(peer)
            self.connected.set_result(None)


Rewrite = Callable[[rtc.SignalRequest], rtc.SignalRequest]


class _Member(Client):
    """The client, with what it says rewritten at will and what it hears kept."""

    speechless = quiet = False
    rewrite: Rewrite
    heard: list[str]

    def _connection(self, ours: bool) -> Connection:
        kind = Speechless if self.speechless else Keyed
        connection = kind(self.engine, self._lost, self._on_data)
        connection.wants_channels, connection.offers_channels = True, ours
        return connection

    def _v1_query(self) -> dict[str, str]:
        query = super()._v1_query()
        wrapped = rtc.WrappedJoinRequest.FromString(base64.urlsafe_b64decode(query["join_request"]))
        request = rtc.JoinRequest.FromString(gzip.decompress(wrapped.join_request))
        said = self.rewrite(rtc.SignalRequest(offer=request.publisher_offer))
        request.publisher_offer.CopyFrom(said.offer)
        wrapped.join_request = gzip.compress(request.SerializeToString())
        return {"join_request": base64.urlsafe_b64encode(wrapped.SerializeToString()).decode()}

    async def _say(self, message: rtc.SignalRequest) -> None:
        await super()._say(self.rewrite(message))

    def _qualities(self, update: rtc.SubscribedQualityUpdate) -> None:
        if not self.quiet:
            super()._qualities(update)

    async def _take(self, message: rtc.SignalResponse) -> None:
        self.heard.append(str(message.WhichOneof("message")))
        await super()._take(message)


def sections(text: str) -> list[str]:
    """A description cut before every section."""
    return re.split(r"(?=^m=)", text, flags=re.MULTILINE)


def hears_everything(message: rtc.SignalRequest) -> rtc.SignalRequest:
    """Receive VP9, AV1 and RED too, under the numbers that browsers give them."""
    if message.HasField("offer"):
        parts = sections(message.offer.sdp)
        for index, part in enumerate(parts):
            if "a=recvonly" in part and part.startswith("m=video"):
                part = re.sub(r"(?m)^(m=.*[0-9])", r"\1 100 102", part, count=1)
                parts[index] = part + "a=rtpmap:100 VP9/90000\r\na=rtpmap:102 AV1/90000\r\n"
            elif "a=recvonly" in part:
                part = re.sub(r"(?m)^(m=.*[0-9])", r"\1 63", part, count=1)
                parts[index] = part + "a=rtpmap:63 red/48000/2\r\na=fmtp:63 111/111\r\n"
        message.offer.sdp = "".join(parts)
    return message


def instead_of(codec: str, name: str, numbers: dict[str, str]) -> Rewrite:
    """Publish `name` where the client believes to publish `codec`; `numbers` are its payload types."""

    def rewrite(message: rtc.SignalRequest) -> rtc.SignalRequest:
        if message.HasField("add_track"):
            for item in message.add_track.simulcast_codecs:
                item.codec = name.partition("/")[0].lower()
        if message.HasField("offer"):
            parts = sections(message.offer.sdp)
            for index, part in enumerate(parts):
                if "a=sendonly" in part and codec in part:
                    for old, new in numbers.items():
                        part = re.sub(rf"(?<=[ :=]){old}(?=[ \r])", new, part)
                    parts[index] = part.replace(codec, name)
            message.offer.sdp = "".join(parts)
        return message

    return rewrite


class Attacker:
    """One of them, with an engine of its own. As a context it is in the room and leaves it in the end."""

    def __init__(
        self,
        url: str,
        identity: str,
        *publish: str,
        room: str = "rowdy",
        rids: tuple[str, ...] = ("f",),
        subscribe: bool = True,
        speechless: bool = False,
        rewrite: Rewrite = lambda message: message,
    ) -> None:
        self.engine = Engine(False)
        self.lost = ""
        self.heard: list[str] = []
        self._layer: Layer
        role = Role(room, identity, publish, rids, subscribe, topology="v1")
        self.client = _Member(self.engine, url, KEY, SECRET, role, tiny_clips(), self._lost)
        self.client.speechless = speechless
        self.client.rewrite = rewrite
        self.client.heard = self.heard
        self._strangers: list[socket.socket] = []

    def _lost(self, client: Client, reason: str) -> None:
        self.lost = reason

    async def __aenter__(self) -> "Attacker":
        self.engine.start()
        await self.client.join()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.leave()
        self.engine.stop()
        for stranger in self._strangers:
            stranger.close()

    # the parts ----------------------------------------------------------------------------------

    @property
    def connection(self) -> Connection:
        assert self.client._up is not None
        return self.client._up.connection

    @property
    def remote(self) -> Remote:
        assert self.connection.remote is not None
        return self.connection.remote

    @property
    def sock(self) -> socket.socket:
        assert self.connection.sock is not None
        return self.connection.sock

    @property
    def server(self) -> tuple[str, int]:
        return self.remote.candidates[0]

    @property
    def layer(self) -> Layer:
        """The first one; it is remembered when the server has ended everything."""
        if self.connection.layers:
            self._layer = self.connection.layers[0]
        return self._layer

    def stranger(self) -> socket.socket:
        """A socket at another address, towards the server's media port."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.connect(self.server)
        sock.setblocking(False)
        self._strangers.append(sock)
        return sock

    async def streams(self, count: int = 1) -> list[Stream]:
        """What it receives, as soon as there are so many."""
        for _ in range(500):
            if len(self.connection.streams) >= count:
                break
            await asyncio.sleep(0.02)
        assert len(self.connection.streams) >= count, f"only {len(self.connection.streams)} streams announced"
        return list(self.connection.streams.values())

    def hush(self, quiet: bool = True) -> None:
        """Its own encoders rest, whatever is wanted of them."""
        self.client.quiet = quiet
        for layer in self.connection.layers:
            layer.set_paused(quiet, time.monotonic_ns())

    async def say(self, **field: Any) -> None:
        await self.client._say(rtc.SignalRequest(**field))

    # datagrams ----------------------------------------------------------------------------------

    async def pour(self, datagrams: Any, sock: socket.socket | None = None, per_s: int = 20_000) -> int:
        """All of them, at this pace; returns how many left. A transport that has ended swallows the rest."""
        began, sent = time.monotonic(), 0
        for data in datagrams:
            if sock is None and self.connection.closed:
                break
            if not data:
                continue
            with contextlib.suppress(OSError):
                (sock or self.sock).send(data)
            sent += 1
            if sent % PACE == 0:
                await asyncio.sleep(max(0.0, began + sent / per_s - time.monotonic()))
        return sent

    def check(
        self, *, pwd: str = "", ufrag: str = "", number: int = 0, extra: bytes = b"", nominate: bool = True
    ) -> bytes:
        """A connectivity check, right and nominating unless told otherwise."""
        username = f"{ufrag or self.remote.ufrag}:{self.connection.local.ufrag}"
        transaction = struct.pack("!QI", time.monotonic_ns(), number)
        key = stun.IntegrityKey(pwd or self.remote.pwd)
        return stun.build_request(transaction, username, key, priority=1, use_candidate=nominate, extra=extra)

    def protect(self, plain: bytes) -> bytes:
        """SRTP under its own key, also for numbers that no honest sender would come to."""
        connection = self.connection
        assert isinstance(connection, Keyed)
        assert connection.route is not None
        try:
            protected: bytes = connection.route.session.protect(plain)
        except SrtpError:
            protected = srtp.session(connection.profile, connection.sending_key, outbound=True).protect(plain)
        return protected

    def rtp(
        self,
        payload: bytes,
        *,
        sequence: int | None = None,
        timestamp: int | None = None,
        ssrc: int | None = None,
        payload_type: int | None = None,
        first: int = 0x80,
        marker: bool = True,
        between: bytes = b"",
        named: bool = False,
    ) -> bytes:
        """A plain packet of its first layer, the next one unless told otherwise. `between`: what follows the header."""
        layer = self.layer
        if sequence is None:
            sequence, layer.sequence = layer.sequence, layer.sequence + 1 & 0xFFFF
            layer.timestamp = layer.timestamp + 3000 & 0xFFFFFFFF
        if named:
            first, between = first | 0x10, layer._named[0]
        kind = layer.payload_type if payload_type is None else payload_type
        stamp = layer.timestamp if timestamp is None else timestamp
        head = struct.pack(
            "!BBHII", first, kind | (0x80 if marker else 0), sequence, stamp, layer.ssrc if ssrc is None else ssrc
        )
        return head + between + payload

    def extensions(self, *elements: tuple[int, bytes]) -> bytes:
        return build_extensions(list(elements))

    def rtcp(self, plain: bytes) -> bytes:
        """SRTCP under its own key; nothing for what libsrtp does not take."""
        try:
            protected: bytes = self.connection._rtcp_out.protect_rtcp(plain)
        except SrtpError:
            return b""
        return protected

    def count(self, name: str) -> int:
        """One of the load generator's counters."""
        return int(self.engine.mark().counters.get(name, 0))

    # SCTP ---------------------------------------------------------------------------------------

    @property
    def association(self) -> Any:
        assert self.connection._sctp is not None
        return self.connection._sctp

    def chunk(self, chunk: base.Chunk, tag: int | None = None) -> None:
        """One SCTP chunk as it is."""
        tag = self.association._remote_verification_tag if tag is None else tag
        self.sctp(base.serialize_packet(5000, 5000, tag, chunk))

    def sctp(self, packet: bytes) -> None:
        if not self.connection.closed:
            self.connection._send_record(packet)

    def data_chunk(self, tsn: int, data: bytes, *, stream: int = 0, ppid: int = 53, flags: int = 3) -> base.DataChunk:
        chunk = base.DataChunk(flags=flags)
        chunk.tsn, chunk.stream_id, chunk.stream_seq, chunk.protocol, chunk.user_data = tsn, stream, 0, ppid, data
        return chunk
