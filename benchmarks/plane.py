"""What a forwarded copy costs, as ratios measured in one run on loopback.

    python -m benchmarks.plane [--subscribers 100] [--seconds 1.5]

One publisher in a child process, subscribers that are bound sockets nobody reads, CPU time of the measuring process:
user and system, loopback's receive half included, the same for every row. Compare ratios, not microseconds.

A copy is measured like the sendmmsg it is compared with: the thread is never out of work. What waking up costs (on a
virtual machine some microseconds, another number at every hour) is told by a row of its own. Where the kernel puts what
a datagram needs is drawn once for a process and moves a copy by a tenth: so several processes, one after the other,
measure everything that is compared, and the median of their ratios counts.
"""

import argparse
import asyncio
import ctypes
import multiprocessing
import os
import random
import socket
import statistics
import struct
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection

from aiortc.rtp import HeaderExtensionsMap, RtpPacket

from benchmarks.budget import Budget, Conditions, report
from benchmarks.publisher import (
    FRAME,
    KEY_BYTES,
    PAYLOAD,
    PROFILE,
    SSRC,
    UDP_SEGMENT,
    packet,
    published,
    published_track,
    udp,
)
from tertulia.sfu.plane import open_plane, srtp
from tertulia.sfu.plane.api import Address, Extension, LivePlane

QUIET_PER_SECOND = 500
TURNS = 8
PROCESSES = 5
SO_TIMESTAMPNS = 35
LOSSES = ("drop_send_buffer", "send_errors", "drop_rate")


def subscribed(plane: LivePlane, track: int, sinks: list[socket.socket], key: bytes) -> None:
    for index, sink in enumerate(sinks):
        transport = plane.add_transport()
        plane.set_keys(transport, PROFILE, key, os.urandom(KEY_BYTES))
        address = Address(0, *sink.getsockname())
        plane.allow(transport, address)
        plane.select(transport, address)
        plane.set_extensions(transport, {Extension.TWCC: 5})
        down = plane.add_down(track, transport, 1000 + index, payload_type=96)
        plane.set_target(down, 0)


def forwarding(
    sinks: list[socket.socket],
    seconds: float,
    life: str,
    *,
    at_once: int,
    per_second: int = 0,
    gso: Sequence[bool] = (True,),
) -> list[list[float]]:
    """Microseconds of CPU per copy, receiving and deciding included: for each setting of GSO one figure a round, the
    settings taking turns, so that a machine that gets slower does so for all of them. The rounds of a setting take
    `seconds` together. `per_second`: of the publisher; 0: as many as the data thread forwards, which never waits then.
    In the main process or one that is no daemon: it has a child."""
    server, echo, key = udp(4 << 20), udp(1 << 20), os.urandom(KEY_BYTES)
    plane = open_plane([[server]], life=life, rng=random.Random(1))  # type: ignore[arg-type]
    found: list[list[float]] = [[] for _ in gso]
    try:
        with published(server, key, at_once, per_second or echo) as (pipe, source):
            subscribed(plane, published_track(plane, source, key), [echo, *sinks[1:]], key)
            plane.start()
            for turn in range(TURNS + 1):
                for figures, setting in zip(found, gso, strict=True):
                    if life == "compiled":
                        plane._native.set_gso(setting)  # type: ignore[attr-defined]
                    before, cpu = plane.totals()["packets_out"], time.process_time()
                    pipe.send(seconds / TURNS)
                    pipe.recv()
                    time.sleep(0.05)  # the last ones are still on their way
                    copies = plane.totals()["packets_out"] - before
                    if turn:  # the first warms up
                        figures.append((time.process_time() - cpu) / copies * 1e6)
                    plane.reports()
            totals = plane.totals()
    finally:
        plane.stop()
        server.close()
        echo.close()
    lost = {name: totals[name] for name in LOSSES if totals[name]}
    if lost:
        print(f"  ({lost})")
    return found


