"""Numbers that wrap and NTP times."""

import pytest

from tertulia.protocol import seq


@pytest.mark.parametrize(
    ("later", "earlier", "bits", "ahead"),
    [(1, 0, 16, 1), (0, 65535, 16, 1), (65535, 0, 16, -1), (0x8000, 0, 16, -0x8000), (5, 2**32 - 5, 32, 10)],
)
def test_distance(later: int, earlier: int, bits: int, ahead: int) -> None:
    assert seq.distance(later, earlier, bits) == ahead
    assert seq.is_newer(later, earlier, bits) is (ahead > 0)


def test_unwrapping_goes_over_the_edge_and_back() -> None:
    line = seq.Unwrapper()
    assert [line.unwrap(n) for n in (65534, 65535, 1, 0, 65533, 2)] == [65534, 65535, 65537, 65536, 65533, 65538]
    low = seq.Unwrapper()
    assert [low.unwrap(n) for n in (0, 65535)] == [0, -1]


def test_ntp() -> None:
    assert seq.ntp_of_unix_ns(0) == seq.NTP_EPOCH_S << 32
    assert seq.ntp_of_unix_ns(500_000_000) & 0xFFFFFFFF == 1 << 31
    beyond_2036 = 2_300_000_000 * seq.SECOND_NS
    for unix_ns in (0, 1_700_000_000_123_456_789, beyond_2036):
        assert abs(seq.unix_ns_of_ntp(seq.ntp_of_unix_ns(unix_ns)) - unix_ns) <= 1
    assert seq.middle_of_ntp(0x1111_2222_3333_4444) == 0x2222_3333
    assert seq.ns_of_short_ntp(seq.short_ntp_of_ns(1_500_000_000)) == 1_500_000_000
    assert seq.short_ntp_of_ns(10**15) == 0xFFFFFFFF
