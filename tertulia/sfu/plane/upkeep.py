"""What the plane owes whom and when: NACKs, receiver and sender reports, transport-cc feedback, late PLIs, summaries.

`tick` does everything that is due and says when it wants to be called again.
"""

try:
    import cython  # type: ignore[import-untyped]
except ImportError:
    from tertulia.sfu.plane import uncompiled as cython

if not cython.compiled:
    from tertulia.sfu.plane.bits import wr64
    from tertulia.sfu.plane.delay import RECENT_NS, STANDING_NS, queued, usage
    from tertulia.sfu.plane.intake import arm
    from tertulia.sfu.plane.outflow import ask_key_frame
    from tertulia.sfu.plane.repair import ask, next_due
    from tertulia.sfu.plane.rows import Engine, Track, Transport, Up
    from tertulia.sfu.plane.rtcp import put_off
    from tertulia.sfu.plane.statistics import receiver_report, report_block, sender_report
    from tertulia.sfu.plane.twcc import feedback
    from tertulia.sfu.plane.words import R_FEEDBACK, S_UP, T_NACKS_OUT

RECEIVER_REPORT_NS = 1_000_000_000
SENDER_REPORT_NS = 2_000_000_000
TOGETHER_NS = 50_000_000
BLOCKS = 31
IDLE_NS = 10_000_000_000
"""An up stream silent for this long is not reported on."""


def tick(e: "Engine", now: int) -> None:
    """Everything that is due at `now`; afterwards e.due is the next time, 0 when there is nothing to wait for."""
    e.now = now
    e.due = 0
    for i in range(e.n_transports):
        tend_transport(e, e.transports[i], now)
    for i in range(e.n_ups):
        tend_up(e, e.ups[i], now)
    for i in range(e.n_tracks):
        tr = e.tracks[i]
        if tr.sr_due:
            if tr.sr_due <= now:
                report_senders(e, tr, now)
            if tr.sr_due:
                arm(e, tr.sr_due)


def tend_transport(e: "Engine", t: "Transport", now: int) -> None:
    if not t.keyed:
        return
    if t.w_on and t.w_due:
        if t.w_due <= now:
            send_feedback(e, t)
        else:
            arm(e, t.w_due)
    if t.rr_due:
        if t.rr_due <= now:
            report_reception(e, t, now)
        if t.rr_due:
            arm(e, t.rr_due)
    if t.f_any:
        if t.f_due <= now:
            summary(e, t, now)
        else:
            arm(e, t.f_due)


def send_feedback(e: "Engine", t: "Transport") -> None:
    """Transport-cc feedback about everything that arrived since the last."""
    t.w_due = 0
    while t.w_next < t.w_top:
        n = feedback(e, t)
        if n == 0:
            return
        e.emit(e, t, 0, n)


def report_reception(e: "Engine", t: "Transport", now: int) -> None:
    """A receiver report about the up streams heard lately, 31 to a packet; the next one in a second."""
    t.rr_due = 0
    blocks = 0
    for i in range(t.listed):
        if t.s_what[i] != S_UP:
            continue
        u = t.s_up[i]
        if not u.started or now - u.last_at > IDLE_NS:
            continue
        report_block(u, e.buf, 8 + 24 * blocks, now)
        blocks += 1
        t.rr_due = now + RECEIVER_REPORT_NS
        if blocks == BLOCKS:
            e.emit(e, t, 0, receiver_report(e.buf, t.feedback_ssrc, blocks))
            blocks = 0
    if blocks:
        e.emit(e, t, 0, receiver_report(e.buf, t.feedback_ssrc, blocks))


def summary(e: "Engine", t: "Transport", now: int) -> None:
    """The subscriber's feedback since the last summary, as a report."""
    b = e.note
    wr64(b, 0, now)
    wr64(b, 8, t.f_bytes)
    wr64(b, 16, t.f_packets)
    wr64(b, 24, t.f_lost)
    wr64(b, 32, t.f_last - t.f_first)
    wr64(b, 40, t.rtt_ns)
    wr64(b, 48, t.remb_bps)
    wr64(b, 56, usage(t))
    wr64(b, 64, queued(t, STANDING_NS))
    wr64(b, 72, queued(t, RECENT_NS))
    t.f_bytes = 0
    t.f_packets = 0
    t.f_lost = 0
    t.f_first = 0
    t.f_last = 0
    t.f_any = 0
    t.f_at = now
    put_off(t)
    e.report(e, R_FEEDBACK, t.id, 0, 80)


def tend_up(e: "Engine", u: "Up", now: int) -> None:
    if u.n_missing and u.transport.keyed:
        if next_due(u) <= now:
            before = u.nacks
            n = ask(u, e.buf, u.transport.feedback_ssrc, now)
            e.totals[T_NACKS_OUT] += u.nacks - before
            if n:
                e.emit(e, u.transport, 0, n)
        if u.n_missing:
            arm(e, next_due(u))
    if u.key_wanted:
        ask_key_frame(e, u.track, u)


def report_senders(e: "Engine", tr: "Track", now: int) -> None:
    """Sender reports of rows that send, once their publisher has told the clock; nearly due ones join in, so that a
    track of many rows is looked through seldom."""
    tr.sr_due = 0
    for i in range(tr.n_downs):
        d = tr.downs[i]
        if d.tap or not d.has or d.sr_due == 0 or d.layer < 0:
            continue
        if not tr.has[d.layer] or not tr.ups[d.layer].sr_known:
            continue
        if d.sr_due <= now + TOGETHER_NS:
            n = sender_report(d, tr.ups[d.layer], e.buf, now)
            d.sr_due = now + SENDER_REPORT_NS
            e.emit(e, d.transport, d.session, n)
        if tr.sr_due == 0 or d.sr_due < tr.sr_due:
            tr.sr_due = d.sr_due
