"""The tables of the data plane, interpreted: plain objects with the fields of the C structs in `compiled/rows.pxd`.

A test holds the two lists of fields together. Lists stand for C arrays; those that are empty at first get their length
from the plumbing. `_at` and `_due` are monotonic nanoseconds; numbers of packets are unwrapped unless they are 32 bits.
"""

from collections.abc import Callable
from typing import Any


def _unset(*_: Any) -> None:
    """A hook the plumbing has not taken."""


class Seen:
    """What the header of one packet says: where its extensions are, and what its codec's first bytes mean."""

    __slots__ = (
        "at",
        "end",
        "flags",
        "height",
        "keyidx",
        "keyidx_at",
        "len",
        "padding",
        "parameters",
        "payload",
        "picture",
        "picture_at",
        "tid",
        "tl0",
        "tl0_at",
        "width",
    )

    def __init__(self) -> None:
        self.at = [-1] * 16  # offset of each kind of extension, -1 when absent
        self.len = [0] * 16  # its length
        self.payload = 0  # offset of the payload
        self.end = 0  # end of the payload, padding left out
        self.padding = 0  # bytes of padding
        self.flags = 0
        self.tid = 0  # temporal layer
        self.picture_at = 0  # offset of the picture id in the payload, 0 when there is none
        self.picture = 0
        self.tl0_at = 0
        self.tl0 = 0
        self.keyidx_at = 0
        self.keyidx = 0
        self.width = 0
        self.height = 0
        self.parameters = 0  # H.264 and H.265: parameter sets were in this packet


class Past:
    """One packet a row sent: which incoming one it was, and the numbers it went out under."""

    __slots__ = ("number", "out", "tries", "ts", "up", "used")

    def __init__(self) -> None:
        self.out = 0
        self.number = 0
        self.up = 0
        self.ts = 0
        self.used = 0
        self.tries = 0


class Rest:
    """What of a sent packet only VP8, or sending it again, has a use for: apart, so that others do not touch it."""

    __slots__ = ("at", "keyidx", "picture", "tl0")

    def __init__(self) -> None:
        self.picture = 0
        self.tl0 = 0
        self.keyidx = 0
        self.at = 0  # `bits.ticked` of when it was last sent again


class Departure:
    """One packet a transport sent, until feedback tells of it."""

    __slots__ = ("at", "size", "state")

    def __init__(self) -> None:
        self.at = 0  # `bits.ticked`
        self.size = 0
        self.state = 0  # 1 sent, 2 reported lost, 3 acknowledged


