"""The front door over real sockets, with official clients: routes, refusals, sessions, Twirp."""

import asyncio
import base64
import datetime
import gzip
import json
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import websockets
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from livekit import api
from livekit.protocol import models, rtc
from websockets.asyncio.client import ClientConnection

from tertulia.protocol.errors import RequestError
from tertulia.protocol.signing import build_token
from tertulia.protocol.token import Claims, VideoGrant
from tertulia.signal.backend import ROOM_FULL, ROOM_MISSING, Readiness
from tertulia.signal.counts import Drop
from tertulia.signal.http import Receive, Scope, Send, respond
from tertulia.signal.server import BindError, FrontDoor
from tertulia.signal.settings import DoorSettings

from .house import KEY, KEYS, SECRET, House, Refused, Street, open_street


@pytest.fixture
async def street() -> AsyncIterator[Street]:
    async with open_street() as running:
        yield running


@pytest.fixture
async def http(street: Street) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(street.http) as session:
        yield session


def token(identity: str = "ada", lifetime_s: int = 600, **grants: Any) -> str:
    grants = {"room_join": True, "room": "tea", **grants}
    claims = Claims(api_key=KEY, identity=identity, video=VideoGrant(**grants))
    return build_token(claims, SECRET, now_s=int(time.time()), lifetime_s=lifetime_s)


def join_request(compressed: bool = True, **fields: Any) -> str:
    fields.setdefault("connection_settings", rtc.ConnectionSettings(auto_subscribe=True))
    data = rtc.JoinRequest(**fields).SerializeToString()
    wrapped = rtc.WrappedJoinRequest(compression="GZIP" if compressed else "NONE")
    wrapped.join_request = gzip.compress(data) if compressed else data
    return base64.urlsafe_b64encode(wrapped.SerializeToString()).decode()


def connect(street: Street, path: str = "/rtc/v1", /, bearer: str | None = None, **kwargs: Any) -> Any:
    if "join_request" not in path and path.endswith("/rtc/v1"):
        path += f"?join_request={join_request()}"
    headers = {"Authorization": f"Bearer {bearer or token()}"}
    return websockets.connect(street.ws + path, additional_headers=headers, compression=None, **kwargs)


async def response(ws: ClientConnection) -> rtc.SignalResponse:
    data = await asyncio.wait_for(ws.recv(), 5)
    assert isinstance(data, bytes)
    return rtc.SignalResponse.FromString(data)


# ----------------------------------------------------------------------------------------------- http


async def test_small_routes(street: Street, http: aiohttp.ClientSession) -> None:
    for path, body in (("/", "OK"), ("/healthz", "OK"), ("/readyz", "ready"), ("/metrics", "tertulia_rooms 0\n")):
        async with http.get(path) as answer:
            assert (answer.status, await answer.text()) == (200, body)
            assert answer.headers["Access-Control-Allow-Origin"] == "*"
        async with http.head(path) as answer:
            assert answer.status == 200
        async with http.post(path) as answer:
            assert answer.status == 405
    for path in ("/nothing", "/rtc", "/rtc/v1", "/agent", "/settings", "/rtc/../etc", "/%2e%2e/x"):
        async with http.get(path) as answer:
            assert answer.status == 404
            assert answer.headers["Access-Control-Allow-Origin"] == "*"
    street.house.ready = Readiness(False, ("redis is away", "disk full"))
    async with http.get("/readyz") as answer:
        assert (answer.status, await answer.text()) == (503, "redis is away\ndisk full")
    async with http.get("/") as answer:
        assert (answer.status, await answer.text()) == (406, "Not Ready")
    async with http.get("/healthz") as answer:
        assert answer.status == 200


async def test_preflight(http: aiohttp.ClientSession) -> None:
    asked = {"Access-Control-Request-Headers": "authorization,content-type", "Origin": "https://somewhere.example"}
    async with http.options("/twirp/livekit.RoomService/ListRooms", headers=asked) as answer:
        assert answer.status == 204
        assert answer.headers["Access-Control-Allow-Headers"] == "authorization,content-type"
        assert "POST" in answer.headers["Access-Control-Allow-Methods"]
        assert answer.headers["Access-Control-Max-Age"] == "86400"
    async with http.options("/rtc/validate", headers={"Access-Control-Request-Headers": "a;b"}) as answer:
        assert answer.headers["Access-Control-Allow-Headers"] == "*"