def bare(sinks: list[socket.socket], seconds: float, segments: int = 1) -> float:
    """Microseconds of CPU per datagram of the same size through sendmmsg, 64 messages at a time, nothing else.

    `segments`: so many datagrams in a message, by GSO.
    """
    libc = ctypes.CDLL(None, use_errno=True)

    class Vector(ctypes.Structure):
        _fields_ = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]

    class Header(ctypes.Structure):
        _fields_ = [
            *(("name", ctypes.c_void_p), ("namelen", ctypes.c_uint32), ("vector", ctypes.POINTER(Vector))),
            *(("vectors", ctypes.c_size_t), ("control", ctypes.c_void_p), ("controllen", ctypes.c_size_t)),
            ("flags", ctypes.c_int),
        ]

    class Message(ctypes.Structure):
        _fields_ = [("header", Header), ("size", ctypes.c_uint)]

    size = PAYLOAD + 12 + 8 + 16
    data = ctypes.create_string_buffer(size * segments)
    # struct cmsghdr and the segment size, padded to its alignment
    control = ctypes.create_string_buffer(struct.pack("@NiiH6x", 18, socket.SOL_UDP, UDP_SEGMENT, size))
    names = [
        ctypes.create_string_buffer(struct.pack("=HH4s8x", socket.AF_INET, socket.htons(port), socket.inet_aton(host)))
        for host, port in (sink.getsockname() for sink in sinks)
    ]
    vector = Vector(ctypes.addressof(data), size * segments)
    batches = []
    for start in range(0, len(names), 64):
        part = names[start : start + 64]
        messages = (Message * len(part))()
        for message, name in zip(messages, part, strict=True):
            message.header.name, message.header.namelen = ctypes.addressof(name), 16
            message.header.vector, message.header.vectors = ctypes.pointer(vector), 1
            if segments > 1:
                message.header.control, message.header.controllen = ctypes.addressof(control), 24
        batches.append((messages, len(part)))
    sock = udp()
    results = []
    for _ in range(4):
        count, end, cpu = 0, time.monotonic() + seconds / 4, time.process_time()
        while time.monotonic() < end:
            for messages, length in batches:
                count += segments * libc.sendmmsg(sock.fileno(), messages, length, 0)
        results.append((time.process_time() - cpu) / count * 1e6)
    sock.close()
    return statistics.median(results)


async def ordinary(sinks: list[socket.socket], seconds: float) -> float:
    """Microseconds of CPU per copy the usual way in Python: RtpPacket, Session.protect, a datagram transport."""
    loop = asyncio.get_running_loop()
    sock = udp()
    transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, sock=sock)
    sessions = [srtp.session(PROFILE, os.urandom(KEY_BYTES), outbound=True) for _ in sinks]
    names = [sink.getsockname() for sink in sinks]
    extensions = HeaderExtensionsMap()
    extensions.transport_sequence_number = 5  # type: ignore[attr-defined]
    sequence, body, results = 0, bytes(PAYLOAD), []
    for _ in range(4):
        count, end, cpu = 0, time.monotonic() + seconds / 4, time.process_time()
        while time.monotonic() < end:
            sequence += 1
            for index, (of, name) in enumerate(zip(sessions, names, strict=True)):
                rtp = RtpPacket(payload_type=96, sequence_number=sequence & 0xFFFF, timestamp=sequence * 3000)
                rtp.ssrc = 1000 + index
                rtp.payload = body
                rtp.extensions.transport_sequence_number = sequence & 0xFFFF
                transport.sendto(of.protect(rtp.serialize(extensions)), name)
            count += len(sinks)
            await asyncio.sleep(0)
        results.append((time.process_time() - cpu) / count * 1e6)
    transport.close()
    return statistics.median(results)


