"""What many clients say alike is read once; what is one client's own is never shared."""

import re

import pytest

from tertulia.protocol import sdp
from tertulia.protocol.errors import PeerError
from tertulia.sfu.negotiation import codecs, placeholders
from tertulia.sfu.negotiation.reading import Reader
from tertulia.sfu.negotiation.remembered import MAX_REMEMBERED_CHARS
from tests.unit.negotiation import texts

ENABLED = codecs.enabled_set(texts.CODECS)
OFFERS = ("chromium-placeholders", "js-sdk-v1-1-offer", "python-sdk-v1-1-offer")


def of_another(text: str) -> str:
    """The same offer of another client of this make."""
    text = re.sub(r"a=ice-ufrag:\S+", "a=ice-ufrag:another", text)
    text = re.sub(r"a=ice-pwd:\S+", f"a=ice-pwd:{'n' * 24}", text)
    text = re.sub(r"a=sctp-init:\S+", "a=sctp-init:AAAA", text)
    text = re.sub(r"o=- \d+", "o=- 77", text)
    return re.sub(r"a=fingerprint:sha-256 \S+", f"a=fingerprint:sha-256 {texts.FINGERPRINT}", text)


def misses() -> int:
    return placeholders._rest.cache_info().misses


@pytest.mark.parametrize("name", OFFERS)
def test_the_first_offers_of_one_make_are_read_once(name: str) -> None:
    text = texts.vector(name)
    placeholders._rest.cache_clear()
    first = Reader(ENABLED).read(text)
    assert misses() == 3, "audio, video, data"
    second = Reader(ENABLED).read(of_another(text))
    assert misses() == 3
    assert second.sections == first.sections
    assert second.remote.ufrag == "another" != first.remote.ufrag
    assert second.remote.fingerprints == (("sha-256", texts.FINGERPRINT),) != first.remote.fingerprints
    assert [section.mid for section in second.sections] == [str(mid) for mid in range(7)]


def test_codecs_of_the_room_are_part_of_what_is_remembered() -> None:
    text = texts.vector("js-sdk-v1-1-offer")
    few = Reader(codecs.enabled_set(["audio/opus"])).read(text)
    assert Reader(ENABLED).read(text).sections[3].usable
    assert not few.sections[3].usable


@pytest.mark.parametrize(
    "line",
    [
        "a=msid:- cid",
        "a=ssrc:5 cname:x",
        "a=candidate:1 1 udp 1 192.0.2.9 9 typ host",
        "a=rid:q send",
        "a=sendrecv",
        "a=x:" + "y" * MAX_REMEMBERED_CHARS,
        "\r\n".join(["a=x"] * placeholders.MAX_LINES),
        "\r\n".join(["a=x:" + "y" * 100] * 20) + "\r\na=ice-pwd:far",
    ],
)
def test_what_is_of_one_client_is_not_remembered(line: str) -> None:
    piece = texts.section("audio", "0").removeprefix("m=").removesuffix("\r\n")
    assert placeholders.find(piece, ENABLED) is not None
    kept = placeholders._rest.cache_info().currsize
    assert placeholders.find(f"{piece}\r\n{line}", ENABLED) is None
    assert placeholders._rest.cache_info().currsize == kept


def test_what_the_client_sends_on_is_not_remembered() -> None:
    piece = texts.section("audio", "0", "sendrecv", "a=recvonly-not").removeprefix("m=").removesuffix("\r\n")
    assert placeholders.find(piece, ENABLED) is None


@pytest.mark.parametrize("mark", ["\0", "\r", "\u2028", "\n", "\na=rtcp-rsize"])
def test_a_line_cut_out_is_one_line(mark: str) -> None:
    piece = texts.section("audio", "0").removeprefix("m=").removesuffix("\r\n")
    assert placeholders.find(piece.replace("a=ice-ufrag:them", f"a=ice-ufrag:th{mark}em"), ENABLED) is None


def test_no_half_line_is_cut_out() -> None:
    """Wherever the lines looked at end."""
    for padding in range(150, 420):
        piece = f"audio 9 RTP/SAVPF 0\r\na=mid:0\r\na=recvonly\r\na=rtcp-mux\r\na=x:{'x' * padding}\r\n"
        piece += "a=fingerprint:sha-256 00:11:22:33:44:55"
        for end in ("", "\r\na=rtcp-rsize"):
            found = placeholders.find(piece + end, codecs.enabled_set(["audio/opus", "audio/PCMU"]))
            assert found is None or found.way() == {"mid": ["0"], "fingerprint": ["sha-256 00:11:22:33:44:55"]}
            assert padding > 350 or found is not None


def test_a_session_with_extensions_of_its_own_is_read_with_them() -> None:
    text = texts.offer(*texts.placeholders(1, 1))
    Reader(ENABLED).read(text)
    more = text.replace("t=0 0\r\n", "t=0 0\r\na=extmap:9 urn:3gpp:video-orientation\r\n")
    assert [one.id for one in Reader(ENABLED).read(more).sections[1].extmaps] == [9, 4, 10]


def test_an_empty_mid_is_none() -> None:
    text = texts.offer(*texts.placeholders(1, 1)).replace("a=mid:1\r\n", "a=mid:\r\n").replace("BUNDLE 0 1", "BUNDLE 0")
    for said in (text, text.replace("\r\n", "\n")):
        with pytest.raises(PeerError, match="no a=mid"):
            Reader(ENABLED).read(said)


def test_two_fingerprints_of_a_placeholder_are_both_heard() -> None:
    piece = texts.section("audio", "0", "recvonly", "a=fingerprint:sha-1 00:11").removeprefix("m=").removesuffix("\r\n")
    found = placeholders.find(piece, ENABLED)
    assert found is not None
    assert found.way()["fingerprint"] == sdp.section_part(piece).values("fingerprint")
