"""The lite agent: whom it answers, where it sends, when the peer is gone."""

import itertools
from collections import Counter
from collections.abc import Iterator

import pytest

from tertulia.protocol import stun
from tertulia.protocol.machine import MILLISECOND, SECOND, Nanos
from tertulia.sfu.plane.api import Address
from tertulia.sfu.transport import ice
from tertulia.sfu.transport.ice import (
    Check,
    IceAgent,
    IceOutput,
    Path,
    PathDropped,
    PathProven,
    PathSelected,
    PeerGone,
    PeerHeard,
    PeerSilent,
    Reply,
    TcpPath,
)

HERE = Address(0, "192.0.2.7", 4000)
THERE = Address(0, "192.0.2.7", 4001)
ELSEWHERE = Address(1, "198.51.100.9", 9)


class Bench:
    """An agent with its credentials minted in order (`ufragA`, `ufragB`, ...) and a peer that knows them."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.now = Nanos(SECOND)
        letters = iter("ABCDEFGHIJ")
        self._transactions: Iterator[int] = itertools.count()

        def credentials() -> tuple[str, str]:
            letter = next(letters)
            return f"ufrag{letter}", letter * 24

        self.agent = IceAgent(credentials, lambda name: self.counts.update([name]))

    def check(
        self, path: Path = HERE, *, generation: str = "A", pwd: str = "", nominate: bool = False, extra: bytes = b""
    ) -> bytes:
        key = stun.IntegrityKey(pwd or generation * 24)
        transaction = next(self._transactions).to_bytes(12, "big")
        data = stun.build_request(transaction, f"ufrag{generation}:peer", key, use_candidate=nominate, extra=extra)
        self.agent.handle(self.now, Check(path, stun.parse(data)))
        return data

    def outputs(self) -> list[IceOutput]:
        found = []
        while (output := self.agent.poll()) is not None:
            found.append(output)
        return found

    def wake_at(self, now: int) -> list[IceOutput]:
        self.now = Nanos(now)
        self.agent.wake(self.now)
        return self.outputs()


@pytest.fixture
def bench() -> Bench:
    return Bench()


def answered(outputs: list[IceOutput]) -> list[Path]:
    return [output.path for output in outputs if isinstance(output, Reply)]


def test_a_good_check_proves_its_path_and_is_answered(bench: Bench) -> None:
    """The answer is last: the peer's DTLS follows it at once and finds a path that is known."""
    bench.check()
    *rest, reply = bench.outputs()
    assert isinstance(reply, Reply)
    answer = stun.parse(reply.data)
    assert answer.kind == stun.BINDING_SUCCESS
    assert answer.mapped == (HERE.host, HERE.port)
    assert stun.is_authentic(answer, stun.IntegrityKey("A" * 24))
    assert rest == [PathProven(HERE), PathSelected(HERE)]


def test_a_wrong_password_gets_nothing_at_all(bench: Bench) -> None:
    bench.check(pwd="wrong")
    assert bench.outputs() == []
    assert bench.counts["stun_bad_integrity"] == 1
    assert not bench.agent.is_proven(HERE)
    assert bench.agent.next_wake() is None


def test_the_newest_nomination_is_followed(bench: Bench) -> None:
    bench.check(HERE)
    bench.check(THERE)
    assert bench.agent.selected == HERE
    bench.check(THERE, nominate=True)
    assert bench.agent.selected == THERE
    bench.check(HERE, nominate=True)
    assert bench.agent.selected == HERE
    bench.outputs()
    bench.check(HERE, nominate=True)
    assert bench.outputs() == [Reply(HERE, bench_reply(bench, HERE))]


def bench_reply(bench: Bench, path: Address) -> bytes:
    transaction = (next(bench._transactions) - 1).to_bytes(12, "big")
    return stun.build_success(transaction, path.host, path.port, stun.IntegrityKey("A" * 24))


def test_a_captured_check_is_worth_nothing_elsewhere(bench: Bench) -> None:
    data = bench.check(HERE, nominate=True)
    bench.outputs()
    bench.agent.handle(bench.now, Check(ELSEWHERE, stun.parse(data)))
    assert bench.outputs() == []
    assert bench.agent.selected == HERE
    assert bench.counts["stun_replayed"] == 1
    bench.agent.handle(bench.now, Check(HERE, stun.parse(data)))  # the peer's own repetition
    assert answered(bench.outputs()) == [HERE]


