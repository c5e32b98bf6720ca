"""The border between deciding and forwarding: orders are calls on `Plane`, what it saw comes back as reports.

Two lives with this one interface: `native` (compiled; a data thread per Port that never takes the GIL) and
`interpreted` (plain Python; used by the simulator, by tests and on machines without a compiler). Both call the
same decision functions and put the same bytes on the wire.

Numbers returned by `add_*` are opaque handles, unique within a plane, never reused while a report may name them.
Times are monotonic nanoseconds. Orders for handles that are gone are ignored: a report and an order may cross.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple, Protocol

from tertulia.protocol.ids import TransportId
from tertulia.protocol.machine import Nanos
from tertulia.protocol.tap import SenderClock, TapPacket


class Address(NamedTuple):
    """One way to a peer: our socket (index over all bound sockets, Port by Port) and the peer's IP and port."""

    socket: int
    host: str
    port: int


class SrtpProfile(IntEnum):
    """DTLS-SRTP protection profiles (RFC 5764 4.1.2, RFC 7714 14.2)."""

    AES128_CM_SHA1_80 = 0x0001
    AEAD_AES_128_GCM = 0x0007
    NULL = 0
    """No protection: simulation and differential tests only."""


class Codec(IntEnum):
    """What a forwarder must know of a payload; OTHER is forwarded with a header rewrite only."""

    OTHER = 0
    OPUS = 1
    VP8 = 2
    VP9 = 3
    H264 = 4
    AV1 = 5
    RED = 6
    H265 = 7


class Extension(IntEnum):
    """RTP header extensions the plane reads, rewrites or passes on (RFC 8285)."""

    MID = 0
    RID = 1
    RRID = 2
    TWCC = 3
    ABS_SEND_TIME = 4
    AUDIO_LEVEL = 5
    DEPENDENCY_DESCRIPTOR = 6
    PLAYOUT_DELAY = 7
    VIDEO_ORIENTATION = 8
    VIDEO_LAYERS_ALLOCATION = 9
    ABS_CAPTURE_TIME = 10
    COLOR_SPACE = 11
    VIDEO_CONTENT_TYPE = 12
    VIDEO_TIMING = 13


class Drop(IntEnum):
    """Why a packet was dropped; every drop has a name and a counter."""

    UNKNOWN_ADDRESS = 0
    NO_KEYS = 1
    AUTHENTICATION = 2
    REPLAY = 3
    MALFORMED = 4
    SSRC_LIMIT = 5
    UNBOUND_SSRC = 6
    LAYER = 7
    TEMPORAL = 8
    WAITING_FOR_KEY_FRAME = 9
    PAUSED = 10
    OLD = 11
    DUPLICATE = 12
    PADDING_ONLY = 13
    SEND_BUFFER = 14
    TAP_QUEUE = 15
    REPORT_QUEUE = 16
    RATE = 17
    OVERSIZE = 18


# ---------------------------------------------------------------------------------------------- reports


class Datagram(NamedTuple):
    """STUN or DTLS bytes for the control side (RFC 7983 first byte 0-3 or 20-63)."""

    address: Address
    data: bytes
    transport: TransportId | None
    """The transport this address was allowed for, None when unknown."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A protected packet of a transport that is selected to `None` (ICE-TCP): the control side writes it."""

    transport: TransportId
    data: bytes


@dataclass(frozen=True, slots=True)
class UnboundSsrc:
    """First authentic packets of an SSRC no up stream is bound to. At most `MAX_UNBOUND` per transport are kept; the
    packets seen so far wait in a short queue and are replayed once `add_up` or `bind_rtx` names the SSRC."""

    transport: TransportId
    ssrc: int
    payload_type: int
    mid: str
    rid: str
    repaired_rid: str


@dataclass(frozen=True, slots=True)
class Switched:
    """A down track now forwards this spatial layer (-1: stopped), or this is its first packet."""

    down: int
    layer: int


@dataclass(frozen=True, slots=True)
class KeyFrame:
    """A key frame began on an up stream; width and height are 0 when the codec does not say."""

    up: int
    width: int
    height: int


class Usage(IntEnum):
    """What the delay tells of the path down to a peer."""

    NORMAL = 0
    OVER = 1
    """A queue grows, or stands."""
    UNDER = 2
    """The queue drains."""


