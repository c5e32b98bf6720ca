"""The configuration's sections about calls: `rtc`, `audio`, `video`, `room`, `turn`. See `config`."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from tertulia.node.config_types import (
    GO,
    MEDIA,
    MS,
    NO_RPC,
    NO_SECRET,
    UDP_PORTS,
    ZERO,
    Count,
    Duration,
    NoEffect,
    Opaque,
    Port,
    PortList,
    RoomPreset,
    S,
    Secret,
    Within,
)

_LITE = NoEffect("the server is always ICE-lite")
_ONE_PORT = NoEffect("one port carries all media: rtc.udp_port, else the first of the range")
_EXTERNAL = NoEffect("set rtc.node_ip where the machine does not have its public address itself")
_LATER = NoEffect("this version does not do it")
_ACCOUNTS = NoEffect("clients get the username and credential given here; none that expire are made")
_TURN = NoEffect("there is no TURN server inside; point rtc.turn_servers at one")


@dataclass(frozen=True, slots=True)
class NameLists:
    includes: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TurnServer:
    """A TURN server of the operator's, announced to clients."""

    host: str = ""
    port: Port = 3478
    protocol: Literal["udp", "tcp", "tls"] = "udp"
    username: str = ""
    credential: Secret = NO_SECRET
    secret: Annotated[Secret, _ACCOUNTS] = NO_SECRET
    secret_file: Annotated[str, _ACCOUNTS] = ""
    ttl: Annotated[Count, _ACCOUNTS] = 14_400


@dataclass(frozen=True, slots=True)
class BatchIo:
    batch_size: Annotated[Count, MEDIA] = 0
    max_flush_interval: Annotated[Duration, MEDIA] = ZERO


@dataclass(frozen=True, slots=True)
class PliThrottle:
    low_quality: Annotated[Duration, MEDIA] = 500 * MS
    mid_quality: Annotated[Duration, MEDIA] = 1 * S
    high_quality: Annotated[Duration, MEDIA] = 1 * S


@dataclass(frozen=True, slots=True)
class CongestionControl:
    enabled: bool = True
    allow_pause: bool = False
    stream_allocator: Annotated[Opaque, GO] = field(default_factory=dict)
    remote_bwe: Annotated[Opaque, GO] = field(default_factory=dict)
    use_send_side_bwe_interceptor: Annotated[bool, MEDIA] = False
    use_send_side_bwe: Annotated[bool, MEDIA] = False
    send_side_bwe_pacer: Annotated[str, MEDIA] = "no-queue"
    send_side_bwe: Annotated[Opaque, GO] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ForwardStats:
    summary_interval: Annotated[Duration, MEDIA] = ZERO
    report_interval: Annotated[Duration, MEDIA] = ZERO
    report_window: Annotated[Duration, MEDIA] = ZERO


@dataclass(frozen=True, slots=True)
class Rtc:
    udp_port: PortList = UDP_PORTS
    tcp_port: Port = 7881
    port_range_start: Port = 0
    port_range_end: Annotated[Port, _ONE_PORT] = 0
    node_ip: str = ""
    use_external_ip: Annotated[bool, _EXTERNAL] = False
    external_ip_only: Annotated[bool, _EXTERNAL] = False
    advertise_internal_ip: Annotated[bool, _EXTERNAL] = False
    skip_external_ip_validation: Annotated[bool, GO] = False
    stun_servers: tuple[str, ...] = ()
    turn_servers: tuple[TurnServer, ...] = ()
    interfaces: NameLists = field(default_factory=NameLists)
    ips: NameLists = field(default_factory=NameLists)
    enable_loopback_candidate: bool = False
    use_stun_port_as_ice: Annotated[bool, _LITE] = False
    use_ice_lite: Annotated[bool, _LITE] = False
    use_mdns: Annotated[bool, _LITE] = False
    force_tcp: Annotated[bool, NoEffect("clients take the first connection that works")] = False
    allow_tcp_fallback: Annotated[bool, NoEffect("rtc.tcp_port: 0 turns TCP off")] = True
    tcp_fallback_rtt_threshold: Annotated[Count, MEDIA] = 0
    allow_udp_unstable_fallback: Annotated[bool, MEDIA] = False
    pli_throttle: PliThrottle = field(default_factory=PliThrottle)
    congestion_control: CongestionControl = field(default_factory=CongestionControl)
    packet_buffer_size: Annotated[Count, MEDIA] = 500
    packet_buffer_size_video: Annotated[Count, MEDIA] = 500
    packet_buffer_size_audio: Annotated[Count, MEDIA] = 200
    batch_io: BatchIo = field(default_factory=BatchIo)
    sctp_min_cwnd: Annotated[Count, GO] = 0
    sctp_fast_rtx_wnd: Annotated[Count, GO] = 0
    sctp_cwnd_ca_step: Annotated[Count, GO] = 0
    enable_warp: Annotated[bool, GO] = False
    strict_acks: Annotated[bool, GO] = False
    reconnect_on_publication_error: Annotated[bool, GO] = False
    reconnect_on_subscription_error: Annotated[bool, GO] = False
    reconnect_on_data_channel_error: Annotated[bool, GO] = False
    data_channel_max_buffered_amount: Annotated[Count, GO] = 0
    datachannel_slow_threshold: Annotated[Count, GO] = 0
    datachannel_lossy_target_latency: Annotated[Duration, GO] = ZERO
    datachannel_data_track_target_latency: Annotated[Duration, GO] = 100 * MS
    forward_stats: ForwardStats = field(default_factory=ForwardStats)
    enable_rtp_stream_restart_detection: Annotated[bool, MEDIA] = False