def test_a_controlled_peer_is_told_to_change_its_role(bench: Bench) -> None:
    request = stun._seal(
        stun.BINDING_REQUEST,
        b"r" * 12,
        stun._attribute(stun.USERNAME, b"ufragA:peer") + stun._attribute(stun.ICE_CONTROLLED, bytes(8)),
        stun.IntegrityKey("A" * 24),
    )
    bench.agent.handle(bench.now, Check(HERE, stun.parse(request)))
    (reply,) = bench.outputs()
    assert isinstance(reply, Reply)
    assert stun.parse(reply.data).error_code == stun.ROLE_CONFLICT


def test_unknown_required_attributes_are_named(bench: Bench) -> None:
    bench.check(extra=b"\x77\x77\x00\x00")
    (reply,) = bench.outputs()
    assert isinstance(reply, Reply)
    assert stun.parse(reply.data).error_code == stun.UNKNOWN_ATTRIBUTE
    assert not bench.agent.is_proven(HERE)


def test_silence_is_lost_after_10_s_and_failed_after_15(bench: Bench) -> None:
    start = bench.now
    bench.check()
    bench.outputs()
    assert bench.agent.next_wake() == start + 10 * SECOND
    assert bench.wake_at(start + 10 * SECOND - 1) == []
    assert bench.wake_at(start + 10 * SECOND) == [PeerSilent()]
    assert bench.wake_at(start + 15 * SECOND - 1) == []
    assert bench.wake_at(start + 15 * SECOND) == [PeerGone()]
    assert bench.agent.next_wake() is None
    bench.check(nominate=True)
    assert bench.outputs() == []


def test_a_check_in_time_brings_the_peer_back(bench: Bench) -> None:
    start = bench.now
    bench.check()
    bench.outputs()
    bench.wake_at(start + 12 * SECOND)
    bench.check()
    assert PeerHeard() in bench.outputs()
    assert bench.agent.next_wake() == start + 22 * SECOND


def test_forged_checks_do_not_keep_a_peer_alive(bench: Bench) -> None:
    start = bench.now
    bench.check()
    bench.outputs()
    bench.now = Nanos(start + 9 * SECOND)
    bench.check(pwd="wrong")
    assert bench.wake_at(start + 10 * SECOND) == [PeerSilent()]


