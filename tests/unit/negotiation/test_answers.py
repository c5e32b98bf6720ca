"""What an answer says: sections, codecs, extensions, simulcast, transport. By recorded offers and small ones."""

import re

import pytest
from livekit.protocol import models

from tertulia.protocol.sdp import parse
from tertulia.sfu.negotiation import Payload, Preference, codecs, extensions, sections, writing
from tertulia.sfu.negotiation.remembered import MAX_REMEMBERED_CHARS
from tertulia.sfu.plane.api import Extension
from tests.unit.negotiation.texts import (
    AUDIO,
    DATA,
    LOCAL,
    TRANSPORT,
    answered,
    answerer,
    audio,
    offer,
    part,
    placeholders,
    section,
    vector,
)

SERIES = {
    "js-sdk-v1": (1, 2, 3, 4, 5),
    "js-sdk-v0": (2, 3, 4),
    "python-sdk-v1": (1, 2, 3, 4),
    "python-sdk-v0": (1, 3, 4),
}


@pytest.mark.parametrize("client", SERIES)
def test_recorded_clients_are_answered_in_their_order(client: str) -> None:
    one = answerer(sends="v1" in client)
    versions = []
    for number in SERIES[client]:
        text = vector(f"{client}-{number}-offer")
        answer = answered(one, text)
        offered, said = parse(text), parse(answer.sdp)
        assert [s.value("mid") for s in said.sections] == [s.value("mid") for s in offered.sections]
        assert [s.kind for s in said.sections] == [s.kind for s in offered.sections]
        versions.append(int(said.lines[1][1].split()[2]))
        assert answer.has_data
    assert versions == sorted(set(versions))
    published = {one.kind: one for one in answer.published}
    assert len(published["video"].rids) == 3
    assert published["video"].rids[0] == ("f" if "python" in client else "q")
    assert published["video"].cid
    assert published["audio"].ssrcs


def test_every_useful_extension_is_accepted_in_placeholders() -> None:
    answer = answered(answerer(), vector("js-sdk-v1-1-offer"))
    lines = part(answer.sdp, "3")
    assert "a=inactive" in lines
    for uri in ("sdes:mid", "sdes:rtp-stream-id", "sdes:repaired-rtp-stream-id", "abs-send-time", "playout-delay"):
        assert [line for line in lines if line.startswith("a=extmap:") and line.endswith(uri)], uri
    wanted = {Extension.MID, Extension.RID, Extension.RRID, Extension.TWCC, Extension.AUDIO_LEVEL}
    assert wanted <= answer.extensions.keys()
    assert answer.extensions[Extension.TWCC] == 3
    assert not [line for line in answer.sdp.split("\r\n") if "msid:" in line]


def test_simulcast_is_echoed_in_the_offered_order() -> None:
    one = answerer()
    for number in (1, 2, 3):
        answered(one, vector(f"python-sdk-v1-{number}-offer"))
    lines = part(answered(one, vector("python-sdk-v1-4-offer")).sdp, "7")
    assert [line for line in lines if line.startswith("a=rid:")] == ["a=rid:f recv", "a=rid:h recv", "a=rid:q recv"]
    assert "a=simulcast:recv f;h;q" in lines
    assert "a=recvonly" in lines


def test_paused_layers_are_asked_for() -> None:
    rids = ("a=rid:q send", "a=rid:h send", "a=simulcast:send q;~h")
    answer = answered(answerer(), offer(section("video", "v", "sendonly", *rids)))
    assert "a=simulcast:recv q;h" in part(answer.sdp, "v")
    assert answer.published[0].rids == ("q", "h")


def test_feedback_is_what_both_want() -> None:
    (one,) = answered(answerer(), offer(section("video", "v", "sendonly"))).published
    assert one.payloads[0] == Payload(96, "video/VP8", 90000, rtx_pt=97, feedback=("transport-cc", "nack", "nack pli"))
    assert [payload.pt for payload in one.payloads] == [96, 98, 102, 103]
    assert one.payloads[1].rtx_pt == 0


def test_only_enabled_codecs() -> None:
    one = answerer(enabled_codecs=["video/vp9", "audio/opus"])
    answer = answered(one, offer(section("video", "v", "sendonly"), section("audio", "a", "sendonly")))
    assert part(answer.sdp, "v")[0] == "m=video 9 UDP/TLS/RTP/SAVPF 98"
    assert part(answer.sdp, "a")[0] == "m=audio 9 UDP/TLS/RTP/SAVPF 111"


