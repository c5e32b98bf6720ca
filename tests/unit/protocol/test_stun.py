"""STUN on bytes: the published vectors, aioice as second opinion, and what must be refused."""

import pytest
from aioice import stun as other

from tertulia.protocol import stun
from tertulia.protocol.errors import PeerError

# RFC 5769 2.1: sample request, password "VOkJxbRl1RmTxUk/WvJxBt"
SAMPLE_REQUEST = bytes.fromhex(
    "000100582112a442b7e7a701bc34d686fa87dfae802200105354554e207465737420636c69656e74002400046e0001ff80290008932ff9b1"
    "51263b36000600096576746a3a68367659202020000800149aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a280280004e57a3bcf"
)
SAMPLE_KEY = stun.IntegrityKey("VOkJxbRl1RmTxUk/WvJxBt")
TRANSACTION = bytes(range(12))
KEY = stun.IntegrityKey("a" * 24)


def test_the_sample_request_of_rfc_5769() -> None:
    request = stun.parse(SAMPLE_REQUEST)
    assert request.kind == stun.BINDING_REQUEST
    assert (request.username, request.local_ufrag) == ("evtj:h6vY", "evtj")
    assert request.priority == 0x6E0001FF
    assert (request.controlled, request.controlling, request.use_candidate) == (True, False, False)
    assert request.unknown == ()
    assert stun.is_authentic(request, SAMPLE_KEY)
    assert not stun.is_authentic(request, KEY)


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8:1234:5678:11:2233:4455:6677"])
def test_aioice_reads_our_answer(host: str) -> None:
    data = stun.build_success(TRANSACTION, host, 32853, KEY)
    message = other.parse_message(data)
    assert message.attributes["XOR-MAPPED-ADDRESS"] == (host, 32853)
    assert message.check_message_integrity(b"a" * 24)
    assert message.transaction_id == TRANSACTION
    assert stun.parse(data).mapped == (host, 32853)


def test_we_read_a_check_of_aioice() -> None:
    message = other.Message(other.Method.BINDING, other.Class.REQUEST, transaction_id=TRANSACTION)
    message.attributes["USERNAME"] = "ours:theirs"
    message.attributes["PRIORITY"] = 77
    message.attributes["ICE-CONTROLLING"] = 1 << 60
    message.attributes["USE-CANDIDATE"] = None
    message.add_message_integrity(b"a" * 24)
    request = stun.parse(bytes(message))
    assert stun.is_authentic(request, KEY)
    assert (request.local_ufrag, request.priority, request.use_candidate) == ("ours", 77, True)


def test_errors_carry_code_and_unknown_attributes() -> None:
    message = other.parse_message(stun.build_error(TRANSACTION, 487, KEY))
    assert message.attributes["ERROR-CODE"][0] == 487
    assert message.check_message_integrity(b"a" * 24)
    data = stun.build_error(TRANSACTION, 420, KEY, (0x7777, 0x0003, 0x0004))
    assert b"\x00\x0a\x00\x06\x77\x77\x00\x03\x00\x04" in data
    answer = stun.parse(data)
    assert answer.error_code == 420
    assert stun.is_authentic(answer, KEY)


def test_unknown_attributes_are_told_apart() -> None:
    required = b"\x77\x77\x00\x01\x00\x00\x00\x00"
    optional = b"\xc0\x57\x00\x04\x00\x01\x00\x32"  # network cost, as browsers send it
    request = stun.parse(stun.build_request(TRANSACTION, "a:b", KEY, extra=optional + required))
    assert request.unknown == (0x7777,)
    assert stun.is_authentic(request, KEY)


def test_what_follows_integrity_is_not_believed() -> None:
    unsigned = stun.build_request(TRANSACTION, "a:b", KEY)[:-8]
    forged = unsigned + b"\x00\x25\x00\x00"
    forged = forged[:2] + (len(forged) - 20).to_bytes(2, "big") + forged[4:]
    request = stun.parse(forged)
    assert stun.is_authentic(request, KEY)
    assert not request.use_candidate


GOOD = stun.build_request(TRANSACTION, "a:b", KEY, use_candidate=True)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 20,
        GOOD[:19],
        GOOD + b"\0\0\0\0",
        GOOD[:-4],
        b"\x00\x03" + GOOD[2:],  # Allocate
        GOOD[:2] + b"\xff\xfc" + GOOD[4:],
        GOOD[:20] + b"\x00\x06\xff\xff" + GOOD[24:],
        GOOD[:-1] + bytes([GOOD[-1] ^ 1]),
        GOOD + b"\0" * 2000,
        b"\x00\x01\x00\x08\x21\x12\xa4\x42" + TRANSACTION + b"\x00\x24\x00\x03\x00\x00\x00\x00",
        b"\x00\x01\x00\x04\x21\x12\xa4\x42" + TRANSACTION + b"\x00\x08\x00\x00",
        b"\x00\x01\x00\x08\x21\x12\xa4\x42" + TRANSACTION + b"\x00\x06\x00\x02\xff\xfe\x00\x00",
    ],
)
def test_malformed_messages_are_refused(data: bytes) -> None:
    with pytest.raises(PeerError):
        stun.parse(data)


def test_a_message_without_integrity_is_never_authentic() -> None:
    header = b"\x00\x01\x00\x08\x21\x12\xa4\x42" + TRANSACTION
    request = stun.parse(header + b"\x00\x06\x00\x03a:b\x00")
    assert request.local_ufrag == "a"
    assert not stun.is_authentic(request, KEY)


def test_the_answer_is_no_amplifier() -> None:
    """Even authentic answers are not bigger than the smallest check a browser sends."""
    check = stun.build_request(TRANSACTION, "abcdefgh:wxyz", KEY, use_candidate=True)
    assert len(stun.build_success(TRANSACTION, "2001:db8::1", 65535, KEY)) <= len(check)
