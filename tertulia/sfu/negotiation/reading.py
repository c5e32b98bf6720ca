"""From a client's description to checked values: what each section asks for, and how to reach the client.

Reads offers and answers alike, decides nothing about tracks. RFC 8829 5.10/5.11, RFC 8843 (BUNDLE), RFC 8839 (ICE),
RFC 8842 (DTLS), RFC 8841 (SCTP). Candidates are not read: an ICE-lite agent learns addresses from checks.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

from tertulia.protocol import sdp
from tertulia.protocol.errors import PeerError
from tertulia.protocol.sdp_attributes import (
    DIRECTIONS,
    MAX_CANDIDATES,
    ExtMap,
    parse_extmaps,
    parse_fingerprint,
    parse_groups,
    parse_rids,
    parse_simulcast,
    parse_ssrc_groups,
    parse_ssrcs,
)
from tertulia.sfu.negotiation import extensions
from tertulia.sfu.negotiation.codecs import common_payloads
from tertulia.sfu.negotiation.words import Kind, Payload
from tertulia.sfu.plane.api import Extension
from tertulia.sfu.transport.api import RemoteParameters

Attributes = dict[str, list[str]]

MAX_MID_CHARS = 16
"""What a one-byte header extension carries (RFC 8285 4.2)."""
MAX_FINGERPRINTS = 8
DEFAULT_MESSAGE_BYTES = 65536
"""RFC 8841 6.1: when the peer does not say."""

_MEDIA_PROTOCOLS = frozenset({"UDP/TLS/RTP/SAVPF", "TCP/TLS/RTP/SAVPF", "RTP/SAVPF"})
_DATA_PROTOCOLS = frozenset({"UDP/DTLS/SCTP", "TCP/DTLS/SCTP"})
_UFRAG = re.compile(r"[A-Za-z0-9+/]{4,256}")
_PWD = re.compile(r"[A-Za-z0-9+/]{22,256}")


@dataclass(frozen=True, slots=True)
class SectionRead:
    """One section of the client's description."""

    mid: str
    kind: Kind | None
    """None: data, or something we do not take."""
    is_data: bool
    media_line: tuple[str, str, tuple[str, ...]]
    """Kind, protocol and formats as they stand, for refusing the section."""
    is_zero: bool
    """Its port is zero: the client refuses or has stopped it."""
    usable: bool
    """We take it: right protocol, in the bundle, a codec in common."""
    sends: bool
    """The client wants to send on it."""
    receives: bool
    payloads: tuple[Payload, ...]
    extmaps: tuple[ExtMap, ...]
    rids: tuple[str, ...]
    stream_id: str
    cid: str
    ssrcs: tuple[int, ...]
    rtx_ssrcs: dict[int, int]
    reduced_size: bool
    """RTCP of reduced size (RFC 5506)."""


@dataclass(frozen=True, slots=True)
class ConnectionRead:
    """A whole description, checked."""

    remote: RemoteParameters
    sections: tuple[SectionRead, ...]
    extensions: dict[Extension, int]
    mixed_extensions: bool


class Reader:
    """Reads the descriptions of one client.

    Each says nearly what the one before said: a section with the text it had then is not read again. The sections of
    the last description are remembered and no others; what is answered does not depend on what is remembered.
    """

    def __init__(self, enabled: frozenset[str]) -> None:
        self._common = _Common(enabled, (), ())
        self._known: dict[str, _Text] = {}

    def forget(self) -> None:
        """What was remembered; the next description is read whole."""
        self._known = {}

    def read(self, text: str) -> ConnectionRead:
        """PeerError, in words for the client's developer, when the description cannot be negotiated with."""
        session, texts = self._cut(text)
        if sum(one.candidates for one in texts) > MAX_CANDIDATES:
            raise PeerError(f"SDP has more than {MAX_CANDIDATES} candidates")
        mids = _mids(texts)
        bundle = _bundle(session, texts, mids)
        common = _Common(self._common.enabled, tuple(session.get("extmap", ())), _directions(session))
        if common != self._common:
            self._common = common
        settled: extensions.Settled = ()
        sections: list[SectionRead] = []
        for one, mid in zip(texts, mids, strict=True):
            section, settled = one.read(mid in bundle, self._common, settled)
            sections.append(section)
        tagged = next((index for index, section in enumerate(sections) if section.usable), None)
        if tagged is None:
            raise PeerError("SDP has no section we can use")
        data = next((index for index, section in enumerate(sections) if section.usable and section.is_data), None)
        of_data = texts[data].attributes() if data is not None else None
        remote = _remote(session, texts[tagged].attributes(), of_data)
        for one in texts:
            one.forget_lines()
        return ConnectionRead(remote, tuple(sections), dict(settled), "extmap-allow-mixed" in session)

    def _cut(self, text: str) -> tuple[Attributes, list["_Text"]]:
        """The session's attributes, and the sections: those that are known, and others."""
        if (pieces := sdp.cut(text)) is not None:
            try:
                session = sdp.session_part(pieces[0])
                known = {piece: self._known.get(piece) or _Text(sdp.section_part(piece), piece) for piece in pieces[1]}
            except PeerError:
                pass  # or so it looks like in pieces
            else:
                self._known = known
                return session.attributes(), [known[piece] for piece in pieces[1]]
        self._known = {}
        description = sdp.parse(text)
        return description.attributes(), [_Text(section) for section in description.sections]


