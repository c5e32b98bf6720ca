"""Round after round of negotiation: who remembers the last round says exactly what he says who reads and writes anew.

Sections come, end, change, move and are doubled; texts are spoilt on the way.
"""

from collections.abc import Callable
from random import Random
from typing import Any, TypeVar

from hypothesis import example, given
from hypothesis import strategies as st
from livekit.protocol import models

from tertulia.protocol import sdp
from tertulia.protocol.errors import PeerError
from tertulia.sfu.negotiation import Answerer, Offerer, Preference, Wanted, codecs
from tertulia.sfu.negotiation.reading import Reader
from tertulia.sfu.negotiation.writing import Drafts
from tests.unit.negotiation import texts

ENABLED = codecs.enabled_set(texts.CODECS)
T = TypeVar("T")

DIRECTIONS = ("sendrecv", "sendonly", "recvonly", "inactive")
EXTENSIONS = ("a=extmap:7 urn:ietf:params:rtp-hdrext:sdes:mid", "a=extmap:1 urn:3gpp:video-orientation", "a=extmap:0 x")
LINES = (
    *EXTENSIONS,
    *(f"a={direction}" for direction in DIRECTIONS),
    "a=msid:- other",
    "a=rid:q send",
    "a=simulcast:send q;h",
    "a=ssrc:5 cname:x",
    "a=bundle-only",
    "a=candidate:1 1 udp 1 192.0.2.9 9 typ host",
    "a=mid:1",
    "a=fmtp:111 useinbandfec=0",
    "",
    "x",
    "m=audio 9 UDP/TLS/RTP/SAVPF 111",
    "a=x\rb",
    "a=" + "y" * 20_000,
)

changes = st.lists(
    st.tuples(
        st.sampled_from(
            (
                "add",
                "add",
                "end",
                "turn",
                "turn",
                "say",
                "session",
                "swap",
                "double",
                "drop",
                "cut",
                "number",
                "group",
                "nothing",
            )
        ),
        st.integers(0, 40),
        st.integers(0, 200),
    ),
    max_size=3,
)
rounds = st.lists(
    st.tuples(changes, st.lists(st.tuples(st.integers(0, 400), st.sampled_from(LINES)), max_size=1), st.booleans()),
    min_size=2,
    max_size=7,
)


class Client:
    """Sections of an offer that changes a little from round to round."""

    def __init__(self) -> None:
        self.sections = texts.placeholders(1, 1)
        self.session = ""
        self.outside = ""
        """A mid that is not in the bundle."""
        self._mids = 10

    def change(self, what: str, at: int, how: int) -> None:
        at %= max(1, len(self.sections))
        if what == "add":
            self._mids += 1
            kind = ("audio", "video", "video", "data")[how % 4]
            more = (f"a=msid:- cid{how}",) if how % 3 and kind != "data" else ()
            self.sections.append(texts.section(kind, str(self._mids), DIRECTIONS[how % 4], *more))
        elif what == "session":
            self.session = LINES[how % 7] + "\r\n" if how % 3 else ""
        elif what == "group":
            self.outside = str(how % 3) if how % 4 else ""
        elif self.sections:
            self._of_one(what, at, how)

    def _of_one(self, what: str, at: int, how: int) -> None:
        one = self.sections[at]
        if what == "end":
            self.sections[at] = one.replace(" 9 ", " 0 ", 1)
        elif what == "turn":
            for direction in DIRECTIONS:
                one = one.replace(f"a={direction}\r\n", f"a={DIRECTIONS[how % 4]}\r\n")
            self.sections[at] = one
        elif what == "number":
            self.sections[at] = one.replace("a=extmap:4 ", "a=extmap:7 ")
        elif what == "say":
            self.sections[at] = f"{one}{LINES[how % 11]}\r\n"
        elif what == "swap":
            other = how % len(self.sections)
            self.sections[at], self.sections[other] = self.sections[other], one
        elif what == "double":
            self.sections.insert(how % len(self.sections), one)
        elif what == "drop":
            del self.sections[at]
        elif what == "cut":
            lines = one.split("\r\n")
            del lines[how % len(lines)]
            self.sections[at] = "\r\n".join(lines)

    def offer(self, spoilt: list[tuple[int, str]], bare: bool) -> str:
        mids = [line[6:] for one in self.sections for line in one.split("\r\n") if line.startswith("a=mid:")]
        bundle = " ".join(mid for mid in mids if mid != self.outside)
        text = texts.offer(*self.sections, bundle=bundle).replace("t=0 0\r\n", f"t=0 0\r\n{self.session}")
        for at, line in spoilt:
            lines = text.split("\r\n")
            lines.insert(at % (len(lines) + 1), line)
            text = "\r\n".join(lines)
        return text.replace("\r\n", "\n") if bare else text


def offers(script: list[Any]) -> list[str]:
    client, said = Client(), []
    for changed, spoilt, bare in script:
        for change in changed:
            client.change(*change)
        said.append(client.offer(spoilt, bare))
    return said


def tried(work: Callable[[], T]) -> T | str:
    try:
        return work()
    except PeerError as error:
        return f"refused: {error}"