def test_a_section_without_common_codec_is_refused() -> None:
    one = answerer(enabled_codecs=["audio/opus"])
    answer = answered(one, offer(section("video", "v", "sendonly"), section("audio", "a", "sendonly")))
    assert part(answer.sdp, "v")[0].startswith("m=video 0 ")
    assert "a=group:BUNDLE a\r\n" in answer.sdp
    assert "a=candidate:" in "\n".join(part(answer.sdp, "a")), "candidates are in the first section taken"
    assert [one.mid for one in answer.published] == ["a"]


@pytest.mark.parametrize(
    ("preference", "formats", "fmtp"),
    [
        (None, "111 63", "minptime=10;useinbandfec=1"),
        (Preference(dtx=False), "111 63", "minptime=10;useinbandfec=1"),
        (Preference(dtx=True), "111 63", "minptime=10;useinbandfec=1;usedtx=1"),
        (Preference(red=True, dtx=False), "63 111", "minptime=10;useinbandfec=1"),
        (
            Preference(stereo=True, dtx=False),
            "111 63",
            "minptime=10;useinbandfec=1;stereo=1;maxaveragebitrate=510000",
        ),
    ],
)
def test_opus(preference: Preference | None, formats: str, fmtp: str) -> None:
    lines = part(answered(answerer(), offer(section("audio", "a", "sendonly")), preference).sdp, "a")
    assert lines[0] == f"m=audio 9 UDP/TLS/RTP/SAVPF {formats}"
    assert f"a=fmtp:111 {fmtp}" in lines


def test_mono_is_answered_to_a_client_that_always_says_stereo() -> None:
    text = offer(section("audio", "a", "sendonly").replace("useinbandfec=1", "useinbandfec=1;stereo=1"))
    answer = answered(answerer(), text, Preference(dtx=False))
    assert "a=fmtp:111 minptime=10;useinbandfec=1" in part(answer.sdp, "a")


def test_red_of_something_else_is_not_taken() -> None:
    text = offer(section("audio", "a", "sendonly").replace("111/111", "9/9"))
    assert part(answered(answerer(), text).sdp, "a")[0].endswith(" 111")


@pytest.mark.parametrize(
    ("client", "formats"),
    [
        (models.ClientInfo(browser="chrome", os="linux"), "98 96 97 102 103"),
        (models.ClientInfo(browser="firefox", os="linux"), "98"),
        (models.ClientInfo(browser="firefox", os="windows"), "98 96 97 102 103"),
    ],
)
def test_the_preferred_codec_goes_first(client: models.ClientInfo, formats: str) -> None:
    one = answerer(client=client)
    answer = answered(one, offer(section("video", "v", "sendonly")), Preference("video/vp9"))
    assert part(answer.sdp, "v")[0] == f"m=video 9 UDP/TLS/RTP/SAVPF {formats}"
    assert answer.published[0].payloads[0].mime_type == "video/VP9"


def test_a_preference_lasts_for_its_track_only() -> None:
    one = answerer()
    text = offer(section("video", "v", "sendonly", "a=msid:- one"))
    answered(one, text, Preference("video/vp9"))
    assert answered(one, text).published[0].payloads[0].pt == 98
    other = answered(one, offer(section("video", "v", "sendonly", "a=msid:- two")))
    assert other.published[0].payloads[0].pt == 96
    assert other.published[0].fresh
    assert other.ended == ("v",)


def test_session_part_and_transport() -> None:
    text = answered(answerer(), offer(*placeholders())).sdp
    session, first, *_ = text.split("m=")
    assert session.startswith("v=0\r\no=- ")
    assert "a=ice-lite\r\n" in session
    assert "a=group:BUNDLE 0 1 2 3 4\r\n" in session
    for line in ("a=ice-ufrag:ours", f"a=fingerprint:sha-256 {LOCAL.fingerprint}", "a=setup:passive"):
        assert text.count(line) == 5
    assert text.count("a=candidate:") == 2
    assert first.endswith("a=end-of-candidates\r\n")
    assert "a=sctp-port:5000\r\na=max-message-size:262144\r\n" in text
    assert re.search(r"(?<!\r)\n|\r(?!\n)", text) is None


@pytest.mark.parametrize(("theirs", "ours"), [("actpass", "passive"), ("active", "passive"), ("passive", "active")])
def test_dtls_roles(theirs: str, ours: str) -> None:
    one = answerer()
    text = offer(section("data", "0"))
    assert f"a=setup:{ours}\r\n" in answered(one, text.replace("actpass", theirs)).sdp
    assert f"a=setup:{ours}\r\n" in answered(one, text).sdp, "the role stays"


