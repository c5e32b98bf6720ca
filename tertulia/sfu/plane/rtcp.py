"""Decrypted RTCP of a peer: a compound taken apart by its length fields; a broken part is dropped, the rest is used.

Handled here: SR, RR, NACK, PLI, FIR, REMB, transport-cc. BYE, APP and XR go to the control side as they are.
"""

try:
    import cython  # type: ignore[import-untyped]
except ImportError:
    from tertulia.sfu.plane import uncompiled as cython

if not cython.compiled:
    from tertulia.sfu.plane.bits import Bytes, copy, int_of, rd16, rd32, rd64
    from tertulia.sfu.plane.delay import is_pressing
    from tertulia.sfu.plane.intake import arm, find_ssrc, hurry
    from tertulia.sfu.plane.outflow import resend, want_layer
    from tertulia.sfu.plane.rows import Down, Engine, Transport
    from tertulia.sfu.plane.statistics import remb, reported
    from tertulia.sfu.plane.twcc import receive
    from tertulia.sfu.plane.words import (
        D_MALFORMED,
        D_SSRC_LIMIT,
        MAX_PACKET,
        MAX_RTCP_SSRCS,
        NOTE_BYTES,
        R_RTCP,
        S_UP,
        T_PLIS_IN,
    )

SUMMARY_NS = 50_000_000
LONG_NS = 1_000_000_000
COMPANY_NS = 100_000_000
"""A summary that may wait for `LONG_NS` or more waits for the next multiple of this as well: those of many peers wake
the control side once."""


def rtcp_acceptable(e: "Engine", t: "Transport", p: "Bytes", n: int) -> int:
    """Before any cryptography: a sender SSRC costs a stream of the SRTP session, so those have a limit, too."""
    if n < 8 or n > MAX_PACKET:
        e.drops[D_MALFORMED] += 1
        return 0
    sender = rd32(p, 4)
    for i in range(t.q_n):
        if t.q_ssrc[i] == sender:
            return 1
    if find_ssrc(t, sender) >= 0:
        return 1
    if t.q_n >= MAX_RTCP_SSRCS:
        e.drops[D_SSRC_LIMIT] += 1
        return 0
    return 2


def rtcp(e: "Engine", t: "Transport", p: "Bytes", n: int, now: int) -> None:
    """A decrypted compound p[:n]."""
    e.now = now
    if n < 8:
        e.drops[D_MALFORMED] += 1
        return
    sender = rd32(p, 4)
    if rtcp_acceptable(e, t, p, n) == 2:
        t.q_ssrc[t.q_n] = sender
        t.q_n += 1
    o = 0
    while o < n:
        if o + 4 > n or p[o] >> 6 != 2:
            e.drops[D_MALFORMED] += 1
            return
        size = int_of(4 * (rd16(p, o + 2) + 1))
        if o + size > n:
            e.drops[D_MALFORMED] += 1
            return
        end = o + size
        if p[o] & 0x20:
            if p[end - 1] == 0 or p[end - 1] > size - 4:
                e.drops[D_MALFORMED] += 1
                return
            end -= p[end - 1]
        part(e, t, p, o, end, now)
        o += size


def part(e: "Engine", t: "Transport", p: "Bytes", o: int, end: int, now: int) -> None:
    """One RTCP packet p[o:end] without padding."""
    kind = p[o + 1]
    form = p[o] & 31
    if kind == 200:
        if o + 28 > end:
            e.drops[D_MALFORMED] += 1
            return
        sender_info(e, t, p, o, now)
        blocks(e, t, p, o + 28, end, form, now)
    elif kind == 201:
        blocks(e, t, p, o + 8, end, form, now)
    elif kind == 205 and o + 12 <= end:
        if form == 1:
            nack(e, t, p, o, end)
        elif form == 15:
            if receive(t, p, o + 12, end, now):
                summarise(e, t, is_pressing(t), now)
            else:
                e.drops[D_MALFORMED] += 1
    elif kind == 206 and o + 12 <= end:
        payload_feedback(e, t, p, o, end, form, now)
    elif kind in (203, 204, 207) and end - o <= NOTE_BYTES:
        copy(e.note, 0, p, o, end - o)
        e.report(e, R_RTCP, t.id, 0, end - o)