class Transport:
    """One peer: what was negotiated, who sends here, what it owes and is owed."""

    __slots__ = (
        *("c_at", "c_count", "c_ids", "c_len", "c_n", "c_name", "c_place", "c_place_len", "c_since"),
        *("d_arrived", "d_at", "d_base", "d_n", "d_over_ns", "d_point", "d_sent", "d_slot"),
        *("d_smoothed_ms", "d_threshold_ms", "d_trend_ms", "d_variation"),
        "downs",
        "f_any",
        "f_at",
        "f_bytes",
        "f_due",
        "f_every",
        "f_first",
        "f_last",
        "f_lost",
        "f_packets",
        "feedback_ssrc",
        "g_arrived",
        "g_before",
        "g_before_arrived",
        "g_before_sent",
        "g_open",
        "g_sent_first",
        "g_sent_last",
        "id",
        "ids",
        "keyed",
        "kinds",
        "l_at",
        "l_data",
        "l_end",
        "l_len",
        "l_n",
        "l_off",
        "l_ssrc",
        "listed",
        "mode",
        "n_downs",
        "port",
        "q_n",
        "q_ssrc",
        "refused",
        "remb_bps",
        "resend_at",
        "resend_tokens",
        "room",
        "rr_due",
        "rtt_ns",
        "s_at",
        "s_ssrc",
        "s_told",
        "s_up",
        "s_what",
        "silenced",
        "sr_due",
        "tokens",
        "tokens_at",
        "unbound",
        "w_at",
        "w_count",
        "w_due",
        "w_media",
        "w_next",
        "w_on",
        "w_pending",
        "w_seq",
        "w_started",
        "w_top",
        "x",
        "x_clock",
        "x_clock_known",
        "x_next",
    )

    def __init__(self) -> None:
        self.id = 0  # the first lines are what every copy needs, close together
        self.mode = 0  # M_NONE, M_UDP, M_FRAMES
        self.keyed = 0
        self.port = 0
        self.x_next = 0  # transport-cc: what went out (unwrapped numbers)
        self.x: list[Any] = []
        self.ids = [0] * 16  # extension id of each kind, 0 when not negotiated
        self.listed = 0  # bound SSRCs and more: length of the tables below
        self.room = 0  # allocated length of the tables below
        self.s_ssrc: list[int] = []
        self.s_what: list[int] = []  # S_UNBOUND, S_UP, S_RTX
        self.s_up: list[Any] = []
        self.s_at: list[int] = []  # last packet
        self.s_told: list[int] = []  # unbound: 1 reported, 2 with its mid or rid
        self.unbound = 0
        self.refused = 0  # packets of SSRCs beyond the limit
        self.silenced = 0
        self.downs: list[Any] = []
        self.n_downs = 0
        self.feedback_ssrc = 0
        self.kinds = [15] * 256  # kind of each extension id
        self.l_data = bytearray()  # limbo: packets of SSRCs nobody has named yet
        self.l_end = 0
        self.l_n = 0
        self.l_off: list[int] = []
        self.l_len: list[int] = []
        self.l_ssrc: list[int] = []
        self.l_at: list[int] = []
        self.tokens_at = 0  # inbound packet budget (token bucket)
        self.tokens = 0
        self.resend_at = 0  # budget of retransmissions
        self.resend_tokens = 0
        self.q_ssrc = [0] * 64  # SSRCs seen as senders of RTCP
        self.q_n = 0
        self.w_on = 0  # transport-cc: what came in
        self.w_started = 0
        self.w_next = 0  # first sequence number (unwrapped) not yet reported
        self.w_top = 0  # one past the highest
        self.w_pending = 0
        self.w_due = 0
        self.w_count = 0
        self.w_media = 0
        self.w_at: list[int] = []
        self.w_seq: list[int] = []
        self.f_bytes = 0  # summary for the estimator
        self.f_packets = 0
        self.f_lost = 0
        self.f_first = 0  # remote clock, ns
        self.f_last = 0
        self.f_any = 0
        self.f_due = 0
        self.f_at = 0  # the last summary
        self.f_every = 0  # and how long the next one may wait while all is well
        self.d_n = 0  # groups whose delay was looked at
        self.d_sent = 0  # both clocks, from the first of them
        self.d_arrived = 0
        self.d_at = [0] * 64  # the last ones: when, delay, smoothed delay
        self.d_variation = [0] * 64
        self.d_point = [0.0] * 64
        self.d_smoothed_ms = 0.0
        self.d_trend_ms = 0.0
        self.d_threshold_ms = 0.0
        self.d_over_ns = 0
        self.d_slot = 0
        self.d_base = [0] * 40  # least delay by half second
        self.g_open = 0  # burst group under way
        self.g_sent_first = 0
        self.g_sent_last = 0
        self.g_arrived = 0
        self.g_before = 0  # there is a finished group to compare with
        self.g_before_sent = 0
        self.g_before_arrived = 0
        self.x_clock = 0  # remote clock of the last feedback, unwrapped (64 ms units)
        self.x_clock_known = 0
        self.remb_bps = 0
        self.rtt_ns = 0
        self.rr_due = 0
        self.sr_due = 0
        self.c_name = bytearray(32)  # consent: our user fragment with its colon, as a check begins
        self.c_len = 0  # 0: checks are the control side's
        self.c_place = bytearray(20)  # the selected address as STUN writes it: 0, family, port, address
        self.c_place_len = 0
        self.c_at = 0  # the last check answered
        self.c_n = 0  # how many were
        self.c_ids = bytearray(768)  # transactions of the last 64
        self.c_since = 0  # checks looked at since then
        self.c_count = 0