async def test_pages_get_what_is_not_ours(http: aiohttp.ClientSession) -> None:
    async def pages(scope: Scope, receive: Receive, send: Send) -> None:
        await respond(scope, send, 200, f"page {scope['path']}")

    async with open_street(pages=pages) as street, aiohttp.ClientSession(street.http) as session:
        for path, headers, body in (
            ("/", {"Accept": "text/html,*/*"}, "page /"),
            ("/", {}, "OK"),
            ("/assets/x.js", {}, "page /assets/x.js"),
            ("/healthz", {"Accept": "text/html"}, "OK"),
        ):
            async with session.get(path, headers=headers) as answer:
                assert await answer.text() == body


@pytest.mark.parametrize("path", ["/rtc/validate", "/rtc/v1/validate"])
async def test_validate(street: Street, http: aiohttp.ClientSession, path: str) -> None:
    query = {"join_request": join_request()} if "v1" in path else {}

    async def validate(**params: str) -> tuple[int, str]:
        async with http.get(path, params={**query, **params}) as answer:
            assert answer.headers["Access-Control-Allow-Origin"] == "*"
            return answer.status, await answer.text()

    assert await validate(access_token=token()) == (200, "success")
    status, text = await validate(access_token=token(lifetime_s=-3600))
    assert status == 401
    assert "the token expired 36" in text
    assert "no access token" in (await validate())[1]
    assert await validate(access_token=token(room="")) == (
        400,
        "room name is required: the token's video.room is empty and so is the query's `room`",
    )
    assert (await validate(access_token=token(room=""), room="x"))[0] == 200
    assert (await validate(access_token=token(identity="")))[0] == 400
    assert (await validate(access_token=token(room_join=False)))[0] == 401
    street.house.refusal = Refused(404, ROOM_MISSING)
    assert await validate(access_token=token()) == (404, ROOM_MISSING)
    street.house.refusal = Refused(403, ROOM_FULL)
    assert await validate(access_token=token()) == (403, ROOM_FULL)
    street.house.refusal = RequestError("resource_exhausted", "enough")
    assert await validate(access_token=token()) == (429, "enough")
    street.house.refusal = RequestError("not_found", "no such preset")
    assert await validate(access_token=token()) == (403, "no such preset")
    street.house.refusal = KeyError("bug")
    assert await validate(access_token=token()) == (500, "internal error")


# -------------------------------------------------------------------------------------------- sessions


async def test_v1_join_ping_request_leave(street: Street) -> None:
    offer = rtc.SessionDescription(type="offer", sdp="v=0", id=1)
    info = models.ClientInfo(sdk="JS", version="2.23.0", protocol=17, client_protocol=2)
    path = "/rtc/v1?join_request=" + join_request(client_info=info, publisher_offer=offer)
    agent = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
    async with connect(street, path, user_agent_header=agent) as ws:
        first = await response(ws)
        assert first.WhichOneof("message") == "join"
        assert first.join.participant.identity == "ada"
        assert (await response(ws)).refresh_token == "later", "held back until join was out"
        await ws.send(rtc.SignalRequest(ping=7).SerializeToString())
        assert abs((await response(ws)).pong - time.time() * 1000) < 60_000
        await ws.send(rtc.SignalRequest(ping_req=rtc.Ping(timestamp=5, rtt=1)).SerializeToString())
        pong = (await response(ws)).pong_resp
        assert pong.last_ping_timestamp == 5
        assert abs(pong.timestamp - time.time() * 1000) < 60_000
        await ws.send(rtc.SignalRequest(leave=rtc.LeaveRequest()).SerializeToString())
        await asyncio.wait_for(ws.wait_closed(), 5)
        assert ws.close_code == 1000
    (attempt,) = street.house.attempts
    assert attempt.single_connection
    assert attempt.auto_subscribe
    assert not attempt.allow_pause
    assert attempt.offer == offer
    assert attempt.room == "tea"
    assert (attempt.client.browser, attempt.client.os) == ("Firefox", "Linux")
    assert attempt.client.address == "127.0.0.1"
    assert [message.WhichOneof("message") for _, message in street.house.requests] == ["leave"]
    assert street.house.closed.empty(), "the house ended it: nothing to tell"