@given(rounds)
def test_the_pieces_of_a_text_are_what_the_whole_is(script: list[Any]) -> None:
    for text in offers(script):
        whole = tried(lambda text=text: sdp.parse(text))  # type: ignore[misc]
        if (pieces := sdp.cut(text)) is None:
            continue
        try:
            session, sections = sdp.session_part(pieces[0]), [sdp.section_part(piece) for piece in pieces[1]]
        except PeerError:
            continue
        assert isinstance(whole, sdp.Description), whole
        assert session.lines == whole.lines
        assert sections == whole.sections


@given(rounds)
@example([([], [], False), ([("group", 0, 1)], [], False)])
@example([([], [], False), ([("number", 0, 0)], [], False)])
@example([([], [], False), ([("session", 0, 4)], [], False)])
@example([([("session", 0, 19)], [(1, "a=sendrecv")], False)])
def test_a_reader_that_remembers_reads_as_one_that_does_not(script: list[Any]) -> None:
    remembering = Reader(ENABLED)
    for text in offers(script):
        plain = text.replace("\r\n", "\n")  # read without pieces
        heard = tried(lambda text=text: remembering.read(text))  # type: ignore[misc]
        assert heard == tried(lambda text=text: Reader(ENABLED).read(text))  # type: ignore[misc]
        if "\r" not in plain:
            assert heard == tried(lambda plain=plain: Reader(ENABLED).read(plain))  # type: ignore[misc]
        assert len(remembering._known) <= text.count("\nm=")


wishes = st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.integers(0, 5)), max_size=4)


def wish(side: Answerer | Offerer, number: int, wanted: bool, how: int) -> None:
    video = number % 2
    mime = ("video/VP8", "video/H264", "video/AV1")[how % 3] if video else "audio/opus"
    if wanted:
        side.send(Wanted(f"TR_{number}", "PA_x", "video" if video else "audio", mime, red=how == 1, stereo=how > 3))
    else:
        side.stop(f"TR_{number}")


def forget(side: Answerer | Offerer) -> None:
    side._reader, side._drafts = Reader(ENABLED), Drafts()
    for placed in side._slots.placed.values():
        placed.settled_by = placed.told = None
    side._slots._pending = None


@given(rounds, st.lists(wishes, min_size=7, max_size=7), st.integers(0, 3))
def test_an_answerer_that_remembers_answers_as_one_that_does_not(script: list[Any], wanted: Any, how: int) -> None:
    options: dict[str, Any] = {"enabled_codecs": texts.CODECS, "client": models.ClientInfo()}
    remembering, forgetful = Answerer(**options, rng=Random(7)), Answerer(**options, rng=Random(7))

    def round_of(one: Answerer, text: str) -> tuple[Any, ...]:
        read = one.read(text)
        for section in read.published:
            if section.fresh and how:
                one.prefer(section.mid, Preference("video/H264", red=how > 1, stereo=how > 2))
        return read.remote, read.published, read.ended, one.answer(read, texts.LOCAL), one.take_requirement()

    for text, wished in zip(offers(script), wanted, strict=False):
        for item in wished:
            wish(remembering, *item)
            wish(forgetful, *item)
        forget(forgetful)
        said = tried(lambda text=text: round_of(remembering, text))  # type: ignore[misc]
        assert said == tried(lambda text=text: round_of(forgetful, text))  # type: ignore[misc]
        forget(forgetful)
        assert remembering._slots.is_pending == forgetful._slots.is_pending
        if not isinstance(said, str):
            assert len(remembering._drafts._last) == said[3].sdp.count("\nm=") >= len(remembering._reader._known)


@given(st.lists(st.tuples(wishes, st.integers(0, 60), st.sampled_from(LINES)), min_size=2, max_size=7))
def test_an_offerer_that_remembers_offers_as_one_that_does_not(script: list[Any]) -> None:
    options: dict[str, Any] = {"enabled_codecs": texts.CODECS, "client": models.ClientInfo()}
    remembering, forgetful = Offerer(**options, rng=Random(7)), Offerer(**options, rng=Random(7))
    for wished, at, line in script:
        for item in wished:
            wish(remembering, *item)
            wish(forgetful, *item)
        forget(forgetful)
        assert remembering.is_due == forgetful.is_due
        made = remembering.offer(texts.LOCAL)
        assert made == forgetful.offer(texts.LOCAL)
        forget(forgetful)
        answer = answer_to(made.sdp, at, line)
        settled = tried(lambda answer=answer: remembering.accept(answer))  # type: ignore[misc]
        assert settled == tried(lambda answer=answer: forgetful.accept(answer))  # type: ignore[misc]
        if isinstance(settled, str):
            remembering.abandon()
            forgetful.abandon()


def answer_to(offer: str, at: int, line: str) -> str:
    """Everything taken; now and then one section says something else."""
    text = offer.replace("a=sendonly", "a=recvonly").replace("a=setup:actpass", "a=setup:active")
    text = text.replace("a=ice-lite\r\n", "")
    head, *sections = text.split("\r\nm=")
    if at < len(sections):
        sections[at] = sections[at].rstrip("\r\n") + f"\r\n{line}"
    elif at < 2 * len(sections):
        sections[at % len(sections)] = sections[at % len(sections)].replace(" 9 ", " 0 ", 1)
    return "\r\nm=".join([head, *sections]).rstrip("\r\n") + "\r\n"
