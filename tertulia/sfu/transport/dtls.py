"""DTLS-SRTP of one transport (RFC 5763, RFC 5764, RFC 7983) on OpenSSL with memory in place of sockets.

Decides when to repeat a flight, whether the peer's certificate is the one its SDP named, and when the handshake has
failed. The flight timer is our own: OpenSSL's begins at one second and its server does not answer a repeated
ClientHello, so one lost datagram would cost a join a second or more.
"""

import contextlib
import datetime
import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL
from OpenSSL.crypto import FILETYPE_ASN1, X509, dump_certificate

from tertulia.protocol.machine import MILLISECOND, SECOND, Nanos
from tertulia.sfu.plane.api import SrtpProfile
from tertulia.sfu.transport.api import PEER_CLOSED
from tertulia.sfu.transport.limits import Bucket

HANDSHAKE_NS = 20 * SECOND
"""From the first datagram to keys; clients give up after 15 s."""
FIRST_FLIGHT_NS = 50 * MILLISECOND
LAST_FLIGHT_NS = SECOND
"""A flight is repeated after 50, 100, 200 ... 1000 ms."""
REPEAT_GUARD_NS = 40 * MILLISECOND
"""A repeated flight of the peer has ours repeated at once, unless it is younger than this."""
MAX_FLIGHTS = 40
FINAL_FLIGHTS = 6
"""Our last flight has no answer of its own: it is repeated (for 3 s) until application data proves that it came."""
MTU_BYTES = 1200
SMALL_MTU_BYTES = 548
SMALL_MTU_AFTER = 3
"""After so many repeats without an answer the records go out one by one, for paths with a small MTU."""
MAX_DATAGRAM_BYTES = 4096
HANDSHAKE_BURST_BYTES = 64 * 1024
HANDSHAKE_BYTE_NS = SECOND // (16 * 1024)
"""Handshake bytes taken from a peer: 64 KiB, then 16 KiB/s, until the deadline."""
CERTIFICATE_DAYS = 365
_DTLS_1_2 = 0xFEFD
_RECORD_HEADER_BYTES = 13
_APPLICATION_DATA = 23
_DIGESTS = {"sha-512": hashlib.sha512, "sha-384": hashlib.sha384, "sha-256": hashlib.sha256}
"""Fingerprint hashes we check, strongest first (RFC 8122 5)."""

_PROFILES = {
    b"SRTP_AEAD_AES_128_GCM": (SrtpProfile.AEAD_AES_128_GCM, 16, 12),
    b"SRTP_AES128_CM_SHA1_80": (SrtpProfile.AES128_CM_SHA1_80, 16, 14),
}
"""OpenSSL name -> profile, key and salt bytes; in our order of preference, which decides as we are the server."""
_CIPHERS = b"ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-ECDSA-AES128-SHA:ECDHE-ECDSA-AES256-SHA"


class DtlsIdentity:
    """A self-signed ECDSA certificate with the OpenSSL context that every transport of the node shares."""

    def __init__(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _self_signed(key)
        self.expires = certificate.not_valid_after_utc
        self.fingerprint = ":".join(f"{byte:02X}" for byte in certificate.fingerprint(hashes.SHA256()))
        """SHA-256, for the SDP (RFC 8122)."""
        context = SSL.Context(SSL.DTLS_METHOD)
        context.set_min_proto_version(_DTLS_1_2)
        context.set_max_proto_version(_DTLS_1_2)  # the record cutter below knows the header of 1.2 only
        context.set_options(SSL.OP_NO_QUERY_MTU | SSL.OP_NO_TICKET | SSL.OP_NO_RENEGOTIATION)
        context.set_mode(SSL.MODE_RELEASE_BUFFERS)
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        # The chain means nothing; the fingerprint decides, after the handshake (RFC 5763 5).
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, lambda *chain: True)
        context.use_certificate(certificate)
        context.use_privatekey(key)
        context.set_cipher_list(_CIPHERS)
        context.set_tlsext_use_srtp(b":".join(_PROFILES))
        self.context = context


def _self_signed(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "WebRTC")])
    now = datetime.datetime.now(tz=datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=CERTIFICATE_DAYS))
    )
    return builder.sign(key, hashes.SHA256())


class Role(Enum):
    """SERVER answers `passive`, CLIENT `active` (RFC 4145)."""

    SERVER = auto()
    CLIENT = auto()


class Phase(Enum):
    """HANDSHAKE -> CONNECTED -> CLOSED, or straight to CLOSED."""

    HANDSHAKE = auto()
    CONNECTED = auto()
    CLOSED = auto()


@dataclass(frozen=True, slots=True)
class DtlsDatagram:
    """To be sent to the peer."""

    data: bytes


@dataclass(frozen=True, slots=True)
class DtlsConnected:
    """The peer is who its SDP says; SRTP master key + salt for what comes in (rx) and goes out (tx)."""

    profile: SrtpProfile
    rx: bytes
    tx: bytes


@dataclass(frozen=True, slots=True)
class DtlsData:
    """One decrypted record."""

    data: bytes


