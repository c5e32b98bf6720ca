"""Offers nobody should make: a clear error, and the connection as it was."""

import pytest

from tertulia.protocol.errors import PeerError
from tertulia.protocol.sdp import MAX_SDP_BYTES, MAX_SECTIONS
from tests.unit.negotiation.texts import answered, answerer, offer, part, placeholders, section, video

GOOD = offer(*placeholders())
MANY = "".join(f"a=candidate:{n} 1 udp 1 192.0.2.1 {n % 65535} typ host\r\n" for n in range(10_000))

BAD = {
    "": "begin with v=0",
    "v=0": "no section",
    "hello": "form x=value",
    GOOD.replace("\r\n", "\r"): "carriage return",
    GOOD.replace("\r\n", "\0\r\n", 1): "zero byte",
    GOOD + "a=x:" + "y" * 20_000 + "\r\n": "longer than",
    GOOD + "a=x\r\n" * (MAX_SDP_BYTES // 5): "longer than",
    offer(*(section("audio", str(mid)) for mid in range(MAX_SECTIONS + 1))): f"more than {MAX_SECTIONS} sections",
    offer(*([f"m=audio 0 RTP/SAVPF 0\r\na=mid:{n}\r\n" for n in range(1000)])): f"more than {MAX_SECTIONS} sections",
    offer(section("audio", "a")) + MANY: "lines",
    offer(*(section("audio", str(n), "recvonly", *(["a=candidate:1"] * 200)) for n in range(5))): "candidates",
    offer(section("audio", "a"), section("audio", "a")): "same mid",
    offer(section("audio", "a" * 17)): "a=mid",
    offer(section("audio", "a"), bundle="a b"): "BUNDLE",
    offer(section("audio", "a").replace("SAVPF 111", "SAVPF 200 111")): "payload type",
    offer(section("audio", "a").replace("rtpmap:111", "rtpmap:200")): "payload type",
    offer(section("audio", "a").replace("SAVPF 111", "SAVPF 111 111")): "twice",
    offer(section("audio", "a").replace("m=audio 9 ", "m=audio 70000 ")): "65535",
    offer(section("audio", "a").replace("m=audio 9 ", "m=audio x ")): "m= line",
    offer(section("audio", "a", "recvonly", "a=rtpmap:111 PCMU/8000")): "two different",
    offer(section("audio", "a", "recvonly", "a=rtpmap:opus")): "a=rtpmap",
    offer(section("audio", "a").replace("extmap:4 ", "extmap:0 ")): "extension id 0",
    offer(section("audio", "a").replace("extmap:4 ", "extmap:15 ")): "extension id 15",
    offer(section("audio", "a").replace("extmap:4 ", "extmap:256 ")): "extension id 256",
    offer(section("audio", "a").replace("extmap:4 ", "extmap:1 ")): "used twice",
    offer(section("audio", "a").replace("a=fingerprint", "a=fingerpaint")): "a=fingerprint",
    offer(section("audio", "a").replace("sha-256 A5", "sha-256 QQ")): "a=fingerprint",
    offer(section("audio", "a").replace("a=ice-pwd", "a=ice-x")): "a=ice-pwd",
    offer(section("audio", "a").replace("a=ice-ufrag:them", "a=ice-ufrag:a b\tc")): "a=ice-ufrag",
    offer(section("audio", "a").replace("actpass", "holdconn")): "a=setup",
    offer(section("audio", "a", "recvonly", "a=setup:active")): "a=setup",
    offer(section("audio", "a", "recvonly", "a=sendonly")): "two directions",
    GOOD.replace("sctp-port:5000", "sctp-port:70000"): "sctp-port",
    GOOD.replace("sctp-port:5000", "sctp-port:0"): "sctp-port",
    GOOD.replace("a=sctp-port:5000\r\n", ""): "sctp-port",
    GOOD.replace("size:262144", "size:-1"): "max-message-size",
    GOOD.replace("t=0 0\r\n", "t=0 0\r\na=ice-lite\r\n"): "ICE-lite",
    offer(section("video", "v", "sendonly", "a=simulcast:send q;h")): "without an a=rid",
    offer(section("video", "v", "sendonly", "a=rid:q send", "a=simulcast:up q")): "a=simulcast",
    offer(section("video", "v", "sendonly", "a=rid:q!")): "a=rid",
    offer(section("video", "v", "sendonly", *(f"a=rid:r{n} send" for n in range(20)))): "rids",
    offer(section("video", "v", "sendonly", *(f"a=ssrc:{n} cname:x" for n in range(100)))): "ssrcs",
    offer(section("video", "v", "sendonly", "a=ssrc:99999999999 cname:x")): "a=ssrc",
    offer(section("video", "v", "sendonly", "a=ssrc:4294967296 cname:x")): "ssrc",
    offer(section("video", "v").replace("UDP/TLS/RTP/SAVPF", "RTP/AVP")): "no section we can use",
    offer(section("video", "v").replace("a=rtcp-mux\r\n", "")): "no section we can use",
}


@pytest.mark.parametrize(("text", "words"), BAD.items(), ids=[f"{n}-{words}" for n, words in enumerate(BAD.values())])
def test_a_bad_offer_is_refused_in_words(text: str, words: str) -> None:
    one = answerer()
    one.send(video("a"))
    before = answered(one, GOOD)
    with pytest.raises(PeerError, match=words) as caught:
        one.read(text)
    assert "t" * 24 not in str(caught.value), "offers hold passwords, errors end in logs"
    after = answered(one, GOOD)
    assert after.down[0].ssrc == before.down[0].ssrc
    assert not after.down[0].fresh


def test_fewer_sections_than_before() -> None:
    one = answerer()
    answered(one, GOOD)
    with pytest.raises(PeerError, match="fewer sections"):
        one.read(offer(*placeholders(1, 1)))


def test_a_running_section_keeps_its_mid() -> None:
    one = answerer()
    answered(one, GOOD)
    with pytest.raises(PeerError, match="changed its mid"):
        one.read(offer(section("audio", "other"), *placeholders()[1:]))


def test_a_stopped_section_may_be_used_again() -> None:
    one = answerer()
    answered(one, GOOD)
    stopped = section("audio", "0", "inactive").replace("m=audio 9", "m=audio 0")
    answer = answered(one, offer(stopped, *placeholders()[1:], bundle="1 2 3 4"))
    assert part(answer.sdp, "0")[0].startswith("m=audio 0 ")
    assert "BUNDLE 1 2 3 4\r\n" in answer.sdp
    answer = answered(one, offer(section("video", "new"), *placeholders()[1:]))
    assert part(answer.sdp, "new")[0].startswith("m=video 9 ")


def test_the_dtls_role_stays() -> None:
    one = answerer()
    answered(one, GOOD)
    with pytest.raises(PeerError, match="role"):
        one.read(GOOD.replace("actpass", "passive"))
