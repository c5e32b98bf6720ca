"""Session descriptions of the load's clients: offers and answers like a browser's, and what is read from the server's.

Both topologies: one connection on which the client always offers (v1), or one for publishing on which it offers and one
for subscribing on which it answers (v0).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from tertulia.protocol import sdp
from tertulia.protocol import sdp_attributes as attributes
from tertulia.protocol.errors import PeerError

LEVEL, SEND_TIME, TWCC, MID, RID, RRID = 1, 2, 3, 4, 10, 11
URIS = {
    LEVEL: "urn:ietf:params:rtp-hdrext:ssrc-audio-level",
    SEND_TIME: "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time",
    TWCC: "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01",
    MID: "urn:ietf:params:rtp-hdrext:sdes:mid",
    RID: "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id",
    RRID: "urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id",
}
NAMES_BY_URI = {uri: name for name, uri in URIS.items()}
EXTENSIONS = {"audio": (LEVEL, TWCC, MID), "video": (TWCC, MID, RID, RRID)}
PAYLOAD_TYPES = {"opus": 111, "vp8": 96, "h264": 98}
NAMES = {"opus": "opus/48000/2", "vp8": "VP8/90000", "h264": "H264/90000"}
H264_FORMAT = "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f"
VIDEO_FEEDBACK = ("goog-remb", "transport-cc", "ccm fir", "nack", "nack pli")


@dataclass(slots=True)
class Line:
    """One m-section of ours. `codec` is what a sending section sends."""

    mid: str
    kind: str
    direction: str
    codec: str = ""
    cid: str = ""
    rids: tuple[str, ...] = ()
    ssrc: int = 0
    """Of a sending section without rids."""


@dataclass(frozen=True, slots=True)
class Local:
    """Our side of the transport."""

    ufrag: str
    pwd: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Incoming:
    """A stream the server announced."""

    mid: str
    kind: str
    ssrc: int
    repair_ssrc: int
    track: str
    """Its sid, as the msid says it."""


@dataclass(slots=True)
class Remote:
    """What a server's description says that matters here."""

    ufrag: str = ""
    pwd: str = ""
    fingerprints: list[tuple[str, str]] = field(default_factory=list)
    active: bool = False
    """The server wants to begin DTLS itself."""
    candidates: list[tuple[str, int]] = field(default_factory=list)
    """UDP only, best first."""
    codecs: dict[int, str] = field(default_factory=dict)
    """Payload type -> codec name in lower case."""
    extensions: dict[int, int] = field(default_factory=dict)
    """Our name of the extension (a constant above) -> its id on this connection."""
    incoming: list[Incoming] = field(default_factory=list)
    sections: list[tuple[str, str, str, list[str]]] = field(default_factory=list)
    """mid, kind, direction, formats of each section in order."""
    sctp_port: int = 0
    raw: list[sdp.Section] = field(default_factory=list)


def offer(lines: Sequence[Line], local: Local, version: int) -> str:
    """Our offer of these sections."""
    return _head([line.mid for line in lines], version) + "".join(_section(line, local, "actpass") for line in lines)


def answer(remote: Remote, local: Local, version: int) -> str:
    """Our answer to an offer of the server: take what it sends, in its numbers."""
    parts = [_head([mid for mid, *_ in remote.sections], version)]
    for (mid, kind, direction, formats), section in zip(remote.sections, remote.raw, strict=True):
        transport = _transport(mid, local, "passive" if remote.active else "active")
        if kind == "application":
            text = ["m=application 9 UDP/DTLS/SCTP webrtc-datachannel", *transport, "a=sctp-port:5000"]
        else:
            wanted = [
                number
                for number, name in sorted(attributes.parse_rtpmaps(section.values("rtpmap")).items())
                if name.name.lower() in ("opus", "vp8", "h264", "rtx") and str(number) in formats
            ]
            text = [f"m={kind} 9 UDP/TLS/RTP/SAVPF {' '.join(map(str, wanted))}", *transport]
            text += [f"a=extmap:{item.id} {item.uri}" for item in _known(section) if item.uri in URIS.values()]
            text += [f"a={'recvonly' if direction in ('sendonly', 'sendrecv') else 'inactive'}"]
            text += ["a=rtcp-mux", "a=rtcp-rsize"]
            for name in ("rtpmap", "fmtp", "rtcp-fb"):
                for value in section.values(name):
                    if value.split()[0].isdigit() and int(value.split()[0]) in wanted:
                        text.append(f"a={name}:{value}")
        parts.append("\r\n".join(text) + "\r\n")
    return "".join(parts)


