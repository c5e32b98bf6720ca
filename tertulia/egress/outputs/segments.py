"""Cutting encoded packets into MPEG-TS files. Blocking; for a lane's thread.

Decides where one segment ends and the next begins: at a key frame once the wished duration is reached, sooner when the
video's parameters change or time is missing. Knows nothing of playlists and uploads. Each segment is a container of its
own to libav; the continuity counters are carried on across them so that the whole is one transport stream
(ISO/IEC 13818-1 2.4.3.3).
"""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from tertulia.egress.outputs import headers
from tertulia.egress.outputs.api import EncodedPacket, StreamSpec
from tertulia.egress.outputs.mux import Muxer
from tertulia.egress.outputs.recording import claim

TS_PACKET_BYTES = 188
HOLE_NS = 2_000_000_000
"""Missing time from which on a segment ends before the hole instead of spanning it."""
EARLY_NS = 50_000_000
"""A key frame this little before the wished end is the end."""
LATE_NS = 500_000_000
"""How long after the wished end a key frame is asked for."""
RESERVE_BYTES, RESERVE_BYTES_EACH = 32 * 1024, 300
"""Given back from the last segment on a full disk, and more for every one before it, so that the playlists can still
say that they have ended. A playlist without its end looks live, and players wait for ever."""
ORIGIN_NS = 1_000_000_000
"""Where the stream's clock begins, leaving room for frames decoded before they are shown."""

_MEDIA_PIDS = (0x100, 0x101)
"""libav's first two streams."""