class Feedback(NamedTuple):
    """Summary of congestion feedback of one peer about what we send to it, at most every 50 ms; while all is well, it
    may wait for as long as `attend` allows."""

    transport: TransportId
    now: Nanos
    acknowledged_bytes: int
    acknowledged_packets: int
    lost_packets: int
    span_ns: int
    """Arrival time covered by this summary."""
    round_trip_ns: int
    remb_bps: int
    """Latest receiver estimate (REMB), 0 when none."""
    usage: Usage = Usage.NORMAL
    standing_ns: int = 0
    """Queueing delay above the emptiest moment that did not go away."""
    recent_ns: int = 0
    """The same over a shorter time: what a probe looks at."""


@dataclass(frozen=True, slots=True)
class Rtcp:
    """A plaintext RTCP packet the plane does not handle itself (BYE, APP, XR, ...)."""

    transport: TransportId
    data: bytes


@dataclass(frozen=True, slots=True)
class TransportSilent:
    """A transport hit a limit that ends it (for instance too many forged packets is NOT one; SSRC flood is)."""

    transport: TransportId
    reason: str


Report = Datagram | Outgoing | UnboundSsrc | Switched | KeyFrame | Feedback | Rtcp | TransportSilent


# ---------------------------------------------------------------------------------------------- statistics


class UpStats(NamedTuple):
    """Counters of one up stream since it was added; the control side takes differences."""

    packets: int
    bytes: int
    lost: int
    """Cumulative loss (RFC 3550 A.3), after repair."""
    repaired: int
    nacks_sent: int
    plis_sent: int
    key_frames: int
    frames: int
    jitter_ns: int
    fraction_lost: int
    """RFC 3550 8-bit fraction of the last report interval."""
    last_packet: Nanos
    round_trip_ns: int
    audio_level: int
    """Loudest level (-dBov, 0 loudest, 127 silence) since the last call of `take_levels`."""


class DownStats(NamedTuple):
    """Counters of one down track since it was added."""

    packets: int
    bytes: int
    retransmitted: int
    nacks_received: int
    plis_received: int
    lost: int
    """Cumulative loss as the subscriber reports it."""
    fraction_lost: int
    jitter_ns: int
    round_trip_ns: int
    layer: int
    """Spatial layer forwarded now, -1 when none."""
    frames: int


class AudioWindow(NamedTuple):
    """Audio levels of one up stream since the last call: what the speaker detector needs."""

    up: int
    packets: int
    active_packets: int
    """Packets at least as loud as the threshold given to `set_audio_threshold`."""
    loudest: int
    """-dBov of the loudest packet, 127 when none."""


