"""Consent (RFC 7675): the checks a peer keeps sending once it is connected, answered where its media are.

Only what needs no decision is answered here: an authentic binding request from the address that media go to, which
names the credentials in use. It may nominate: that address is selected already. Everything else is the control side's,
and so is whatever comes too often.
"""

try:
    import cython  # type: ignore[import-untyped]
except ImportError:
    from tertulia.sfu.plane import uncompiled as cython

if not cython.compiled:
    from tertulia.sfu.plane.bits import Bytes, copy, crc32, int_of, rd16, rd32, u32, wr16, wr32
    from tertulia.sfu.plane.rows import Engine, Transport
    from tertulia.sfu.plane.words import CHECKS_KEPT, T_CHECKS, TRANSACTION

COOKIE = 0x2112A442
REQUEST = 0x0001
SUCCESS = 0x0101
USERNAME = 0x0006
INTEGRITY = 0x0008
XOR_MAPPED = 0x0020
PRIORITY = 0x0024
NOMINATION = 0x0025
FINGERPRINT = 0x8028
CONTROLLED = 0x8029
CONTROLLING = 0x802A
FINGERPRINT_XOR = 0x5354554E
DIGEST = 20
MAX_CHECK = 512
CHECKS_PER_SECOND = 200
CHECK_WINDOW_NS = 1_000_000_000


def consent(e: "Engine", t: "Transport", p: "Bytes", n: int, now: int) -> int:
    """A STUN message p[:n] from the selected address of a transport: 1 when it is answered, 0 when it is not for us."""
    if t.c_len == 0 or not t.keyed or n < 20 or n > MAX_CHECK:
        return 0
    if rd16(p, 0) != REQUEST or rd32(p, 4) != COOKIE or rd16(p, 2) != n - 20:
        return 0
    covered = understood(t, p, n)
    if covered == 0 or not seldom(t, now) or not authentic(e, t, p, covered):
        return 0
    copy(t.c_ids, TRANSACTION * int_of(t.c_n % CHECKS_KEPT), p, 8, TRANSACTION)
    t.c_n += 1
    t.c_at = now
    e.totals[T_CHECKS] += 1
    e.emit(e, t, -1, success(e, t, p))
    return 1


def understood(t: "Transport", p: "Bytes", n: int) -> int:
    """Where MESSAGE-INTEGRITY begins, if there is nothing in the request that needs a decision; 0 else.

    Its form is judged here as strictly as on the control side, which tells what is wrong with it.
    """
    o = 20
    named = 0
    covered = 0
    while o + 4 <= n:
        kind = int_of(rd16(p, o))
        size = int_of(rd16(p, o + 2))
        start = o + 4
        o = start + (size + 3) // 4 * 4
        if o > n:
            return 0
        if kind == FINGERPRINT:
            if size != 4 or o != n or not named or rd32(p, start) != u32(crc32(p, start - 4) ^ FINGERPRINT_XOR):
                return 0
            return covered
        if covered:
            return 0
        if kind == INTEGRITY and size == DIGEST:
            covered = start - 4
        elif kind == USERNAME and names(t, p, start, size):
            named = 1
        elif not is_plain(kind, size):
            return 0
    return 0


def is_plain(kind: int, size: int) -> int:
    """An attribute that changes nothing here, and has the length it should have."""
    if kind == PRIORITY:
        return 1 if size == 4 else 0
    if kind == NOMINATION:
        return 1 if size == 0 else 0
    if kind == CONTROLLING:
        return 1 if size == 8 else 0
    return 1 if kind >= 0x8000 and kind != CONTROLLED else 0


def names(t: "Transport", p: "Bytes", o: int, size: int) -> int:
    """Our user fragment comes first (RFC 8445 7.2.2)."""
    if size < t.c_len:
        return 0
    for i in range(t.c_len):
        if p[o + i] != t.c_name[i]:
            return 0
    return 1


def seldom(t: "Transport", now: int) -> int:
    """Worth an HMAC: not more than a peer with many checks under way sends."""
    if now - t.c_since >= CHECK_WINDOW_NS:
        t.c_since = now
        t.c_count = 0
    if t.c_count >= CHECKS_PER_SECOND:
        return 0
    t.c_count += 1
    return 1


def authentic(e: "Engine", t: "Transport", p: "Bytes", covered: int) -> int:
    """RFC 8489 14.5: HMAC-SHA1 over everything before, the length field as if the message ended behind it."""
    copy(e.buf, 0, p, 0, covered)
    sign(e, t, covered)
    differs = 0
    for i in range(DIGEST):
        differs |= e.note[i] ^ p[covered + 4 + i]
    return 1 if differs == 0 else 0


def sign(e: "Engine", t: "Transport", covered: int) -> None:
    """MESSAGE-INTEGRITY of the message in the buffer, into the note."""
    wr16(e.buf, 2, covered + 4 + DIGEST - 20)
    e.digest(e, t, covered)


def success(e: "Engine", t: "Transport", p: "Bytes") -> int:
    """The answer into the buffer, with the address the request came from; its length."""
    b = e.buf
    wr16(b, 0, SUCCESS)
    copy(b, 4, p, 4, 16)
    wr16(b, 20, XOR_MAPPED)
    wr16(b, 22, t.c_place_len)
    copy(b, 24, t.c_place, 0, t.c_place_len)
    # 14.2: the port is masked by the cookie's first half, the address by the cookie and the transaction
    b[26] ^= 0x21
    b[27] ^= 0x12
    for i in range(t.c_place_len - 4):
        b[28 + i] ^= p[4 + i]
    o = int_of(24 + t.c_place_len)
    sign(e, t, o)
    wr16(b, o, INTEGRITY)
    wr16(b, o + 2, DIGEST)
    copy(b, o + 4, e.note, 0, DIGEST)
    o += 4 + DIGEST
    wr16(b, 2, o + 8 - 20)
    wr16(b, o, FINGERPRINT)
    wr16(b, o + 2, 4)
    wr32(b, o + 4, u32(crc32(b, o) ^ FINGERPRINT_XOR))
    return o + 8


def was_answered(t: "Transport", transaction: "Bytes") -> int:
    """One of the last checks answered here had this transaction."""
    for k in range(CHECKS_KEPT if t.c_n > CHECKS_KEPT else int_of(t.c_n)):
        same = 1
        for i in range(TRANSACTION):
            if t.c_ids[TRANSACTION * k + i] != transaction[i]:
                same = 0
        if same:
            return 1
    return 0
