"""What an operator may set: every key of the configuration file with its type and default, as LiveKit names them.

The dataclasses here and in `config_media` are the schema: `config_read` decodes file, environment and flags against
them, and `config.yaml` documents each key (held to the code by tests/house). Keys marked NoEffect are known, so that
an operator's file is accepted, and ignored; the reason is logged at start when one is set. Names and defaults are those
of LiveKit's code, where its sample file says otherwise; only `node_selector.sort_by` has another default (ADR 41).
Blocks of our own: `node`, `cluster`, `egress`, `pages`, `metrics`.

    config.rtc.udp_port                       # (7882,): a tuple; one data thread per number
    config.video.dynacast_pause_delay.ns      # Duration is an int of nanoseconds; .s is a float
    config.keys                               # {api key: Secret}; Secret is a str whose repr shows ***
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from tertulia.node.config_media import Audio, Room, Rtc, Turn, Video
from tertulia.node.config_types import (
    GO,
    MS,
    NO_RPC,
    NO_SECRET,
    ZERO,
    Count,
    Duration,
    NoEffect,
    Opaque,
    Port,
    S,
    Secret,
    Share,
    Within,
)

Level = Literal["debug", "info", "warn", "warning", "error"]

_LATER = NoEffect("this version does not do it")
_NOT_HERE = NoEffect("this server has no such service")
_WEBHOOK_QUEUE = NoEffect("the webhook queue has fixed bounds")
_POOL = NoEffect("a node keeps a few connections with fixed deadlines")
_STATS = NoEffect("counters are read when they are scraped")


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A listener of its own for /metrics."""

    port: Port = 0
    username: str = ""
    password: Secret = NO_SECRET


@dataclass(frozen=True, slots=True)
class DebugHandler:
    port: Annotated[Port, NoEffect("there is no profiling listener")] = 0


@dataclass(frozen=True, slots=True)
class RedisTls:
    enabled: bool = False
    insecure: bool = False
    server_name: Annotated[str, NoEffect("the name in redis.address is verified")] = ""
    ca_cert_file: str = ""
    client_cert_file: str = ""
    client_key_file: str = ""


@dataclass(frozen=True, slots=True)
class Redis:
    """Empty address, sentinel and cluster lists: one node, everything in memory."""

    address: str = ""
    username: str = ""
    password: Secret = NO_SECRET
    db: Count = 0
    use_tls: bool = False
    tls: RedisTls = field(default_factory=RedisTls)
    sentinel_master_name: str = ""
    sentinel_username: str = ""
    sentinel_password: Secret = NO_SECRET
    sentinel_addresses: tuple[str, ...] = ()
    cluster_addresses: tuple[str, ...] = ()
    dial_timeout: Annotated[Count, _POOL] = 0
    read_timeout: Annotated[Count, _POOL] = 0
    write_timeout: Annotated[Count, _POOL] = 0
    max_redirects: Annotated[Count, _POOL] = 0
    pool_timeout: Annotated[Duration, _POOL] = ZERO
    pool_size: Annotated[Count, _POOL] = 0

    @property
    def configured(self) -> bool:
        return bool(self.address or self.sentinel_addresses or self.cluster_addresses)


@dataclass(frozen=True, slots=True)
class UrlNotifier:
    num_workers: Annotated[Count, _WEBHOOK_QUEUE] = 0
    queue_size: Annotated[Count, _WEBHOOK_QUEUE] = 100


@dataclass(frozen=True, slots=True)
class ResourceUrlNotifier:
    max_age: Annotated[Duration, _WEBHOOK_QUEUE] = 30 * S
    max_depth: Annotated[Count, _WEBHOOK_QUEUE] = 200


@dataclass(frozen=True, slots=True)
class WebhookFilter:
    include_events: tuple[str, ...] = ()
    exclude_events: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Webhook:
    urls: tuple[str, ...] = ()
    api_key: str = ""
    """Whose secret signs; may be left out when there is one key."""
    url_notifier: UrlNotifier = field(default_factory=UrlNotifier)
    resource_url_notifier: ResourceUrlNotifier = field(default_factory=ResourceUrlNotifier)
    filter_params: WebhookFilter = field(default_factory=WebhookFilter)


