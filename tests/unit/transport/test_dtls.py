"""Two endpoints on a simulated line: loss, reordering, small MTU, wrong certificates, floods."""

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL

from tertulia.protocol.machine import MILLISECOND, SECOND, Nanos
from tertulia.sfu.plane.api import SrtpProfile
from tertulia.sfu.transport import dtls
from tertulia.sfu.transport.dtls import (
    DtlsConnected,
    DtlsData,
    DtlsDatagram,
    DtlsEnded,
    DtlsEndpoint,
    DtlsIdentity,
    DtlsOutput,
    Phase,
    Role,
)

ALICE = DtlsIdentity()
BOB = DtlsIdentity()


def fingerprint(identity: DtlsIdentity) -> list[tuple[str, str]]:
    return [("sha-256", identity.fingerprint.lower())]


class Line:
    """Client and server on virtual time; `drop(datagram)` decides the fate of each datagram."""

    def __init__(
        self,
        drop: Callable[[bytes], bool] = lambda data: False,
        *,
        delay_ns: int = 10 * MILLISECOND,
        jitter: random.Random | None = None,
        expect_client: list[tuple[str, str]] | None = None,
        expect_server: list[tuple[str, str]] | None = None,
    ) -> None:
        self.now = Nanos(SECOND)
        self.counts: Counter[str] = Counter()
        self.drop = drop
        self.delay_ns = delay_ns
        self.jitter = jitter
        self.sent: dict[Role, list[bytes]] = {Role.SERVER: [], Role.CLIENT: []}
        self.found: dict[Role, list[DtlsOutput]] = {Role.SERVER: [], Role.CLIENT: []}
        self._wire: list[tuple[int, int, Role, bytes]] = []
        self._order = itertools.count()
        count = lambda name: self.counts.update([name])  # noqa: E731
        self.server = DtlsEndpoint(ALICE, Role.SERVER, expect_client or fingerprint(BOB), self.now, count)
        self.client = DtlsEndpoint(BOB, Role.CLIENT, expect_server or fingerprint(ALICE), self.now, count)

    def drain(self) -> None:
        for endpoint, target in ((self.server, Role.CLIENT), (self.client, Role.SERVER)):
            while (output := endpoint.poll()) is not None:
                if isinstance(output, DtlsDatagram):
                    self.carry(endpoint.role, target, output.data)
                else:
                    self.found[endpoint.role].append(output)

    def carry(self, source: Role, target: Role, data: bytes) -> None:
        self.sent[source].append(data)
        if not self.drop(data):
            delay_ns = self.delay_ns + (self.jitter.randrange(20 * MILLISECOND) if self.jitter else 0)
            heapq.heappush(self._wire, (self.now + delay_ns, next(self._order), target, data))

    def run(self, duration_ns: int) -> None:
        end = self.now + duration_ns
        while True:
            self.drain()
            moments = [endpoint.next_wake() for endpoint in (self.server, self.client)]
            if self._wire:
                moments.append(Nanos(self._wire[0][0]))
            due = min((moment for moment in moments if moment is not None), default=None)
            if due is None or due > end:
                self.now = Nanos(end)
                return
            self.now = Nanos(max(self.now, due))
            while self._wire and self._wire[0][0] <= self.now:
                _, _, target, data = heapq.heappop(self._wire)
                (self.server if target is Role.SERVER else self.client).handle(self.now, data)
            self.server.wake(self.now)
            self.client.wake(self.now)

    @property
    def connected(self) -> bool:
        return self.server.phase is Phase.CONNECTED and self.client.phase is Phase.CONNECTED

    def keys(self, role: Role) -> DtlsConnected:
        return next(output for output in self.found[role] if isinstance(output, DtlsConnected))

    def reason(self, role: Role) -> str:
        return next((output.reason for output in self.found[role] if isinstance(output, DtlsEnded)), "")


def test_a_handshake_gives_both_sides_the_same_keys() -> None:
    line = Line()
    line.run(SECOND)
    server, client = line.keys(Role.SERVER), line.keys(Role.CLIENT)
    assert server.profile is SrtpProfile.AEAD_AES_128_GCM
    assert (server.rx, server.tx) == (client.tx, client.rx)
    assert len(server.rx) == 28
    assert server.rx != server.tx
    assert line.server.round_trip_ns == 2 * line.delay_ns
    line.carry(Role.SERVER, Role.CLIENT, line.server.protect(b"hello"))
    line.carry(Role.CLIENT, Role.SERVER, line.client.protect(b"good day"))
    line.run(SECOND)
    assert line.found[Role.CLIENT][-1] == DtlsData(b"hello")
    assert line.found[Role.SERVER][-1] == DtlsData(b"good day")


