"""What the values of a configuration must be together: ports apart, keys long enough, addresses that are addresses.

Each rule names the key to change. Values by themselves (types, ranges) were judged by `config_decode`.
"""

import difflib
import ipaddress
from collections.abc import Iterable, Iterator
from urllib.parse import urlsplit

from tertulia.node.config import Config, Storage
from tertulia.node.config_media import STANDARD_CODECS
from tertulia.node.config_tree import Branch, Problem, Where
from tertulia.node.config_types import MS, S
from tertulia.protocol.signing import check_secret
from tertulia.signal.webhook import EVENTS

MIN_LATENCY, MAX_LATENCY = 100 * MS, 30 * S
"""Of recordings: below, a retransmission comes too late; above, memory holds more than it need."""
Finding = tuple[str, str]
"""(dotted key, what is wrong)."""


def check(config: Config, tree: Branch, *, keyless: bool = False) -> list[Problem]:
    """Every rule that is broken, with the place of the key it names; `keyless`: API keys do not matter."""
    rules = (
        _keys, _ports, _addresses, _turn_servers, _redis, _prometheus, _webhook, _room, _cluster, _selector,
        _egress, _storage,
    )  # fmt: skip
    judged = rules[1:] if keyless else rules
    return [Problem(place(tree, key), f"{key}: {text}") for rule in judged for key, text in rule(config)]


def place(tree: Branch, key: str) -> Where:
    """Where this key stands, or the nearest section that does."""
    where, branch = Where(tree.where.source), tree
    for name in key.split("."):
        if name not in branch.keys:
            break
        where = branch.keys[name]
        below = branch.entries[name]
        if not isinstance(below, Branch):
            break
        branch = below
    return where


def _keys(config: Config) -> Iterator[Finding]:
    if not config.keys:
        yield (
            "keys",
            "there is no API key, so nobody could join; `tertulia generate-keys` makes one, "
            "`tertulia --dev` tries without",
        )
    for key, secret in config.keys.items():
        try:
            check_secret(key, secret, dev=config.development)
        except ValueError as error:
            yield "keys", str(error)
        if not key.strip():
            yield "keys", "an API key needs a name"


def _ports(config: Config) -> Iterator[Finding]:
    tcp = {"port": config.port, "rtc.tcp_port": config.rtc.tcp_port}
    tcp["prometheus.port" if config.prometheus.port else "prometheus_port"] = (
        config.prometheus.port or config.prometheus_port
    )
    taken: dict[int, str] = {}
    for name, port in tcp.items():
        if port and port in taken:
            yield name, f"port {port} is already used by {taken[port]}"
        elif port:
            taken[port] = name
    start, end = config.rtc.port_range_start, config.rtc.port_range_end
    if end < start:
        yield "rtc.port_range_end", f"{end} is below rtc.port_range_start ({start}); swap them"
    if config.redis.configured and config.cluster.relay_port in config.rtc.udp_port and config.cluster.relay_port:
        yield "cluster.relay_port", f"port {config.cluster.relay_port} is already used by rtc.udp_port"


def _addresses(config: Config) -> Iterator[Finding]:
    rtc = config.rtc
    for key, address in (("rtc.node_ip", rtc.node_ip), ("cluster.relay_ip", config.cluster.relay_ip)):
        if address and not _is_address(address):
            yield key, f"{address!r} is not an IP address"
    for key, networks in (
        ("rtc.ips.includes", rtc.ips.includes),
        ("rtc.ips.excludes", rtc.ips.excludes),
        ("node.trusted_proxies", config.node.trusted_proxies),
    ):
        for network in networks:
            try:
                ipaddress.ip_network(network, strict=False)
            except ValueError:
                yield key, f"{network!r} is not a network such as 10.0.0.0/8"
    for server in rtc.stun_servers:
        yield from _host_port("rtc.stun_servers", server, optional=True)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _turn_servers(config: Config) -> Iterator[Finding]:
    for index, server in enumerate(config.rtc.turn_servers):
        if not server.host:
            yield "rtc.turn_servers", f"entry {index + 1} has no host"


def _host_port(key: str, text: str, *, optional: bool = False) -> Iterator[Finding]:
    host, colon, port = text.rpartition(":")
    if optional and not colon:
        return
    if not host or not port.isdigit() or not 0 < int(port) < 65_536:
        yield key, f"{text!r} is not host:port"


