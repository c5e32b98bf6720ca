"""A publisher in a process of its own, for benches that measure the data plane in theirs."""

import multiprocessing
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

from tertulia.sfu.plane import srtp
from tertulia.sfu.plane.api import Address, Codec, LivePlane, SrtpProfile

PAYLOAD = 1100
FRAME = 8
SSRC = 0x11223344
KEY_BYTES = 28
PROFILE = SrtpProfile.AEAD_AES_128_GCM
UDP_SEGMENT = 103
BUSY_PER_SECOND = 2500
LOST_S = 1.0
"""A frame whose copies are not back by then is no longer waited for."""
SPARE_TRACKS, LAYERS = 4, 4
"""SSRCs that are named and never sent: what a transport may send grows with them, here beyond 30 000 packets/s."""


def udp(receive_bytes: int = 2304) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
    sock.bind(("127.0.0.1", 0))
    sock.setblocking(False)
    return sock


def packet(sequence: int, body: bytes) -> bytes:
    return struct.pack("!BBHII", 0x80, 96, sequence & 0xFFFF, sequence * 3000 & 0xFFFFFFFF, SSRC) + body


def published_track(plane: LivePlane, source: Address, key: bytes) -> int:
    """The track of a publisher at that address, who may send as much as one thread forwards."""
    transport = plane.add_transport(source.socket)
    plane.set_keys(transport, PROFILE, key, key)
    plane.allow(transport, source)
    plane.select(transport, source)
    for spare in range(SPARE_TRACKS):
        other = plane.add_track(Codec.OTHER, 90000)
        for layer in range(LAYERS):
            ssrc = SSRC + 1 + spare * LAYERS + layer
            plane.add_up(other, transport, ssrc, layer, payload_type=96, nack=False, twcc=False)
    track = plane.add_track(Codec.OTHER, 90000)
    plane.add_up(track, transport, SSRC, 0, payload_type=96, nack=False, twcc=False)
    return track


@contextmanager
def published(
    server: socket.socket, key: bytes, at_once: int = FRAME, pace: int | socket.socket = BUSY_PER_SECOND
) -> Iterator[tuple[Connection, Address]]:
    """A publisher in a child process: told a number of seconds it sends for as long, `at_once` packets after the other,
    and answers how many; told 0 it ends.

    `pace`: packets a second, or the socket of the first subscriber. With that it sends the next ones when the copies of
    the last have come there: others are still being sent then, so the data thread always finds work and never two
    frames of it. RuntimeError when the child ends by itself.
    """
    ours, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("spawn").Process(
        target=publish, args=(theirs, server.getsockname(), key, at_once, pace), daemon=True
    )
    child.start()
    theirs.close()  # should the child end, we are told
    try:
        yield ours, Address(0, *ours.recv())
        ours.send(0)
        child.join()
    except EOFError:
        raise RuntimeError("the publisher ended without a word") from None
    finally:
        if child.is_alive():
            child.kill()
            child.join()


def publish(pipe: Connection, to: tuple[str, int], key: bytes, at_once: int, pace: int | socket.socket) -> None:
    """The child."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    tx = srtp.session(PROFILE, key, outbound=True)
    pipe.send(sock.getsockname())
    sequence = 1000
    while (seconds := pipe.recv()) > 0:
        before, due = sequence, time.monotonic()
        end = due + seconds
        while time.monotonic() < end:
            batch = [tx.protect(packet(sequence + 1 + number, bytes(PAYLOAD))) for number in range(at_once)]
            sequence += at_once
            control = [(socket.SOL_UDP, UDP_SEGMENT, struct.pack("@H", len(batch[0])))] if at_once > 1 else []
            sock.sendmsg([b"".join(batch)], control, 0, to)
            if isinstance(pace, int):
                due += at_once / pace
                time.sleep(max(0.0, due - time.monotonic()))
            else:
                _hear(pace, at_once)
        pipe.send(sequence - before)


def _hear(echo: socket.socket, count: int) -> None:
    """So many datagrams, looked for all the time: who sleeps is late, and the data thread would have to wait."""
    lost = time.monotonic() + LOST_S
    while count and time.monotonic() < lost:
        try:
            echo.recv(2048)
            count -= 1
        except BlockingIOError:
            continue
