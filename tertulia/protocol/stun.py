"""STUN binding requests and responses on bytes (RFC 8489), as ICE uses them (RFC 8445 7.3).

Parses and checks what a controlling ICE agent sends, builds the answers (and requests, for clients of our own).
It decides nothing: which credentials belong to a username, and whether to answer, is the ICE agent's business.
"""

import hashlib
import hmac
import socket
import struct
import zlib
from collections.abc import Sequence
from typing import NamedTuple

from tertulia.protocol.errors import PeerError

MAGIC_COOKIE = 0x2112A442
HEADER_BYTES = 20
MAX_MESSAGE_BYTES = 1500
"""A binding request is about 100 bytes; nobody has reason to send more than one datagram's worth."""

BINDING_REQUEST = 0x0001
BINDING_INDICATION = 0x0011
BINDING_SUCCESS = 0x0101
BINDING_ERROR = 0x0111

USERNAME = 0x0006
MESSAGE_INTEGRITY = 0x0008
ERROR_CODE = 0x0009
UNKNOWN_ATTRIBUTES = 0x000A
REALM = 0x0014
NONCE = 0x0015
XOR_MAPPED_ADDRESS = 0x0020
PRIORITY = 0x0024
USE_CANDIDATE = 0x0025
FINGERPRINT = 0x8028
ICE_CONTROLLED = 0x8029
ICE_CONTROLLING = 0x802A

_COMPREHENSION_OPTIONAL = 0x8000
_UNDERSTOOD = frozenset({USERNAME, MESSAGE_INTEGRITY, REALM, NONCE, PRIORITY, USE_CANDIDATE})
_FIXED_LENGTHS = {
    MESSAGE_INTEGRITY: 20,
    PRIORITY: 4,
    USE_CANDIDATE: 0,
    FINGERPRINT: 4,
    ICE_CONTROLLED: 8,
    ICE_CONTROLLING: 8,
}
_MAX_USERNAME_BYTES = 513
"""RFC 8489 14.3."""
_INTEGRITY_BYTES = 24
_FINGERPRINT_BYTES = 8
_FINGERPRINT_XOR = 0x5354554E

UNKNOWN_ATTRIBUTE = 420
ROLE_CONFLICT = 487


class IntegrityKey:
    """A password made ready for MESSAGE-INTEGRITY (HMAC-SHA1, short-term credentials)."""

    __slots__ = ("_hmac",)

    def __init__(self, password: str) -> None:
        self._hmac = hmac.new(password.encode(), digestmod=hashlib.sha1)

    def digest(self, data: bytes) -> bytes:
        mac = self._hmac.copy()
        mac.update(data)
        return mac.digest()


class Binding(NamedTuple):
    """A binding request or response whose form is right; whether it is authentic says `is_authentic`."""

    kind: int
    transaction: bytes
    username: str
    priority: int
    use_candidate: bool
    controlling: bool
    """ICE-CONTROLLING is there."""
    controlled: bool
    """ICE-CONTROLLED is there: the peer thinks that we are the controlling agent."""
    unknown: tuple[int, ...]
    """Comprehension-required attributes we do not know (at most 8)."""
    mapped: tuple[str, int] | None
    error_code: int
    signed: bytes
    """What MESSAGE-INTEGRITY covers, with the length field it was computed for; empty when the attribute is missing."""
    integrity: bytes

    @property
    def local_ufrag(self) -> str:
        """Of the receiver of a request: the first half of USERNAME (RFC 8445 7.2.2)."""
        return self.username.partition(":")[0]


def is_stun(data: bytes) -> bool:
    """The first byte and the cookie say STUN (RFC 7983 7)."""
    return len(data) >= HEADER_BYTES and data[0] < 4 and data[4:8] == b"\x21\x12\xa4\x42"


def parse(data: bytes) -> Binding:
    """A binding message; PeerError for everything else."""
    if not is_stun(data) or len(data) > MAX_MESSAGE_BYTES:
        raise PeerError("not a STUN message")
    kind, length = struct.unpack_from("!HH", data)
    if length % 4 or length != len(data) - HEADER_BYTES:
        raise PeerError("STUN length is wrong")
    if kind not in (BINDING_REQUEST, BINDING_INDICATION, BINDING_SUCCESS, BINDING_ERROR):
        raise PeerError("not a STUN binding message")
    username, priority, error_code = "", 0, 0
    use_candidate = controlling = controlled = False
    mapped: tuple[str, int] | None = None
    unknown: list[int] = []
    signed = integrity = b""
    position = HEADER_BYTES
    while position < len(data):
        attribute, size = struct.unpack_from("!HH", data, position)
        start = position + 4
        position = start + size + (-size % 4)
        if position > len(data):
            raise PeerError("STUN attribute runs past the end")
        if _FIXED_LENGTHS.get(attribute, size) != size:
            raise PeerError("STUN attribute has a wrong length")
        if attribute == FINGERPRINT:
            _check_fingerprint(data, start)
            break
        if integrity:
            continue  # RFC 8489 14.5: what follows MESSAGE-INTEGRITY is ignored, FINGERPRINT excepted
        if attribute == MESSAGE_INTEGRITY:
            covered = start - 4
            signed = data[:2] + struct.pack("!H", covered + _INTEGRITY_BYTES - HEADER_BYTES) + data[4:covered]
            integrity = data[start : start + size]
        elif attribute == USERNAME:
            username = _username(data[start : start + size])
        elif attribute == PRIORITY:
            (priority,) = struct.unpack_from("!L", data, start)
        elif attribute == USE_CANDIDATE:
            use_candidate = True
        elif attribute == ICE_CONTROLLING:
            controlling = True
        elif attribute == ICE_CONTROLLED:
            controlled = True
        elif attribute == XOR_MAPPED_ADDRESS and kind == BINDING_SUCCESS:
            mapped = _parse_mapped(data[start : start + size], data[4:20])
        elif attribute == ERROR_CODE and kind == BINDING_ERROR and size >= 4:
            error_code = (data[start + 2] & 7) * 100 + data[start + 3]
        elif (
            attribute < _COMPREHENSION_OPTIONAL
            and kind == BINDING_REQUEST
            and attribute not in _UNDERSTOOD
            and len(unknown) < 8
        ):
            unknown.append(attribute)
    return Binding(
        kind,
        data[8:20],
        username,
        priority,
        use_candidate,
        controlling,
        controlled,
        tuple(unknown),
        mapped,
        error_code,
        signed,
        integrity,
    )


