"""The command line: `tertulia [options]` serves; sub-commands do the rest. Only click is imported until one runs.

Options and their environment variables are LiveKit's; in addition every key of the configuration that fits in a line is
a flag (`--rtc.tcp_port 7891`). Exit status: 0 well, 1 it failed, 2 the request or the configuration was wrong.
"""

import importlib
import re
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tertulia import __version__

if TYPE_CHECKING:
    from tertulia.node.config_read import Flag, Loaded

COMMANDS = {
    "serve": ("tertulia.node.cli_serve:serve", "Run the server (what `tertulia` does without a command)."),
    "generate-keys": ("tertulia.node.cli_keys:generate_keys", "Make an API key and its secret."),
    "token": ("tertulia.node.cli_keys:token", "Make access tokens."),
    "ports": ("tertulia.node.cli_serve:ports", "Show the ports this configuration uses."),
    "doctor": ("tertulia.node.cli_serve:doctor", "Check that this machine can serve calls."),
    "probe": ("tertulia.node.cli_probe:probe", "Measure the way to servers, and sort them."),
    "bench": ("tertulia.node.cli_bench:bench", "Load a server with real clients and say what it costs."),
    "egress": ("tertulia.node.cli_egress:egress", "Record and stream rooms of a running server."),
}
"""Name -> (where it is, one line of help): the help needs no import."""

_DOTTED = re.compile(r"--([a-z_]+(?:\.[a-z_0-9]+)+|[a-z]+(?:_[a-z]+)+)(?:=(.*))?", re.DOTALL)
"""Keys with a dot or an underscore; options of commands have neither."""


@dataclass(slots=True)
class Options:
    """What was said about the configuration before and after the sub-command's name."""

    file: str | None = None
    body: str | None = None
    dev: bool = False
    strict: bool = True
    flags: "list[Flag]" = field(default_factory=list)

    def load(self, *, keyless: bool = False) -> "Loaded":
        """The configuration, or every problem on stderr and exit status 2; `keyless`: API keys may be missing."""
        from tertulia.node.config_read import ConfigError, Sources, load

        try:
            sources = Sources(file=self.file, body=self.body, flags=tuple(self.flags), dev=self.dev)
            return load(replace(sources, strict=self.strict, keyless=keyless))
        except ConfigError as error:
            click.echo(f"tertulia: {error}; nothing was started", err=True)
            for line in error.lines():
                click.echo(f"  {line}", err=True)
            sys.exit(2)


class LazyGroup(click.Group):
    """Imports a command's module when the command is used, and takes `--section.key value` for every key."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f" Did you mean {near[0]}?" if near else f" Commands: {', '.join(COMMANDS)}."
            ctx.fail(f"No such command {args[0]!r}.{hint}")
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        options = ctx.ensure_object(Options)
        return super().parse_args(ctx, pull_dotted(args, options.flags))


def pull_dotted(args: Sequence[str], flags: "list[Flag]") -> list[str]:
    """Take every `--section.key[=]value` and `--top_key[=]value` out of the arguments; the rest is click's."""
    if not any(_DOTTED.fullmatch(arg) for arg in args):
        return list(args)
    from tertulia.node.config import Config
    from tertulia.node.config_decode import paths
    from tertulia.node.config_read import Flag

    known = paths(Config)
    rest: list[str] = []
    waiting = deque(args)
    while waiting:
        arg = waiting.popleft()
        match = _DOTTED.fullmatch(arg)
        if match is None or ("." not in match[1] and (match[1],) not in known):
            rest.append(arg)
            continue
        path, value = match[1], match[2]
        if value is None:
            switch = known.get(tuple(path.split(".")), (str, ()))[0] is bool
            if switch and (not waiting or waiting[0] not in ("true", "false")):
                value = "true"
            elif waiting:
                value = waiting.popleft()
            else:
                raise click.UsageError(f"--{path} needs a value.")
        flags.append(Flag(f"--{path}", path, value))
    return rest


CommandT = TypeVar("CommandT", bound=Callable[..., Any])

_VALUE_OPTIONS = (
    (("--port",), "port", "PORT", "HTTP and WebSocket port."),
    (("--key-file",), "key_file", "FILE", "File of `key: secret` lines."),
    (("--keys",), "keys", "KEY: SECRET", "API keys (LIVEKIT_KEYS)."),
    (("--region",), "region", "NAME", "Region of this node (LIVEKIT_REGION)."),
    (("--node-ip",), "rtc.node_ip", "IP", "Address clients reach media at (NODE_IP)."),
    (("--udp-port",), "rtc.udp_port", "PORTS", "UDP ports of media, such as 7882-7885 (UDP_PORT)."),
    (("--redis-host",), "redis.address", "HOST:PORT", "Redis of the cluster (REDIS_HOST)."),
    (("--redis-password",), "redis.password", "TEXT", "Its password (REDIS_PASSWORD)."),
    (("--turn-cert",), "turn.cert_file", "FILE", "Accepted for compatibility (LIVEKIT_TURN_CERT)."),
    (("--turn-key",), "turn.key_file", "FILE", "Accepted for compatibility (LIVEKIT_TURN_KEY)."),
)


def config_options(command: CommandT) -> CommandT:
    """The options that make up a configuration; they may stand before or after the sub-command."""
    for names, path, metavar, text in reversed(_VALUE_OPTIONS):
        command = click.option(*names, metavar=metavar, help=text, expose_value=False, callback=_flag(path))(command)
    for names, text, callback in (
        (("--disable-strict-config",), "Tell of unknown keys, but start.", _setter("strict", lambda _: False)),
        (("--dev",), "Development: key devkey/secret, this machine only, demo page.", _setter("dev")),
    ):
        command = click.option(*names, is_flag=True, help=text, expose_value=False, callback=callback)(command)
    command = click.option(
        "--bind", multiple=True, metavar="ADDRESS", help="Address to listen on; may be repeated.",
        expose_value=False, callback=_flag("bind_addresses"),
    )(command)  # fmt: skip
    command = click.option(
        "--config-body", metavar="YAML", help="The configuration itself (LIVEKIT_CONFIG).",
        expose_value=False, callback=_setter("body"),
    )(command)  # fmt: skip
    return click.option(
        "--config", metavar="FILE", help="Configuration file; see config.yaml.",
        expose_value=False, callback=_setter("file"),
    )(command)  # fmt: skip


def _flag(path: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def note(ctx: click.Context, parameter: click.Parameter, value: Any) -> None:
        if not value:
            return
        from tertulia.node.config_read import Flag

        for text in value if isinstance(value, tuple) else (value,):
            ctx.ensure_object(Options).flags.append(Flag(parameter.opts[0], path, text))

    return note


def _setter(
    name: str, change: Callable[[Any], Any] = lambda value: value
) -> Callable[[click.Context, click.Parameter, Any], None]:
    def note(ctx: click.Context, parameter: click.Parameter, value: Any) -> None:
        if value:
            setattr(ctx.ensure_object(Options), name, change(value))

    return note


@click.group(cls=LazyGroup, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@config_options
@click.version_option(__version__, prog_name="tertulia")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Tertulia: calls for the LiveKit clients, with recording and streaming built in.

    Without a command it serves. `tertulia --dev` needs no configuration: open the link it prints in two tabs.
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(importlib.import_module("tertulia.node.cli_serve").serve)
