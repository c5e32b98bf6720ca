"""Sections read without a client's own lines are read as every other section is."""

from hypothesis import example, given
from hypothesis import strategies as st

from tertulia.protocol import sdp
from tertulia.protocol.errors import PeerError
from tertulia.sfu.negotiation import codecs, placeholders
from tertulia.sfu.negotiation.sections import Attributes, Common, read_section
from tests.unit.negotiation import texts

ENABLED = codecs.enabled_set(texts.CODECS)
PIECES = [
    piece
    for name in ("js-sdk-v1-1-offer", "js-sdk-v1-4-offer", "python-sdk-v1-1-offer", "aiortc-1-offer")
    for piece in (sdp.cut(texts.vector(name)) or ("", []))[1]
] + [one.removeprefix("m=").removesuffix("\r\n") for one in texts.placeholders(1, 1)]
WAY = ("mid", "ice-ufrag", "ice-pwd", "fingerprint", "setup", "sctp-port", "max-message-size")
OWN = (
    *("a=mid:9", "a=mid:", "a=mid", "a=ice-ufrag:other", "a=ice-pwd:x", "a=fingerprint:md5 00", "a=setup:active"),
    *("a=mid:\u00e4", "a=mid:7\na=rtcp-mux", "a=ice-pwd:x\0", "a=ice-pwd:x\ry", "a=ice-ufrag:x\n", "xa=mid:4"),
    *("a=msid:- cid", "a=ssrc:5 cname:x", "a=rid:q send", "a=candidate:1 1 udp 1 192.0.2.9 9 typ host"),
    *("a=recvonly", "a=sendrecv", "a=inactive", "a=bundle-only", "a=extmap:1 urn:3gpp:video-orientation", ""),
    *("a=sctp-init:AAAA", "a=sctp-port:5001", "a=max-message-size:1", "a=fingerprint:sha-1 " + "00:" * 150 + "00"),
)
edits = st.lists(
    st.tuples(st.sampled_from(("insert", "insert", "drop", "swap")), st.integers(0, 200), st.sampled_from(OWN)),
    max_size=4,
)


def edited(piece: str, script: list[tuple[str, int, str]]) -> str:
    lines = piece.split("\r\n")
    for what, at, line in script:
        at = 1 + at % len(lines)
        if what == "insert":
            lines.insert(at, line)
        elif at < len(lines):
            taken = lines.pop(at)
            if what == "swap":
                lines.append(taken)
    return "\r\n".join(lines)


def about_the_way(one: Attributes) -> Attributes:
    return {name: one[name] for name in WAY if name in one}


@given(st.sampled_from(PIECES), edits)
@example(PIECES[3], [("insert", 1, "a=ice-pwd:x"), ("insert", 60, "a=mid:9")])
@example(PIECES[0], [("swap", 16, ""), ("swap", 16, "")])
def test_a_placeholder_is_read_as_every_other_section(piece: str, script: list[tuple[str, int, str]]) -> None:
    piece = edited(piece, script)
    found = placeholders.find(piece, ENABLED)
    if found is None:
        return
    section = sdp.section_part(piece)
    one = section.attributes()
    assert found.mid == one["mid"][0]
    assert found.read(()) == read_section(section, one, found.mid, True, Common(ENABLED, (), ()), ())
    assert about_the_way(found.way()) == about_the_way(one)
    assert section.port != 0
    assert "candidate" not in one


@given(st.text(alphabet="a=mid:rcvonly\r\n\0x ", max_size=60))
def test_any_text_is_survived(text: str) -> None:
    try:
        section = sdp.section_part(text)
    except PeerError:
        assert placeholders.find(text, ENABLED) is None
    else:
        assert section.kind
