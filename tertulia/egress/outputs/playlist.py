"""HLS media playlists as text. Pure: segments in, text out (RFC 8216 sections 4.3 and 6.2).

Decides what a playlist says; when it is written and what it may list is decided in `hls`.
"""

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote

LIVE_WINDOW = 5
"""Segments in a live playlist, as LiveKit's."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A segment that can be fetched."""

    name: str
    duration_ns: int
    begun_ns: int
    """Unix time of its first frame."""
    discontinuity: bool = False
    """It does not continue the one before: other parameters, or time was lost in between."""


class Playlist:
    """One playlist: everything recorded (`window` None), or the last few segments for those who watch live."""

    def __init__(self, name: str, target_s: int, window: int | None = None) -> None:
        self.name = name
        self._target_s, self._window = target_s, window
        self._directory = posixpath.dirname(name)
        self._lines: list[str] = []
        self._entries: list[Entry] = []
        self._first = self._gone_discontinuities = 0

    def add(self, entry: Entry) -> None:
        # 4.3.3.1: no segment may last longer, rounded, than the target
        self._target_s = max(self._target_s, round(entry.duration_ns / 1e9))
        self._entries.append(entry)
        self._lines.append(self._lines_of(entry))
        if self._window is not None and len(self._entries) > self._window:
            self._gone_discontinuities += self._entries.pop(0).discontinuity
            self._lines.pop(0)
            self._first += 1

    def _lines_of(self, entry: Entry) -> str:
        moment = datetime.fromtimestamp(entry.begun_ns // 1_000_000_000, UTC)
        millis = entry.begun_ns // 1_000_000 % 1000
        address = quote(posixpath.relpath(entry.name, self._directory or "."))
        return (
            ("#EXT-X-DISCONTINUITY\n" if entry.discontinuity else "")
            + f"#EXT-X-PROGRAM-DATE-TIME:{moment:%Y-%m-%dT%H:%M:%S}.{millis:03d}Z\n"
            + f"#EXTINF:{entry.duration_ns / 1e9:.3f},\n{address}\n"
        )

    def text(self, *, ended: bool = False) -> str:
        head = ["#EXTM3U", "#EXT-X-VERSION:4"]
        if self._window is None:
            head.append("#EXT-X-PLAYLIST-TYPE:EVENT")
        head += ["#EXT-X-ALLOW-CACHE:NO", f"#EXT-X-TARGETDURATION:{self._target_s}"]
        head.append(f"#EXT-X-MEDIA-SEQUENCE:{self._first}")
        if self._window is not None and self._gone_discontinuities:
            head.append(f"#EXT-X-DISCONTINUITY-SEQUENCE:{self._gone_discontinuities}")
        head.append("#EXT-X-INDEPENDENT-SEGMENTS")
        return "\n".join(head) + "\n" + "".join(self._lines) + ("#EXT-X-ENDLIST\n" if ended else "")


def total_ns(entries: Sequence[Entry]) -> int:
    return sum(entry.duration_ns for entry in entries)
