"""Descriptions: what our clients offer is what the server's own reader understands, in both directions."""

import pytest

from benchmarks.load import offer
from benchmarks.load.offer import Line, Local
from tertulia.protocol import sdp
from tertulia.protocol.errors import PeerError

LOCAL = Local("ufrag", "p" * 24, ":".join(["AB"] * 32))
LINES = [
    Line("0", "audio", "recvonly"),
    Line("1", "video", "recvonly"),
    Line("2", "application", "sendrecv"),
    Line("3", "video", "sendonly", "vp8", "cid-1", ("q", "h", "f")),
    Line("4", "audio", "sendonly", "opus", "cid-2", (), 77),
]

SERVER = """v=0
o=- 1 1 IN IP4 0.0.0.0
s=-
t=0 0
a=group:BUNDLE 0 1 2
a=ice-lite
a=fingerprint:sha-256 AA:BB:CC
m=application 9 UDP/DTLS/SCTP webrtc-datachannel
c=IN IP4 0.0.0.0
a=mid:0
a=sctp-port:5001
a=setup:actpass
a=ice-ufrag:server
a=ice-pwd:secret
a=candidate:1 1 udp 100 127.0.0.1 5000 typ host
a=candidate:2 1 udp 200 192.0.2.7 5001 typ host
a=candidate:3 1 tcp 300 127.0.0.1 5002 typ host tcptype passive
a=candidate:4 2 udp 400 127.0.0.1 5003 typ host
a=candidate:nonsense
m=video 9 UDP/TLS/RTP/SAVPF 101 102 45
c=IN IP4 0.0.0.0
a=mid:1
a=sendonly
a=extmap:5 http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01
a=extmap:6 urn:example:unknown
a=rtpmap:101 VP8/90000
a=rtcp-fb:101 nack pli
a=rtpmap:102 rtx/90000
a=fmtp:102 apt=101
a=rtpmap:45 AV1/90000
a=msid:PA_a|TR_v TR_v
a=ssrc-group:FID 11 12
a=ssrc:11 cname:x
a=ssrc:12 cname:x
m=audio 9 UDP/TLS/RTP/SAVPF 111
c=IN IP4 0.0.0.0
a=mid:2
a=inactive
a=rtpmap:111 opus/48000/2
"""


def test_offers_have_every_section_in_order() -> None:
    description = sdp.parse(offer.offer(LINES, LOCAL, 3))
    assert [(section.kind, section.value("mid")) for section in description.sections] == [
        (line.kind, line.mid) for line in LINES
    ]
    simulcast, single = description.sections[3:]
    assert simulcast.values("rid") == ["q send", "h send", "f send"]
    assert simulcast.value("simulcast") == "send q;h;f"
    assert simulcast.formats == ["96", "97"]
    assert single.value("msid") == "- cid-2"
    assert "77 cname:bench" in single.values("ssrc")
    assert description.sections[1].formats == ["96", "97", "98", "99"]


def test_the_server_is_read() -> None:
    remote = offer.read(SERVER)
    assert (remote.ufrag, remote.pwd, remote.sctp_port, remote.active) == ("server", "secret", 5001, False)
    assert remote.candidates == [("192.0.2.7", 5001), ("127.0.0.1", 5000)]
    assert remote.extensions == {offer.TWCC: 5}
    assert remote.incoming == [offer.Incoming("1", "video", 11, 12, "TR_v")]
    assert remote.codecs[101] == "vp8"


def test_our_answer_takes_what_we_can_decode() -> None:
    answer = sdp.parse(offer.answer(offer.read(SERVER), LOCAL, 1))
    data, video, audio = answer.sections
    assert data.kind == "application"
    assert video.formats == ["101", "102"]
    assert video.has("recvonly")
    assert video.value("setup") == "active"
    assert video.values("extmap") == ["5 http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01"]
    assert audio.has("inactive")


@pytest.mark.parametrize("without", ["a=ice-pwd:secret\n", "a=ice-ufrag:server\n", "a=fingerprint:sha-256 AA:BB:CC\n"])
def test_descriptions_nobody_can_connect_with(without: str) -> None:
    with pytest.raises(PeerError, match="lacks"):
        offer.read(SERVER.replace(without, ""))


@pytest.mark.parametrize("text", ["", "hello", "v=0\r\nm=video\r\n"])
def test_what_is_no_description(text: str) -> None:
    with pytest.raises(PeerError):
        offer.read(text)
