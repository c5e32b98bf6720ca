"""Taps: packets in order for egress, gaps waited for, limits named."""

import struct

from tests.unit.plane.packets import ALICE, World, rtp, vp8


def tapped(**kwargs: int) -> tuple[World, int]:
    w = World()
    w.up()
    tap = w.plane.add_tap(w.track, **kwargs)
    w.plane.set_target(tap, 0)
    w.receive(rtp(0x1000, 10, 9000, vp8(5, key=True), marker=True))
    return w, tap


def test_packets_come_in_order_with_their_own_numbers() -> None:
    w, tap = tapped()
    w.receive(rtp(0x1000, 12, 15000, vp8(7)))
    w.receive(rtp(0x1000, 11, 12000, vp8(6)))
    packets, gone = w.plane.take_tap(tap)
    assert gone == 0
    assert [p.timestamp for p in packets] == [0, 3000, 6000]
    assert [p.sequence for p in packets] == [0, 1, 2]
    assert [(p.key_frame, p.marker, p.layer) for p in packets] == [
        (True, True, 0),
        (False, False, 0),
        (False, False, 0),
    ]
    assert packets[2].payload == vp8(7)


def test_a_gap_is_waited_for_and_then_given_up_with_a_key_frame_asked() -> None:
    w, tap = tapped()
    w.rest(1000)
    w.sent(ALICE)
    w.receive(rtp(0x1000, 12, 15000, vp8(7)))
    assert len(w.plane.take_tap(tap)[0]) == 1
    w.rest(499)
    assert w.plane.take_tap(tap)[0] == []
    w.sent(ALICE)
    w.rest(2)
    [packet], _ = w.plane.take_tap(tap)
    assert packet.sequence == 2
    assert [data[1] for data in w.sent(ALICE) if data[1] == 206] == [206]


def test_a_full_queue_drops_and_says_how_many() -> None:
    w, tap = tapped(limit_packets=4)
    for i in range(10):
        w.receive(rtp(0x1000, 11 + i, 12000, vp8(6)))
    packets, gone = w.plane.take_tap(tap)
    assert (len(packets), gone) == (4, 7)
    assert w.plane.totals()["drop_tap_queue"] == 7


def test_the_senders_clock_is_in_the_taps_timestamps() -> None:
    w, tap = tapped()
    assert w.plane.tap_clock(tap) is None
    w.receive(struct.pack("!BBHIQIII", 0x80, 200, 6, 0x1000, 7 << 32, 12000, 1, 1))
    assert w.plane.tap_clock(tap) == (7 << 32, 3000, w.now)


def test_orders_for_what_is_gone_are_ignored() -> None:
    w, tap = tapped()
    w.plane.remove_track(w.track)
    assert w.plane.take_tap(tap) == ([], 0)
    assert w.plane.tap_clock(tap) is None
    w.plane.set_target(tap, 1)
    w.plane.remove_down(tap)
    w.plane.remove_transport(w.alice)
    w.plane.select(w.alice, None)
    assert w.plane.add_down(w.track, w.bob, 1, payload_type=96) > 0
    assert w.plane.up_stats(1) is None
    totals = w.plane.totals()
    assert (totals["ups"], totals["downs"], totals["taps"], totals["transports"]) == (0, 0, 0, 1)
