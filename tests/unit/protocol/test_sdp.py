"""Session descriptions: no line is lost, limits hold, attributes are read by their RFCs."""

from pathlib import Path

import pytest

from tertulia.protocol import sdp, sdp_attributes
from tertulia.protocol.errors import PeerError

VECTORS = sorted((Path(__file__).parents[2] / "vectors" / "sdp").glob("*.sdp"))


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_recorded_texts_come_back_byte_for_byte(path: Path) -> None:
    text = path.read_bytes().decode()
    assert sdp.build(sdp.parse(text)) == text


def test_there_are_recorded_texts() -> None:
    assert len(VECTORS) >= 18


def test_bare_line_feeds_and_trailing_empty_lines() -> None:
    description = sdp.parse("v=0\ns=-\nm=audio 9/2 RTP/AVP 0 8 \na=x\n\n\n")
    section = description.sections[0]
    assert (section.kind, section.port, section.port_count, section.formats) == ("audio", 9, 2, ["0", "8"])
    assert sdp.build(description) == "v=0\r\ns=-\r\nm=audio 9/2 RTP/AVP 0 8\r\na=x\r\n"


def test_attributes() -> None:
    section = sdp.parse("v=0\nm=audio 9 x 0\na=mid:7\na=msid:a b\na=msid:c d\na=rtcp-mux\nb=AS:1\n").sections[0]
    assert section.values("msid") == ["a b", "c d"]
    assert (section.value("mid"), section.value("rtcp-mux"), section.value("absent")) == ("7", "", None)
    assert section.has("rtcp-mux")
    assert not section.has("rtcp")
    assert section.attributes() == {"mid": ["7"], "msid": ["a b", "c d"], "rtcp-mux": [""]}


@pytest.mark.parametrize(
    "text",
    ["", "\n", "x", "v=1", "s=-\nv=0", "v=0\nbad", "v=0\nV=0", "v=0\n=x", "v=0\ra=b", "v=0\n\na=b", "v=0\nm=audio"],
)
def test_what_is_no_description(text: str) -> None:
    with pytest.raises(PeerError):
        sdp.parse(text)


def test_limits() -> None:
    sdp.parse("v=0\n" + "a=" + "x" * (sdp.MAX_LINE_CHARS - 2))
    for text in (
        "v=0\n" + "a=" + "x" * (sdp.MAX_LINE_CHARS - 1),
        "v=0\nm=audio 9 x 0\n" + "a=x\n" * (sdp.MAX_SECTION_LINES + 1),
        "v=0\n" + "a\n" * (sdp.MAX_LINES + 1),
        "v=0\n" + "m=audio 9 x 0\n" * (sdp.MAX_SECTIONS + 1),
        "v=0\na=" + "x" * sdp.MAX_SDP_BYTES,
    ):
        with pytest.raises(PeerError):
            sdp.parse(text)


def test_rtpmaps() -> None:
    assert sdp_attributes.parse_rtpmaps(["111 opus/48000/2", "96 VP8/90000"]) == {
        111: (111, "opus", 48000, 2),
        96: (96, "VP8", 90000, 0),
    }


def test_fmtps_of_one_payload_are_joined() -> None:
    assert sdp_attributes.parse_fmtps(["96 a=1", "96 b=2", "x y", "63 111/111"]) == {96: "a=1;b=2", 63: "111/111"}
    parameters = sdp_attributes.fmtp_parameters("Profile-Level-Id=42e01f; packetization-mode=1;bare;;")
    assert parameters == {"profile-level-id": "42e01f", "packetization-mode": "1", "bare": ""}
    assert sdp_attributes.build_fmtp(parameters) == "profile-level-id=42e01f;packetization-mode=1;bare"


def test_extmaps() -> None:
    (one, two, three) = sdp_attributes.parse_extmaps(["3 urn:a", "4/recvonly urn:b x=1 y", "20 urn:c"])
    assert (one, two.direction, three.id) == ((3, "sendrecv", "urn:a"), "recvonly", 20)


def test_simulcast_takes_the_first_alternative() -> None:
    streams = sdp_attributes.parse_simulcast("send q,~x;~h recv f")
    assert streams == {"send": [("q", False), ("h", True)], "recv": [("f", False)]}


def test_sources() -> None:
    assert sdp_attributes.parse_ssrcs(["1 cname:a b", "1 msid:x y", "2"]) == {1: {"cname": "a b", "msid": "x y"}, 2: {}}
    assert sdp_attributes.parse_ssrc_groups(["FID 1 2", "SIM 1"]) == [("FID", (1, 2)), ("SIM", (1,))]


def test_fingerprint() -> None:
    assert sdp_attributes.parse_fingerprint("SHA-256 aa:bB") == ("sha-256", "AA:BB")
