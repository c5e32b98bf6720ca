"""From Alice to Bob through the interpreted plane: numbers, layers, ranges, extensions, limits."""

import struct

from tertulia.sfu.plane.api import KeyFrame, Switched, TransportSilent, UnboundSsrc
from tests.unit.plane.packets import ALICE, World, rtp, vp8


def test_waits_for_a_key_frame_and_asks_for_it() -> None:
    w = World()
    up = w.up()
    down = w.down()
    w.plane.set_target(down, 0)
    first = w.sent(ALICE)
    assert [p[1] for p in first if p[0] == 0x81] == [206], "a PLI at once"
    w.receive(rtp(0x1000, 10, 9000, vp8(5)))
    assert w.media() == []
    w.receive(rtp(0x1000, 11, 12000, vp8(6, key=True), marker=True))
    [(ssrc, sequence, timestamp, pt, marker, _, payload)] = w.media()
    assert (ssrc, sequence, timestamp, pt, marker) == (0x2000, 500, 7000, 100, 1)
    assert payload == vp8(6, key=True)
    reports = w.plane.reports()
    assert Switched(down, 0) in reports
    assert KeyFrame(up, 640, 360) in reports


def test_unbound_packets_are_reported_and_replayed() -> None:
    w = World()
    w.receive(rtp(0x1000, 10, 9000, vp8(5, key=True), extensions={4: b"0", 10: b"q"}))
    w.receive(rtp(0x1000, 11, 9000, vp8(5, start=False), extensions={4: b"0", 10: b"q"}))
    assert w.plane.reports() == [UnboundSsrc(w.alice, 0x1000, 96, "0", "q", "")]
    down = w.down()
    w.plane.set_target(down, 0)
    w.up()
    assert [m[1] for m in w.media()] == [500, 501]


def test_a_stream_nobody_wants_leaves_room_for_the_next() -> None:
    w = World()
    for i in range(400):
        w.now += 1_000_000
        w.receive(rtp(0x5000, i, 9000, vp8(1) + bytes(1000)))
    w.receive(rtp(0x1000, 10, 9000, vp8(5, key=True)))
    w.now += 3_000_000_000
    for i in range(200):
        w.receive(rtp(0x1001, 20 + i, 9000, vp8(5, key=i == 0) + bytes(1200)))
    down = w.down()
    w.plane.set_target(down, 0)
    w.up(0x1001)
    assert len(w.media()) == 128
    assert w.plane.totals()["drop_unbound_ssrc"] >= 400 - 128


def test_ssrc_flood_is_capped_and_named() -> None:
    w = World()
    for ssrc in range(2000):
        w.now += 1_000_000
        w.receive(rtp(ssrc, 1, 1, b"x"))
    assert sum(isinstance(r, UnboundSsrc) for r in w.plane.reports()) == 32
    assert w.plane.totals()["drop_ssrc_limit"] == 2000 - 32
    w.up()
    w.receive(rtp(0x1000, 1, 1, vp8(1)))
    assert w.plane.totals()["packets_in"] == 2001


def test_silent_report_after_a_thousand_refusals() -> None:
    w = World()
    for ssrc in range(1100):
        w.now += 1_000_000
        w.receive(rtp(ssrc, 1, 1, b"x"))
    assert [type(r) for r in w.plane.reports()].count(TransportSilent) == 1


