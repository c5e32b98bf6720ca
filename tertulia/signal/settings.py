"""The front door's limits with their defaults; the node fills them from the configuration file.

0 means no limit for bodies, commands, messages, sessions, connections and upgrades; the others are always kept.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DoorSettings:
    """Every bound the door keeps before a request reaches the house."""

    header_timeout_s: float = 10.0
    """From connect, or from the first byte of a later request, to the end of its header."""
    header_bytes: int = 64 << 10
    """Request line and header together; a v1 request line alone may have 20 kB (wire contract G10)."""
    header_count: int = 128
    body_bytes: int = 10 << 20
    """LiveKit's `limit.max_api_request_body_size`."""
    body_timeout_s: float = 30.0
    keep_alive_s: int = 15
    command_timeout_s: float = 30.0
    join_timeout_s: float = 10.0
    """For the house's word on a join; clients give up after 5 to 15 s."""
    message_bytes: int = 2 << 20
    """One WebSocket message (LiveKit's `limit.signal_message_size_limit`)."""
    message_fragments: int = 1_024
    message_timeout_s: float = 10.0
    """From a message's first fragment to its last."""
    control_frames_per_s: int = 100
    ping_interval_s: float = 10.0
    ping_timeout_s: float = 20.0
    """A client stopped for 10 s must survive."""
    linger_s: float = 1.0
    """After our close frame the peer has so long to answer or hang up."""
    sessions: int = 0
    """WebSocket sessions on this node."""
    connections_per_s: float = 200.0
    """New TCP connections from one address, with a burst of `connections_burst`."""
    connections_burst: int = 1_000
    waiting_connections: int = 200
    """Connections from one address that have not completed a request header yet."""
    upgrades_per_s: float = 50.0
    """New sessions (and validate calls) from one address, with a burst of `upgrades_burst`."""
    upgrades_burst: int = 300
    trusted_proxies: tuple[str, ...] = ()
    """Networks whose X-Forwarded-For is believed; their connections are not counted against one address."""
    serve_metrics: bool = True
