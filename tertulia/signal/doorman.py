"""Who may come through the door how often: per-address rates and the address behind a proxy. No clock, no socket.

Rates are kept as one time per address (generic cell rate algorithm, ITU-T I.371): the time until which the address has
used up its share. IPv6 addresses count by /64, the smallest network one customer is given.
"""

import math
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from tertulia.protocol.machine import SECOND, Nanos
from tertulia.signal.settings import DoorSettings

MAX_ADDRESSES = 65_536
"""Addresses remembered per rate; the longest unseen is forgotten first."""
MAX_FORWARDED = 32
"""Hops of X-Forwarded-For that are looked at."""


class Rate:
    """So many per second per key, with a burst."""

    def __init__(self, per_s: float, burst: int) -> None:
        self._cost_ns = int(SECOND / per_s) if per_s > 0 else 0
        self._burst_ns = self._cost_ns * max(0, burst - 1)
        self._paid_until: OrderedDict[str, int] = OrderedDict()

    def take(self, now: Nanos, key: str) -> int:
        """0 when allowed, else the nanoseconds to wait."""
        if not self._cost_ns:
            return 0
        paid_until = max(self._paid_until.get(key, 0), now)
        wait_ns = paid_until - now - self._burst_ns
        if wait_ns > 0:
            return wait_ns
        self._paid_until[key] = paid_until + self._cost_ns
        self._paid_until.move_to_end(key)
        if len(self._paid_until) > MAX_ADDRESSES:
            self._paid_until.popitem(last=False)
        return 0


class Doorman:
    """Counts connections and upgrades per address."""

    def __init__(self, settings: DoorSettings) -> None:
        self._connections = Rate(settings.connections_per_s, settings.connections_burst)
        self._upgrades = Rate(settings.upgrades_per_s, settings.upgrades_burst)
        self._max_waiting = settings.waiting_connections
        self._waiting: Counter[str] = Counter()
        self._proxies = Proxies(settings.trusted_proxies)

    def connection(self, now: Nanos, peer: str) -> bool:
        """May this peer open one more connection now?"""
        return self._proxies.trusted(peer) or self._connections.take(now, network_of(peer)) == 0

    def wait_begins(self, peer: str) -> bool:
        """A header is awaited from this peer; False when too many are. Each True is paired with `wait_ends`."""
        key = network_of(peer)
        if self._max_waiting and self._waiting[key] >= self._max_waiting and not self._proxies.trusted(peer):
            return False
        self._waiting[key] += 1
        return True

    def wait_ends(self, peer: str) -> None:
        key = network_of(peer)
        self._waiting[key] -= 1
        if self._waiting[key] <= 0:
            del self._waiting[key]

    def upgrade(self, now: Nanos, address: str) -> int:
        """0 when this client may start a session now, else the seconds to wait."""
        return math.ceil(self._upgrades.take(now, network_of(address)) / SECOND)

    def address(self, peer: str, headers: Mapping[bytes, bytes]) -> str:
        return self._proxies.address(peer, headers)


class Proxies:
    """The networks of our reverse proxies, and what they say about the client."""

    def __init__(self, networks: Sequence[str]) -> None:
        """Raises ValueError when one of them is not a network."""
        self._networks: list[IPv4Network | IPv6Network] = [ip_network(network, strict=False) for network in networks]

    def trusted(self, peer: str) -> bool:
        if not self._networks:
            return False
        try:
            address = ip_address(peer.partition("%")[0])
        except ValueError:
            return False
        return any(address in network for network in self._networks)

    def address(self, peer: str, headers: Mapping[bytes, bytes]) -> str:
        """The nearest address not of a proxy of ours: from the right, since anybody may write the left part."""
        if not self.trusted(peer):
            return peer
        hops = headers.get(b"x-forwarded-for", b"").decode("latin-1").split(",")[-MAX_FORWARDED:]
        for hop in reversed([hop.strip() for hop in hops]):
            if not _is_address(hop):
                break
            if not self.trusted(hop):
                return hop
        real = headers.get(b"x-real-ip", b"").decode("latin-1").strip()
        return real if _is_address(real) else peer


def network_of(address: str) -> str:
    """The key under which an address is counted."""
    if ":" not in address:
        return address
    try:
        v6 = IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    if v6.ipv4_mapped is not None:
        return str(v6.ipv4_mapped)
    return str(IPv6Network((int(v6) >> 64 << 64, 64)))


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
