"""RTP payloads of a tapped track -> encoded frames, in order, with what is missing made plain.

Decides when a gap is given up, what a frame is made of, and after a loss that nothing can be used before the next key
frame. Payload formats: VP8 RFC 7741, VP9 RFC 9628, H264 RFC 6184 (non-interleaved), AV1 "RTP Payload Format For AV1"
(AOM), Opus RFC 7587, redundant audio RFC 2198. Frames are as `outputs.api.EncodedPacket` wants their data.
"""

import struct
from collections.abc import Iterable
from typing import NamedTuple, Protocol

from tertulia.egress.obus import Av1
from tertulia.protocol.errors import PeerError
from tertulia.protocol.machine import MILLISECOND, Nanos
from tertulia.protocol.tap import TapPacket

HOLD_NS = 400 * MILLISECOND
"""How long packets behind a gap wait for a retransmission."""
HELD_LIMIT = 2048
"""Packets; a key frame of 4K video has about 1000."""
FRAME_LIMIT_BYTES = 8 << 20


class Frame(NamedTuple):
    timestamp: int
    arrival: Nanos
    key_frame: bool
    data: bytes


class Gap(NamedTuple):
    """So many packets are missing here and will not come."""

    packets: int


class Resequencer:
    """Packets in order of sequence number; holds back what follows a gap, for a while."""

    def __init__(self, hold_ns: int = HOLD_NS) -> None:
        self._hold_ns = hold_ns
        self._next: int | None = None
        self._held: dict[int, TapPacket] = {}
        self.late = 0
        self.lost = 0

    def push(self, packets: Iterable[TapPacket], now: Nanos) -> list[TapPacket | Gap]:
        """Take what has come; give what is in order, with a Gap where the waiting is over."""
        out: list[TapPacket | Gap] = []
        for packet in packets:
            sequence = packet.sequence & 0xFFFF
            if self._next is None:
                self._next = sequence
            ahead = (sequence - self._next) & 0xFFFF
            if ahead >= 0x8000:
                self.late += 1
            elif ahead == 0:
                self._next = (sequence + 1) & 0xFFFF
                out.append(packet)
                if self._held:
                    self._release(out)
            else:
                self._held[sequence] = packet
                if len(self._held) > HELD_LIMIT:
                    self._skip(out)
        while self._held and now - min(packet.arrival for packet in self._held.values()) > self._hold_ns:
            self._skip(out)
        return out

    def flush(self) -> list[TapPacket | Gap]:
        """Nothing more will come."""
        out: list[TapPacket | Gap] = []
        while self._held:
            self._skip(out)
        return out

    def _release(self, out: list[TapPacket | Gap]) -> None:
        assert self._next is not None
        while (packet := self._held.pop(self._next, None)) is not None:
            out.append(packet)
            self._next = (self._next + 1) & 0xFFFF

    def _skip(self, out: list[TapPacket | Gap]) -> None:
        assert self._next is not None
        start = self._next
        ahead = min((sequence - start) & 0xFFFF for sequence in self._held)
        self.lost += ahead
        out.append(Gap(ahead))
        self._next = (start + ahead) & 0xFFFF
        self._release(out)


class Payloads(Protocol):
    """One codec: parts of one picture in, its bytes out. Raises PeerError for what is no such payload."""

    def add(self, payload: bytes) -> None: ...

    def finish(self) -> tuple[bytes, bool]:
        """The picture so far (empty: nothing of use) and whether it is a key frame; starts the next one."""

    def number(self, payload: bytes) -> tuple[int, int] | None:
        """The number of the picture that this payload begins, and its range; None where pictures have no numbers."""


class VideoDepacketizer:
    """Pictures of one track. After a loss `waiting` until a key frame comes; then pictures flow again."""

    def __init__(self, payloads: Payloads) -> None:
        self._payloads = payloads
        self._timestamp: int | None = None
        self._arrival = Nanos(0)
        self._bytes = 0
        self._torn = self._doubtful = False
        self._number: int | None = None
        self.waiting = True
        self.malformed = 0
        self.dropped = 0

    def push(self, item: TapPacket | Gap) -> list[Frame]:
        if isinstance(item, Gap):
            if self._timestamp is None and self._number is not None:
                self._doubtful = True
            else:
                self._tear()
            return []
        out: list[Frame] = []
        if self._timestamp is not None and item.timestamp != self._timestamp:
            self._finish(out)
        if not item.payload:
            return out  # padding: probes the network, carries nothing
        if self._timestamp is None:
            self._begin(item)
        self._bytes += len(item.payload)
        try:
            if self._bytes > FRAME_LIMIT_BYTES:
                raise PeerError("frame too large")
            if not self._torn:
                self._payloads.add(item.payload)
        except (PeerError, IndexError, struct.error):
            self.malformed += 1
            self._tear()
        if item.marker:
            self._finish(out)
        return out

    def _begin(self, item: TapPacket) -> None:
        """The first packet of a picture. What is missing before it was padding (publishers without RTX probe with it
        among the media, and never repeat it) when the picture has the number that follows."""
        self._timestamp, self._arrival = item.timestamp, item.arrival
        try:
            found = self._payloads.number(item.payload)
        except IndexError:
            found = None
        before, self._number = self._number, found[0] if found is not None else None
        if self._doubtful:
            self._doubtful = False
            if found is None or before is None or (found[0] - before) % found[1] != 1:
                self._tear()

    def lose(self) -> None:
        """What was given last cannot be decoded: only a key frame helps."""
        self.waiting = True

    def _tear(self) -> None:
        # A gap between two pictures may hide the rest of one and the start of the other: neither is whole.
        self._torn = self.waiting = True

    def _finish(self, out: list[Frame]) -> None:
        assert self._timestamp is not None
        try:
            data, key_frame = self._payloads.finish()
        except (PeerError, IndexError, struct.error):
            self.malformed += 1
            self.waiting, data, key_frame = True, b"", False
        if self._torn or not data:
            self.dropped += self._torn
        elif key_frame or not self.waiting:
            self.waiting = False
            out.append(Frame(self._timestamp, self._arrival, key_frame, data))
        else:
            self.dropped += 1
        self._timestamp, self._bytes, self._torn = None, 0, False


