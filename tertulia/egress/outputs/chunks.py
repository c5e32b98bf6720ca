"""RTMP's chunk stream: messages to bytes and bytes to messages, without a socket.

Adobe RTMP 1.0 section 5.3. The reader is fed whatever arrives and is bounded in message size and chunk streams.
"""

import struct
from typing import NamedTuple

from tertulia.protocol.errors import PeerError

SET_CHUNK_SIZE, ABORT, ACKNOWLEDGEMENT, USER_CONTROL, WINDOW_ACK_SIZE, SET_PEER_BANDWIDTH = 1, 2, 3, 4, 5, 6
AUDIO, VIDEO, DATA, COMMAND = 8, 9, 18, 20

MESSAGE_LIMIT_BYTES = 1 << 20
"""A server answers a publisher in hundreds of bytes."""
CHUNK_STREAMS_LIMIT = 64

_EXTENDED = 0xFFFFFF
_HEADER_BYTES = (11, 7, 3, 0)


class Message(NamedTuple):
    kind: int
    stream_id: int
    time_ms: int
    body: bytes


def encode(message: Message, chunk_stream: int, chunk_bytes: int) -> bytes:
    """A message in chunks, the first with a full header (type 0), the rest without (type 3)."""
    time_ms = message.time_ms & 0xFFFFFFFF
    extended = struct.pack(">I", time_ms) if time_ms >= _EXTENDED else b""
    body = message.body
    out = bytearray((chunk_stream,))
    out += min(time_ms, _EXTENDED).to_bytes(3, "big") + len(body).to_bytes(3, "big") + bytes((message.kind,))
    out += struct.pack("<I", message.stream_id) + extended + body[:chunk_bytes]
    for at in range(chunk_bytes, len(body), chunk_bytes):
        out.append(0xC0 | chunk_stream)
        out += extended
        out += body[at : at + chunk_bytes]
    return bytes(out)


class _Partial:
    """What is known of one chunk stream's current and previous message."""

    __slots__ = ("body", "delta", "extended", "kind", "size", "stream_id", "time_ms")

    def __init__(self) -> None:
        self.body = bytearray()
        self.size = self.kind = self.stream_id = self.time_ms = self.delta = 0
        self.extended = False


class ChunkReader:
    """Turns a peer's bytes into messages; obeys its Set Chunk Size and Abort itself."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._partials: dict[int, _Partial] = {}
        self._chunk_bytes = 128

    def feed(self, data: bytes) -> list[Message]:
        """Messages completed by `data`. Raises PeerError; the connection is then of no more use."""
        self._buffer += data
        messages = []
        while (step := self._chunk()) is not None:
            used, message = step
            del self._buffer[:used]
            if message is None:
                continue
            if message.kind in (SET_CHUNK_SIZE, ABORT):
                self._control(message)
            else:
                messages.append(message)
        return messages

    def _chunk(self) -> tuple[int, Message | None] | None:
        """One whole chunk at the buffer's start: its length and the message it completes; None to wait for more."""
        buffer = self._buffer
        if not buffer:
            return None
        form, chunk_stream, at = buffer[0] >> 6, buffer[0] & 63, 1
        if chunk_stream < 2:
            at += 1 + chunk_stream
            if len(buffer) < at:
                return None
            chunk_stream = 64 + buffer[1] + (buffer[2] << 8 if chunk_stream == 1 else 0)
        header_bytes = _HEADER_BYTES[form]
        if len(buffer) < at + header_bytes:
            return None
        header = bytes(buffer[at : at + header_bytes])
        at += header_bytes
        partial = self._partial(chunk_stream, form)
        extended = partial.extended if form == 3 else header[:3] == b"\xff\xff\xff"
        if extended and len(buffer) < at + 4:
            return None
        time_field = int.from_bytes(header[:3], "big")
        if extended:
            time_field = int.from_bytes(buffer[at : at + 4], "big")
            at += 4
        size = int.from_bytes(header[3:6], "big") if form < 2 else partial.size
        if size > MESSAGE_LIMIT_BYTES:
            raise PeerError("RTMP message beyond the size limit")
        begun = 0 if form < 3 else len(partial.body)
        take = min(self._chunk_bytes, size - begun)
        if len(buffer) < at + take:
            return None
        self._begin(partial, form, header, time_field, extended)
        partial.body += buffer[at : at + take]
        at += take
        if len(partial.body) < partial.size:
            return at, None
        message = Message(partial.kind, partial.stream_id, partial.time_ms, bytes(partial.body))
        partial.body.clear()
        return at, message

    def _partial(self, chunk_stream: int, form: int) -> _Partial:
        partial = self._partials.get(chunk_stream)
        if partial is None:
            if form != 0 and form != 1:  # some servers open a chunk stream with a type 1 header on stream 0
                raise PeerError("RTMP chunk continues a message that never began")
            if len(self._partials) >= CHUNK_STREAMS_LIMIT:
                raise PeerError("RTMP chunk streams beyond the limit")
            partial = self._partials[chunk_stream] = _Partial()
        return partial

    def _begin(self, partial: _Partial, form: int, header: bytes, time_field: int, extended: bool) -> None:
        if form < 3:
            partial.body.clear()
            partial.extended = extended
            partial.delta = 0 if form == 0 else time_field
            partial.time_ms = time_field if form == 0 else (partial.time_ms + time_field) & 0xFFFFFFFF
        elif not partial.body:
            partial.time_ms = (partial.time_ms + partial.delta) & 0xFFFFFFFF
        if form < 2:
            partial.size, partial.kind = int.from_bytes(header[3:6], "big"), header[6]
        if form == 0:
            partial.stream_id = int.from_bytes(header[7:11], "little")

    def _control(self, message: Message) -> None:
        if len(message.body) < 4:
            raise PeerError("RTMP control message too short")
        value = int.from_bytes(message.body[:4], "big")
        if message.kind == ABORT:
            if (partial := self._partials.get(value)) is not None:
                partial.body.clear()
        elif not 1 <= value & 0x7FFFFFFF <= 0xFFFFFF:
            raise PeerError("RTMP chunk size out of range")
        else:
            self._chunk_bytes = value & 0x7FFFFFFF
