"""File names of recordings: templates, what callers may write in them, and what becomes of room names in them.

Decides the clean name of a file below the storage's root; touches no file system. Variables as LiveKit's egress has
them (docs "File output"): {room_name} {room_id} {time} {utc} and, where one track or person is recorded, {track_id}
{track_type} {track_source} {publisher_identity}. Times are UTC: a node's local zone is nobody's business.
"""

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from tertulia.egress.presets import invalid

SEGMENT_BYTES = 240
"""One path segment; leaves room for the suffixes of segments, images and temporary names (POSIX NAME_MAX is 255)."""
NAME_BYTES = 1000
"""The whole name; S3 keys end at 1024."""

ROOM_VARIABLES = frozenset({"room_name", "room_id", "time", "utc", "egress_id"})
PERSON_VARIABLES = ROOM_VARIABLES | {"publisher_identity"}
TRACK_VARIABLES = PERSON_VARIABLES | {"track_id", "track_type", "track_source"}

KNOWN_ENDINGS = (".raw", ".ogg", ".mp3", ".ivf", ".mp4", ".ts", ".webm", ".mkv", ".m3u8", ".jpeg", ".jpg")

_VARIABLE = re.compile(r"\{([a-z_]+)\}")
_UNSAFE = re.compile(r"[\x00-\x1f\x7f/\\]")


@dataclass(frozen=True, slots=True)
class Facts:
    """What a name can be made of; empty where it does not apply."""

    room_name: str
    room_id: str
    egress_id: str
    wall_ns: int
    publisher_identity: str = ""
    track_id: str = ""
    track_type: str = ""
    track_source: str = ""

    def values(self) -> Mapping[str, str]:
        moment = datetime.fromtimestamp(self.wall_ns // 1_000_000_000, UTC)
        millis = self.wall_ns // 1_000_000 % 1000
        return {
            "room_name": self.room_name,
            "room_id": self.room_id,
            "egress_id": self.egress_id,
            "time": moment.strftime("%Y-%m-%dT%H%M%S"),
            "utc": moment.strftime("%Y%m%d%H%M%S") + f"{millis:03d}",
            "publisher_identity": self.publisher_identity,
            "track_id": self.track_id,
            "track_type": self.track_type,
            "track_source": self.track_source,
        }


def refuse_tricks(template: str, field: str, *, root: str = "", variables: frozenset[str] = TRACK_VARIABLES) -> str:
    """The template as a clean relative path; variables stay. Raises RequestError(invalid_argument) naming `field`.

    An absolute path is taken when it lies below `root` (callers write the path as they mount it), refused otherwise.
    """
    if "\x00" in template or any(unicodedata.category(c) == "Cc" for c in template):
        raise invalid(field, "control characters in the path")
    path = template.replace("\\", "/")
    if path.startswith("/"):
        base = root.rstrip("/") + "/"
        if not root or not path.startswith(base):
            raise invalid(field, "absolute paths outside the recordings directory are refused")
        path = path[len(base) :]
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", path):
        raise invalid(field, "a path, not an address")
    ends_in_slash = path.endswith("/")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if any(part.strip() == ".." for part in parts):
        raise invalid(field, "'..' in the path")
    for name in _VARIABLE.findall(path):
        if name not in variables:
            raise invalid(field, f"{{{name}}} is not known here; known: {' '.join(sorted(variables))}")
    clean = "/".join(parts)
    if len(clean.encode()) > NAME_BYTES or any(len(part.encode()) > SEGMENT_BYTES for part in parts):
        raise invalid(field, f"longer than {SEGMENT_BYTES} bytes in one part or {NAME_BYTES} in all")
    return clean + "/" if ends_in_slash and clean else clean


def fill(template: str, facts: Facts) -> str:
    """Replace the variables of a template that `refuse_tricks` has passed. The result stays below the root."""
    values = facts.values()
    filled = _VARIABLE.sub(lambda found: safe_part(values.get(found[1], found[0])), template)
    ends_in_slash = filled.endswith("/")
    parts = [_cut(part) for part in filled.split("/") if part not in ("", ".", "..")]
    return "/".join(parts) + ("/" if ends_in_slash and parts else "")


def file_name(template: str, facts: Facts, identifier: str, ending: str) -> str:
    """A file's name: a directory or nothing gets a generated name; a wrong known ending is replaced."""
    name = fill(template, facts)
    if not name or name.endswith("/"):
        return name + _cut(f"{safe_part(identifier)}-{facts.values()['time']}", len(ending)) + ending
    if name.lower().endswith(ending):
        return name
    for known in KNOWN_ENDINGS:
        if name.lower().endswith(known):
            name = name[: -len(known)]
            break
    head, slash, last = name.rpartition("/")
    return head + slash + _cut(last, len(ending)) + ending


def safe_part(value: str) -> str:
    """A value (room name, identity) as part of a file name: no separators, no control characters, not hidden."""
    value = _UNSAFE.sub("_", unicodedata.normalize("NFC", value))
    return "_" + value[1:] if value.startswith(".") else value


def _cut(part: str, spare: int = 0) -> str:
    """At most SEGMENT_BYTES of UTF-8, whole characters."""
    limit = SEGMENT_BYTES - spare
    return part if len(part.encode()) <= limit else part.encode()[:limit].decode(errors="ignore")