class _Common(NamedTuple):
    """What the reading of every section depends on beside its own text."""

    enabled: frozenset[str]
    extmaps: tuple[str, ...]
    directions: tuple[str, ...]


class _Text:
    """The text of one section, and how it was read the last time."""

    __slots__ = (
        *("_attributes", "_bundled", "_common", "_offered", "_read", "_section", "_text"),
        *("candidates", "is_open", "mid"),
    )

    def __init__(self, section: sdp.Section, text: str = "") -> None:
        """`text`: the piece it was cut from."""
        self._attributes: Attributes | None = section.attributes()
        one = self._attributes
        self.mid = _first(one, "mid")
        """As it stands; None is allowed for a port of zero."""
        if self.mid is None:
            self.mid = "" if section.port == 0 else None
        elif not sdp.is_token(self.mid) or len(self.mid) > MAX_MID_CHARS:
            self.mid = None
        self.is_open = section.port != 0 or "bundle-only" in one
        self.candidates = len(one.get("candidate", ()))
        self._text = text
        self._section: sdp.Section | None = section
        self._common: _Common | None = None
        self._bundled = False

    def section(self) -> sdp.Section:
        if self._section is None:
            self._section = sdp.section_part(self._text)
        return self._section

    def attributes(self) -> Attributes:
        if self._attributes is None:
            self._attributes = self.section().attributes()
        return self._attributes

    def forget_lines(self) -> None:
        """The text is enough to have them again."""
        self._section = self._attributes = None

    def read(
        self, bundled: bool, common: _Common, settled: extensions.Settled
    ) -> tuple["SectionRead", extensions.Settled]:
        """`settled`: the number space of the bundle before it, and after it."""
        if self._common is not common or self._bundled is not bundled:
            self._read, self._offered, settled = _section(
                self.section(), self.attributes(), self.mid or "", bundled, common, settled
            )
            self._common, self._bundled = common, bundled
        elif self._offered:
            extmaps, settled = extensions.accept(self._offered, settled)
            if extmaps != self._read.extmaps:
                self._read = replace(self._read, extmaps=extmaps)
        return self._read, settled


def _mids(texts: Iterable[_Text]) -> list[str]:
    mids: list[str] = []
    seen: set[str] = set()
    for one in texts:
        if one.mid is None:
            raise PeerError(f"a section has no a=mid of at most {MAX_MID_CHARS} characters")
        if one.mid in seen:
            raise PeerError("two sections have the same mid")
        if one.mid:
            seen.add(one.mid)
        mids.append(one.mid)
    return mids


def _bundle(session: Attributes, texts: Iterable[_Text], mids: Sequence[str]) -> frozenset[str]:
    """Mids that share the first usable section's transport; without a group that is only this section itself."""
    groups = [
        frozenset(members) for semantics, members in parse_groups(session.get("group", ())) if semantics == "BUNDLE"
    ]
    unknown = frozenset().union(*groups) - frozenset(mids)
    if unknown:
        raise PeerError("the BUNDLE group names a mid that no section has")
    for one, mid in zip(texts, mids, strict=True):
        if mid and one.is_open:
            return next((group for group in groups if mid in group), frozenset({mid}))
    return frozenset()


def _section(
    section: sdp.Section,
    one: Attributes,
    mid: str,
    bundled: bool,
    common: _Common,
    settled: extensions.Settled,
) -> tuple[SectionRead, tuple[ExtMap, ...], extensions.Settled]:
    """Its reading, all extensions it offers, and the number space of the bundle after it."""
    # RFC 8843 7.2.1: a bundle-only section has port zero and is not stopped
    is_zero = section.port == 0 and not (bundled and "bundle-only" in one)
    is_data = section.kind == "application"
    kind: Kind | None = "audio" if section.kind == "audio" else "video" if section.kind == "video" else None
    usable = bundled and not is_zero
    payloads: tuple[Payload, ...] = ()
    if is_data:
        usable = usable and section.protocol in _DATA_PROTOCOLS and "webrtc-datachannel" in section.formats
    elif kind is not None and usable and section.protocol in _MEDIA_PROTOCOLS and "rtcp-mux" in one:
        payloads = common_payloads(kind, section.formats, one, common.enabled)
        usable = bool(payloads)
    else:
        usable = False
    direction = _direction(_directions(one), common.directions)
    stream_id, cid = _msid(one)
    ssrcs, rtx_ssrcs = _sources(one)
    is_media = usable and kind is not None
    offered = _extmaps((*common.extmaps, *one.get("extmap", ()))) if is_media else ()
    extmaps, settled = extensions.accept(offered, settled)
    read = SectionRead(
        mid=mid,
        kind=kind,
        is_data=is_data,
        media_line=(section.kind, section.protocol, tuple(section.formats)),
        is_zero=is_zero,
        usable=usable,
        sends=is_media and direction in ("sendrecv", "sendonly"),
        receives=is_media and direction in ("sendrecv", "recvonly"),
        payloads=payloads,
        extmaps=extmaps,
        rids=_simulcast(one),
        stream_id=stream_id,
        cid=cid,
        ssrcs=ssrcs,
        rtx_ssrcs=rtx_ssrcs,
        reduced_size="rtcp-rsize" in one,
    )
    return read, offered, settled


