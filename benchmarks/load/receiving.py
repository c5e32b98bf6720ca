"""Counting what arrives: thousands of streams in numpy columns, judged batch by batch.

Headers are read in the clear. Decrypted is what must be: everything until a stream's first key frame, then the packet
that ends a video frame and every audio packet, because they carry the stamp. A row is one incoming SSRC of one
connection; what is out of the ordinary in a row (a gap, a repeat, disorder) is looked at packet by packet.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.load.batch import SLOT_BYTES, Intake
from benchmarks.load.measure import Histogram
from benchmarks.load.media import MAGIC, STAMP, begins_key_frame
from tertulia.sfu.plane import srtp

NACK_AFTER_NS = 20_000_000
NACK_EVERY_NS = 100_000_000
MAX_NACKS = 8
MAX_MISSING = 400
FULLY_OPENED = 500
"""Streams whose every stamp is read. Of more, an even part of the packets: delays of so many are known well enough, and
a meeting of 50 would have us decrypt 100 000 packets a second that its server never opened."""
"""Per stream; what is missing beyond this is a key-frame request's business."""
_STAMP_TYPE = np.dtype([("time", ">u8"), ("frame", ">u4"), ("magic", "S4")])
_U32 = struct.Struct("!I")


@dataclass(slots=True)
class Stream:
    """The Python side of a row."""

    row: int
    connection: int
    ssrc: int
    kind: str
    track: str
    context: Any
    """The libsrtp session its packets are opened with."""
    begun_ns: int
    """When the receiver wished for it, for the time to the first frame."""
    first_packet_ns: int = 0
    first_frame_ns: int = 0
    key_begun: bool = False
    codec_of: Callable[[int], str] | None = None
    missing: dict[int, list[int]] = field(default_factory=dict)
    """Extended sequence number -> [noticed at, last asked at, times asked]."""
    sender_report: tuple[int, int] = (0, 0)
    """Middle 32 bits of its NTP time, Unix ns of arrival."""
    jitter: float = 0.0
    reported: tuple[int, int] = (0, 0)
    """Expected and received at the last receiver report."""


