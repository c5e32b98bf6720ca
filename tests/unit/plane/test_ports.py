"""The compiled plumbing on real sockets: segments and their refusal, several Ports, many rows, ICE-TCP, churn."""

import socket
import threading
from random import Random

import pytest

from tertulia.sfu.plane.api import Address, Codec, Extension, LivePlane, Outgoing, SrtpProfile
from tests.unit.plane.packets import is_rtcp, parsed, rtp, vp8
from tests.unit.plane.test_live import PROFILES, Peer, udp

compiled = pytest.importorskip("tertulia.sfu.plane.compiled_life", reason="the compiled data plane was not built")
SO_NO_CHECK = 11
GCM = SrtpProfile.AEAD_AES_128_GCM


class Stage:
    """A compiled plane with a publisher on its first Port."""

    def __init__(self, ports: int = 1, *, started: bool = True) -> None:
        self.servers = [udp() for _ in range(ports)]
        self.plane: LivePlane = compiled.Compiled([[server] for server in self.servers], Random(5))
        if started:
            self.plane.start()
        self.alice = Peer(self.plane, GCM, self.servers[0])
        self.track = self.plane.add_track(Codec.VP8, 90000)
        self.plane.add_up(self.track, self.alice.transport, 0x1000, 0, payload_type=96, nack=True, twcc=False)

    def subscriber(self, port: int = 0) -> Peer:
        peer = Peer(self.plane, GCM, self.servers[port])
        self.plane.select(peer.transport, peer.address._replace(socket=port))
        self.plane.set_extensions(peer.transport, {Extension.TWCC: 5})
        return peer

    def row(self, peer: Peer, ssrc: int = 0x2000) -> int:
        down = self.plane.add_down(self.track, peer.transport, ssrc, payload_type=100, first_sequence=1)
        self.plane.set_target(down, 0)
        return down

    def burst(self, first: int, count: int, body: bytes = b"") -> None:
        """Packets that leave the kernel together, so that the plane receives them as one batch."""
        sealed = [
            self.alice.tx.protect(rtp(0x1000, first + i, 9000, vp8(5, key=first + i == 1, start=i == 0) + body))
            for i in range(count)
        ]
        for data in sealed:
            self.alice.sock.sendto(data, self.alice.server)

    def close(self) -> None:
        self.plane.stop()
        for server in self.servers:
            server.close()


def received(peer: Peer, count: int) -> list[tuple[int, int]]:
    """(sequence, transport-wide number) of the next packets."""
    found = []
    for _ in range(count):
        _, sequence, _, _, _, extensions, _ = parsed(peer.media())
        found.append((sequence, int.from_bytes(extensions[5], "big")))
    return found


@pytest.mark.parametrize("refused", [False, True])
def test_bursts_arrive_whole_whether_or_not_the_kernel_segments(refused: bool) -> None:
    stage = Stage()
    try:
        if refused:
            # without checksums the kernel refuses UDP_SEGMENT (EINVAL), as devices without checksum offload do
            stage.servers[0].setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
        bob = stage.subscriber()
        stage.row(bob)
        numbers = []
        for start in range(1, 400, 20):
            stage.burst(start, 20, bytes(500))
            numbers += received(bob, 20)
        assert [sequence for sequence, _ in numbers] == list(range(1, 401))
        wide = [number for _, number in numbers]
        assert wide == [(wide[0] + i) & 0xFFFF for i in range(400)]
        segmented = stage.plane.totals()["gso_segments"]
        assert stage.plane._native.gso() == [not refused]
        assert stage.plane.totals()["send_errors"] == 0
        assert (segmented == 0) == refused, "a burst of equal packets leaves as segments"
    finally:
        stage.close()


def test_a_track_reaches_subscribers_on_every_port() -> None:
    stage = Stage(ports=3)
    try:
        peers = [stage.subscriber(port) for port in (0, 1, 2)]
        for peer in peers:
            stage.row(peer)
        for start in range(1, 100, 10):
            stage.burst(start, 10)
        for port, peer in enumerate(peers):
            data, source = peer.sock.recvfrom(2048)
            assert source == stage.servers[port].getsockname()
            while is_rtcp(data):
                data = peer.sock.recv(2048)
            assert parsed(peer.rx.unprotect(data))[1] == 1
            assert [sequence for sequence, _ in received(peer, 99)] == list(range(2, 101))
    finally:
        stage.close()


