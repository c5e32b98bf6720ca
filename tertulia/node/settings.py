"""The configuration file in the words of each room: what the house, the door and the webhooks want to know of it."""

import ipaddress

from livekit.protocol import room, rtc

from tertulia.node.cluster.redis import RedisAddress
from tertulia.node.cluster.seal import secret_of_keys
from tertulia.node.cluster.selector import Selector
from tertulia.node.config import Config
from tertulia.node.house import HouseConfig
from tertulia.node.sockets import Interfaces
from tertulia.protocol.ids import NodeId
from tertulia.sfu.room import RoomConfig
from tertulia.signal.settings import DoorSettings
from tertulia.signal.webhook import Target


def interfaces(config: Config) -> Interfaces:
    """Which addresses carry media. Development serves loopback too, so that two tabs of one machine meet."""
    media = config.rtc
    return Interfaces(
        includes=media.interfaces.includes,
        excludes=media.interfaces.excludes,
        ip_includes=media.ips.includes,
        ip_excludes=media.ips.excludes,
        loopback=media.enable_loopback_candidate or config.development,
    )


def house(config: Config, node_id: NodeId) -> HouseConfig:
    return HouseConfig(
        keys={key: str(secret) for key, secret in config.keys.items()},
        node_id=node_id,
        region=config.region,
        auto_create=config.room.auto_create,
        takes_calls="sfu" in config.node.roles,
        presets={name: _preset(shape) for name, shape in config.room.room_configurations.items()},
        room=rooms(config),
    )


def redis(config: Config) -> RedisAddress:
    """Where the shared Redis is."""
    about = config.redis
    return RedisAddress(
        address=about.address,
        username=about.username,
        password=str(about.password),
        db=about.db,
        use_tls=about.use_tls or about.tls.enabled,
        ca_cert_file=about.tls.ca_cert_file,
        client_cert_file=about.tls.client_cert_file,
        client_key_file=about.tls.client_key_file,
        tls_insecure=about.tls.insecure,
        sentinel_master_name=about.sentinel_master_name,
        sentinel_addresses=about.sentinel_addresses,
        sentinel_username=about.sentinel_username,
        sentinel_password=str(about.sentinel_password),
        cluster_addresses=about.cluster_addresses,
    )


def cluster_secret(config: Config) -> str:
    """The cluster's own, else what its nodes share anyway."""
    return str(config.cluster.secret) or secret_of_keys({key: str(secret) for key, secret in config.keys.items()})


def selector(config: Config) -> Selector:
    """Which node comes first."""
    about = config.node_selector
    return Selector(
        kind=about.kind,
        sort_by=about.sort_by,
        algorithm=about.algorithm,
        cpu_load_limit=about.cpu_load_limit,
        sysload_limit=about.sysload_limit,
        places={place.name: (place.lat, place.lon) for place in about.regions},
    )


def _preset(shape: object) -> room.RoomConfiguration:
    assert isinstance(shape, room.RoomConfiguration)
    return shape


def rooms(config: Config) -> RoomConfig:
    """Defaults and limits of rooms."""
    return RoomConfig(
        enabled_codecs=tuple(codec.mime for codec in config.room.enabled_codecs if codec.mime),
        ice_servers=tuple(_ice_servers(config)),
        max_participants=config.room.max_participants,
        empty_timeout_s=config.room.empty_timeout,
        departure_timeout_s=config.room.departure_timeout,
        enable_remote_unmute=config.room.enable_remote_unmute,
        sync_streams=config.room.sync_streams,
        max_metadata_bytes=config.limit.max_metadata_size,
        max_attributes_bytes=config.limit.max_attributes_size,
        max_name_length=config.limit.max_participant_name_length,
        audio_active_level=config.audio.active_level,
        audio_min_percentile=config.audio.min_percentile,
        audio_interval_ns=config.audio.update_interval * 1_000_000,
        audio_smooth_intervals=config.audio.smooth_intervals,
        dynacast_pause_ns=config.video.dynacast_pause_delay.ns,
        congestion_control=config.rtc.congestion_control.enabled,
        allow_pause=config.rtc.congestion_control.allow_pause,
    )


def _ice_servers(config: Config) -> list[rtc.ICEServer]:
    """External STUN and TURN servers told to clients; static credentials only."""
    found = []
    if config.rtc.stun_servers:
        found.append(rtc.ICEServer(urls=[f"stun:{server}" for server in config.rtc.stun_servers]))
    for turn in config.rtc.turn_servers:
        scheme, transport = ("turns", "tcp") if turn.protocol == "tls" else ("turn", turn.protocol)
        url = f"{scheme}:{turn.host}:{turn.port}?transport={transport}"
        found.append(rtc.ICEServer(urls=[url], username=turn.username, credential=str(turn.credential)))
    return found


def door(config: Config) -> DoorSettings:
    """The door's bounds. Counters are not told to strangers: by default only where all that listens is loopback."""
    local = bool(config.bind_addresses) and all(_is_loopback(host) for host in config.bind_addresses)
    serve_metrics = config.metrics.main_port
    return DoorSettings(
        body_bytes=config.limit.max_api_request_body_size,
        message_bytes=config.limit.signal_message_size_limit,
        trusted_proxies=config.node.trusted_proxies,
        serve_metrics=(config.development or local) if serve_metrics is None else serve_metrics,
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def webhook_targets(config: Config) -> list[Target]:
    about = config.webhook
    key = about.api_key or next(iter(config.keys), "")
    return [
        Target(
            url,
            key,
            include=frozenset(about.filter_params.include_events),
            exclude=frozenset(about.filter_params.exclude_events),
        )
        for url in about.urls
    ]
