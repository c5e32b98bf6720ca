"""A live plane on loopback sockets, protected: what Alice sends reaches Bob, and the control side hears of the rest."""

import os
import select
import socket
from random import Random

import pytest
from pylibsrtp import Policy, Session

from tertulia.sfu.plane import PlaneUnavailable, open_plane
from tertulia.sfu.plane.api import Address, Codec, Datagram, LivePlane, SrtpProfile, Switched
from tests.unit.plane.packets import is_rtcp, parsed, rtp, vp8

PROFILES = {
    SrtpProfile.AES128_CM_SHA1_80: (Policy.SRTP_PROFILE_AES128_CM_SHA1_80, 30),
    SrtpProfile.AEAD_AES_128_GCM: (Policy.SRTP_PROFILE_AEAD_AES_128_GCM, 28),
}


def udp() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    sock.settimeout(10)
    return sock


class Peer:
    """A client end: a socket and two SRTP sessions."""

    def __init__(self, plane: LivePlane, profile: SrtpProfile, server: socket.socket) -> None:
        self.sock = udp()
        self.server = server.getsockname()
        self.address = Address(0, *self.sock.getsockname())
        srtp_profile, length = PROFILES[profile]
        up, down = os.urandom(length), os.urandom(length)
        self.tx = Session(Policy(key=up, ssrc_type=Policy.SSRC_ANY_OUTBOUND, srtp_profile=srtp_profile))
        self.rx = Session(Policy(key=down, ssrc_type=Policy.SSRC_ANY_INBOUND, srtp_profile=srtp_profile))
        self.transport = plane.add_transport()
        plane.set_keys(self.transport, profile, up, down)
        plane.allow(self.transport, self.address)
        plane.select(self.transport, self.address)

    def send(self, data: bytes) -> None:
        self.sock.sendto(self.tx.protect(data), self.server)

    def media(self) -> bytes:
        while True:
            data = self.sock.recv(2048)
            if not is_rtcp(data):
                return self.rx.unprotect(data)


def opened(life: str) -> tuple[LivePlane, socket.socket]:
    server = udp()
    try:
        plane = open_plane([[server]], life=life, rng=Random(3))  # type: ignore[arg-type]
    except PlaneUnavailable as error:
        pytest.skip(str(error))
    plane.start()
    return plane, server


def wait_for_reports(plane: LivePlane) -> list[object]:
    assert select.select([plane.fileno()], [], [], 10)[0], "no report"
    return list(plane.reports())


@pytest.mark.parametrize("life", ["interpreted", "compiled"])
@pytest.mark.parametrize("profile", list(PROFILES))
def test_a_protected_packet_crosses(life: str, profile: SrtpProfile) -> None:
    plane, server = opened(life)
    try:
        assert plane.life == life
        alice, bob = Peer(plane, profile, server), Peer(plane, profile, server)
        track = plane.add_track(Codec.VP8, 90000)
        plane.add_up(track, alice.transport, 0x1000, 0, payload_type=96, nack=True, twcc=False)
        down = plane.add_down(track, bob.transport, 0x2000, payload_type=100, first_sequence=7)
        plane.set_target(down, 0)
        for i in range(20):
            alice.send(rtp(0x1000, 65530 + i, 9000, vp8(i, key=i == 0)))
        got = [parsed(bob.media()) for _ in range(20)]
        assert [m[1] for m in got] == list(range(7, 27))
        assert got[3][6] == vp8(3)
        assert Switched(down, 0) in wait_for_reports(plane)
    finally:
        plane.stop()


@pytest.mark.parametrize("life", ["interpreted", "compiled"])
def test_forged_replayed_and_strange_packets_are_counted(life: str) -> None:
    plane, server = opened(life)
    try:
        alice = Peer(plane, SrtpProfile.AEAD_AES_128_GCM, server)
        good = alice.tx.protect(rtp(0x1000, 1, 1, b"hello"))
        forged = bytearray(alice.tx.protect(rtp(0x1000, 2, 1, b"hello")))
        forged[-1] ^= 1
        for data in (good, good, bytes(forged), b"\x80", b"\x50zzz", bytes(1)):
            alice.sock.sendto(data, alice.server)
        stranger = udp()
        stranger.sendto(good, alice.server)
        stranger.sendto(b"\x00\x01stun", alice.server)
        seen: list[object] = []
        while not any(isinstance(r, Datagram) and r.data.endswith(b"stun") for r in seen):
            seen += wait_for_reports(plane)
        totals = plane.totals()
        assert totals["drop_replay"] == 1
        assert totals["drop_authentication"] == 1
        assert totals["drop_unknown_address"] == 1
        assert totals["drop_malformed"] == 2
        assert [r.transport for r in seen if isinstance(r, Datagram)] == [alice.transport, None]
    finally:
        plane.stop()


@pytest.mark.parametrize("life", ["interpreted", "compiled"])
def test_stun_answers_leave_by_the_socket_that_was_asked(life: str) -> None:
    plane, _ = opened(life)
    try:
        peer = udp()
        plane.send(Address(0, *peer.getsockname()), b"answer")
        assert peer.recv(100) == b"answer"
    finally:
        plane.stop()


@pytest.mark.parametrize("life", ["interpreted", "compiled"])
def test_orders_after_the_end_touch_nobodys_files(life: str) -> None:
    """The numbers of closed descriptors go to others soon: a pipe made after the end must stay empty."""
    plane, server = opened(life)
    alice = Peer(plane, SrtpProfile.AEAD_AES_128_GCM, server)
    plane.stop()
    plane.stop()
    server.close()
    pipes = [os.pipe() for _ in range(8)]
    track = plane.add_track(Codec.VP8, 90000)
    up = plane.add_up(track, alice.transport, 0x1000, 0, payload_type=96, nack=True, twcc=True)
    plane.request_key_frame(track, 0)
    plane.send(alice.address, b"late")
    plane.reports()
    plane.remove_up(up)
    plane.remove_transport(alice.transport)
    assert not select.select([readable for readable, _ in pipes], [], [], 0)[0]
    for readable, writable in pipes:
        os.close(readable)
        os.close(writable)


def test_an_unknown_life_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERTULIA_PLANE", "fast")
    with pytest.raises(PlaneUnavailable, match="use auto, compiled or interpreted"):
        open_plane([])