class Track:
    """Up streams of one codec (simulcast layers) and the rows of who gets them."""

    __slots__ = (
        "clock_hz",
        "codec",
        "cursor",
        "downs",
        "enabled",
        "has",
        "id",
        "n_downs",
        "p_n",
        "p_slot",
        "p_up",
        "sr_due",
        "ups",
        "waiting",
    )

    def __init__(self) -> None:
        self.id = 0
        self.codec = 0
        self.clock_hz = 0
        self.enabled = 0
        self.has = [0] * 4  # layers that have an up stream
        self.ups: list[Any] = [None] * 4
        self.downs: list[Any] = []
        self.n_downs = 0
        self.p_up: list[Any] = [None] * 64  # packets of the present batch
        self.p_slot = [0] * 64
        self.p_n = 0
        self.cursor = 0  # next row to serve
        self.sr_due = 0  # when the first of its rows wants to tell its clock
        self.waiting = 0  # listed in the engine's `ready`


class Up:
    """One incoming SSRC."""

    __slots__ = (
        "a_active",
        "a_heard",
        "a_loudest",
        "a_packets",
        "base",
        "bytes",
        "epoch",
        "expected_before",
        "floor",
        "fraction",
        "frame_known",
        "frame_ts",
        "frames",
        "id",
        "jitter16",
        "key_frames",
        "key_known",
        "key_ts",
        "key_wanted",
        "last_at",
        "layer",
        "n_due",
        "n_missing",
        "n_sent",
        "n_seq",
        "n_tries",
        "nack",
        "nacks",
        "packets",
        "parameters_seen",
        "pli_at",
        "pli_before",
        "plis",
        "pt",
        "r_at",
        "r_bytes",
        "r_data",
        "r_ext",
        "r_flags",
        "r_keyidx",
        "r_keyidx_at",
        "r_len",
        "r_mask",
        "r_off",
        "r_picture",
        "r_picture_at",
        "r_pos",
        "r_seq",
        "r_tid",
        "r_tl0",
        "r_tl0_at",
        "r_ts",
        "r_used",
        "received",
        "received_before",
        "repaired",
        "rtt_ns",
        "rtx_pt",
        "rtx_ssrc",
        "sr_at",
        "sr_known",
        "sr_ntp",
        "sr_ts",
        "ssrc",
        "started",
        "strange",
        "strange_known",
        "top",
        "track",
        "transit",
        "transit_known",
        "transport",
        "twcc",
    )

    def __init__(self) -> None:
        self.id = 0
        self.ssrc = 0
        self.layer = 0
        self.pt = 0
        self.rtx_ssrc = 0
        self.rtx_pt = 0
        self.nack = 0
        self.twcc = 0
        self.track: Any = None
        self.transport: Any = None
        self.r_mask = 0  # ring of stored packets: index by sequence number, bytes by running position
        self.r_bytes = 0
        self.r_pos = 0
        self.r_data = bytearray()
        self.r_seq: list[int] = []
        self.r_used: list[int] = []
        self.r_off: list[int] = []
        self.r_ext: list[int] = []
        self.r_len: list[int] = []
        self.r_ts: list[int] = []
        self.r_flags: list[int] = []
        self.r_tid: list[int] = []
        self.r_picture_at: list[int] = []
        self.r_picture: list[int] = []
        self.r_tl0_at: list[int] = []
        self.r_tl0: list[int] = []
        self.r_keyidx_at: list[int] = []
        self.r_keyidx: list[int] = []
        self.r_at: list[int] = []
        self.started = 0
        self.top = 0  # highest sequence number, unwrapped
        self.base = 0
        self.floor = 0  # older than this was never of this stint
        self.strange = 0  # sequence number that would confirm a restart
        self.strange_known = 0
        self.epoch = 0  # the up stream's id and how often its numbers began anew
        self.received = 0
        self.expected_before = 0
        self.received_before = 0
        self.jitter16 = 0  # RFC 3550 A.8, in 1/16 timestamp units
        self.transit = 0
        self.transit_known = 0
        self.fraction = 0
        self.packets = 0
        self.bytes = 0
        self.repaired = 0
        self.nacks = 0
        self.plis = 0
        self.key_frames = 0
        self.frames = 0
        self.frame_ts = 0
        self.frame_known = 0
        self.key_ts = 0
        self.key_known = 0
        self.parameters_seen = 0
        self.last_at = 0
        self.sr_ntp = 0  # last sender report
        self.sr_ts = 0
        self.sr_at = 0
        self.sr_known = 0
        self.rtt_ns = 0
        self.n_missing = 0  # what we asked for again
        self.n_seq = [0] * 250
        self.n_due = [0] * 250
        self.n_sent = [0] * 250
        self.n_tries = [0] * 250
        self.key_wanted = 0
        self.pli_at = 0
        self.pli_before = 0
        self.a_loudest = 127  # since the last window
        self.a_packets = 0
        self.a_active = 0
        self.a_heard = 127  # since the last packet of a report