@dataclass(frozen=True, slots=True)
class Logging:
    level: Level = "info"
    json: bool = False
    component_levels: dict[str, Level] = field(default_factory=dict)
    """Logger name (`tertulia.signal`) -> level."""
    pion_level: Annotated[str, GO] = "error"
    sample: Annotated[bool, GO] = False
    sample_initial: Annotated[Count, GO] = 0
    sample_interval: Annotated[Count, GO] = 0
    item_sample_seconds: Annotated[Count, GO] = 0
    item_sample_initial: Annotated[Count, GO] = 0
    item_sample_interval: Annotated[Count, GO] = 0


@dataclass(frozen=True, slots=True)
class Limit:
    """0: no limit."""

    num_tracks: Annotated[int, _LATER] = 0
    bytes_per_sec: Annotated[int, _LATER] = 0
    subscription_limit_video: Annotated[Count, _LATER] = 0
    subscription_limit_audio: Annotated[Count, _LATER] = 0
    max_metadata_size: Count = 524_288
    max_attributes_size: Count = 65_536
    max_room_name_length: Annotated[Count, NoEffect("it is always 256")] = 256
    max_participant_identity_length: Annotated[Count, NoEffect("it is always 256")] = 256
    max_participant_name_length: Count = 256
    max_data_blob_key_length: Annotated[Count, GO] = 256
    max_data_blobs_size: Annotated[Count, GO] = 64_000
    max_data_track_custom_encoding_length: Annotated[Count, GO] = 32
    signal_message_size_limit: Count = 2 << 20
    agent_signal_message_size_limit: Annotated[Count, _NOT_HERE] = 2 << 20
    max_api_request_body_size: Count = 10 << 20


@dataclass(frozen=True, slots=True)
class Ingress:
    rtmp_base_url: Annotated[str, _NOT_HERE] = ""
    whip_base_url: Annotated[str, _NOT_HERE] = ""


@dataclass(frozen=True, slots=True)
class Agents:
    target_load: Annotated[Share, _NOT_HERE] = 0.7
    enable_user_data_recording: Annotated[bool, _NOT_HERE] = False
    enable_user_data_redaction: Annotated[bool, _NOT_HERE] = False


@dataclass(frozen=True, slots=True)
class Trace:
    jaeger_url: Annotated[str, _NOT_HERE] = ""


@dataclass(frozen=True, slots=True)
class NodeSection:
    """This process among others."""

    roles: tuple[Literal["sfu", "egress"], ...] = ("sfu", "egress")
    url: str = ""
    """Where clients reach this node, for /settings/regions."""
    trusted_proxies: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Cluster:
    """How nodes reach each other; needs `redis`."""

    relay_port: Port = 7885
    relay_ip: str = ""
    secret: Secret = NO_SECRET


@dataclass(frozen=True, slots=True)
class RegionPlace:
    """Where a region is, in degrees."""

    name: str = ""
    lat: Annotated[float, Within(-90, 90)] = 0.0
    lon: Annotated[float, Within(-180, 180)] = 0.0


@dataclass(frozen=True, slots=True)
class NodeSelector:
    """Which node takes an egress job, and which is named first in /settings/regions."""

    kind: Literal["any", "cpuload", "sysload", "regionaware", "random"] = "any"
    sort_by: Literal["random", "sysload", "cpuload", "rooms", "clients", "tracks", "bytespersec"] = "cpuload"
    algorithm: Literal["lowest", "twochoice"] = "lowest"
    cpu_load_limit: Share = 0.9
    sysload_limit: Annotated[float, Within(0, 1000)] = 0.9
    regions: tuple[RegionPlace, ...] = ()


@dataclass(frozen=True, slots=True)
class S3:
    bucket: str = ""
    region: str = ""
    endpoint: str = ""
    access_key: Secret = NO_SECRET
    secret: Secret = NO_SECRET
    session_token: Secret = NO_SECRET
    force_path_style: bool = False


@dataclass(frozen=True, slots=True)
class Gcp:
    bucket: str = ""
    credentials_json: Secret = NO_SECRET


@dataclass(frozen=True, slots=True)
class Azure:
    container_name: str = ""
    account_name: str = ""
    account_key: Secret = NO_SECRET


