"""What a client is told first, and in how many pieces it leaves."""

import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import websockets
from livekit.protocol import models, rtc

from tertulia.protocol.signing import build_token
from tertulia.protocol.token import Claims, VideoGrant
from tertulia.signal import guard
from tertulia.signal.backend import JoinAttempt
from tertulia.signal.frames import frame_of
from tertulia.signal.guard import GuardedWebSocket

from .house import KEY, SECRET, Street, open_street

CLAIMS = Claims(api_key=KEY, identity="ada", video=VideoGrant(room_join=True, room="tea"))


class Recorder:
    """A transport that remembers what it was given at once."""

    def __init__(self, transport: Any, written: list[bytes]) -> None:
        self._transport = transport
        self._written = written

    def write(self, data: bytes) -> None:
        self._written.append(bytes(data))
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    pieces: list[bytes] = []
    made = GuardedWebSocket.connection_made
    monkeypatch.setattr(
        GuardedWebSocket, "connection_made", lambda self, transport: made(self, Recorder(transport, pieces))
    )
    return pieces


@pytest.fixture
async def street(written: list[bytes]) -> AsyncIterator[Street]:
    async with open_street() as street:
        yield street


async def hear(street: Street, count: int) -> list[rtc.SignalResponse]:
    token = build_token(CLAIMS, SECRET, now_s=int(time.time()), lifetime_s=600)
    async with websockets.connect(f"{street.ws}/rtc?access_token={token}", compression=None) as client:
        return [rtc.SignalResponse.FromString(bytes(await client.recv(decode=False))) for _ in range(count)]


async def test_the_answer_and_what_waits_leave_in_one_piece(street: Street, written: list[bytes]) -> None:
    join, later = await hear(street, 2)
    head, frames = written[0].split(b"\r\n\r\n", 1)
    assert head.startswith(b"HTTP/1.1 101")
    assert b"\r\nDate: " in head
    assert frames == frame_of(join.SerializeToString()) + frame_of(later.SerializeToString())


async def test_a_long_welcome_leaves_in_order_and_nothing_waits_beyond_the_bound(
    street: Street, written: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def welcome(attempt: JoinAttempt) -> rtc.JoinResponse:
        crowd = [models.ParticipantInfo(metadata="x" * 1000) for _ in range(100)]
        return rtc.JoinResponse(room=models.Room(name=attempt.room), other_participants=crowd)

    monkeypatch.setattr(street.house, "welcome", welcome)
    join, later = await hear(street, 2)
    assert len(join.join.other_participants) == 100
    assert later.refresh_token == "later"
    assert len(written[0]) > guard.MAX_GATHERED_BYTES
    assert written[1] == frame_of(later.SerializeToString())


async def test_a_silent_house_does_not_hold_back_the_answer(street: Street, written: list[bytes]) -> None:
    street.house.silent = True
    await hear(street, 0)
    assert written[0].startswith(b"HTTP/1.1 101")
    assert written[0].endswith(b"\r\n\r\n")