def test_a_flood_of_forgeries_costs_few_hmacs_and_harms_nobody(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.check(HERE)
    tried = Counter[str]()
    authentic = stun.is_authentic

    def counting(message: stun.Binding, key: stun.IntegrityKey) -> bool:
        tried["hmac"] += 1
        return authentic(message, key)

    monkeypatch.setattr(stun, "is_authentic", counting)
    for port in range(1000):
        bench.check(Address(0, "203.0.113.1", port + 1), pwd="guess")
    assert tried["hmac"] == ice.FORGERY_BURST
    assert bench.counts["stun_rate_limited"] == 1000 - ice.FORGERY_BURST
    bench.outputs()
    bench.check(HERE)
    assert answered(bench.outputs()) == [HERE]
    bench.now = Nanos(bench.now + ice.FORGERY_INTERVAL_NS)
    bench.check(THERE)
    assert answered(bench.outputs()) == [THERE]


def test_a_flood_of_good_checks_is_limited(bench: Bench) -> None:
    for _ in range(1000):
        bench.check()
    assert len(answered(bench.outputs())) == ice.CHECK_BURST
    bench.now = Nanos(bench.now + SECOND)
    bench.check()
    assert len(answered(bench.outputs())) == 1


def test_a_thousand_addresses_are_answered_but_few_are_kept(bench: Bench) -> None:
    bench.check(HERE, nominate=True)
    for number in range(1000):
        bench.now = Nanos(bench.now + 10 * MILLISECOND)
        bench.check(Address(0, "203.0.113.1", number + 1))
    outputs = bench.outputs()
    assert len(answered(outputs)) == 1001
    assert sum(isinstance(output, PathProven) for output in outputs) == ice.MAX_PATHS
    assert len(bench.agent.paths) == ice.MAX_PATHS
    assert bench.agent.selected == HERE
    assert bench.agent.is_proven(HERE)


def test_a_nomination_finds_a_place_when_all_are_taken(bench: Bench) -> None:
    bench.check(HERE, nominate=True)
    others = [Address(0, "203.0.113.1", number + 1) for number in range(ice.MAX_PATHS - 1)]
    for other in others:
        bench.check(other)
    bench.outputs()
    bench.check(ELSEWHERE, nominate=True)
    assert bench.outputs()[:-1] == [PathDropped(others[0]), PathProven(ELSEWHERE), PathSelected(ELSEWHERE)]
    assert bench.agent.is_proven(HERE)


def test_a_new_remote_ufrag_is_a_restart_with_new_credentials(bench: Bench) -> None:
    agent = bench.agent
    agent.set_remote("peer1")
    assert agent.ufrag == "ufragA"
    agent.set_remote("peer1")
    assert agent.ufrag == "ufragA"
    bench.check(HERE, nominate=True)
    agent.set_remote("peer2")
    assert agent.ufrag == "ufragB"
    bench.check(HERE)  # the old pair goes on until the new one is nominated
    assert agent.selected == HERE
    bench.outputs()
    bench.check(THERE, generation="B", nominate=True)
    assert agent.selected == THERE
    assert agent.ufrags == ("ufragB",)
    bench.outputs()
    bench.check(HERE, nominate=True)
    assert bench.outputs() == []
    assert agent.selected == THERE


def test_our_own_restart_is_answered_without_a_third_pair(bench: Bench) -> None:
    agent = bench.agent
    agent.set_remote("peer1")
    agent.restart()
    assert agent.ufrag == "ufragB"
    agent.set_remote("peer2")
    assert agent.ufrag == "ufragB"
    agent.set_remote("peer3")
    assert agent.ufrag == "ufragC"


def test_a_storm_of_restarts_keeps_three_generations(bench: Bench) -> None:
    for number in range(8):
        bench.agent.set_remote(f"peer{number}")
    assert len(bench.agent.ufrags) == ice.MAX_GENERATIONS
    bench.check(generation="A")
    assert bench.counts["stun_unknown_ufrag"] == 1


def test_a_closed_tcp_path_gives_way_to_the_freshest_other(bench: Bench) -> None:
    tcp = TcpPath(1, "192.0.2.7", 5000)
    bench.check(HERE)
    bench.check(THERE)
    bench.check(tcp, nominate=True)
    bench.outputs()
    bench.agent.forget(tcp)
    assert bench.outputs() == [PathSelected(THERE)]
    bench.agent.forget(THERE)
    bench.agent.forget(HERE)
    assert bench.agent.selected is None


def test_checks_are_entrusted_while_the_peer_is_heard_on_udp(bench: Bench) -> None:
    agent, tcp = bench.agent, TcpPath(1, "192.0.2.7", 5000)
    assert agent.entrusted == ("", "")
    bench.check(tcp)
    assert agent.entrusted == ("", "")
    bench.check(HERE, nominate=True)
    assert agent.entrusted == ("ufragA", "A" * 24)
    bench.wake_at(bench.now + ice.DISCONNECTED_NS)
    assert agent.entrusted == ("", "")
    bench.check()
    assert agent.entrusted == ("ufragA", "A" * 24)


def test_a_restart_is_entrusted_when_it_is_nominated(bench: Bench) -> None:
    bench.check(nominate=True)
    bench.agent.restart()
    bench.check(generation="B")
    assert bench.agent.entrusted == ("ufragA", "A" * 24)
    bench.check(generation="B", nominate=True)
    assert bench.agent.entrusted == ("ufragB", "B" * 24)


def test_checks_answered_elsewhere_keep_the_peer_and_its_path(bench: Bench) -> None:
    agent = bench.agent
    bench.check(nominate=True)
    bench.check(THERE)
    bench.outputs()
    began = bench.now
    agent.heard(Nanos(began + 7 * SECOND))
    assert agent.paths == (THERE, HERE)
    assert bench.wake_at(began + ice.DISCONNECTED_NS) == []
    assert agent.next_wake() == began + 7 * SECOND + ice.DISCONNECTED_NS
    agent.heard(Nanos(began))  # an older one
    assert agent.next_wake() == began + 7 * SECOND + ice.DISCONNECTED_NS
    assert PeerSilent() in bench.wake_at(began + 7 * SECOND + ice.DISCONNECTED_NS)
    agent.heard(Nanos(bench.now + 1))  # too late: the next one is told
    assert agent.next_wake() == began + 7 * SECOND + ice.DISCONNECTED_NS + ice.FAILED_NS


def test_a_check_answered_elsewhere_is_worth_nothing_from_another_address(bench: Bench) -> None:
    bench.check(nominate=True)
    bench.outputs()
    data = stun.build_request(b"captured it!", "ufragA:peer", stun.IntegrityKey("A" * 24), use_candidate=True)
    bench.agent.handle(bench.now, Check(THERE, stun.parse(data), was_answered=True))
    assert bench.outputs() == []
    assert bench.counts["stun_replayed"] == 1
    bench.agent.handle(bench.now, Check(HERE, stun.parse(data), was_answered=True))
    assert answered(bench.outputs()) == [HERE]