class Down:
    """One subscriber's row of a track."""

    __slots__ = (
        "bytes",
        "c_keyidx",
        "c_picture",
        "c_seq",
        "c_start",
        "c_tl0",
        "dropped_known",
        "dropped_picture",
        "epoch",
        "filler",
        "first_seq",
        "first_ts",
        "fraction",
        "frame_ts",
        "frames",
        "g_keyidx",
        "g_picture",
        "g_seq",
        "g_start",
        "g_tl0",
        "h",
        "h_mask",
        "h_rest",
        "has",
        "id",
        "in_top",
        "jitter",
        "last_at",
        "last_keyidx",
        "last_layer",
        "last_picture",
        "last_seq",
        "last_tl0",
        "last_ts",
        "layer",
        "lost",
        "mid",
        "mid_len",
        "n_ranges",
        "nacks",
        "o_keyidx",
        "o_picture",
        "o_seq",
        "o_tl0",
        "o_ts",
        "octets",
        "packets",
        "plis",
        "pt",
        "q_limit",
        "q_lost",
        "q_n",
        "range_head",
        "raw",
        "retransmitted",
        "rtt_ns",
        "rtx_next",
        "rtx_pt",
        "rtx_ssrc",
        "rtx_top",
        "session",
        "sr_due",
        "sr_mid",
        "sr_sent",
        "ssrc",
        "tap",
        "target",
        "temporal",
        "temporal_now",
        "told_mid",
        "top",
        "track",
        "transport",
        "ts_off",
    )

    def __init__(self) -> None:
        self.id = 0  # the first lines are what every copy needs, close together
        self.ssrc = 0
        self.track: Any = None
        self.transport: Any = None
        self.target = -1
        self.layer = -1
        self.temporal = 7
        self.temporal_now = 7
        self.raw = 0
        self.tap = 0
        self.pt = 0
        self.session = 0  # which SRTP session of the transport
        self.epoch = 0  # of the packets being followed, -1 when nothing may be continued
        self.in_top = 0
        self.ts_off = 0
        self.frame_ts = 0  # frame under way (its incoming timestamp)
        self.c_start = 0  # range of incoming sequence numbers at hand: from here on, take off ...
        self.c_seq = 0
        self.c_picture = 0
        self.c_tl0 = 0
        self.c_keyidx = 0
        self.o_seq = 0  # the decision on the packet at hand
        self.o_ts = 0
        self.o_picture = 0
        self.o_tl0 = 0
        self.o_keyidx = 0
        self.filler = 0  # ... is left out, but its number was kept free: send an empty packet in its place
        self.has = 0  # something was sent already
        self.last_seq = 0
        self.last_ts = 0
        self.last_picture = 0
        self.last_tl0 = 0
        self.last_keyidx = 0
        self.last_layer = 0
        self.last_at = 0
        self.h: list[Any] = []  # history: what went out under which number
        self.h_mask = 0
        self.h_rest: list[Any] = []
        self.mid_len = 0
        self.top = 0  # highest SRTP packet index, where the plumbing counts itself
        self.rtx_top = 0
        self.told_mid = 0  # the subscriber has reported on our SSRC: no more MID
        self.rtx_pt = 0
        self.sr_due = 0
        self.packets = 0
        self.bytes = 0
        self.octets = 0  # payload octets, for sender reports
        self.frames = 0
        self.mid = [0] * 32
        self.rtx_ssrc = 0
        self.rtx_next = 0
        self.first_seq = 0
        self.first_ts = 0
        self.dropped_picture = 0
        self.dropped_known = 0
        self.n_ranges = 0  # ranges before the one at hand
        self.range_head = 0
        self.g_start = [0] * 16
        self.g_seq = [0] * 16
        self.g_picture = [0] * 16
        self.g_tl0 = [0] * 16
        self.g_keyidx = [0] * 16
        self.retransmitted = 0
        self.nacks = 0
        self.plis = 0
        self.lost = 0
        self.fraction = 0
        self.jitter = 0
        self.rtt_ns = 0
        self.sr_mid = 0
        self.sr_sent = 0
        self.q_n = 0  # tap: packets in the queue
        self.q_limit = 0
        self.q_lost = 0


