"""How to reach Redis: plain, Sentinel or Cluster, with or without TLS; every wait is bounded."""

import ssl
from dataclasses import dataclass, field
from typing import Any

from redis import asyncio as aioredis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.sentinel import Sentinel

CALL_S = 3.0
"""Deadline of one call."""
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


def connect(where: RedisAddress) -> Client:
    """A client with bounded waits; nothing is dialled yet."""
    common: dict[str, Any] = {
        "username": where.username or None,
        "password": where.password or None,
        "socket_timeout": CALL_S,
        "socket_connect_timeout": CALL_S,
        "health_check_interval": 5,
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
                "socket_timeout": CALL_S,
            },
            db=where.db,
            **common,
        )
        return sentinel.master_for(where.sentinel_master_name)
    host, port = _split(where.address)
    return aioredis.Redis(host=host, port=port, db=where.db, **common)
