"""The ports a configuration uses and what for: what an operator opens in a firewall."""

from collections.abc import Iterator
from dataclasses import dataclass

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
