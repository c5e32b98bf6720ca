"""What a join costs the server, beside a bare DTLS handshake of the same run.

    python -m benchmarks.joins [--rates 5,20,100,1000] [--rounds 5]

A join is everything from the WebSocket's first byte to flowing audio (v1, one connection, data channels, one
subscription), in a room of eleven that a hundred join; what forwarding costs meanwhile is taken off, what their arrival
makes the server tell others afterwards is counted. The handshake is the server's half of DTLS-SRTP with nothing around
it: a yardstick that gets slower and faster with the machine. Both go at full speed, so that their work is counted and
not what a pause did to caches: with a few joins a second each of them is dearer, and so is a handshake after the same
pause. --rates shows both.
"""

import argparse
import asyncio
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

from OpenSSL import SSL

from benchmarks.load.client import Role
from benchmarks.load.fleet import Fleet
from benchmarks.load.measure import usage
from benchmarks.load.plan import Plan, Target, raise_file_limit
from benchmarks.load.server import served
from tertulia.sfu.plane import srtp
from tertulia.sfu.plane.api import SrtpProfile
from tertulia.sfu.transport.dtls import MTU_BYTES, DtlsIdentity

JOINS = 100
MEMBERS = 10
"""In the room beside its publisher before they come."""
FULL_SPEED = 1000.0
"""A second: more than the generator can bring, which has no more than 32 on their way at a time."""
SETTLE_S = 1.5
"""A large room tells of newcomers up to a second later."""
REST_S = 1.5
HANDSHAKES = 200
PAUSING_S = 8.0
"""Handshakes with pauses are fewer: these are all of their pauses together, at most."""
GCM_BYTES = 28
"""Key and salt of one direction."""


def _pass_on(source: SSL.Connection, to: SSL.Connection) -> None:
    try:
        to.bio_write(source.bio_read(65536))
    except SSL.WantReadError:
        return


def _step(connection: SSL.Connection) -> bool:
    try:
        connection.do_handshake()
    except SSL.WantReadError:
        return False
    return True


def handshake(server: DtlsIdentity, client: DtlsIdentity) -> float:
    """Seconds of CPU of the server's half: connection, handshake, fingerprint, keys, an SRTP session each way."""
    theirs = SSL.Connection(client.context)
    theirs.set_connect_state()
    theirs.set_ciphertext_mtu(MTU_BYTES)
    begun = time.thread_time()
    ours = SSL.Connection(server.context)
    ours.set_accept_state()
    ours.set_ciphertext_mtu(MTU_BYTES)
    spent = time.thread_time() - begun
    done = over = False
    while not (done and over):
        over = over or _step(theirs)
        _pass_on(theirs, ours)
        begun = time.thread_time()
        done = done or _step(ours)
        _pass_on(ours, theirs)
        spent += time.thread_time() - begun
    begun = time.thread_time()
    certificate = ours.get_peer_certificate()
    assert certificate is not None
    certificate.digest("sha256")
    keys = ours.export_keying_material(b"EXTRACTOR-dtls_srtp", 2 * GCM_BYTES, None)
    srtp.session(SrtpProfile.AEAD_AES_128_GCM, keys[:GCM_BYTES], outbound=False)
    srtp.session(SrtpProfile.AEAD_AES_128_GCM, keys[GCM_BYTES:], outbound=True)
    return spent + time.thread_time() - begun


def handshake_ms(per_second: float = FULL_SPEED) -> float:
    """One bare handshake at this pace: the median of two hundred, or of as many as the time allows."""
    server, client = DtlsIdentity(), DtlsIdentity()
    for _ in range(HANDSHAKES // 4):
        handshake(server, client)
    pause = 1 / per_second if per_second < FULL_SPEED else 0.0
    found = []
    for _ in range(max(1, min(HANDSHAKES, int(PAUSING_S * per_second)))):
        time.sleep(pause)
        found.append(handshake(server, client))
    return statistics.median(found) * 1e3


def _used_s(pid: int) -> float:
    used = usage(pid)
    if used is None:
        raise RuntimeError("the server is gone")
    return used.exact_s


async def _rate_of(pid: int, seconds: float) -> float:
    """CPU seconds a second, while nobody comes or goes."""
    before, begun = _used_s(pid), time.monotonic()
    await asyncio.sleep(seconds)
    return (_used_s(pid) - before) / (time.monotonic() - begun)


async def joined_ms(target: Target, clips: Path, per_second: float) -> tuple[float, float]:
    """CPU of one of a hundred joins into a room of their own, and how many came a second; all leave it afterwards."""
    fleet = Fleet(target, Plan("audio", (1,), join_rate=per_second), 1)
    await fleet.start(clips)
    try:
        await fleet.join([Role("bench", "publisher", ("opus",), (), False)])
        await fleet.join([Role("bench", f"early-{number}") for number in range(MEMBERS)])
        await asyncio.sleep(SETTLE_S)
        rest = await _rate_of(target.pid, REST_S)
        before, begun = _used_s(target.pid), time.monotonic()
        await fleet.join([Role("bench", f"member-{number}") for number in range(JOINS)])
        coming = time.monotonic() - begun
        await asyncio.sleep(SETTLE_S)
        spent, passed = _used_s(target.pid) - before, time.monotonic() - begun
        end = await _rate_of(target.pid, REST_S)
    finally:
        await fleet.stop()
    if fleet.failures:
        raise RuntimeError(f"not everyone could join: {dict(fleet.failures)}")
    return own_s(spent, rest, end, coming, passed - coming) / JOINS * 1e3, JOINS / coming


def own_s(spent: float, rest: float, end: float, coming_s: float, after_s: float) -> float:
    """What joins cost of the CPU seconds spent while they came and after: the load (seconds a second) grows from `rest`
    to `end` while they come, and stays once all are there."""
    return spent - (rest + end) / 2 * coming_s - end * after_s


@dataclass(frozen=True, slots=True)
class Found:
    """Medians over the rounds."""

    join_ms: float
    handshake_ms: float
    handshakes: float
    """A join in bare handshakes."""
    per_second: float
    """Joins that came."""


async def measure(per_second: float = FULL_SPEED, rounds: int = 5) -> Found:
    """Joins and bare handshakes by turns, so that both see the same machine; the first round warms up."""
    found = []
    async with served({"opus"}, set()) as (target, clips):
        for _ in range(rounds + 1):
            join, came = await joined_ms(target, clips, per_second)
            await asyncio.sleep(SETTLE_S)  # what their leaving costs is over
            bare = handshake_ms(per_second)
            found.append((join, bare, join / bare, came))
    return Found(*map(statistics.median, zip(*found[1:], strict=True)))


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rates", default="5,20,100,1000", help="joins a second, as far as they can come")
    options.add_argument("--rounds", type=int, default=5)
    chosen = options.parse_args()
    raise_file_limit()
    print("| joins/s | ms each | a bare handshake at this pace | handshakes |\n| ---: | ---: | ---: | ---: |")
    for rate in chosen.rates.split(","):
        found = asyncio.run(measure(float(rate), chosen.rounds))
        print(
            f"| {found.per_second:.0f} | {found.join_ms:.2f} | {found.handshake_ms:.3f} ms | {found.handshakes:.1f} |",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
