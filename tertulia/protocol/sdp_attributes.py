"""Typed views of SDP attributes: codecs, header extensions, simulcast, sources, groups.

Every function takes what stands in a description and gives values, or a PeerError that names the attribute.
Unknown attributes never come here and are nobody's error (RFC 8866 5.13).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from tertulia.protocol.errors import PeerError

MAX_PAYLOAD_TYPE = 127
MAX_EXTENSION_ID = 14
"""One-byte header form (RFC 8285 4.2); larger ids need the two-byte form, which we do not take."""
MAX_RIDS = 8
MAX_SSRCS = 64
MAX_CANDIDATES = 512
"""Per description; an honest client with many interfaces and sections stays far below."""

DIRECTIONS = ("sendrecv", "sendonly", "recvonly", "inactive")

_RTPMAP = re.compile(r"(\d{1,3}) ([!-.0-~]+)/(\d{1,9})(?:/(\d{1,3}))? *")
_EXTMAP = re.compile(r"(\d{1,5})(?:/(\w+))? (\S+)(?: (.*))?")
_RID_NAME = re.compile(r"[A-Za-z0-9_-]{1,16}")
"""RFC 8851 allows up to 255; 16 is what a one-byte header extension carries (RFC 8285 4.2)."""
_SSRC = re.compile(r"(\d{1,10})(?: ([^\s:]+)(?::(.*))?)? *", re.DOTALL)


class RtpMap(NamedTuple):
    """`a=rtpmap` (RFC 8866 6.6); `channels` is 0 when not said."""

    pt: int
    name: str
    clock_hz: int
    channels: int


class ExtMap(NamedTuple):
    """`a=extmap` (RFC 8285 8)."""

    id: int
    direction: str
    uri: str


class Rid(NamedTuple):
    """`a=rid` (RFC 8851), restrictions left out."""

    name: str
    direction: str


class SimulcastStream(NamedTuple):
    """One stream of `a=simulcast` (RFC 8853 5.1): the first of its alternatives."""

    rid: str
    paused: bool


STATIC_PAYLOADS = {0: RtpMap(0, "PCMU", 8000, 1), 8: RtpMap(8, "PCMA", 8000, 1), 9: RtpMap(9, "G722", 8000, 1)}
"""RFC 3551 6: payload types that need no rtpmap."""


def parse_formats(formats: Sequence[str]) -> list[int]:
    """Payload types of an RTP m= line, in order of preference."""
    found: list[int] = []
    for text in formats:
        pt = _number(text, "payload type", MAX_PAYLOAD_TYPE)
        if pt in found:
            raise PeerError(f"payload type {pt} is listed twice in an m= line")
        found.append(pt)
    return found


def parse_rtpmaps(values: Iterable[str]) -> dict[int, RtpMap]:
    found: dict[int, RtpMap] = {}
    for value in values:
        match = _RTPMAP.fullmatch(value)
        if match is None:
            raise PeerError("a=rtpmap is not of the form: payload-type name/clock[/channels]")
        pt = _number(match[1], "payload type", MAX_PAYLOAD_TYPE)
        entry = RtpMap(pt, match[2], int(match[3]), int(match[4] or 0))
        if found.setdefault(pt, entry) != entry:
            raise PeerError(f"payload type {pt} has two different a=rtpmap lines")
    return found


def parse_fmtps(values: Iterable[str]) -> dict[int, str]:
    """`a=fmtp` texts by payload type; entries for formats that are not payload types are left out."""
    found: dict[int, str] = {}
    for value in values:
        head, _, rest = value.partition(" ")
        if head.isascii() and head.isdigit() and int(head) <= MAX_PAYLOAD_TYPE:
            pt = int(head)
            found[pt] = f"{found[pt]};{rest.strip()}" if pt in found else rest.strip()
    return found


def fmtp_parameters(fmtp: str) -> dict[str, str]:
    """`profile-id=0;level-idx=5` as a mapping, names in lower case; a bare word has the value ''."""
    found: dict[str, str] = {}
    for part in fmtp.split(";"):
        name, _, value = part.strip().partition("=")
        if name:
            found.setdefault(name.strip().lower(), value.strip())
    return found


def build_fmtp(parameters: Mapping[str, str]) -> str:
    return ";".join(f"{name}={value}" if value else name for name, value in parameters.items())


def parse_feedback(values: Iterable[str]) -> dict[int | None, list[str]]:
    """`a=rtcp-fb` (RFC 4585 4.2) by payload type; None holds those for `*`."""
    found: dict[int | None, list[str]] = {}
    for value in values:
        head, _, rest = value.partition(" ")
        pt = None if head == "*" else _number(head, "payload type in a=rtcp-fb", MAX_PAYLOAD_TYPE)
        found.setdefault(pt, []).append(" ".join(rest.split()))
    return found


def parse_extmaps(values: Iterable[str]) -> list[ExtMap]:
    """In order. Ids of the two-byte form are returned too: who cannot take them leaves them out of the answer."""
    found: dict[int, ExtMap] = {}
    for value in values:
        match = _EXTMAP.fullmatch(value)
        if match is None:
            raise PeerError("a=extmap is not of the form: id[/direction] uri")
        number, direction = int(match[1]), match[2] or "sendrecv"
        # RFC 8285 5 and 7: 15 is reserved, 4096-4351 are offers without a number yet
        if not (1 <= number <= 14 or 16 <= number <= 255 or 4096 <= number <= 4351):
            raise PeerError(f"header extension id {number} is not 1..14")
        if direction not in DIRECTIONS:
            raise PeerError("a=extmap has an unknown direction")
        if number in found:
            raise PeerError(f"header extension id {number} is used twice in one section")
        found[number] = ExtMap(number, direction, match[3])
    return list(found.values())


def parse_rids(values: Iterable[str]) -> list[Rid]:
    found: dict[str, Rid] = {}
    for value in values:
        parts = value.split()
        if len(parts) < 2 or parts[1] not in ("send", "recv") or not _RID_NAME.fullmatch(parts[0]):
            raise PeerError("a=rid is not of the form: name send|recv, with a name of at most 16 letters and digits")
        if parts[0] in found:
            raise PeerError("a rid is declared twice in one section")
        if len(found) >= MAX_RIDS:
            raise PeerError(f"a section has more than {MAX_RIDS} rids")
        found[parts[0]] = Rid(parts[0], parts[1])
    return list(found.values())


def parse_simulcast(value: str) -> dict[str, list[SimulcastStream]]:
    """Streams by direction (`send`, `recv`)."""
    parts = value.split()
    if len(parts) not in (2, 4) or any(word not in ("send", "recv") for word in parts[::2]):
        raise PeerError("a=simulcast is not of the form: send|recv streams")
    if len(parts) == 4 and parts[0] == parts[2]:
        raise PeerError("a=simulcast names one direction twice")
    return {parts[at]: _streams(parts[at + 1]) for at in range(0, len(parts), 2)}


def _streams(text: str) -> list[SimulcastStream]:
    found = []
    for stream in text.split(";"):
        first = stream.split(",")[0]
        name = first.removeprefix("~")
        if not _RID_NAME.fullmatch(name):
            raise PeerError("a=simulcast names a stream that is no rid")
        found.append(SimulcastStream(name, first.startswith("~")))
    if len(found) > MAX_RIDS:
        raise PeerError(f"a=simulcast has more than {MAX_RIDS} streams")
    return found


def parse_ssrcs(values: Iterable[str]) -> dict[int, dict[str, str]]:
    """`a=ssrc` (RFC 5576 4.1): attributes by SSRC, in order of appearance."""
    found: dict[int, dict[str, str]] = {}
    for value in values:
        match = _SSRC.fullmatch(value)
        if match is None:
            raise PeerError("a=ssrc is not of the form: ssrc attribute[:value]")
        attributes = found.setdefault(_number(match[1], "ssrc", 0xFFFFFFFF), {})
        if match[2]:
            attributes[match[2]] = match[3] or ""
        if len(found) > MAX_SSRCS:
            raise PeerError(f"a section has more than {MAX_SSRCS} ssrcs")
    return found


def parse_ssrc_groups(values: Iterable[str]) -> list[tuple[str, tuple[int, ...]]]:
    """`a=ssrc-group` (RFC 5576 4.2): semantics and SSRCs."""
    found = []
    for value in values:
        semantics, *members = value.split() or [""]
        if not semantics:
            raise PeerError("a=ssrc-group is empty")
        found.append((semantics, tuple(_number(member, "ssrc", 0xFFFFFFFF) for member in members)))
        if len(found) > MAX_SSRCS:
            raise PeerError(f"a section has more than {MAX_SSRCS} ssrc groups")
    return found


def parse_groups(values: Iterable[str]) -> list[tuple[str, tuple[str, ...]]]:
    """`a=group` (RFC 5888): semantics and mids."""
    found = []
    for value in values:
        semantics, *mids = value.split() or [""]
        found.append((semantics, tuple(mids)))
    return found


def parse_fingerprint(value: str) -> tuple[str, str]:
    """`a=fingerprint` (RFC 8122 5): algorithm in lower case, value in upper case."""
    algorithm, _, digest = value.partition(" ")
    digest = digest.strip().upper()
    if not algorithm or not re.fullmatch(r"[0-9A-F]{2}(?::[0-9A-F]{2})+", digest):
        raise PeerError("a=fingerprint is not of the form: algorithm XX:XX:...")
    return algorithm.lower(), digest


def _number(text: str, what: str, limit: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 10) or int(text) > limit:
        raise PeerError(f"{what} is not a number of 0..{limit}")
    return int(text)
