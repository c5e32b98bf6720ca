"""One configuration from everything that may say something: file, environment, flags; or every problem at once.

Later wins: defaults, file (`--config`, `--config-body` or LIVEKIT_CONFIG), environment (`LIVEKIT_RTC_TCP_PORT` for
`rtc.tcp_port`, and LiveKit's special names), flags (`--rtc.tcp_port=...`). What values mean together is judged by
`config_check`; this module then fills in what follows from development mode. Nothing is started or opened here.
"""

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args, get_origin

from tertulia.node.config import Config
from tertulia.node.config_check import check
from tertulia.node.config_decode import MAX_PROBLEMS, Decoder, dotted, paths
from tertulia.node.config_tree import Branch, Listing, Problem, Scalar, Where, overlay, parse_tree
from tertulia.node.config_types import UDP_PORTS, Duration, PortList, Secret

DEV_KEYS = {"devkey": Secret("secret")}

SPECIAL_VARIABLES = {
    "NODE_IP": "rtc.node_ip",
    "UDP_PORT": "rtc.udp_port",
    "REDIS_HOST": "redis.address",
    "REDIS_PASSWORD": "redis.password",
    "LIVEKIT_TURN_CERT": "turn.cert_file",
    "LIVEKIT_TURN_KEY": "turn.key_file",
}
"""LiveKit's names that do not follow the rule LIVEKIT_<PATH>; LIVEKIT_KEYS and LIVEKIT_CONFIG are read apart."""


class ConfigError(Exception):
    """Nothing can be started with this; `problems` in the order of the file."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__(f"{len(problems)} problem{'s' if len(problems) != 1 else ''} in the configuration")
        self.problems = tuple(problems)

    def lines(self) -> list[str]:
        shown = [str(problem) for problem in self.problems[:MAX_PROBLEMS]]
        more = len(self.problems) - len(shown)
        return [*shown, f"... and {more} more"] if more else shown


@dataclass(frozen=True, slots=True)
class Flag:
    """A setting from the command line: `Flag("--udp-port", "rtc.udp_port", "7882-7885")`."""

    name: str
    path: str
    text: str


@dataclass(frozen=True, slots=True)
class Sources:
    file: str | None = None
    body: str | None = None
    flags: Sequence[Flag] = ()
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    dev: bool = False
    strict: bool = True
    keyless: bool = False
    """For commands that let nobody in: a file without API keys will do."""


@dataclass(frozen=True, slots=True)
class Loaded:
    config: Config
    notes: tuple[str, ...] = ()
    """What was set without effect: worth a warning each."""


def load(sources: Sources) -> Loaded:
    """The configuration, checked and completed. Raises ConfigError."""
    problems: list[Problem] = []
    tree = _file_tree(sources, problems)
    _overlay_environment(tree, sources.environment, problems)
    _overlay_flags(tree, sources.flags, problems)
    decoder = Decoder(strict=sources.strict, problems=problems)
    config: Config = decoder.decode(Config, tree)
    config = replace(config, development=config.development or sources.dev)
    if config.key_file and not config.keys:
        config = replace(config, keys=_key_file(config, tree, problems))
    if config.development and not config.keys:
        config = replace(config, keys=DEV_KEYS)
    # Judging values together makes sense only once each is right by itself.
    problems += check(config, tree, keyless=sources.keyless) if not problems else []
    if problems:
        raise ConfigError(sorted(problems, key=lambda problem: problem.where))
    return Loaded(complete(config), tuple(decoder.notes))


def complete(config: Config) -> Config:
    """Fill in what follows from the rest: development mode, older names of keys."""
    development, logging, rtc = config.development, config.logging, config.rtc
    if config.log_level is not None and logging.level == "info":
        logging = replace(logging, level=config.log_level)
    bind = config.bind_addresses or (loopback_addresses() if development else ())
    local = bool(bind) and all(address in ("127.0.0.1", "::1", "localhost") for address in bind)
    if rtc.port_range_start and rtc.udp_port == UDP_PORTS:
        # A file for one port per connection: its firewall is open there, and one of them is enough for us.
        rtc = replace(rtc, udp_port=PortList((rtc.port_range_start,)))
    pages, metrics, prometheus = config.pages, config.metrics, config.prometheus
    return replace(
        config,
        bind_addresses=bind,
        logging=logging,
        pages=replace(pages, demo=development if pages.demo is None else pages.demo),
        metrics=replace(metrics, main_port=development or local if metrics.main_port is None else metrics.main_port),
        prometheus=replace(prometheus, port=prometheus.port or config.prometheus_port),
        rtc=replace(rtc, enable_loopback_candidate=rtc.enable_loopback_candidate or development),
    )


def loopback_addresses() -> tuple[str, ...]:
    """127.0.0.1, and ::1 where this machine has it: `localhost` may mean either to a client."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return ("127.0.0.1",)
    return ("127.0.0.1", "::1")