def _redis(config: Config) -> Iterator[Finding]:
    redis = config.redis
    if redis.address:
        yield from _host_port("redis.address", redis.address, optional=True)
    for address in redis.sentinel_addresses:
        yield from _host_port("redis.sentinel_addresses", address)
    for address in redis.cluster_addresses:
        yield from _host_port("redis.cluster_addresses", address)
    if redis.sentinel_addresses and not redis.sentinel_master_name:
        yield "redis.sentinel_addresses", "needs redis.sentinel_master_name"
    if bool(redis.address) + bool(redis.sentinel_addresses) + bool(redis.cluster_addresses) > 1:
        yield "redis", "give one of address, sentinel_addresses and cluster_addresses"


def _prometheus(config: Config) -> Iterator[Finding]:
    about = config.prometheus
    if bool(about.username) != bool(about.password):
        yield "prometheus", "username and password go together; give both or neither"


def _webhook(config: Config) -> Iterator[Finding]:
    hook = config.webhook
    for url in hook.urls:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            yield "webhook.urls", "expected addresses that begin with http:// or https://"
    if hook.api_key and hook.api_key not in config.keys:
        yield "webhook.api_key", f"{hook.api_key!r} is not one of keys"
    if hook.urls and not hook.api_key and len(config.keys) > 1:
        yield "webhook.api_key", "is needed to choose among several keys"
    for key, events in (
        ("webhook.filter_params.include_events", hook.filter_params.include_events),
        ("webhook.filter_params.exclude_events", hook.filter_params.exclude_events),
    ):
        for event in events:
            if event not in EVENTS:
                yield key, f"no event is called {event!r}" + _near(event, EVENTS)


def _near(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _room(config: Config) -> Iterator[Finding]:
    known = {codec.mime.lower(): codec.mime for codec in STANDARD_CODECS}
    for codec in config.room.enabled_codecs:
        if codec.mime.lower() not in known:
            yield "room.enabled_codecs", f"unknown codec {codec.mime!r}" + _near(codec.mime, known.values())
    delay = config.room.playout_delay
    if delay.max and delay.max < delay.min:
        yield "room.playout_delay", f"max ({delay.max}) is below min ({delay.min})"


def _cluster(config: Config) -> Iterator[Finding]:
    if config.cluster.secret and len(config.cluster.secret) < 32:
        yield "cluster.secret", "has fewer than 32 characters"
    if not config.node.roles:
        yield "node.roles", "a node without a role has nothing to do"
    if config.node.url and not _is_client_url(config.node.url):
        yield "node.url", "expected where clients reach this node, such as wss://paris.example.org"


def _is_client_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        plain = parts.port != 0 and not (parts.username or parts.query or parts.fragment)
    except ValueError:
        return False
    return parts.scheme in ("ws", "wss") and bool(parts.hostname) and plain and text.isascii() and text.isprintable()


def _selector(config: Config) -> Iterator[Finding]:
    about = config.node_selector
    names = [place.name for place in about.regions]
    for index, name in enumerate(names):
        if not name:
            yield "node_selector.regions", f"entry {index + 1} has no name"
        elif name in names[:index]:
            yield "node_selector.regions", f"{name!r} is there twice"
    if about.kind == "regionaware" and not config.region:
        yield "node_selector.kind", "regionaware needs region, the name of where this node is"
    elif about.kind == "regionaware" and names and config.region not in names:
        yield (
            "node_selector.regions",
            f"has no place for {config.region!r}, this node's region{_near(config.region, names)}",
        )


def _egress(config: Config) -> Iterator[Finding]:
    if not MIN_LATENCY <= config.egress.latency <= MAX_LATENCY:
        yield "egress.latency", f"expected {MIN_LATENCY!r} to {MAX_LATENCY!r}, got {config.egress.latency!r}"
    if not config.egress.track_wait:
        yield "egress.track_wait", "nothing could be recorded without waiting for it; 30s is usual"


def _storage(config: Config) -> Iterator[Finding]:
    for name, storage in (("egress.storage", config.egress.storage), ("egress.backup", config.egress.backup)):
        chosen = [cloud for cloud, given in _clouds(storage) if given]
        if len(chosen) > 1:
            yield name, f"give one of s3, gcp and azure, not {' and '.join(chosen)}"
        if "s3" in chosen and not storage.s3.bucket:
            yield f"{name}.s3", "bucket is missing"
        if "gcp" in chosen and not storage.gcp.bucket:
            yield f"{name}.gcp", "bucket is missing"
        if "azure" in chosen and not (storage.azure.container_name and storage.azure.account_name):
            yield f"{name}.azure", "container_name and account_name are needed"
    if not config.egress.output_roots:
        yield "egress.output_roots", "at least one directory is needed"


def _clouds(storage: Storage) -> Iterator[tuple[str, bool]]:
    for name in ("s3", "gcp", "azure"):
        section = getattr(storage, name)
        yield name, section != type(section)()
