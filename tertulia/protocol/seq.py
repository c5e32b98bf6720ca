"""Serial numbers that wrap (RFC 1982) and wall-clock times of RTCP (RFC 3550 4). No state beyond `Unwrapper`."""

NTP_EPOCH_S = 2_208_988_800
"""Seconds from 1900 (NTP) to 1970 (RFC 868)."""
SECOND_NS = 1_000_000_000

SEQUENCE_BITS = 16
TIMESTAMP_BITS = 32


def distance(later: int, earlier: int, bits: int = SEQUENCE_BITS) -> int:
    """How far `later` is ahead of `earlier`, -half..half-1; exactly half the space counts as behind."""
    half = 1 << (bits - 1)
    return ((later - earlier + half) & ((1 << bits) - 1)) - half


def is_newer(one: int, other: int, bits: int = SEQUENCE_BITS) -> bool:
    return distance(one, other, bits) > 0


class Unwrapper:
    """Gives wrapping numbers their place on an endless line; each is taken as the one nearest to the highest so far."""

    __slots__ = ("_bits", "_highest")

    def __init__(self, bits: int = SEQUENCE_BITS) -> None:
        self._bits = bits
        self._highest: int | None = None

    def unwrap(self, number: int) -> int:
        """May be negative: when the first numbers came out of order around zero."""
        if self._highest is None:
            self._highest = number
            return number
        place = self._highest + distance(number, self._highest & ((1 << self._bits) - 1), self._bits)
        self._highest = max(self._highest, place)
        return place


def ntp_of_unix_ns(unix_ns: int) -> int:
    """64-bit NTP timestamp (32.32) of nanoseconds since 1970, wrapping in 2036 as RFC 5905 6 has it."""
    seconds, rest = divmod(unix_ns, SECOND_NS)
    return (((seconds + NTP_EPOCH_S) & 0xFFFFFFFF) << 32) | ((rest << 32) // SECOND_NS)


def unix_ns_of_ntp(ntp: int) -> int:
    """The inverse; times before 1968 by the first era are taken to lie in the second (RFC 4330 3)."""
    seconds, fraction = ntp >> 32, ntp & 0xFFFFFFFF
    if not seconds & 0x80000000:
        seconds += 1 << 32
    return (seconds - NTP_EPOCH_S) * SECOND_NS + ((fraction * SECOND_NS + (1 << 31)) >> 32)


def middle_of_ntp(ntp: int) -> int:
    """The middle 32 bits (16.16), the form of LSR in reception reports (RFC 3550 6.4.1)."""
    return (ntp >> 16) & 0xFFFFFFFF


def ns_of_short_ntp(short: int) -> int:
    """Nanoseconds of a 16.16 duration such as DLSR."""
    return (short * SECOND_NS) >> 16


def short_ntp_of_ns(duration_ns: int) -> int:
    """16.16 duration, at most 2^32-1 (18 hours)."""
    return min((duration_ns << 16) // SECOND_NS, 0xFFFFFFFF)
