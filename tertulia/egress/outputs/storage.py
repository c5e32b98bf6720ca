"""Object stores behind one verb, `put`: S3, Google Cloud Storage, Azure Blob Storage through obstore, or a directory.

Decides how LiveKit's upload messages are read, how patient an upload is, and how a refusal sounds (never with a key, a
signature or a request in it). Which storage is used for which file is `upload`'s decision. Multipart uploads that fail
are aborted by obstore itself, so a broken upload leaves nothing behind that costs money.
"""

import asyncio
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qsl, quote, urlsplit

import obstore
from livekit.protocol import egress
from obstore.exceptions import BaseError, NotFoundError, PermissionDeniedError, UnauthenticatedError
from obstore.store import AzureStore, GCSStore, S3Store

from tertulia.egress.outputs.addresses import AddressRefused, AddressRules, resolve
from tertulia.protocol.errors import RequestError

PART_BYTES = 5 << 20
PARTS_LIMIT = 9000
PARTS_AT_ONCE = 4
PRESIGNED_FOR = timedelta(days=7)


class StorageError(Exception):
    """An object could not be stored; the text is fit for EgressInfo."""


class Storage(Protocol):
    async def put(self, name: str, path: Path, content_type: str) -> str:
        """Store the file and say where it is. Raises StorageError."""

    def location(self, name: str) -> str: ...


@dataclass(frozen=True, slots=True)
class Patience:
    """With an object store: a request, and all tries of it together."""

    connect_s: float = 5
    request_s: float = 60
    retries: int = 5
    retry_s: float = 60

    @property
    def client(self) -> dict[str, Any]:
        return {"timeout": timedelta(seconds=self.request_s), "connect_timeout": timedelta(seconds=self.connect_s)}

    @property
    def retry(self) -> dict[str, Any]:
        backoff = {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=5), "base": 2}
        return {"max_retries": self.retries, "retry_timeout": timedelta(seconds=self.retry_s), "backoff": backoff}


@dataclass(frozen=True, slots=True)
class StorageOptions:
    """What the operator adds to every upload."""

    prefix: str = ""
    presigned: bool = False
    """Tell locations as addresses that open for seven days without a key."""
    rules: AddressRules = field(default_factory=AddressRules)
    """For endpoints that callers name."""
    patience: Patience = field(default_factory=Patience)