class Engine:
    """All tables of a plane, the packet being built, and the plumbing's hooks."""

    __slots__ = (
        "buf",
        "carry",
        "digest",
        "drops",
        "due",
        "emit",
        "forget",
        "head",
        "more",
        "n_ready",
        "n_tracks",
        "n_transports",
        "n_ups",
        "note",
        "now",
        "own",
        "r_cursor",
        "ready",
        "report",
        "rest",
        "ring",
        "seen",
        "space",
        "tap",
        "threshold",
        "totals",
        "tracks",
        "transports",
        "ups",
    )

    def __init__(self) -> None:
        self.buf = bytearray()  # where the next packet is written; the plumbing moves it on `emit`
        self.head = 0  # length of its header
        self.own = 0  # bytes of it that stand in `buf`
        self.more = 0  # bytes still to come: the rest of the stored payload
        self.rest = 0  # where that begins
        self.ring: Any = None  # ... in these stored packets
        self.space = 0  # packets the plumbing can take before it must flush
        self.now = 0
        self.due = 0  # when `tick` has something to do
        self.seen: Any = None
        self.note = bytearray()  # body of a report being made
        self.transports: list[Any] = []
        self.n_transports = 0
        self.tracks: list[Any] = []
        self.n_tracks = 0
        self.ups: list[Any] = []
        self.n_ups = 0
        self.ready: list[Any] = [None] * 64
        self.n_ready = 0
        self.r_cursor = 0
        self.threshold = 0
        self.drops = [0] * 24
        self.totals = [0] * 16
        self.emit: Callable[..., None] = _unset
        self.carry: Callable[..., None] = _unset
        self.report: Callable[..., None] = _unset
        self.tap: Callable[..., None] = _unset
        self.forget: Callable[..., None] = _unset
        self.digest: Callable[..., None] = _unset


def past_at(d: Down, sequence: int) -> Any:
    """The history's entry for an outgoing sequence number."""
    return d.h[sequence & d.h_mask]


def rest_at(d: Down, sequence: int) -> Any:
    """The rest of it."""
    return d.h_rest[sequence & d.h_mask]


def departure_at(t: Transport, number: int) -> Any:
    """The entry for a packet's transport-wide number."""
    return t.x[number % len(t.x)]


def soon(d: Down) -> None:
    """The row is served after the next one: compiled, its memory is fetched ahead."""


def near(d: Down, count: int) -> None:
    """The row is served next, with so many packets: compiled, what its copies will write to is fetched ahead."""