@dataclass(frozen=True, slots=True)
class Storage:
    """At most one of the three; none: local files below the first output root."""

    prefix: str = ""
    generate_presigned_url: bool = False
    s3: S3 = field(default_factory=S3)
    gcp: Gcp = field(default_factory=Gcp)
    azure: Azure = field(default_factory=Azure)


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """0: no limit."""

    file_output_max_duration: Duration = ZERO
    file_output_max_size: Annotated[Count, _LATER] = 0
    stream_output_max_duration: Duration = ZERO
    segment_output_max_duration: Duration = ZERO
    image_output_max_duration: Duration = ZERO


@dataclass(frozen=True, slots=True)
class Egress:
    output_roots: tuple[str, ...] = ("recordings",)
    """Local files are written below the first."""
    disallow_local_storage: bool = False
    storage: Storage = field(default_factory=Storage)
    backup: Storage = field(default_factory=Storage)
    max_cpu_utilization: Share = 0.8
    cpu_cores: Annotated[float, Within(0, 4096)] = 0.0
    """0: all of the machine."""
    max_jobs: Count = 0
    video_preset: Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium"] = "superfast"
    encoder_threads: Annotated[int, Within(0, 64)] = 0
    nice: Annotated[int, Within(0, 19)] = 19
    latency: Duration = 800 * MS
    track_wait: Duration = 30 * S
    isolation: Annotated[Literal["thread", "process"], NoEffect("jobs run in threads")] = "thread"
    temporary_directory: Annotated[str, NoEffect("files wait below output_roots")] = ""
    allow_private_addresses: bool = True
    """May stream and WebSocket outputs go to the operator's own network?"""
    session_limits: SessionLimits = field(default_factory=SessionLimits)


@dataclass(frozen=True, slots=True)
class Pages:
    """None: on in development mode, off otherwise."""

    demo: bool | None = None
    admin: Annotated[bool | None, NoEffect("there is no admin page yet")] = None


@dataclass(frozen=True, slots=True)
class Metrics:
    main_port: bool | None = None
    """/metrics on `port`; None: only in development mode and when `bind_addresses` are loopback addresses."""


@dataclass(frozen=True, slots=True)
class Config:
    """The whole file."""

    port: Port = 7880
    bind_addresses: tuple[str, ...] = ()
    """Empty: all."""
    region: str = ""
    keys: dict[str, Secret] = field(default_factory=dict)
    key_file: str = ""
    development: bool = False
    log_level: Level | None = None
    logging: Logging = field(default_factory=Logging)
    prometheus_port: Port = 0
    prometheus: Prometheus = field(default_factory=Prometheus)
    metrics: Metrics = field(default_factory=Metrics)
    debug_handler: DebugHandler = field(default_factory=DebugHandler)
    pages: Pages = field(default_factory=Pages)
    rtc: Rtc = field(default_factory=Rtc)
    redis: Redis = field(default_factory=Redis)
    node: NodeSection = field(default_factory=NodeSection)
    cluster: Cluster = field(default_factory=Cluster)
    room: Room = field(default_factory=Room)
    audio: Audio = field(default_factory=Audio)
    video: Video = field(default_factory=Video)
    limit: Limit = field(default_factory=Limit)
    webhook: Webhook = field(default_factory=Webhook)
    egress: Egress = field(default_factory=Egress)
    turn: Turn = field(default_factory=Turn)
    ingress: Ingress = field(default_factory=Ingress)
    agents: Agents = field(default_factory=Agents)
    enable_data_tracks: Annotated[bool, NoEffect("data tracks are always on")] = True
    enable_participant_data_blob: Annotated[bool, GO] = False
    node_selector: NodeSelector = field(default_factory=NodeSelector)
    signal_relay: Annotated[Opaque, NO_RPC] = field(default_factory=dict)
    psrpc: Annotated[Opaque, NO_RPC] = field(default_factory=dict)
    api: Annotated[Opaque, NO_RPC] = field(default_factory=dict)
    metric: Annotated[Opaque, _STATS] = field(default_factory=dict)
    node_stats: Annotated[Opaque, _STATS] = field(default_factory=dict)
    trace: Trace = field(default_factory=Trace)
