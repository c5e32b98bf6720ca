"""Redis and object stores of the configuration, in the words of the parts that talk to them."""

from tertulia.egress.outputs.addresses import AddressRules
from tertulia.egress.outputs.storage import StorageOptions
from tertulia.node.cluster.redis import RedisAddress
from tertulia.node.config import Redis, Storage


def redis_address(redis: Redis) -> RedisAddress:
    return RedisAddress(
        address=redis.address,
        username=redis.username,
        password=str(redis.password),
        db=redis.db,
        use_tls=redis.use_tls or redis.tls.enabled,
        ca_cert_file=redis.tls.ca_cert_file,
        client_cert_file=redis.tls.client_cert_file,
        client_key_file=redis.tls.client_key_file,
        tls_insecure=redis.tls.insecure,
        sentinel_master_name=redis.sentinel_master_name,
        sentinel_addresses=redis.sentinel_addresses,
        sentinel_username=redis.sentinel_username,
        sentinel_password=str(redis.sentinel_password),
        cluster_addresses=redis.cluster_addresses,
    )


def storage_options(storage: Storage) -> StorageOptions:
    """For the operator's own storage: it may well be inside the operator's network."""
    return StorageOptions(
        prefix=storage.prefix, presigned=storage.generate_presigned_url, rules=AddressRules(allow_private=True)
    )
