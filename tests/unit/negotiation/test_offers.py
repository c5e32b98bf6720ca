"""Our offers on the subscriber connection, answered by a small client of the test."""

from random import Random

import pytest
from livekit.protocol import models

from tertulia.protocol import sdp
from tertulia.protocol.errors import PeerError
from tertulia.sfu.negotiation import Accepted, Offerer
from tertulia.sfu.negotiation.reading import Reader
from tertulia.sfu.plane.api import Extension
from tests.unit.negotiation.texts import CODECS, LOCAL, TRANSPORT, audio, part, vector, video


def offerer(browser: str = "") -> Offerer:
    return Offerer(enabled_codecs=CODECS, client=models.ClientInfo(browser=browser), rng=Random(5))


def answer_to(text: str, *, without: str = "", refuse: str = "") -> str:
    """What a client answers: everything received, one codec left out, one mid refused."""
    description = sdp.parse(text)
    mids = []
    for section in description.sections:
        mid = section.value("mid")
        kept = []
        for kind, value in section.lines:
            name = value.partition(":")[0]
            line = (kind, value)
            if name in ("sendonly",):
                line = ("a", "recvonly")
            if name in ("msid", "ssrc", "ssrc-group", "candidate", "end-of-candidates", "ice-ufrag", "ice-pwd"):
                continue
            if name in ("fingerprint", "setup") or (without and f" {without}/" in value):
                continue
            kept.append(line)
        section.lines = kept
        if mid == refuse:
            section.port = 0
        else:
            mids.append(mid)
        for line in TRANSPORT.replace("actpass", "active").split("\r\n")[:-1]:
            section.lines.append(("a", line[2:]))
    description.lines = [one for one in description.lines if not one[1].startswith(("group", "ice-lite"))]
    description.lines.append(("a", " ".join(["group:BUNDLE", *map(str, mids)])))
    return sdp.build(description)


def settled(one: Offerer, **how: str) -> Accepted:
    return one.accept(answer_to(one.offer(LOCAL).sdp, **how))


def test_the_first_offer_opens_the_connection() -> None:
    one = offerer()
    assert one.is_due
    offer = one.offer(LOCAL)
    assert (one.is_due, one.is_waiting) == (False, True)
    assert offer.sdp.split("m=")[1].startswith("application 9 UDP/DTLS/SCTP webrtc-datachannel\r\n")
    assert "a=setup:actpass\r\n" in offer.sdp
    assert "a=ice-lite\r\n" in offer.sdp
    assert offer.mid_to_track_id == {}
    accepted = one.accept(answer_to(offer.sdp))
    assert (accepted.remote.setup, accepted.remote.sctp_port) == ("active", 5000)
    assert (one.is_due, one.is_waiting) == (False, False)


def test_tracks_get_sections_with_the_usual_numbers() -> None:
    one = offerer()
    settled(one)
    one.send(audio("a", stereo=True))
    one.send(video("b", "video/VP9", fmtp="profile-id=0"))
    assert one.is_due
    offer = one.offer(LOCAL)
    assert offer.mid_to_track_id == {"1": "TR_Aa", "2": "TR_Vb"}
    assert part(offer.sdp, "1")[0] == "m=audio 9 UDP/TLS/RTP/SAVPF 111 63"
    assert "a=fmtp:111 minptime=10;useinbandfec=1;sprop-stereo=1" in part(offer.sdp, "1")
    assert part(offer.sdp, "2")[0].startswith("m=video 9 UDP/TLS/RTP/SAVPF 98 99 96 97 ")
    accepted = one.accept(answer_to(offer.sdp))
    assert [(down.mid, down.payload.pt, down.payload.rtx_pt) for down in accepted.down] == [
        ("1", 111, 0),
        ("2", 98, 99),
    ]
    assert all(down.fresh for down in accepted.down)
    assert accepted.extensions[Extension.TWCC] == 3
    assert not one.is_due
    assert [down.fresh for down in settled(one).down] == [False, False]


def test_changes_wait_for_the_offer_in_flight() -> None:
    one = offerer()
    offer = one.offer(LOCAL)
    one.send(audio("a"))
    assert not one.is_due
    assert one.accept(answer_to(offer.sdp)).down == ()
    assert one.is_due


