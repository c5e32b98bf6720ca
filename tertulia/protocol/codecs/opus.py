"""Opus packets (RFC 6716 3.1) and redundant audio around them (RFC 2198 3)."""

from typing import NamedTuple

from tertulia.protocol.errors import PeerError

CLOCK_HZ = 48_000
MAX_PACKET_SAMPLES = 5_760
"""120 ms, the longest packet (RFC 6716 3.2.5)."""
MAX_BLOCKS = 32

_SILK_MS, _HYBRID_MS, _CELT_SAMPLES = (10, 20, 40, 60), (10, 20), (120, 240, 480, 960)


def packet_samples(packet: bytes) -> int:
    """Duration in 48 kHz samples, from the first two bytes."""
    if not packet:
        raise PeerError("empty Opus packet")
    configuration, code = packet[0] >> 3, packet[0] & 0x03
    if configuration < 12:
        frame = _SILK_MS[configuration & 3] * 48
    elif configuration < 16:
        frame = _HYBRID_MS[configuration & 1] * 48
    else:
        frame = _CELT_SAMPLES[configuration & 3]
    if code == 3 and len(packet) < 2:
        raise PeerError("an Opus packet ends before its frame count")
    count = 1 if code == 0 else 2 if code in (1, 2) else packet[1] & 0x3F
    if not 0 < frame * count <= MAX_PACKET_SAMPLES:
        raise PeerError("an Opus packet is longer than 120 ms or has no frame")
    return frame * count


class RedBlock(NamedTuple):
    payload_type: int
    timestamp_offset: int
    """How much earlier than the packet's timestamp; 0 for the primary block."""
    data: bytes


def parse_red(payload: bytes) -> list[RedBlock]:
    """Blocks from the oldest to the primary, which is the last."""
    headers: list[tuple[int, int, int]] = []
    at = 0
    while at < len(payload) and payload[at] & 0x80:
        if at + 4 > len(payload) or len(headers) >= MAX_BLOCKS:
            raise PeerError("redundant audio ends inside its headers")
        word = int.from_bytes(payload[at + 1 : at + 4], "big")
        headers.append((payload[at] & 0x7F, word >> 10, word & 0x3FF))
        at += 4
    if at >= len(payload):
        raise PeerError("redundant audio has no primary block")
    primary = payload[at] & 0x7F
    at += 1
    blocks = []
    for payload_type, offset, size in headers:
        if at + size > len(payload):
            raise PeerError("a redundant block is longer than its packet")
        blocks.append(RedBlock(payload_type, offset, payload[at : at + size]))
        at += size
    blocks.append(RedBlock(primary, 0, payload[at:]))
    return blocks


def build_red(blocks: list[RedBlock]) -> bytes:
    """The inverse; the last block is the primary."""
    head, body = bytearray(), bytearray()
    for block in blocks[:-1]:
        assert block.timestamp_offset < 1 << 14
        assert len(block.data) < 1 << 10
        head.append(0x80 | block.payload_type)
        head += (block.timestamp_offset << 10 | len(block.data)).to_bytes(3, "big")
        body += block.data
    head.append(blocks[-1].payload_type)
    return bytes(head + body) + blocks[-1].data
