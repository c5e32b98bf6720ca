"""How to reach Redis: plain, Sentinel or Cluster, with or without TLS; every wait is bounded."""

import ssl
from dataclasses import dataclass, field
from typing import Any

from redis import asyncio as aioredis
from redis import exceptions
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel
from redis.backoff import NoBackoff

CALL_S = 3.0
"""Deadline of one call."""
SENTINEL_S = 0.8
"""A Sentinel that does not answer leaves time to ask the next ones within a call."""
RETRIES = 1
"""At once, with a new connection: the old one may have died with its server. Who asked waits and asks again."""
FAILURES = (exceptions.RedisError, exceptions.RedisClusterException, OSError, TimeoutError)
"""What a call may end with when Redis does not serve it."""
NOT_REACHABLE = "Redis is not reachable"
REASONS: tuple[tuple[type[Exception], str], ...] = (
    (exceptions.OutOfMemoryError, "Redis is out of memory and refuses to write (maxmemory)"),
    (exceptions.ReadOnlyError, "Redis is a replica and refuses to write"),
    (exceptions.AuthenticationError, "Redis refuses the user name or the password, or wants one"),
    (exceptions.NoPermissionError, "Redis does not allow this user what a cluster needs"),
    (exceptions.BusyLoadingError, "Redis is still loading its data"),
    (exceptions.ClusterDownError, "the Redis Cluster is down"),
    (MasterNotFoundError, "no Sentinel answers with a primary of that name"),
)
SAID_CHARS = 120
Client = Any
"""redis.asyncio.Redis or RedisCluster: the commands used here are the same."""


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """Where Redis is (the `redis:` block of the configuration)."""

    address: str = ""
    username: str = ""
    password: str = field(default="", repr=False)
    db: int = 0
    use_tls: bool = False
    ca_cert_file: str = ""
    client_cert_file: str = ""
    client_key_file: str = field(default="", repr=False)
    tls_insecure: bool = False
    sentinel_master_name: str = ""
    sentinel_addresses: tuple[str, ...] = ()
    sentinel_username: str = ""
    sentinel_password: str = field(default="", repr=False)
    cluster_addresses: tuple[str, ...] = ()


def reason(error: Exception) -> str:
    """What is wrong with Redis, for an operator."""
    for kind, text in REASONS:
        if isinstance(error, kind):
            return text
    if isinstance(error, exceptions.ResponseError):
        return f"Redis refuses ({str(error)[:SAID_CHARS]})"
    return NOT_REACHABLE


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return (host or port, int(port) if host else 6379)


def _tls(where: RedisAddress) -> dict[str, Any]:
    if not where.use_tls:
        return {}
    return {
        "ssl": True,
        "ssl_ca_certs": where.ca_cert_file or None,
        "ssl_certfile": where.client_cert_file or None,
        "ssl_keyfile": where.client_key_file or None,
        "ssl_cert_reqs": ssl.CERT_NONE if where.tls_insecure else ssl.CERT_REQUIRED,
        "ssl_check_hostname": not where.tls_insecure,
    }


async def listener(client: Client) -> Any:
    """A pub/sub connection in the making; which server of a Redis Cluster has it does not matter: all hear all."""
    if isinstance(client, RedisCluster):
        await client.initialize()
    return client.pubsub()


def connect(where: RedisAddress) -> Client:
    """A client with bounded waits; nothing is dialled yet."""
    common: dict[str, Any] = {
        "username": where.username or None,
        "password": where.password or None,
        "socket_timeout": CALL_S,
        "socket_connect_timeout": CALL_S,
        "health_check_interval": 5,
        "retry": Retry(NoBackoff(), RETRIES),
        **_tls(where),
    }
    if where.cluster_addresses:
        nodes = [ClusterNode(*_split(address)) for address in where.cluster_addresses]
        return RedisCluster(startup_nodes=nodes, **common)
    if where.sentinel_addresses:
        sentinel = Sentinel(  # type: ignore[no-untyped-call]
            [_split(address) for address in where.sentinel_addresses],
            sentinel_kwargs={
                "username": where.sentinel_username or None,
                "password": where.sentinel_password or None,
                "socket_timeout": SENTINEL_S,
                "socket_connect_timeout": SENTINEL_S,
                "retry": Retry(NoBackoff(), 0),
                **_tls(where),
            },
            db=where.db,
            **common,
        )
        return sentinel.master_for(where.sentinel_master_name)
    host, port = _split(where.address)
    return aioredis.Redis(host=host, port=port, db=where.db, **common)
