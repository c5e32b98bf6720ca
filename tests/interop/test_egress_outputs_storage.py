"""Recordings into real object stores (moto's S3, also as Google's XML interface), and into stores that misbehave."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import obstore
import pytest
from aiohttp import web
from livekit.protocol import egress
from obstore.store import S3Store

from tertulia.egress.outputs.addresses import AddressRules
from tertulia.egress.outputs.api import EncodedPacket, StreamSpec
from tertulia.egress.outputs.files import FileOutput
from tertulia.egress.outputs.hls import SegmentsOutput, SegmentsPlan
from tertulia.egress.outputs.storage import Patience, StorageOptions
from tertulia.egress.outputs.upload import Depot, storage_of
from tertulia.protocol.errors import RequestError
from tests.unit.egress_outputs import media

pytestmark = pytest.mark.interop

SECRET = "canarysecretcanarysecret"
HASTY = Patience(connect_s=1, request_s=1, retries=3, retry_s=3)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def moto(**environment: str) -> AsyncIterator[str]:
    port = free_port()
    command = [sys.executable, "-c", "from moto.server import main; main()", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(  # noqa: ASYNC220 (returns at once)
        command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(60):
            while True:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                await asyncio.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@pytest.fixture
async def store() -> AsyncIterator[str]:
    async with moto() as url:
        async with aiohttp.ClientSession() as session, session.put(f"{url}/rec") as answer:
            assert answer.status == 200
        yield url


def s3(endpoint: str, **more: object) -> egress.S3Upload:
    return egress.S3Upload(
        access_key="canarykey", secret=SECRET, region="us-east-1", endpoint=endpoint, bucket="rec",
        force_path_style=True, **more,
    )  # fmt: skip


def reader(endpoint: str) -> S3Store:
    return S3Store(
        "rec", config={"endpoint": endpoint, "region": "us-east-1", "access_key_id": "a", "secret_access_key": "b"},
        client_options={"allow_http": True},
    )  # fmt: skip


def _noise(seconds: float) -> tuple[StreamSpec, tuple[EncodedPacket, ...]]:
    return media.video(seconds=seconds, width=640, height=360, bit_rate=20_000_000)


async def record(depot: Depot, name: str = "calls/a.mp4", noise_s: float = 4) -> FileOutput:
    (video_spec, video), (audio_spec, audio) = _noise(noise_s), media.audio()
    out = FileOutput(name, depot)
    out.open([video_spec, audio_spec], media.EPOCH_NS)
    for packet in media.interleave(video, audio):
        out.write(packet)
    await out.close()
    return out


async def test_the_object_equals_the_file(store: str, tmp_path: Path) -> None:
    local = await record(Depot(tmp_path / "local"))
    assert local.failed is None
    options = StorageOptions(prefix="kept/")
    message = s3(store, metadata={"room": "blue"}, tagging="kind=call&x=y", content_disposition="attachment")
    out = await record(Depot(tmp_path / "up", storage_of(message, options)))
    assert out.failed is None
    [info] = out.result().files
    assert info.location == f"{store}/rec/kept/calls/a.mp4"
    found = await obstore.get_async(reader(store), "kept/calls/a.mp4")
    data = bytes(await found.bytes_async())
    assert len(data) == info.size > 5 << 20  # more than one part
    assert data == (tmp_path / "local/calls/a.mp4").read_bytes()
    assert found.attributes["Content-Type"] == "video/mp4"
    assert found.attributes["Content-Disposition"] == "attachment"
    assert os.listdir(tmp_path / "up") == []


async def test_presigned_locations_open(store: str, tmp_path: Path) -> None:
    depot = Depot(tmp_path, storage_of(s3(store), StorageOptions(presigned=True)))
    [info] = (await record(depot, noise_s=1)).result().files
    async with aiohttp.ClientSession() as session, session.get(info.location) as answer:
        assert answer.status == 200
        assert len(await answer.read()) == info.size
    assert SECRET not in info.location


async def test_segments_go_up_as_they_are_made(store: str, tmp_path: Path) -> None:
    depot = Depot(tmp_path, storage_of(s3(store)))
    out = SegmentsOutput(SegmentsPlan("live/s", "live/all.m3u8", "live/now.m3u8", segment_s=1), depot)
    (video_spec, video), (audio_spec, audio) = media.video(global_header=True), media.audio()
    out.open([video_spec, audio_spec], media.EPOCH_NS)
    packets = media.interleave(video, audio)
    for packet in packets[:200]:
        out.write(packet)
    bucket = reader(store)
    async with asyncio.timeout(20):
        while out.result().segments[0].segment_count < 1:  # noqa: ASYNC110 (another thread)
            await asyncio.sleep(0.02)
    async with asyncio.timeout(20):
        while "s_00000.ts" not in await text_of(bucket, "live/now.m3u8"):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    for packet in packets[200:]:
        out.write(packet)
    await out.close()
    assert out.failed is None
    assert (await text_of(bucket, "live/all.m3u8")).endswith("#EXT-X-ENDLIST\n")
    names = {item["path"] async for page in obstore.list(bucket, "live") for item in page}
    assert names == {"live/all.m3u8", "live/now.m3u8", *(f"live/s_0000{i}.ts" for i in range(4))}
    assert os.listdir(tmp_path) == []


async def text_of(bucket: S3Store, name: str) -> str:
    try:
        return bytes(await (await obstore.get_async(bucket, name)).bytes_async()).decode()
    except FileNotFoundError:
        return ""


class Fault:
    """A gate before the store: says no, says nothing, or lets some through."""

    def __init__(self, store: str) -> None:
        self.store, self.mode, self.left = store, "pass", 0
        self.requests: list[str] = []
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(f"{request.method} {request.rel_url}")
        if self.mode == "hang":
            await asyncio.sleep(30)
        if self.mode == "500" and self.left:
            self.left -= 1
            return web.Response(status=500, text="<Error><Code>InternalError</Code></Error>")
        if self.mode == "reset part" and "partNumber=2" in str(request.rel_url):
            assert request.transport is not None
            request.transport.abort()
        body = await request.read()
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.request(request.method, self.store + str(request.rel_url), data=body) as answer,
        ):
            headers = {name: answer.headers[name] for name in ("ETag", "Content-Type") if name in answer.headers}
            return web.Response(status=answer.status, body=await answer.read(), headers=headers)


@pytest.fixture
async def fault(store: str) -> AsyncIterator[Fault]:
    fault = Fault(store)
    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{tail:.*}", fault.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    fault.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield fault
    await runner.cleanup()


async def test_google_cloud_storage(fault: Fault, tmp_path: Path) -> None:
    """Through the gate, which takes off the `Authorization` that moto does not know."""
    store = fault.store
    key = {
        "gcs_base_url": fault.url,
        "disable_oauth": True,
        "client_email": "",
        "private_key": "",
        "private_key_id": "",
    }
    depot = Depot(tmp_path, storage_of(egress.GCPUpload(credentials=json.dumps(key), bucket="rec")))
    out = await record(depot, noise_s=1)
    assert out.failed is None
    assert out.result().files[0].location == "https://rec.storage.googleapis.com/calls/a.mp4"
    assert (await obstore.head_async(reader(store), "calls/a.mp4"))["size"] == out.result().files[0].size


def depot_at(fault: Fault, directory: Path, backup: bool = False) -> Depot:
    options = StorageOptions(patience=HASTY)
    return Depot(
        directory, storage_of(s3(fault.url), options), storage_of(s3(fault.store), options) if backup else None
    )


async def test_three_errors_then_fine(fault: Fault, tmp_path: Path) -> None:
    fault.mode, fault.left = "500", 3
    out = await record(depot_at(fault, tmp_path), noise_s=1)
    assert out.failed is None
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("mode", "said"), [("500", "answered 500"), ("hang", "no answer in time"), ("reset part", "s3: ")]
)
async def test_a_broken_store_costs_no_recording(fault: Fault, tmp_path: Path, mode: str, said: str) -> None:
    fault.mode, fault.left = mode, 10**6
    begun = time.monotonic()
    out = await record(depot_at(fault, tmp_path))
    assert time.monotonic() - begun < 30
    assert out.failed is not None
    assert said in out.failed
    [info] = out.result().files
    assert info.location == str(tmp_path / "calls/a.mp4")
    assert f"kept at {info.location}" in out.failed
    assert (tmp_path / "calls/a.mp4").stat().st_size == info.size
    for secret in (SECRET, "canarykey", "Signature"):
        assert secret not in out.failed
    if mode == "reset part":
        assert any(request.startswith("DELETE") and "uploadId" in request for request in fault.requests)
        async with aiohttp.ClientSession() as session, session.get(f"{fault.store}/rec?uploads") as answer:
            assert "<UploadId>" not in await answer.text()


async def test_backup_storage_takes_over(fault: Fault, tmp_path: Path) -> None:
    fault.mode, fault.left = "500", 10**6
    depot = depot_at(fault, tmp_path, backup=True)
    out = await record(depot, noise_s=1)
    assert out.failed is None
    assert out.result().backup_storage_used
    assert out.result().files[0].location == f"{fault.store}/rec/calls/a.mp4"
    tried = len(fault.requests)
    again = await record(depot, "calls/b.mp4", noise_s=1)
    assert again.result().backup_storage_used
    assert len(fault.requests) == tried  # once failed, the primary is left alone
    assert os.listdir(tmp_path) == []


async def test_wrong_keys_and_wrong_bucket(tmp_path: Path) -> None:
    options = StorageOptions(patience=HASTY)
    async with moto(INITIAL_NO_AUTH_ACTION_COUNT="1") as url:
        async with aiohttp.ClientSession() as session, session.put(f"{url}/rec") as answer:
            assert answer.status == 200
        out = await record(Depot(tmp_path, storage_of(s3(url), options)), noise_s=1)
        assert out.failed is not None
        assert "s3: permission denied (InvalidAccessKeyId)" in out.failed
        assert "canary" not in out.failed
    async with moto() as url:
        out = await record(Depot(tmp_path, storage_of(s3(url), options)), noise_s=1)
        assert out.failed is not None
        assert "s3: answered 404 (NoSuchBucket)" in out.failed


async def test_internal_endpoints_can_be_refused(store: str, tmp_path: Path) -> None:
    options = StorageOptions(rules=AddressRules(allow_private=False))
    out = await record(Depot(tmp_path, storage_of(s3(store), options)), noise_s=1)
    assert out.failed is not None
    assert "private network" in out.failed


@pytest.fixture(autouse=True)
def no_stray_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (egress.S3Upload(), "s3.bucket"),
        (egress.S3Upload(bucket="b", access_key="k"), "s3.secret"),
        (egress.S3Upload(bucket="b", secret="k"), "s3.access_key"),
        (egress.S3Upload(bucket="b", endpoint="ftp://x"), "s3.endpoint"),
        (egress.S3Upload(bucket="b", assume_role_arn="arn:x"), "assume_role_arn"),
        (egress.GCPUpload(), "gcp.bucket"),
        (egress.GCPUpload(bucket="b", credentials="{"), "gcp.credentials"),
        (egress.GCPUpload(bucket="b", credentials='{"private_key":"canary"}'), "credentials"),
        (egress.AzureBlobUpload(container_name="c"), "azure.account_name"),
        (egress.AzureBlobUpload(account_name="c"), "azure.container_name"),
        (egress.AzureBlobUpload(account_name="c", container_name="d", account_key="not base64!"), "credentials"),
        (egress.AliOSSUpload(bucket="b"), "aliOSS is not supported"),
        (egress.StorageConfig(), "storage"),
        (egress.StorageConfig(aliOSS=egress.AliOSSUpload()), "aliOSS"),
    ],
)
def test_messages_that_cannot_be(message: object, field: str) -> None:
    with pytest.raises(RequestError, match=field) as refused:
        storage_of(message)
    assert "canary" not in str(refused.value)


@pytest.mark.parametrize(
    ("message", "location"),
    [
        (egress.S3Upload(bucket="b"), "https://b.s3.amazonaws.com/x%20y/z.mp4"),
        (egress.S3Upload(bucket="b", force_path_style=True), "https://s3.amazonaws.com/b/x%20y/z.mp4"),
        (egress.S3Upload(bucket="b", endpoint="https://o.example"), "https://b.o.example/x%20y/z.mp4"),
        (egress.S3Upload(bucket="b", endpoint="o.example", force_path_style=True), "https://o.example/b/x%20y/z.mp4"),
        (egress.GCPUpload(bucket="b"), "https://b.storage.googleapis.com/x%20y/z.mp4"),
        (
            egress.AzureBlobUpload(account_name="a", container_name="c", account_key="a2V5"),
            "https://a.blob.core.windows.net/c/x%20y/z.mp4",
        ),
    ],
)
def test_locations(message: object, location: str) -> None:
    assert storage_of(message).location("x y/z.mp4") == location
