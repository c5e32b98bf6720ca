"""Whatever text comes: a description that loses nothing, an answer, or a PeerError."""

import contextlib
from pathlib import Path
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from livekit.protocol import models

from tertulia.protocol import sdp
from tertulia.protocol.errors import PeerError
from tertulia.sfu.negotiation import Answerer, Offerer, Wanted
from tertulia.sfu.transport.api import LocalParameters

VECTORS = [path.read_bytes().decode() for path in sorted((Path(__file__).parents[1] / "vectors/sdp").glob("*.sdp"))]
LOCAL = LocalParameters("ours", "o" * 24, "sha-256", "AA:BB", ("1 1 udp 1 192.0.2.1 1 typ host",))
CODECS = ("audio/opus", "audio/red", "video/VP8", "video/VP9", "video/H264", "video/AV1")

words = st.text(alphabet=st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"]), max_size=30)
lines = st.tuples(st.sampled_from("abcikorstz"), words)
tokens = st.from_regex(r"[A-Za-z0-9./-]{1,12}", fullmatch=True)
sections = st.builds(
    sdp.Section,
    st.lists(lines, max_size=6),
    tokens,
    st.integers(0, 65535),
    st.integers(1, 65535),
    tokens,
    st.lists(tokens, max_size=6),
)
descriptions = st.builds(
    sdp.Description,
    st.lists(lines, max_size=6).map(lambda more: [("v", "0"), *more]),
    st.lists(sections, max_size=4),
)


@given(descriptions)
def test_a_description_comes_back(description: sdp.Description) -> None:
    text = sdp.build(description)
    again = sdp.parse(text)
    assert again == description
    assert sdp.build(again) == text


@given(st.text(max_size=200))
def test_any_text(text: str) -> None:
    with contextlib.suppress(PeerError):
        sdp.parse(text)
    with contextlib.suppress(PeerError):
        sdp.parse("v=0\n" + text)


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """A recorded text with a few lines dropped, doubled, moved or changed."""
    text = draw(st.sampled_from(VECTORS)).split("\r\n")
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(text) - 1))
        what = draw(st.sampled_from(("drop", "double", "move", "cut", "insert", "number", "value")))
        if what == "drop" and len(text) > 1:
            del text[at]
        elif what == "double":
            text.insert(at, text[at])
        elif what == "move":
            text.insert(draw(st.integers(0, len(text) - 1)), text.pop(at))
        elif what == "cut":
            text[at] = text[at][: draw(st.integers(0, len(text[at])))]
        elif what == "insert":
            place = draw(st.integers(0, len(text[at])))
            text[at] = text[at][:place] + draw(st.text(max_size=3)) + text[at][place:]
        elif what == "number":
            number = draw(st.sampled_from(("", "-1", "0", "15", "128", "256", "65536", "4294967296", "9" * 30)))
            text[at] = "".join(number if char.isdigit() else char for char in text[at])
        else:
            text[at] = text[at].partition(":")[0] + ":" + draw(words)
    return "\r\n".join(text)


@settings(max_examples=300)
@given(mutated())
def test_a_changed_offer_is_answered_or_refused(text: str) -> None:
    answerer = Answerer(enabled_codecs=CODECS, client=models.ClientInfo(), rng=Random(1))
    answerer.send(Wanted("TR_V", "PA", "video", "video/VP8"))
    answerer.send(Wanted("TR_A", "PA", "audio", "audio/opus", red=True, stereo=True))
    try:
        read = answerer.read(text)
    except PeerError:
        return
    answer = answerer.answer(read, LOCAL)
    said, offered = sdp.parse(answer.sdp), sdp.parse(text)
    assert [section.kind for section in said.sections] == [section.kind for section in offered.sections]
    for down in answer.down:
        section = next(one for one in said.sections if one.value("mid") == down.mid)
        assert str(down.payload.pt) in section.formats
        assert section.port != 0
    again = answerer.answer(answerer.read(text), LOCAL)
    assert {(down.mid, down.ssrc) for down in again.down} >= {(down.mid, down.ssrc) for down in answer.down}


@settings(max_examples=100)
@given(mutated())
def test_a_wild_answer_is_taken_or_refused(text: str) -> None:
    offerer = Offerer(enabled_codecs=CODECS, client=models.ClientInfo(), rng=Random(1))
    offerer.send(Wanted("TR_V", "PA", "video", "video/VP8"))
    offerer.offer(LOCAL)
    with contextlib.suppress(PeerError):
        offerer.accept(text)
