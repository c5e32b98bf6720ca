"""SRTP of the compiled life under AES-GCM: libsrtp's bytes, libsrtp's refusals, and libsrtp when it cannot be had."""

import socket
import struct
from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pylibsrtp import Error

from tertulia.sfu.plane import open_plane, srtp
from tertulia.sfu.plane.api import Drop

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


KEY = bytes(range(28))

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
    assert transport(key, supplier).seal(1, packets, own) == [compiled.tried(oracle.protect, data) for data in packets]


class Receiver:
    """The compiled life and libsrtp, given the same datagrams."""

    def __init__(self, supplier: str = SUPPLIERS[0]) -> None:
        self.core = transport(KEY, supplier)
        self.oracle = srtp.session(srtp.GCM, KEY, outbound=False)
        self.refused = [0, 0]
        """By libsrtp: replayed, not authentic."""

    def agree(self, data: bytes, is_rtcp: bool) -> bool:
        """Both say the same of it; True when it is accepted."""
        try:
            expected = self.oracle.unprotect_rtcp(data) if is_rtcp else self.oracle.unprotect(data)
        except Error as error:
            self.refused[0 if srtp.is_replay(error) else 1] += 1
            expected = None
        assert self.core.heard(1, [data], is_rtcp) == [expected]
        drops = self.core.totals()[1]
        assert [drops[Drop.REPLAY], drops[Drop.AUTHENTICATION]] == self.refused
        return expected is not None


# of what was sent before: how far back, and whether a bit of it is turned
CHOICES = st.tuples(st.one_of(st.just(0), st.integers(0, 40)), st.one_of(st.none(), st.integers(0, 1 << 20)))


@pytest.mark.parametrize("supplier", SUPPLIERS)
@given(
    first=st.integers(0, 0xFFFF),
    steps=st.lists(st.tuples(STEPS, st.integers(0, 1300), st.integers(1, 3), CHOICES), min_size=1, max_size=40),
)
def test_what_libsrtp_accepts_and_nothing_else(
    supplier: str, first: int, steps: list[tuple[int, int, int, tuple[int, int | None]]]
) -> None:
    sender, receiver = srtp.session(srtp.GCM, KEY, outbound=True), Receiver(supplier)
    sent: list[bytes] = []
    sequence = first
    for number, (step, size, ssrc, (back, bit)) in enumerate(steps):
        sequence = (sequence + step) & 0xFFFF
        data = bytearray(packet(sequence, number, size))
        data[11] = ssrc
        if (protected := compiled.tried(sender.protect, bytes(data))) is not None:
            sent.append(protected)
        if sent:
            chosen = sent[max(0, len(sent) - 1 - back)]
            receiver.agree(chosen if bit is None else turned(chosen, bit), False)


@pytest.mark.parametrize("supplier", SUPPLIERS)
@given(
    steps=st.lists(
        st.tuples(st.integers(0, 300), st.integers(0, 60), st.integers(1, 3), CHOICES), min_size=1, max_size=40
    )
)
def test_rtcp_that_libsrtp_accepts_and_nothing_else(
    supplier: str, steps: list[tuple[int, int, int, tuple[int, int | None]]]
) -> None:
    sender, receiver = srtp.session(srtp.GCM, KEY, outbound=True), Receiver(supplier)
    sent: list[bytes] = []
    for skipped, words, ssrc, (back, bit) in steps:
        compound = struct.pack("!BBHI", 0x81, 201, 1 + words, ssrc) + bytes(range(words)) * 4
        for _ in range(1 + skipped):
            sent.append(sender.protect_rtcp(compound))
        chosen = sent[max(0, len(sent) - 1 - back)]
        # the last word's first bit says that nothing is encrypted, which libsrtp would let pass
        receiver.agree(chosen if bit is None else turned(chosen, bit, spared=len(chosen) * 8 - 32), True)


