"""Session descriptions as lines (RFC 8866): nothing is lost between `parse` and `build`, and order carries no meaning
except where the RFC says so. Typed views of single attributes are in `sdp_attributes`.

It checks form and size only; what an offer may contain is the negotiation's business.
"""

import re
from dataclasses import dataclass, field

from tertulia.protocol.errors import PeerError

MAX_SDP_BYTES = 1 << 20
"""A video section of a browser is about 6 kB and a large call has some hundred sections."""
MAX_LINE_CHARS = 16 << 10
"""`sctp-init` and parameter sets in fmtp are the longest honest lines, a few hundred characters."""
MAX_LINES = 40_000
MAX_SECTIONS = 512
MAX_SECTION_LINES = 2_000

_LINE = re.compile(r"([a-z])=(.*)")
_LINES = re.compile(rf"[a-z]=.{{0,{MAX_LINE_CHARS - 2}}}(?:\n[a-z]=.{{0,{MAX_LINE_CHARS - 2}}})*")
_MEDIA = re.compile(r"(\S+) (\d{1,5})(?:/(\d{1,5}))? (\S+)((?: \S+)*) *")
_TOKEN = re.compile(r"[!#-'*+\-.0-9A-Z^-~]+")
"""RFC 8866 9: `token`."""


@dataclass(slots=True)
class Block:
    """Consecutive lines: the session part, or what follows an `m=` line."""

    lines: list[tuple[str, str]] = field(default_factory=list)
    """`kind=value` as (kind, value), as in `a=mid:0`."""

    def values(self, name: str) -> list[str]:
        """Values of all `a=name:value` lines in order; a property attribute `a=name` has the value ''."""
        prefix = name + ":"
        found = []
        for kind, value in self.lines:
            if kind == "a":
                if value.startswith(prefix):
                    found.append(value[len(prefix) :])
                elif value == name:
                    found.append("")
        return found

    def value(self, name: str) -> str | None:
        """The first of `values`, None when there is none."""
        values = self.values(name)
        return values[0] if values else None

    def has(self, name: str) -> bool:
        return self.value(name) is not None

    def attributes(self) -> dict[str, list[str]]:
        """All attributes at once, by name: one walk for a reader of many."""
        found: dict[str, list[str]] = {}
        for kind, text in self.lines:
            if kind == "a":
                name, _, value = text.partition(":")
                found.setdefault(name, []).append(value)
        return found


@dataclass(slots=True)
class Section(Block):
    """One `m=` line and what follows it."""

    kind: str = "audio"
    """`audio`, `video` or `application`; others are kept."""
    port: int = 9
    port_count: int = 1
    protocol: str = "UDP/TLS/RTP/SAVPF"
    formats: list[str] = field(default_factory=list)

    def media_line(self) -> str:
        port = str(self.port) if self.port_count == 1 else f"{self.port}/{self.port_count}"
        return " ".join((self.kind, port, self.protocol, *self.formats))


@dataclass(slots=True)
class Description(Block):
    """A whole session description. `lines` are the session part, `v=0` included."""

    sections: list[Section] = field(default_factory=list)


def parse(text: str) -> Description:
    """PeerError for anything that is not a session description within the limits above."""
    if len(text) > MAX_SDP_BYTES:
        raise PeerError(f"SDP is longer than {MAX_SDP_BYTES} bytes")
    lines = _lines(text)
    if not lines or lines[0] != ("v", "0"):
        raise PeerError("SDP does not begin with v=0")
    description = Description()
    here, full = description.lines, MAX_SECTION_LINES
    for line in lines:
        if line[0] == "m":
            if len(description.sections) >= MAX_SECTIONS:
                raise PeerError(f"SDP has more than {MAX_SECTIONS} sections")
            section = _section(line[1])
            description.sections.append(section)
            here = section.lines
        elif len(here) >= full:
            raise PeerError(f"an SDP section has more than {MAX_SECTION_LINES} lines")
        else:
            here.append(line)
    return description


def cut(text: str) -> tuple[str, list[str]] | None:
    """The text of the session part and of every section, for who has read most of them before.

    None: only `parse` can say what this is. So it is when a piece is refused by `session_part` or `section_part`:
    texts with bare line feeds come through `parse` alone, and its complaints name the line of the whole text.
    """
    if len(text) > MAX_SDP_BYTES or not text.endswith("\r\n") or len(text) > MAX_LINES < text.count("\n"):
        return None
    session, *sections = text[:-2].split("\r\nm=")
    return (session, sections) if len(sections) <= MAX_SECTIONS else None


def session_part(piece: str) -> Block:
    """What `parse` makes of a session part cut out."""
    lines = _lines_of(piece)
    if not lines or lines[0] != ("v", "0") or len(lines) > MAX_SECTION_LINES:
        raise PeerError("this is no session part of an SDP")
    return Block(lines)


def section_part(piece: str) -> Section:
    """What `parse` makes of a section cut out."""
    first, *lines = _lines_of("m=" + piece)
    if len(lines) > MAX_SECTION_LINES:
        raise PeerError(f"an SDP section has more than {MAX_SECTION_LINES} lines")
    section = _section(first[1])
    section.lines = lines
    return section


def build(description: Description) -> str:
    """CRLF after every line (RFC 8866 5)."""
    lines = [*description.lines]
    for section in description.sections:
        lines += [("m", section.media_line()), *section.lines]
    return "".join(f"{kind}={value}\r\n" for kind, value in lines)


def is_token(text: str) -> bool:
    return _TOKEN.fullmatch(text) is not None


def _lines(text: str) -> list[tuple[str, str]]:
    """Bare line feeds are accepted (RFC 8866 5), and empty lines at the end; a bare carriage return ends no line."""
    text = text.replace("\r\n", "\n").rstrip("\n")
    if "\r" in text or "\0" in text:
        raise PeerError("SDP contains a carriage return without a line feed, or a zero byte")
    if text.count("\n") >= MAX_LINES:
        raise PeerError(f"SDP has more than {MAX_LINES} lines")
    if text and not _LINES.fullmatch(text):
        raise PeerError(_complaint(text))
    return _LINE.findall(text)


def _lines_of(piece: str) -> list[tuple[str, str]]:
    """Of a piece: nothing that ends it, and no section within it."""
    lines = _lines(piece)
    if piece.endswith("\n") or "\nm=" in piece:
        raise PeerError("this is not one piece of an SDP")
    return lines


def _complaint(text: str) -> str:
    for number, line in enumerate(text.split("\n"), 1):
        if len(line) > MAX_LINE_CHARS:
            return f"SDP line {number} is longer than {MAX_LINE_CHARS} characters"
        if not _LINE.fullmatch(line):
            return f"SDP line {number} is not of the form x=value"
    raise AssertionError("nothing is wrong with these lines")


def _section(value: str) -> Section:
    match = _MEDIA.fullmatch(value)
    if match is None:
        raise PeerError("an m= line is not of the form: m=kind port protocol formats")
    kind, port, count, protocol, formats = match.groups()
    if int(port) > 65535:
        raise PeerError(f"port {port} in an m= line is above 65535")
    if count is not None and not 1 <= int(count) <= 65535:
        raise PeerError(f"port count {count} in an m= line is not 1..65535")
    return Section([], kind, int(port), int(count or 1), protocol, formats.split())