def test_a_track_stopped_in_flight_is_not_reported() -> None:
    one = offerer()
    one.send(audio("a"))
    offer = one.offer(LOCAL)
    one.stop("TR_Aa")
    accepted = one.accept(answer_to(offer.sdp))
    assert accepted.down == ()
    assert one.is_due
    assert settled(one).stopped == ("TR_Aa",)


def test_an_idle_section_is_used_again_with_a_new_ssrc() -> None:
    one = offerer()
    one.send(audio("a"))
    first = settled(one)
    one.stop("TR_Aa")
    one.send(audio("b"))
    second = settled(one)
    assert second.stopped == ("TR_Aa",)
    assert [down.mid for down in second.down] == ["2"], "not in the offer that ends the old track"
    one.send(audio("c"))
    third = settled(one)
    assert {down.mid: down.track_sid for down in third.down} == {"2": "TR_Ab", "1": "TR_Ac"}
    assert {down.mid: down.ssrc for down in third.down}["1"] != first.down[0].ssrc


def test_safari_gets_a_section_for_every_track() -> None:
    one = offerer("Safari")
    one.send(audio("a"))
    settled(one)
    one.stop("TR_Aa")
    settled(one)
    one.send(audio("b"))
    assert [down.mid for down in settled(one).down] == ["2"]


def test_a_codec_the_client_does_not_answer() -> None:
    one = offerer()
    one.send(video("a", "video/AV1"))
    one.send(video("b"))
    accepted = settled(one, without="AV1")
    assert accepted.unsupported == ("TR_Va",)
    assert [down.track_sid for down in accepted.down] == ["TR_Vb"]
    assert one.is_due, "the section that stays empty is said to be inactive"
    assert "a=inactive" in part(one.offer(LOCAL).sdp, "1")


def test_a_refused_section_is_dead() -> None:
    one = offerer()
    one.send(video("a"))
    accepted = settled(one, refuse="1")
    assert accepted.unsupported == ("TR_Va",)
    one.send(video("b"))
    offer = one.offer(LOCAL)
    assert part(offer.sdp, "1")[0].startswith("m=video 0 ")
    assert "BUNDLE 0 2\r\n" in offer.sdp
    assert [down.mid for down in one.accept(answer_to(offer.sdp, refuse="1")).down] == ["2"]


def test_an_abandoned_offer_is_made_again() -> None:
    one = offerer()
    one.send(audio("a"))
    first = one.offer(LOCAL)
    one.abandon()
    assert one.is_due
    one.send(audio("b"))
    second = one.offer(LOCAL)
    assert second.mid_to_track_id == {"1": "TR_Aa", "2": "TR_Ab"}
    version = [int(sdp.parse(offer.sdp).lines[1][1].split()[2]) for offer in (first, second)]
    assert version[0] < version[1]
    assert len(one.accept(answer_to(second.sdp)).down) == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("a=mid:1", "a=mid:9"), "BUNDLE|mid"),
        (("a=setup:active", "a=setup:actpass"), "a=setup"),
        (("m=audio", "m=video"), "kind|no a=mid|another"),
        (("v=0", "v=1"), "v=0"),
    ],
)
def test_a_bad_answer_changes_nothing(change: tuple[str, str], words: str) -> None:
    one = offerer()
    one.send(audio("a"))
    good = answer_to(one.offer(LOCAL).sdp)
    with pytest.raises(PeerError, match=words):
        one.accept(good.replace(*change))
    with pytest.raises(PeerError, match="sections"):
        one.accept(good.split("m=audio")[0].replace("BUNDLE 0 1", "BUNDLE 0"))
    assert one.is_waiting
    assert len(one.accept(good).down) == 1
    with pytest.raises(PeerError, match="without an offer"):
        one.accept(good)


@pytest.mark.parametrize("name", ["js-sdk-v0-1-subscriber-answer", "python-sdk-v0-2-subscriber-answer"])
def test_recorded_answers_are_understood(name: str) -> None:
    """Recorded against another server's offer, so only reading is tried."""
    read = Reader(frozenset({"audio/opus"})).read(vector(name))
    media = [section for section in read.sections if section.kind == "audio"]
    assert read.remote.setup == "active"
    assert [section.receives for section in media] == [True]
    assert media[0].payloads[0].mime_type == "audio/opus"
