"""SRTP sessions of a transport through pylibsrtp, and the addresses the compiled life calls per packet.

One session serves one thread at a time (a lock in the plane sees to that) and few SSRCs: libsrtp looks them up one by
one, so rows beyond `SSRCS_PER_SESSION` get another session with the same key. Streams appear with the first packet of
an SSRC and go only when removed.

The compiled life does the AES-GCM profile itself (RFC 7714), with the AES-GCM of Intel's multi-buffer crypto library,
made for packets, or with that of the OpenSSL that libsrtp brings along: libsrtp does the same around the latter for
half as much again. The other profile stays libsrtp's, and so does everything where neither is to be had.
"""

import ctypes
import functools
from typing import Any

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from pylibsrtp import Error, Policy, Session, _binding

ffi: Any = _binding.ffi
lib: Any = _binding.lib

WINDOW_PACKETS = 1024
OUTBOUND_WINDOW_PACKETS = 128
"""How far back a packet may be sent again under its own SSRC; libsrtp shifts this many bits per packet."""
GCM = 0x0007
PROFILES = {
    0x0001: (Policy.SRTP_PROFILE_AES128_CM_SHA1_80, 30),
    GCM: (Policy.SRTP_PROFILE_AEAD_AES_128_GCM, 28),
}
CALLED_PER_PACKET = ("srtp_protect", "srtp_unprotect", "srtp_protect_rtcp", "srtp_unprotect_rtcp")
SIGNATURE = "srtp_err_status_t(*)(struct srtp_ctx_t_ *, void *, int *)"
REMOVE_SIGNATURE = "srtp_err_status_t(*)(struct srtp_ctx_t_ *, unsigned int)"
EVP = (
    *("EVP_CIPHER_CTX_new", "EVP_CIPHER_CTX_free", "EVP_CipherInit_ex", "EVP_CipherUpdate"),
    *("EVP_CipherFinal_ex", "EVP_CIPHER_CTX_get_params", "EVP_CIPHER_CTX_set_params"),
)
SUPPLIERS = ("multi-buffer", "openssl")
"""Of AES-GCM, the fastest first."""
REPLAYED = ("replay check failed (bad index)", "replay check failed (index too old)")


class NoPointers(Exception):
    """libsrtp cannot be called by address here; the text says what differs."""


def session(profile: int, key: bytes, outbound: bool) -> Session:
    """A session for every SSRC of one direction. Raises ValueError for a profile or key length we do not speak."""
    check(profile, key)
    policy = Policy(
        key=key,
        ssrc_type=Policy.SSRC_ANY_OUTBOUND if outbound else Policy.SSRC_ANY_INBOUND,
        srtp_profile=PROFILES[profile][0],
    )
    policy.allow_repeat_tx = outbound
    policy.window_size = OUTBOUND_WINDOW_PACKETS if outbound else WINDOW_PACKETS
    return Session(policy=policy)


def check(profile: int, key: bytes) -> None:
    """Raises ValueError for a profile we do not speak, or a key with salt that is too short or too long for it."""
    if profile not in PROFILES:
        raise ValueError(f"SRTP profile {profile:#06x} is not supported")
    if len(key) != PROFILES[profile][1]:
        raise ValueError(f"SRTP key and salt must be {PROFILES[profile][1]} bytes, not {len(key)}")


def is_replay(error: Error) -> bool:
    return any(text in str(error) for text in REPLAYED)


def pointer(of: Session) -> int:
    """The address of the C session; valid while the object lives."""
    return int(ffi.cast("uintptr_t", of._srtp[0]))


def session_keys(key: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    """(encryption key, salt) of RTP, then of RTCP, from a master key and salt of the AES-GCM profile (RFC 3711 4.3.1,
    RFC 7714 11: the 96-bit salt is filled up with zeros). ValueError for one of another length."""
    check(GCM, key)
    labels = (0, 2, 3, 5)
    starts = bytearray(len(labels) * (key[16:28] + bytes(4)))
    for place, label in enumerate(labels):
        starts[16 * place + 7] ^= label
    # the first block of a counter mode's stream is its start in a block of its own: one cipher serves all labels
    blocks = Cipher(algorithms.AES128(key[:16]), modes.ECB()).encryptor().update(starts)
    return blocks[:16], blocks[16:28], blocks[32:48], blocks[48:60]


@functools.cache
def ciphers(supplier: str, built_for: str) -> tuple[int, ...]:
    """Addresses for the compiled life: a manager of the multi-buffer library and nothing else, or 0, OpenSSL's
    AES-128-GCM and what creates, frees, begins, feeds, ends, asks and tells a cipher context.

    `built_for`: the version whose layout the compiled life knows. Raises NoPointers when the supplier is not here.
    """
    return _multi_buffer(built_for) if supplier == "multi-buffer" else _openssl()


def _multi_buffer(built_for: str) -> tuple[int, ...]:
    if not built_for:
        raise NoPointers("the plane was compiled without libipsec-mb-dev")
    try:
        library = ctypes.CDLL(f"libIPSec_MB.so.{built_for.partition('.')[0]}")
        version, allocate, begin = library.imb_get_version_str, library.alloc_mb_mgr, library.init_mb_mgr_auto
        failed = library.imb_get_errno
    except (OSError, AttributeError) as error:
        raise NoPointers(f"no multi-buffer library ({error})") from error
    version.restype, version.argtypes = ctypes.c_char_p, []
    allocate.restype, allocate.argtypes = ctypes.c_void_p, [ctypes.c_uint64]
    begin.restype, begin.argtypes = None, [ctypes.c_void_p, ctypes.c_void_p]
    failed.restype, failed.argtypes = ctypes.c_int, [ctypes.c_void_p]
    if (found := version().decode()) != built_for:
        raise NoPointers(f"the multi-buffer library is {found}, the plane was compiled for {built_for}")
    manager = allocate(0)
    if not manager:
        raise NoPointers("the multi-buffer library could not allocate its manager")
    begin(manager, None)
    if code := failed(manager):
        raise NoPointers(f"the multi-buffer library does not run on this processor (error {code})")
    return (manager,)


def _openssl() -> tuple[int, ...]:
    try:
        openssl = ctypes.CDLL(_binding.__file__)
        fetch = openssl.EVP_CIPHER_fetch
        called = [getattr(openssl, name) for name in EVP]
    except (OSError, AttributeError) as error:
        raise NoPointers(f"no OpenSSL in pylibsrtp's binding ({error})") from error
    fetch.restype = ctypes.c_void_p
    fetch.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    cipher = fetch(None, b"AES-128-GCM", None)
    if not cipher:
        raise NoPointers("that OpenSSL has no AES-128-GCM")
    return 0, cipher, *(ctypes.cast(function, ctypes.c_void_p).value or 0 for function in called)


def hmac_sha1() -> tuple[int, int]:
    """Addresses of the HMAC of the OpenSSL that libsrtp brings along, and of its SHA-1; zeros when there are none."""
    try:
        openssl = ctypes.CDLL(_binding.__file__)
        call, sha1 = openssl.HMAC, openssl.EVP_sha1
    except (OSError, AttributeError):
        return 0, 0
    sha1.restype = ctypes.c_void_p
    return ctypes.cast(call, ctypes.c_void_p).value or 0, sha1() or 0


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