class ObjectStorage:
    """One bucket or container."""

    def __init__(
        self,
        kind: str,
        store: Any,
        base_url: str,
        options: StorageOptions,
        attributes: Mapping[str, str] | None = None,
        tags: dict[str, str] | None = None,
        endpoint: str = "",
    ) -> None:
        self._kind, self._store, self._base_url, self._options = kind, store, base_url, options
        self._attributes, self._tags, self._endpoint = dict(attributes or {}), tags, endpoint

    def _key(self, name: str) -> str:
        prefix = self._options.prefix.strip("/")
        return f"{prefix}/{name}" if prefix else name

    def location(self, name: str) -> str:
        return f"{self._base_url}/{quote(self._key(name))}"

    async def put(self, name: str, path: Path, content_type: str) -> str:
        await self._guard()
        key = self._key(name)
        try:
            size = path.stat().st_size  # noqa: ASYNC240 (a stat of our own file)
            await obstore.put_async(
                self._store,
                key,
                path,
                attributes={"Content-Type": content_type, **self._attributes},
                tags=self._tags,
                chunk_size=max(PART_BYTES, size // PARTS_LIMIT + 1),
                max_concurrency=PARTS_AT_ONCE,
            )
            if self._options.presigned:
                return str(await obstore.sign_async(self._store, "GET", key, PRESIGNED_FOR))
        except (BaseError, OSError, ValueError) as error:
            raise StorageError(f"{self._kind}: {_words(error)}") from None
        return self.location(name)

    async def _guard(self) -> None:
        if self._endpoint and not self._options.rules.allow_private:
            parts = urlsplit(self._endpoint)
            try:
                await resolve(parts.hostname or "", parts.port or 443, self._options.rules)
            except AddressRefused as refused:
                raise StorageError(f"{self._kind}: {refused}") from None


class DirectoryStorage:
    """A directory on this machine, for instance a network share, as storage or as backup."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def location(self, name: str) -> str:
        return str(self._root / name)

    async def put(self, name: str, path: Path, content_type: str) -> str:
        del content_type
        try:
            await asyncio.to_thread(self._copy, name, path)
        except OSError as error:
            raise StorageError(f"directory: {(error.strerror or 'write error').lower()}") from None
        return self.location(name)

    def _copy(self, name: str, path: Path) -> None:
        goal = self._root / name
        goal.parent.mkdir(parents=True, exist_ok=True)
        aside = goal.with_name(f".{goal.name}.part")
        try:
            shutil.copyfile(path, aside)
            aside.replace(goal)
        finally:
            aside.unlink(missing_ok=True)


_STATUS = re.compile(r"\b(?:status(?: code)?:? |Server returned [a-z-]+ status code: )?([345]\d\d) [A-Z][A-Za-z]+")
_CODE = re.compile(r"<Code>([A-Za-z0-9.]{1,64})</Code>")


def _words(error: Exception) -> str:
    """obstore's errors quote requests and answers; from them only the status and the store's code word are told."""
    text = str(error)
    code = _CODE.search(text)
    told = f" ({code[1]})" if code else ""
    if isinstance(error, PermissionDeniedError):
        return "permission denied" + told
    if isinstance(error, UnauthenticatedError):
        return "the credentials were not accepted" + told
    if isinstance(error, NotFoundError):
        return "the bucket or container does not exist" + told
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    if status := _STATUS.search(text):
        return f"answered {status[1]}{told}"
    lowered = text.lower()
    for sign, said in (
        ("timed out", "no answer in time"),
        ("timeout", "no answer in time"),
        ("connect", "cannot be reached"),
        ("dns", "cannot be reached"),
        ("credential", "no usable credentials"),
    ):
        if sign in lowered:
            return said
    return f"failed{told or ' (' + type(error).__name__ + ')'}"


Upload = egress.S3Upload | egress.GCPUpload | egress.AzureBlobUpload | egress.AliOSSUpload | egress.StorageConfig


def storage_of(message: Upload, options: StorageOptions = StorageOptions()) -> Storage:
    """The storage a request's or the configuration's message describes. Raises RequestError(invalid_argument)."""
    if isinstance(message, egress.StorageConfig):
        kind = message.WhichOneof("provider")
        if kind is None:
            raise _missing("storage")
        inner: Upload = getattr(message, kind)
        return storage_of(inner, options)
    try:
        if isinstance(message, egress.S3Upload):
            return _s3(message, options)
        if isinstance(message, egress.GCPUpload):
            return _gcs(message, options)
        if isinstance(message, egress.AzureBlobUpload):
            return _azure(message, options)
    except (BaseError, ValueError, TypeError):
        raise RequestError("invalid_argument", "request has missing or invalid field: storage credentials") from None
    raise RequestError("invalid_argument", "aliOSS is not supported; its S3 interface is, with s3.endpoint")


def _missing(name: str) -> RequestError:
    return RequestError("invalid_argument", f"request has missing or invalid field: {name}")


def _s3(message: egress.S3Upload, options: StorageOptions) -> ObjectStorage:
    if not message.bucket:
        raise _missing("s3.bucket")
    if message.assume_role_arn:
        raise RequestError("invalid_argument", "s3.assume_role_arn is not supported; give keys")
    if bool(message.access_key) != bool(message.secret):
        raise _missing("s3.secret" if message.access_key else "s3.access_key")
    endpoint, path_style = _endpoint(message.endpoint), message.force_path_style
    config: dict[str, Any] = {"region": message.region or "us-east-1"}
    if message.access_key:
        config |= {"access_key_id": message.access_key, "secret_access_key": message.secret}
    if message.session_token:
        config["session_token"] = message.session_token
    if endpoint:
        parts = urlsplit(endpoint)
        path_style = path_style or _is_ip(parts.hostname or "") or parts.hostname == "localhost"
        base = f"{endpoint}/{message.bucket}" if path_style else f"{parts.scheme}://{message.bucket}.{parts.netloc}"
        config["endpoint"] = endpoint if path_style else base
    elif path_style:
        base = f"https://s3.amazonaws.com/{message.bucket}"
    else:
        base = f"https://{message.bucket}.s3.amazonaws.com"
    config["virtual_hosted_style_request"] = not path_style
    client = _client(options, message.proxy) | ({"allow_http": True} if endpoint.startswith("http://") else {})
    store = S3Store(message.bucket, config=config, client_options=client, retry_config=options.patience.retry)  # type: ignore[arg-type]
    attributes = {"Content-Disposition": message.content_disposition or "inline", **message.metadata}
    tags = dict(parse_qsl(message.tagging)) or None
    return ObjectStorage("s3", store, base, options, attributes, tags, endpoint)


def _endpoint(text: str) -> str:
    if not text:
        return ""
    endpoint = (text if "://" in text else f"https://{text}").rstrip("/")
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None or parts.query:
        raise _missing("s3.endpoint")
    return endpoint


def _is_ip(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _client(options: StorageOptions, proxy: egress.ProxyConfig | None = None) -> dict[str, Any]:
    client = options.patience.client
    if proxy is not None and proxy.url:
        parts = urlsplit(proxy.url)
        user = f"{quote(proxy.username, safe='')}:{quote(proxy.password, safe='')}@" if proxy.username else ""
        client["proxy_url"] = f"{parts.scheme}://{user}{parts.netloc.rpartition('@')[2]}"
    return client


def _gcs(message: egress.GCPUpload, options: StorageOptions) -> ObjectStorage:
    if not message.bucket:
        raise _missing("gcp.bucket")
    config: dict[str, Any] = {}
    client = _client(options, message.proxy)
    if message.credentials:
        try:
            key = json.loads(message.credentials)
        except ValueError:
            raise _missing("gcp.credentials") from None
        if not isinstance(key, dict):
            raise _missing("gcp.credentials")
        base = str(key.get("gcs_base_url") or "")
        if base.startswith("http://"):
            client["allow_http"] = True
        config["service_account_key"] = message.credentials
    store = GCSStore(message.bucket, config=config, client_options=client, retry_config=options.patience.retry)  # type: ignore[arg-type]
    return ObjectStorage("gcp", store, f"https://{message.bucket}.storage.googleapis.com", options)


def _azure(message: egress.AzureBlobUpload, options: StorageOptions) -> ObjectStorage:
    if not message.account_name or not message.container_name:
        raise _missing("azure.container_name" if message.account_name else "azure.account_name")
    config: dict[str, Any] = {"account_name": message.account_name}
    if message.account_key:
        config["account_key"] = message.account_key
    client: Any = _client(options)
    retry: Any = options.patience.retry
    store = AzureStore(message.container_name, config=config, client_options=client, retry_config=retry)  # type: ignore[arg-type]
    base = f"https://{message.account_name}.blob.core.windows.net/{message.container_name}"
    return ObjectStorage("azure", store, base, options)
