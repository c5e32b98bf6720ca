"""What a subscriber sees of numbers, whatever the network and the layer policy do; and truthful feedback."""

import struct
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from tertulia.protocol.machine import MILLISECOND, Nanos
from tests.unit.plane.packets import ALICE, World, is_rtcp, rtp, vp8


def arrivals(rng: Random, count: int) -> list[int]:
    """0..count-1 with loss and reordering within eight."""
    order = sorted(range(1, count), key=lambda i: i + rng.random() * rng.choice([0, 0, 8]))
    return [0, *(i for i in order if rng.random() > 0.05)]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_outgoing_numbers_follow_the_incoming_order(seed: int) -> None:
    """Each incoming packet gets one number for ever; later packets get higher ones; a loss stays one gap."""
    rng = Random(seed)
    w = World()
    w.up()
    down = w.down(first_sequence=65500)
    limit = rng.choice([0, 1])
    w.plane.set_target(down, 0, limit)
    start = rng.getrandbits(16)
    tids = [0] + [rng.choice([0, 1, 2]) for _ in range(299)]
    seen: dict[int, int] = {}
    fillers: set[int] = set()
    arrived = arrivals(rng, 300)
    for i in arrived:
        w.now = Nanos(w.now + 3 * MILLISECOND)
        w.receive(rtp(0x1000, start + i, 9000 + 3000 * i, vp8(i, key=i == 0, tid=tids[i], tl0=i & 255)))
        for _, sequence, timestamp, *_, payload in w.media():
            index = (timestamp - 7000) // 3000
            assert index not in seen
            seen[index] = (sequence - 65500) & 0xFFFF
            if not payload:
                fillers.add(index)
    order = sorted(seen)
    numbers = [seen[index] for index in order]
    assert numbers == sorted(set(numbers))
    assert {i for i in seen if i not in fillers} == {i for i in arrived if tids[i] <= limit}
    missing = numbers[-1] + 1 - len(numbers)
    assert missing <= 300 - len(arrived), "only what was lost on the way leaves gaps"


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_timestamps_never_go_back_over_switches(seed: int) -> None:
    rng = Random(seed)
    w = World()
    for layer in range(3):
        w.up(0x1000 + layer, layer)
    down = w.down(first_timestamp=rng.getrandbits(32))
    stamps = [rng.getrandbits(32) for _ in range(3)]
    sequences = [rng.getrandbits(16) for _ in range(3)]
    honest = rng.random() < 0.5
    w.plane.set_target(down, 0)
    last: tuple[int, int] | None = None
    for frame in range(150):
        w.now = Nanos(w.now + 33 * MILLISECOND)
        if rng.random() < 0.1:
            w.plane.set_target(down, rng.randint(0, 2))
        for layer in range(3):
            stamps[layer] = (stamps[layer] + 2970) & 0xFFFFFFFF
            sequences[layer] += 1
            if frame % 20 == 3:
                ntp = (w.now << 32) // 10**9 if honest else rng.getrandbits(64)
                report = struct.pack("!BBHIQIII", 0x80, 200, 6, 0x1000 + layer, ntp, stamps[layer], 1, 1)
                w.receive(report)
            key = rng.random() < 0.2
            w.receive(rtp(0x1000 + layer, sequences[layer], stamps[layer], vp8(frame, key=key), marker=True))
        for _, sequence, timestamp, *_ in w.media():
            if last is not None:
                assert sequence == (last[0] + 1) & 0xFFFF
                ahead = (timestamp - last[1]) & 0xFFFFFFFF
                assert 0 < ahead < 90000 * 10
            last = (sequence, timestamp)


def told(feedback: bytes) -> list[tuple[int, int | None]]:
    """(sequence, arrival in quarter milliseconds or None) of a transport-cc feedback, read the slow way."""
    base, count = struct.unpack_from("!HH", feedback, 12)
    clock = int.from_bytes(feedback[16:19], "big") * 256
    end = len(feedback) - (feedback[-1] if feedback[0] & 0x20 else 0)
    symbols: list[int] = []
    o = 20
    while len(symbols) < count:
        (word,) = struct.unpack_from("!H", feedback, o)
        o += 2
        if not word & 0x8000:
            symbols += [word >> 13] * (word & 0x1FFF)
        elif word & 0x4000:
            symbols += [word >> shift & 3 for shift in range(12, -1, -2)]
        else:
            symbols += [word >> shift & 1 for shift in range(13, -1, -1)]
    found: list[tuple[int, int | None]] = []
    for i, symbol in enumerate(symbols[:count]):
        if symbol == 0:
            found.append(((base + i) & 0xFFFF, None))
            continue
        if symbol == 1:
            clock += feedback[o]
            o += 1
        else:
            clock += struct.unpack_from("!h", feedback, o)[0]
            o += 2
        found.append(((base + i) & 0xFFFF, clock))
    assert o == end
    return found


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_feedback_tells_every_arrival_once(seed: int) -> None:
    rng = Random(seed)
    w = World()
    w.up()
    start = rng.getrandbits(16)
    came: dict[int, int] = {}
    reported: dict[int, int | None] = {}
    order = arrivals(rng, 400)
    for i in order:
        gap = rng.choice([0, 1, 1, 1, 5, 30, 200]) * MILLISECOND
        if w.plane.next_wake() is not None:
            w.rest(gap // MILLISECOND)
        number = (start + i) & 0xFFFF
        came[number] = w.now
        w.receive(rtp(0x1000, i, 9000, vp8(1), extensions={3: struct.pack("!H", number)}))
        collect(w, reported)
    w.rest(500)
    collect(w, reported)
    for number, arrival in reported.items():
        if arrival is not None:
            assert abs(arrival * 250_000 - came[number]) < 1_000_000
    late = set(came) - {number for number, arrival in reported.items() if arrival is not None}
    assert len(late) <= len(order) // 4, "only what came after its feedback had left is not told"


def collect(w: World, reported: dict[int, int | None]) -> None:
    for data in w.sent(ALICE):
        if is_rtcp(data) and data[1] == 205 and data[0] & 31 == 15:
            for number, arrival in told(data):
                assert reported.get(number) is None, "told once"
                reported[number] = arrival
