"""RTCP packets (RFC 3550 6, RFC 4585 6, RFC 5104 4.3.1, REMB), bytes to values and back.

A compound is cut by its length fields first, so that one odd packet never costs its neighbours: it comes out as
`Unreadable`. For tests, tools, egress and rare packets; the data plane reads its hot RTCP itself.
"""

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tertulia.protocol import twcc
from tertulia.protocol.errors import PeerError
from tertulia.protocol.seq import distance
from tertulia.protocol.twcc import TransportFeedback

VERSION = 2
HEADER_BYTES = 4
MAX_PACKETS = 64
"""In one compound; a datagram of 1500 bytes holds at most some dozens that mean anything."""
MAX_COUNT = 31
"""What the five-bit count field can say."""

SENDER_REPORT, RECEIVER_REPORT, SOURCE_DESCRIPTION, GOODBYE = 200, 201, 202, 203
TRANSPORT_FEEDBACK, PAYLOAD_FEEDBACK = 205, 206
FORMAT_NACK, FORMAT_TWCC = 1, 15
FORMAT_PLI, FORMAT_FIR, FORMAT_APPLICATION = 1, 4, 15

CNAME = 1
REMB_NAME = b"REMB"
MAX_NACK_ITEMS = 256
"""17 packets each; more loss than this is answered by a key frame."""

_SENDER_INFO = struct.Struct("!IQIII")
_REPORT = struct.Struct("!IB3sIIII")


@dataclass(frozen=True, slots=True)
class ReceptionReport:
    """One report block (RFC 3550 6.4.1)."""

    ssrc: int
    fraction_lost: int
    lost: int
    """Cumulative, signed 24 bits."""
    highest_sequence: int
    """Extended by the cycle count."""
    jitter: int
    """In timestamp units."""
    last_sender_report: int
    delay: int
    """1/65536 s since that report."""


@dataclass(frozen=True, slots=True)
class SenderReport:
    ssrc: int
    ntp: int
    timestamp: int
    packets: int
    octets: int
    reports: tuple[ReceptionReport, ...] = ()


@dataclass(frozen=True, slots=True)
class ReceiverReport:
    ssrc: int
    reports: tuple[ReceptionReport, ...] = ()


@dataclass(frozen=True, slots=True)
class SourceDescription:
    """CNAMEs by SSRC; other items are read over."""

    cnames: tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True)
class Goodbye:
    ssrcs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Nack:
    """Generic NACK (RFC 4585 6.2.1): 16-bit sequence numbers, ascending from the first."""

    sender_ssrc: int
    media_ssrc: int
    lost: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PictureLoss:
    sender_ssrc: int
    media_ssrc: int


@dataclass(frozen=True, slots=True)
class FullIntraRequest:
    """(ssrc, command number) pairs."""

    sender_ssrc: int
    requests: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class ReceiverEstimate:
    """REMB (draft-alvestrand-rmcat-remb-03 2.2)."""

    sender_ssrc: int
    bitrate_bps: int
    ssrcs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Other:
    """A packet of another kind, whole."""

    packet_type: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A packet of a known kind whose inside is wrong, whole."""

    packet_type: int
    data: bytes
    reason: str


RtcpPacket = (
    SenderReport
    | ReceiverReport
    | SourceDescription
    | Goodbye
    | Nack
    | PictureLoss
    | FullIntraRequest
    | ReceiverEstimate
    | TransportFeedback
    | Other
    | Unreadable
)


# --------------------------------------------------------------------------------------------- parse


def parse_compound(data: bytes) -> list[RtcpPacket]:
    """PeerError only when the compound itself is broken: version, lengths, padding (RFC 3550 A.2).

    Compounds of reduced size are fine (RFC 5506).
    """
    found: list[RtcpPacket] = []
    at = 0
    while at < len(data):
        if len(data) - at < HEADER_BYTES or data[at] >> 6 != VERSION:
            raise PeerError("not an RTCP packet")
        size = 4 * (int.from_bytes(data[at + 2 : at + 4], "big") + 1)
        if at + size > len(data):
            raise PeerError("an RTCP packet is longer than its datagram")
        if len(found) >= MAX_PACKETS:
            raise PeerError(f"more than {MAX_PACKETS} RTCP packets in one compound")
        found.append(_parse_one(data[at : at + size]))
        at += size
    if not found:
        raise PeerError("empty RTCP compound")
    return found


def _parse_one(data: bytes) -> RtcpPacket:
    count, packet_type = data[0] & 0x1F, data[1]
    end = len(data)
    if data[0] & 0x20:
        end -= data[-1]
        if data[-1] == 0 or end < HEADER_BYTES:
            return Unreadable(packet_type, data, "padding")
    reader = _READERS.get(packet_type) or _READERS.get((packet_type, count))
    if reader is None:
        return Other(packet_type, data)
    try:
        packet = reader(count, data[HEADER_BYTES:end])
    except (struct.error, IndexError):
        return Unreadable(packet_type, data, "too short")
    except PeerError as error:
        return Unreadable(packet_type, data, str(error))
    return packet if packet is not None else Other(packet_type, data)


def _read_reports(count: int, body: bytes, at: int) -> tuple[ReceptionReport, ...]:
    """What follows the blocks is a profile's extension and ignored (RFC 3550 6.4.3)."""
    reports = []
    for index in range(count):
        ssrc, fraction, lost, highest, jitter, last, delay = _REPORT.unpack_from(body, at + index * _REPORT.size)
        reports.append(
            ReceptionReport(ssrc, fraction, int.from_bytes(lost, "big", signed=True), highest, jitter, last, delay)
        )
    return tuple(reports)


