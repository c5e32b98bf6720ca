"""From a client's description to checked values: what each section asks for, and how to reach the client.

Reads offers and answers alike, decides nothing about tracks. RFC 8829 5.10/5.11, RFC 8843 (BUNDLE), RFC 8839 (ICE),
RFC 8842 (DTLS), RFC 8841 (SCTP). Candidates are not read: an ICE-lite agent learns addresses from checks.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tertulia.protocol import sdp
from tertulia.protocol.errors import PeerError
from tertulia.protocol.sdp_attributes import MAX_CANDIDATES, parse_fingerprint, parse_groups
from tertulia.sfu.negotiation import extensions, placeholders
from tertulia.sfu.negotiation.sections import Attributes, Common, SectionRead, directions_of, first_of, read_section
from tertulia.sfu.plane.api import Extension
from tertulia.sfu.transport.api import RemoteParameters

MAX_MID_CHARS = 16
"""What a one-byte header extension carries (RFC 8285 4.2)."""
MAX_FINGERPRINTS = 8
DEFAULT_MESSAGE_BYTES = 65536
"""RFC 8841 6.1: when the peer does not say."""

_UFRAG = re.compile(r"[A-Za-z0-9+/]{4,256}")
_PWD = re.compile(r"[A-Za-z0-9+/]{22,256}")


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
        self._common = Common(enabled, (), ())
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
        common = Common(self._common.enabled, tuple(session.get("extmap", ())), directions_of(session))
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
        of_data = texts[data].way() if data is not None else None
        remote = _remote(session, texts[tagged].way(), of_data)
        for one in texts:
            one.forget_lines()
        return ConnectionRead(remote, tuple(sections), dict(settled), "extmap-allow-mixed" in session)

    def _cut(self, text: str) -> tuple[Attributes, list["_Text"]]:
        """The session's attributes, and the sections: those that are known, and others."""
        if (pieces := sdp.cut(text)) is not None:
            try:
                session = sdp.session_part(pieces[0])
                known = {piece: self._known.get(piece) or self._text(piece) for piece in pieces[1]}
            except PeerError:
                pass  # or so it looks like in pieces
            else:
                self._known = known
                return session.attributes(), [known[piece] for piece in pieces[1]]
        self._known = {}
        description = sdp.parse(text)
        return description.attributes(), [_Text(section) for section in description.sections]

    def _text(self, piece: str) -> "_Text":
        placeholder = placeholders.find(piece, self._common.enabled)
        return _Text(sdp.section_part(piece) if placeholder is None else None, piece, placeholder)


class _Text:
    """The text of one section, and how it was read the last time."""

    __slots__ = (
        *("_attributes", "_bundled", "_common", "_offered", "_placeholder", "_read", "_section", "_text"),
        *("candidates", "is_open", "mid"),
    )

    def __init__(
        self, section: sdp.Section | None, text: str = "", placeholder: placeholders.Placeholder | None = None
    ) -> None:
        """`text`: the piece it was cut from; a placeholder needs no more than that."""
        self._text = text
        self._placeholder = placeholder
        self._section = section
        self._attributes: Attributes | None = None
        self._common: Common | None = None
        self._bundled = False
        self.is_open, self.candidates = True, 0
        self.mid = placeholder.mid if placeholder is not None else None
        """As it stands; None is allowed for a port of zero."""
        if section is not None:
            one = self._attributes = section.attributes()
            self.mid = first_of(one, "mid")
            self.is_open = section.port != 0 or "bundle-only" in one
            self.candidates = len(one.get("candidate", ()))
        if self.mid is not None:
            if not sdp.is_token(self.mid) or len(self.mid) > MAX_MID_CHARS:
                self.mid = None
        elif section is not None and section.port == 0:
            self.mid = ""

    def section(self) -> sdp.Section:
        if self._section is None:
            self._section = sdp.section_part(self._text)
        return self._section

    def attributes(self) -> Attributes:
        if self._attributes is None:
            self._attributes = self.section().attributes()
        return self._attributes

    def way(self) -> Attributes:
        """At least the attributes about the way to the client."""
        return self._placeholder.way() if self._placeholder is not None else self.attributes()

    def forget_lines(self) -> None:
        """The text is enough to have them again."""
        self._section = self._attributes = None

    def read(
        self, bundled: bool, common: Common, settled: extensions.Settled
    ) -> tuple[SectionRead, extensions.Settled]:
        """`settled`: the number space of the bundle before it, and after it."""
        if self._common is not common or self._bundled is not bundled:
            if self._placeholder is not None and bundled and not common.extmaps and len(common.directions) < 2:
                self._read, self._offered, settled = self._placeholder.read(settled)
            else:
                self._read, self._offered, settled = read_section(
                    self.section(), self.attributes(), self.mid or "", bundled, common, settled
                )
            self._common, self._bundled = common, bundled
        elif self._offered:
            extmaps, settled = extensions.accept(self._offered, settled)
            if extmaps != self._read.extmaps:
                self._read = self._read._replace(extmaps=extmaps)
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
    port, size = first_of(one, "sctp-port") or "", first_of(one, "max-message-size") or str(DEFAULT_MESSAGE_BYTES)
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 1 <= int(port) <= 65535):
        raise PeerError("a=sctp-port is not 1..65535")
    if not (size.isascii() and size.isdigit() and len(size) <= 20):
        raise PeerError("a=max-message-size is not a number")
    return int(port), int(size)