def sender_info(e: "Engine", t: "Transport", p: "Bytes", o: int, now: int) -> None:
    """A publisher's clock; rows that have not told theirs yet will soon."""
    i = find_ssrc(t, rd32(p, o + 4))
    if i < 0 or t.s_what[i] != S_UP:
        return
    u = t.s_up[i]
    u.sr_ntp = rd64(p, o + 8)
    u.sr_ts = rd32(p, o + 16)
    u.sr_at = now
    if not u.sr_known:
        u.sr_known = 1
        hurry(e, u.track, now)


def blocks(e: "Engine", t: "Transport", p: "Bytes", o: int, end: int, count: int, now: int) -> None:
    """Reception report blocks about our rows."""
    for _ in range(count):
        if o + 24 > end:
            e.drops[D_MALFORMED] += 1
            return
        i = find_down(t, rd32(p, o))
        if i >= 0:
            reported(t.downs[i], p, o, now)
        o += 24
    if count:
        summarise(e, t, 0, now)


def find_down(t: "Transport", ssrc: int) -> int:
    """Index of a row by its media or repair SSRC, -1 when it is not ours."""
    for i in range(t.n_downs):
        if t.downs[i].ssrc == ssrc:
            return i
    return -1


def nack(e: "Engine", t: "Transport", p: "Bytes", o: int, end: int) -> None:
    """RFC 4585 6.2.1: packet numbers and the sixteen after each."""
    i = find_down(t, rd32(p, o + 8))
    if i < 0:
        return
    d = t.downs[i]
    o += 12
    while o + 4 <= end:
        pid = int_of(rd16(p, o))
        mask = int_of(rd16(p, o + 2))
        resend(e, d, pid)
        for bit in range(16):
            if mask >> bit & 1:
                resend(e, d, (pid + 1 + bit) & 0xFFFF)
        o += 4


def payload_feedback(e: "Engine", t: "Transport", p: "Bytes", o: int, end: int, form: int, now: int) -> None:
    """PLI, FIR (RFC 5104 4.3.1) and REMB."""
    if form == 1:
        i = find_down(t, rd32(p, o + 8))
        if i >= 0:
            lost_picture(e, t.downs[i])
    elif form == 4:
        o += 12
        while o + 8 <= end:
            i = find_down(t, rd32(p, o))
            if i >= 0:
                lost_picture(e, t.downs[i])
            o += 8
    elif form == 15:
        rate = remb(p, o + 12, end)
        if rate >= 0:
            t.remb_bps = rate
            summarise(e, t, not t.x_clock_known, now)
        else:
            e.drops[D_MALFORMED] += 1


def lost_picture(e: "Engine", d: "Down") -> None:
    """A subscriber cannot decode: ask for a key frame of what it gets, or waits for."""
    d.plis += 1
    e.totals[T_PLIS_IN] += 1
    if d.target >= 0 and d.track.enabled:
        want_layer(e, d.track, d.layer if d.layer >= 0 else d.target)


def summarise(e: "Engine", t: "Transport", pressing: int, now: int) -> None:
    """There is news for the estimator: within 50 ms when it is pressing, else when the estimator wants it."""
    t.f_any = 1
    if pressing:
        t.f_due = min(t.f_due, t.f_at + SUMMARY_NS)
    if t.f_due <= now:
        arm(e, t.f_due if t.f_due > now - SUMMARY_NS else now)
    else:
        arm(e, t.f_due)


def attend(e: "Engine", t: "Transport", every_ns: int) -> None:
    """How long summaries may wait while nothing is pressing."""
    t.f_every = every_ns
    put_off(t)
    if t.f_any:
        arm(e, t.f_due)


def put_off(t: "Transport") -> None:
    """The next summary, while nothing is pressing."""
    t.f_due = t.f_at + max(t.f_every, SUMMARY_NS)
    if t.f_every >= LONG_NS:
        t.f_due += COMPANY_NS - t.f_due % COMPANY_NS
