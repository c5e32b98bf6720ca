"""The first lines an operator sees: where everything is, and in development mode a link to try it at once."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tertulia import __version__
from tertulia.node.config import Config


@dataclass(frozen=True, slots=True)
class Started:
    """What is only known once the node runs."""

    node_id: str
    addresses: Sequence[tuple[str, int]]
    """Where the HTTP port listens."""
    media: Sequence[tuple[str, int]] = ()
    """(host, UDP port) of the media sockets."""
    tcp: Sequence[tuple[str, int]] = ()
    """(host, port) of ICE-TCP."""
    plane: str = "interpreted"
    """Which data plane runs: `compiled` or `interpreted`."""
    cluster: str = ""
    """`host:port` of Redis, empty for one node."""
    hints: Sequence[str] = field(default_factory=tuple)


def show(config: Config, started: Started, stream: TextIO | None = None) -> None:
    """Print the banner to stdout: a table for people, or nothing when nobody is likely to read it."""
    out = sys.stdout if stream is None else stream
    if not (config.development or out.isatty()):
        return
    console = Console(file=out, highlight=False, soft_wrap=True)
    console.print(Text.assemble(("Tertulia ", "bold"), (__version__, "bold cyan"), f"  node {started.node_id}"))
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(no_wrap=True)
    for name, text in _rows(config, started):
        table.add_row(f"  {name}", text)
    console.print(table)
    for hint in _hints(config, started):
        console.print(f"  {hint}", style="yellow")
    console.file.flush()


def _rows(config: Config, started: Started) -> list[tuple[str, str | Text]]:
    host, port = _best(started.addresses, config.port)
    http, ws = f"http://{host}:{port}", f"ws://{host}:{port}"
    rows: list[tuple[str, str | Text]] = []
    demo = config.development if config.pages.demo is None else config.pages.demo
    if demo:
        rows.append(("open in two tabs", Text(f"{http}/?room=demo", style="bold green")))
        rows.append(("connection test", f"{http}/check"))
    rows.append(("clients and API", f"{ws}   {http}"))
    rows.append(("media", "UDP " + _join(started.media) + ("   ICE-TCP " + _join(started.tcp) if started.tcp else "")))
    rows.append(("health, metrics", f"{http}/readyz   " + (_metrics(config, http))))
    if config.development:
        key, secret = next(iter(config.keys.items()), ("", ""))
        shown = str(secret) if (key, secret) == ("devkey", "secret") else "(yours)"
        rows.append(("API key, secret", f"{key}   {shown}"))
        rows.append(("a token", f"tertulia --dev token create --room demo --identity you   or {http}/dev/token?..."))
    rows.append(("data plane", started.plane))
    if started.cluster:
        rows.append(("cluster", started.cluster))
    return rows


def _hints(config: Config, started: Started) -> list[str]:
    hints = list(started.hints)
    if started.plane == "interpreted":
        hints.append(
            "The compiled data plane is missing: good for trying, slow for real calls. `make setup` builds it with gcc."
        )
    if config.development:
        hints.append("Development mode: anyone who reaches this port can join. Not for the Internet.")
    return hints


def _metrics(config: Config, http: str) -> str:
    if config.metrics.main_port:
        return f"{http}/metrics"
    port = config.prometheus.port or config.prometheus_port
    return f"metrics on port {port}" if port else "metrics off"


def _best(addresses: Sequence[tuple[str, int]], port: int) -> tuple[str, int]:
    """An address a browser on this machine can use: `localhost` counts as secure, so cameras work there."""
    if not addresses:
        return "localhost", port
    for host, at in addresses:
        if host in ("127.0.0.1", "::1", "0.0.0.0", "::", ""):
            return "localhost", at
    host, at = addresses[0][:2]
    return (f"[{host}]" if ":" in host else host), at


def _join(pairs: Sequence[tuple[str, int]]) -> str:
    return ", ".join(f"{host}:{port}" for host, port in pairs) or "-"
