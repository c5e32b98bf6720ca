"""Big-endian numbers in byte buffers, and two's complement, for the interpreted decisions.

`compiled/bits.pxd` has the same functions for the compiled life; there is no third place that touches raw bytes.
"""

from typing import Any
from zlib import crc32 as _crc32

M32 = 0xFFFFFFFF
M64 = 0xFFFFFFFFFFFFFFFF

Bytes = Any
"""bytes, bytearray or memoryview here; `uint8_t *` when compiled."""


def rd16(p: Bytes, o: int) -> int:
    return p[o] << 8 | p[o + 1]  # type: ignore[no-any-return]


def rd24(p: Bytes, o: int) -> int:
    return p[o] << 16 | p[o + 1] << 8 | p[o + 2]  # type: ignore[no-any-return]


def rd32(p: Bytes, o: int) -> int:
    return p[o] << 24 | p[o + 1] << 16 | p[o + 2] << 8 | p[o + 3]  # type: ignore[no-any-return]


def rd64(p: Bytes, o: int) -> int:
    return rd32(p, o) << 32 | rd32(p, o + 4)


def wr16(p: Bytes, o: int, v: int) -> None:
    p[o] = v >> 8 & 255
    p[o + 1] = v & 255


def wr24(p: Bytes, o: int, v: int) -> None:
    p[o] = v >> 16 & 255
    p[o + 1] = v >> 8 & 255
    p[o + 2] = v & 255


def wr32(p: Bytes, o: int, v: int) -> None:
    p[o] = v >> 24 & 255
    p[o + 1] = v >> 16 & 255
    p[o + 2] = v >> 8 & 255
    p[o + 3] = v & 255


def wr64(p: Bytes, o: int, v: int) -> None:
    wr32(p, o, v >> 32)
    wr32(p, o + 4, v)


def copy(d: Bytes, do: int, s: Bytes, so: int, n: int) -> None:
    """n bytes from s[so:] to d[do:]."""
    d[do : do + n] = s[so : so + n]


def crc32(p: Bytes, n: int) -> int:
    """Of p[:n], as in Ethernet and STUN."""
    return _crc32(bytes(p[:n]))


def int_of(v: int) -> int:
    """A number known to be small (a C int when compiled)."""
    return v


def u16(v: int) -> int:
    return v & 0xFFFF


def u32(v: int) -> int:
    return v & M32


def s16(v: int) -> int:
    """A difference of 16-bit numbers, -32768..32767."""
    return ((v & 0xFFFF) ^ 0x8000) - 0x8000


def s32(v: int) -> int:
    """A difference of 32-bit numbers."""
    return ((v & M32) ^ 0x80000000) - 0x80000000


def ticked(now: int) -> int:
    """A time in ticks of 1024 ns, 32 bits of it: 73 minutes."""
    return now >> 10 & M32


def unticked(tick: int, now: int) -> int:
    """The time meant by a tick of the last 73 minutes, less than 1024 ns before it."""
    return ((now >> 10) - ((now >> 10) - tick & M32)) << 10


def s64(v: int) -> int:
    """A difference of 64-bit numbers."""
    return ((v & M64) ^ 0x8000000000000000) - 0x8000000000000000
