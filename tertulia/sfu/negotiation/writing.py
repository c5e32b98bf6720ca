"""Lines of our own descriptions (RFC 8829 5.2, 5.3): the session part, transport lines, media and data sections."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from tertulia.protocol.sdp import Block, Line, Section, part
from tertulia.protocol.sdp_attributes import ExtMap
from tertulia.sfu.negotiation.words import Kind, Payload
from tertulia.sfu.transport.api import LocalParameters

SCTP_PORT = 5000
MAX_MESSAGE_BYTES = 262_144
"""What our SCTP takes in one message; clients chunk at 64 kB or less."""
DATA_PROTOCOL = "UDP/DTLS/SCTP"
MEDIA_PROTOCOL = "UDP/TLS/RTP/SAVPF"


@dataclass(frozen=True, slots=True)
class Sender:
    """What we send on a section."""

    stream_id: str
    track_id: str
    cname: str
    ssrc: int
    rtx_ssrc: int


@dataclass(frozen=True, slots=True)
class MediaSection:
    """One accepted audio or video section."""

    mid: str
    kind: Kind
    direction: str
    payloads: Sequence[Payload]
    extmaps: Sequence[ExtMap]
    rids: Sequence[str] = ()
    sender: Sender | None = None
    reduced_size: bool = True
    protocol: str = MEDIA_PROTOCOL


@dataclass(frozen=True, slots=True)
class DataSection:
    mid: str
    protocol: str = DATA_PROTOCOL


@dataclass(frozen=True, slots=True)
class RefusedSection:
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
        last, now = self._last, []
        for index, (depends, make) in enumerate(sections):
            if index < len(last) and last[index][0] == depends:
                now.append(last[index])
            else:
                now.append((depends, written(make())))
        self._last = now
        return [one for _, one in now]


def written(section: AnySection) -> Written:
    if isinstance(section, RefusedSection):
        lines = _refused(section)
    else:
        lines = _media(section) if isinstance(section, MediaSection) else _data(section)
    text = f"m={lines.media_line()}\r\n{part(lines)}"
    return Written(section.mid, text, isinstance(section, RefusedSection))


def build_description(
    sections: Sequence[Written], local: LocalParameters, *, setup: str, session_id: int, version: int, mixed: bool
) -> str:
    """The whole text. Every section taken has transport lines, the first of them the candidates (RFC 8843 7.1.3)."""
    bundled = [section.mid for section in sections if not section.is_refused]
    session = Block(
        [
            Line("v", "0"),
            Line("o", f"- {session_id} {version} IN IP4 0.0.0.0"),
            Line("s", "-"),
            Line("t", "0 0"),
        ]
    )
    if bundled:
        session.add("group", " ".join(("BUNDLE", *bundled)))
    if mixed:
        session.add("extmap-allow-mixed")
    session.add("msid-semantic", "WMS *")
    session.add("ice-lite")
    transport, candidates = part(Block(_transport_lines(local, setup))), part(Block(_candidate_lines(local)))
    texts = [part(session)]
    for section in sections:
        texts.append(section.text)
        if not section.is_refused:
            texts += (transport, candidates)
            candidates = ""
    return "".join(texts)


def _refused(section: RefusedSection) -> Section:
    lines = Section([Line("c", "IN IP4 0.0.0.0")], section.kind, 0, 1, section.protocol, list(section.formats))
    if section.mid:
        lines.add("mid", section.mid)
    if section.kind != "application":
        lines.add("inactive")
    return lines


def _data(section: DataSection) -> Section:
    lines = Section([Line("c", "IN IP4 0.0.0.0")], "application", 9, 1, section.protocol, ["webrtc-datachannel"])
    lines.add("mid", section.mid)
    lines.add("sctp-port", str(SCTP_PORT))
    lines.add("max-message-size", str(MAX_MESSAGE_BYTES))
    return lines


def _media(section: MediaSection) -> Section:
    formats: list[str] = []
    for payload in section.payloads:
        formats.append(str(payload.pt))
        if payload.rtx_pt and str(payload.rtx_pt) not in formats:
            formats.append(str(payload.rtx_pt))
    lines = Section([Line("c", "IN IP4 0.0.0.0")], section.kind, 9, 1, section.protocol, formats)
    lines.add("mid", section.mid)
    lines.add(section.direction)
    lines.add("rtcp-mux")
    if section.reduced_size:
        lines.add("rtcp-rsize")
    for extmap in section.extmaps:
        lines.add("extmap", f"{extmap.id} {extmap.uri}")
    for payload in section.payloads:
        lines.lines += _payload_lines(payload)
    for rid in section.rids:
        lines.add("rid", f"{rid} recv")
    if len(section.rids) > 1:
        lines.add("simulcast", "recv " + ";".join(section.rids))
    if section.sender is not None:
        _add_sender(lines, section.sender)
    return lines


@lru_cache(maxsize=256)
def _payload_lines(payload: Payload) -> tuple[Line, ...]:
    """Remembered: every section of every client of one make has the same."""
    pt, name = payload.pt, payload.mime_type.partition("/")[2]
    # RFC 8866 6.6: one channel is not written, opus is always /2 (RFC 7587 7)
    channels = f"/{payload.channels}" if payload.channels > 1 else ""
    found = [f"rtpmap:{pt} {name}/{payload.clock_hz}{channels}"]
    found += [f"rtcp-fb:{pt} {item}" for item in payload.feedback]
    if payload.fmtp:
        found.append(f"fmtp:{pt} {payload.fmtp}")
    if payload.rtx_pt:
        found.append(f"rtpmap:{payload.rtx_pt} rtx/{payload.clock_hz}")
        found.append(f"fmtp:{payload.rtx_pt} apt={pt}")
    return tuple(Line("a", text) for text in found)


def _add_sender(lines: Section, sender: Sender) -> None:
    msid = f"{sender.stream_id} {sender.track_id}"
    lines.add("msid", msid)
    ssrcs = [sender.ssrc]
    if sender.rtx_ssrc:
        ssrcs.append(sender.rtx_ssrc)
        lines.add("ssrc-group", f"FID {sender.ssrc} {sender.rtx_ssrc}")
    for ssrc in ssrcs:
        lines.add("ssrc", f"{ssrc} cname:{sender.cname}")
        lines.add("ssrc", f"{ssrc} msid:{msid}")


def _transport_lines(local: LocalParameters, setup: str) -> list[tuple[str, str]]:
    found = (
        f"ice-ufrag:{local.ufrag}",
        f"ice-pwd:{local.pwd}",
        f"fingerprint:{local.fingerprint_algorithm} {local.fingerprint}",
        f"setup:{setup}",
    )
    return [Line("a", text) for text in found]


def _candidate_lines(local: LocalParameters) -> list[tuple[str, str]]:
    return [*(Line("a", f"candidate:{candidate}") for candidate in local.candidates), Line("a", "end-of-candidates")]
