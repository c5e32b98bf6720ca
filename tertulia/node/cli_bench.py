"""`tertulia bench`: load a server with real clients and say what it costs. The bench is the package `benchmarks`.

Exit status: 0 measured, 1 the server let us down or somebody interrupted before the first figure, 2 the request was
refused.
"""

import sys

import click

SCENARIOS = ("audio", "meeting", "livestream", "churn", "data", "rooms", "all")


@click.command()
@click.option("--url", default="", metavar="URL", help="Server to load (ws://host:port); else one is started.")
@click.option("--api-key", default="", metavar="KEY", envvar="LIVEKIT_API_KEY", help="API key of --url.")
@click.option("--api-secret", default="", metavar="SECRET", envvar="LIVEKIT_API_SECRET", help="Its secret.")
@click.option("--server-pid", default=0, metavar="PID", help="Process of --url; found by its port when it is here.")
@click.option("--versus", default="", metavar="URL", help="Second server of the same run; `own` starts one.")
@click.option("--versus-key", default="", metavar="KEY", help="API key of --versus; else the same.")
@click.option("--versus-secret", default="", metavar="SECRET", help="Its secret; else the same.")
@click.option("--versus-pid", default=0, metavar="PID", help="Process of --versus.")
@click.option("--scenario", type=click.Choice(SCENARIOS), default="livestream", show_default=True)
@click.option("--publishers", default=0, metavar="N", help="Who sends (audio 10, else 1).")
@click.option("--subscribers", "--size", "sizes", default="", metavar="N[,N...]",
              help="Sizes to measure: subscribers, members of a meeting, rooms, joins per second.")  # fmt: skip
@click.option("--duration", default=10.0, show_default=True, metavar="S", help="Seconds measured at each size.")
@click.option("--join-rate", default=40.0, show_default=True, metavar="N", help="Joins per second.")
@click.option("--codec", type=click.Choice(("vp8", "h264")), default="vp8", show_default=True)
@click.option("--simulcast/--no-simulcast", default=True, show_default=True, help="Three layers, or the highest only.")
@click.option("--quality", type=click.Choice(("low", "medium", "high")), default=None,
              help="Layer that subscribers ask for (meeting low, else high).")  # fmt: skip
@click.option("--signal", "topology", type=click.Choice(("auto", "v1", "v0")), default="auto", show_default=True,
              help="Signalling: /rtc/v1, /rtc, or what the server has.")  # fmt: skip
@click.option("--members", default=3, show_default=True, metavar="N", help="Of each room (scenario rooms).")
@click.option("--message-bytes", default=200, show_default=True, metavar="N", help="Scenario data.")
@click.option("--messages", default=20, show_default=True, metavar="N", help="Per second and publisher.")
@click.option("--reliable", is_flag=True, help="Reliable messages instead of lossy ones.")
@click.option("--server-ports", default=1, show_default=True, metavar="N", help="UDP ports (threads) of our server.")
@click.option("--workers", default=0, metavar="N", help="Processes that make load.")
@click.option("--allow-remote", is_flag=True, help="Load servers on other machines: only with their owner's consent.")
@click.option("--json", "json_path", default="", metavar="FILE", help="Write every figure.")
@click.option("--plots", "plots_path", default="", metavar="DIR", help="Write SVG plots.")
def bench(
    url: str, api_key: str, api_secret: str, server_pid: int, versus: str, versus_key: str, versus_secret: str,
    versus_pid: int, scenario: str, publishers: int, sizes: str, duration: float, join_rate: float, codec: str,
    simulcast: bool, quality: str | None, topology: str, members: int, message_bytes: int, messages: int,
    reliable: bool, server_ports: int, workers: int, allow_remote: bool, json_path: str, plots_path: str,
) -> None:  # fmt: skip
    """Load a server with real clients and say what it costs.

    Without --url a server of our own is started on free ports of this machine. Ctrl-C ends with the report so far.
    """
    import asyncio

    from rich.console import Console

    try:
        from benchmarks.load import command, plan, report
    except ImportError as error:
        raise click.ClickException(f"the bench is not installed with this package ({error})") from None
    names = [name for name in SCENARIOS if name != "all"] if scenario == "all" else [scenario]
    console = Console(stderr=True)
    try:
        if not 1 <= server_ports <= 16 or not 0 <= workers <= 64:
            raise plan.PlanError("--server-ports must be 1 to 16 and --workers 0 (automatic) to 64")
        plans = [
            plan.Plan(
                scenario=name,
                steps=plan.parse_steps(sizes) if sizes else tuple(plan.default_steps(name)),
                publishers=publishers or (10 if name == "audio" else 1),
                seconds=duration, join_rate=join_rate, codec=codec, simulcast=simulcast,
                quality=quality or ("low" if name == "meeting" else "high"), topology=topology, members=members,
                message_bytes=message_bytes, messages_per_s=messages, reliable=reliable, allow_remote=allow_remote,
            )
            for name in names
        ]  # fmt: skip
        servers = command.Servers(
            url, api_key, api_secret, server_pid, versus, versus_key, versus_secret, versus_pid, server_ports
        )
        results = asyncio.run(command.run(servers, plans, workers or command.default_workers(), console))
    except plan.PlanError as error:
        click.echo(f"tertulia bench: {error}", err=True)
        sys.exit(2)
    report.show(results, Console())
    try:
        for path in report.write(results, json_path, plots_path):
            click.echo(f"wrote {path}", err=True)
    except OSError as error:
        click.echo(f"tertulia bench: {error.filename}: {error.strerror}", err=True)
        sys.exit(1)
    if not any(result.rows for result in results) or any(result.problems for result in results):
        sys.exit(1)
