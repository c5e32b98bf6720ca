"""Lines of our own descriptions (RFC 8829 5.2, 5.3): the session part, transport lines, media and data sections."""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from tertulia.protocol.sdp_attributes import ExtMap
from tertulia.sfu.negotiation.remembered import MAX_REMEMBERED, remembering
from tertulia.sfu.negotiation.words import Kind, Payload
from tertulia.sfu.transport.api import LocalParameters

SCTP_PORT = 5000
MAX_MESSAGE_BYTES = 262_144
"""What our SCTP takes in one message; clients chunk at 64 kB or less."""
DATA_PROTOCOL = "UDP/DTLS/SCTP"
MEDIA_PROTOCOL = "UDP/TLS/RTP/SAVPF"


class Sender(NamedTuple):
    """What we send on a section."""

    stream_id: str
    track_id: str
    cname: str
    ssrc: int
    rtx_ssrc: int


class MediaSection(NamedTuple):
    """One accepted audio or video section."""

    mid: str
    kind: Kind
    direction: str
    payloads: tuple[Payload, ...]
    extmaps: tuple[ExtMap, ...]
    rids: Sequence[str] = ()
    sender: Sender | None = None
    reduced_size: bool = True
    protocol: str = MEDIA_PROTOCOL


class DataSection(NamedTuple):
    mid: str
    protocol: str = DATA_PROTOCOL


class RefusedSection(NamedTuple):
    """Port zero: not taken, or stopped for good."""

    mid: str
    kind: str
    protocol: str
    formats: Sequence[str]


AnySection = MediaSection | DataSection | RefusedSection


class Written(NamedTuple):
    """A section's text without transport lines."""

    mid: str
    text: str
    is_refused: bool


class Drafts:
    """The sections of the last description as they were written. One that depends on the same as then is not written
    again; sections never move (RFC 3264 8), so they are known by their place."""

    def __init__(self) -> None:
        self._last: list[tuple[object, Written]] = []

    def forget(self) -> None:
        self._last = []

    def write(self, sections: Iterable[tuple[object, Callable[[], AnySection]]]) -> list[Written]:
        """For every section: everything its text depends on (compared by value), and what makes it."""
        last, now, alike = self._last, [], Alike()
        for index, (depends, make) in enumerate(sections):
            if index < len(last) and last[index][0] == depends:
                now.append(last[index])
            else:
                now.append((depends, written(make(), alike)))
        self._last = now
        return [one for _, one in now]


