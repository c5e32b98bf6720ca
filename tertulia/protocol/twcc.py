"""Transport-wide feedback (draft-holmer-rmcat-transport-wide-cc-extensions-01 3): which packets came, and when.

Times are nanoseconds on the receiver's line, whose zero is where its 24-bit reference counter is zero; they are
multiples of 250 us.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from tertulia.protocol.errors import PeerError
from tertulia.protocol.seq import distance

PACKET_TYPE = 205
FORMAT = 15
TICK_NS = 250_000
REFERENCE_TICKS = 256
"""The reference time counts 64 ms."""
MAX_STATUSES = 0xFFFF
MAX_RUN = 0x1FFF

_NOT_RECEIVED, _SMALL, _LARGE = 0, 1, 2
_HEADER = struct.Struct("!IIHHI")


@dataclass(frozen=True, slots=True)
class TransportFeedback:
    """One feedback packet."""

    sender_ssrc: int
    media_ssrc: int
    base_sequence: int
    count: int
    """Its own 8-bit number, to notice lost feedback."""
    arrivals_ns: tuple[int | None, ...]
    """Arrival time of base_sequence, base_sequence + 1, ...; None: not received."""


def parse_body(body: bytes) -> TransportFeedback:
    """`body`: what follows the four bytes of the RTCP header, padding removed."""
    if len(body) < _HEADER.size:
        raise PeerError("transport feedback is too short")
    sender, media, base, status_count, reference_and_count = _HEADER.unpack_from(body)
    reference = reference_and_count >> 8
    if reference & 0x800000:  # a signed 24-bit number
        reference -= 1 << 24
    symbols, at = _parse_chunks(body, _HEADER.size, status_count)
    ticks = reference * REFERENCE_TICKS
    arrivals: list[int | None] = []
    try:
        for symbol in symbols:
            if symbol == _NOT_RECEIVED:
                arrivals.append(None)
                continue
            if symbol == _SMALL:
                ticks += body[at]
                at += 1
            elif symbol == _LARGE:
                ticks += struct.unpack_from("!h", body, at)[0]
                at += 2
            else:
                raise PeerError("transport feedback has a reserved status symbol")
            arrivals.append(ticks * TICK_NS)
    except (IndexError, struct.error):
        raise PeerError("transport feedback has fewer deltas than received packets") from None
    return TransportFeedback(sender, media, base, reference_and_count & 0xFF, tuple(arrivals))


def _parse_chunks(body: bytes, at: int, status_count: int) -> tuple[list[int], int]:
    """Status symbols (3.1.2 to 3.1.4) and where the deltas begin."""
    symbols: list[int] = []
    while len(symbols) < status_count:
        if at + 2 > len(body):
            raise PeerError("transport feedback ends inside its status chunks")
        chunk = int.from_bytes(body[at : at + 2], "big")
        at += 2
        if not chunk & 0x8000:
            symbols += [(chunk >> 13) & 3] * min(chunk & MAX_RUN, status_count - len(symbols))
            if not chunk & MAX_RUN:
                raise PeerError("transport feedback has an empty run")
        elif chunk & 0x4000:
            symbols += [(chunk >> shift) & 3 for shift in range(12, -1, -2)]
        else:
            symbols += [(chunk >> shift) & 1 for shift in range(13, -1, -1)]
    return symbols[:status_count], at


def build(sender_ssrc: int, media_ssrc: int, count: int, arrivals: Sequence[tuple[int, int]]) -> list[bytes]:
    """RTCP packets for (16-bit sequence number, arrival ns) pairs in order of arrival; repeated numbers count once.

    More than one when a gap in time does not fit a delta; they are numbered from `count` on. All sequence numbers
    must lie within half the number space of the first.
    """
    if not arrivals:
        return []
    first = arrivals[0][0]
    by_place: dict[int, int] = {}
    for sequence, arrival_ns in arrivals:
        by_place.setdefault(distance(sequence, first), arrival_ns // TICK_NS)
    packets: list[bytes] = []
    places = sorted(by_place)
    begin = 0
    while begin < len(places):
        end = _fitting(places, by_place, begin)
        packets.append(
            _build_one(sender_ssrc, media_ssrc, (count + len(packets)) & 0xFF, first, places[begin:end], by_place)
        )
        begin = end
    return packets


def _reference(ticks: int) -> int:
    return ticks // REFERENCE_TICKS


def _fitting(places: Sequence[int], by_place: dict[int, int], begin: int) -> int:
    """End of the stretch whose deltas fit 16 signed bits."""
    at = _reference(by_place[places[begin]]) * REFERENCE_TICKS
    for index in range(begin, len(places)):
        ticks = by_place[places[index]]
        if not -0x8000 <= ticks - at <= 0x7FFF or places[index] - places[begin] >= MAX_STATUSES:
            return index
        at = ticks
    return len(places)


def _build_one(
    sender_ssrc: int, media_ssrc: int, count: int, first: int, places: Sequence[int], by_place: dict[int, int]
) -> bytes:
    reference = _reference(by_place[places[0]])
    at = reference * REFERENCE_TICKS
    symbols: list[int] = []
    deltas = bytearray()
    for place in range(places[0], places[-1] + 1):
        ticks = by_place.get(place)
        if ticks is None:
            symbols.append(_NOT_RECEIVED)
            continue
        delta, at = ticks - at, ticks
        if 0 <= delta <= 0xFF:
            symbols.append(_SMALL)
            deltas.append(delta)
        else:
            symbols.append(_LARGE)
            deltas += struct.pack("!h", delta)
    base = (first + places[0]) & 0xFFFF
    head = _HEADER.pack(sender_ssrc, media_ssrc, base, len(symbols), (reference & 0xFFFFFF) << 8 | count)
    return _framed(head + _build_chunks(symbols) + bytes(deltas))


def _build_chunks(symbols: Sequence[int]) -> bytes:
    """Runs where they are worth it, else vectors of one or two bits per status."""
    chunks = bytearray()
    at = 0
    while at < len(symbols):
        run = 1
        while at + run < len(symbols) and run < MAX_RUN and symbols[at + run] == symbols[at]:
            run += 1
        narrow = symbols[at : at + 14]
        if run >= 14 or run == len(symbols) - at:
            chunk, taken = symbols[at] << 13 | run, run
        elif max(narrow) <= _SMALL:
            chunk, taken = 0x8000, len(narrow)
            for index, symbol in enumerate(narrow):
                chunk |= symbol << (13 - index)
        else:
            wide = symbols[at : at + 7]
            chunk, taken = 0xC000, len(wide)
            for index, symbol in enumerate(wide):
                chunk |= symbol << (12 - 2 * index)
        chunks += chunk.to_bytes(2, "big")
        at += taken
    return bytes(chunks)


def _framed(body: bytes) -> bytes:
    """RTCP header, and padding to whole words with its length in the last byte (RFC 3550 6.4.1)."""
    padding = -len(body) % 4
    if padding:
        body += bytes(padding - 1) + bytes([padding])
    first = 2 << 6 | (0x20 if padding else 0) | FORMAT
    return struct.pack("!BBH", first, PACKET_TYPE, len(body) // 4) + body
