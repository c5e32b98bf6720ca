"""`tertulia serve`, `ports` and `doctor`: the commands about this machine's own server."""

import errno
import sys
from typing import TYPE_CHECKING

import click

from tertulia.node.main import Options, config_options

if TYPE_CHECKING:
    from tertulia.node.config import Config


@click.command()
@config_options
@click.pass_context
def serve(ctx: click.Context) -> None:
    """Run the server until SIGINT or SIGTERM."""
    loaded = ctx.ensure_object(Options).load()
    import structlog

    from tertulia.node import logs
    from tertulia.node.serve import run

    config = loaded.config
    logs.configure(config.logging, development=config.development)
    logs.known.tell(secrets_of(config))
    for note in loaded.notes:
        structlog.get_logger("tertulia.config").warning("config.no_effect", note=note)
    try:
        status = run(config)
    except OSError as error:
        if error.errno not in _BIND_ERRORS:
            structlog.get_logger("tertulia.node").exception("node.crashed")
            ctx.exit(1)
        click.echo(f"tertulia: {error.strerror or error}", err=True)
        status = 1
    except Exception:  # a bug: its traceback goes where secrets are taken out
        structlog.get_logger("tertulia.node").exception("node.crashed")
        ctx.exit(1)
    if status == 1:
        _tell_owners(config)
    ctx.exit(status)


_BIND_ERRORS = (errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES)


def _tell_owners(config: "Config") -> None:
    """Who holds the ports we wanted: nine times in ten that is why nothing started."""
    from tertulia.node.ports import owner, used_ports

    for use in used_ports(config):
        if use.port and (held := owner(use.protocol.lower(), use.port)):
            click.echo(f"tertulia: {use.key}: port {use.port}/{use.protocol} is held by {held}", err=True)


def secrets_of(config: object) -> list[str]:
    """Every secret anywhere in a configuration, for the log's redaction; the published development one is none."""
    from dataclasses import fields, is_dataclass

    from tertulia.node.config_types import Secret

    if isinstance(config, Secret):
        return [str(config)]
    if is_dataclass(config):
        return [secret for spec in fields(config) for secret in secrets_of(getattr(config, spec.name))]
    if isinstance(config, dict):
        return [secret for value in config.values() for secret in secrets_of(value)]
    if isinstance(config, tuple) and not isinstance(config, str):
        return [secret for value in config for secret in secrets_of(value)]
    return []


@click.command()
@config_options
@click.pass_context
def ports(ctx: click.Context) -> None:
    """Show the ports this configuration uses: what to open in a firewall."""
    config = ctx.ensure_object(Options).load(keyless=True).config
    from rich.console import Console
    from rich.table import Table

    from tertulia.node.ports import used_ports

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("port", "for", "who reaches it", "key"):
        table.add_column(heading, no_wrap=heading != "for")
    for use in used_ports(config):
        table.add_row(f"{use.port}/{use.protocol}", use.purpose, "everybody" if use.public else "operators", use.key)
    Console(file=sys.stdout, highlight=False).print(table)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
@click.option("--only", metavar="WORD", default="", help="Only what has this word in its name, such as Redis.")
@config_options
@click.pass_context
def doctor(ctx: click.Context, as_json: bool, only: str) -> None:
    """Check that this machine can serve calls with this configuration; exit status 1 when something is wrong."""
    loaded = ctx.ensure_object(Options).load()
    from tertulia.node.doctor import examine, show

    findings = examine(loaded.config, loaded.notes, only=only)
    if only and not findings:
        raise click.UsageError(f"nothing is examined that is called {only!r}")
    show(findings, as_json=as_json)
    ctx.exit(1 if any(finding.state == "wrong" for finding in findings) else 0)