class Alike:
    """What media sections of one description say alike is written once."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], tuple[MediaSection, tuple[str, str]]] = {}
        """By the identity of the payloads, which are kept so that it stays theirs."""

    def __call__(self, section: MediaSection) -> tuple[str, str]:
        """The lines before and after those of its own: mid and direction."""
        key = id(section.payloads), section.extmaps, section.kind, section.protocol, section.reduced_size
        found = self._known.get(key)
        if found is None:
            make = remembering(_agreed, [payload.fmtp for payload in section.payloads])
            texts = make(section.kind, section.protocol, section.payloads, section.extmaps, section.reduced_size)
            found = self._known[key] = section, texts
        return found[1]


def written(section: AnySection, alike: Alike) -> Written:
    if isinstance(section, RefusedSection):
        return Written(section.mid, _refused(section), True)
    return Written(section.mid, _media(section, alike) if isinstance(section, MediaSection) else _data(section), False)


def build_description(
    sections: Sequence[Written], local: LocalParameters, *, setup: str, session_id: int, version: int, mixed: bool
) -> str:
    """The whole text. Every section taken has transport lines, the first of them the candidates (RFC 8843 7.1.3)."""
    bundled = [section.mid for section in sections if not section.is_refused]
    session = ["v=0", f"o=- {session_id} {version} IN IP4 0.0.0.0", "s=-", "t=0 0"]
    if bundled:
        session.append(f"a=group:BUNDLE {' '.join(bundled)}")
    if mixed:
        session.append("a=extmap-allow-mixed")
    session += ("a=msid-semantic:WMS *", "a=ice-lite")
    transport, candidates = _text(_transport_lines(local, setup)), _text(_candidate_lines(local))
    texts = [_text(session)]
    for section in sections:
        texts.append(section.text)
        if not section.is_refused:
            texts += (transport, candidates)
            candidates = ""
    return "".join(texts)


def _text(lines: Iterable[str]) -> str:
    """CRLF after every line (RFC 8866 5)."""
    return "".join([f"{line}\r\n" for line in lines])


def _refused(section: RefusedSection) -> str:
    lines = [" ".join((f"m={section.kind} 0 {section.protocol}", *section.formats)), "c=IN IP4 0.0.0.0"]
    if section.mid:
        lines.append(f"a=mid:{section.mid}")
    if section.kind != "application":
        lines.append("a=inactive")
    return _text(lines)


def _data(section: DataSection) -> str:
    return _text(
        (
            f"m=application 9 {section.protocol} webrtc-datachannel",
            "c=IN IP4 0.0.0.0",
            f"a=mid:{section.mid}",
            f"a=sctp-port:{SCTP_PORT}",
            f"a=max-message-size:{MAX_MESSAGE_BYTES}",
        )
    )


def _media(section: MediaSection, alike: Alike) -> str:
    head, agreed = alike(section)
    own = [f"a=rid:{rid} recv" for rid in section.rids]
    if len(section.rids) > 1:
        own.append(f"a=simulcast:recv {';'.join(section.rids)}")
    if section.sender is not None:
        own += _sender_lines(section.sender)
    return f"{head}a=mid:{section.mid}\r\na={section.direction}\r\n{agreed}{_text(own)}"


@lru_cache(maxsize=MAX_REMEMBERED)
def _agreed(
    kind: Kind, protocol: str, payloads: tuple[Payload, ...], extmaps: tuple[ExtMap, ...], reduced_size: bool
) -> tuple[str, str]:
    """Remembered: every section of every client of one make has the same."""
    formats: list[str] = []
    lines = ["a=rtcp-mux", "a=rtcp-rsize"] if reduced_size else ["a=rtcp-mux"]
    lines += [f"a=extmap:{extmap.id} {extmap.uri}" for extmap in extmaps]
    for payload in payloads:
        formats.append(str(payload.pt))
        if payload.rtx_pt and str(payload.rtx_pt) not in formats:
            formats.append(str(payload.rtx_pt))
        lines += _payload_lines(payload)
    return _text((" ".join((f"m={kind} 9 {protocol}", *formats)), "c=IN IP4 0.0.0.0")), _text(lines)


def _payload_lines(payload: Payload) -> list[str]:
    pt, name = payload.pt, payload.mime_type.partition("/")[2]
    # RFC 8866 6.6: one channel is not written, opus is always /2 (RFC 7587 7)
    channels = f"/{payload.channels}" if payload.channels > 1 else ""
    found = [f"a=rtpmap:{pt} {name}/{payload.clock_hz}{channels}"]
    found += [f"a=rtcp-fb:{pt} {item}" for item in payload.feedback]
    if payload.fmtp:
        found.append(f"a=fmtp:{pt} {payload.fmtp}")
    if payload.rtx_pt:
        found.append(f"a=rtpmap:{payload.rtx_pt} rtx/{payload.clock_hz}")
        found.append(f"a=fmtp:{payload.rtx_pt} apt={pt}")
    return found


def _sender_lines(sender: Sender) -> list[str]:
    msid = f"{sender.stream_id} {sender.track_id}"
    lines = [f"a=msid:{msid}"]
    ssrcs = [sender.ssrc]
    if sender.rtx_ssrc:
        ssrcs.append(sender.rtx_ssrc)
        lines.append(f"a=ssrc-group:FID {sender.ssrc} {sender.rtx_ssrc}")
    for ssrc in ssrcs:
        lines += (f"a=ssrc:{ssrc} cname:{sender.cname}", f"a=ssrc:{ssrc} msid:{msid}")
    return lines


def _transport_lines(local: LocalParameters, setup: str) -> tuple[str, ...]:
    return (
        f"a=ice-ufrag:{local.ufrag}",
        f"a=ice-pwd:{local.pwd}",
        f"a=fingerprint:{local.fingerprint_algorithm} {local.fingerprint}",
        f"a=setup:{setup}",
    )


def _candidate_lines(local: LocalParameters) -> tuple[str, ...]:
    return (*(f"a=candidate:{candidate}" for candidate in local.candidates), "a=end-of-candidates")
