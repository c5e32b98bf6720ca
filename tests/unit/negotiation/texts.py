"""Offers for the tests: recorded ones, and small ones made to order."""

from pathlib import Path
from random import Random
from typing import Any

from livekit.protocol import models

from tertulia.sfu.negotiation import Answer, Answerer, Preference, Wanted
from tertulia.sfu.transport.api import LocalParameters

VECTORS = Path(__file__).parents[2] / "vectors" / "sdp"
CODECS = ("audio/opus", "audio/red", "video/VP8", "video/H264", "video/VP9", "video/AV1", "video/rtx")
FINGERPRINT = ":".join(["A5"] * 32)
LOCAL = LocalParameters(
    ufrag="ours",
    pwd="o" * 24,
    fingerprint_algorithm="sha-256",
    fingerprint=":".join(["0F"] * 32),
    candidates=(
        "1 1 udp 2130706431 192.0.2.1 7882 typ host",
        "2 1 tcp 1518280447 192.0.2.1 7881 typ host tcptype passive",
    ),
)

AUDIO = "m=audio 9 UDP/TLS/RTP/SAVPF 111 63\r\na=rtpmap:111 opus/48000/2\r\na=fmtp:111 minptime=10;useinbandfec=1\r\n"
AUDIO += "a=rtcp-fb:111 transport-cc\r\na=rtpmap:63 red/48000/2\r\na=fmtp:63 111/111\r\n"
AUDIO += "a=extmap:4 urn:ietf:params:rtp-hdrext:sdes:mid\r\na=extmap:1 urn:ietf:params:rtp-hdrext:ssrc-audio-level\r\n"
VIDEO = "m=video 9 UDP/TLS/RTP/SAVPF 96 97 98 102 103\r\na=rtpmap:96 VP8/90000\r\na=rtpmap:97 rtx/90000\r\n"
VIDEO += "a=fmtp:97 apt=96\r\na=rtpmap:98 VP9/90000\r\na=fmtp:98 profile-id=0\r\na=rtpmap:102 H264/90000\r\n"
VIDEO += "a=fmtp:102 packetization-mode=1;profile-level-id=42e01f\r\na=rtpmap:103 H264/90000\r\n"
VIDEO += "a=fmtp:103 packetization-mode=0;profile-level-id=42e01f\r\na=rtcp-fb:* nack\r\na=rtcp-fb:96 nack pli\r\n"
VIDEO += "a=rtcp-fb:96 transport-cc\r\na=rtcp-fb:96 x-unknown\r\na=extmap:4 urn:ietf:params:rtp-hdrext:sdes:mid\r\n"
VIDEO += "a=extmap:10 urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id\r\n"
DATA = "m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\na=sctp-port:5000\r\na=max-message-size:262144\r\n"
TRANSPORT = f"a=ice-ufrag:them\r\na=ice-pwd:{'t' * 24}\r\na=fingerprint:sha-256 {FINGERPRINT}\r\na=setup:actpass\r\n"


def section(kind: str, mid: str, direction: str = "recvonly", *more: str) -> str:
    text = {"audio": AUDIO, "video": VIDEO, "data": DATA}[kind] + f"a=mid:{mid}\r\n" + TRANSPORT
    if kind != "data":
        text += f"a=rtcp-mux\r\na={direction}\r\n"
    return text + "".join(f"{line}\r\n" for line in more)


def offer(*sections: str, bundle: str | None = None) -> str:
    mids = [line[6:] for one in sections for line in one.split("\r\n") if line.startswith("a=mid:")]
    group = " ".join(mids) if bundle is None else bundle
    return f"v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE {group}\r\n" + "".join(sections)


def placeholders(audios: int = 2, videos: int = 2) -> list[str]:
    kinds = ["audio"] * audios + ["video"] * videos
    return [*(section(kind, str(mid)) for mid, kind in enumerate(kinds)), section("data", str(len(kinds)))]


def answerer(**more: Any) -> Answerer:
    options: dict[str, Any] = {"enabled_codecs": CODECS, "client": models.ClientInfo(), "rng": Random(3)}
    return Answerer(**(options | more))


def answered(one: Answerer, text: str, preference: Preference | None = None) -> Answer:
    read = one.read(text)
    for published in read.published:
        if preference is not None and published.fresh:
            one.prefer(published.mid, preference)
    return one.answer(read, LOCAL)


def audio(name: str, **more: Any) -> Wanted:
    return Wanted(f"TR_A{name}", "PA_x", "audio", "audio/opus", **more)


def video(name: str, mime_type: str = "video/VP8", **more: Any) -> Wanted:
    return Wanted(f"TR_V{name}", "PA_x", "video", mime_type, **more)


def vector(name: str) -> str:
    return (VECTORS / f"{name}.sdp").read_bytes().decode()


def part(text: str, mid: str) -> list[str]:
    """Lines of the section with this mid."""
    for one in text.split("m=")[1:]:
        lines = ("m=" + one).split("\r\n")
        if f"a=mid:{mid}" in lines:
            return lines
    raise AssertionError(f"no section {mid}")