def _head(mids: Sequence[str], version: int) -> str:
    return (
        f"v=0\r\no=- 1 {version} IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE {' '.join(mids)}\r\n"
        "a=extmap-allow-mixed\r\na=msid-semantic: WMS\r\n"
    )


def _transport(mid: str, local: Local, setup: str) -> list[str]:
    return [
        "c=IN IP4 0.0.0.0",
        f"a=ice-ufrag:{local.ufrag}",
        f"a=ice-pwd:{local.pwd}",
        "a=ice-options:trickle",
        f"a=fingerprint:sha-256 {local.fingerprint}",
        f"a=setup:{setup}",
        f"a=mid:{mid}",
    ]


def _section(line: Line, local: Local, setup: str) -> str:
    transport = "\r\n".join(_transport(line.mid, local, setup))
    if line.kind == "application":
        return (
            f"m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\n{transport}\r\n"
            "a=sctp-port:5000\r\na=max-message-size:262144\r\n"
        )
    formats, rest = _media(line.kind, line.direction, line.codec, line.cid, line.rids, line.ssrc)
    return f"m={line.kind} 9 UDP/TLS/RTP/SAVPF {formats}\r\n{transport}\r\n{rest}\r\n"


@lru_cache(maxsize=1024)
def _media(kind: str, direction: str, codec: str, cid: str, rids: tuple[str, ...], ssrc: int) -> tuple[str, str]:
    """The formats, and what follows the transport lines; all our receiving sections say the same."""
    codecs = [codec] if codec else ["opus"] if kind == "audio" else ["vp8", "h264"]
    text = [f"a=extmap:{number} {URIS[number]}" for number in EXTENSIONS[kind]]
    text += [f"a={direction}", "a=rtcp-mux", "a=rtcp-rsize"]
    if cid:
        text.append(f"a=msid:- {cid}")
    for name in codecs:
        text += _codec(name)
    if rids:
        text += [f"a=rid:{rid} send" for rid in rids] + [f"a=simulcast:send {';'.join(rids)}"]
    elif ssrc:
        text += [f"a=ssrc:{ssrc} cname:bench", f"a=ssrc:{ssrc} msid:- {cid}"]
    return " ".join(str(number) for name in codecs for number in _numbers(name)), "\r\n".join(text)


def _numbers(codec: str) -> list[int]:
    number = PAYLOAD_TYPES[codec]
    return [number] if codec == "opus" else [number, number + 1]


def _codec(codec: str) -> list[str]:
    number = PAYLOAD_TYPES[codec]
    text = [f"a=rtpmap:{number} {NAMES[codec]}"]
    if codec == "opus":
        return [*text, f"a=fmtp:{number} minptime=10;useinbandfec=1", f"a=rtcp-fb:{number} transport-cc"]
    if codec == "h264":
        text.append(f"a=fmtp:{number} {H264_FORMAT}")
    text += [f"a=rtcp-fb:{number} {feedback}" for feedback in VIDEO_FEEDBACK]
    return [*text, f"a=rtpmap:{number + 1} rtx/90000", f"a=fmtp:{number + 1} apt={number}"]


# ------------------------------------------------------------------------------------------- reading


@dataclass(slots=True)
class _Section:
    """What one section of the server's says."""

    raw: sdp.Section
    own: dict[str, list[str]]
    direction: str
    codecs: dict[int, str]
    extensions: dict[int, int]
    incoming: list[Incoming]


