"""The offers a simulated client makes and what it reads from answers; just enough SDP, written like a browser's."""

import re
from dataclasses import dataclass, field

from tests.sim.encoder import LEVEL, MID, RID, TWCC

OPUS, VP8, RTX = 111, 96, 97
EXTENSIONS = {
    MID: "urn:ietf:params:rtp-hdrext:sdes:mid",
    RID: "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id",
    11: "urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id",
    LEVEL: "urn:ietf:params:rtp-hdrext:ssrc-audio-level",
    TWCC: "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01",
}
AUDIO_EXTENSIONS, VIDEO_EXTENSIONS = (LEVEL, MID), (MID, RID, 11)


@dataclass
class Section:
    """One m-section as the client keeps it."""

    mid: str
    kind: str
    direction: str
    cid: str = ""
    rids: tuple[str, ...] = ()
    twcc: bool = False


@dataclass
class AnswerSection:
    mid: str
    direction: str
    ssrcs: list[int] = field(default_factory=list)
    """Primary, then repair."""


def offer(sections: list[Section], name: str, version: int) -> str:
    """An offer of these sections; `name` is the ICE ufrag, by which the simulated transports know the client."""
    lines = ["v=0", f"o=- 1 {version} IN IP4 127.0.0.1", "s=-", "t=0 0"]
    lines += ["a=group:BUNDLE " + " ".join(section.mid for section in sections), "a=extmap-allow-mixed"]
    for section in sections:
        lines += _section(section, name)
    return "\r\n".join(lines) + "\r\n"


def _section(section: Section, name: str) -> list[str]:
    transport = [
        "c=IN IP4 0.0.0.0",
        f"a=ice-ufrag:{name}+sim",
        "a=ice-pwd:0123456789012345678901",
        "a=fingerprint:sha-256 " + ":".join(["AB"] * 32),
        "a=setup:actpass",
        f"a=mid:{section.mid}",
    ]
    if section.kind == "application":
        lines = ["m=application 9 UDP/DTLS/SCTP webrtc-datachannel", *transport]
        return [*lines, "a=sctp-port:5000", "a=max-message-size:262144"]
    video = section.kind == "video"
    lines = [f"m={section.kind} 9 UDP/TLS/RTP/SAVPF " + (f"{VP8} {RTX}" if video else str(OPUS)), *transport]
    extensions = [*(VIDEO_EXTENSIONS if video else AUDIO_EXTENSIONS), *([TWCC] if section.twcc else [])]
    lines += [f"a=extmap:{number} {EXTENSIONS[number]}" for number in extensions]
    lines += [f"a={section.direction}", "a=rtcp-mux", "a=rtcp-rsize"]
    if section.cid:
        lines.append(f"a=msid:- {section.cid}")
    if video:
        lines += [f"a=rtpmap:{VP8} VP8/90000", f"a=rtpmap:{RTX} rtx/90000", f"a=fmtp:{RTX} apt={VP8}"]
        lines += [f"a=rtcp-fb:{VP8} {feedback}" for feedback in ("ccm fir", "nack", "nack pli")]
        lines += [f"a=rtcp-fb:{VP8} transport-cc"] * section.twcc
    else:
        lines += [f"a=rtpmap:{OPUS} opus/48000/2", f"a=fmtp:{OPUS} minptime=10;useinbandfec=1"]
        lines += [f"a=rtcp-fb:{OPUS} transport-cc"] * section.twcc
    if section.rids:
        lines += [f"a=rid:{rid} send" for rid in section.rids] + ["a=simulcast:send " + ";".join(section.rids)]
    return lines


def read_answer(sdp: str) -> list[AnswerSection]:
    """Direction and SSRCs of each section, in order."""
    found = []
    for text in re.split(r"\r?\n(?=m=)", sdp)[1:]:
        mid = re.search(r"^a=mid:(\S+)", text, re.M)
        direction = re.search(r"^a=(sendrecv|sendonly|recvonly|inactive)\s*$", text, re.M)
        group = re.search(r"^a=ssrc-group:FID (\d+) (\d+)", text, re.M)
        ssrcs = [int(number) for number in dict.fromkeys(re.findall(r"^a=ssrc:(\d+) ", text, re.M))]
        if group:
            ssrcs = [int(group[1]), int(group[2])]
        found.append(AnswerSection(mid[1] if mid else "", direction[1] if direction else "", ssrcs))
    return found
