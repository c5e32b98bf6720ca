"""AV1 from RTP: OBU elements of packets -> a temporal unit of OBUs with size fields.

"RTP Payload Format For AV1" (AOM, v1.0) sections 4.3-4.5; OBU header: AV1 bitstream 5.3.
"""

from tertulia.protocol.errors import PeerError

_SEQUENCE_HEADER = 1
_LEFT_OUT = (2, 8, 15)
"""Temporal delimiter, tile list, padding: not transmitted or not wanted (section 5)."""


class Av1:
    """The OBUs of one temporal unit. Each unit that begins with a sequence header is a key frame."""

    def __init__(self) -> None:
        self._obus: list[bytes] = []
        self._open: bytearray | None = None

    def number(self, payload: bytes) -> tuple[int, int] | None:
        return None  # the dependency descriptor has one, the payload has not

    def add(self, payload: bytes) -> None:
        header, at = payload[0], 1
        count = header >> 4 & 3
        elements: list[bytes] = []
        while at < len(payload):
            if count and len(elements) == count - 1:
                elements.append(payload[at:])
                break
            size, at = read_leb128(payload, at)
            if at + size > len(payload):
                raise PeerError("OBU element longer than its packet")
            elements.append(payload[at : at + size])
            at += size
        for index, element in enumerate(elements):
            continues = index == 0 and bool(header & 0x80)
            goes_on = index == len(elements) - 1 and bool(header & 0x40)
            if continues:
                if self._open is None:
                    raise PeerError("an OBU without its start")
                self._open += element
            else:
                self._close()
                self._open = bytearray(element)
            if not goes_on:
                self._close()

    def finish(self) -> tuple[bytes, bool]:
        self._close()
        obus, self._obus = self._obus, []
        key_frame = any(obu[0] >> 3 & 15 == _SEQUENCE_HEADER for obu in obus)
        return b"".join(obus), key_frame

    def _close(self) -> None:
        obu, self._open = self._open, None
        if not obu:
            return
        if obu[0] >> 3 & 15 in _LEFT_OUT:
            return
        if obu[0] & 0x02:
            self._obus.append(bytes(obu))
            return
        head = 2 if obu[0] & 0x04 else 1
        body = obu[head:]
        self._obus.append(bytes([obu[0] | 0x02]) + bytes(obu[1:head]) + write_leb128(len(body)) + bytes(body))


def read_leb128(data: bytes, at: int) -> tuple[int, int]:
    """The number and where it ends (AV1 bitstream 4.10.5)."""
    value = 0
    for index in range(8):
        byte = data[at + index]
        value |= (byte & 0x7F) << 7 * index
        if not byte & 0x80:
            return value, at + index + 1
    raise PeerError("leb128 longer than eight bytes")


def write_leb128(value: int) -> bytes:
    out = bytearray()
    while True:
        value, low = value >> 7, value & 0x7F
        out.append(low | (0x80 if value else 0))
        if not value:
            return bytes(out)