async def test_v0_join_as_the_python_sdk_asks(street: Street) -> None:
    query = (
        "sdk=python&os=Debian&os_version=12.0.0&device_model=Unknown&protocol=18&client_protocol=2&auto_subscribe=1"
        "&adaptive_stream=0&version=1.2.0&capabilities=CAP_PACKET_TRAILER,CAP_COMPRESSION_DEFLATE_RAW,CAP_NEW"
    )
    async with connect(street, f"//rtc?{query}") as ws:
        assert (await response(ws)).HasField("join")
    (attempt,) = street.house.attempts
    assert not attempt.single_connection
    assert attempt.auto_subscribe
    assert not attempt.adaptive_stream
    client = attempt.client
    assert models.ClientInfo.SDK.Name(client.sdk) == "PYTHON"
    assert (client.protocol, client.client_protocol, client.version, client.os) == (18, 2, "1.2.0", "Debian")
    assert list(client.capabilities) == [1, 2]
    assert await street.gone() == "client_closed"


async def test_v0_defaults_and_resume(street: Street) -> None:
    async with connect(street, "/rtc/?reconnect=1&sid=PA_x&reconnect_reason=2"):
        pass
    (attempt,) = street.house.attempts
    assert attempt.auto_subscribe, "the default of v0 is yes"
    assert attempt.reconnect
    assert (attempt.participant_sid, attempt.reconnect_reason) == ("PA_x", 2)


async def test_wishes_of_a_client_that_may_have_them(street: Street) -> None:
    allowed = token(can_update_own_metadata=True)
    wishes = base64.urlsafe_b64encode(json.dumps({"hand": "up", "role": ""}).encode()).decode()
    async with connect(street, f"/rtc?metadata=m&attributes={wishes}", allowed):
        pass
    path = "/rtc/v1?join_request=" + join_request(metadata="m", participant_attributes={"hand": "up", "role": ""})
    async with connect(street, path, allowed):
        pass
    for attempt in street.house.attempts:
        assert (attempt.metadata, attempt.attributes) == ("m", {"hand": "up"})
    for bad in ("%%%", "e30x", base64.b64encode(b"[1]").decode(), base64.b64encode(b'{"a":1}').decode()):
        assert (await refused(street, f"/rtc?attributes={bad}", allowed))[0] == 400