def turned(data: bytes, bit: int, spared: int = -1) -> bytes:
    """One bit of it is another, never the one that is spared."""
    bit %= 8 * len(data)
    if bit == spared:
        bit += 1
    changed = bytearray(data)
    changed[bit // 8] ^= 0x80 >> bit % 8
    return bytes(changed)


def test_rtcp_that_is_not_encrypted_is_refused() -> None:
    data = srtp.session(srtp.GCM, KEY, outbound=True).protect_rtcp(bytes.fromhex("80c9000100000001"))
    core = transport(KEY)
    changed = turned(data, len(data) * 8 - 32)
    assert core.heard(1, [changed, data, changed], True) == [None, bytes.fromhex("80c9000100000001"), None]
    drops = core.totals()[1]
    assert (drops[Drop.AUTHENTICATION], drops[Drop.REPLAY]) == (1, 1)  # the second time its number is an old one


@pytest.mark.parametrize("supplier", SUPPLIERS)
def test_the_same_rtcp_as_libsrtp(supplier: str) -> None:
    core, oracle = transport(KEY, supplier), srtp.session(srtp.GCM, KEY, outbound=True)
    compounds = [struct.pack("!BBHI", 0x80, 201, 1 + size, size % 7) + bytes(4 * size) for size in range(300)]
    assert core.seal_rtcp(1, compounds) == [oracle.protect_rtcp(data) for data in compounds]


@pytest.mark.parametrize("back", [0, 1, 63, 64, srtp.WINDOW_PACKETS - 1, srtp.WINDOW_PACKETS, 4000])
def test_the_window_of_what_is_heard(back: int) -> None:
    sender, receiver = srtp.session(srtp.GCM, KEY, outbound=True), Receiver()
    sent = [sender.protect(packet(n & 0xFFFF, n, 20)) for n in range(60_000, 70_000)]
    for data in sent[: -1 - back] + sent[len(sent) - back :]:
        assert receiver.agree(data, False)
    assert receiver.agree(sent[-1 - back], False) == (back < srtp.WINDOW_PACKETS)
    assert not receiver.agree(sent[-1 - back], False)


def test_many_ssrcs_have_each_a_window_and_one_that_is_forgotten_begins_anew() -> None:
    core, sender = transport(KEY), srtp.session(srtp.GCM, KEY, outbound=True)
    core.add_track(2, 0, 90000)
    names = range(1000, 1100)
    for name in names:
        core.add_up(name, 2, 1, name, 0, 0x60, 0, 0)
    plain = [struct.pack("!BBHII", 0x80, 0x60, 5, 0, name) + bytes(9) for name in names]
    packets = [sender.protect(data) for data in plain]
    core.add_up(2000, 2, 1, 1050, 1, 0x60, 0, 0)  # SSRC 1050 is its now
    assert core.heard(1, packets) == plain
    assert core.heard(1, packets) == [None] * len(packets)
    core.remove_up(2000)
    assert core.heard(1, packets) == [data if data[8:12] == (1050).to_bytes(4, "big") else None for data in plain]


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


def test_other_keys_forget_what_was_heard() -> None:
    core, data = transport(KEY), srtp.session(srtp.GCM, KEY, outbound=True).protect(packet(5, 1, 100))
    assert core.heard(1, [data, data]) == [packet(5, 1, 100), None]
    core.set_keys(1, srtp.GCM, KEY, KEY)
    assert core.heard(1, [data]) == [packet(5, 1, 100)]


@pytest.mark.parametrize("supplier", ["", *SUPPLIERS])
@pytest.mark.parametrize("length", [0, 27, 29])
def test_a_key_of_a_wrong_length_is_refused_and_changes_nothing(length: int, supplier: str) -> None:
    core, data = transport(KEY, supplier), srtp.session(srtp.GCM, KEY, outbound=True).protect(packet(5, 1, 100))
    for rx, tx in ((bytes(length), KEY), (KEY, bytes(length))):
        with pytest.raises(ValueError, match="28 bytes"):
            core.set_keys(1, srtp.GCM, rx, tx)
    assert core.heard(1, [data]) == [packet(5, 1, 100)]


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
    monkeypatch.setattr(srtp, "session_keys", lambda key: 2 * (key[:16], key[16:28]))
    assert compiled.chosen_supplier()[0] == ""
    assert "openssl gives other bytes than libsrtp" in compiled.chosen_supplier()[1]