def feedback_ns() -> float:
    """Nanoseconds per packet status of transport-cc feedback: parse, look up, group, sum up."""
    from tertulia.sfu.plane.native import Native

    native = Native([])
    place = (0, "192.0.2.1", 9)
    native.add_transport(1, 0, 0)
    native.set_keys(1, 0, b"", b"")
    native.allow(1, *place)
    native.select(1, place)
    native.set_extensions(1, bytes([0, 0, 0, 5, *bytes(12)]))
    native.add_track(2, 0, 90000)
    native.add_up(3, 2, 1, SSRC, 0, 96, 0, 0)
    native.add_down(4, 2, 1, 11, 96, 0, 0, 0, b"", 0, 1, 1)
    native.aim(4, 0, 7)
    statuses: list[int] = []
    empty: list[int] = []
    number, now, acknowledged = 0, 10**9, 0
    for round_ in range(200):
        now += 50_000_000
        media = [(place, packet(round_ * 64 + i, b"x")) for i in range(64)]
        native.step(now, media)
        native.sent()
        body = struct.pack("!HHI", number & 0xFFFF, 64, round_ << 8) + struct.pack("!H", 0x2000 | 64) + bytes([2] * 64)
        body += bytes(-len(body) % 4)
        report = struct.pack("!BBHII", 0x8F, 205, 2 + len(body) // 4, 1, 11) + body
        number += 64
        for batch, into in (([(place, report)], statuses), ([(place, struct.pack("!BBHI", 0x80, 201, 1, 1))], empty)):
            start = time.perf_counter_ns()
            native.step(now, batch)
            into.append(time.perf_counter_ns() - start)
        acknowledged += sum(
            struct.unpack_from("!q", body, 16)[0] for kind, _, _, body, _ in native.take_reports() if kind == 6
        )
    if acknowledged < 150 * 64:
        raise RuntimeError(f"only {acknowledged} packets were acknowledged")
    return (statistics.median(statuses) - statistics.median(empty)) / 64


def protect_us(subscribers: int, life: str) -> float:
    """Microseconds of CPU for AES-128-GCM of a packet, one subscriber after the other: "libsrtp", or "sealed", our
    supplier of AES-GCM with nothing around it but the IV."""
    from tertulia.sfu.plane.compiled_life import chosen_supplier
    from tertulia.sfu.plane.native import Native

    native = Native([], 0, "" if life == "libsrtp" else chosen_supplier()[0])
    handles = list(range(1, subscribers + 1))
    for handle in handles:
        native.add_transport(handle, 0, 0)
        native.set_keys(handle, int(PROFILE), bytes(KEY_BYTES), os.urandom(KEY_BYTES))
    results = []
    for run in range(4):
        cpu = time.process_time()
        many = native.protect_many if life == "libsrtp" else native.seal_many
        failed = many(handles, packet(1000 * run, bytes(PAYLOAD + 8)), 1000)
        results.append((time.process_time() - cpu) / (1000 * subscribers) * 1e6)
        if failed:
            raise RuntimeError(f"{life} refused")
    return statistics.median(results)


def delay_ms(seconds: float, life: str) -> tuple[float, float]:
    """p90 and p99 of the time a packet takes through the plane while this interpreter computes half of the time."""
    server, source, sink = udp(1 << 20), udp(), udp(1 << 20)
    plane = open_plane([[server]], life=life, rng=random.Random(1))  # type: ignore[arg-type]
    key = os.urandom(KEY_BYTES)
    back = os.urandom(KEY_BYTES)
    track = published_track(plane, Address(0, *source.getsockname()), key)
    other = plane.add_transport()
    plane.set_keys(other, PROFILE, key, back)
    plane.select(other, Address(0, *sink.getsockname()))
    plane.set_target(plane.add_down(track, other, 11, payload_type=96), 0)
    plane.start()
    ours, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("spawn").Process(
        target=stopwatch, args=(theirs, source, sink, server.getsockname(), key, back, seconds), daemon=True
    )
    child.start()
    while not ours.poll():
        if not child.is_alive():
            raise RuntimeError("the stopwatch ended without a word")
        busy = time.monotonic() + 0.003
        while time.monotonic() < busy:
            sum(range(100))
        time.sleep(0.003)
    delays = sorted(ours.recv())
    child.join()
    plane.stop()
    return delays[int(len(delays) * 0.90)] * 1e3, delays[int(len(delays) * 0.99)] * 1e3


def stopwatch(
    pipe: Connection,
    source: socket.socket,
    sink: socket.socket,
    to: tuple[str, int],
    key: bytes,
    back: bytes,
    seconds: float,
) -> None:
    """The child: send a packet with the time in it every 2 ms, note when the kernel had it at the other socket.

    The kernel's time of arrival, because the child's own waking up is not the plane's delay.
    """
    tx, rx = srtp.session(PROFILE, key, outbound=True), srtp.session(PROFILE, back, outbound=False)
    sink.settimeout(1)
    sink.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    delays = []
    for sequence in range(int(seconds * QUIET_PER_SECOND)):
        source.sendto(tx.protect(packet(sequence, struct.pack("!q", time.time_ns()) + bytes(1000))), to)
        while True:
            data, ancillary, _, _ = sink.recvmsg(2048, 64)
            if not 192 <= data[1] < 224:
                break
        sent_ns = struct.unpack("!q", rx.unprotect(data)[12:20])[0]
        seconds_part, nanos = struct.unpack("@qq", ancillary[0][2])
        delays.append((seconds_part * 1_000_000_000 + nanos - sent_ns) / 1e9)
        time.sleep(0.002)
    pipe.send(delays)


def ratio_of_turns(turns: Sequence[tuple[float, float]]) -> float:
    """Median of the second by the first of each pair: what disturbs the machine longer than a pair disturbs both."""
    return statistics.median(second / first for first, second in turns)


@dataclass(frozen=True, slots=True)
class Costs:
    """Microseconds of CPU per datagram, of one process."""

    bare: float
    """sendmmsg of the same bytes, and nothing else."""
    bare_gso: float
    ordinary: float
    """An ordinary aiortc sender."""
    copy: float
    segmented: float
    """The same frames with GSO, which the interpreted life does not have."""
    gso: float
    """With GSO over without: the median of the turns."""
    sealed: float
    """AES-128-GCM by the supplier that the compiled life takes; 0 for the interpreted one."""

    @property
    def lowest_gso(self) -> float:
        """What `gso` would be if nothing but kernel and cipher cost anything."""
        return (self.bare_gso + self.sealed) / (self.bare + self.sealed)


def costs(subscribers: int, seconds: float, life: str = "compiled") -> list[Costs]:
    """A copy and what it is compared with, of each process."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as pool:
        runs = [pool.submit(costs_here, subscribers, seconds, life) for _ in range(PROCESSES)]
        return [run.result() for run in runs]


def costs_here(subscribers: int, seconds: float, life: str) -> Costs:
    """In this process."""
    sinks = [udp() for _ in range(subscribers)]
    without, segmented = forwarding(sinks, seconds, life, at_once=FRAME, gso=(False, True))
    return Costs(
        bare=bare(sinks, seconds),
        bare_gso=bare(sinks, seconds, FRAME),
        ordinary=asyncio.run(ordinary(sinks, seconds)),
        copy=statistics.median(without),
        segmented=statistics.median(segmented),
        gso=ratio_of_turns(list(zip(without, segmented, strict=True))),
        sealed=protect_us(len(sinks), "sealed") if life == "compiled" else 0.0,
    )


def typical(runs: Sequence[Costs], figure: Callable[[Costs], float]) -> float:
    """The median of what the processes found."""
    return statistics.median(figure(run) for run in runs)


def budgets(runs: Sequence[Costs], subscribers: int) -> list[Budget]:
    """The lines of the design that need no server; of the interpreted life those that can be said of it."""
    copy = f"one copy, {PAYLOAD} B, GCM, {subscribers} subscribers / bare sendmmsg"
    gso = "ordinary aiortc sender / one copy with GSO"
    lines = [
        Budget(copy, typical(runs, lambda of: of.copy / of.bare), 1.35),
        Budget("the same with frames of 8 packets (GSO) / without", typical(runs, lambda of: of.gso), 0.45),
        Budget(
            "ordinary aiortc sender / one copy", typical(runs, lambda of: of.ordinary / of.copy), 2.5, at_least=True
        ),
        Budget(gso, typical(runs, lambda of: of.ordinary / of.segmented), 6.0, at_least=True),
    ]
    if all(run.sealed for run in runs):
        lowest = "that over the lowest possible, bare GSO and AES-GCM alone (ADR 24)"
        lines.insert(2, Budget(lowest, typical(runs, lambda of: of.gso / of.lowest_gso), 1.45))
        lines.append(Budget("transport-cc feedback, per packet status", feedback_ns(), 100.0, "ns"))
    return lines


def delay_budgets(through: str, p90_ms: float, p99_ms: float) -> list[Budget]:
    """What a packet may be late when the interpreter is half busy."""
    return [
        Budget(f"delay through the {through}, Python half busy, p90", p90_ms, 0.5, "ms"),
        Budget(f"delay through the {through}, Python half busy, p99", p99_ms, 5.0, "ms"),
    ]


def rows_of(runs: Sequence[Costs], quiet: float, protected: float) -> list[tuple[str, float]]:
    """Microseconds and ratios to be printed, by name."""
    figures: list[tuple[str, Callable[[Costs], float]]] = [
        *(("bare sendmmsg", lambda of: of.bare), ("bare sendmmsg, GSO of 8", lambda of: of.bare_gso)),
        *(("ordinary aiortc", lambda of: of.ordinary), ("copy, frames of 8", lambda of: of.copy)),
        *(("copy, frames of 8, GSO", lambda of: of.segmented), ("copy, one packet per wake-up", lambda of: quiet)),
    ]
    if all(run.sealed for run in runs):
        figures += [
            *(("srtp_protect alone", lambda of: protected), ("AES-GCM alone", lambda of: of.sealed)),
            ("copy / (bare sendmmsg + srtp_protect)", lambda of: of.copy / (of.bare + protected)),
            ("copy / (bare sendmmsg + AES-GCM)", lambda of: of.copy / (of.bare + of.sealed)),
            ("copy with GSO / (bare GSO + AES-GCM)", lambda of: of.segmented / (of.bare_gso + of.sealed)),
            ("lowest possible copy / bare sendmmsg", lambda of: (of.bare + of.sealed) / of.bare),
            ("lowest possible copy with GSO / copy", lambda of: of.lowest_gso),
        ]
    return [(name, typical(runs, figure)) for name, figure in figures]


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--subscribers", type=int, default=100)
    options.add_argument("--seconds", type=float, default=1.5, help="per measurement")
    options.add_argument("--life", default="compiled", choices=["compiled", "interpreted"])
    chosen = options.parse_args()
    conditions = Conditions.now()
    found = costs(chosen.subscribers, chosen.seconds, chosen.life)
    sinks = [udp() for _ in range(chosen.subscribers)]
    (quiet,) = forwarding(sinks, chosen.seconds, chosen.life, at_once=1, per_second=QUIET_PER_SECOND)
    protected = protect_us(chosen.subscribers, "libsrtp") if chosen.life == "compiled" else 0.0
    print(f"{chosen.subscribers} subscribers, {PAYLOAD} B, AES-128-GCM, us of CPU per datagram")
    for name, value in rows_of(found, statistics.median(quiet), protected):
        print(f"  {name:<40} {value:8.2f}")
    delays = delay_budgets("plane", *delay_ms(chosen.seconds, chosen.life))
    return report("Budgets of the data plane", budgets(found, chosen.subscribers) + delays, conditions, "")


if __name__ == "__main__":
    raise SystemExit(main())
