"""SRTP sessions: each has its own key, and the two directions their own rules."""

import struct
from concurrent.futures import ThreadPoolExecutor

import pytest
from pylibsrtp import Policy, Session

from tertulia.sfu.plane import srtp

PACKET = struct.pack("!BBHLL", 0x80, 111, 1, 2, 0xABCD) + bytes(100)


def by_hand(profile: int, key: bytes) -> bytes:
    """What a session with a policy of its own makes of the packet."""
    policy = Policy(key=key, ssrc_type=Policy.SSRC_ANY_OUTBOUND, srtp_profile=srtp.PROFILES[profile][0])
    return bytes(Session(policy=policy).protect(PACKET))


@pytest.mark.parametrize("profile", srtp.PROFILES)
def test_sessions_made_at_the_same_time_have_each_its_own_key(profile: int) -> None:
    keys = [number.to_bytes(srtp.PROFILES[profile][1], "big") for number in range(1, 2001)]
    with ThreadPoolExecutor(8) as pool:
        made = pool.map(lambda key: srtp.session(profile, key, outbound=True).protect(PACKET), keys)
        assert list(made) == [by_hand(profile, key) for key in keys]


@pytest.mark.parametrize("profile", srtp.PROFILES)
def test_directions_differ(profile: int) -> None:
    key = bytes(range(srtp.PROFILES[profile][1]))
    sender, receiver = srtp.session(profile, key, outbound=True), srtp.session(profile, key, outbound=False)
    protected = sender.protect(PACKET)
    assert sender.protect(PACKET) == protected  # repeated under its own number
    assert receiver.unprotect(protected) == PACKET
    with pytest.raises(srtp.Error) as again:
        receiver.unprotect(protected)
    assert srtp.is_replay(again.value)