def _read_sender_report(count: int, body: bytes) -> SenderReport:
    ssrc, ntp, timestamp, packets, octets = _SENDER_INFO.unpack_from(body)
    return SenderReport(ssrc, ntp, timestamp, packets, octets, _read_reports(count, body, _SENDER_INFO.size))


def _read_receiver_report(count: int, body: bytes) -> ReceiverReport:
    return ReceiverReport(struct.unpack_from("!I", body)[0], _read_reports(count, body, 4))


def _read_source_description(count: int, body: bytes) -> SourceDescription:
    cnames = []
    at = 0
    for _ in range(count):
        ssrc = struct.unpack_from("!I", body, at)[0]
        at += 4
        while body[at] != 0:
            length = body[at + 1]
            value = body[at + 2 : at + 2 + length]
            if len(value) < length:
                raise PeerError("a source description item is longer than its packet")
            if body[at] == CNAME:
                cnames.append((ssrc, value.decode("utf-8", "replace")))
            at += 2 + length
        at += 4 - at % 4  # the null item ends the chunk, padded to a word
    return SourceDescription(tuple(cnames))


def _read_goodbye(count: int, body: bytes) -> Goodbye:
    return Goodbye(struct.unpack_from(f"!{count}I", body))


def _read_nack(_: int, body: bytes) -> Nack:
    sender, media = struct.unpack_from("!II", body)
    items = struct.iter_unpack("!HH", body[8 : 8 + 4 * MAX_NACK_ITEMS])
    lost: dict[int, None] = {}
    for first, mask in items:
        lost[first] = None
        for bit in range(16):
            if mask >> bit & 1:
                lost[(first + bit + 1) & 0xFFFF] = None
    return Nack(sender, media, tuple(lost))


def _read_picture_loss(_: int, body: bytes) -> PictureLoss:
    return PictureLoss(*struct.unpack_from("!II", body))


def _read_full_intra(_: int, body: bytes) -> FullIntraRequest:
    sender = struct.unpack_from("!I", body)[0]
    requests = tuple((ssrc, number) for ssrc, number in struct.iter_unpack("!IB3x", body[8:]))
    return FullIntraRequest(sender, requests)


def _read_application(_: int, body: bytes) -> ReceiverEstimate | None:
    if body[8:12] != REMB_NAME:
        return None
    sender = struct.unpack_from("!I", body)[0]
    count, packed = body[12], int.from_bytes(body[13:16], "big")
    ssrcs = struct.unpack_from(f"!{count}I", body, 16)
    return ReceiverEstimate(sender, (packed & 0x3FFFF) << (packed >> 18), ssrcs)


def _read_transport_feedback(_: int, body: bytes) -> TransportFeedback:
    return twcc.parse_body(body)


_READERS: dict[int | tuple[int, int], Callable[[int, bytes], RtcpPacket | None]] = {
    SENDER_REPORT: _read_sender_report,
    RECEIVER_REPORT: _read_receiver_report,
    SOURCE_DESCRIPTION: _read_source_description,
    GOODBYE: _read_goodbye,
    (TRANSPORT_FEEDBACK, FORMAT_NACK): _read_nack,
    (TRANSPORT_FEEDBACK, FORMAT_TWCC): _read_transport_feedback,
    (PAYLOAD_FEEDBACK, FORMAT_PLI): _read_picture_loss,
    (PAYLOAD_FEEDBACK, FORMAT_FIR): _read_full_intra,
    (PAYLOAD_FEEDBACK, FORMAT_APPLICATION): _read_application,
}
"""By packet type, or by packet type and feedback message type."""


# --------------------------------------------------------------------------------------------- build


