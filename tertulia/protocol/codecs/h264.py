"""H.264 payloads (RFC 6184 5.2): which NAL units, or pieces of one, a packet carries."""

from typing import NamedTuple

from tertulia.protocol.errors import PeerError

SLICE, IDR, SEI, SPS, PPS = 1, 5, 6, 7, 8
STAP_A, FU_A = 24, 28
MAX_UNITS = 64
"""In one aggregation packet."""


class NalPiece(NamedTuple):
    """A NAL unit, or a piece of one; the first piece carries the unit's header byte."""

    nal_type: int
    is_first: bool
    is_last: bool
    data: bytes


def parse_h264(payload: bytes) -> list[NalPiece]:
    """Single units, STAP-A and FU-A: what packetization modes 0 and 1 allow."""
    if not payload:
        raise PeerError("empty H.264 payload")
    nal_type = payload[0] & 0x1F
    if 1 <= nal_type <= 23:
        return [NalPiece(nal_type, True, True, payload)]
    if nal_type == STAP_A:
        return _aggregated(payload)
    if nal_type == FU_A:
        return [_fragment(payload)]
    raise PeerError(f"H.264 payload type {nal_type} is not one of packetization mode 1")


def is_key_frame_start(pieces: list[NalPiece]) -> bool:
    """A decoder can begin here: parameter sets or the first piece of an IDR slice."""
    return any(piece.is_first and piece.nal_type in (SPS, IDR) for piece in pieces)


def _aggregated(payload: bytes) -> list[NalPiece]:
    units: list[NalPiece] = []
    at = 1
    while at < len(payload):
        size = int.from_bytes(payload[at : at + 2], "big")
        unit = payload[at + 2 : at + 2 + size]
        if size == 0 or len(unit) < size:
            raise PeerError("an H.264 aggregation packet ends inside a unit")
        if len(units) >= MAX_UNITS:
            raise PeerError(f"an H.264 aggregation packet has more than {MAX_UNITS} units")
        units.append(NalPiece(unit[0] & 0x1F, True, True, unit))
        at += 2 + size
    return units


def _fragment(payload: bytes) -> NalPiece:
    if len(payload) < 3:
        raise PeerError("an H.264 fragment is empty")
    indicator, header = payload[0], payload[1]
    is_first, is_last, nal_type = bool(header & 0x80), bool(header & 0x40), header & 0x1F
    data = payload[2:]
    if is_first:
        data = bytes([indicator & 0xE0 | nal_type]) + data
    return NalPiece(nal_type, is_first, is_last, data)
