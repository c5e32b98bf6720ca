"""Which addresses this node is reached at, and the UDP sockets bound to them.

A socket bound to 0.0.0.0 answers from the address the kernel likes, which browsers refuse when it is not the one they
asked: so each advertised address gets a socket of its own, and only what is bound is advertised.
"""

import ipaddress
import socket
from dataclasses import dataclass

import ifaddr

SOCKET_BUFFER_BYTES = 4 << 20
"""Asked for in both directions; the kernel may grant less (`net.core.rmem_max`)."""


class PortTaken(Exception):
    """An address cannot be bound; the text names it and says what to do."""


@dataclass(frozen=True, slots=True)
class Interfaces:
    """What the configuration says about addresses."""

    includes: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()
    ip_includes: tuple[str, ...] = ()
    ip_excludes: tuple[str, ...] = ()
    loopback: bool = False
    """Advertise 127.0.0.1 too (development, tests)."""


def local_addresses(wanted: Interfaces) -> list[str]:
    """IPv4 addresses to serve media on, the machine's own order, loopback last."""
    found: list[str] = []
    loopback: list[str] = []
    for adapter in ifaddr.get_adapters():
        name = str(adapter.name)
        if (wanted.includes and name not in wanted.includes) or name in wanted.excludes:
            continue
        for ip in adapter.ips:
            if isinstance(ip.ip, str) and _acceptable(ip.ip, wanted):
                (loopback if ipaddress.ip_address(ip.ip).is_loopback else found).append(ip.ip)
    if wanted.loopback or not found:
        found += loopback or ["127.0.0.1"]
    return list(dict.fromkeys(found))


def _acceptable(host: str, wanted: Interfaces) -> bool:
    address = ipaddress.ip_address(host)
    if address.is_link_local or address.is_multicast:
        return False
    if wanted.ip_includes and not any(address in ipaddress.ip_network(net, strict=False) for net in wanted.ip_includes):
        return False
    return not any(address in ipaddress.ip_network(net, strict=False) for net in wanted.ip_excludes)


def bind_udp(host: str, port: int) -> socket.socket:
    """One non-blocking UDP socket with large buffers."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER_BYTES)
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise PortTaken(
            f"cannot bind UDP {host}:{port} ({error.strerror}); is another server running? "
            "Choose another rtc.udp_port or stop it"
        ) from error
    return sock


def bind_ports(hosts: list[str], ports: list[int]) -> list[list[socket.socket]]:
    """For each port number one socket per host. Raises PortTaken; then nothing stays bound."""
    bound: list[list[socket.socket]] = []
    try:
        for port in ports:
            row: list[socket.socket] = []
            bound.append(row)
            for host in hosts:
                # port 0: the first host picks, the others follow
                row.append(bind_udp(host, row[0].getsockname()[1] if port == 0 and row else port))
    except PortTaken:
        for row in bound:
            for sock in row:
                sock.close()
        raise
    return bound
