"""/settings/regions and /ping over real sockets, and a house that does not answer a join."""

from collections.abc import AsyncIterator

import aiohttp
import pytest
import websockets
from google.protobuf import json_format
from livekit.protocol import rtc

from tertulia.signal.counts import Drop
from tertulia.signal.settings import DoorSettings

from .house import Street, open_street
from .test_door import connect, token


@pytest.fixture
async def street() -> AsyncIterator[Street]:
    async with open_street(DoorSettings(join_timeout_s=0.05)) as running:
        yield running


@pytest.fixture
async def http(street: Street) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(street.http) as session:
        yield session


async def test_regions(street: Street, http: aiohttp.ClientSession) -> None:
    async with http.get("/settings/regions", headers={"Authorization": f"Bearer {token()}"}) as answer:
        assert answer.status == 200
        assert answer.content_type == "application/json"
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert answer.headers["Cache-Control"] == "private, max-age=5"
        # zero is told, and numbers of 64 bits are text: the Rust SDK takes nothing else
        assert await answer.json() == {
            "regions": [
                {"region": "here", "url": f"ws://{street.host}:{street.port}", "distance": "0"},
                {"region": "there", "url": "wss://there", "distance": "7"},
            ]
        }
        settings = json_format.Parse(await answer.text(), rtc.RegionSettings())
    assert [region.distance for region in settings.regions] == [0, 7]
    async with http.post("/settings/regions", headers={"Authorization": f"Bearer {token()}"}) as answer:
        assert answer.status == 405


@pytest.mark.parametrize(
    ("headers", "url"),
    [
        ({"Host": "calls.example.org", "X-Forwarded-Proto": "https"}, "wss://calls.example.org"),
        ({"Host": "calls.example.org:8443", "X-Forwarded-Proto": "https, http"}, "wss://calls.example.org:8443"),
        ({"Host": "[::1]:7880"}, "ws://[::1]:7880"),
        ({"Host": "a/b"}, ""),
        ({"Host": 'x"><script>'}, ""),
        ({"Host": "user@evil"}, ""),
    ],
)
async def test_the_address_the_client_came_to(http: aiohttp.ClientSession, headers: dict[str, str], url: str) -> None:
    asked = {"Authorization": f"Bearer {token()}", **headers}
    async with http.get("/settings/regions", headers=asked) as answer:
        assert (await answer.json())["regions"][0]["url"] == url


@pytest.mark.parametrize("bearer", ["", "Bearer nonsense", f"Bearer {token(lifetime_s=-300)}", "Basic x"])
async def test_regions_need_a_valid_token(http: aiohttp.ClientSession, bearer: str) -> None:
    async with http.get("/settings/regions", headers={"Authorization": bearer} if bearer else {}) as answer:
        assert answer.status == 401
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert "there" not in (await answer.text()).split()


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_ping(http: aiohttp.ClientSession, method: str) -> None:
    async with http.request(method, "/ping", headers={"Origin": "https://app.example.org"}) as answer:
        assert (answer.status, await answer.text()) == (200, "")
        about = answer.headers
    assert about["Tertulia-Node"] == "ND_tea"
    assert about["Tertulia-Region"] == "s%C3%B6ul%0D%0Ax: y"  # whatever the operator calls it, a header it stays
    assert "x" not in about
    assert (about["Timing-Allow-Origin"], about["Cache-Control"]) == ("*", "no-store")
    assert (about["Access-Control-Allow-Origin"], about["Access-Control-Expose-Headers"]) == ("*", "*")


async def test_ping_is_get_or_head(http: aiohttp.ClientSession) -> None:
    async with http.post("/ping", data=b"x") as answer:
        assert answer.status == 405


async def test_a_house_that_hangs(street: Street, http: aiohttp.ClientSession) -> None:
    """The client is told to come again, the attempt is cancelled, and the next one is let in."""
    street.house.hanging = True
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with connect(street):
            pass
    assert refused.value.response.status_code == 503
    assert refused.value.response.headers["Retry-After"] == "1"
    async with http.get("/rtc/validate", headers={"Authorization": f"Bearer {token()}"}) as answer:
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
    assert street.house.cancelled == 2
    assert street.front.counts[Drop.JOIN_TIMEOUT] == 2
    assert street.front.door.sessions == {}
    street.house.hanging = False
    async with connect(street) as ws:
        assert await ws.recv()
