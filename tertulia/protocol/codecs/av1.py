"""AV1 payloads (AV1 RTP Payload Format 4.4): the aggregation header and the OBU elements behind it."""

from typing import NamedTuple

from tertulia.protocol.errors import PeerError

SEQUENCE_HEADER = 1
MAX_ELEMENTS = 64
_MAX_LEB128_BYTES = 8


class ObuElement(NamedTuple):
    """An OBU without its size field, or a piece of one."""

    is_first: bool
    is_last: bool
    data: bytes

    @property
    def obu_type(self) -> int:
        """Only of a first piece; -1 otherwise (AV1 specification 5.3.2)."""
        return (self.data[0] >> 3) & 0x0F if self.is_first and self.data else -1


class Av1Payload(NamedTuple):
    starts_sequence: bool
    """N: first packet of a coded video sequence, that is a key frame."""
    elements: tuple[ObuElement, ...]


def parse_av1(payload: bytes) -> Av1Payload:
    if not payload:
        raise PeerError("empty AV1 payload")
    header = payload[0]
    continues, continued = bool(header & 0x80), bool(header & 0x40)
    count, starts = (header >> 4) & 0x03, bool(header & 0x08)
    if starts and continues:
        raise PeerError("an AV1 sequence cannot begin inside an OBU")
    pieces: list[bytes] = []
    at = 1
    while at < len(payload):
        # W = 0: every element has a length; otherwise all but the last of W
        if count == 0 or len(pieces) < count - 1:
            size, at = _leb128(payload, at)
        else:
            size = len(payload) - at
        if at + size > len(payload):
            raise PeerError("an AV1 element is longer than its packet")
        if len(pieces) >= MAX_ELEMENTS:
            raise PeerError(f"an AV1 packet has more than {MAX_ELEMENTS} elements")
        pieces.append(payload[at : at + size])
        at += size
    if not pieces or (count and len(pieces) != count):
        raise PeerError("an AV1 packet has fewer elements than it says")
    last = len(pieces) - 1
    return Av1Payload(
        starts,
        tuple(
            ObuElement(not (index == 0 and continues), not (index == last and continued), piece)
            for index, piece in enumerate(pieces)
        ),
    )


def _leb128(data: bytes, at: int) -> tuple[int, int]:
    """Value and the place after it (AV1 specification 4.10.5)."""
    value = 0
    for index in range(_MAX_LEB128_BYTES):
        if at + index >= len(data):
            break
        value |= (data[at + index] & 0x7F) << (7 * index)
        if not data[at + index] & 0x80:
            return value, at + index + 1
    raise PeerError("an AV1 element has no valid length")