# ------------------------------------------------------------------------------------------- sources


def _file_tree(sources: Sources, problems: list[Problem]) -> Branch:
    body, name = sources.body, "configuration" if sources.body is None else "--config-body"
    if body is None and sources.environment.get("LIVEKIT_CONFIG"):
        body, name = sources.environment["LIVEKIT_CONFIG"], "LIVEKIT_CONFIG"
    if sources.file is not None and sources.body is None:
        name = sources.file
        try:
            body = Path(name).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            problems.append(Problem(Where(name), "not a text file in UTF-8"))
        except OSError as error:
            problems.append(Problem(Where(name), f"cannot be read: {error.strerror}"))
    return parse_tree(body or "", name, sources.environment, problems)


def _overlay_environment(tree: Branch, environment: Mapping[str, str], problems: list[Problem]) -> None:
    by_name = {
        f"LIVEKIT_{'_'.join(path).upper()}": path for path, (kind, _) in paths(Config).items() if _one_line(kind)
    }
    by_name |= {name: tuple(path.split(".")) for name, path in SPECIAL_VARIABLES.items()}
    for name, path in by_name.items():
        if text := environment.get(name):
            overlay(tree, path, Scalar(Where(name), text, text, outside=True))
    if text := environment.get("LIVEKIT_KEYS"):
        overlay(tree, ("keys",), parse_keys(text, Where("LIVEKIT_KEYS"), problems))


def _overlay_flags(tree: Branch, flags: Sequence[Flag], problems: list[Problem]) -> None:
    known = paths(Config)
    lists: dict[tuple[str, ...], Listing] = {}
    for flag in flags:
        path, where = tuple(flag.path.split(".")), Where(flag.name)
        if path == ("keys",):
            overlay(tree, path, parse_keys(flag.text, where, problems))
            continue
        value = Scalar(where, flag.text, flag.text, outside=True)
        kind = known.get(path, (str, ()))[0]
        if path in known and not _one_line(kind):
            problems.append(Problem(where, f"{dotted(path)} has parts of its own; write it in the file"))
        elif get_origin(kind) is tuple:  # may be given more than once
            listing = lists.setdefault(path, Listing(where))
            listing.items += [replace(value, text=part.strip(), shown=part.strip()) for part in flag.text.split(",")]
            overlay(tree, path, listing)
        else:
            overlay(tree, path, value)


def _one_line(kind: Any) -> bool:
    """Can this key's value be written in one variable or flag?"""
    if get_origin(kind) is tuple:
        return _one_line(get_args(kind)[0])
    if kind in (bool, int, float, str, Secret, Duration, PortList):
        return True
    return get_origin(kind) is not dict and all(arg is type(None) or _word(arg) for arg in get_args(kind) or (dict,))


def _word(arg: Any) -> bool:
    return isinstance(arg, str) or arg in (bool, int, float, str) or (bool(get_args(arg)) and _one_line(arg))


def parse_keys(text: str, where: Where, problems: list[Problem]) -> Branch:
    """`key: secret` pairs, separated by commas or lines (LIVEKIT_KEYS, --keys)."""
    branch = Branch(where)
    for part in text.replace("\n", ",").split(","):
        if not part.strip():
            continue
        key, colon, secret = (piece.strip().strip("\"'") for piece in part.strip(" {}").partition(":"))
        if not (key and colon and secret):
            problems.append(Problem(where, "expected `key: secret`, more pairs separated by commas"))
            continue
        branch.entries[key] = Scalar(where, secret, "***", quoted=True)
        branch.keys[key] = where
    return branch


def _key_file(config: Config, tree: Branch, problems: list[Problem]) -> dict[str, Secret]:
    """API keys from a file of `key: secret` lines that only its owner may read."""
    where = tree.keys.get("key_file", Where("key_file"))
    path = Path(config.key_file)
    try:
        readable = path.stat().st_mode & 0o007
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file in UTF-8"
        problems.append(Problem(where, f"key_file {config.key_file}: {reason}"))
        return {}
    if readable:
        problems.append(Problem(where, f"key_file {config.key_file} is open to others; chmod 600 {config.key_file}"))
    branch = parse_tree(text, config.key_file, {}, problems)
    return {key: Secret(value.text) for key, value in branch.entries.items() if isinstance(value, Scalar)}
