"""Sections that say nothing of one client's own but the mid and the way to it: those on which it only receives, and the
data section. They are most of what a joining client offers, and alike for all clients of one make: so those lines are
cut out, and the rest is read once.

What is remembered follows from that rest alone, whoever said it first. What is not of this form is read as every other
section.
"""

import re
from functools import lru_cache
from typing import NamedTuple

from tertulia.protocol import sdp
from tertulia.protocol.errors import PeerError
from tertulia.protocol.sdp_attributes import ExtMap
from tertulia.sfu.negotiation import extensions
from tertulia.sfu.negotiation.remembered import MAX_REMEMBERED, MAX_REMEMBERED_CHARS
from tertulia.sfu.negotiation.sections import Attributes, Common, SectionRead, read_section

MAX_LINES = 400

_NEAR = 400
"""The lines cut out stand together: so many characters before and after the mid, at most."""
_MID = "\r\na=mid:"
_NAMES = ("mid", "ice-ufrag", "ice-pwd", "fingerprint", "sctp-init")
_OWN = re.compile(rf"\r\na=((?:{'|'.join(_NAMES)}):[ -~]*)(?=\r\n|\Z)")
_COMMON = ("setup", "sctp-port", "max-message-size")


class Rest(NamedTuple):
    """What the sections of many clients have in common."""

    read: SectionRead
    """Without mid and extensions."""
    offered: tuple[ExtMap, ...]
    way: tuple[tuple[str, tuple[str, ...]], ...]
    """Attributes about the way to the client."""


class Placeholder(NamedTuple):
    mid: str
    own: tuple[str, ...]
    """The lines cut out, as `name:value`."""
    rest: Rest

    def way(self) -> Attributes:
        """All attributes about the way to the client."""
        found = {name: list(values) for name, values in self.rest.way}
        for line in self.own:
            name, _, value = line.partition(":")
            found.setdefault(name, []).append(value)
        return found

    def read(self, settled: extensions.Settled) -> tuple[SectionRead, tuple[ExtMap, ...], extensions.Settled]:
        """What `read_section` gives when it is in the bundle, and the session offers no extensions."""
        extmaps, settled = extensions.accept(self.rest.offered, settled)
        return SectionRead(self.mid, extmaps, *self.rest.read[2:]), self.rest.offered, settled


def find(piece: str, enabled: frozenset[str]) -> Placeholder | None:
    """None: this is not a placeholder, or not of the usual form."""
    at = piece.find(_MID)
    if at < 0 or len(piece) > MAX_REMEMBERED_CHARS:
        return None
    if not piece.startswith("application ") and piece.find("\r\na=recvonly", at) < 0:
        return None
    before, after = max(0, at - _NEAR), piece.find("\r\n", at + _NEAR)
    if after < 0:
        after = len(piece)
    parts = _OWN.split(piece[before:after])  # no half line at its end
    try:
        rest = _rest("".join((piece[:before], *parts[::2], piece[after:])), enabled)
    except PeerError:
        return None
    return Placeholder(piece[at + len(_MID) :].partition("\r\n")[0], tuple(parts[1::2]), rest)


@lru_cache(maxsize=MAX_REMEMBERED)
def _rest(piece: str, enabled: frozenset[str]) -> Rest:
    """PeerError, which is not remembered: this section must be read with its own lines."""
    section = sdp.section_part(piece)
    one = section.attributes()
    if len(section.lines) > MAX_LINES or "candidate" in one or not one.keys().isdisjoint(_NAMES):
        raise PeerError("a section with more lines of one client's own")
    read, offered, _ = read_section(section, one, "", True, Common(enabled, (), ()), ())
    if not read.usable or read.sends:
        raise PeerError("no placeholder")
    if read.stream_id or read.cid or read.rids or read.ssrcs:
        raise PeerError("a section that names streams")
    return Rest(read._replace(extmaps=()), offered, tuple((name, tuple(one[name])) for name in _COMMON if name in one))
