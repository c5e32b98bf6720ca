"""RTP packets (RFC 3550 5.1) with header extensions of both forms (RFC 8285), bytes to values and back.

For tests, tools and egress; the data plane has code of its own for the hot path and is compared with this one.
"""

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from tertulia.protocol.errors import PeerError

VERSION = 2
HEADER_BYTES = 12
ONE_BYTE_PROFILE = 0xBEDE
TWO_BYTE_PROFILE = 0x1000
"""Its low four bits are appbits and ignored (RFC 8285 4.3)."""
MAX_CSRCS = 15
MAX_EXTENSION_WORDS = 0xFFFF


@dataclass(frozen=True, slots=True)
class RtpPacket:
    payload_type: int
    sequence: int
    timestamp: int
    ssrc: int
    payload: bytes = b""
    marker: bool = False
    csrcs: tuple[int, ...] = ()
    extensions: Mapping[int, bytes] = field(default_factory=dict)
    """Header extension values by id."""
    padding_bytes: int = 0


def is_rtcp(data: bytes) -> bool:
    """RFC 5761 4: on a shared port the second byte tells."""
    return len(data) >= 2 and 192 <= data[1] <= 223


def parse_rtp(data: bytes) -> RtpPacket:
    """PeerError for anything but one well-formed packet."""
    if len(data) < HEADER_BYTES or data[0] >> 6 != VERSION:
        raise PeerError("not an RTP packet")
    first, second, sequence, timestamp, ssrc = struct.unpack_from("!BBHII", data)
    at = HEADER_BYTES + 4 * (first & 0x0F)
    if at > len(data):
        raise PeerError("RTP packet ends inside its CSRC list")
    csrcs = struct.unpack_from(f"!{first & 0x0F}I", data, HEADER_BYTES)
    extensions: dict[int, bytes] = {}
    if first & 0x10:
        extensions, at = _parse_extensions(data, at)
    end = len(data)
    padding = 0
    if first & 0x20:
        padding = data[-1] if at < end else 0
        if not 1 <= padding <= end - at:
            raise PeerError("RTP padding is longer than the payload or zero")
        end -= padding
    payload = bytes(data[at:end])
    return RtpPacket(second & 0x7F, sequence, timestamp, ssrc, payload, bool(second & 0x80), csrcs, extensions, padding)


def build_rtp(packet: RtpPacket) -> bytes:
    """One-byte extension form when every element fits it, else the two-byte form."""
    assert len(packet.csrcs) <= MAX_CSRCS
    assert 0 <= packet.padding_bytes <= 255
    first = VERSION << 6 | len(packet.csrcs)
    first |= 0x20 if packet.padding_bytes else 0
    first |= 0x10 if packet.extensions else 0
    second = packet.payload_type | (0x80 if packet.marker else 0)
    parts = [struct.pack("!BBHII", first, second, packet.sequence, packet.timestamp, packet.ssrc)]
    parts.append(struct.pack(f"!{len(packet.csrcs)}I", *packet.csrcs))
    if packet.extensions:
        parts.append(build_extensions(packet.extensions.items()))
    parts.append(packet.payload)
    if packet.padding_bytes:
        parts.append(bytes(packet.padding_bytes - 1) + bytes([packet.padding_bytes]))
    return b"".join(parts)


def build_extensions(elements: Iterable[tuple[int, bytes]]) -> bytes:
    """The whole extension block: profile, length, elements, zero padding to a word."""
    elements = list(elements)
    one_byte = all(1 <= number <= 14 and 1 <= len(value) <= 16 for number, value in elements)
    block = bytearray()
    for number, value in elements:
        assert 1 <= number <= 255
        assert len(value) <= 255
        if one_byte:
            block.append(number << 4 | (len(value) - 1))
        else:
            block += bytes((number, len(value)))
        block += value
    block += bytes(-len(block) % 4)
    return struct.pack("!HH", ONE_BYTE_PROFILE if one_byte else TWO_BYTE_PROFILE, len(block) // 4) + bytes(block)


def _parse_extensions(data: bytes, at: int) -> tuple[dict[int, bytes], int]:
    """Values by id (the first of each id), and where the payload begins."""
    if at + 4 > len(data):
        raise PeerError("RTP packet ends inside its header extension")
    profile, words = struct.unpack_from("!HH", data, at)
    at += 4
    end = at + 4 * words
    if end > len(data):
        raise PeerError("RTP packet ends inside its header extension")
    found: dict[int, bytes] = {}
    if profile == ONE_BYTE_PROFILE:
        while at < end:
            number, length = data[at] >> 4, (data[at] & 0x0F) + 1
            at += 1
            if number == 0:
                at += 0 if length == 1 else length  # RFC 8285 4.2: id 0 with a length is skipped
                continue
            if number == 15:
                break
            if at + length > end:
                raise PeerError("an RTP header extension element is longer than the extension")
            found.setdefault(number, bytes(data[at : at + length]))
            at += length
    elif profile & 0xFFF0 == TWO_BYTE_PROFILE:
        while at < end:
            number = data[at]
            at += 1
            if number == 0:
                continue
            if at >= end or at + 1 + data[at] > end:
                raise PeerError("an RTP header extension element is longer than the extension")
            length = data[at]
            found.setdefault(number, bytes(data[at + 1 : at + 1 + length]))
            at += 1 + length
    return found, end


# ------------------------------------------------------------------------------------- extension values


def parse_audio_level(value: bytes) -> tuple[bool, int]:
    """Voice activity and loudness in -dBov (RFC 6464 3); either header form."""
    if not value:
        raise PeerError("empty audio level")
    return bool(value[0] & 0x80), value[0] & 0x7F


def build_audio_level(voice: bool, level: int) -> bytes:
    return bytes([(0x80 if voice else 0) | level])


def parse_transport_sequence(value: bytes) -> int:
    """draft-holmer-rmcat-transport-wide-cc-extensions-01 2."""
    if len(value) < 2:
        raise PeerError("transport-wide sequence number is shorter than two bytes")
    return int.from_bytes(value[:2], "big")


def build_transport_sequence(sequence: int) -> bytes:
    return sequence.to_bytes(2, "big")


def abs_send_time_of_ns(time_ns: int) -> bytes:
    """6.18 fixed-point seconds, wrapping every 64 s."""
    return (((time_ns << 18) // 1_000_000_000) & 0xFFFFFF).to_bytes(3, "big")


def ns_of_abs_send_time(value: bytes) -> int:
    if len(value) != 3:
        raise PeerError("abs-send-time is not three bytes")
    return (int.from_bytes(value, "big") * 1_000_000_000) >> 18
