"""Tracks find, keep and lose sections on the single connection."""

import pytest
from livekit.protocol import models

from tertulia.sfu.negotiation.answerer import MAX_FRUITLESS
from tests.unit.negotiation.texts import LOCAL, answered, answerer, audio, offer, part, placeholders, section, video


def asked(one: object) -> tuple[int, int] | None:
    requirement = one.take_requirement()  # type: ignore[attr-defined]
    return None if requirement is None else (requirement.num_audios, requirement.num_videos)


def test_a_placeholder_is_filled_and_signalled() -> None:
    one = answerer()
    answered(one, offer(*placeholders()))
    assert asked(one) is None
    one.send(video("a"))
    assert asked(one) == (0, 0)
    assert asked(one) is None, "one requirement is out"
    answer = answered(one, offer(*placeholders()))
    (down,) = answer.down
    assert (down.mid, down.track_sid, down.fresh, down.payload.pt, down.payload.rtx_pt) == ("2", "TR_Va", True, 96, 97)
    lines = part(answer.sdp, "2")
    assert "a=sendonly" in lines
    assert "a=msid:PA_x|TR_Va TR_Va" in lines
    assert f"a=ssrc-group:FID {down.ssrc} {down.rtx_ssrc}" in lines
    assert f"a=ssrc:{down.ssrc} cname:PA_x" in lines
    assert answer.mid_to_track_id == {"2": "TR_Va"}
    assert asked(one) is None


def test_the_map_is_full_every_time_and_old_sections_are_not_fresh() -> None:
    one = answerer()
    one.send(audio("a"))
    first = answered(one, offer(*placeholders()))
    one.send(video("b"))
    second = answered(one, offer(*placeholders()))
    assert second.mid_to_track_id == {"0": "TR_Aa", "2": "TR_Vb"}
    assert [(down.track_sid, down.fresh) for down in second.down] == [("TR_Aa", False), ("TR_Vb", True)]
    assert second.down[0].ssrc == first.down[0].ssrc


def test_sections_are_asked_for_when_there_are_too_few() -> None:
    one = answerer()
    answered(one, offer(*placeholders(1, 1)))
    for name in "abc":
        one.send(audio(name))
    one.send(video("d"))
    assert asked(one) == (2, 0)
    answer = answered(one, offer(*placeholders(1, 1), section("audio", "8"), section("audio", "9")))
    assert answer.mid_to_track_id == {"0": "TR_Aa", "1": "TR_Vd", "8": "TR_Ab", "9": "TR_Ac"}


def test_a_freed_section_rests_for_one_answer_and_gets_a_new_ssrc() -> None:
    one = answerer()
    one.send(video("a"))
    first = answered(one, offer(*placeholders(0, 1)))
    one.stop("TR_Va")
    one.send(video("b"))
    assert asked(one) == (0, 0), "no section is missing: one is about to be free"
    second = answered(one, offer(*placeholders(0, 1)))
    assert (second.stopped, second.down) == (("TR_Va",), ())
    assert "a=inactive" in part(second.sdp, "0")
    assert not [line for line in part(second.sdp, "0") if "msid" in line or "ssrc" in line]
    assert asked(one) == (0, 0)
    third = answered(one, offer(*placeholders(0, 1)))
    assert third.mid_to_track_id == {"0": "TR_Vb"}
    assert third.down[0].ssrc != first.down[0].ssrc


def test_stop_and_send_again_before_an_answer_changes_nothing() -> None:
    one = answerer()
    one.send(video("a"))
    first = answered(one, offer(*placeholders()))
    one.stop("TR_Va")
    one.send(video("a"))
    assert asked(one) is None
    second = answered(one, offer(*placeholders()))
    assert (second.down[0].ssrc, second.down[0].fresh) == (first.down[0].ssrc, False)


def test_a_wish_with_other_values_gets_new_numbers_in_its_section() -> None:
    one = answerer()
    one.send(video("a", "video/VP8"))
    first = answered(one, offer(*placeholders()))
    one.send(video("a", "video/H264", fmtp="packetization-mode=1;profile-level-id=42e01f"))
    assert asked(one) == (0, 0)
    second = answered(one, offer(*placeholders()))
    (down,) = second.down
    assert (down.mid, down.payload.pt, down.fresh) == (first.down[0].mid, 102, True)
    assert down.ssrc != first.down[0].ssrc


def test_a_codec_the_client_lacks() -> None:
    one = answerer()
    one.send(video("a", "video/AV1"))
    one.send(video("b", "video/VP9", fmtp="profile-id=2"))
    answer = answered(one, offer(*placeholders()))
    assert answer.unsupported == ("TR_Va", "TR_Vb")
    assert asked(one) is None


def test_a_codec_that_only_another_section_lacks_waits() -> None:
    one = answerer()
    one.send(video("a", "video/VP9"))
    narrow = section("video", "n").replace(
        "m=video 9 UDP/TLS/RTP/SAVPF 96 97 98 102 103", "m=video 9 UDP/TLS/RTP/SAVPF 96"
    )
    answer = answered(one, offer(narrow, section("video", "w")))
    assert answer.mid_to_track_id == {"w": "TR_Va"}
    one.send(video("b", "video/VP9"))
    assert asked(one) == (0, 1)


