"""Several datagrams of one sender in one message (UDP GRO): the compiled plane takes them apart again."""

import socket
import struct

import pytest

from tertulia.sfu.plane.api import Datagram
from tests.unit.plane.packets import parsed, rtp, vp8
from tests.unit.plane.test_live import Peer, udp, wait_for_reports
from tests.unit.plane.test_ports import Stage

UDP_SEGMENT, UDP_GRO = 103, 104
SLOT = 2048


def coalesces() -> bool:
    """Whether this kernel takes the option, and tells that it is on."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.setsockopt(socket.SOL_UDP, UDP_GRO, 1)
            return sock.getsockopt(socket.SOL_UDP, UDP_GRO) == 1
        except OSError:
            return False


pytestmark = pytest.mark.skipif(not coalesces(), reason="this kernel has no UDP_GRO (Linux 5.0)")


def send_at_once(sock: socket.socket, parts: list[bytes], to: tuple[str, int]) -> None:
    """One GSO message: equal parts, the last one may be shorter."""
    control = [(socket.SOL_UDP, UDP_SEGMENT, struct.pack("@H", len(parts[0])))]
    sock.sendmsg([b"".join(parts)], control, 0, to)


def bodies(first: int, count: int, last: int) -> list[bytes]:
    """Told apart by their beginning; the last of a message is `last` bytes long."""
    return [struct.pack("!I", first + i) + bytes(400 if i < count - 1 else last) for i in range(count)]


def publish(stage: Stage, first: int, parts: list[bytes]) -> None:
    sealed = [
        stage.alice.tx.protect(rtp(0x1000, first + i, 9000, vp8(5, start=False) + body)) for i, body in enumerate(parts)
    ]
    send_at_once(stage.alice.sock, sealed, stage.alice.server)


def forwarded(peer: Peer, count: int) -> list[tuple[int, bytes]]:
    """(sequence, what was published) of the next packets."""
    found = []
    for _ in range(count):
        _, sequence, *_, payload = parsed(peer.media())
        found.append((sequence, payload[len(vp8(5, start=False)) :]))
    return found


def waiting() -> Stage:
    """A stage that is not started, so that whatever is sent is there at once when it is, and as it was sent."""
    stage = Stage(started=False)
    stage.servers[0].setsockopt(socket.SOL_UDP, UDP_GRO, 1)
    stage.servers[0].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    return stage


def dropped(stage: Stage) -> dict[str, int]:
    return {name: n for name, n in stage.plane.totals().items() if name.startswith("drop_") and n}


@pytest.mark.parametrize("count", [8, 40])
def test_datagrams_sent_at_once_are_forwarded_one_by_one(count: int) -> None:
    stage = Stage()
    try:
        bob = stage.subscriber()
        stage.row(bob)
        stage.burst(1, 1)
        forwarded(bob, 1)
        assert stage.servers[0].getsockopt(socket.SOL_UDP, UDP_GRO) == 1, "the plane asks for messages of several"
        sent = bodies(2, count + 1, last=7)
        publish(stage, 2, sent)
        assert forwarded(bob, count + 1) == list(enumerate(sent, 2))
        totals = stage.plane.totals()
        assert totals["packets_in"] == totals["packets_out"] == count + 2
        assert dropped(stage) == {}
    finally:
        stage.close()


def test_more_at_once_than_a_track_can_note_lose_nothing() -> None:
    stage = waiting()
    try:
        bob = stage.subscriber()
        bob.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        stage.row(bob)
        stage.burst(1, 1)
        sent: list[bytes] = []
        for first in range(2, 207, 41):
            parts = bodies(first, 41, last=7)
            publish(stage, first, parts)
            sent += parts
        stage.plane.start()
        forwarded(bob, 1)
        assert forwarded(bob, 205) == list(enumerate(sent, 2))
        assert stage.plane.totals()["packets_in"] == 206
        assert dropped(stage) == {}
    finally:
        stage.close()


def test_every_part_keeps_its_sender() -> None:
    """Media of one peer, STUN and nothing at all of another, then media that ends with STUN."""
    stage = waiting()
    try:
        bob = stage.subscriber()
        stage.row(bob)
        stage.burst(1, 1)
        publish(stage, 2, bodies(2, 8, last=7))
        stranger = udp()
        for data in (b"\x00\x01who am I", b""):
            stranger.sendto(data, stage.alice.server)
        media = stage.alice.tx.protect(rtp(0x1000, 10, 9000, vp8(5, start=False) + bytes(400)))
        send_at_once(stage.alice.sock, [media, b"\x00\x01me too"], stage.alice.server)
        stage.plane.start()
        assert [sequence for sequence, _ in forwarded(bob, 10)] == list(range(1, 11))
        told = [r for r in wait_for_reports(stage.plane) if isinstance(r, Datagram)]
        assert [(r.address[1:], r.transport, r.data) for r in told] == [
            (stranger.getsockname(), None, b"\x00\x01who am I"),
            (stage.alice.sock.getsockname(), stage.alice.transport, b"\x00\x01me too"),
        ]
        assert stage.plane.totals()["packets_in"] == 13
        assert dropped(stage) == {"drop_malformed": 1}
    finally:
        stage.close()


def test_what_is_longer_than_any_packet_is_cut() -> None:
    stage = waiting()
    try:
        stranger = udp()
        long = [bytes([0, number]) + bytes(3000) for number in range(2)]
        send_at_once(stranger, long, stage.alice.server)
        stranger.sendto(long[0], stage.alice.server)
        stage.plane.start()
        told = [r.data for r in wait_for_reports(stage.plane) if isinstance(r, Datagram)]
        assert told == [part[:SLOT] for part in (*long, long[0])]
    finally:
        stage.close()
