"""What is refused before anything starts, and in which words."""

import resource
from dataclasses import replace

import pytest

from benchmarks.load import plan as plans
from benchmarks.load.plan import SCENARIOS, Plan, PlanError, Target, check

HERE = Target("ws://127.0.0.1:7880", "key", "secret")
GOOD = Plan("livestream", (1, 10))


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_default_sizes_are_accepted(scenario: str) -> None:
    check(Plan(scenario, tuple(plans.default_steps(scenario))), HERE)


def test_a_plan_travels_as_text() -> None:
    assert Plan.of_text(GOOD.text()) == GOOD


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (replace(GOOD, scenario="opera"), "there is no scenario 'opera'"),
        (replace(GOOD, steps=()), "between 1 and 32 sizes"),
        (replace(GOOD, steps=(0,)), "at least 1"),
        (replace(GOOD, steps=(10, 5)), "grow"),
        (replace(GOOD, steps=(5, 5)), "grow"),
        (Plan("meeting", (1,)), "at least 2 members"),
        (replace(GOOD, publishers=0), "at least one publisher"),
        (replace(GOOD, seconds=0.1), "--duration"),
        (replace(GOOD, seconds=1e9), "--duration"),
        (replace(GOOD, join_rate=0), "--join-rate"),
        (replace(GOOD, messages_per_s=0), "messages"),
        (replace(GOOD, message_bytes=3), "messages"),
        (replace(GOOD, steps=(50_000,)), "50001 participants are more than"),
        (Plan("data", (9_000,), publishers=100, messages_per_s=1_000), "messages a second in all"),
    ],
)
def test_malformed_plans(wrong: Plan, says: str) -> None:
    with pytest.raises(PlanError, match=says):
        check(wrong, HERE)


def test_too_few_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1024, 1024))
    check(replace(GOOD, steps=(400,)), HERE)
    with pytest.raises(PlanError, match=r"1001 participants need 2130 file descriptors and this process may have 1024"):
        check(replace(GOOD, steps=(1000,)), HERE)


def test_too_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "available_bytes", lambda: 100 << 20)
    check(replace(GOOD, steps=(100,)), HERE)
    with pytest.raises(PlanError, match=r"need about \d+ MiB of memory and 100 MiB are free"):
        check(replace(GOOD, steps=(1000,)), HERE)
    with pytest.raises(PlanError, match="memory"):
        check(Plan("meeting", (90,)), HERE)


def test_too_few_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "ephemeral_ports", lambda: 100)
    with pytest.raises(PlanError, match="has 100"):
        check(replace(GOOD, steps=(100,)), HERE)


def test_other_machines_need_a_word() -> None:
    there = replace(HERE, url="ws://192.0.2.1:7880")
    with pytest.raises(PlanError, match="--allow-remote"):
        check(GOOD, there)
    check(replace(GOOD, allow_remote=True), there)
    for url in ("ftp://127.0.0.1", "127.0.0.1:7880", "ws://"):
        with pytest.raises(PlanError, match="not the address of a server"):
            check(GOOD, replace(HERE, url=url))


def test_own_addresses() -> None:
    assert plans.is_own("127.0.0.1")
    assert plans.is_own("localhost")
    assert not plans.is_own("192.0.2.1")
    assert not plans.is_own("no such name.invalid")


def test_sizes_are_read_or_refused() -> None:
    assert plans.parse_steps("5") == (5,)
    assert plans.parse_steps("1,10,100") == (1, 10, 100)
    for text in ("", "many", "1,,2", "1.5"):
        with pytest.raises(PlanError, match="not a size"):
            plans.parse_steps(text)


def test_the_secret_is_not_shown() -> None:
    assert "hush" not in repr(Target("ws://localhost", "key", "hush"))
