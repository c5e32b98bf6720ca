"""`tertulia doctor`: would this machine serve calls with this configuration, and what to do where not.

Each examination looks at one thing, really tries it (binds the port, opens the plane, writes the file, asks Redis) and
answers in one line. Ports held by a running Tertulia are fine. Nothing it opens stays open.
"""

import asyncio
import ctypes
import json
import os
import platform
import resource
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from tertulia import __version__
from tertulia.node.config import Config
from tertulia.node.ports import owner, used_ports

MIN_FILES, GOOD_FILES = 1_024, 16_384
SOCKET_BUFFER_BYTES = 4 << 20
FREE_BYTES = 1 << 30
REMOTE_S = 5.0
ENCODERS = {"video": ("libx264", "libvpx"), "audio": ("aac", "libopus")}


@dataclass(frozen=True, slots=True)
class Finding:
    """`wrong`: calls or recordings will fail; `note`: works, but read it."""

    name: str
    state: Literal["good", "note", "wrong"]
    text: str
    advice: str = ""


def examine(config: Config, notes: Sequence[str] = (), *, only: str = "") -> list[Finding]:
    """Every examination, or those whose name has the word `only`; one that breaks is a finding too."""
    found = [Finding("configuration", "note", note) for note in notes] if not only else []
    for name, look in EXAMINATIONS.items():
        if only.lower() not in name.lower():
            continue
        try:
            found += look(config)
        except Exception as error:
            found.append(Finding(name, "wrong", f"could not be examined: {type(error).__name__}: {error}"))
    return found


def show(findings: Sequence[Finding], *, as_json: bool = False) -> None:
    if as_json:
        well = all(finding.state != "wrong" for finding in findings)
        print(json.dumps({"ok": well, "findings": [asdict(finding) for finding in findings]}, indent=2))
        return
    from rich.console import Console
    from rich.text import Text

    marks = {"good": ("ok   ", "green"), "note": ("note ", "yellow"), "wrong": ("WRONG", "bold red")}
    console = Console(highlight=False, soft_wrap=True)
    for finding in findings:
        mark, style = marks[finding.state]
        console.print(Text.assemble((mark, style), f" {finding.name:16} ", finding.text))
        if finding.advice:
            console.print(Text(f"{'':23}{finding.advice}", style="dim"))


# ----------------------------------------------------------------------------------------- examinations


def _system(config: Config) -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    text = f"Tertulia {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    yield Finding("system", "good", f"{text}, {cores} cores")


def _plane(config: Config) -> Iterator[Finding]:
    from tertulia.sfu.plane.open import PlaneUnavailable, open_plane

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.bind(("127.0.0.1", 0))
        try:
            plane = open_plane([[sock]])
        except PlaneUnavailable as error:
            yield Finding("data plane", "wrong", str(error))
            return
        plane.start()
        plane.stop()
    if plane.life == "compiled":
        yield Finding("data plane", "good", "compiled" + (f" ({plane.reason})" if plane.reason else ""))
    else:
        advice = "Install gcc and the Python headers, then `make setup` (or reinstall the package)."
        yield Finding("data plane", "note", f"interpreted, slow: {plane.reason or 'asked for'}", advice)


def _ports(config: Config) -> Iterator[Finding]:
    hosts = config.bind_addresses or ("0.0.0.0",)
    for use in used_ports(config):
        tcp = use.protocol == "TCP"
        name = f"port {use.port}/{use.protocol}"
        for host in hosts if use.key == "port" else ("0.0.0.0",):
            try:
                _bind(host, use.port, tcp=tcp)
            except OSError as error:
                yield _port_refused(name, use.key, use.port, tcp, error)
                break
        else:
            yield Finding(name, "good", f"free, for {use.purpose}")


def _bind(host: str, port: int, *, tcp: bool) -> None:
    family, kind, _, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM, flags=socket.AI_PASSIVE
    )[0]
    with socket.socket(family, kind) as sock:
        if tcp:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)


def _port_refused(name: str, key: str, port: int, tcp: bool, error: OSError) -> Finding:
    held = owner("tcp" if tcp else "udp", port)
    if held.startswith(("tertulia ", "python")) and _answers(port if key == "port" else 0):
        return Finding(name, "good", f"in use by {held}")
    text = f"in use by {held}" if held else f"cannot be bound: {error.strerror}"
    return Finding(name, "wrong", text, f"Stop it, or choose another {key}." if held else f"Choose another {key}.")


def _answers(port: int) -> bool:
    """Is it a Tertulia that holds the port? Only the main port can tell; the others are believed by their name."""
    if not port:
        return True
    import urllib.request

    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _addresses(config: Config) -> Iterator[Finding]:
    from tertulia.node.settings import interfaces
    from tertulia.node.sockets import local_addresses

    hosts = local_addresses(interfaces(config))
    for host in hosts:
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as two,
        ):
            one.bind((host, 0))
            two.settimeout(1)
            two.connect(one.getsockname())
            one.settimeout(1)
            two.send(b"tertulia")
            try:
                one.recv(16)
            except OSError:
                advice = "A local firewall drops UDP on this interface."
                yield Finding("addresses", "wrong", f"UDP to {host} does not arrive", advice)
    told = f"; told to clients: {config.rtc.node_ip}" if config.rtc.node_ip else ""
    if all(host.startswith("127.") for host in hosts) and not config.development:
        yield Finding(
            "addresses", "wrong", "only loopback", "Nobody else can reach media; see rtc.interfaces, rtc.ips."
        )
        return
    yield Finding("addresses", "good", f"media on {', '.join(hosts)}{told}")