def is_authentic(message: Binding, key: IntegrityKey) -> bool:
    """MESSAGE-INTEGRITY is there and was made with this password."""
    return bool(message.integrity) and hmac.compare_digest(key.digest(message.signed), message.integrity)


def build_success(transaction: bytes, host: str, port: int, key: IntegrityKey) -> bytes:
    """The answer to a good check: the address it came from."""
    return _seal(BINDING_SUCCESS, transaction, _mapped(host, port, transaction), key)


def build_error(transaction: bytes, code: int, key: IntegrityKey, unknown: Sequence[int] = ()) -> bytes:
    """The answer to an authentic request that cannot be taken as it is (420, 487)."""
    body = _attribute(ERROR_CODE, struct.pack("!HBB", 0, code // 100, code % 100))
    if unknown:
        body += _attribute(UNKNOWN_ATTRIBUTES, struct.pack(f"!{len(unknown)}H", *unknown))
    return _seal(BINDING_ERROR, transaction, body, key)


def build_request(
    transaction: bytes,
    username: str,
    key: IntegrityKey,
    *,
    priority: int = 0,
    use_candidate: bool = False,
    tie_breaker: int = 0,
    extra: bytes = b"",
) -> bytes:
    """A check of a controlling agent (RFC 8445 7.1). `extra`: further attributes, as they are."""
    body = _attribute(USERNAME, username.encode())
    body += _attribute(PRIORITY, struct.pack("!L", priority))
    body += _attribute(ICE_CONTROLLING, struct.pack("!Q", tie_breaker))
    if use_candidate:
        body += _attribute(USE_CANDIDATE, b"")
    return _seal(BINDING_REQUEST, transaction, body + extra, key)


def _seal(kind: int, transaction: bytes, body: bytes, key: IntegrityKey) -> bytes:
    """Header, attributes, MESSAGE-INTEGRITY, FINGERPRINT; each counts the length up to and with itself."""
    tail = MAGIC_COOKIE.to_bytes(4, "big") + transaction + body
    mac = key.digest(struct.pack("!HH", kind, len(body) + _INTEGRITY_BYTES) + tail)
    message = struct.pack("!HH", kind, len(body) + _INTEGRITY_BYTES + _FINGERPRINT_BYTES) + tail
    message += struct.pack("!HH", MESSAGE_INTEGRITY, 20) + mac
    return message + struct.pack("!HHL", FINGERPRINT, 4, zlib.crc32(message) ^ _FINGERPRINT_XOR)


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("!HH", kind, len(value)) + value + b"\0" * (-len(value) % 4)


def _check_fingerprint(data: bytes, start: int) -> None:
    """RFC 8489 14.7: the last attribute, over everything before it."""
    if start + 4 != len(data):
        raise PeerError("STUN FINGERPRINT is not the last attribute")
    (value,) = struct.unpack_from("!L", data, start)
    if value != zlib.crc32(data[: start - 4]) ^ _FINGERPRINT_XOR:
        raise PeerError("STUN FINGERPRINT is wrong")


def _username(value: bytes) -> str:
    if len(value) > _MAX_USERNAME_BYTES:
        raise PeerError("STUN USERNAME is too long")
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise PeerError("STUN USERNAME is not UTF-8") from None


def address(host: str, port: int) -> bytes:
    """An address as MAPPED-ADDRESS has it (RFC 8489 14.1)."""
    if ":" in host:
        return struct.pack("!BBH", 0, 2, port) + socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    return struct.pack("!BBH", 0, 1, port) + socket.inet_aton(host)


def _mapped(host: str, port: int, transaction: bytes) -> bytes:
    """XOR-MAPPED-ADDRESS (RFC 8489 14.2)."""
    value = address(host, port)
    masked = _masked(value, MAGIC_COOKIE.to_bytes(4, "big") + transaction)
    return struct.pack("!HH", XOR_MAPPED_ADDRESS, len(value)) + masked


def _parse_mapped(value: bytes, cookie_and_transaction: bytes) -> tuple[str, int]:
    family = value[1] if len(value) in (8, 20) else 0
    if (family, len(value)) not in ((1, 8), (2, 20)):
        raise PeerError("STUN XOR-MAPPED-ADDRESS is malformed")
    value = _masked(value, cookie_and_transaction)
    host = socket.inet_ntop(socket.AF_INET if family == 1 else socket.AF_INET6, value[4:])
    return host, int.from_bytes(value[2:4], "big")


def _masked(value: bytes, cookie_and_transaction: bytes) -> bytes:
    """There and back: the port by the cookie's first half, the address by cookie and transaction."""
    mask = cookie_and_transaction[:2] + cookie_and_transaction
    return value[:2] + bytes(byte ^ by for byte, by in zip(value[2:], mask, strict=False))
