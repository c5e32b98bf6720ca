"""Every refusal and drop of the front door has a name here; the node exports the counters."""

from collections import Counter
from enum import StrEnum


class Drop(StrEnum):
    """What was refused, dropped or cut off, and why. Also the `reason` label in metrics."""

    # Connections and requests, before any application code
    CONNECTION_RATE = "connection_rate"
    CONNECTIONS_WAITING = "connections_waiting"
    HEADER_TIMEOUT = "header_timeout"
    HEADER_BYTES = "header_bytes"
    BAD_HTTP = "bad_http"
    BODY_BYTES = "body_bytes"
    BODY_TIMEOUT = "body_timeout"
    BAD_UPGRADE = "bad_upgrade"
    FRAGMENTS = "fragments"
    BAD_FRAME = "bad_frame"
    CONTROL_FRAMES = "control_frames"
    MESSAGE_TIMEOUT = "message_timeout"
    # Admission
    UPGRADE_RATE = "upgrade_rate"
    SESSIONS = "sessions"
    BAD_TOKEN = "bad_token"
    BAD_REQUEST = "bad_request"
    REFUSED = "refused"
    JOIN_TIMEOUT = "join_timeout"
    # Sessions
    GARBAGE = "garbage"
    UNKNOWN_REQUEST = "unknown_request"
    JSON_BYTES = "json_bytes"
    THROTTLED = "throttled"
    AFTER_END = "after_end"
    OUTBOUND_FULL = "outbound_full"
    TOO_SLOW = "too_slow"
    # Webhooks
    WEBHOOK_FULL = "webhook_full"
    WEBHOOK_STALE = "webhook_stale"
    WEBHOOK_REFUSED = "webhook_refused"
    WEBHOOK_FAILED = "webhook_failed"
    WEBHOOK_FORBIDDEN_ADDRESS = "webhook_forbidden_address"


Counts = Counter[Drop]
"""One per front door, shared by its parts; all of them run on the control thread."""
