"""AMF0, the values inside RTMP commands. Both ways, bounded: the peer's bytes are not trusted.

Adobe "Action Message Format, AMF 0" (2007) section 2; only the types RTMP servers use.
"""

import struct
from collections.abc import Mapping

from tertulia.protocol.errors import PeerError

_NUMBER, _BOOLEAN, _STRING, _OBJECT, _NULL, _UNDEFINED, _ECMA_ARRAY, _END, _STRICT_ARRAY, _DATE, _LONG_STRING = (
    0, 1, 2, 3, 5, 6, 8, 9, 10, 11, 12,
)  # fmt: skip
_DEPTH_LIMIT = 8
_VALUES_LIMIT = 1000


class EcmaArray(dict[str, object]):
    """An object that goes out as an ECMA array, as `onMetaData` does."""


def encode(value: object) -> bytes:
    """One AMF0 value. Raises TypeError for what AMF0 has no form for (a mistake of ours)."""
    if value is None:
        return bytes((_NULL,))
    if isinstance(value, bool):
        return bytes((_BOOLEAN, value))
    if isinstance(value, int | float):
        return bytes((_NUMBER,)) + struct.pack(">d", value)
    if isinstance(value, str):
        text = value.encode()
        if len(text) > 0xFFFF:
            return bytes((_LONG_STRING,)) + struct.pack(">I", len(text)) + text
        return bytes((_STRING,)) + struct.pack(">H", len(text)) + text
    if isinstance(value, Mapping):
        head = (
            bytes((_ECMA_ARRAY,)) + struct.pack(">I", len(value)) if isinstance(value, EcmaArray) else bytes((_OBJECT,))
        )
        return head + b"".join(_key(name) + encode(inner) for name, inner in value.items()) + bytes((0, 0, _END))
    raise TypeError(f"AMF0 has no form for {type(value).__name__}")


def _key(name: str) -> bytes:
    text = name.encode()
    return struct.pack(">H", len(text)) + text


def decode_all(data: bytes) -> list[object]:
    """Every value in a command message. Raises PeerError for bytes that are not AMF0."""
    reader = _Reader(data)
    values = []
    while reader.at < len(data):
        values.append(reader.value(0))
    return values


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0
        self._left = _VALUES_LIMIT

    def value(self, depth: int) -> object:
        self._left -= 1
        if depth > _DEPTH_LIMIT or self._left < 0:
            raise PeerError("AMF0 nested or numerous beyond reason")
        kind = self._take(1)[0]
        if kind == _NUMBER:
            return float(struct.unpack(">d", self._take(8))[0])
        if kind == _BOOLEAN:
            return self._take(1)[0] != 0
        if kind == _STRING:
            return self._text(self._u16())
        if kind == _LONG_STRING:
            return self._text(self._u32())
        if kind in (_NULL, _UNDEFINED):
            return None
        if kind == _DATE:
            return float(struct.unpack(">d", self._take(10)[:8])[0])
        if kind == _STRICT_ARRAY:
            return [self.value(depth + 1) for _ in range(self._u32())]
        if kind == _ECMA_ARRAY:
            self._u32()  # a count that peers get wrong; the end marker rules
            return self._object(depth)
        if kind == _OBJECT:
            return self._object(depth)
        raise PeerError(f"AMF0 type {kind}")

    def _object(self, depth: int) -> dict[str, object]:
        found: dict[str, object] = {}
        while True:
            name = self._text(self._u16())
            if not name and self._data[self.at : self.at + 1] == bytes((_END,)):
                self.at += 1
                return found
            found[name] = self.value(depth + 1)

    def _take(self, size: int) -> bytes:
        if self.at + size > len(self._data):
            raise PeerError("AMF0 ends in the middle of a value")
        self.at += size
        return self._data[self.at - size : self.at]

    def _u16(self) -> int:
        return int.from_bytes(self._take(2), "big")

    def _u32(self) -> int:
        return int.from_bytes(self._take(4), "big")

    def _text(self, size: int) -> str:
        return self._take(size).decode("utf-8", "replace")
