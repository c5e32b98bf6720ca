"""From stored packets to rows: the fan-out, what is sent again, and key frames asked of publishers.

A row gets all packets of a batch before the next row is served, so that equal ones to one destination can leave as one
GSO message. The fan-out stops when the plumbing has no room and goes on where it stopped.
"""

try:
    import cython  # type: ignore[import-untyped]
except ImportError:
    from tertulia.sfu.plane import uncompiled as cython

if not cython.compiled:
    from tertulia.sfu.plane.bits import ticked, unticked
    from tertulia.sfu.plane.intake import arm, hurry
    from tertulia.sfu.plane.munge import select, sent
    from tertulia.sfu.plane.rows import Down, Engine, Track, Transport, Up, near, past_at, rest_at, soon
    from tertulia.sfu.plane.statistics import picture_loss
    from tertulia.sfu.plane.template import build, fill, kept
    from tertulia.sfu.plane.words import (
        C_OPUS,
        C_OTHER,
        C_RED,
        R_SWITCHED,
        RESENDS,
        T_BYTES_OUT,
        T_NACKS_IN,
        T_PACKETS_OUT,
        T_PLIS_OUT,
        T_RETRANSMITTED,
    )

KEY_FRAME_NS = 1_000_000_000
"""Shortest time between two requests for a layer; half of it for the lowest."""
SETTLE_NS = 100_000_000
"""NACKs for a packet sent again less than min(this, two round trips) ago are not answered."""
NEAR = 1
"""So many rows beyond the next one what a packet will touch of them is fetched, ..."""
SOON = 4
"""... and so many beyond it the rows themselves."""
RESEND_RATE = 1000
RESEND_BURST_NS = 500_000_000


def forward(e: "Engine", d: "Down", u: "Up", slot: int) -> None:
    """One stored packet to one row, if the row wants it."""
    if not select(e, d, u, slot):
        return
    if d.filler:
        if d.tap:
            e.tap(e, d, u, slot)
        else:
            leave(e, d, fill(e, d, u), 0)
        return
    sent(d, u, slot)
    d.packets += 1
    d.octets += u.r_len[slot]
    if d.tap:
        d.bytes += u.r_len[slot]
        e.tap(e, d, u, slot)
        return
    n = build(e, d, u, slot, d.o_seq, d.o_ts, d.o_picture, d.o_tl0, d.o_keyidx, 0)
    d.bytes += n
    if d.sr_due == 0:
        d.sr_due = e.now
        hurry(e, d.track, e.now)
    leave(e, d, n, 0)


def leave(e: "Engine", d: "Down", n: int, as_rtx: int) -> None:
    """An RTP packet of n bytes is decided, its beginning in e.buf."""
    e.totals[T_PACKETS_OUT] += 1
    e.totals[T_BYTES_OUT] += n
    e.carry(e, d, as_rtx)


def fan_out(e: "Engine") -> int:
    """Serve the rows of every track that has packets. 1: no more room, flush and call again."""
    while e.r_cursor < e.n_ready:
        tr = e.ready[e.r_cursor]
        while tr.cursor < tr.n_downs:
            if e.space < tr.p_n:
                return 1
            d = tr.downs[tr.cursor]
            tr.cursor += 1
            if tr.cursor + NEAR < tr.n_downs:
                near(tr.downs[tr.cursor + NEAR], tr.p_n)
                if tr.cursor + SOON < tr.n_downs:
                    soon(tr.downs[tr.cursor + SOON])
            for k in range(tr.p_n):
                forward(e, d, tr.p_up[k], tr.p_slot[k])
        tr.cursor = 0
        tr.p_n = 0
        tr.waiting = 0
        e.r_cursor += 1
        for layer in range(4):
            if tr.has[layer] and tr.ups[layer].key_wanted:
                ask_key_frame(e, tr, tr.ups[layer])
    e.r_cursor = 0
    e.n_ready = 0
    return 0


def ask_key_frame(e: "Engine", tr: "Track", u: "Up") -> None:
    """PLI to the publisher, or a note to do so when the window is over."""
    if tr.codec == C_OPUS or tr.codec == C_RED or tr.codec == C_OTHER or not u.transport.keyed:
        u.key_wanted = 0
        return
    window = KEY_FRAME_NS // 2 if u.layer == 0 else KEY_FRAME_NS
    if u.pli_before and e.now - u.pli_at < window:
        u.key_wanted = 1
        arm(e, u.pli_at + window)
        return
    u.key_wanted = 0
    u.pli_before = 1
    u.pli_at = e.now
    u.plis += 1
    e.totals[T_PLIS_OUT] += 1
    n = picture_loss(e.buf, u.transport.feedback_ssrc, u.ssrc)
    e.emit(e, u.transport, 0, n)


def want_layer(e: "Engine", tr: "Track", layer: int) -> None:
    """A key frame of a layer, if there is such an up stream now."""
    if 0 <= layer < 4 and tr.has[layer]:
        ask_key_frame(e, tr, tr.ups[layer])


def aim(e: "Engine", d: "Down", layer: int, temporal: int) -> None:
    """New target of a row. A layer below 0 pauses at once; another one is entered at its next key frame."""
    d.temporal = temporal
    if layer == d.target:
        return
    d.target = layer
    if layer < 0:
        d.sr_due = 0
        if d.layer >= 0:
            d.layer = -1
            e.report(e, R_SWITCHED, d.id, -1, 0)
    elif layer != d.layer:
        want_layer(e, d.track, layer)


def affordable_resend(t: "Transport", now: int) -> int:
    """Retransmissions have a budget of their own, so that a storm of NACKs costs the media nothing."""
    passed = now - t.resend_at
    if passed > RESEND_BURST_NS:
        passed = RESEND_BURST_NS
    if passed > 0:
        t.resend_tokens += passed * RESEND_RATE
        t.resend_at = now
        if t.resend_tokens > RESEND_BURST_NS * RESEND_RATE:
            t.resend_tokens = RESEND_BURST_NS * RESEND_RATE
    if t.resend_tokens < 1_000_000_000:
        return 0
    t.resend_tokens -= 1_000_000_000
    return 1


def resend(e: "Engine", d: "Down", sequence: int) -> None:
    """Answer for one number of a NACK: at most three times, and not while the last answer may be on its way."""
    d.nacks += 1
    e.totals[T_NACKS_IN] += 1
    if not d.h_mask:
        return
    past = past_at(d, sequence)
    if not past.used or past.out != sequence or past.tries >= RESENDS:
        return
    settle = d.transport.rtt_ns * 2
    if settle == 0 or settle > SETTLE_NS:
        settle = SETTLE_NS
    rest = rest_at(d, sequence)
    if past.tries and e.now - unticked(rest.at, e.now) < settle:
        return
    for layer in range(4):
        if d.track.has[layer] and d.track.ups[layer].id == past.up:
            u = d.track.ups[layer]
            slot = kept(u, past.number)
            if slot < 0 or not affordable_resend(d.transport, e.now):
                return
            past.tries += 1
            rest.at = ticked(e.now)
            d.retransmitted += 1
            e.totals[T_RETRANSMITTED] += 1
            n = build(e, d, u, slot, sequence, past.ts, rest.picture, rest.tl0, rest.keyidx, 1)
            d.bytes += n
            leave(e, d, n, 1 if d.rtx_ssrc else 0)
            return