class _TsSink:
    """A file that receives whole TS packets with counters that go on from the segment before."""

    def __init__(self, path: Path, next_counters: dict[int, int]) -> None:
        self._fd = claim(path)
        self._start = next_counters
        self.counters = dict(next_counters)
        self._rest = b""
        self.size = 0

    def write(self, data: bytes) -> int:
        whole = self._rest + bytes(data)
        cut = len(whole) // TS_PACKET_BYTES * TS_PACKET_BYTES
        self._rest = whole[cut:]
        if cut:
            self._put(self._counted(whole[:cut]))
        return len(data)

    def _counted(self, data: bytes) -> memoryview:
        packets = np.frombuffer(bytearray(data), np.uint8).reshape(-1, TS_PACKET_BYTES)
        pids = (packets[:, 1].astype(np.uint16) & 31) << 8 | packets[:, 2]
        for pid in np.unique(pids):
            of_pid = pids == pid
            counters = (packets[of_pid, 3] & 15) + self._start.get(int(pid), 0) & 15
            packets[of_pid, 3] = packets[of_pid, 3] & 0xF0 | counters
            self.counters[int(pid)] = int(counters[-1]) + 1 & 15
        return packets.reshape(-1).data

    def _put(self, view: memoryview) -> None:
        while view:
            written = os.write(self._fd, view)
            self.size += written
            view = view[written:]

    def close(self) -> None:
        with suppress(OSError):
            os.ftruncate(self._fd, self.size // TS_PACKET_BYTES * TS_PACKET_BYTES)
            os.fdatasync(self._fd)
        os.close(self._fd)

    def give_back(self, size: int) -> None:
        """Shorten the file by so much or a little more: to where a frame begins, that none is left half."""
        at = max(0, self.size - size) // TS_PACKET_BYTES * TS_PACKET_BYTES
        while at > 0:
            header = os.pread(self._fd, 3, at)
            starts, pid = len(header) == 3 and header[1] & 0x40, int.from_bytes(header[1:3], "big") & 0x1FFF
            if starts and pid in _MEDIA_PIDS:
                break
            at -= TS_PACKET_BYTES
        self.size = at


@dataclass(frozen=True, slots=True)
class Segment:
    """A finished file, still under its temporary name."""

    path: Path
    index: int
    first_ns: int
    duration_ns: int
    size: int
    discontinuity: bool


class _Open:
    """The segment being written."""

    def __init__(self, path: Path, muxer: Muxer, sink: _TsSink, first_ns: int, *, discontinuity: bool) -> None:
        self.path, self.muxer, self.sink = path, muxer, sink
        self.first_ns = self.last_ns = first_ns
        self.discontinuity = discontinuity


class SegmentCutter:
    """Takes packets, gives finished segments."""

    def __init__(self, streams: Sequence[StreamSpec], segment_ns: int, part: Callable[[int], Path]) -> None:
        """`part`: where the segment of a number lies while it is written.
        Raises ValueError for what MPEG-TS in HLS cannot carry."""
        for spec in streams:
            if spec.codec not in ("h264", "aac"):
                raise ValueError(f"HLS segments cannot hold {spec.codec}")
        self._streams = list(streams)
        self._leader = "video" if any(spec.kind == "video" for spec in streams) else "audio"
        self._segment_ns, self._part = segment_ns, part
        self._open: _Open | None = None
        self._counters: dict[int, int] = {}
        self._index = 0
        self._base_ns = 0
        self._sets: headers.ParameterSets | None = None
        self.wants_key_frame = False
        self.early_packets = 0
        """Packets before the first key frame; they are in no segment."""
        self.bad_packets = 0

    def take(self, packet: EncodedPacket) -> Segment | None:
        """Put the packet into a segment; returns the one that ended with it."""
        begun_ns, ended_ns = _ns(packet.pts, packet), _ns(packet.pts + packet.duration, packet)
        finished = None
        if packet.stream == self._leader and (self._leader == "audio" or packet.key_frame):
            finished = self._may_cut(packet, begun_ns)
        if self._open is None:
            self.early_packets += 1
            self.wants_key_frame = self.early_packets % 30 == 1
            return finished
        try:
            self._open.muxer.write(packet)
        except (av.InvalidDataError, av.ArgumentError):
            self.bad_packets += 1
        if packet.stream == self._leader:
            self._open.last_ns = max(self._open.last_ns, ended_ns)
            self.wants_key_frame = begun_ns - self._open.first_ns > self._segment_ns + LATE_NS
        return finished

    def _may_cut(self, packet: EncodedPacket, begun_ns: int) -> Segment | None:
        current = self._open
        sets = headers.parameter_sets(packet.data) if packet.stream == "video" else None
        changed = sets is not None and self._sets is not None and sets.sps != self._sets.sps
        self._sets = sets or self._sets
        if current is None:
            self._begin(begun_ns, discontinuity=False)
            return None
        hole = begun_ns - current.last_ns > HOLE_NS
        if not (changed or hole or begun_ns - current.first_ns >= self._segment_ns - EARLY_NS):
            return None
        finished = self.finish(current.last_ns if hole else begun_ns)
        self._begin(begun_ns, discontinuity=changed or hole)
        return finished

    def _begin(self, begun_ns: int, *, discontinuity: bool) -> None:
        if self._index == 0:
            self._base_ns = begun_ns - ORIGIN_NS
        path = self._part(self._index)
        sink = _TsSink(path, self._counters)
        options = {"flush_packets": "1", "max_interleave_delta": "1000000"}
        try:
            muxer = Muxer(sink, "mpegts", self._streams, options, self._base_ns)
        except BaseException:
            sink.close()
            raise
        self._open = _Open(path, muxer, sink, begun_ns, discontinuity=discontinuity)

    def finish(self, ended_ns: int | None = None, *, broken: bool = False) -> Segment | None:
        """End the segment being written, if there is one. `broken`: what was written is all there will be."""
        current, self._open = self._open, None
        if current is None:
            return None
        try:
            current.muxer.close()
        except (OSError, av.FFmpegError):
            if not broken:
                raise
        finally:
            written = current.sink.size
            if broken:
                current.sink.give_back(RESERVE_BYTES + RESERVE_BYTES_EACH * self._index)
            current.sink.close()
        self._counters = current.sink.counters
        if current.sink.size == 0:
            with suppress(OSError):
                current.path.unlink()
            return None
        duration_ns = max((ended_ns or current.last_ns) - current.first_ns, 1_000_000)
        duration_ns = duration_ns * current.sink.size // written
        self._index += 1
        return Segment(
            current.path, self._index - 1, current.first_ns, duration_ns, current.sink.size, current.discontinuity
        )


def _ns(ticks: int, packet: EncodedPacket) -> int:
    return ticks * 1_000_000_000 * packet.time_base.numerator // packet.time_base.denominator
