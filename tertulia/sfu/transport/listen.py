"""Where peers reach this node: bound UDP endpoints per Port, the ICE-TCP listener, and the candidates made of them.

Host candidates only (RFC 8445 5.1.1.1): an ICE-lite server learns the peer's side by its checks, and what is bound is
what is advertised, unless the operator says that a NAT maps one address to it (`node_ip`).
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

_COMPONENT_RTP = 1
_UDP_TYPE_PREFERENCE = 126
_TCP_TYPE_PREFERENCE = 90
"""Below every UDP pair: TCP is what is left when UDP does not pass."""
_TCP_DIRECTION_PASSIVE = 4 << 13
"""RFC 6544 4.2: direction preference of a passive host candidate, in the upper three bits of the local preference."""


@dataclass(frozen=True, slots=True)
class UdpEndpoint:
    """One bound UDP socket of a Port: its index in the data plane and the address peers shall use."""

    socket: int
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class TcpEndpoint:
    """The ICE-TCP listener: where it is bound and which hosts are advertised for it."""

    bind_host: str
    port: int
    hosts: tuple[str, ...]


def candidates(
    endpoints: Sequence[UdpEndpoint], tcp: TcpEndpoint | None, node_ip: str | None = None
) -> tuple[str, ...]:
    """Values of `a=candidate:` lines, best first. `node_ip` takes the place of every host of its own address family."""
    lines: list[str] = []
    seen: set[tuple[str, str, int]] = set()

    def add(protocol: str, host: str, port: int, type_preference: int, local_preference: int, tail: str) -> None:
        host = _advertised(host, node_ip)
        if (protocol, host, port) in seen:
            return
        seen.add((protocol, host, port))
        priority = (type_preference << 24) | (local_preference << 8) | (256 - _COMPONENT_RTP)
        lines.append(f"{len(lines) + 1} {_COMPONENT_RTP} {protocol} {priority} {host} {port} typ host{tail}")

    for rank, endpoint in enumerate(endpoints):
        add("udp", endpoint.host, endpoint.port, _UDP_TYPE_PREFERENCE, 65535 - rank, "")
    if tcp is not None:
        for rank, host in enumerate(tcp.hosts):
            add("tcp", host, tcp.port, _TCP_TYPE_PREFERENCE, _TCP_DIRECTION_PASSIVE + 8191 - rank, " tcptype passive")
    return tuple(lines)


def _advertised(host: str, node_ip: str | None) -> str:
    if node_ip is None or ipaddress.ip_address(host).version != ipaddress.ip_address(node_ip).version:
        return host
    return node_ip