class Plane(Protocol):
    """Orders. All are cheap and may be called from the control thread only."""

    @property
    def life(self) -> str:
        """`compiled` or `interpreted`."""

    # transports ---------------------------------------------------------------------------------
    def add_transport(self, port: int = 0) -> TransportId:
        """A new peer, pinned to one Port (one thread, one UDP port number)."""

    def remove_transport(self, transport: TransportId) -> None:
        """Forget the peer with its keys, addresses, up streams and down tracks."""

    def set_keys(self, transport: TransportId, profile: SrtpProfile, rx: bytes, tx: bytes) -> None:
        """SRTP master key + salt of each direction (RFC 5764 4.2). Packets before this are dropped (NO_KEYS)."""

    def allow(self, transport: TransportId, address: Address) -> None:
        """Accept media from an address that authenticated STUN came from (at most 16, the oldest goes)."""

    def select(self, transport: TransportId, address: Address | None) -> None:
        """Send to this address from now on; None: hand packets out as `Outgoing` reports (ICE-TCP)."""

    def set_extensions(self, transport: TransportId, ids: Mapping[Extension, int]) -> None:
        """Negotiated header extension ids of the transport, both ways (BUNDLE: one id space)."""

    def set_feedback(self, transport: TransportId, ssrc: int) -> None:
        """Our own SSRC used as sender of RTCP about up streams (RR, NACK, PLI, transport-cc)."""

    def attend(self, transport: TransportId, every_ns: int) -> None:
        """How far apart `Feedback` about this peer may be while no queue grows and little is lost (50 ms at first)."""

    def send(self, address: Address, data: bytes) -> None:
        """STUN or DTLS bytes, as they are."""

    def answer_checks(self, transport: TransportId, ufrag: str, pwd: str) -> None:
        """Answer, and do not report, checks from the selected address that need no decision (RFC 7675); "": none."""

    def last_check(self, transport: TransportId) -> Nanos:
        """When the last that was answered came, 0 for never."""

    def has_answered(self, transport: TransportId, transaction: bytes) -> bool:
        """It is one of the last 64 answered: whoever sends it from elsewhere has captured it."""

    def send_rtcp(self, transport: TransportId, data: bytes) -> None:
        """A plaintext compound RTCP packet; the plane protects it."""

    def feed(self, now: Nanos, transport: TransportId, data: bytes) -> None:
        """Media or RTCP that came over ICE-TCP (or, in simulation, over a link)."""

    # up -----------------------------------------------------------------------------------------
    def add_track(self, codec: Codec, clock_hz: int) -> int:
        """A group of up streams (simulcast layers of one codec of one PublishedTrack) that down tracks attach to."""

    def remove_track(self, track: int) -> None:
        """Remove the group with its up streams and down tracks."""

    def add_up(
        self, track: int, transport: TransportId, ssrc: int, layer: int, *, payload_type: int, nack: bool, twcc: bool
    ) -> int:
        """Bind an incoming SSRC as spatial layer 0..3 of a track. Waiting packets of the SSRC are replayed.

        From now on the plane sends NACK, receiver reports, transport-cc feedback and (on demand, throttled) PLI for it.
        """

    def bind_rtx(self, up: int, ssrc: int, payload_type: int) -> None:
        """Name the repair stream of an up stream (RFC 4588)."""

    def remove_up(self, up: int) -> None: ...

    def request_key_frame(self, track: int, layer: int) -> None:
        """PLI upstream at most once per throttle window and layer (500 ms, 1 s, 1 s)."""

    def set_track_enabled(self, track: int, enabled: bool) -> None:
        """False: publisher muted or server-muted; nothing of the track is forwarded."""

    # down ---------------------------------------------------------------------------------------
    def add_down(
        self,
        track: int,
        transport: TransportId,
        ssrc: int,
        *,
        payload_type: int,
        rtx_ssrc: int = 0,
        rtx_payload_type: int = 0,
        mid: str = "",
        raw: bool = False,
        first_sequence: int = 1,
        first_timestamp: int = 0,
    ) -> int:
        """A DownTrack row, paused until `set_target`. RTX only when both rtx numbers are given, else NACKs are
        answered on the same SSRC. `raw`: node-to-node relay, numbers are kept as they came."""

    def remove_down(self, down: int) -> None: ...

    def set_target(self, down: int, layer: int, temporal: int = 7) -> None:
        """Wanted spatial layer (-1: pause) and highest temporal layer. The switch happens at the next key frame of the
        wanted layer, which is requested; meanwhile the old layer goes on."""

    # taps ---------------------------------------------------------------------------------------
    def add_tap(self, track: int, *, limit_packets: int = 2048) -> int:
        """A hidden down track that ends in a queue for egress. Use `set_target` and `remove_down` on it as on any."""

    def take_tap(self, tap: int, limit: int = 512) -> tuple[list[TapPacket], int]:
        """Packets in order and the number lost to the queue limit since the last call. Gaps that NACK could not
        repair are skipped after 500 ms, and a key frame is requested."""

    def tap_clock(self, tap: int) -> SenderClock | None: ...

    # reports and figures ------------------------------------------------------------------------
    def reports(self) -> list[Report]:
        """Everything seen since the last call, oldest first (bounded; overflow is counted as REPORT_QUEUE)."""

    def up_stats(self, up: int) -> UpStats | None: ...

    def down_stats(self, down: int) -> DownStats | None: ...

    def set_audio_threshold(self, level: int) -> None:
        """Loudness (-dBov) that counts as active speech; LiveKit default 35."""

    def take_levels(self) -> list[AudioWindow]:
        """Audio windows of every up stream heard since the last call."""

    def totals(self) -> Mapping[str, int]:
        """Node-wide counters (`orders.TOTALS`, `drop_<name>` for every Drop), gauges transports, ups, downs, taps."""


class LivePlane(Plane, Protocol):
    """What the node's wiring adds: sockets and threads."""

    reason: str
    """Why it is interpreted; empty when it is compiled or interpreted was asked for."""

    def fileno(self) -> int:
        """Readable when reports wait; `reports()` clears it."""

    def start(self) -> None: ...

    def stop(self) -> None: ...


class SimulatedPlane(Plane, Protocol):
    """What the simulator adds to the interpreted life: datagrams in memory, time by argument."""

    def receive(self, now: Nanos, address: Address, data: bytes) -> None: ...

    def wake(self, now: Nanos) -> None: ...

    def next_wake(self) -> Nanos | None: ...

    def poll_datagram(self) -> tuple[Address, bytes] | None: ...
