"""How long a transport may be silent: a hub on virtual time, fed by hand."""

import asyncio
from collections.abc import Iterator
from typing import cast

import pytest

from tertulia.protocol import stun
from tertulia.protocol.ids import TransportId
from tertulia.protocol.machine import Nanos
from tertulia.sfu.plane.api import Address, Datagram, LivePlane
from tertulia.sfu.transport import hub as hub_module
from tertulia.sfu.transport.api import (
    LocalParameters,
    RemoteParameters,
    TransportConnected,
    TransportEvent,
    TransportFailed,
    TransportLost,
    TransportRestored,
)
from tertulia.sfu.transport.dtls import DtlsDatagram, DtlsEndpoint, Role
from tertulia.sfu.transport.hub import TransportHub
from tertulia.sfu.transport.listen import TcpEndpoint, UdpEndpoint, candidates

from .peers import PEER
from .virtual import VirtualLoop, virtual_loop

PATH = Address(0, "192.0.2.50", 5000)


class SilentPlane:
    """Keeps what is sent and ordered; what it answered is for the test to say."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.rows = 0
        self.entrusted: list[tuple[str, str]] = []
        self.checked = Nanos(0)
        self.answered: set[bytes] = set()

    def add_transport(self, port: int = 0) -> TransportId:
        self.rows += 1
        return TransportId(self.rows)

    def send(self, address: Address, data: bytes) -> None:
        self.sent.append(data)

    def remove_transport(self, transport: TransportId) -> None: ...

    def allow(self, transport: TransportId, address: Address) -> None: ...

    def select(self, transport: TransportId, address: Address | None) -> None: ...

    def set_keys(self, *_: object) -> None: ...

    def answer_checks(self, transport: TransportId, ufrag: str, pwd: str) -> None:
        self.entrusted.append((ufrag, pwd))

    def last_check(self, transport: TransportId) -> Nanos:
        return self.checked

    def has_answered(self, transport: TransportId, transaction: bytes) -> bool:
        return transaction in self.answered

    def totals(self) -> dict[str, int]:
        return {"checks": 7}


class Stage:
    def __init__(self, loop: VirtualLoop) -> None:
        self.loop = loop
        self.plane = SilentPlane()
        self.events: list[tuple[float, TransportEvent]] = []
        self.hub = TransportHub(
            cast(LivePlane, self.plane),
            [[UdpEndpoint(0, "192.0.2.1", 7882)]],
            lambda owner, transport, event: self.events.append((loop.time() - self.start, event)),
        )
        self.start = loop.time()
        self.transport, self.local = self.hub.open("RM_test")
        self.checks = 0

    @property
    def now(self) -> Nanos:
        return Nanos(int(self.loop.time() * 1e9))

    def connect(self) -> LocalParameters:
        remote = RemoteParameters("peer", "p" * 24, (("sha-256", PEER.fingerprint),), "active", 5000, 0)
        self.local = self.hub.connect(self.transport, remote)
        return self.local

    def check(self) -> None:
        self.checks += 1
        key = stun.IntegrityKey(self.local.pwd)
        data = stun.build_request(self.checks.to_bytes(12, "big"), f"{self.local.ufrag}:peer", key, use_candidate=True)
        self.hub.on_report(self.now, Datagram(PATH, data, None))

    def shake_hands(self) -> None:
        client = DtlsEndpoint(PEER, Role.CLIENT, [("sha-256", self.local.fingerprint)], self.now, lambda name: None)
        for _ in range(6):
            while (output := client.poll()) is not None:
                if isinstance(output, DtlsDatagram):
                    self.hub.on_report(self.now, Datagram(PATH, output.data, self.transport))
            sent, self.plane.sent = self.plane.sent, []
            for data in sent:
                if data[0] >= 20:
                    client.handle(self.now, data)

    async def at(self, second: float) -> None:
        await asyncio.sleep(self.start + second - self.loop.time())


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    with virtual_loop(monkeypatch) as loop:
        monkeypatch.setattr(hub_module, "monotonic", lambda: Nanos(int(loop.time() * 1e9)))
        stages: list[Stage] = []

        async def make() -> None:
            stages.append(Stage(loop))

        loop.run_until_complete(make())
        yield stages[0]
        loop.run_until_complete(stages[0].hub.stop())
        assert loop.pending_timers == 0


def told(stage: Stage) -> list[tuple[float, str]]:
    return [(round(moment, 2), type(event).__name__) for moment, event in stage.events]


def test_lost_after_10_s_restored_by_a_check_failed_after_15(stage: Stage) -> None:
    async def story() -> None:
        stage.connect()
        await stage.at(1)
        stage.check()
        stage.shake_hands()
        await stage.at(12)
        stage.check()
        await stage.at(60)

    stage.loop.run_until_complete(story())
    connected, lost, restored, lost_again, failed = stage.events
    assert connected == (1, TransportConnected())
    assert lost[1] == TransportLost()
    assert restored[1] == TransportRestored()
    assert lost_again[1] == TransportLost()
    assert failed[1] == TransportFailed("no connectivity check for 15 s")
    assert [round(moment, 2) for moment, _ in stage.events] == [1, 11, 12, 22, 27]


def test_checks_every_few_seconds_keep_a_transport(stage: Stage) -> None:
    async def story() -> None:
        stage.connect()
        stage.check()
        stage.shake_hands()
        for second in range(1, 300, 5):
            await stage.at(second)
            stage.check()

    stage.loop.run_until_complete(story())
    assert told(stage) == [(0, "TransportConnected")]
    assert len(stage.hub._timers) <= 8


def test_timers_that_would_wake_in_vain_go_with_the_first_that_closes(stage: Stage) -> None:
    """Else each of many that leave has all of them looked through again."""

    async def story() -> None:
        for _ in range(9):
            stage.connect()
            stage.check()
            stage.shake_hands()
            stage.transport, stage.local = stage.hub.open("RM_test")
        assert len(stage.hub._timers) > 2 * 9
        stage.hub.close(stage.transport)
        assert len(stage.hub._timers) == 9

    stage.loop.run_until_complete(story())


def test_a_peer_that_never_comes_is_given_up(stage: Stage) -> None:
    async def story() -> None:
        await stage.at(100)  # an offer of ours may wait for its answer: that is the room's patience
        assert stage.events == []
        stage.connect()
        await stage.at(200)

    stage.loop.run_until_complete(story())
    assert stage.events == [(130, TransportFailed("no connectivity check came"))]


def test_transports_that_are_due_in_the_same_tenth_of_a_second_are_woken_together(stage: Stage) -> None:
    async def story() -> None:
        for moment in (0.01, 0.05, 0.09):
            await stage.at(moment)
            stage.transport, _ = stage.hub.open("RM_test")
            stage.connect()
        await stage.at(40)

    stage.loop.run_until_complete(story())
    assert told(stage) == [(30.1, "TransportFailed")] * 3


def test_a_peer_that_checks_but_never_shakes_hands_is_given_up(stage: Stage) -> None:
    async def story() -> None:
        stage.check()  # before its answer has come: no clock runs yet
        await stage.at(8)
        stage.connect()
        for second in range(9, 60, 2):
            await stage.at(second)
            stage.check()

    stage.loop.run_until_complete(story())
    assert stage.events == [(38, TransportFailed("no DTLS handshake came"))]


def test_a_late_first_check_still_gets_the_time_for_a_handshake(stage: Stage) -> None:
    async def story() -> None:
        stage.connect()
        for second in range(25, 60, 2):
            await stage.at(second)
            stage.check()

    stage.loop.run_until_complete(story())
    assert stage.events == [(45, TransportFailed("no DTLS handshake came"))]


def test_a_handshake_that_stops_half_way_is_given_up(stage: Stage) -> None:
    async def story() -> None:
        stage.connect()
        stage.check()
        hello = DtlsEndpoint(PEER, Role.CLIENT, [("sha-256", "")], stage.now, lambda name: None).poll()
        assert isinstance(hello, DtlsDatagram)
        stage.hub.on_report(stage.now, Datagram(PATH, hello.data, stage.transport))
        for second in range(1, 40):
            await stage.at(second)
            stage.check()

    stage.loop.run_until_complete(story())
    assert [(round(moment, 1), event) for moment, event in stage.events] == [
        (20, TransportFailed("DTLS handshake timed out"))
    ]


def test_five_hundred_half_handshakes_are_all_given_up(stage: Stage) -> None:
    async def story() -> None:
        for number in range(500):
            transport, local = stage.hub.open("RM_test")
            stage.transport, stage.local = transport, local
            stage.connect()
            stage.check()
            hello = DtlsEndpoint(PEER, Role.CLIENT, [("sha-256", "")], stage.now, lambda name: None).poll()
            assert isinstance(hello, DtlsDatagram)
            stage.hub.on_report(stage.now, Datagram(PATH, hello.data, transport))
            assert number >= 0
        await stage.at(21)

    stage.loop.run_until_complete(story())
    assert len([event for _, event in stage.events if isinstance(event, TransportFailed)]) == 500


def test_restarts_fifty_times_a_second_leave_few_credentials(stage: Stage) -> None:
    async def story() -> None:
        stage.connect()
        stage.check()
        for number in range(250):
            remote = RemoteParameters(f"peer{number}", "p" * 24, (("sha-256", PEER.fingerprint),), "active", 5000, 0)
            stage.local = stage.hub.connect(stage.transport, remote)
        assert stage.hub.totals()["ufrags"] == 3
        stage.check()
        assert stage.hub.totals()["ufrags"] == 1

    stage.loop.run_until_complete(story())


def test_candidates_are_udp_first_and_never_doubled() -> None:
    endpoints = [UdpEndpoint(0, "192.0.2.1", 7882), UdpEndpoint(1, "10.0.0.5", 7882), UdpEndpoint(2, "fd00::1", 7882)]
    tcp = TcpEndpoint("0.0.0.0", 7881, ("192.0.2.1", "10.0.0.5"))
    lines = candidates(endpoints, tcp)
    assert lines[0] == "1 1 udp 2130706431 192.0.2.1 7882 typ host"
    assert lines[3].endswith("192.0.2.1 7881 typ host tcptype passive")
    priorities = [int(line.split()[3]) for line in lines]
    assert priorities == sorted(priorities, reverse=True)
    assert len(set(priorities)) == len(lines) == 5
    mapped = candidates(endpoints, tcp, "203.0.113.80")
    assert [line.split()[4] for line in mapped] == ["203.0.113.80", "fd00::1", "203.0.113.80"]


def test_checks_of_a_connected_peer_are_the_planes_and_taken_back_when_they_stop(stage: Stage) -> None:
    async def story() -> None:
        stage.connect()
        stage.check()
        assert stage.plane.entrusted == []  # no keys yet
        stage.shake_hands()
        mine = (stage.local.ufrag, stage.local.pwd)
        assert stage.plane.entrusted == [mine]
        await stage.at(9)
        stage.plane.checked = Nanos(int((stage.start + 8.5) * 1e9))
        await stage.at(19)
        assert stage.plane.entrusted == [mine, ("", "")]
        stage.check()
        assert stage.plane.entrusted == [mine, ("", ""), mine]
        await stage.at(20)

    stage.loop.run_until_complete(story())
    assert told(stage) == [(0, "TransportConnected"), (18.5, "TransportLost"), (19, "TransportRestored")]
    assert stage.hub.totals()["stun_checks"] == 2 + 7


def test_a_check_that_the_plane_answered_is_not_taken_from_another_address(stage: Stage) -> None:
    async def story() -> None:
        stage.connect()
        stage.check()
        stage.shake_hands()
        key = stun.IntegrityKey(stage.local.pwd)
        data = stun.build_request(b"captured it!", f"{stage.local.ufrag}:peer", key, use_candidate=True)
        stage.plane.answered.add(b"captured it!")
        stage.hub.on_report(stage.now, Datagram(Address(0, "198.51.100.66", 6), data, None))

    stage.loop.run_until_complete(story())
    assert stage.hub.totals()["stun_replayed"] == 1


def test_restarts_nobody_follows_move_on_what_is_entrusted(stage: Stage) -> None:
    async def story() -> None:
        stage.connect()
        stage.check()
        stage.shake_hands()
        ufrags = [stage.local.ufrag] + [stage.hub.restart(stage.transport).ufrag for _ in range(3)]
        assert [ufrag for ufrag, _ in stage.plane.entrusted] == ufrags[:2]  # three are honoured at a time

    stage.loop.run_until_complete(story())