@dataclass(frozen=True, slots=True)
class DtlsEnded:
    """Over: the handshake failed or the peer closed."""

    reason: str


DtlsOutput = DtlsDatagram | DtlsConnected | DtlsData | DtlsEnded


def usable_fingerprints(fingerprints: Sequence[tuple[str, str]]) -> tuple[str, frozenset[str]] | None:
    """The strongest hash we know among them and its values (RFC 8122 5); None when there is none."""
    for digest in _DIGESTS:
        values = frozenset(value.upper() for algorithm, value in fingerprints if algorithm.lower() == digest)
        if values:
            return digest, values
    return None


class DtlsEndpoint:
    """One association. It lives from the first datagram (or, as client, from `start`) to `DtlsEnded` or `close`."""

    def __init__(
        self,
        identity: DtlsIdentity,
        role: Role,
        fingerprints: Sequence[tuple[str, str]],
        now: Nanos,
        count: Callable[[str], None],
    ) -> None:
        self.role = role
        self.phase = Phase.HANDSHAKE
        self.round_trip_ns = 0
        """Of the first flight that was answered without having been repeated; 0 while unknown."""
        self._expected = usable_fingerprints(fingerprints)
        self._count = count
        self._deadline = now + HANDSHAKE_NS
        self._allowance = Bucket(HANDSHAKE_BURST_BYTES, HANDSHAKE_BYTE_NS)
        self._outputs: deque[DtlsOutput] = deque()
        self._flight: bytes = b""
        self._flight_sent = now
        self._flight_due: Nanos | None = None
        self._repeats = 0
        self._flights = 0
        self._ssl = SSL.Connection(identity.context, None)
        self._ssl.set_ciphertext_mtu(MTU_BYTES)
        if role is Role.SERVER:
            self._ssl.set_accept_state()
        else:
            self._ssl.set_connect_state()
            self._handshake(now)

    # the four verbs -----------------------------------------------------------------------------

    def handle(self, now: Nanos, data: bytes) -> None:
        """A datagram of DTLS records from a proven path."""
        if self.phase is Phase.CLOSED:
            return
        if len(data) > MAX_DATAGRAM_BYTES:
            self._count("dtls_oversize")
            return
        if self.phase is Phase.HANDSHAKE and not self._allowance.take(now, len(data)):
            self._count("dtls_rate_limited")
            return
        self._ssl.bio_write(data)
        if self.phase is Phase.HANDSHAKE:
            self._handshake(now)
        if self.phase is Phase.CONNECTED:
            self._receive(now, data)

    def wake(self, now: Nanos) -> None:
        if self.phase is Phase.HANDSHAKE and now >= self._deadline:
            self._end("DTLS handshake timed out")
        elif self._flight_due is not None and now >= self._flight_due:
            self._repeats += 1
            self._send_flight(now)
            if self.phase is Phase.CONNECTED and self._repeats >= FINAL_FLIGHTS:
                self._flight_due = None

    def next_wake(self) -> Nanos | None:
        if self.phase is Phase.CLOSED:
            return None
        if self.phase is Phase.CONNECTED:
            return self._flight_due
        return Nanos(min(self._deadline, self._flight_due or self._deadline))

    def poll(self) -> DtlsOutput | None:
        return self._outputs.popleft() if self._outputs else None

    # the connected life -------------------------------------------------------------------------

    def protect(self, data: bytes) -> bytes:
        """One record of application data; empty when there is no connection."""
        if self.phase is not Phase.CONNECTED:
            return b""
        try:
            self._ssl.send(data)
            return bytes(self._ssl.bio_read(MAX_DATAGRAM_BYTES))
        except SSL.Error:
            return b""

    def close(self) -> None:
        """Say goodbye (close_notify) if there is somebody to say it to."""
        if self.phase is Phase.CONNECTED:
            with contextlib.suppress(SSL.Error):
                self._ssl.shutdown()
            self._emit_pending()
        self.phase = Phase.CLOSED
        self._flight_due = None

    # parts --------------------------------------------------------------------------------------

    def _handshake(self, now: Nanos) -> None:
        try:
            self._ssl.do_handshake()
        except SSL.WantReadError:
            if not self._take_flight(now):
                self._repeat_at_once(now)
            return
        except SSL.Error as error:
            self._emit_pending()  # the alert
            self._end(f"DTLS handshake failed: {_reason(error)}")
            return
        self._connected()  # first: media follow our last flight at once, and their keys must be known by then
        self._take_flight(now)

    def _take_flight(self, now: Nanos) -> bool:
        """Send what OpenSSL wrote, and keep it to be repeated. False: it wrote nothing."""
        pending = self._read_pending()
        if not pending:
            return False
        if self._flight and not self._repeats and not self.round_trip_ns:
            self.round_trip_ns = now - self._flight_sent
        self._flight = pending
        self._repeats = 0
        self._send_flight(now)
        return True

    def _repeat_at_once(self, now: Nanos) -> None:
        """Something came that brought the handshake no further: most often the peer's flight again, ours being lost."""
        if self._flight and now - self._flight_sent > REPEAT_GUARD_NS:
            self._repeats = max(self._repeats, 1)
            self._send_flight(now)

    def _send_flight(self, now: Nanos) -> None:
        self._flights += 1
        if self._flights > MAX_FLIGHTS:
            self._flight_due = None
            return
        if self._repeats:
            self._count("dtls_flights_repeated")
        limit = SMALL_MTU_BYTES if self._repeats > SMALL_MTU_AFTER else MTU_BYTES
        for datagram in cut(self._flight, limit):
            self._outputs.append(DtlsDatagram(datagram))
        self._flight_sent = now
        self._flight_due = Nanos(now + min(FIRST_FLIGHT_NS << min(self._repeats, 5), LAST_FLIGHT_NS))

    def _connected(self) -> None:
        """Handshake done: check the certificate, then hand out the keys (RFC 5764 4.2)."""
        certificate = self._ssl.get_peer_certificate()
        digest, values = self._expected or ("sha-256", frozenset())
        if certificate is None or _fingerprint(certificate, digest) not in values:
            self._count("dtls_fingerprint_mismatch")
            self.phase = Phase.CONNECTED
            self.close()
            self._end("the DTLS certificate is not the one the SDP names")
            return
        selected = _PROFILES.get(self._ssl.get_selected_srtp_profile())
        if selected is None:
            self._end("no common SRTP profile")
            return
        profile, key_bytes, salt_bytes = selected
        material = self._ssl.export_keying_material(b"EXTRACTOR-dtls_srtp", 2 * (key_bytes + salt_bytes))
        client = material[:key_bytes] + material[2 * key_bytes : 2 * key_bytes + salt_bytes]
        server = material[key_bytes : 2 * key_bytes] + material[2 * key_bytes + salt_bytes :]
        if self.role is Role.CLIENT:
            self._flight_due = None  # the server's last flight is its answer to ours
        self.phase = Phase.CONNECTED
        self._count("dtls_connected")
        rx, tx = (client, server) if self.role is Role.SERVER else (server, client)
        self._outputs.append(DtlsConnected(profile, rx, tx))

    def _receive(self, now: Nanos, datagram: bytes) -> None:
        if datagram[0] == _APPLICATION_DATA:
            self._flight_due = None  # the peer has our last flight
        elif self._flight_due is None and now - self._flight_sent > REPEAT_GUARD_NS and datagram[0] == 22:
            self._send_flight_again(now)
        single = datagram[0] == _APPLICATION_DATA and len(datagram) == _record_bytes(datagram, 0)
        try:
            self._outputs.append(DtlsData(self._ssl.recv(MAX_DATAGRAM_BYTES)))
            while not single:  # the usual datagram holds one record; asking for another costs an exception
                self._outputs.append(DtlsData(self._ssl.recv(MAX_DATAGRAM_BYTES)))
        except SSL.WantReadError:
            pass
        except SSL.ZeroReturnError:
            self.close()
            self._end(PEER_CLOSED)
        except SSL.Error as error:
            self._emit_pending()  # the alert
            self._end(f"DTLS failed: {_reason(error)}")
        if not single:
            self._emit_pending()

    def _send_flight_again(self, now: Nanos) -> None:
        """A peer that still repeats its handshake has not got our last flight, whatever it sent before."""
        self._repeats = 1
        self._send_flight(now)
        self._flight_due = None

    def _end(self, reason: str) -> None:
        if self.phase is Phase.HANDSHAKE:
            self._count("dtls_failed")
        self.phase = Phase.CLOSED
        self._flight_due = None
        self._outputs.append(DtlsEnded(reason))

    def _emit_pending(self) -> None:
        for datagram in cut(self._read_pending(), MTU_BYTES):
            self._outputs.append(DtlsDatagram(datagram))

    def _read_pending(self) -> bytes:
        try:
            return bytes(self._ssl.bio_read(65536))
        except SSL.Error:
            return b""


def _fingerprint(certificate: X509, digest: str) -> str:
    """In the form of the SDP (RFC 8122 5)."""
    return _DIGESTS[digest](dump_certificate(FILETYPE_ASN1, certificate)).digest().hex(":").upper()


def cut(records: bytes, limit_bytes: int) -> list[bytes]:
    """Whole records packed into datagrams: OpenSSL's memory is a byte stream and knows no datagram borders."""
    datagrams: list[bytes] = []
    start = position = 0
    while position + _RECORD_HEADER_BYTES <= len(records):
        size = _record_bytes(records, position)
        if position > start and position + size - start > limit_bytes:
            datagrams.append(records[start:position])
            start = position
        position += size
    if position > start:
        datagrams.append(records[start:position])
    return datagrams


def _record_bytes(records: bytes, position: int) -> int:
    """Size of the record that begins here, its header included (RFC 6347 4.1)."""
    return _RECORD_HEADER_BYTES + int.from_bytes(records[position + 11 : position + 13], "big")


def _reason(error: SSL.Error) -> str:
    """OpenSSL's own words for the last error in its queue."""
    queue = error.args[0] if error.args and isinstance(error.args[0], list) else []
    return str(queue[-1][-1]) if queue else "connection error"
