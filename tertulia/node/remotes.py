"""Redis and object stores of the configuration, in the words of the parts that talk to them."""

from livekit.protocol import egress

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


def storage_message(storage: Storage) -> egress.StorageConfig | None:
    """The operator's object store; None: local files."""
    if storage.s3.bucket:
        s3 = storage.s3
        return egress.StorageConfig(
            s3=egress.S3Upload(
                bucket=s3.bucket,
                region=s3.region,
                endpoint=s3.endpoint,
                access_key=str(s3.access_key),
                secret=str(s3.secret),
                session_token=str(s3.session_token),
                force_path_style=s3.force_path_style,
            )
        )
    if storage.gcp.bucket:
        return egress.StorageConfig(
            gcp=egress.GCPUpload(bucket=storage.gcp.bucket, credentials=str(storage.gcp.credentials_json))
        )
    if storage.azure.container_name:
        azure = storage.azure
        return egress.StorageConfig(
            azure=egress.AzureBlobUpload(
                account_name=azure.account_name,
                account_key=str(azure.account_key),
                container_name=azure.container_name,
            )
        )
    return None


def storage_options(storage: Storage) -> StorageOptions:
    """For the operator's own storage: it may well be inside the operator's network."""
    return StorageOptions(
        prefix=storage.prefix, presigned=storage.generate_presigned_url, rules=AddressRules(allow_private=True)
    )
