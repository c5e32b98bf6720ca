"""What receivers say: receiver reports, NACKs, transport feedback; and what they hear from the server as senders.

Bytes in and out; when it is time is the engine's business.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.load.receiving import MAX_NACKS, NACK_AFTER_NS, NACK_EVERY_NS, Stream, Tables
from tertulia.protocol import twcc

OWN_SSRC = 7
"""Sender of our RTCP about what we receive; every connection is a world of its own."""
MAX_BLOCKS = 31
MAX_NACK_ITEMS = 64
MAX_STATUSES = 400
"""Arrivals in one transport feedback: it must fit a datagram."""
MAX_BYTES = 1_200
_BLOCK = struct.Struct("!IIIIII")


def receiver_reports(streams: Sequence[Stream], tables: Tables, now_ns: int) -> list[bytes]:
    """Compound-free RR packets with up to 31 blocks each (RFC 3550 6.4.2)."""
    blocks = [_block(stream, tables, now_ns) for stream in streams if tables.seen[stream.row]]
    found = []
    for begin in range(0, len(blocks), MAX_BLOCKS):
        part = blocks[begin : begin + MAX_BLOCKS]
        found.append(struct.pack("!BBHI", 0x80 | len(part), 201, 1 + 6 * len(part), OWN_SSRC) + b"".join(part))
    return found


def _block(stream: Stream, tables: Tables, now_ns: int) -> bytes:
    row = stream.row
    last = int(tables.last[row])
    expected, received = last - int(tables.first[row]) + 1, int(tables.count[row])
    asked, got = expected - stream.reported[0], received - stream.reported[1]
    stream.reported = (expected, received)
    fraction = max(0, min(255, (asked - got) * 256 // asked)) if asked > 0 else 0
    lost = max(0, min(0x7FFFFF, expected - received))
    middle, arrived_ns = stream.sender_report
    since = min(0xFFFFFFFF, (now_ns - arrived_ns) * 65_536 // 1_000_000_000) if middle else 0
    return _BLOCK.pack(stream.ssrc, fraction << 24 | lost, last & 0xFFFFFFFF, int(stream.jitter), middle, since)


def nack(stream: Stream, now_ns: int) -> bytes:
    """A generic NACK (RFC 4585 6.2.1) for what is due to be asked for, empty when nothing is."""
    due: list[int] = []
    for number, state in list(stream.missing.items()):
        noticed_ns, asked_ns, times = state
        if times >= MAX_NACKS:
            del stream.missing[number]
        elif now_ns - noticed_ns >= NACK_AFTER_NS and now_ns - asked_ns >= NACK_EVERY_NS and len(due) < MAX_NACK_ITEMS:
            state[1], state[2] = now_ns, times + 1
            due.append(number & 0xFFFF)
    if not due:
        return b""
    items = b"".join(struct.pack("!HH", number, 0) for number in due)
    return struct.pack("!BBHII", 0x81, 205, 2 + len(due), OWN_SSRC, stream.ssrc) + items


def key_frame_request(ssrc: int) -> bytes:
    """PLI (RFC 4585 6.3.1)."""
    return struct.pack("!BBHII", 0x81, 206, 2, OWN_SSRC, ssrc)


@dataclass(slots=True)
class Arrivals:
    """Transport sequence numbers of one connection since its last feedback."""

    numbers: list[Any] = field(default_factory=list)
    times: list[Any] = field(default_factory=list)
    count: int = 0
    """Feedback packets so far."""
    media_ssrc: int = 0

    def note(self, numbers: Any, times: Any) -> None:
        self.numbers.append(numbers)
        self.times.append(times)

    def feedback(self) -> list[bytes]:
        """The packets that say what came; nothing when nothing did."""
        if not self.numbers:
            return []
        numbers, times = np.concatenate(self.numbers), np.concatenate(self.times)
        self.numbers, self.times = [], []
        found: list[bytes] = []
        for begin in range(0, len(numbers), MAX_STATUSES):
            part = slice(begin, begin + MAX_STATUSES)
            packets = quick_feedback(numbers[part], times[part], self.count, self.media_ssrc)
            if packets is None:
                pairs = list(zip(numbers[part].tolist(), times[part].tolist(), strict=True))
                packets = twcc.build(OWN_SSRC, self.media_ssrc, self.count & 0xFF, pairs)
            self.count += len(packets)
            found += [packet for packet in packets if len(packet) <= MAX_BYTES]
        return found


def quick_feedback(numbers: Any, times: Any, count: int, media_ssrc: int) -> list[bytes] | None:
    """The usual case at once: consecutive numbers, in order, with small steps in time. None: not the usual case."""
    n = len(numbers)
    if n > twcc.MAX_RUN or (n > 1 and not ((numbers[1:] - numbers[:-1]) & 0xFFFF == 1).all()):
        return None
    ticks = times // twcc.TICK_NS
    reference = int(ticks[0]) // twcc.REFERENCE_TICKS
    steps = np.diff(ticks, prepend=reference * twcc.REFERENCE_TICKS)
    if steps.min() < 0 or steps.max() > 255:
        return None
    body = struct.pack(
        "!IIHHIH", OWN_SSRC, media_ssrc, int(numbers[0]) & 0xFFFF, n, (reference & 0xFFFFFF) << 8 | count & 0xFF,
        1 << 13 | n,
    ) + steps.astype(np.uint8).tobytes()  # fmt: skip
    padding = -len(body) % 4
    if padding:
        body += bytes(padding - 1) + bytes([padding])
    return [struct.pack("!BBH", 0x80 | (0x20 if padding else 0) | 15, 205, len(body) // 4) + body]


# --------------------------------------------------------------------------------------------- heard


@dataclass(frozen=True, slots=True)
class KeyFrameWanted:
    ssrc: int


@dataclass(frozen=True, slots=True)
class Repeat:
    ssrc: int
    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SenderReport:
    ssrc: int
    middle: int


Heard = KeyFrameWanted | Repeat | SenderReport


def hear(data: bytes) -> list[Heard]:
    """The parts of a compound packet a client obeys; the rest, and what is malformed, is passed over."""
    found: list[Heard] = []
    at = 0
    while at + 8 <= len(data):
        form, kind, words = data[at] & 31, data[at + 1], struct.unpack_from("!H", data, at + 2)[0]
        end = min(len(data), at + 4 + 4 * words)
        if kind == 200 and end - at >= 20:
            ssrc, high, low = struct.unpack_from("!III", data, at + 4)
            found.append(SenderReport(ssrc, (high & 0xFFFF) << 16 | low >> 16))
        elif kind == 206 and form == 1 and end - at >= 12:
            found.append(KeyFrameWanted(struct.unpack_from("!I", data, at + 8)[0]))
        elif kind == 206 and form == 4 and end - at >= 20:
            found += [KeyFrameWanted(struct.unpack_from("!I", data, place)[0]) for place in range(at + 12, end - 7, 8)]
        elif kind == 205 and form == 1 and end - at >= 16:
            numbers: list[int] = []
            for place in range(at + 12, end - 3, 4):
                first, mask = struct.unpack_from("!HH", data, place)
                numbers += [first, *(first + bit + 1 & 0xFFFF for bit in range(16) if mask >> bit & 1)]
            found.append(Repeat(struct.unpack_from("!I", data, at + 8)[0], tuple(numbers)))
        at += 4 + 4 * words
    return found