def _limits(config: Config) -> Iterator[Finding]:
    files, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    advice = "Raise it: `ulimit -n 65536`, or LimitNOFILE= in the systemd unit."
    if files < GOOD_FILES:
        yield Finding("open files", "wrong" if files < MIN_FILES else "note", f"at most {files} (hard {hard})", advice)
    else:
        yield Finding("open files", "good", f"at most {files}")
    small = [name for name in ("rmem_max", "wmem_max") if (value := _sysctl(name)) and value < SOCKET_BUFFER_BYTES]
    if small:
        settings = " ".join(f"net.core.{name}={SOCKET_BUFFER_BYTES}" for name in small)
        yield Finding("UDP buffers", "note", "small: bursts may be lost", f"As root: sysctl -w {settings}")
    else:
        yield Finding("UDP buffers", "good", "large enough")


def _sysctl(name: str) -> int:
    try:
        return int(Path(f"/proc/sys/net/core/{name}").read_text())
    except (OSError, ValueError):
        return 0


def _clock(config: Config) -> Iterator[Finding]:
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        state = libc.adjtimex(ctypes.create_string_buffer(512))  # modes = 0: only ask; 5 = TIME_ERROR
        if state == 5:
            advice = "Tokens and recordings carry wall time: run chrony or systemd-timesyncd."
            yield Finding("clock", "note", "the kernel says it is not synchronised", advice)
            return
    yield Finding("clock", "good", time.strftime("%Y-%m-%d %H:%M:%S %Z"))


def _encoders(config: Config) -> Iterator[Finding]:
    if "egress" not in config.node.roles:
        return
    import av

    missing = [name for names in ENCODERS.values() for name in names if name not in av.codecs_available]
    if missing:
        advice = "Recordings need them: install PyAV from its wheel, which has them inside."
        yield Finding("encoders", "wrong", f"missing: {', '.join(missing)}", advice)
    else:
        names = ", ".join(name for group in ENCODERS.values() for name in group)
        yield Finding("encoders", "good", f"{names} (PyAV {av.__version__})")


def _recordings(config: Config) -> Iterator[Finding]:
    if "egress" not in config.node.roles:
        return
    for root in config.egress.output_roots:
        path = Path(root).resolve()
        there = next(parent for parent in (path, *path.parents) if parent.exists())
        try:
            with tempfile.NamedTemporaryFile(dir=there, prefix=".tertulia-doctor-"):
                pass
        except OSError as error:
            yield Finding(
                "recordings", "wrong", f"{path} cannot be written: {error.strerror}", "See egress.output_roots."
            )
            continue
        free = shutil.disk_usage(there).free
        state: Literal["good", "note"] = "good" if free >= FREE_BYTES else "note"
        yield Finding("recordings", state, f"{path}, {free / 1e9:.1f} GB free")


def _remote_storage(config: Config) -> Iterator[Finding]:
    from tertulia.egress.outputs.addresses import AddressRules
    from tertulia.egress.outputs.storage import StorageOptions, storage_of
    from tertulia.node.recording import storage as store

    for name, section in (("storage", config.egress.storage), ("backup storage", config.egress.backup)):
        if (message := store(section)) is None:
            continue
        with tempfile.NamedTemporaryFile(suffix=".txt") as file:
            file.write(b"tertulia doctor can write here\n")
            file.flush()
            options = StorageOptions(prefix=section.prefix, rules=AddressRules(allow_private=True))
            storage = storage_of(message, options)
            try:
                asyncio.run(
                    asyncio.wait_for(storage.put("tertulia-doctor.txt", Path(file.name), "text/plain"), 4 * REMOTE_S)
                )
            except Exception as error:
                yield Finding(name, "wrong", str(error) or "no answer in time", "See egress.storage.")
            else:
                yield Finding(name, "good", f"wrote {storage.location('tertulia-doctor.txt').partition('?')[0]}")


def _redis(config: Config) -> Iterator[Finding]:
    if not config.redis.configured:
        yield Finding("cluster", "good", "one node, no Redis")
        return
    from tertulia.node.cluster.redis_client import connect, reason
    from tertulia.node.settings import redis

    async def ask() -> tuple[float, float]:
        client = connect(redis(config))
        try:
            before = time.time()
            seconds, micros = await client.time()
            after = time.time()
            await client.set("tertulia:doctor", "", px=1000)  # one that is full, or a replica, answers all the same
            return (after - before), seconds + micros / 1e6 - (before + after) / 2
        finally:
            await client.aclose()

    try:
        took_s, ahead_s = asyncio.run(asyncio.wait_for(ask(), REMOTE_S))
    except Exception as error:
        text = f"{reason(error)}: {str(error) or f'no answer within {REMOTE_S:.0f} s'}"
        yield Finding("Redis", "wrong", text, "See redis.address, redis.password; is Redis running?")
        return
    skewed = abs(ahead_s) > 5
    text = f"answers in {took_s * 1000:.1f} ms" + (f"; its clock differs by {ahead_s:.0f} s" if skewed else "")
    yield Finding("Redis", "note" if skewed else "good", text)


def _page(config: Config) -> Iterator[Finding]:
    from tertulia.node.pages.app import DIST

    if not config.pages.demo:
        return
    if (DIST / "index.html").is_file():
        yield Finding("demo page", "good", "built")
    else:
        yield Finding("demo page", "note", "not built", "Needs npm: `make web` in the source tree.")


EXAMINATIONS: dict[str, Callable[[Config], Iterator[Finding]]] = {
    "system": _system,
    "data plane": _plane,
    "ports": _ports,
    "addresses": _addresses,
    "limits": _limits,
    "clock": _clock,
    "encoders": _encoders,
    "recordings": _recordings,
    "storage": _remote_storage,
    "Redis cluster": _redis,
    "demo page": _page,
}
