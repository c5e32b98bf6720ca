"""Checks that keep a consent alive are answered by the plane; whatever needs a decision is the control side's."""

import socket
import struct
from random import Random

import pytest

from tertulia.protocol import stun
from tertulia.protocol.machine import SECOND
from tertulia.sfu.plane import open_plane, srtp
from tertulia.sfu.plane.api import Address, SrtpProfile
from tertulia.sfu.plane.consent import CHECKS_PER_SECOND
from tertulia.sfu.plane.interpreted import Interpreted
from tertulia.sfu.plane.words import CHECKS_KEPT, R_DATAGRAM, T_CHECKS

KEY = stun.IntegrityKey("p" * 24)
FOUR = (0, "192.0.2.7", 40000)
OTHER = (0, "192.0.2.7", 40002)


class Desk:
    """One transport with its checks entrusted, in one of the two lives."""

    def __init__(self, life: str, place: tuple[int, str, int] = FOUR) -> None:
        self.sent: list[tuple[tuple[int, str, int], bytes]] = []
        self.now = 10 * SECOND
        self.place = place
        if life == "interpreted":
            self.core = Interpreted(lambda place, data: self.sent.append((place, data)) or True, lambda: self.now)
        else:
            native = pytest.importorskip("tertulia.sfu.plane.native", reason="the compiled data plane was not built")
            self.core = native.Native([], 0)
        self.core.add_transport(1, 0, 0)
        self.core.set_keys(1, 0, b"", b"")
        self.core.allow(1, *place)
        self.core.select(1, place)
        self.core.answer_checks(1, b"mine:", b"p" * 24)

    def arrive(self, data: bytes, place: tuple[int, str, int] | None = None) -> list[bytes]:
        """The answers; what is told to the control side instead counts as none."""
        self.core.step(self.now, [(place or self.place, data)])
        sent = self.core.sent() if self.core.life == "compiled" else self.sent
        answers = [data for to, data in sent if to == self.place]
        assert len(answers) == len(sent)
        self.sent = []
        told = [body for kind, _, _, body, _ in self.core.take_reports() if kind == R_DATAGRAM]
        assert told == ([] if answers else [data])
        return answers


@pytest.fixture(params=["interpreted", "compiled"])
def desk(request: pytest.FixtureRequest) -> Desk:
    return Desk(request.param)


def request(number: int = 1, *, name: str = "mine:theirs", key: stun.IntegrityKey = KEY, **parts: object) -> bytes:
    return stun.build_request(number.to_bytes(12, "big"), name, key, priority=7, **parts)  # type: ignore[arg-type]


@pytest.mark.parametrize("nominate", [False, True])
def test_the_answer_is_the_one_of_the_control_side(desk: Desk, nominate: bool) -> None:
    data = request(use_candidate=nominate, tie_breaker=9, extra=bytes.fromhex("c0570004000003e7"))
    assert desk.arrive(data) == [stun.build_success(data[8:20], desk.place[1], desk.place[2], KEY)]
    assert desk.core.last_check(1) == desk.now
    assert desk.core.totals()[0][T_CHECKS] == 1


@pytest.mark.parametrize("life", ["interpreted", "compiled"])
@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_over_real_sockets_of_both_families(life: str, family: int, host: str) -> None:
    if life == "compiled":
        pytest.importorskip("tertulia.sfu.plane.native", reason="the compiled data plane was not built")
    with socket.socket(family, socket.SOCK_DGRAM) as here, socket.socket(family, socket.SOCK_DGRAM) as there:
        try:
            here.bind((host, 0))
        except OSError as error:
            pytest.skip(f"{host}: {error}")
        there.bind((host, 0))
        there.settimeout(10)
        plane = open_plane([[here]], life=life, rng=Random(1))
        transport, address = plane.add_transport(), Address(0, *there.getsockname()[:2])
        plane.set_keys(transport, SrtpProfile.AEAD_AES_128_GCM, bytes(28), bytes(28))
        plane.allow(transport, address)
        plane.select(transport, address)
        plane.answer_checks(transport, "mine", "p" * 24)
        plane.start()
        try:
            there.sendto(data := request(), here.getsockname())
            assert there.recv(2048) == stun.build_success(data[8:20], address.host, address.port, KEY)
        finally:
            plane.stop()
        assert plane.has_answered(transport, data[8:20])
        assert plane.last_check(transport) > 0
        assert plane.last_check(transport + 1) == 0
        assert not plane.has_answered(transport + 1, data[8:20])


def changed(data: bytes, at: int, by: int = 1) -> bytes:
    return data[:at] + bytes([data[at] ^ by]) + data[at + 1 :]


def sealed(kind: int, attributes: bytes) -> bytes:
    return stun._seal(kind, bytes(12), attributes, KEY)


def attribute(kind: int, value: bytes) -> bytes:
    return stun._attribute(kind, value)


NAME = attribute(stun.USERNAME, b"mine:theirs")


