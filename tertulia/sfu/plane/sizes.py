"""How much memory rows get, the same in both lives."""

from tertulia.sfu.plane.api import Codec

AUDIO = (Codec.OPUS, Codec.RED)


def ring(codec: int) -> tuple[int, int]:
    """(packets, bytes) kept of an up stream: about two seconds. Both are powers of two."""
    return (128, 1 << 16) if codec in AUDIO else (512, 1 << 19)


def history(codec: int) -> int:
    """Sent packets remembered per row. A power of two."""
    return 128 if codec in AUDIO else 512


REPORTS = 8192
DATAGRAM_BYTES = 2048
ROOM_STEP = 16