class Reader:
    """Reads the descriptions of one connection; sections with the text they had in the last one are not read again."""

    def __init__(self) -> None:
        self._known: dict[str, _Section] = {}

    def read(self, text: str) -> Remote:
        """PeerError when it is not a description we can connect with."""
        session, sections = self._cut(text)
        remote = Remote()
        ranked: dict[tuple[str, int], int] = {}
        for section in sections:
            raw, own = section.raw, section.own
            mid = (own.get("mid") or [""])[0]
            remote.raw.append(raw)
            remote.sections.append((mid, raw.kind, section.direction, raw.formats))
            remote.ufrag = remote.ufrag or (own.get("ice-ufrag") or session.get("ice-ufrag") or [""])[0]
            remote.pwd = remote.pwd or (own.get("ice-pwd") or session.get("ice-pwd") or [""])[0]
            if not remote.fingerprints:
                values = own.get("fingerprint") or session.get("fingerprint") or []
                remote.fingerprints = [attributes.parse_fingerprint(value) for value in values]
            remote.active |= (own.get("setup") or session.get("setup") or [""])[0] == "active"
            for value in own.get("candidate", []):
                add_candidate(ranked, value)
            if raw.kind == "application":
                remote.sctp_port = int((own.get("sctp-port") or ["5000"])[0])
            remote.codecs |= section.codecs
            remote.extensions |= section.extensions
            remote.incoming += section.incoming
        remote.candidates = sorted(ranked, key=lambda address: -ranked[address])
        if not remote.ufrag or not remote.pwd or not remote.fingerprints:
            raise PeerError("the server's SDP lacks ICE credentials or a fingerprint")
        return remote

    def _cut(self, text: str) -> tuple[dict[str, list[str]], list[_Section]]:
        pieces = sdp.cut(text)
        if pieces is not None:
            try:
                session = sdp.session_part(pieces[0]).attributes()
                self._known = {
                    piece: self._known.get(piece) or _section_read(sdp.section_part(piece)) for piece in pieces[1]
                }
            except PeerError:
                pass
            else:
                return session, [self._known[piece] for piece in pieces[1]]
        description = sdp.parse(text)
        return description.attributes(), [_section_read(section) for section in description.sections]


def read(text: str) -> Remote:
    """One description by itself."""
    return Reader().read(text)


def _section_read(section: sdp.Section) -> _Section:
    own = section.attributes()
    direction = next((word for word in attributes.DIRECTIONS if word in own), "sendrecv")
    found = _Section(section, own, direction, {}, {}, [])
    if section.kind == "application":
        return found
    found.codecs = {
        number: name.name.lower() for number, name in attributes.parse_rtpmaps(own.get("rtpmap", [])).items()
    }
    found.extensions = {NAMES_BY_URI[item.uri]: item.id for item in _known(section) if item.uri in NAMES_BY_URI}
    if direction in ("sendonly", "sendrecv"):
        found.incoming = _incoming((own.get("mid") or [""])[0], section.kind, own)
    return found


def add_candidate(ranked: dict[tuple[str, int], int], value: str) -> None:
    """Note a UDP candidate (RFC 8839 5.1) by its priority; what is not one is left out."""
    words = value.removeprefix("candidate:").split()
    if len(words) < 8 or words[2].lower() != "udp" or words[1] != "1" or not words[5].isdigit():
        return
    if words[3].isdigit():
        ranked[words[4], int(words[5])] = int(words[3])


def _known(section: sdp.Section) -> list[attributes.ExtMap]:
    return attributes.parse_extmaps(section.values("extmap"))


def _incoming(mid: str, kind: str, own: dict[str, list[str]]) -> list[Incoming]:
    ssrcs = attributes.parse_ssrcs(own.get("ssrc", []))
    groups = attributes.parse_ssrc_groups(own.get("ssrc-group", []))
    repairs = {members[0]: members[1] for name, members in groups if name == "FID" and len(members) == 2}
    stream, _, track = (own.get("msid") or [""])[0].partition(" ")
    track = track if track.startswith("TR") or "|" not in stream else stream.partition("|")[2]
    return [Incoming(mid, kind, ssrc, repairs.get(ssrc, 0), track) for ssrc in ssrcs if ssrc not in repairs.values()]