@dataclass(frozen=True, slots=True)
class Audio:
    active_level: Annotated[int, Within(0, 127)] = 35
    min_percentile: Annotated[int, Within(0, 100)] = 40
    update_interval: Annotated[int, Within(20, 60_000)] = 400
    """Milliseconds."""
    smooth_intervals: Annotated[int, Within(0, 100)] = 2
    active_red_encoding: Annotated[bool, MEDIA] = False
    enable_loss_proxying: Annotated[bool, MEDIA] = False


@dataclass(frozen=True, slots=True)
class StreamTrackers:
    video: Annotated[Opaque, GO] = field(default_factory=dict)
    screenshare: Annotated[Opaque, GO] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Video:
    dynacast_pause_delay: Duration = 5 * S
    stream_tracker_manager: StreamTrackers = field(default_factory=StreamTrackers)
    codec_regression_threshold: Annotated[Count, GO] = 5


@dataclass(frozen=True, slots=True)
class EnabledCodec:
    mime: str = ""
    fmtp_line: str = ""


@dataclass(frozen=True, slots=True)
class PlayoutDelay:
    enabled: Annotated[bool, _LATER] = False
    min: Annotated[Count, _LATER] = 0
    max: Annotated[Count, _LATER] = 0


STANDARD_CODECS = tuple(
    EnabledCodec(mime)
    for mime in (
        "audio/PCMU",
        "audio/PCMA",
        "audio/opus",
        "audio/red",
        "video/VP8",
        "video/H264",
        "video/VP9",
        "video/AV1",
        "video/H265",
        "video/rtx",
    )
)


@dataclass(frozen=True, slots=True)
class Room:
    auto_create: bool = True
    enabled_codecs: tuple[EnabledCodec, ...] = STANDARD_CODECS
    max_participants: Count = 0
    empty_timeout: Count = 300
    """Seconds."""
    departure_timeout: Count = 20
    """Seconds."""
    enable_remote_unmute: bool = False
    playout_delay: PlayoutDelay = field(default_factory=PlayoutDelay)
    sync_streams: bool = False
    room_configurations: dict[str, RoomPreset] = field(default_factory=dict)
    """Presets by name; each is a `livekit.RoomConfiguration` message."""
    create_room_timeout: Annotated[Duration, NO_RPC] = 10 * S
    create_room_attempts: Annotated[Count, NO_RPC] = 3
    enable_full_room_in_webhooks: Annotated[bool, GO] = False
    update_batch_target_size: Annotated[Count, GO] = 131_072
    max_metadata_size: Annotated[Count, NoEffect("its new name is limit.max_metadata_size")] = 0
    max_room_name_length: Annotated[Count, NoEffect("its new name is limit.max_room_name_length")] = 0
    max_participant_identity_length: Annotated[
        Count, NoEffect("its new name is limit.max_participant_identity_length")
    ] = 0


@dataclass(frozen=True, slots=True)
class Turn:
    enabled: Annotated[bool, _TURN] = False
    domain: Annotated[str, _TURN] = ""
    cert_file: Annotated[str, _TURN] = ""
    key_file: Annotated[str, _TURN] = ""
    tls_port: Annotated[Port, _TURN] = 0
    udp_port: Annotated[Port, _TURN] = 0
    relay_range_start: Annotated[Port, _TURN] = 30_000
    relay_range_end: Annotated[Port, _TURN] = 40_000
    external_tls: Annotated[bool, _TURN] = False
    bind_addresses: Annotated[tuple[str, ...], _TURN] = ("0.0.0.0",)
    per_user_relay_allocation_limit: Annotated[Count, _TURN] = 12
    ttl_seconds: Annotated[Count, _TURN] = 300
    allow_restricted_peer_cidrs: Annotated[tuple[str, ...], _TURN] = ()
    deny_peer_cidrs: Annotated[tuple[str, ...], _TURN] = ()
