"""The ports a configuration uses and what for: what an operator opens in a firewall."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tertulia.node.config import Config


@dataclass(frozen=True, slots=True)
class PortUse:
    protocol: str
    port: int
    purpose: str
    key: str
    """The configuration key that sets it."""
    public: bool = True
    """Must clients reach it from outside?"""


def used_ports(config: Config) -> Iterator[PortUse]:
    """Every port this configuration makes the node listen on."""
    yield PortUse("TCP", config.port, "HTTP API and WebSocket signalling (put TLS before it)", "port")
    if config.rtc.tcp_port:
        yield PortUse("TCP", config.rtc.tcp_port, "media over ICE-TCP, where UDP is blocked", "rtc.tcp_port")
    for port in config.rtc.udp_port:
        yield PortUse("UDP", port, "media", "rtc.udp_port")
    if port := config.prometheus.port or config.prometheus_port:
        yield PortUse("TCP", port, "metrics", "prometheus.port", public=False)
    if config.redis.configured and config.cluster.relay_port:
        yield PortUse("UDP", config.cluster.relay_port, "media between nodes", "cluster.relay_port", public=False)


def owner(protocol: str, port: int) -> str:
    """Which process holds this port, as `name (pid 123)`; empty when that cannot be seen (Linux, own or as root)."""
    inodes = {inode for path in (f"/proc/net/{protocol}", f"/proc/net/{protocol}6") for inode in _inodes(path, port)}
    if not inodes:
        return ""
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(os.readlink(link) in wanted for link in (process / "fd").iterdir()):
                return f"{(process / 'comm').read_text().strip()} (pid {process.name})"
        except OSError:  # another user's, or just gone
            continue
    return ""


def _inodes(path: str, port: int) -> Iterator[str]:
    """Inodes of sockets bound to the port: proc(5), `local_address` is hex, TCP state 0A is listening."""
    try:
        rows = Path(path).read_text().splitlines()[1:]
    except OSError:
        return
    for row in rows:
        fields = row.split()
        if int(fields[1].rpartition(":")[2], 16) == port and ("udp" in path or fields[3] == "0A"):
            yield fields[9]