@pytest.mark.parametrize(
    "data",
    {
        "another password": request(key=stun.IntegrityKey("q" * 24)),
        "another name": request(name="mind:theirs"),
        "a longer name": request(name="mine2:theirs"),
        "half a name": request(name="min"),
        "no name": sealed(stun.BINDING_REQUEST, attribute(stun.PRIORITY, bytes(4))),
        "not to be controlled": sealed(stun.BINDING_REQUEST, NAME + attribute(stun.ICE_CONTROLLED, bytes(8))),
        "an attribute that must be known": sealed(stun.BINDING_REQUEST, NAME + attribute(0x7F00, b"")),
        "a priority of five bytes": sealed(stun.BINDING_REQUEST, NAME + attribute(stun.PRIORITY, bytes(5))),
        "a nomination with a value": sealed(stun.BINDING_REQUEST, NAME + attribute(stun.USE_CANDIDATE, bytes(4))),
        "a role of four bytes": sealed(stun.BINDING_REQUEST, NAME + attribute(stun.ICE_CONTROLLING, bytes(4))),
        "an indication": sealed(stun.BINDING_INDICATION, NAME),
        "an answer": stun.build_success(bytes(12), "192.0.2.1", 9, KEY),
        "no fingerprint": struct.pack("!HH", 1, len(request()) - 28) + request()[4:-8],
        "a wrong fingerprint": changed(request(), len(request()) - 1),
        "another cookie": changed(request(), 5),
        "a wrong length": changed(request(), 3, 4),
        "more than a check": request(extra=attribute(0xC057, bytes(600))),
        "a wrong digest": changed(request(), len(request()) - 12),
        "nothing but a header": request()[:20],
        "one byte": b"\x00",
    }.items(),
    ids=lambda item: item[0].replace(" ", "_"),
)
def test_what_is_the_control_sides(desk: Desk, data: tuple[str, bytes]) -> None:
    assert desk.arrive(data[1]) == []
    assert desk.core.last_check(1) == 0


def test_every_cut_and_every_turned_bit_is_the_control_sides(desk: Desk) -> None:
    """But for the fingerprint's and the digest's sake none is answered; some are no STUN any more."""
    data = request(use_candidate=True)
    for size in range(1, len(data)):
        assert desk.arrive(data[:size]) == []
    for bit in range(8 * 4, 8 * len(data)):  # the first bytes decide who gets it
        desk.now += SECOND
        assert desk.arrive(changed(data, bit // 8, 1 << bit % 8)) == []


def test_another_address_than_the_selected_one(desk: Desk) -> None:
    desk.core.allow(1, *OTHER)
    assert desk.arrive(request(), OTHER) == []
    desk.core.disallow(1, *FOUR)
    assert desk.arrive(request()) == []
    desk.core.allow(1, *FOUR)
    assert desk.arrive(request()) != []
    desk.core.select(1, None)  # over TCP now
    assert desk.arrive(request()) == []


def test_before_it_is_entrusted_and_after(desk: Desk) -> None:
    desk.core.answer_checks(1, b"", b"")
    assert desk.arrive(request()) == []
    desk.core.answer_checks(1, b"next:", b"q" * 24)
    assert desk.arrive(request()) == []
    assert desk.arrive(request(name="next:x", key=stun.IntegrityKey("q" * 24))) != []


def test_without_keys_of_srtp_there_is_no_consent_to_keep(desk: Desk) -> None:
    desk.core.add_transport(2, 0, 0)
    desk.core.allow(2, *OTHER)
    desk.core.select(2, OTHER)
    desk.core.answer_checks(2, b"mine:", b"p" * 24)
    assert desk.arrive(request(), OTHER) == []


def test_too_many_are_the_control_sides(desk: Desk) -> None:
    answers = [bool(desk.arrive(request(number))) for number in range(CHECKS_PER_SECOND + 50)]
    assert answers == [True] * CHECKS_PER_SECOND + [False] * 50
    desk.now += SECOND
    assert desk.arrive(request()) != []


def test_the_last_transactions_are_known(desk: Desk) -> None:
    for number in range(1, CHECKS_KEPT + 11):
        desk.now += SECOND
        desk.arrive(request(number))
    known = [number for number in range(100) if desk.core.has_answered(1, number.to_bytes(12, "big"))]
    assert known == list(range(11, CHECKS_KEPT + 11))
    assert not desk.core.has_answered(1, b"")


def test_names_and_passwords_have_a_limit(desk: Desk) -> None:
    with pytest.raises(ValueError, match="too long"):
        desk.core.answer_checks(1, bytes(33), b"")
    with pytest.raises(ValueError, match="too long"):
        desk.core.answer_checks(1, b"x:", bytes(257))


def test_a_check_between_media(desk: Desk) -> None:
    """What is being sent is not touched."""
    rng = Random(1)
    desk.core.add_track(2, 0, 90000)
    desk.core.add_up(3, 2, 1, 10, 0, 96, 0, 0)
    desk.core.add_down(4, 2, 1, 11, 96, 0, 0, 0, b"", 0, 1, 1)
    desk.core.aim(4, 0, 7)
    bodies = [rng.randbytes(200) for _ in range(4)]
    media = [struct.pack("!BBHII", 0x80, 96, 5 + n, 0, 10) + body for n, body in enumerate(bodies)]
    check = request()
    batch = [(desk.place, data) for data in (media[0], check, media[1], media[2], check, media[3])]
    desk.core.step(desk.now, batch)
    sent = [data for _, data in (desk.core.sent() if desk.core.life == "compiled" else desk.sent)]
    answer = stun.build_success(check[8:20], *FOUR[1:], KEY)
    assert [data for data in sent if data[0] < 4] == [answer, answer]
    assert [data[-200:] for data in sent if data[0] >= 128 and not 192 <= data[1] < 224] == bodies


def test_without_hmac_every_check_is_the_control_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tertulia.sfu.plane.native", reason="the compiled data plane was not built")
    monkeypatch.setattr(srtp, "hmac_sha1", lambda: (0, 0))
    assert Desk("compiled").arrive(request()) == []
