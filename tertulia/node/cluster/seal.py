"""Secrets of a cluster: who is of it, which bus messages are genuine, and the keys of media links.

Everything is derived from one shared secret (HKDF-SHA256, RFC 5869). A sealed message carries its sender, a number that
rises, and a keyed BLAKE2 tag over both, its channel and its content: what is forged, foreign or said before is dropped.
"""

import hashlib
import hmac
import struct
from collections.abc import Mapping

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tertulia.protocol.errors import PeerError
from tertulia.protocol.ids import NodeId

TAG_BYTES = 16
SRTP_GCM_BYTES = 28
"""Key and salt of AEAD_AES_128_GCM (RFC 7714 12)."""
MAX_SENDERS = 10_000
_NUMBER = struct.Struct("!QB")


def secret_of_keys(keys: Mapping[str, str]) -> str:
    """Without a secret of its own a cluster shares that of its API keys: all nodes have the same."""
    return "\n".join(f"{key}:{secret}" for key, secret in sorted(keys.items()))


def mark_of(secret: str) -> str:
    """Keeps nodes of this cluster and others on the same Redis apart; says nothing about the secret."""
    return derive(secret.encode(), b"tertulia mark", 8).hex()


def derive(root: bytes, purpose: bytes, length: int, salt: bytes = b"") -> bytes:
    return HKDF(algorithm=SHA256(), length=length, salt=salt or None, info=purpose).derive(root)


class Seal:
    """One node's side of the cluster's secret."""

    def __init__(self, secret: str, node: NodeId, first_number: int) -> None:
        """`first_number` must be higher than any this node id used before: its start time will do."""
        self._root = secret.encode()
        self._node = node
        self._bus_key = derive(self._root, b"tertulia bus", 32)
        self._number = first_number
        self._heard: dict[tuple[str, str], int] = {}
        """The newest number by sender and channel."""

    def _tag(self, channel: str, data: bytes) -> bytes:
        tag = hashlib.blake2b(key=self._bus_key, digest_size=TAG_BYTES)
        tag.update(channel.encode() + b"\0")
        tag.update(data)
        return tag.digest()

    def close(self, channel: str, word: bytes) -> bytes:
        """A message for one channel of the bus."""
        self._number += 1
        name = self._node.encode()
        data = _NUMBER.pack(self._number, len(name)) + name + word
        return self._tag(channel, data) + data

    def open(self, channel: str, message: bytes) -> tuple[NodeId, bytes]:
        """Who said what. PeerError names why a message is refused."""
        tag, data = message[:TAG_BYTES], message[TAG_BYTES:]
        if len(data) < _NUMBER.size or not hmac.compare_digest(tag, self._tag(channel, data)):
            raise PeerError("bus_forged")
        number, length = _NUMBER.unpack_from(data)
        end = _NUMBER.size + length
        sender = data[_NUMBER.size : end].decode("ascii", "replace")
        key = (sender, channel)
        if number <= self._heard.get(key, -1):
            raise PeerError("bus_repeated")
        if key not in self._heard and len(self._heard) >= MAX_SENDERS:
            self._heard.pop(next(iter(self._heard)))
        self._heard[key] = number
        return NodeId(sender), data[end:]

    def link_keys(self, other: NodeId, mine: bytes, theirs: bytes) -> tuple[bytes, bytes]:
        """SRTP keys (rx, tx) of the link to another node, from both halves."""
        salt = b"".join(sorted((mine, theirs)))

        def key(sender: NodeId, receiver: NodeId) -> bytes:
            return derive(self._root, f"tertulia relay {sender} > {receiver}".encode(), SRTP_GCM_BYTES, salt)

        return key(other, self._node), key(self._node, other)