class Tables:
    """Rows by (connection, SSRC), and everything counted about them."""

    def __init__(self) -> None:
        self.streams: list[Stream | None] = []
        self._keys = np.zeros(0, np.int64)
        self._rows = np.zeros(0, np.int64)
        self._capacity = 0
        self._grow(256)
        self._free: list[int] = []
        self._repairs: dict[int, Stream] = {}
        """Key of a repair SSRC -> the stream it repairs."""
        self._changed = False
        self.delay = {"audio": Histogram(), "video": Histogram()}
        self.packets = self.bytes = self.lost = self.recovered = self.duplicates = self.repair_packets = 0
        self.unannounced = self.undecryptable = self.decrypted = self.other_stamp = 0
        self.finished_lost = 0
        self._length = srtp.ffi.new("int *")
        self._pointers: list[Any] = []

    def _grow(self, capacity: int) -> None:
        for name in ("first", "last", "count"):
            column = np.zeros(capacity, np.int64)
            if self._capacity:
                column[: self._capacity] = getattr(self, name)
            setattr(self, name, column)
        for name, kind in (
            ("waiting", bool),
            ("seen", bool),
            ("audio", bool),
            ("signature", np.uint32),
            ("at", np.int16),
        ):
            column = np.zeros(capacity, kind)
            if self._capacity:
                column[: self._capacity] = getattr(self, name)
            setattr(self, name, column)
        self._capacity = capacity

    first: Any
    last: Any
    count: Any
    waiting: Any
    seen: Any
    audio: Any
    signature: Any
    at: Any

    # rows ---------------------------------------------------------------------------------------

    def add(
        self, connection: int, ssrc: int, repair_ssrc: int, kind: str, track: str, context: Any, begun_ns: int,
        codec_of: Callable[[int], str],
    ) -> Stream:  # fmt: skip
        row = self._free.pop() if self._free else len(self.streams)
        if row == len(self.streams):
            self.streams.append(None)
            if row >= self._capacity:
                self._grow(2 * self._capacity)
        stream = Stream(row, connection, ssrc, kind, track, context, begun_ns, codec_of=codec_of)
        self.streams[row] = stream
        self.first[row] = self.last[row] = self.count[row] = 0
        self.seen[row], self.waiting[row], self.audio[row] = False, True, kind == "audio"
        self.signature[row] = 0
        if repair_ssrc:
            self._repairs[connection << 32 | repair_ssrc] = stream
        self._changed = True
        return stream

    def remove(self, stream: Stream) -> None:
        self.finished_lost += self.row_lost(stream.row)
        self.streams[stream.row] = None
        self._free.append(stream.row)
        self._repairs = {key: value for key, value in self._repairs.items() if value is not stream}
        self._changed = True

    def row_lost(self, row: int) -> int:
        """Packets of the row that never came."""
        if not self.seen[row]:
            return 0
        return max(0, int(self.last[row] - self.first[row] + 1 - self.count[row]))

    def total_lost(self) -> int:
        rows = np.array([stream.row for stream in self.streams if stream is not None], np.int64)
        if not len(rows):
            return self.finished_lost
        live = np.where(self.seen[rows], self.last[rows] - self.first[rows] + 1 - self.count[rows], 0)
        return self.finished_lost + int(np.maximum(live, 0).sum())

    def _index(self) -> None:
        live = [stream for stream in self.streams if stream is not None]
        keys = np.array([stream.connection << 32 | stream.ssrc for stream in live], np.int64)
        rows = np.array([stream.row for stream in live], np.int64)
        order = np.argsort(keys)
        self._keys, self._rows = keys[order], rows[order]
        self._changed = False

    # a batch ------------------------------------------------------------------------------------

    def take(self, intake: Intake, twcc_ids: Any) -> tuple[Any, Any, Any]:
        """Count every RTP packet of the batch.

        `twcc_ids` is the extension id of each connection's transport sequence. Returns the slots that hold something
        else, and per packet that has a transport sequence: slot and number.
        """
        if self._changed:
            self._index()
        if not self._pointers:
            self._pointers = [srtp.ffi.cast("void *", address) for address in intake.pool.addresses()]
        n = intake.filled
        head = np.ascontiguousarray(intake.pool.data[:n, :16])
        lengths = intake.lengths()
        words = head.view(">u4")
        first, second = head[:, 0], head[:, 1]
        media = (first >= 128) & (first < 192) & (lengths >= 12) & ~((second >= 192) & (second <= 223))
        slots = np.flatnonzero(media)
        others = np.flatnonzero(~media)
        if not len(slots):
            return others, slots, slots
        keys = intake.owner[slots] << 32 | words[slots, 2].astype(np.int64)
        if len(self._keys):
            places = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
            known = self._keys[places] == keys
        else:
            places, known = np.zeros(len(keys), np.int64), np.zeros(len(keys), bool)
        for slot, key in zip(slots[~known], keys[~known], strict=True):
            self._unknown(intake, int(slot), int(key), int(lengths[slot]))
        slots, rows = slots[known], self._rows[places[known]]
        if len(slots):
            self._count(intake, slots, rows, words, lengths)
        sequenced = self._transport_sequence(intake, slots, rows, head, words, twcc_ids)
        if len(slots):
            self._open(intake, slots, rows, second, words, lengths)
        return others, sequenced[0], sequenced[1]

    def _count(self, intake: Intake, slots: Any, rows: Any, words: Any, lengths: Any) -> None:
        numbers = (words[slots, 0] & 0xFFFF).astype(np.int64)
        for row in np.unique(rows[~self.seen[rows]]):
            mine = np.flatnonzero(rows == row)
            at = int(mine[0])
            self.seen[row] = True
            # the first of this batch, which may have come in disorder
            start = (
                int(numbers[at]) + (1 << 16) + int((((numbers[mine] - numbers[at] + 0x8000) & 0xFFFF) - 0x8000).min())
            )
            self.first[row], self.last[row] = start, start - 1
            stream = self.streams[row]
            assert stream is not None
            stream.first_packet_ns = int(intake.times()[slots[at]])
        base = self.last[rows]
        relative = ((numbers - base + 0x8000) & 0xFFFF) - 0x8000
        self.packets += len(slots)
        self.bytes += int(lengths[slots].sum())
        touched, back = np.unique(rows, return_inverse=True)
        got = np.bincount(back)
        top = np.zeros(len(touched), np.int64)
        np.maximum.at(top, back, relative)
        total = np.bincount(back, weights=relative).astype(np.int64)
        regular = (got == top) & (total == top * (top + 1) // 2)
        rising = touched[regular]
        self.last[rising] += top[regular]
        self.count[rising] += got[regular]
        if not regular.all():
            times = intake.times()
            for place in np.flatnonzero(~regular):
                mine = np.flatnonzero(back == place)
                stream = self.streams[touched[place]]
                assert stream is not None
                self._irregular(stream, [int(base[at] + relative[at]) for at in mine], int(times[slots[mine[-1]]]))

    def _irregular(self, stream: Stream, numbers: list[int], now_ns: int) -> None:
        """A gap, a repeat or disorder in one row."""
        row = stream.row
        for number in sorted(numbers):
            last = int(self.last[row])
            if number > last:
                for absent in range(last + 1, number):
                    if len(stream.missing) < MAX_MISSING:
                        stream.missing[absent] = [now_ns, 0, 0]
                self.last[row] = number
                self.count[row] += 1
            elif number < self.first[row]:
                if self.first[row] - number < 100:  # came in disorder at the very start
                    self.first[row] = number
                    self.count[row] += 1
            elif stream.missing.pop(number, None) is not None:
                self.count[row] += 1
                self.recovered += 1
            else:
                self.duplicates += 1
                self.packets -= 1

    def _unknown(self, intake: Intake, slot: int, key: int, length: int) -> None:
        """A repair stream's packet, or an SSRC nobody announced."""
        stream = self._repairs.get(key)
        if stream is None:
            self.unannounced += 1
            return
        self.repair_packets += 1
        opened = self._unprotect(stream.context, slot, length)
        if opened < 0:
            return
        data = bytes(intake.pool.view[slot * SLOT_BYTES : slot * SLOT_BYTES + opened])
        at = 12 + 4 * (data[0] & 15)
        if data[0] & 0x10:
            at += 4 + 4 * struct.unpack_from("!H", data, at + 2)[0]
        if data[0] & 0x20 or at + 2 > len(data):
            return  # probing padding
        number = struct.unpack_from("!H", data, at)[0]
        last = int(self.last[stream.row])
        extended = last + ((number - last + 0x8000) & 0xFFFF) - 0x8000
        if stream.missing.pop(extended, None) is not None:
            self.count[stream.row] += 1
            self.recovered += 1
            self.packets += 1
        else:
            self.duplicates += 1

    # transport sequence numbers -----------------------------------------------------------------

    def _transport_sequence(
        self, intake: Intake, slots: Any, rows: Any, head: Any, words: Any, twcc_ids: Any
    ) -> tuple[Any, Any]:
        """Slots and 16-bit numbers. Where the extension stands is learnt per row and looked up again when the shape of
        the header changes."""
        ids = twcc_ids[intake.owner[slots]]
        wanted = (ids > 0) & (head[slots, 0] & 0x10 != 0)
        slots, rows, ids = slots[wanted], rows[wanted], ids[wanted]
        if not len(slots):
            return slots, slots
        shape = words[slots, 3].astype(np.uint32)
        data = intake.pool.data
        at = self.at[rows].astype(np.int64)
        good = (self.signature[rows] == shape) & (at > 0)
        good &= data[slots, at] == (ids << 4 | 1)
        for place in np.flatnonzero(~good):
            slot, row = int(slots[place]), int(rows[place])
            found = find_extension(bytes(data[slot, :80]), int(ids[place]))
            self.signature[row], self.at[row] = shape[place], found
            at[place] = found
            good[place] = found > 0
        slots, at = slots[good], at[good]
        return slots, data[slots, at + 1].astype(np.int64) << 8 | data[slots, at + 2]

    # decrypting ---------------------------------------------------------------------------------

    def _open(self, intake: Intake, slots: Any, rows: Any, second: Any, words: Any, lengths: Any) -> None:
        """Open the packets that carry a stamp and those of streams without a first frame yet."""
        stamped = self.audio[rows] | (second[slots] >= 128)
        if (stride := 1 + len(self._keys) // FULLY_OPENED) > 1:
            numbers = (words[slots, 0] & 0xFFFF).astype(np.int64)
            stamped &= (numbers + rows) % stride == 0
        wanted = self.waiting[rows] | stamped
        opened_slots: list[int] = []
        opened_lengths: list[int] = []
        kinds: list[bool] = []
        times = intake.times()
        for slot, row in zip(slots[wanted].tolist(), rows[wanted].tolist(), strict=True):
            stream = self.streams[row]
            assert stream is not None
            size = self._unprotect(stream.context, slot, int(lengths[slot]))
            if size < 0:
                continue
            if stream.first_frame_ns == 0:
                self._first_frame(stream, intake, slot, size, int(times[slot]))
            if size >= 12 + STAMP.size and (stream.kind == "audio" or second[slot] >= 128):
                opened_slots.append(slot)
                opened_lengths.append(size)
                kinds.append(stream.kind == "audio")
        if opened_slots:
            self._stamps(intake, opened_slots, opened_lengths, np.array(kinds), times)

    def _unprotect(self, context: Any, slot: int, length: int) -> int:
        self._length[0] = length
        self.decrypted += 1
        if srtp.lib.srtp_unprotect(context, self._pointers[slot], self._length):
            self.undecryptable += 1
            return -1
        return int(self._length[0])

    def _first_frame(self, stream: Stream, intake: Intake, slot: int, size: int, now_ns: int) -> None:
        data = bytes(intake.pool.view[slot * SLOT_BYTES : slot * SLOT_BYTES + size])
        at = 12 + 4 * (data[0] & 15)
        if data[0] & 0x10:
            at += 4 + 4 * struct.unpack_from("!H", data, at + 2)[0]
        codec = stream.codec_of(data[1] & 127) if stream.codec_of is not None else ""
        stream.key_begun = stream.key_begun or begins_key_frame(codec or "vp8", data[at:])
        if stream.key_begun and (stream.kind == "audio" or data[1] & 0x80):
            stream.first_frame_ns = now_ns
            self.waiting[stream.row] = False

    def _stamps(self, intake: Intake, slots: list[int], lengths: list[int], audio: Any, times: Any) -> None:
        index = np.array(slots)
        places = np.array(lengths)[:, None] - STAMP.size + np.arange(STAMP.size)
        stamps = np.ascontiguousarray(intake.pool.data[index[:, None], places]).view(_STAMP_TYPE)[:, 0]
        ours = stamps["magic"] == MAGIC
        self.other_stamp += int((~ours).sum())
        delays = times[index] - stamps["time"].astype(np.int64)
        self.delay["audio"].add(delays[ours & audio])
        self.delay["video"].add(delays[ours & ~audio])


def find_extension(head: bytes, number: int) -> int:
    """Where the one-byte extension element with this id begins (RFC 8285 4.2), 0 when it is not there."""
    at = 12 + 4 * (head[0] & 15)
    if len(head) < at + 4 or head[at : at + 2] != b"\xbe\xde":
        return 0
    end = min(len(head), at + 4 + 4 * struct.unpack_from("!H", head, at + 2)[0])
    at += 4
    while at < end:
        if head[at] == 0:
            at += 1
            continue
        if head[at] >> 4 == number:
            return at
        if head[at] >> 4 == 15:
            return 0
        at += 2 + (head[at] & 15)
    return 0