def test_what_we_do_not_know_is_ignored() -> None:
    lines = ("a=sctp-init:AAAA", "a=x-google-flag:conference", "a=ice-options:trickle goog-sped-v1", "b=AS:5", "k=x")
    answer = answered(answerer(), offer(section("data", "0", "", *lines)).replace("t=0 0", "t=0 0\r\nz=0 0\r\na=odd"))
    assert "sctp-init" not in answer.sdp
    assert "goog" not in answer.sdp


def test_unknown_sections_are_refused_as_they_are() -> None:
    text = "m=text 9 RTP/AVP 98\r\na=mid:t\r\n"
    answer = answered(answerer(), offer(section("audio", "a"), text))
    assert part(answer.sdp, "t")[0] == "m=text 0 RTP/AVP 98"
    assert "BUNDLE a\r\n" in answer.sdp


def test_bundle_only_sections_are_taken() -> None:
    video = section("video", "v", "recvonly", "a=bundle-only").replace("m=video 9", "m=video 0")
    assert "BUNDLE a v\r\n" in answered(answerer(), offer(section("audio", "a"), video)).sdp


def test_without_bundle_only_the_first_section_is_taken() -> None:
    text = offer(section("audio", "a"), section("video", "v")).replace("a=group:BUNDLE a v\r\n", "")
    answer = answered(answerer(), text)
    assert part(answer.sdp, "v")[0].startswith("m=video 0 ")


def test_transport_lines_of_the_session_count() -> None:
    body = AUDIO + "a=mid:a\r\na=rtcp-mux\r\na=recvonly\r\n" + DATA + "a=mid:d\r\n"
    text = "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=group:BUNDLE a d\r\n" + TRANSPORT + body
    remote = answerer().read(text).remote
    assert (remote.ufrag, remote.sctp_port, remote.max_message_bytes) == ("them", 5000, 262144)


def test_contradicting_extension_numbers_lose_the_later_section() -> None:
    text = offer(section("audio", "a"), section("video", "v").replace("extmap:4 ", "extmap:7 "))
    answer = answered(answerer(), text)
    assert answer.extensions[Extension.MID] == 4
    assert not [line for line in part(answer.sdp, "v") if line.endswith("sdes:mid")]


def test_two_byte_numbers_are_left_out() -> None:
    text = offer(section("video", "v").replace("extmap:10 ", "extmap:20 "))
    assert Extension.RID not in answered(answerer(), text).extensions


def test_a_publisher_connection_sends_nothing() -> None:
    one = answerer(sends=False)
    one.send(audio("x"))
    answer = answered(one, offer(*placeholders()))
    assert answer.down == ()
    assert part(answer.sdp, "0").count("a=inactive") == 1
    assert one.take_requirement() is None


def test_what_clients_of_one_make_are_answered_is_written_once() -> None:
    first = answered(answerer(), offer(*placeholders()))
    misses = writing._agreed.cache_info().misses
    second = answered(answerer(), offer(*placeholders()).replace("a=ice-ufrag:them", "a=ice-ufrag:another"))
    assert second.sdp == first.sdp
    assert writing._agreed.cache_info().misses == misses


def test_a_codec_with_endless_parameters_is_answered_and_not_remembered() -> None:
    endless = "x=" + "y" * MAX_REMEMBERED_CHARS
    kept = [cache.cache_info().misses for cache in (writing._agreed, codecs._common_payloads)]
    answer = answered(answerer(), offer(section("audio", "0").replace("minptime=10;useinbandfec=1", endless)))
    assert f"a=fmtp:111 {endless}" in part(answer.sdp, "0")
    assert [cache.cache_info().misses for cache in (writing._agreed, codecs._common_payloads)] == kept


def test_extensions_with_endless_names_are_not_remembered() -> None:
    kept = [cache.cache_info().misses for cache in (sections._extmaps, extensions._accept)]
    endless = f"a=extmap:9 urn:{'x' * MAX_REMEMBERED_CHARS}\r\na=mid:0"
    answer = answered(answerer(), offer(section("audio", "0").replace("a=mid:0", endless)))
    assert "a=extmap:9" not in part(answer.sdp, "0")
    assert [cache.cache_info().misses for cache in (sections._extmaps, extensions._accept)] == kept
