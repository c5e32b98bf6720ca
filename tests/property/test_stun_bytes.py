"""Whatever bytes come: a Binding or a PeerError, and no change of a signed message goes unnoticed."""

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from tertulia.protocol import stun
from tertulia.protocol.errors import PeerError

KEY = stun.IntegrityKey("p" * 24)
TRANSACTION = b"\x01" * 12


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    with contextlib.suppress(PeerError):
        stun.parse(data)


@given(st.binary(max_size=120))
def test_any_attributes(body: bytes) -> None:
    body = body[: len(body) // 4 * 4]
    with contextlib.suppress(PeerError):
        request = stun.parse(b"\x00\x01" + len(body).to_bytes(2, "big") + b"\x21\x12\xa4\x42" + TRANSACTION + body)
        assert not stun.is_authentic(request, KEY)


@given(st.data(), st.text(alphabet="abcXYZ019+/", min_size=4, max_size=40), st.integers(0, 2**32 - 1), st.booleans())
def test_a_changed_request_is_not_authentic(data: st.DataObject, ufrag: str, priority: int, nominate: bool) -> None:
    good = stun.build_request(TRANSACTION, f"{ufrag}:peer", KEY, priority=priority, use_candidate=nominate)
    request = stun.parse(good)
    assert stun.is_authentic(request, KEY)
    assert (request.local_ufrag, request.priority, request.use_candidate) == (ufrag, priority, nominate)
    position = data.draw(st.integers(0, len(good) - 9))  # FINGERPRINT, the last 8, guards itself
    changed = bytearray(good)
    changed[position] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(PeerError):
        assert not stun.is_authentic(stun.parse(bytes(changed)), KEY)


@given(st.ip_addresses(), st.integers(0, 65535), st.binary(min_size=12, max_size=12))
def test_the_mapped_address_comes_back(address: object, port: int, transaction: bytes) -> None:
    answer = stun.parse(stun.build_success(transaction, str(address), port, KEY))
    assert answer.mapped is not None
    assert answer.mapped[1] == port
    assert type(address)(answer.mapped[0]) == address  # type: ignore[call-arg]
    assert stun.is_authentic(answer, KEY)