def test_temporal_layers_leave_no_gap_and_late_packets_keep_their_range() -> None:
    w = World()
    w.up()
    down = w.down()
    w.plane.set_target(down, 0, 0)
    for i in range(6):
        w.receive(rtp(0x1000, 10 + i, 9000 + 3000 * i, vp8(20 + i, key=i == 0, tid=i & 1, tl0=i // 2)))
    got = w.media()
    assert [m[1] for m in got] == [500, 501, 502]
    assert [struct.unpack_from("!H", m[6], 2)[0] & 0x7FFF for m in got] == [20, 21, 22]
    # 16 is lost for a moment (base layer), 17 is dropped, 18 goes on, then 16 comes late
    w.receive(rtp(0x1000, 17, 9000 + 3000 * 7, vp8(27, tid=1)))
    w.receive(rtp(0x1000, 18, 9000 + 3000 * 8, vp8(28, tid=0)))
    w.receive(rtp(0x1000, 16, 9000 + 3000 * 6, vp8(26, tid=0)))
    assert [m[1] for m in w.media()] == [504, 503]


def test_a_duplicate_goes_nowhere() -> None:
    w = World()
    w.up()
    w.plane.set_target(w.down(), 0)
    for _ in range(2):
        w.receive(rtp(0x1000, 10, 9000, vp8(5, key=True)))
    assert len(w.media()) == 1
    assert w.plane.totals()["drop_duplicate"] == 1


def test_layer_switch_continues_numbers() -> None:
    w = World()
    w.up(0x1000, 0)
    w.up(0x1001, 1)
    down = w.down()
    w.plane.set_target(down, 0)
    for i in range(3):
        w.receive(rtp(0x1000, 10 + i, 9000 + 3000 * i, vp8(5 + i, key=i == 0, tl0=40 + i)))
        w.now += 33_000_000
    w.plane.set_target(down, 1)
    w.receive(rtp(0x1001, 900, 500_000, vp8(700, tl0=9)))
    w.receive(rtp(0x1000, 13, 18000, vp8(8, tl0=43)))
    w.now += 33_000_000
    w.receive(rtp(0x1001, 901, 503_000, vp8(701, key=True, tl0=10)))
    w.receive(rtp(0x1000, 14, 21000, vp8(9, tl0=44)))
    w.receive(rtp(0x1001, 902, 506_000, vp8(702, tl0=11)))
    got = w.media()
    assert [m[1] for m in got] == [500, 501, 502, 503, 504, 505]
    stamps = [m[2] for m in got]
    assert stamps == sorted(set(stamps))
    assert stamps[4] - stamps[3] == 33 * 90, "no sender reports: the time that passed"
    assert [struct.unpack_from("!H", m[6], 2)[0] & 0x7FFF for m in got] == [5, 6, 7, 8, 9, 10]
    assert [m[6][4] for m in got] == [40, 41, 42, 43, 44, 45]
    assert [r.layer for r in w.plane.reports() if isinstance(r, Switched)] == [0, 1]


def test_extensions_change_their_ids() -> None:
    w = World()
    w.up()
    w.plane.set_target(w.down(mid="v1"), 0)
    w.receive(rtp(0x1000, 10, 9000, vp8(5, key=True), extensions={3: b"\x00\x07", 1: b"\x12", 7: b"foreign"}))
    [(*_, extensions, _)] = w.media()
    assert extensions[9] == b"v1"
    assert extensions[2] == b"\x12"
    assert set(extensions) == {5, 9, 2}


def test_padding_closes_the_gap() -> None:
    w = World()
    w.up()
    w.plane.set_target(w.down(), 0)
    w.receive(rtp(0x1000, 10, 9000, vp8(5, key=True)))
    w.receive(rtp(0x1000, 11, 9000, b"", padding=200))
    w.receive(rtp(0x1000, 12, 12000, vp8(6)))
    assert [m[1] for m in w.media()] == [500, 501]


def test_nothing_of_a_disabled_track_is_forwarded() -> None:
    w = World()
    w.up()
    w.plane.set_target(w.down(), 0)
    w.plane.set_track_enabled(w.track, False)
    w.receive(rtp(0x1000, 10, 9000, vp8(5, key=True)))
    assert w.media() == []


def test_a_mute_is_no_gap() -> None:
    w = World()
    w.up()
    w.plane.set_target(w.down(), 0)
    w.receive(rtp(0x1000, 10, 9000, vp8(5, key=True)))
    w.plane.set_track_enabled(w.track, False)
    for i in range(100):
        w.receive(rtp(0x1000, 11 + i, 9000, vp8(6)))
    w.plane.set_track_enabled(w.track, True)
    w.now += 2_000_000_000
    w.sent(ALICE)
    w.receive(rtp(0x1000, 111, 189_000, vp8(7)))
    assert [data[1] for data in w.sent(ALICE) if data[1] == 206] == [206], "entered at a key frame, which is asked for"
    w.receive(rtp(0x1000, 112, 192_000, vp8(8, key=True)))
    [(_, sequence, timestamp, *_)] = w.media()
    assert sequence == 501
    assert timestamp == 7000 + 2 * 90_000


def test_another_ssrc_takes_the_layer_over() -> None:
    w = World()
    w.up()
    w.plane.set_target(w.down(), 0)
    w.receive(rtp(0x1000, 10, 9000, vp8(5, key=True)))
    w.up(0x1001)
    w.receive(rtp(0x1001, 60_000, 5, vp8(900)))
    w.receive(rtp(0x1001, 60_001, 3005, vp8(901, key=True)))
    w.receive(rtp(0x1001, 60_002, 6005, vp8(902)))
    assert [m[1] for m in w.media()] == [500, 501, 502]


def test_raw_rows_keep_numbers() -> None:
    w = World()
    w.up()
    down = w.down(raw=True)
    w.plane.set_target(down, 0)
    w.receive(rtp(0x1000, 10, 9000, vp8(5)))
    [(ssrc, sequence, timestamp, *_, payload)] = w.media()
    assert (ssrc, sequence, timestamp, payload) == (0x2000, 10, 9000, vp8(5))


def test_a_jump_of_the_publishers_numbers_is_hidden() -> None:
    w = World()
    w.up()
    w.plane.set_target(w.down(), 0)
    w.receive(rtp(0x1000, 10, 9000, vp8(5, key=True)))
    for i in range(3):
        w.now += 33_000_000
        w.receive(rtp(0x1000, 40_000 + i, 900_000_000 + 3000 * i, vp8(100 + i)))
    got = w.media()
    assert [m[1] for m in got] == [500, 501, 502]
    stamps = [m[2] for m in got]
    assert stamps == sorted(stamps)
    assert stamps[-1] - stamps[0] < 90_000
