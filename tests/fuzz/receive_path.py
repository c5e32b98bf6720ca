"""Mutated packets through the whole receive path of both planes, for a bounded time: `make fuzz SECONDS=60 SEED=1`.

Authentic peers are the dangerous ones, so in half of the stories protection is off and every byte reaches the parsers;
in the others packets are broken before or after they are protected. Both lives must agree on each datagram they send,
on every drop and its name; run it on the sanitizer build to see more.
"""

import random
import struct
import sys
import time
from collections.abc import Callable

from tertulia.protocol import stun
from tertulia.sfu.plane.api import Address, Codec
from tests.property.test_plane_garbage import ALICE, BOB, PASSWORD, Pair
from tests.unit.plane.packets import rtp, vp8

PACKETS_PER_STEP = 8
STEPS_PER_PAIR = 400
"""Steps until a fresh pair of planes: one story does not hide another."""
CHECK_EVERY = 50
PAYLOADS = (
    b"\x7c\x85" + bytes(60),  # H.264 FU-A, start of a key frame
    b"\x78\x00\x04\x67\x42\x00\x1f\x00\x02\x68\xce",  # H.264 STAP-A
    b"\x8c\x80\x01" + bytes(40),  # VP9 with a picture id
    b"\x10\x0a\x0b" + bytes(30),  # AV1 aggregation header
    b"\xff" * 20,
    b"",
)


def corpus(rng: random.Random) -> list[bytes]:
    """Well-formed packets a peer could send."""
    found = [rtp(ssrc, rng.randrange(1 << 16), rng.randrange(1 << 32), vp8(rng.randrange(1 << 15), key=key))
             for ssrc in (1, 2, 9) for key in (True, False)]  # fmt: skip
    for payload in PAYLOADS:
        found.append(rtp(1, rng.randrange(1 << 16), rng.randrange(1 << 32), payload))
    ntp = rng.randrange(1 << 64)
    found += [
        struct.pack("!BBHIQIII", 0x80, 200, 6, 1, ntp, rng.randrange(1 << 32), 10, 1000),
        struct.pack("!BBHIIBBHIIII", 0x81, 201, 7, 7, 3, 0, 0, 1, 5000, 10, ntp >> 32 & 0xFFFFFFFF, 100),
        struct.pack("!BBHIIHH", 0x81, 205, 3, 7, 3, rng.randrange(1 << 16), rng.randrange(1 << 16)),
        struct.pack("!BBHII", 0x81, 206, 2, 7, 3),
        struct.pack("!BBHIIIBBH", 0x84, 206, 4, 7, 0, 3, 1, 0, 0),
        struct.pack("!BBHII4sBBHI", 0x8F, 206, 5, 7, 0, b"REMB", 1, 0x20, 0x1234, 3),
        struct.pack("!BBHIIHHIHH", 0x8F, 205, 5, 7, 3, 0, 4, 5 << 8, 0x2004, 0x0404),
        struct.pack("!BBHI", 0x81, 203, 1, 1),
    ]
    key = stun.IntegrityKey(PASSWORD)
    found += [
        stun.build_request(rng.randbytes(12), "ours:its", key, use_candidate=nominate) for nominate in (True, False)
    ]
    return found


class Stream:
    """A publisher that goes on sending well-formed pictures, so that accidents meet a running call."""

    def __init__(self, rng: random.Random) -> None:
        self.sequence, self.timestamp, self.picture = rng.randrange(1 << 16), rng.randrange(1 << 32), 0

    def in_order(self, packet: bytes) -> bytes:
        """RTP with the next number: one that leaps would be the end of the stream where it is protected."""
        if len(packet) < 4 or packet[0] >> 6 != 2 or 192 <= packet[1] < 224:
            return packet
        self.sequence = self.sequence + 1 & 0xFFFF
        return packet[:2] + self.sequence.to_bytes(2, "big") + packet[4:]

    def next(self) -> bytes:
        self.sequence, self.timestamp = self.sequence + 1 & 0xFFFF, self.timestamp + 3000 & 0xFFFFFFFF
        self.picture += 1
        return rtp(1, self.sequence, self.timestamp, vp8(self.picture & 0x7FFF, key=self.picture % 30 == 1))


def mutate(rng: random.Random, data: bytes) -> bytes:
    """A few accidents."""
    body = bytearray(data)
    for _ in range(rng.choice((0, 1, 1, 2, 4, 8))):
        accident = rng.randrange(5)
        if accident == 0 and body:
            body[rng.randrange(len(body))] = rng.randrange(256)
        elif accident == 1 and body:
            body[rng.randrange(len(body))] ^= 1 << rng.randrange(8)
        elif accident == 2:
            del body[rng.randrange(len(body) + 1) :]
        elif accident == 3:
            at = rng.randrange(len(body) + 1)
            body[at:at] = rng.randbytes(rng.randrange(1, 9))
        elif len(body) >= 4:
            struct.pack_into("!H", body, rng.randrange(len(body) // 2) & ~1, rng.choice((0, 1, 0x7FFF, 0xFFFF)))
    return bytes(body[:1500])


def broken(rng: random.Random, pair: Pair, source: Address, data: bytes, stream: Stream) -> bytes:
    """What arrives of it: an accident happens before it is protected, or on the way."""
    if not pair.sessions:
        return mutate(rng, data)
    if rng.random() < 0.5:
        return pair.protected(source, stream.in_order(mutate(rng, data)))
    return mutate(rng, pair.protected(source, stream.in_order(data)))


def fuzz(seconds: float, seed: int, say: Callable[[str], None] = print) -> int:
    """Run; the number of packets tried. AssertionError names the seed."""
    rng = random.Random(seed)
    end, packets = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        story = rng.randrange(1 << 32)
        own = random.Random(story)
        pair = Pair(own.choice(list(Codec)), secured=own.random() < 0.5)
        seeds, stream = corpus(own), Stream(own)
        try:
            for step in range(STEPS_PER_PAIR):
                source = own.choice((ALICE, ALICE, BOB))
                batch = [
                    broken(own, pair, source, own.choice((*seeds, stream.next())), stream)
                    for _ in range(PACKETS_PER_STEP)
                ]
                pair.receive(source, *batch)
                pair.receive(ALICE, *(pair.protected(ALICE, stream.next()) for _ in range(2)))
                packets += len(batch) + 2
                if step % CHECK_EVERY == 0:
                    pair.both.order("totals")
                    if time.monotonic() > end:
                        break
        except Exception as error:
            raise AssertionError(f"story {story} of seed {seed} after {packets} packets: {error!r}") from error
    say(f"{packets} packets, nothing broke")
    return packets


if __name__ == "__main__":
    fuzz(float(sys.argv[1]) if len(sys.argv) > 1 else 30, int(sys.argv[2]) if len(sys.argv) > 2 else 1)