@pytest.mark.parametrize("loss", [0.1, 0.2, 0.3])
def test_a_handshake_survives_loss_and_reordering(loss: float) -> None:
    slowest = 0
    for seed in range(40):
        dice = random.Random(seed)
        line = Line(lambda data, dice=dice: dice.random() < loss, jitter=dice)  # type: ignore[misc]
        start = line.now
        while not line.connected and line.now < start + 20 * SECOND:
            line.run(10 * MILLISECOND)
        assert line.connected, f"seed {seed}"
        slowest = max(slowest, line.now - start)
    assert slowest < 5 * SECOND


def test_every_single_lost_datagram_is_repaired_within_a_quarter_second() -> None:
    count = len(_datagrams_of_a_clean_handshake())
    assert count >= 4
    for victim in range(count):
        numbers = itertools.count()
        line = Line(lambda data, numbers=numbers, victim=victim: next(numbers) == victim)  # type: ignore[misc]
        line.run(250 * MILLISECOND)
        assert line.connected, f"datagram {victim} lost"


def _datagrams_of_a_clean_handshake() -> list[bytes]:
    line = Line()
    while not line.connected:
        line.run(MILLISECOND)
    return line.sent[Role.SERVER] + line.sent[Role.CLIENT]


def test_the_last_flight_is_repeated_until_data_comes() -> None:
    """The server is done, its last flight is lost again and again, and the client learns it in the end."""
    line = Line(lambda data: data[0] == 20)  # change_cipher_spec of the server's last flight
    line.drop = lambda data: data[0] == 20 and line.now < SECOND + 700 * MILLISECOND
    line.run(3 * SECOND)
    assert line.connected
    assert line.server.next_wake() is None


def test_a_last_flight_that_is_lost_for_long_is_sent_when_the_peer_asks() -> None:
    line = Line()
    line.drop = lambda data: data[0] == 20 and line.now < 7 * SECOND
    line.run(5 * SECOND)
    assert line.server.phase is Phase.CONNECTED
    assert line.server.next_wake() is None
    line.run(3 * SECOND)
    assert line.connected