def build_compound(packets: Iterable[RtcpPacket]) -> bytes:
    """Bytes of the packets in order; `Other` and `Unreadable` as they were, `TransportFeedback` by `twcc.build`."""
    return b"".join(_build_one(packet) for packet in packets)


def _build_one(packet: RtcpPacket) -> bytes:
    match packet:
        case SenderReport():
            info = _SENDER_INFO.pack(packet.ssrc, packet.ntp, packet.timestamp, packet.packets, packet.octets)
            return _framed(SENDER_REPORT, len(packet.reports), info + _reports_bytes(packet.reports))
        case ReceiverReport():
            body = struct.pack("!I", packet.ssrc) + _reports_bytes(packet.reports)
            return _framed(RECEIVER_REPORT, len(packet.reports), body)
        case SourceDescription():
            return _framed(SOURCE_DESCRIPTION, len(packet.cnames), _chunks_bytes(packet.cnames))
        case Goodbye():
            return _framed(GOODBYE, len(packet.ssrcs), struct.pack(f"!{len(packet.ssrcs)}I", *packet.ssrcs))
        case Nack():
            body = struct.pack("!II", packet.sender_ssrc, packet.media_ssrc) + _nack_bytes(packet.lost)
            return _framed(TRANSPORT_FEEDBACK, FORMAT_NACK, body)
        case PictureLoss():
            return _framed(PAYLOAD_FEEDBACK, FORMAT_PLI, struct.pack("!II", packet.sender_ssrc, packet.media_ssrc))
        case FullIntraRequest():
            body = struct.pack("!II", packet.sender_ssrc, 0)
            body += b"".join(struct.pack("!IB3x", ssrc, number) for ssrc, number in packet.requests)
            return _framed(PAYLOAD_FEEDBACK, FORMAT_FIR, body)
        case ReceiverEstimate():
            return _framed(PAYLOAD_FEEDBACK, FORMAT_APPLICATION, _estimate_bytes(packet))
        case TransportFeedback():
            arrivals = [
                ((packet.base_sequence + place) & 0xFFFF, arrival_ns)
                for place, arrival_ns in enumerate(packet.arrivals_ns)
                if arrival_ns is not None
            ]
            return b"".join(twcc.build(packet.sender_ssrc, packet.media_ssrc, packet.count, arrivals))
        case Other() | Unreadable():
            return packet.data


def _framed(packet_type: int, count: int, body: bytes) -> bytes:
    assert count <= MAX_COUNT
    assert len(body) % 4 == 0
    return struct.pack("!BBH", VERSION << 6 | count, packet_type, len(body) // 4) + body


def _reports_bytes(reports: Sequence[ReceptionReport]) -> bytes:
    return b"".join(
        _REPORT.pack(
            one.ssrc,
            one.fraction_lost,
            max(-(1 << 23), min(one.lost, (1 << 23) - 1)).to_bytes(3, "big", signed=True),
            one.highest_sequence,
            one.jitter,
            one.last_sender_report,
            one.delay,
        )
        for one in reports
    )


def _chunks_bytes(cnames: Sequence[tuple[int, str]]) -> bytes:
    """Every chunk ends with at least one zero byte on a word boundary (RFC 3550 6.5)."""
    body = b""
    for ssrc, cname in cnames:
        text = cname.encode()[:255]
        chunk = struct.pack("!IBB", ssrc, CNAME, len(text)) + text
        body += chunk + bytes(4 - len(chunk) % 4)
    return body


def _nack_bytes(lost: Sequence[int]) -> bytes:
    """Pairs of a sequence number and a mask of the 16 after it, across the wrap."""
    if not lost:
        return b""
    places = sorted({distance(sequence, lost[0]) for sequence in lost})
    items: list[list[int]] = []
    for place in places:
        if items and place - items[-1][0] <= 16:
            items[-1][1] |= 1 << (place - items[-1][0] - 1)
        else:
            items.append([place, 0])
    return b"".join(struct.pack("!HH", (lost[0] + place) & 0xFFFF, mask) for place, mask in items[:MAX_NACK_ITEMS])


def _estimate_bytes(packet: ReceiverEstimate) -> bytes:
    """The bit rate as an 18-bit mantissa and a 6-bit exponent, rounded down."""
    exponent = max(0, packet.bitrate_bps.bit_length() - 18)
    packed = exponent << 18 | packet.bitrate_bps >> exponent
    head = struct.pack("!II4sB3s", packet.sender_ssrc, 0, REMB_NAME, len(packet.ssrcs), packed.to_bytes(3, "big"))
    return head + struct.pack(f"!{len(packet.ssrcs)}I", *packet.ssrcs)
