"""SRTP sessions of a transport through pylibsrtp, and the addresses of libsrtp's functions for the compiled life.

One session serves one thread at a time (a lock in the plane sees to that) and few SSRCs: libsrtp looks them up one by
one, so rows beyond `SSRCS_PER_SESSION` get another session with the same key. Streams appear with the first packet of
an SSRC and go only when removed.
"""

from typing import Any

from pylibsrtp import Error, Policy, Session, _binding

ffi: Any = _binding.ffi
lib: Any = _binding.lib

WINDOW_PACKETS = 1024
OUTBOUND_WINDOW_PACKETS = 128
"""How far back a packet may be sent again under its own SSRC; libsrtp shifts this many bits per packet."""
PROFILES = {
    0x0001: (Policy.SRTP_PROFILE_AES128_CM_SHA1_80, 30),
    0x0007: (Policy.SRTP_PROFILE_AEAD_AES_128_GCM, 28),
}
CALLED_PER_PACKET = ("srtp_protect", "srtp_unprotect", "srtp_protect_rtcp", "srtp_unprotect_rtcp")
SIGNATURE = "srtp_err_status_t(*)(struct srtp_ctx_t_ *, void *, int *)"
REMOVE_SIGNATURE = "srtp_err_status_t(*)(struct srtp_ctx_t_ *, unsigned int)"
REPLAYED = ("replay check failed (bad index)", "replay check failed (index too old)")


class NoPointers(Exception):
    """libsrtp cannot be called by address here; the text says what differs."""


def session(profile: int, key: bytes, outbound: bool) -> Session:
    """A session for every SSRC of one direction. Raises ValueError for a profile or key length we do not speak."""
    if profile not in PROFILES:
        raise ValueError(f"SRTP profile {profile:#06x} is not supported")
    srtp_profile, length = PROFILES[profile]
    if len(key) != length:
        raise ValueError(f"SRTP key and salt must be {length} bytes, not {len(key)}")
    policy = Policy(
        key=key,
        ssrc_type=Policy.SSRC_ANY_OUTBOUND if outbound else Policy.SSRC_ANY_INBOUND,
        srtp_profile=srtp_profile,
    )
    policy.allow_repeat_tx = outbound
    policy.window_size = OUTBOUND_WINDOW_PACKETS if outbound else WINDOW_PACKETS
    return Session(policy=policy)


def is_replay(error: Error) -> bool:
    return any(text in str(error) for text in REPLAYED)


def pointer(of: Session) -> int:
    """The address of the C session; valid while the object lives."""
    return int(ffi.cast("uintptr_t", of._srtp[0]))


def functions() -> tuple[int, int, int, int, int]:
    """Addresses of srtp_protect, unprotect, protect_rtcp, unprotect_rtcp and remove_stream.

    Raises NoPointers when the library behind pylibsrtp is not the one we know.
    """
    found = []
    wanted = dict.fromkeys(CALLED_PER_PACKET, SIGNATURE) | {"srtp_remove_stream": REMOVE_SIGNATURE}
    for name, expected in wanted.items():
        try:
            address = ffi.addressof(lib, name)
        except AttributeError as error:
            raise NoPointers(f"pylibsrtp has no {name}") from error
        signature = ffi.typeof(address).cname
        if signature != expected:
            raise NoPointers(f"{name} is {signature}, not {expected}")
        found.append(int(ffi.cast("uintptr_t", address)))
    return found[0], found[1], found[2], found[3], found[4]