def test_a_repeated_hello_is_answered_at_once_however_long_we_have_backed_off() -> None:
    line = Line()
    line.drop = lambda data: data[:1] == b"\x16" and data in line.sent[Role.SERVER] and line.now < 4 * SECOND
    line.run(3 * SECOND)
    hello = line.sent[Role.CLIENT][0]
    line.server.handle(line.now, hello)
    line.drain()
    flights = len(line.sent[Role.SERVER])
    line.now = Nanos(line.now + dtls.REPEAT_GUARD_NS // 2)
    line.server.handle(line.now, hello)
    line.drain()
    assert len(line.sent[Role.SERVER]) == flights
    line.now = Nanos(line.now + dtls.REPEAT_GUARD_NS)
    line.server.handle(line.now, hello)
    line.drain()
    assert len(line.sent[Role.SERVER]) > flights


def test_a_path_with_a_small_mtu_gets_small_datagrams() -> None:
    line = Line(lambda data: len(data) > 576)
    line.run(10 * SECOND)
    assert line.connected


def test_the_certificate_must_be_the_one_of_the_sdp() -> None:
    line = Line(expect_client=[("sha-256", ":".join(["AA"] * 32))])
    line.run(SECOND)
    assert "SDP" in line.reason(Role.SERVER)
    assert not any(isinstance(output, DtlsConnected) for output in line.found[Role.SERVER])
    assert line.counts["dtls_fingerprint_mismatch"] == 1
    assert line.server.protect(b"x") == b""


def test_the_strongest_known_hash_decides() -> None:
    good = BOB.fingerprint
    assert dtls.usable_fingerprints([("sha-1", "AA"), ("md5", "BB")]) is None
    assert dtls.usable_fingerprints([("SHA-256", good), ("sha-1", "x")]) == ("sha-256", frozenset({good}))
    line = Line(expect_client=[("sha-256", good), ("sha-512", "00:11")])
    line.run(SECOND)
    assert line.server.phase is Phase.CLOSED
    line = Line(expect_client=[("sha-256", "00:11"), ("sha-256", good)])  # two certificates (RFC 8122 5)
    line.run(SECOND)
    assert line.connected


@pytest.mark.parametrize("name", ["sha-256", "sha-384", "sha-512"])
def test_every_hash_we_know_is_written_as_openssl_writes_it(name: str) -> None:
    line = Line()
    line.run(SECOND)
    certificate = line.server._ssl.get_peer_certificate()
    assert certificate is not None
    line = Line(expect_client=[(name, certificate.digest(name.replace("-", "")).decode())])
    line.run(SECOND)
    assert line.connected


def test_the_peer_that_never_answers_is_given_up() -> None:
    line = Line(lambda data: True)
    line.run(25 * SECOND)
    assert line.reason(Role.SERVER) == "DTLS handshake timed out"
    assert line.server.next_wake() is None
    assert len(line.sent[Role.CLIENT]) <= dtls.MAX_FLIGHTS * 2


def test_goodbye_is_heard() -> None:
    line = Line()
    line.run(SECOND)
    line.client.close()
    line.run(SECOND)
    assert line.reason(Role.SERVER) == "the peer closed the connection"


@pytest.mark.parametrize(
    "record",
    [
        b"\x15\xfe\xfd" + bytes(8) + b"\x00\x02\x01\x00",  # close_notify in clear
        b"\x15\xfe\xfd" + bytes(8) + b"\x00\x02\x02\x28",  # fatal handshake_failure in clear
        b"\x15\xfe\xfd\x00\x01" + b"\x00\x00\x00\x00\x00\x63" + b"\x00\x1a" + bytes(26),  # forged in the new epoch
        b"\x16\xfe\xff" + bytes(8) + b"\x00\x10" + b"\x01" + bytes(15),  # a ClientHello
        b"\x17\xfe\xfd",
        b"\x17" + b"\xff" * 200,
        b"\x14\xfe\xfd" + bytes(8) + b"\x00\x01\x01",
    ],
)
def test_a_connection_ignores_what_is_not_authentic(record: bytes) -> None:
    line = Line()
    line.run(SECOND)
    line.server.handle(line.now, record)
    line.drain()
    assert line.server.phase is Phase.CONNECTED
    line.carry(Role.CLIENT, Role.SERVER, line.client.protect(b"still here"))
    line.run(SECOND)
    assert line.found[Role.SERVER][-1] == DtlsData(b"still here")


def test_random_bytes_neither_raise_nor_end_a_handshake_for_the_real_peer() -> None:
    dice = random.Random(7)
    line = Line()
    for _ in range(300):
        first = bytes([dice.choice([20, 21, 22, 23, 25, 63])])
        line.server.handle(line.now, first + dice.randbytes(dice.randrange(200)))
    line.drain()
    assert line.server.phase is Phase.HANDSHAKE
    line.run(SECOND)
    assert line.connected


def fragment(offset: int, size: int, total: int, sequence: int = 0, record: int = 0) -> bytes:
    """A piece of a ClientHello: handshake header (RFC 6347 4.2.2) in a plaintext record."""
    body = bytes(size)
    handshake = (
        b"\x01"
        + total.to_bytes(3, "big")
        + sequence.to_bytes(2, "big")
        + offset.to_bytes(3, "big")
        + size.to_bytes(3, "big")
        + body
    )
    return b"\x16\xfe\xfd\x00\x00" + record.to_bytes(6, "big") + len(handshake).to_bytes(2, "big") + handshake


def test_handshake_fragments_are_bounded() -> None:
    """10 MB of fragments that never complete: 64 KiB are looked at, the rest is counted."""
    line = Line()
    fed = 0
    while fed < 10_000_000:
        data = fragment(offset=fed % 60000, size=1100, total=65000, sequence=5, record=fed // 1100)
        line.server.handle(line.now, data)
        fed += len(data)
    assert line.counts["dtls_rate_limited"] > 8000
    line.now = Nanos(line.now + SECOND)
    line.server.wake(line.now)
    assert line.server.phase is Phase.HANDSHAKE


@pytest.mark.parametrize(
    "data",
    [
        fragment(0, 0, 0),
        fragment(0, 0, 100),
        fragment(0, 10, 16_000_000),
        fragment(90, 20, 100),
        fragment(200, 10, 100),
        fragment(0, 10, 100) + fragment(5, 50, 120, record=1),
    ],
)
def test_lying_fragments_end_at_most_this_handshake(data: bytes) -> None:
    line = Line()
    line.server.handle(line.now, data)
    line.drain()
    assert line.server.phase in (Phase.HANDSHAKE, Phase.CLOSED)
    if line.server.phase is Phase.CLOSED:
        assert line.reason(Role.SERVER).startswith("DTLS handshake failed")


def test_a_flood_of_repeated_hellos_is_not_amplified_without_bound() -> None:
    line = Line()
    hello = next(output.data for output in iter(line.client.poll, None) if isinstance(output, DtlsDatagram))
    for _ in range(15_000):
        line.now = Nanos(line.now + MILLISECOND)
        line.server.handle(line.now, hello)
        line.server.wake(line.now)
        line.drain()
    assert len(line.sent[Role.SERVER]) <= 2 * dtls.MAX_FLIGHTS


def raw_client(configure: Callable[[SSL.Context], None], *, certificate: bool = True, srtp: bool = True) -> str:
    """Our server against a bare OpenSSL client; returns the server's reason, empty when connected."""
    context = SSL.Context(SSL.DTLS_METHOD)
    context.set_options(SSL.OP_NO_QUERY_MTU)
    if certificate:
        context.use_certificate(_certificate)
        context.use_privatekey(_key)
    if srtp:
        context.set_tlsext_use_srtp(b"SRTP_AES128_CM_SHA1_80")
    configure(context)
    client = SSL.Connection(context, None)
    client.set_ciphertext_mtu(1200)
    client.set_connect_state()
    now = Nanos(SECOND)
    server = DtlsEndpoint(ALICE, Role.SERVER, [("sha-256", _digest)], now, lambda name: None)
    for _ in range(10):
        try:
            client.do_handshake()
        except SSL.WantReadError:
            pass
        except SSL.Error as error:
            return f"client: {error}"
        try:
            for datagram in dtls.cut(client.bio_read(65536), 1200):
                server.handle(now, datagram)
        except SSL.WantReadError:
            pass
        while (output := server.poll()) is not None:
            if isinstance(output, DtlsDatagram):
                client.bio_write(output.data)
            elif isinstance(output, DtlsEnded):
                return output.reason
            elif isinstance(output, DtlsConnected):
                assert output.profile is SrtpProfile.AES128_CM_SHA1_80
                return ""
    return "nothing"


def _make_certificate() -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate, str]:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = dtls._self_signed(key)
    return key, certificate, certificate.fingerprint(hashes.SHA256()).hex(":")


_key, _certificate, _digest = _make_certificate()


def test_the_other_srtp_profile_is_taken_when_it_is_the_only_one() -> None:
    assert raw_client(lambda context: None) == ""


def test_handshakes_we_refuse() -> None:
    assert raw_client(lambda context: None, srtp=False) == "no common SRTP profile"
    assert "certificate" in raw_client(lambda context: None, certificate=False)
    assert raw_client(lambda context: context.set_cipher_list(b"ECDHE-RSA-AES128-GCM-SHA256")).startswith(
        "DTLS handshake failed"
    )

    def old(context: SSL.Context) -> None:
        context.set_cipher_list(b"ALL:@SECLEVEL=0")
        context.set_min_proto_version(0xFEFF)
        context.set_max_proto_version(0xFEFF)

    assert raw_client(old).startswith("DTLS handshake failed")


def test_records_are_cut_at_their_borders() -> None:
    records = [b"\x16\xfe\xfd" + bytes(8) + size.to_bytes(2, "big") + bytes(size) for size in (100, 500, 700, 40, 1500)]
    datagrams = dtls.cut(b"".join(records), 1200)
    assert b"".join(datagrams) == b"".join(records)
    assert [len(datagram) for datagram in datagrams] == [626, 766, 1513]
    assert dtls.cut(b"", 1200) == []
    assert dtls.cut(b"\x16\xfe", 1200) == []


def test_the_keys_are_out_before_the_flight_that_lets_the_peer_use_them() -> None:
    """RFC 5764 4.1: media may follow the last flight at once."""
    now = Nanos(SECOND)
    server = DtlsEndpoint(ALICE, Role.SERVER, fingerprint(BOB), now, lambda name: None)
    client = DtlsEndpoint(BOB, Role.CLIENT, fingerprint(ALICE), now, lambda name: None)
    said: list[DtlsOutput] = []
    for _ in range(6):
        for one, other in ((client, server), (server, client)):
            said = list(iter(one.poll, None))
            for output in said:
                if isinstance(output, DtlsDatagram):
                    other.handle(now, output.data)
            if one is server and server.phase is Phase.CONNECTED:
                break
        else:
            continue
        break
    assert [type(output) for output in said] == [DtlsConnected, DtlsDatagram]
