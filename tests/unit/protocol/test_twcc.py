"""Transport-wide feedback: octets by hand from the draft's layout, runs, vectors and long gaps."""

import pytest

from tertulia.protocol import rtcp, twcc
from tertulia.protocol.errors import PeerError

TICK = twcc.TICK_NS


def parsed(data: bytes) -> twcc.TransportFeedback:
    (packet,) = rtcp.parse_compound(data)
    assert isinstance(packet, twcc.TransportFeedback), packet
    return packet


def test_by_hand() -> None:
    # base 5, 7 statuses, reference 2 (128 ms), count 3; a two-bit vector 1 2 0 1 0 0 1; deltas 4, -4, 255, 0
    body = bytes.fromhex("00000001 00000002 0005 0007 000002 03 d841 04 fffc ff 00 00")
    feedback = twcc.parse_body(body)
    base = 2 * 64_000_000
    expected = (base + 4 * TICK, base, None, base + 255 * TICK, None, None, base + 255 * TICK)
    assert feedback == twcc.TransportFeedback(1, 2, 5, 3, expected)


def test_one_bit_vector_and_run_by_hand() -> None:
    # 16 statuses: fourteen bits 1010 0000 0000 01, then a run of two "small"
    body = bytes.fromhex("00000001 00000002 0000 0010 000000 00 a801 2002 0101010101")
    feedback = twcc.parse_body(body)
    assert [index for index, arrival in enumerate(feedback.arrivals_ns) if arrival is not None] == [0, 2, 13, 14, 15]
    assert feedback.arrivals_ns[15] == 5 * TICK


def test_a_negative_reference() -> None:
    feedback = twcc.parse_body(bytes.fromhex("00000001 00000002 0000 0001 ffffff 00 2001 01"))
    assert feedback.arrivals_ns == (-64_000_000 + TICK,)


def test_building_uses_runs_for_even_traffic() -> None:
    (data,) = twcc.build(1, 2, 0, [(n, n * 4 * TICK) for n in range(1000)])
    assert len(data) == 4 + 16 + 2 + 1000 + 2  # header, body head, one run, deltas, padding
    assert parsed(data).arrivals_ns[999] == 999 * 4 * TICK


def test_order_loss_and_wrap() -> None:
    arrivals = [(65534, 1000 * TICK), (1, 1010 * TICK), (65535, 1020 * TICK), (1, 9999 * TICK)]
    (data,) = twcc.build(1, 2, 255, arrivals)
    feedback = parsed(data)
    assert (feedback.base_sequence, feedback.count) == (65534, 255)
    assert feedback.arrivals_ns == (1000 * TICK, 1020 * TICK, None, 1010 * TICK)


def test_times_do_not_drift() -> None:
    (data,) = twcc.build(1, 2, 0, [(n, n * 333_333) for n in range(500)])
    for index, arrival_ns in enumerate(parsed(data).arrivals_ns):
        assert arrival_ns is not None
        assert 0 <= index * 333_333 - arrival_ns < TICK


def test_a_gap_too_long_for_a_delta_begins_another_packet() -> None:
    packets = twcc.build(1, 2, 255, [(1, 0), (2, TICK), (3, 10_000_000_000), (4, 10_000_000_000)])
    first, second = (parsed(data) for data in packets)
    assert (first.base_sequence, first.count, first.arrivals_ns) == (1, 255, (0, TICK))
    assert (second.base_sequence, second.count) == (3, 0)
    assert second.arrivals_ns == (10_000_000_000, 10_000_000_000)


def test_nothing_arrived() -> None:
    assert twcc.build(1, 2, 0, []) == []


@pytest.mark.parametrize(
    "body",
    [
        "00000001",
        "00000001 00000002 0000 0001 000000 00",
        "00000001 00000002 0000 0001 000000 00 2001",
        "00000001 00000002 0000 0001 000000 00 4001 01",
        "00000001 00000002 0000 0001 000000 00 6001 01",
        "00000001 00000002 0000 0001 000000 00 2000 01",
        "00000001 00000002 0000 ffff 000000 00 3fff",
    ],
)
def test_what_is_no_feedback(body: str) -> None:
    with pytest.raises(PeerError):
        twcc.parse_body(bytes.fromhex(body))
