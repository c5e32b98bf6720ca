"""What a user of the official SDK reads when the door stays shut: our words, at once, and no endless retries."""

import asyncio
import sys
import time

import pytest

from tertulia.protocol.signing import build_token
from tertulia.protocol.token import Claims, VideoGrant
from tertulia.signal.backend import ROOM_FULL, ROOM_MISSING, Refused

from ..unit.signal.house import KEY, SECRET, Street, open_street

pytestmark = pytest.mark.interop

CLIENT = """
import asyncio, sys
from livekit import rtc

async def main(url, token):
    try:
        await rtc.Room().connect(url, token)
        print("connected")
    except rtc.ConnectError as error:
        print(error)

asyncio.run(main(*sys.argv[1:]))
"""


def token(lifetime_s: int = 600) -> str:
    claims = Claims(api_key=KEY, identity="ada", video=VideoGrant(room_join=True, room="tea"))
    return build_token(claims, SECRET, now_s=int(time.time()), lifetime_s=lifetime_s)


async def attempt(street: Street, access_token: str) -> str:
    """Connect with the Python SDK in a process of its own; what its user would read."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CLIENT, street.ws, access_token, stdout=-1, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        output, _ = await asyncio.wait_for(child.communicate(), 30)
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    return output.decode()


async def test_refusals_reach_the_user() -> None:
    async with open_street() as street:
        assert "the token expired" in await attempt(street, token(-100))
        assert "not an access token" in await attempt(street, "nonsense")
        for refusal in (Refused(403, ROOM_FULL), Refused(404, ROOM_MISSING), Refused(503, "draining")):
            street.house.refusal = refusal
            text = await attempt(street, token())
            assert refusal.text in text
            assert str(refusal.status) in text
