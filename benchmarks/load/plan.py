"""What a bench run is asked to do, and whether this machine can do it; decides before anything is started.

A `Plan` travels to the worker processes as JSON. Sizes that cannot work (file descriptors, memory, ports) are refused
with the numbers that say so.
"""

import ipaddress
import json
import resource
import socket
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

SCENARIOS = ("audio", "meeting", "livestream", "churn", "data", "rooms")
MAX_PARTICIPANTS = 20_000
MAX_STEPS = 32
MAX_SECONDS = 3_600
MAX_MESSAGES_PER_S = 100_000
SOCKETS_PER_PARTICIPANT = {"v1": 2, "v0": 3}
SPARE_FILES = 128
PARTICIPANT_BYTES = 700_000
"""One participant's share of the generator and of a server on this machine, generously."""
SUBSCRIPTION_BYTES = 16_000
"""One subscription's share: rows and histories on both sides."""


class PlanError(ValueError):
    """The run is refused before it starts; the text says why and what would work."""


@dataclass(frozen=True, slots=True)
class Target:
    """A server under load."""

    url: str
    api_key: str
    api_secret: str = field(repr=False)
    pid: int = 0
    """Its process on this machine, 0 when it is unknown or elsewhere."""
    name: str = "server"


@dataclass(frozen=True, slots=True)
class Plan:
    """One scenario against one server. `steps` are sizes: subscribers, members of a meeting, rooms, joins a second."""

    scenario: str
    steps: tuple[int, ...]
    publishers: int = 1
    seconds: float = 10.0
    """Measured at every step."""
    settle_s: float = 1.5
    """From the last join of a step to the first measured second."""
    join_rate: float = 40.0
    """Joins per second."""
    codec: str = "vp8"
    simulcast: bool = True
    quality: str = "high"
    """Layer the subscribers ask for: low, medium, high."""
    topology: str = "auto"
    """`v1`, `v0`, or `auto`: v1, and v0 where the server lacks it."""
    message_bytes: int = 200
    messages_per_s: int = 20
    reliable: bool = False
    members: int = 3
    """Of each room in the scenario `rooms`."""
    allow_remote: bool = False
    stop_loss: float = 0.01
    """A step with more loss than this ends the growth: the step before it is the saturation point."""
    seed: int = 1

    def text(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def of_text(cls, text: str) -> "Plan":
        values = json.loads(text)
        values["steps"] = tuple(values["steps"])
        return cls(**values)

    def participants(self, step: int) -> int:
        """In the rooms at this size."""
        match self.scenario:
            case "meeting":
                return step
            case "rooms":
                return step * self.members
            case "churn":
                return self.publishers + int(step * max(4.0, self.seconds))
            case _:
                return self.publishers + step

    def subscriptions(self, step: int) -> int:
        match self.scenario:
            case "meeting":
                return 2 * step * (step - 1)
            case "rooms":
                return 2 * step * self.members * (self.members - 1)
            case "data":
                return 0
            case _:
                return self.publishers * self.participants(step)


def check(plan: Plan, target: Target) -> None:
    """PlanError with the reason if the plan is malformed or too large for this machine."""
    if plan.scenario not in SCENARIOS:
        raise PlanError(f"there is no scenario {plan.scenario!r}; there are {', '.join(SCENARIOS)}")
    if not 1 <= len(plan.steps) <= MAX_STEPS or any(step < 1 for step in plan.steps):
        raise PlanError(f"between 1 and {MAX_STEPS} sizes are needed, each at least 1")
    if list(plan.steps) != sorted(set(plan.steps)):
        raise PlanError("sizes must grow from step to step")
    if plan.scenario in ("meeting",) and plan.steps[0] < 2:
        raise PlanError("a meeting needs at least 2 members")
    if plan.publishers < 1 or plan.members < 2:
        raise PlanError("at least one publisher, and at least two members per room, are needed")
    if not 0.5 <= plan.seconds <= MAX_SECONDS:
        raise PlanError(f"--duration must be between 0.5 and {MAX_SECONDS} seconds")
    if not 0 < plan.join_rate <= 1_000:
        raise PlanError("--join-rate must be between 0 and 1000 per second")
    if not 0 < plan.messages_per_s <= 1_000 or not 24 <= plan.message_bytes <= 15_000:
        raise PlanError("messages: 1 to 1000 a second of each publisher, with 24 to 15000 bytes")
    if plan.messages_per_s * plan.publishers * plan.steps[-1] > 100 * MAX_MESSAGES_PER_S:
        raise PlanError(f"that is more than {100 * MAX_MESSAGES_PER_S} messages a second in all")
    _check_size(plan)
    _check_reach(target, plan.allow_remote)


def _check_size(plan: Plan) -> None:
    people = max(plan.participants(step) for step in plan.steps)
    if people > MAX_PARTICIPANTS:
        raise PlanError(f"{people} participants are more than the {MAX_PARTICIPANTS} one run may have")
    files = people * SOCKETS_PER_PARTICIPANT["v0" if plan.topology == "v0" else "v1"] + SPARE_FILES
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if limit != resource.RLIM_INFINITY and files > limit:
        raise PlanError(
            f"{people} participants need {files} file descriptors and this process may have {limit}; "
            f"at most {max(0, (limit - SPARE_FILES) // 2)} participants fit (raise it with `ulimit -Hn`)"
        )
    ports = ephemeral_ports()
    if people * 2 > ports:
        raise PlanError(f"{people} participants need {people} TCP and UDP ports; the range of this machine has {ports}")
    wanted = people * PARTICIPANT_BYTES + max(plan.subscriptions(step) for step in plan.steps) * SUBSCRIPTION_BYTES
    available = available_bytes()
    if wanted > available:
        raise PlanError(
            f"{people} participants need about {wanted >> 20} MiB of memory and {available >> 20} MiB are free"
        )


def _check_reach(target: Target, allow_remote: bool) -> None:
    parts = urlsplit(target.url)
    if parts.scheme not in ("ws", "wss", "http", "https") or not parts.hostname:
        raise PlanError(f"{target.url!r} is not the address of a server: ws://host:port")
    if not allow_remote and not is_own(parts.hostname):
        raise PlanError(f"{parts.hostname} is not this machine; load on other machines needs --allow-remote")


def is_own(host: str) -> bool:
    """An address of this machine: one that a socket can be bound to."""
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_DGRAM)
    except OSError:
        return False
    for family, kind, _, _, address in found[:4]:
        if ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback:
            continue
        try:
            with socket.socket(family, kind) as probe:
                probe.bind(address)
        except OSError:
            return False
    return bool(found)


def ephemeral_ports() -> int:
    try:
        first, last = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    except OSError:
        return 28_000
    return int(last) - int(first)


def available_bytes() -> int:
    """Memory that can be used without swapping; a lot where the kernel does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 1 << 40
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), 1 << 40)


def raise_file_limit() -> None:
    """As many descriptors as this process may have."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def parse_steps(text: str) -> tuple[int, ...]:
    """`1,10,100` or `1000`; PlanError when it is neither."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise PlanError(f"{text!r} is not a size or a list of sizes such as 1,10,100") from None


def default_steps(scenario: str) -> Sequence[int]:
    """Sizes that two cores carry."""
    return {
        "audio": (10, 50, 100, 200),
        "meeting": (4, 8, 12, 16),
        "livestream": (1, 10, 50, 100, 200),
        "churn": (5, 10, 20),
        "data": (10, 50, 100),
        "rooms": (10, 20, 40),
    }[scenario]
