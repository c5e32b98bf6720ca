"""Which addresses are taken, how they are shown, where they may lead."""

import asyncio

import pytest

from tertulia.egress.outputs.addresses import (
    AddressRefused,
    AddressRules,
    RtmpAddress,
    mask,
    masked_rtmp,
    masked_websocket,
    parse_rtmp,
    resolve,
)
from tertulia.egress.outputs.api import Hooks
from tertulia.egress.outputs.rtmp import STREAMS_LIMIT, StreamsOutput
from tertulia.protocol.errors import RequestError
from tests.unit.egress_outputs import media


@pytest.mark.parametrize(
    ("url", "parsed"),
    [
        ("rtmp://a.b/live/k", RtmpAddress("a.b", 1935, False, "live", "k")),
        ("rtmps://a.b/live/k", RtmpAddress("a.b", 443, True, "live", "k")),
        ("rtmp://a.b:99/x/y/k?s=1&t=2", RtmpAddress("a.b", 99, False, "x/y", "k?s=1&t=2")),
        ("rtmp://[::1]:99/live/k live=1", RtmpAddress("::1", 99, False, "live", "k")),
        ("mux://secret", RtmpAddress("global-live.mux.com", 443, True, "app", "secret")),
        ("twitch://k", RtmpAddress("ingest.global-contribute.live-video.net", 443, True, "app", "k")),
    ],
)
def test_rtmp_addresses(url: str, parsed: RtmpAddress) -> None:
    assert parse_rtmp(url) == parsed


def test_tc_url() -> None:
    assert parse_rtmp("rtmp://a.b/x/y/k").tc_url == "rtmp://a.b/x/y"
    assert parse_rtmp("rtmps://[::1]:99/x/k").tc_url == "rtmps://[::1]:99/x"


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd", "http://a/live/k", "gopher://a/live/k", "concat:a|b", "|cmd", "", "rtmp://", "rtmp://a",
        "rtmp://a/live", "rtmp://a/live/", "rtmp:///live/k", "rtmp://a:0/live/k", "rtmp://a:99999/live/k",
        "rtmp://u:p@a/live/k", "rtmp://a b/live/k", "rtmp://a/live/k\r\nx", "rtmp://a/live/" + "k" * 3000, "rtmpt://a/l/k",
    ],
)  # fmt: skip
def test_addresses_that_are_refused(url: str) -> None:
    with pytest.raises(RequestError, match="urls") as refused:
        parse_rtmp(url)
    assert refused.value.code == "invalid_argument"


def test_masks() -> None:
    assert [mask(s) for s in ("", "abc", "abcd", "abcdefgh", "abcdefghijkl")] == [
        "{...}", "{...}", "{a...d}", "{ab...gh}", "{abc...jkl}",
    ]  # fmt: skip
    assert masked_rtmp("rtmp://a.b/live/my-stream-key?token=hunter2xyz") == "rtmp://a.b/live/{my-...xyz}"
    assert masked_rtmp("mux://my-stream-key") == "mux://{my-...key}"
    assert masked_rtmp("rtmp://my-stream-key") == "rtmp://{my-...key}"
    assert masked_websocket("ws://a/b?token=hunter2hunter2&x") == "ws://a/b?token={hun...er2}&x"
    assert masked_websocket("ws://a/b") == "ws://a/b"


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "::1", "169.254.169.254", "10.1.2.3", "::ffff:10.0.0.1", "0.0.0.0", "100.64.0.1"]
)
async def test_private_networks(host: str) -> None:
    assert (host, 80) in await resolve(host, 80, AddressRules())
    with pytest.raises(AddressRefused, match="private network"):
        await resolve(host, 80, AddressRules(allow_private=False))


async def test_public_addresses_pass() -> None:
    assert await resolve("8.8.8.8", 80, AddressRules(allow_private=False)) == [("8.8.8.8", 80)]


async def test_streams_refuse_and_report() -> None:
    out = StreamsOutput(["rtmp://127.0.0.1:9/live/thekeyisasecret"], AddressRules(allow_private=False), Hooks())
    with pytest.raises(RequestError, match="already there") as twice:
        out.add("rtmp://127.0.0.1:9/live/thekeyisasecret")
    assert "thekeyisasecret" not in str(twice.value)
    with pytest.raises(RequestError, match="not there"):
        await out.remove("rtmp://127.0.0.1:9/live/other")
    with pytest.raises(RequestError, match="urls"):
        out.add("http://127.0.0.1/")
    for index in range(STREAMS_LIMIT - 1):
        out.add(f"rtmp://127.0.0.1:9/live/{index}")
    with pytest.raises(RequestError, match="at most"):
        out.add("rtmp://127.0.0.1:9/live/toomany")
    await out.close()
    await out.close()
    assert {info.status for info in out.result().streams} == {1}


async def test_a_private_address_fails_the_stream_when_refused() -> None:
    changed = asyncio.Event()
    out = StreamsOutput(["rtmp://127.0.0.1:9/live/k"], AddressRules(allow_private=False), Hooks(changed=changed.set))
    out.open([media.video()[0]], 0)
    async with asyncio.timeout(5):
        await changed.wait()
    assert out.failed is not None
    assert "private network" in out.failed
    await out.close()


async def test_a_mistake_of_ours_ends_one_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    async def wrong(*_: object) -> None:
        raise KeyError("thekeyisasecret")

    monkeypatch.setattr("tertulia.egress.outputs.rtmp_client.resolve", wrong)
    changed = asyncio.Event()
    out = StreamsOutput(["rtmp://127.0.0.1:9/live/k"], hooks=Hooks(changed=changed.set))
    out.open([media.video()[0]], 0)
    async with asyncio.timeout(5):
        await changed.wait()
    assert out.failed == "no stream is left: internal error"
    await out.close()


async def test_streams_take_h264_and_aac_only() -> None:
    out = StreamsOutput(["rtmp://127.0.0.1:9/live/k"])
    out.open([media.video("vp8")[0]], 0)
    out.write(media.video("vp8")[1][0])
    await out.close()
    assert out.failed == "RTMP carries H264 and AAC, not vp8"