def test_feedback_on_another_port_is_heard() -> None:
    stage = Stage(ports=2)
    try:
        bob = stage.subscriber(1)
        stage.plane.allow(bob.transport, bob.address._replace(socket=1))
        row = stage.plane.add_down(
            stage.track, bob.transport, 0x2000, payload_type=100, rtx_ssrc=0x2F00, rtx_payload_type=101
        )
        stage.plane.set_target(row, 0)
        stage.burst(1, 3)
        got = received(bob, 3)
        nack = bytes.fromhex("81cd0003000000010000200000020000")
        bob.sock.sendto(bob.tx.protect_rtcp(nack), bob.server)
        ssrc, *_, payload = parsed(bob.media())
        assert (ssrc, int.from_bytes(payload[:2], "big")) == (0x2F00, got[1][0])
    finally:
        stage.close()


def test_more_rows_than_one_srtp_session_takes() -> None:
    stage = Stage()
    try:
        bob = stage.subscriber()
        rows = [stage.row(bob, 0x2000 + i) for i in range(50)]
        stage.burst(1, 1)
        assert {parsed(bob.media())[0] for _ in range(50)} == {0x2000 + i for i in range(50)}
        for row in rows[:40]:
            stage.plane.remove_down(row)
        for i in range(20):
            stage.row(bob, 0x3000 + i)
        stage.plane.set_keys(bob.transport, GCM, bytes(28), key := bytes(range(28)))
        from pylibsrtp import Policy, Session

        bob.rx = Session(Policy(key=key, ssrc_type=Policy.SSRC_ANY_INBOUND, srtp_profile=PROFILES[GCM][0]))
        stage.alice.send(rtp(0x1000, 2, 12000, vp8(6, key=True)))
        got = {parsed(bob.media())[0] for _ in range(30)}
        assert got == {0x2000 + i for i in range(40, 50)} | {0x3000 + i for i in range(20)}
    finally:
        stage.close()


def test_frames_for_tcp_are_handed_out_protected() -> None:
    stage = Stage()
    try:
        bob = stage.subscriber()
        stage.plane.select(bob.transport, None)
        stage.row(bob)
        stage.burst(1, 2)
        frames: list[bytes] = []
        while len(frames) < 2:
            frames += [r.data for r in stage.plane.reports() if isinstance(r, Outgoing)]
        assert [parsed(bob.rx.unprotect(data))[1] for data in frames] == [1, 2]
    finally:
        stage.close()


def test_the_control_side_may_change_anything_under_load() -> None:
    """Rows, transports and tracks come and go while data threads fan out: nothing crashes, nothing is mixed up."""
    stage = Stage(ports=2)
    rng = Random(11)
    running = True

    def load() -> None:
        number = 1
        while running:
            stage.burst(number, 20, bytes(200))
            number += 20

    try:
        steady = stage.subscriber()
        stage.row(steady)
        thread = threading.Thread(target=load)
        thread.start()
        peers: list[tuple[Peer, int]] = []
        for _ in range(400):
            if rng.random() < 0.55 or not peers:
                peer = stage.subscriber(rng.randrange(2))
                peers.append((peer, stage.row(peer, rng.getrandbits(32))))
            else:
                peer, row = peers.pop(rng.randrange(len(peers)))
                if rng.random() < 0.5:
                    stage.plane.remove_down(row)
                stage.plane.remove_transport(peer.transport)
                peer.sock.close()
            stage.plane.reports()
            stage.plane.totals()
        extra = stage.plane.add_track(Codec.VP8, 90000)
        stage.plane.add_up(extra, stage.alice.transport, 0x7777, 0, payload_type=96, nack=False, twcc=False)
        stage.plane.remove_track(extra)
        running = False
        thread.join()
        received(steady, 50)
        for peer, _ in peers:
            peer.sock.close()
    finally:
        running = False
        stage.close()


def test_addresses_are_told_as_they_were_seen() -> None:
    stage = Stage()
    try:
        stranger = udp()
        stranger.sendto(b"\x00hello", stage.servers[0].getsockname())
        seen: list[Address] = []
        while not seen:
            seen = [r.address for r in stage.plane.reports() if hasattr(r, "address")]
        assert seen == [Address(0, *stranger.getsockname())]
    finally:
        stage.close()
