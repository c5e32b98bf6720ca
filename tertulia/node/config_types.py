"""The kinds of values a configuration knows beyond Python's own, and the marks its schema puts on them."""

import re
from dataclasses import dataclass
from typing import Annotated, Any

MAX_UDP_PORTS = 64
"""More data threads than any machine we know has use for."""


class Secret(str):
    """Text that never shows itself in a repr, a log or an error."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'" if self else "''"


NO_SECRET = Secret("")

_UNITS = {"ns": 1, "us": 1_000, "µs": 1_000, "ms": 1_000_000, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
MAX_DURATION_NS = 1 << 62


class Duration(int):
    """A length of time in nanoseconds, written as Go does: `1m30s`, `1.5h`, `300ms`."""

    __slots__ = ()

    @property
    def ns(self) -> int:
        return int(self)

    @property
    def ms(self) -> float:
        return self / 10**6

    @property
    def s(self) -> float:
        return self / 10**9

    def __mul__(self, factor: int) -> "Duration":
        return Duration(int(self) * factor)

    __rmul__ = __mul__

    def __repr__(self) -> str:
        return format_duration(self)


ZERO = Duration(0)
MS = Duration(10**6)
S = Duration(10**9)


def parse_duration(text: str) -> Duration:
    """Raises ValueError, saying how to write one."""
    rest, total = text.removeprefix("+"), 0.0
    if rest == "0":
        return Duration(0)
    while rest:
        if (match := _DURATION.match(rest)) is None:
            raise ValueError("expected a duration with units, such as 500ms, 5s or 1m30s")
        total += float(match[1]) * _UNITS[match[2]]
        rest = rest[match.end() :]
    if not text or total > MAX_DURATION_NS:
        raise ValueError("expected a duration with units, such as 500ms, 5s or 1m30s")
    return Duration(round(total))


def format_duration(value: int) -> str:
    """The shortest Go spelling in whole units: 90 s is `1m30s`."""
    if value == 0:
        return "0s"
    parts, rest = "", value
    for unit in ("h", "m", "s", "ms", "us", "ns"):
        count, rest = divmod(rest, _UNITS[unit])
        parts += f"{count}{unit}" if count else ""
    return parts


class PortList(tuple[int, ...]):
    """UDP ports: `7882`, `[7882, 7883]` or `7882-7885`."""

    __slots__ = ()


UDP_PORTS = PortList((7882,))


def parse_ports(items: list[str]) -> PortList:
    """Each item a number or a range. Raises ValueError."""
    ports: list[int] = []
    for item in items:
        match = re.fullmatch(r"\s*(\d{1,5})\s*(?:-\s*(\d{1,5})\s*)?", item)
        if match is None:
            raise ValueError("expected a port, a list of ports or a range such as 7882-7885")
        first, last = int(match[1]), int(match[2] or match[1])
        if not 0 <= first <= 65_535 or last > 65_535:
            raise ValueError("expected ports from 0 to 65535")
        if last < first:
            raise ValueError(f"the range is reversed; did you mean {last}-{first}?")
        if last - first >= MAX_UDP_PORTS or len(ports) + last - first >= MAX_UDP_PORTS:
            raise ValueError(f"more than {MAX_UDP_PORTS} ports; each is one data thread, so one per core is plenty")
        ports += range(first, last + 1)
    if not ports or (len(set(ports)) < len(ports) and any(ports)):
        raise ValueError("expected at least one port, and none twice")
    return PortList(ports)


@dataclass(frozen=True, slots=True)
class Within:
    """Both ends belong to it."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class NoEffect:
    """The key is known and ignored, and why."""

    reason: str


@dataclass(frozen=True, slots=True)
class MessageShape:
    """The value is a protobuf message of `livekit.protocol.room`, written in its JSON form."""

    name: str


RoomPreset = Annotated[Any, MessageShape("RoomConfiguration")]
Port = Annotated[int, Within(0, 65_535)]
Count = Annotated[int, Within(0, 1 << 62)]
Share = Annotated[float, Within(0, 1)]
Opaque = dict[str, Any]
"""A block of another implementation's inner knobs: anything is accepted beneath it."""

GO = NoEffect("it tunes an inner part this server does not have")
MEDIA = NoEffect("this server's media path decides it by itself")
NO_RPC = NoEffect("nodes talk over the cluster bus")