@pytest.mark.parametrize(
    ("fmtp", "pt"),
    [
        ("", 102),
        ("packetization-mode=1;profile-level-id=42001f", 102),
        ("packetization-mode=0;profile-level-id=42e01f", 103),
        ("profile-level-id=640028;packetization-mode=1", 102),
    ],
)
def test_h264_profiles(fmtp: str, pt: int) -> None:
    one = answerer()
    one.send(video("a", "video/h264", fmtp=fmtp))
    assert answered(one, offer(*placeholders())).down[0].payload.pt == pt


def test_h264_mode_one_is_not_sent_to_a_client_of_mode_zero() -> None:
    one = answerer()
    one.send(video("a", "video/H264", fmtp="packetization-mode=1;profile-level-id=42e01f"))
    text = offer(*placeholders()).replace("packetization-mode=1", "packetization-mode=0")
    assert answered(one, text).unsupported == ("TR_Va",)


@pytest.mark.parametrize(("browser", "pt"), [("chrome", 63), ("firefox", None), ("safari", None)])
def test_red_is_named_only_where_it_is_played(browser: str, pt: int | None) -> None:
    one = answerer(client=models.ClientInfo(browser=browser))
    one.send(audio("a", red=True))
    one.send(audio("b"))
    with_red, without = answered(one, offer(*placeholders())).down
    assert (with_red.red.pt if with_red.red else None) == pt
    assert without.red is None
    assert with_red.payload.pt == 111


def test_stereo_is_said_where_it_is_sent() -> None:
    one = answerer()
    one.send(audio("a", stereo=True))
    answer = answered(one, offer(*placeholders()))
    assert "a=fmtp:111 minptime=10;useinbandfec=1;sprop-stereo=1" in part(answer.sdp, "0")
    assert "a=fmtp:111 minptime=10;useinbandfec=1" in part(answer.sdp, "1")


def test_streams_by_name() -> None:
    one = answerer()
    one.send(video("a", stream_name="camera"))
    assert "a=msid:PA_x|camera TR_Va\r\n" in answered(one, offer(*placeholders())).sdp


def test_a_section_taken_back_moves_its_track() -> None:
    one = answerer()
    one.send(video("a"))
    answered(one, offer(*placeholders(0, 2)))
    answer = answered(one, offer(section("video", "0", "inactive"), section("video", "1"), section("data", "2")))
    assert answer.stopped == ("TR_Va",)
    assert answer.mid_to_track_id == {"1": "TR_Va"}
    assert answer.down[0].fresh


def test_recvonly_sections_go_before_publishing_ones() -> None:
    one = answerer()
    one.send(audio("a"))
    both = section("audio", "0", "sendrecv", "a=msid:- mic")
    answer = answered(one, offer(both, section("audio", "1")))
    assert answer.mid_to_track_id == {"1": "TR_Aa"}
    one.send(audio("b"))
    answer = answered(one, offer(both, section("audio", "1")))
    assert answer.mid_to_track_id["0"] == "TR_Ab"
    assert "a=sendrecv" in part(answer.sdp, "0")


def test_a_client_that_never_adds_sections_is_not_asked_for_ever() -> None:
    one = answerer()
    answered(one, offer(*placeholders(0, 1)))
    one.send(audio("a"))
    rounds = 0
    while asked(one) is not None:
        answered(one, offer(*placeholders(0, 1)))
        rounds += 1
        assert rounds <= MAX_FRUITLESS
    assert rounds == MAX_FRUITLESS
    one.send(audio("b"))
    assert asked(one) == (2, 0), "a new wish is a new reason"


def test_a_requirement_that_may_be_lost_is_said_again() -> None:
    one = answerer()
    answered(one, offer(*placeholders()))
    one.send(audio("a"))
    assert asked(one) == (0, 0)
    one.forget_requirement()
    assert asked(one) == (0, 0)


def test_published_sections_come_and_go() -> None:
    one = answerer()
    text = offer(section("audio", "0", "sendonly", "a=msid:s1 c1", "a=ssrc:77 cname:x"))
    (first,) = one.read(text).published
    assert (first.stream_id, first.cid, first.ssrcs, first.fresh) == ("s1", "c1", (77,), True)
    answered(one, text)
    assert not one.read(text).published[0].fresh
    nameless = one.read(offer(section("audio", "0", "sendonly"))).published[0]
    assert (nameless.cid, nameless.fresh) == ("c1", False)
    gone = one.read(offer(section("audio", "0", "inactive")))
    assert (gone.published, gone.ended) == ((), ("0",))


def test_ssrc_groups() -> None:
    lines = ("a=ssrc-group:SIM 1 2", "a=ssrc-group:FID 1 3", "a=ssrc-group:FID 2 4")
    lines += tuple(f"a=ssrc:{n} cname:x" for n in (1, 3, 2, 4))
    (one,) = answerer().read(offer(section("video", "0", "sendonly", *lines))).published
    assert (one.ssrcs, one.rtx_ssrcs) == ((1, 2), {1: 3, 2: 4})


def test_offers_are_answered_in_order() -> None:
    one = answerer()
    early, late = one.read(offer(*placeholders())), one.read(offer(*placeholders()))
    one.answer(early, LOCAL)
    with pytest.raises(AssertionError):
        one.answer(late, LOCAL)
