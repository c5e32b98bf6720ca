"""The first lines an operator sees: where everything is, and in development mode a link to try it at once."""

import sys
from collections.abc import Sequence
from typing import TextIO

from rich.console import Console
from rich.text import Text

from tertulia import __version__
from tertulia.node.config import Config


def show_banner(
    config: Config,
    addresses: Sequence[tuple[str, int]],
    plane: str,
    plane_reason: str = "",
    *,
    media: Sequence[tuple[str, int]] = (),
    tcp: Sequence[tuple[str, int]] = (),
    stream: TextIO | None = None,
) -> None:
    """Print the banner to stdout for people; nothing when nobody is likely to read it.

    `addresses` is where the HTTP port listens, `media` and `tcp` the sockets of media (host, port), `plane` which life
    of the data plane runs and `plane_reason` why not the other one.
    """
    out = sys.stdout if stream is None else stream
    if not (config.development or out.isatty()):
        return
    console = Console(file=out, highlight=False, soft_wrap=True)
    console.print(Text.assemble(("Tertulia ", "bold"), (__version__, "bold cyan")))
    for name, text in _rows(config, addresses, plane, media, tcp):
        console.print(Text.assemble((f"  {name:<18}", "dim"), text))
    for hint in _hints(config, plane, plane_reason):
        console.print(f"  {hint}", style="yellow")
    console.file.flush()


def _rows(
    config: Config,
    addresses: Sequence[tuple[str, int]],
    plane: str,
    media: Sequence[tuple[str, int]],
    tcp: Sequence[tuple[str, int]],
) -> list[tuple[str, str | Text]]:
    host, port = _best(addresses, config.port)
    http, ws = f"http://{host}:{port}", f"ws://{host}:{port}"
    rows: list[tuple[str, str | Text]] = []
    demo = config.development if config.pages.demo is None else config.pages.demo
    if demo:
        rows.append(("open in two tabs", Text(f"{http}/?room=demo", style="bold green")))
        rows.append(("connection test", f"{http}/check"))
    rows.append(("clients and API", f"{ws}   {http}"))
    udp = _join(media) or ", ".join(map(str, config.rtc.udp_port))
    rows.append(("media", f"UDP {udp}   ICE-TCP {_join(tcp) or config.rtc.tcp_port or 'off'}"))
    rows.append(("health, metrics", f"{http}/readyz   " + (_metrics(config, http))))
    if config.development:
        key, secret = next(iter(config.keys.items()), ("", ""))
        shown = str(secret) if (key, secret) == ("devkey", "secret") else "(yours)"
        rows.append(("API key, secret", f"{key}   {shown}"))
        rows.append(("a token", f"{http}/dev/token?room=demo&identity=you"))
    rows.append(("data plane", plane))
    if config.redis.configured:
        rows.append(("cluster", config.redis.address or "Redis"))
    return rows


def _hints(config: Config, plane: str, plane_reason: str) -> list[str]:
    hints = []
    if plane == "interpreted":
        why = f" ({plane_reason})" if plane_reason else ""
        hints.append(f"The data plane is not compiled{why}: fine for trying, slow for real calls. See `make setup`.")
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
    return ", ".join(f"{host}:{port}" for host, port in pairs)