def _picture_number(payload: bytes, at: int) -> tuple[int, int]:
    """A picture id of 7 or 15 bits, and how many there are of its kind."""
    if payload[at] & 0x80:
        return (payload[at] & 0x7F) << 8 | payload[at + 1], 1 << 15
    return payload[at], 1 << 7


class Vp8:
    """RFC 7741 4.2."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def add(self, payload: bytes) -> None:
        first, at = payload[0], 1
        if first & 0x80:
            extension, at = payload[1], 2
            if extension & 0x80:
                at += 2 if payload[at] & 0x80 else 1
            if extension & 0x40:
                at += 1
            if extension & 0x30:
                at += 1
        if not self._parts and not (first & 0x10 and first & 0x07 == 0):
            raise PeerError("a picture without its start")
        self._parts.append(payload[at:])

    def number(self, payload: bytes) -> tuple[int, int] | None:
        first = payload[0]
        if not (first & 0x80 and payload[1] & 0x80 and first & 0x10 and first & 0x07 == 0):
            return None
        return _picture_number(payload, 2)

    def finish(self) -> tuple[bytes, bool]:
        data = b"".join(self._parts)
        self._parts.clear()
        return data, bool(data) and not data[0] & 1


class Vp9:
    """RFC 9628 4.2. The layer frames of one picture become one superframe (VP9 bitstream, annex B)."""

    def __init__(self) -> None:
        self._layers: list[bytearray] = []
        self._key_frame = False

    def add(self, payload: bytes) -> None:
        first, at = payload[0], 1
        if first & 0x80:
            at += 2 if payload[at] & 0x80 else 1
        spatial = 0
        if first & 0x20:
            spatial = payload[at] >> 1 & 7
            at += 1 if first & 0x10 else 2
        if first & 0x50 == 0x50:
            while payload[at] & 1:
                at += 1
            at += 1
        if first & 0x02:
            at = self._skip_structure(payload, at)
        if first & 0x08:
            if not self._layers:
                self._key_frame = not first & 0x40 and spatial == 0
            self._layers.append(bytearray())
        if not self._layers:
            raise PeerError("a picture without its start")
        self._layers[-1] += payload[at:]

    def number(self, payload: bytes) -> tuple[int, int] | None:
        first = payload[0]
        spatial = payload[3 if payload[1] & 0x80 else 2] >> 1 & 7 if first & 0xA0 == 0xA0 else 0
        return _picture_number(payload, 1) if first & 0x88 == 0x88 and spatial == 0 else None

    def finish(self) -> tuple[bytes, bool]:
        layers, key_frame = [bytes(layer) for layer in self._layers if layer], self._key_frame
        self._layers, self._key_frame = [], False
        if len(layers) < 2:
            return (layers[0] if layers else b""), key_frame
        if len(layers) > 8:
            raise PeerError("more than eight layers")
        width = (max(map(len, layers)).bit_length() + 7) // 8
        marker = bytes([0xC0 | (width - 1) << 3 | len(layers) - 1])
        sizes = b"".join(len(layer).to_bytes(width, "little") for layer in layers)
        return b"".join(layers) + marker + sizes + marker, key_frame

    @staticmethod
    def _skip_structure(payload: bytes, at: int) -> int:
        structure = payload[at]
        at += 1
        if structure & 0x10:
            at += 4 * ((structure >> 5) + 1)
        if structure & 0x08:
            pictures, at = payload[at], at + 1
            for _ in range(pictures):
                at += 1 + (payload[at] >> 2 & 3)
        return at


class H264:
    """RFC 6184 5.6-5.8 -> Annex B byte stream; every key frame carries its parameter sets."""

    _START = b"\x00\x00\x00\x01"

    def __init__(self) -> None:
        self._units: list[bytes] = []
        self._fragments: list[bytes] = []
        self._sets: dict[int, bytes] = {}

    def number(self, payload: bytes) -> tuple[int, int] | None:
        return None

    def add(self, payload: bytes) -> None:
        kind = payload[0] & 0x1F
        if 1 <= kind <= 23:
            self._units.append(payload)
        elif kind == 24:
            at = 1
            while at < len(payload):
                (size,) = struct.unpack_from("!H", payload, at)
                unit = payload[at + 2 : at + 2 + size]
                if not size or len(unit) != size:
                    raise PeerError("STAP-A with a wrong size")
                self._units.append(unit)
                at += 2 + size
        elif kind == 28:
            header = payload[1]
            if header & 0x80:
                self._fragments = [bytes([payload[0] & 0xE0 | header & 0x1F])]
            elif not self._fragments:
                raise PeerError("FU-A without its start")
            self._fragments.append(payload[2:])
            if header & 0x40:
                self._units.append(b"".join(self._fragments))
                self._fragments = []
        else:
            raise PeerError("packetization of the interleaved mode")

    def finish(self) -> tuple[bytes, bool]:
        units, self._units, self._fragments = self._units, [], []
        kinds = {unit[0] & 0x1F for unit in units}
        for unit in units:
            if unit[0] & 0x1F in (7, 8):
                self._sets[unit[0] & 0x1F] = unit
        key_frame = 5 in kinds
        if not kinds & {1, 2, 3, 4, 5}:
            return b"", False
        if key_frame and not {7, 8} <= kinds:
            if len(self._sets) < 2:
                return b"", False  # cannot be decoded by anyone who has not seen the beginning
            units = [self._sets[7], self._sets[8]] + [unit for unit in units if unit[0] & 0x1F not in (7, 8)]
        return b"".join(self._START + unit for unit in units), key_frame


class OpusDepacketizer:
    """One packet, one frame; nothing waits for anything."""

    waiting = False
    malformed = 0

    def push(self, item: TapPacket | Gap) -> list[Frame]:
        if isinstance(item, Gap) or not item.payload:
            return []
        return [Frame(item.timestamp, item.arrival, True, item.payload)]


class RedDepacketizer:
    """RFC 2198: older blocks stand in for packets that were lost."""

    waiting = False

    def __init__(self) -> None:
        self._newest: int | None = None
        self.malformed = 0
        self.recovered = 0

    def push(self, item: TapPacket | Gap) -> list[Frame]:
        if isinstance(item, Gap) or not item.payload:
            return []
        try:
            blocks = self._blocks(item.payload)
        except (IndexError, PeerError):
            self.malformed += 1
            return []
        out = []
        for behind, data in blocks:
            timestamp = (item.timestamp - behind) & 0xFFFFFFFF
            if self._newest is not None and (timestamp - self._newest - 1) & 0xFFFFFFFF >= 1 << 31:
                continue
            if not data or (behind and self._newest is None):
                continue
            self.recovered += behind > 0
            self._newest = timestamp
            out.append(Frame(timestamp, item.arrival, True, data))
        return out

    @staticmethod
    def _blocks(payload: bytes) -> list[tuple[int, bytes]]:
        headers, at = [], 0
        while payload[at] & 0x80:
            word = int.from_bytes(payload[at : at + 4], "big")
            headers.append((word >> 10 & 0x3FFF, word & 0x3FF))
            at += 4
        at += 1
        if at + sum(size for _, size in headers) > len(payload):
            raise PeerError("redundant block longer than its packet")
        blocks = []
        for behind, size in headers:
            blocks.append((behind, payload[at : at + size]))
            at += size
        return [*blocks, (0, payload[at:])]


Depacketizer = VideoDepacketizer | OpusDepacketizer | RedDepacketizer


def depacketizer_for(mime_type: str) -> Depacketizer | None:
    """None: a codec that cannot be recorded."""
    match mime_type.lower():
        case "video/vp8":
            return VideoDepacketizer(Vp8())
        case "video/vp9":
            return VideoDepacketizer(Vp9())
        case "video/h264":
            return VideoDepacketizer(H264())
        case "video/av1":
            return VideoDepacketizer(Av1())
        case "audio/opus":
            return OpusDepacketizer()
        case "audio/red":
            return RedDepacketizer()
        case _:
            return None


_OPUS_FRAME = (480, 960, 1920, 2880) * 3 + (480, 960) * 2 + (120, 240, 480, 960) * 4


def opus_samples(data: bytes) -> int:
    """Samples at 48 kHz in an Opus packet (RFC 6716 3.1-3.2); 0 when it is none."""
    if not data:
        return 0
    code = data[0] & 3
    if code == 3:
        frames = data[1] & 0x3F if len(data) > 1 else 0
    else:
        frames = 1 if code == 0 else 2
    samples = _OPUS_FRAME[data[0] >> 3] * frames
    return samples if samples <= 5760 else 0