@lru_cache(maxsize=256)
def _extmaps(lines: tuple[str, ...]) -> tuple[ExtMap, ...]:
    """Remembered, as the payloads are: the sections of one offer say the same."""
    return tuple(parse_extmaps(lines))


def _directions(one: Attributes) -> tuple[str, ...]:
    return tuple(direction for direction in DIRECTIONS if direction in one)


def _direction(*said_by: tuple[str, ...]) -> str:
    """RFC 8866 6.7: sendrecv when nothing is said; a section's word goes before the session's."""
    for said in said_by:
        if len(said) > 1:
            raise PeerError("a section has two directions")
        if said:
            return said[0]
    return "sendrecv"


def _msid(one: Attributes) -> tuple[str, str]:
    """Stream id and track id (RFC 8830); the older form on `a=ssrc` lines is read where there is no `a=msid`."""
    value = _first(one, "msid")
    if value is None:
        value = next((text.partition(" msid:")[2] for text in one.get("ssrc", ()) if " msid:" in text), "")
    stream_id, _, cid = value.strip().partition(" ")
    return "" if stream_id == "-" else stream_id, cid.strip()


def _simulcast(one: Attributes) -> tuple[str, ...]:
    """Stream names in the order of `a=simulcast:send` (RFC 8853); a lone rid needs no simulcast line."""
    names = [rid.name for rid in parse_rids(one.get("rid", ())) if rid.direction == "send"]
    value = _first(one, "simulcast")
    if value is None:
        return tuple(names[:1])
    streams = [stream.rid for stream in parse_simulcast(value).get("send", ())]
    if len(set(streams)) != len(streams) or not set(streams) <= set(names):
        raise PeerError("a=simulcast names a stream without an a=rid line, or names it twice")
    return tuple(streams)


def _sources(one: Attributes) -> tuple[tuple[int, ...], dict[int, int]]:
    """Primary SSRCs and their repair SSRCs (RFC 5576 4.2)."""
    known = parse_ssrcs(one.get("ssrc", ()))
    simulcast: tuple[int, ...] = ()
    repairs: dict[int, int] = {}
    for semantics, members in parse_ssrc_groups(one.get("ssrc-group", ())):
        if semantics == "SIM":
            simulcast = members
        elif semantics == "FID" and len(members) == 2:
            repairs[members[0]] = members[1]
    primary = simulcast or tuple(ssrc for ssrc in known if ssrc not in repairs.values())
    return primary, {first: second for first, second in repairs.items() if first in primary}


def _remote(session: Attributes, tagged: Attributes, data: Attributes | None) -> RemoteParameters:
    """Of the section that carries the bundle (RFC 8843 7.1.3), else of the session."""

    def either(name: str) -> list[str]:
        return tagged.get(name) or session.get(name) or []

    ufrag, pwd = "".join(either("ice-ufrag")[:1]), "".join(either("ice-pwd")[:1])
    if not _UFRAG.fullmatch(ufrag) or not _PWD.fullmatch(pwd):
        raise PeerError("SDP has no a=ice-ufrag and a=ice-pwd of the right form")
    if "ice-lite" in session:
        raise PeerError("both sides cannot be ICE-lite")
    fingerprints = either("fingerprint")
    if not 1 <= len(fingerprints) <= MAX_FINGERPRINTS:
        raise PeerError(f"SDP must have 1 to {MAX_FINGERPRINTS} a=fingerprint lines")
    setup = {value.strip() for value in either("setup")}
    if len(setup) != 1 or not setup <= {"actpass", "active", "passive"}:
        raise PeerError("SDP must have one a=setup of actpass, active or passive")
    sctp_port, message_bytes = _sctp(data) if data is not None else (None, DEFAULT_MESSAGE_BYTES)
    parsed = tuple(parse_fingerprint(value) for value in fingerprints)
    return RemoteParameters(ufrag, pwd, parsed, setup.pop(), sctp_port, message_bytes)


def _sctp(one: Attributes) -> tuple[int, int]:
    """RFC 8841 5.1 and 6.1; a message size of 0 means no limit."""
    port, size = _first(one, "sctp-port") or "", _first(one, "max-message-size") or str(DEFAULT_MESSAGE_BYTES)
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 1 <= int(port) <= 65535):
        raise PeerError("a=sctp-port is not 1..65535")
    if not (size.isascii() and size.isdigit() and len(size) <= 20):
        raise PeerError("a=max-message-size is not a number")
    return int(port), int(size)


def _first(attributes: Attributes, name: str) -> str | None:
    values = attributes.get(name)
    return values[0] if values else None
