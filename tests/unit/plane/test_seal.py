"""Outgoing SRTP of the compiled life under AES-GCM: the same bytes as libsrtp's, and libsrtp when it cannot be had."""

import socket
import struct
from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pylibsrtp import Error

from tertulia.sfu.plane import open_plane, srtp

compiled = pytest.importorskip("tertulia.sfu.plane.compiled_life", reason="the compiled data plane was not built")
native = pytest.importorskip("tertulia.sfu.plane.native", reason="the compiled data plane was not built")


def here(supplier: str) -> bool:
    try:
        srtp.ciphers(supplier, native.MULTI_BUFFER)
    except srtp.NoPointers:
        return False
    return True


SUPPLIERS = [supplier for supplier in srtp.SUPPLIERS if here(supplier)]


def transport(tx: bytes, supplier: str = SUPPLIERS[0]) -> object:
    core = native.Native([], 0, supplier)
    core.add_transport(1, 0, 0)
    core.set_keys(1, srtp.GCM, tx, tx)
    return core


def packet(sequence: int, number: int, size: int) -> bytes:
    head = struct.pack("!BBHII", 0x90, 0xE0, sequence, number, 0xCAFEBABE) + bytes.fromhex("bede0001310a0b00")
    return head + Random(number).randbytes(size)


# steps of a sequence number: the usual, gaps, late ones, jumps that make the rollover counter go up and back
STEPS = st.one_of(st.just(1), st.integers(-130, 130), st.integers(-0x8000, 0x7FFF))


@pytest.mark.parametrize("supplier", SUPPLIERS)
@given(
    key=st.binary(min_size=28, max_size=28),
    first=st.integers(0, 0xFFFF),
    steps=st.lists(st.tuples(STEPS, st.integers(0, 1300)), max_size=40),
    own=st.integers(0, 20),
)
def test_the_same_bytes_as_libsrtp(
    supplier: str, key: bytes, first: int, steps: list[tuple[int, int]], own: int
) -> None:
    packets, sequence = [packet(first, 0, 7)], first
    for number, (step, size) in enumerate(steps, 1):
        sequence = (sequence + step) & 0xFFFF
        packets.append(packet(sequence, number, size))
    oracle = srtp.session(srtp.GCM, key, outbound=True)
    assert transport(key, supplier).seal(1, packets, own) == [compiled.protected(oracle, data) for data in packets]


def test_a_receiver_follows_through_five_rounds_of_numbers() -> None:
    """Gaps of up to 3000 and retransmission of what came late, over the wrap of the sequence number."""
    rng, key, numbers = Random(4), bytes(range(28)), [900]
    while numbers[-1] < 5 * 65536:
        numbers.append(numbers[-1] + rng.choice([1, 1, 1, 2, 50, 3000]))
    late = [numbers.pop(i) for i in range(len(numbers) - 2, 2, -7)]
    order = sorted([(n, n) for n in numbers] + [(n + 40, n) for n in late])
    packets = [packet(n & 0xFFFF, n, 30) for _, n in order]
    rx = srtp.session(srtp.GCM, key, outbound=False)
    sealed = transport(key).seal(1, packets, 16)
    assert [rx.unprotect(data) for data in sealed if data is not None] == packets


def test_other_keys_begin_anew() -> None:
    core = transport(bytes(28))
    first = core.seal(1, [packet(5, 1, 100)])
    core.set_keys(1, srtp.GCM, bytes(28), bytes([1]) * 28)
    (second,) = core.seal(1, [packet(5, 1, 100)])
    assert [second] != first
    assert srtp.session(srtp.GCM, bytes([1]) * 28, outbound=False).unprotect(second) == packet(5, 1, 100)
    with pytest.raises(Error):
        srtp.session(srtp.GCM, bytes(28), outbound=False).unprotect(second)


def test_the_windows_are_one() -> None:
    behind = [packet(5000, 1, 9), packet(5000 - srtp.OUTBOUND_WINDOW_PACKETS, 2, 9)]
    assert transport(bytes(28)).seal(1, behind)[1] is None
    assert transport(bytes(28)).seal(1, [behind[0], packet(5001 - srtp.OUTBOUND_WINDOW_PACKETS, 2, 9)])[1] is not None


@pytest.fixture
def anew() -> Iterator[None]:
    """The choice of a supplier is made again, and once more afterwards."""
    compiled.chosen_supplier.cache_clear()
    yield
    compiled.chosen_supplier.cache_clear()


@pytest.mark.skipif(not native.MULTI_BUFFER, reason="the plane was compiled without libipsec-mb-dev")
def test_what_was_compiled_in_is_taken() -> None:
    assert compiled.chosen_supplier() == ("multi-buffer", "")


@pytest.mark.usefixtures("anew")
def test_without_the_multi_buffer_library_openssl_does_it_and_the_plane_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = srtp.ciphers

    def missing(supplier: str, built_for: str) -> tuple[int, ...]:
        if supplier == "multi-buffer":
            raise srtp.NoPointers("it went away")
        return real(supplier, built_for)

    monkeypatch.setattr(srtp, "ciphers", missing)
    assert compiled.chosen_supplier() == ("openssl", "AES-GCM by openssl: it went away")


def test_a_multi_buffer_library_of_another_version_is_not_called() -> None:
    with pytest.raises(srtp.NoPointers, match=r"no multi-buffer library|compiled for"):
        srtp.ciphers("multi-buffer", (native.MULTI_BUFFER or "1.3.0") + "9")
    with pytest.raises(srtp.NoPointers, match="compiled without"):
        srtp.ciphers("multi-buffer", "")


@pytest.mark.usefixtures("anew")
def test_without_any_libsrtp_does_it_and_the_plane_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(supplier: str, built_for: str) -> tuple[int, ...]:
        raise srtp.NoPointers(f"no {supplier}")

    monkeypatch.setattr(srtp, "ciphers", missing)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        plane = open_plane([[sock]], life="compiled", rng=Random(1))
    assert plane.reason == "AES-GCM by libsrtp: no multi-buffer; no openssl"


@pytest.mark.usefixtures("anew")
def test_a_cipher_that_gives_other_bytes_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(srtp, "session_keys", lambda key: (key[:16], key[16:28]))
    assert compiled.chosen_supplier()[0] == ""
    assert "openssl gives other bytes than libsrtp" in compiled.chosen_supplier()[1]
