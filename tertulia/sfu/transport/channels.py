"""Data channels of one association: their handshake on bytes (DCEP, RFC 8832) and what waits to be sent on each."""

import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from tertulia.protocol.errors import PeerError

MAX_CHANNELS = 64
"""Open at a time per peer; LiveKit clients use three."""
MAX_LABEL_BYTES = 256
MAX_MESSAGE_BYTES = 256 * 1024
"""What our SDP advertises (`a=max-message-size`)."""
LOSSY_BUFFER_BYTES = 64 * 1024
"""A channel that may lose messages loses the newest ones when so much waits: late is worse than never."""
RELIABLE_BUFFER_BYTES = 16 * 1024 * 1024
MAX_QUEUED_MESSAGES = 16_384

PPID_DCEP = 50
PPID_STRING = 51
PPID_BINARY = 53
PPID_STRING_EMPTY = 56
PPID_BINARY_EMPTY = 57

_DCEP_ACK = 2
_DCEP_OPEN = 3
_OPEN_HEADER = struct.Struct("!BBHLHH")
_UNORDERED = 0x80
_RETRANSMITS = 1
_LIFETIME = 2

ACK = bytes([_DCEP_ACK])


@dataclass(frozen=True, slots=True)
class ChannelOptions:
    """What DATA_CHANNEL_OPEN says (RFC 8832 5.1)."""

    label: str
    protocol: str = ""
    ordered: bool = True
    max_retransmits: int | None = None
    max_lifetime_ms: int | None = None

    @property
    def lossy(self) -> bool:
        return self.max_retransmits is not None or self.max_lifetime_ms is not None


def parse_dcep(data: bytes) -> ChannelOptions | None:
    """The options of an OPEN; None for an ACK."""
    if data == ACK:
        return None
    if len(data) < _OPEN_HEADER.size or data[0] != _DCEP_OPEN:
        raise PeerError("not a DCEP message")
    _, kind, _, reliability, label_bytes, protocol_bytes = _OPEN_HEADER.unpack_from(data)
    end = _OPEN_HEADER.size + label_bytes + protocol_bytes
    if end > len(data) or label_bytes > MAX_LABEL_BYTES or protocol_bytes > MAX_LABEL_BYTES:
        raise PeerError("DCEP label or protocol is too long")
    try:
        label = data[_OPEN_HEADER.size : _OPEN_HEADER.size + label_bytes].decode()
        protocol = data[_OPEN_HEADER.size + label_bytes : end].decode()
    except UnicodeDecodeError:
        raise PeerError("DCEP label is not UTF-8") from None
    return ChannelOptions(
        label,
        protocol,
        ordered=not kind & _UNORDERED,
        max_retransmits=reliability if kind & 3 == _RETRANSMITS else None,
        max_lifetime_ms=reliability if kind & 3 == _LIFETIME else None,
    )


def build_open(options: ChannelOptions) -> bytes:
    kind, reliability = 0 if options.ordered else _UNORDERED, 0
    if options.max_retransmits is not None:
        kind, reliability = kind | _RETRANSMITS, options.max_retransmits
    elif options.max_lifetime_ms is not None:
        kind, reliability = kind | _LIFETIME, options.max_lifetime_ms
    label, protocol = options.label.encode(), options.protocol.encode()
    return _OPEN_HEADER.pack(_DCEP_OPEN, kind, 0, reliability, len(label), len(protocol)) + label + protocol


class Channel:
    """One channel and its queue.

    `id`, `negotiated`, `readyState` and `_setReadyState` are the part of a data channel that aiortc's association,
    which numbers and resets the streams, asks of us.
    """

    negotiated = False

    def __init__(self, stream: int, options: ChannelOptions, on_change: Callable[["Channel", str], None]) -> None:
        self.id = stream
        self.options = options
        self.readyState = "connecting"
        self.buffered_bytes = 0
        self._on_change = on_change
        self._queue: deque[tuple[int, bytes]] = deque()

    def _setReadyState(self, state: str) -> None:
        if state == self.readyState:
            return
        before, self.readyState = self.readyState, state
        if state in ("closing", "closed"):
            self._queue.clear()
            self.buffered_bytes = 0
        self._on_change(self, before)

    @property
    def waiting(self) -> bool:
        return bool(self._queue)

    def full(self, size: int) -> bool:
        """No room for a message of this size. An empty queue takes any message."""
        limit = LOSSY_BUFFER_BYTES if self.options.lossy else RELIABLE_BUFFER_BYTES
        return bool(self._queue) and (self.buffered_bytes + size > limit or len(self._queue) >= MAX_QUEUED_MESSAGES)

    def push(self, ppid: int, data: bytes) -> None:
        self._queue.append((ppid, data))
        self.buffered_bytes += len(data)

    def pop(self) -> tuple[int, bytes]:
        ppid, data = self._queue.popleft()
        self.buffered_bytes -= len(data)
        return ppid, data
