"""Rows in and out of the engine's tables. The plumbing has made sure that every list has room for one more."""

try:
    import cython  # type: ignore[import-untyped]
except ImportError:
    from tertulia.sfu.plane import uncompiled as cython

if not cython.compiled:
    from tertulia.sfu.plane.intake import arm, find_ssrc, forget_at
    from tertulia.sfu.plane.rows import Down, Engine, Track, Transport, Up
    from tertulia.sfu.plane.statistics import wide
    from tertulia.sfu.plane.words import S_UNBOUND, S_UP


def add_transport(e: "Engine", t: "Transport") -> None:
    # budgets begin full, whatever the clock says
    t.tokens_at = -1_000_000_000
    t.resend_at = -1_000_000_000
    e.transports[e.n_transports] = t
    e.n_transports += 1


def remove_transport(e: "Engine", t: "Transport") -> None:
    """Its up streams and rows are gone already."""
    at = 0
    for i in range(e.n_transports):
        if e.transports[i].id != t.id:
            e.transports[at] = e.transports[i]
            at += 1
    e.n_transports = at


def add_track(e: "Engine", tr: "Track") -> None:
    e.tracks[e.n_tracks] = tr
    e.n_tracks += 1


def remove_track(e: "Engine", tr: "Track") -> None:
    """Its up streams and rows are gone already. A fan-out under way skips it."""
    at = 0
    for i in range(e.n_tracks):
        if e.tracks[i].id != tr.id:
            e.tracks[at] = e.tracks[i]
            at += 1
    e.n_tracks = at
    at = 0
    for i in range(e.n_ready):
        if e.ready[i].id != tr.id:
            e.ready[at] = e.ready[i]
            at += 1
        elif i < e.r_cursor:
            e.r_cursor -= 1
    e.n_ready = at


def name_ssrc(e: "Engine", t: "Transport", u: "Up", ssrc: int, what: int, now: int) -> None:
    """From now on the SSRC is this up stream's media or repair; one that was someone else's changes hands."""
    i = find_ssrc(t, ssrc)
    if i < 0:
        i = t.listed
        t.listed += 1
        t.s_ssrc[i] = ssrc
        t.s_at[i] = now
    elif t.s_what[i] == S_UNBOUND:
        t.unbound -= 1
    t.s_what[i] = what
    t.s_up[i] = u
    if u.twcc:
        t.w_on = 1
    arm(e, now)


def add_up(e: "Engine", u: "Up", now: int) -> None:
    u.epoch = wide(u.id) << 16
    e.ups[e.n_ups] = u
    e.n_ups += 1
    u.track.ups[u.layer] = u
    u.track.has[u.layer] = 1
    name_ssrc(e, u.transport, u, u.ssrc, S_UP, now)


def remove_up(e: "Engine", u: "Up") -> None:
    """Take an up stream out: its SSRCs, its packets that wait for a fan-out, its place as a layer."""
    t = u.transport
    i = 0
    while i < t.listed:
        if t.s_what[i] != S_UNBOUND and t.s_up[i].id == u.id:
            forget_at(e, t, i)
        else:
            i += 1
    t.w_on = 0
    for i in range(t.listed):
        if t.s_what[i] == S_UP and t.s_up[i].twcc:
            t.w_on = 1
    tr = u.track
    if tr.has[u.layer] and tr.ups[u.layer].id == u.id:
        tr.has[u.layer] = 0
    at = 0
    for i in range(tr.p_n):
        if tr.p_up[i].id != u.id:
            tr.p_up[at] = tr.p_up[i]
            tr.p_slot[at] = tr.p_slot[i]
            at += 1
    tr.p_n = at
    at = 0
    for i in range(e.n_ups):
        if e.ups[i].id != u.id:
            e.ups[at] = e.ups[i]
            at += 1
    e.n_ups = at


def enable(tr: "Track", enabled: int) -> None:
    """A track that was off is entered anew by all its rows, so that the pause is no gap."""
    if tr.enabled and not enabled:
        for i in range(tr.n_downs):
            tr.downs[i].epoch = -1
    tr.enabled = enabled


def add_down(d: "Down") -> None:
    tr = d.track
    tr.downs[tr.n_downs] = d
    tr.n_downs += 1
    if not d.tap:
        t = d.transport
        t.downs[t.n_downs] = d
        t.n_downs += 1


def remove_down(d: "Down") -> None:
    """Take a row out; a fan-out that is past it stays in step."""
    tr = d.track
    at = 0
    for i in range(tr.n_downs):
        if tr.downs[i].id != d.id:
            tr.downs[at] = tr.downs[i]
            at += 1
        elif i < tr.cursor:
            tr.cursor -= 1
    tr.n_downs = at
    if not d.tap:
        t = d.transport
        at = 0
        for i in range(t.n_downs):
            if t.downs[i].id != d.id:
                t.downs[at] = t.downs[i]
                at += 1
        t.n_downs = at