async def test_tls(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    certificate = made.sign(key, hashes.SHA256())
    pem = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (tmp_path / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (tmp_path / "key.pem").write_bytes(key.private_bytes(*pem))
    front = FrontDoor(House(), KEYS)
    await front.start(["127.0.0.1"], 0, certificate=str(tmp_path / "cert.pem"), private_key=str(tmp_path / "key.pem"))
    trust = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
    trust.check_hostname = False
    url = f"wss://127.0.0.1:{front.addresses[0][1]}/rtc?access_token={token()}"
    async with websockets.connect(url, ssl=trust) as ws:
        assert (await response(ws)).HasField("join")
    await front.stop(grace_s=1)


async def test_several_addresses_and_one_that_is_taken() -> None:
    front = FrontDoor(House(), KEYS)
    await front.start(["127.0.0.1", "::1", "127.0.0.1"], 0)
    assert [host for host, _ in front.addresses] == ["127.0.0.1", "::1"]
    (port,) = {port for _, port in front.addresses}
    async with aiohttp.ClientSession() as http, http.get(f"http://[::1]:{port}/healthz") as answer:
        assert answer.status == 200
    with pytest.raises(BindError, match=rf"cannot listen on 127.0.0.1 port {port}: Address already in use"):
        await FrontDoor(House(), KEYS).start(["127.0.0.1"], port)
    with pytest.raises(BindError, match=r"cannot listen on 'no.such.host.invalid'"):
        await FrontDoor(House(), KEYS).start(["no.such.host.invalid"], 0)
    await front.stop(grace_s=0)


async def test_zero_is_no_limit() -> None:
    none = DoorSettings(
        body_bytes=0, body_timeout_s=0, command_timeout_s=0, message_bytes=0, connections_per_s=0, upgrades_per_s=0
    )
    async with open_street(none) as street, connect(street) as ws:
        await response(ws), await response(ws)
        await ws.send(rtc.SignalRequest(offer=rtc.SessionDescription(sdp="x" * 3_000_000)).SerializeToString())
        await ws.send(rtc.SignalRequest(ping=1).SerializeToString())
        assert (await response(ws)).HasField("pong")
        assert len(street.house.requests[0][1].offer.sdp) == 3_000_000
        async with admin(street) as lk:
            assert (await lk.room.create_room(api.CreateRoomRequest(name="tea"))).name == "tea"


async def test_legacy_publish_suffix(street: Street) -> None:
    async with connect(street, "/rtc?publish=screen"):
        pass
    (attempt,) = street.house.attempts
    assert attempt.claims.identity == "ada#screen"
    assert attempt.claims.video is not None
    assert attempt.claims.video.can_subscribe is False


async def refused(street: Street, path: str, bearer: str | None = None) -> tuple[int, str]:
    with pytest.raises(websockets.InvalidStatus) as caught:
        async with connect(street, path, bearer):
            pass
    answer = caught.value.response
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    return answer.status_code, (answer.body or b"").decode()


async def test_refusals_before_the_upgrade(street: Street, caplog: pytest.LogCaptureFixture) -> None:
    v1 = "/rtc/v1?join_request="
    status, text = await refused(street, "/rtc", token(lifetime_s=-100))
    assert status == 401
    assert "the token expired 10" in text
    assert (await refused(street, "/rtc", "nonsense"))[0] == 401
    assert await refused(street, v1) == (400, "join_request is required")
    assert await refused(street, v1 + "!!!") == (400, "join_request is not base64")
    assert (await refused(street, v1 + "AAAA"))[0] == 400
    bomb = rtc.WrappedJoinRequest(compression="GZIP", join_request=gzip.compress(bytes(50_000_000)))
    encoded = base64.urlsafe_b64encode(bomb.SerializeToString()).decode()
    assert await refused(street, v1 + encoded[:60_000]) == (400, "join_request is not a WrappedJoinRequest")
    small = rtc.WrappedJoinRequest(compression="GZIP", join_request=gzip.compress(bytes(10_000_000)))
    encoded = base64.urlsafe_b64encode(small.SerializeToString()).decode()
    assert "1048576 bytes when decompressed" in (await refused(street, v1 + encoded))[1]
    cut = rtc.WrappedJoinRequest(compression="GZIP", join_request=gzip.compress(b"x" * 99)[:-9])
    encoded = base64.urlsafe_b64encode(cut.SerializeToString()).decode()
    assert "cut off" in (await refused(street, v1 + encoded))[1]
    odd = rtc.WrappedJoinRequest(compression=7)
    encoded = base64.urlsafe_b64encode(odd.SerializeToString()).decode()
    assert "unknown compression (7)" in (await refused(street, v1 + encoded))[1]
    assert (await refused(street, v1 + join_request(metadata="x")))[0] == 401
    tracks = [rtc.AddTrackRequest(cid="c")] * 21
    assert (await refused(street, v1 + join_request(add_track_requests=tracks)))[0] == 400
    assert (await refused(street, "/agent"))[0] == 501
    assert (await refused(street, "/nowhere"))[0] == 404
    street.house.refusal = Refused(503, "resources not available", retry_after_s=3)
    assert await refused(street, v1 + join_request()) == (503, "resources not available")
    assert not [record for record in caplog.records if record.name.startswith("uvicorn")]
    assert not street.house.attempts
    assert street.house.closed.empty()


async def test_base64_in_every_dress(street: Street) -> None:
    padded = join_request(participant_sid="~~~???>>>", compressed=False)
    standard = padded.replace("-", "+").replace("_", "/")
    assert padded != standard, "the test needs both special characters"
    for text in (padded, padded.rstrip("="), standard, standard.replace("+", "%2B")):
        async with connect(street, f"/rtc/v1?join_request={text}"):
            pass
        assert street.house.attempts[-1].participant_sid == "~~~???>>>"


async def test_long_uncompressed_join_request(street: Street) -> None:
    offer = rtc.SessionDescription(type="offer", sdp="a=x\r\n" * 6_000, id=1)
    path = "/rtc/v1?join_request=" + join_request(publisher_offer=offer, compressed=False)
    assert len(path) > 40_000
    async with connect(street, path) as ws:
        assert (await response(ws)).HasField("join")
    assert street.house.attempts[0].offer == offer


async def test_json_client_gets_json(street: Street) -> None:
    async with connect(street) as ws:
        await response(ws), await response(ws)
        await ws.send('{"pingReq": {"timestamp": "12"}, "somethingNew": 1}')
        answer = await asyncio.wait_for(ws.recv(), 5)
        assert isinstance(answer, str)
        assert json.loads(answer)["pongResp"]["lastPingTimestamp"] == "12"


async def test_garbage_is_counted_and_then_the_session_ends(street: Street) -> None:
    async with connect(street) as ws:
        await response(ws)
        await ws.send(b"")
        await ws.send(rtc.SignalRequest().SerializeToString() + b"\xf8\x07\x01")  # a field of the future
        for _ in range(11):
            await ws.send(b"\xff\xff\xff\xff")
        await asyncio.wait_for(ws.wait_closed(), 5)
        assert ws.close_code == 1007
    assert await street.gone() == "garbage"
    assert street.front.counts[Drop.GARBAGE] == 11
    assert street.front.counts[Drop.UNKNOWN_REQUEST] == 2


async def test_a_bug_in_the_house_ends_one_session(street: Street) -> None:
    async with connect(street) as ws, connect(street, bearer=token("bob")) as other:
        await response(ws), await response(other), await response(other)
        await ws.send(rtc.SignalRequest(simulate=rtc.SimulateScenario(speaker_update=1)).SerializeToString())
        await asyncio.wait_for(ws.wait_closed(), 5)
        assert ws.close_code == 1011
        assert await street.gone() == "failed"
        await other.send(rtc.SignalRequest(ping=1).SerializeToString())
        assert (await response(other)).HasField("pong")


async def test_leave_is_flushed_before_the_close(street: Street) -> None:
    async with connect(street) as ws:
        await response(ws), await response(ws)
        (outlet,) = street.house.outlets.values()
        for _ in range(500):
            outlet.send(rtc.SignalResponse(refresh_token="x" * 1000))
        outlet.send(rtc.SignalResponse(leave=rtc.LeaveRequest(reason="SERVER_SHUTDOWN")))
        outlet.end()
        outlet.send(rtc.SignalResponse(refresh_token="too late"))
        received = [await response(ws) for _ in range(501)]
        assert received[-1].leave.reason == models.DisconnectReason.Value("SERVER_SHUTDOWN")
        await asyncio.wait_for(ws.wait_closed(), 5)
        assert ws.close_code == 1000
    assert street.house.closed.empty()


async def test_client_that_vanishes(street: Street) -> None:
    async with connect(street) as ws:
        await response(ws)
        ws.transport.abort()
        assert await street.gone() == "connection_lost"
    assert not street.front.door.sessions


async def test_stop_lets_sessions_flush(street: Street) -> None:
    async with connect(street) as ws:
        await response(ws), await response(ws)
        stopping = asyncio.create_task(street.front.stop(grace_s=5))
        (outlet,) = street.house.outlets.values()
        outlet.send(rtc.SignalResponse(leave=rtc.LeaveRequest(reason="SERVER_SHUTDOWN")))
        outlet.end()
        assert (await response(ws)).HasField("leave")
        await asyncio.wait_for(ws.wait_closed(), 5)
        assert ws.close_code == 1000
        await asyncio.wait_for(stopping, 5)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(street.host, street.port)


async def test_upgrade_rate_of_one_address() -> None:
    async with open_street(DoorSettings(upgrades_per_s=0.01, upgrades_burst=3)) as street:
        for _ in range(3):
            async with connect(street):
                pass
        status, text = await refused(street, "/rtc")
        assert status == 429
        assert "too many joins" in text
        assert street.front.counts[Drop.UPGRADE_RATE] == 1


async def test_session_limit_and_forwarded_addresses() -> None:
    settings = DoorSettings(sessions=1, trusted_proxies=("127.0.0.0/8",))
    async with open_street(settings) as street, connect(street) as ws:
        await response(ws)
        assert (await refused(street, "/rtc"))[0] == 503
    async with open_street(settings) as street:
        headers = {"Authorization": f"Bearer {token()}", "X-Forwarded-For": "9.9.9.9, 203.0.113.7, 127.0.0.9"}
        async with websockets.connect(f"{street.ws}/rtc", additional_headers=headers) as ws:
            await response(ws)
        assert street.house.attempts[0].client.address == "203.0.113.7"


# ---------------------------------------------------------------------------------------------- twirp


def admin(street: Street, **grants: Any) -> api.LiveKitAPI:
    made = api.AccessToken(KEY, SECRET).with_grants(api.VideoGrants(**grants)).to_jwt()
    return api.LiveKitAPI(street.http, token=made) if grants else api.LiveKitAPI(street.http, KEY, SECRET)


async def test_twirp_with_the_official_client(street: Street) -> None:
    async with admin(street) as lk:
        created = await lk.room.create_room(api.CreateRoomRequest(name="tea", max_participants=4))
        assert (created.name, created.max_participants) == ("tea", 4)
        listed = await lk.room.list_rooms(api.ListRoomsRequest())
        assert [one.name for one in listed.rooms] == ["tea"]
        with pytest.raises(api.TwirpError) as caught:
            await lk.room.get_participant(api.RoomParticipantIdentity(room="tea", identity="x"))
        assert (caught.value.code, caught.value.status) == ("not_found", 404)
        assert caught.value.message == "participant does not exist"
        with pytest.raises(api.TwirpError) as caught:
            await lk.egress.list_egress(api.ListEgressRequest())
        assert (caught.value.code, caught.value.status) == ("unimplemented", 501)
    assert [command.service for command in street.house.commands] == ["RoomService"] * 3 + ["Egress"]


async def twirp(
    http: aiohttp.ClientSession, method: str, body: Any, bearer: str | None = None, **kwargs: Any
) -> tuple[int, Any]:
    kwargs.setdefault("headers", {})["Authorization"] = f"Bearer {bearer or token(room_create=True, room_list=True)}"
    kwargs["headers"].setdefault("Content-Type", "application/json")
    data = body if isinstance(body, bytes) else json.dumps(body)
    async with http.post(f"/twirp/livekit.{method}", data=data, **kwargs) as answer:
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        return answer.status, await answer.json()


async def test_twirp_json(http: aiohttp.ClientSession) -> None:
    for body in ({"name": "a", "maxParticipants": 3}, {"name": "b", "max_participants": 3, "not_known": True}):
        status, made = await twirp(http, "RoomService/CreateRoom", body)
        assert status == 200
        assert made["max_participants"] == 3
        assert made["creation_time"] == "0", "unset fields are written, 64-bit numbers as text"
    assert (await twirp(http, "RoomService/ListRooms", b""))[0] == 200


async def test_twirp_errors(street: Street, http: aiohttp.ClientSession) -> None:
    async def failure(*args: Any, **kwargs: Any) -> tuple[int, str]:
        status, body = await twirp(http, *args, **kwargs)
        assert isinstance(body["msg"], str)
        return status, body["code"]

    admin = token(room_admin=True, room="tea")
    assert await failure("RoomService/Nothing", {}) == (404, "bad_route")
    assert await failure("NoService/X", {}) == (404, "bad_route")
    assert await failure("RoomService/ListRooms", {}, headers={"Content-Type": "text/plain"}) == (404, "bad_route")
    assert await failure("RoomService/ListRooms", b"{") == (400, "malformed")
    assert await failure("RoomService/ListRooms", b'{"names": 3}') == (400, "malformed")
    assert await failure("RoomService/ListRooms", b"[" * 100_000) == (400, "malformed")
    assert await failure("RoomService/ListRooms", b"\xff\xfe") == (400, "malformed")
    protobuf = {"Content-Type": "application/protobuf"}
    assert await failure("RoomService/ListRooms", b"\xff\xff\xff", headers=protobuf) == (400, "malformed")
    remove = {"room": "tea", "identity": "x"}
    assert await failure("RoomService/RemoveParticipant", remove, admin) == (500, "internal")
    assert await failure("RoomService/DeleteRoom", {"room": "tea"}) == (501, "unimplemented")
    async with http.get("/twirp/livekit.RoomService/ListRooms") as answer:
        assert answer.status == 404
        assert (await answer.json())["code"] == "bad_route"
    async with http.post(
        "/twirp/livekit.RoomService/ListRooms", headers={"Content-Type": "application/json"}
    ) as answer:
        assert answer.status == 401
        assert (await answer.json())["code"] == "unauthenticated"


async def test_bodies_are_read_only_for_those_who_may(http: aiohttp.ClientSession) -> None:
    names = {"names": ["some room"] * 30_000}
    status, answer = await twirp(http, "RoomService/ListRooms", names)
    assert (status, answer) == (200, {"rooms": []})
    status, answer = await twirp(http, "RoomService/ListRooms", b"[" * 1_000_000, token(room_admin=True))
    assert (status, answer["code"]) == (401, "unauthenticated"), "not 400: it was not looked at"
    status, answer = await twirp(http, "RoomService/ListRooms", b" " * 3_000_000)
    assert (status, answer["code"]) == (413, "malformed")


@pytest.mark.parametrize(
    ("method", "body", "grants", "missing"),
    [
        ("RoomService/CreateRoom", {"name": "x"}, {}, "video.roomCreate"),
        ("RoomService/DeleteRoom", {"room": "tea"}, {"room_admin": True}, "video.roomCreate"),
        ("RoomService/ListRooms", {}, {"room_create": True}, "video.roomList"),
        ("RoomService/ListParticipants", {"room": "tea"}, {"room_create": True}, "video.roomAdmin"),
        ("RoomService/ListParticipants", {"room": "other"}, {"room_admin": True}, "video.roomAdmin for room 'other'"),
        ("RoomService/MoveParticipant", {"room": "tea", "destination_room": "b"}, {"room_admin": True}, "destination"),
        ("AgentDispatchService/ListDispatch", {"room": "tea"}, {}, "video.roomAdmin"),
        ("Egress/ListEgress", {}, {"room_admin": True}, "video.roomRecord"),
        ("Ingress/ListIngress", {}, {}, "video.ingressAdmin"),
        ("SIP/ListSIPTrunk", {}, {}, "sip.admin"),
        ("SIP/CreateSIPParticipant", {}, {}, "sip.call"),
    ],
)
async def test_missing_grants(
    street: Street, http: aiohttp.ClientSession, method: str, body: Any, grants: Any, missing: str
) -> None:
    status, answer = await twirp(http, method, body, token(**grants))
    assert (status, answer["code"]) == (401, "unauthenticated")
    assert answer["msg"].startswith("permissions denied")
    assert missing in answer["msg"]
    assert not street.house.commands


async def test_long_bodies_and_slow_commands() -> None:
    settings = DoorSettings(body_bytes=1000, command_timeout_s=0.2)
    async with open_street(settings) as street, aiohttp.ClientSession(street.http) as http:
        status, body = await twirp(http, "RoomService/CreateRoom", {"name": "x" * 2000})
        assert (status, body["code"]) == (413, "malformed")
        status, body = await twirp(http, "RoomService/SendData", {"room": "tea"}, token(room_admin=True))
        assert (status, body["code"]) == (408, "deadline_exceeded")
