"""Requests as they may be shown: in EgressInfo, webhooks, lists and logs. No key, secret or stream name survives."""

from google.protobuf.message import Message
from livekit.protocol import egress

from tertulia.egress.outputs.addresses import mask, masked_rtmp, masked_websocket

_SECRET_FIELDS = frozenset(
    {
        "access_key",
        "secret",
        "session_token",
        "assume_role_arn",
        "assume_role_external_id",
        "credentials",
        "account_key",
        "password",
    }
)


def redacted(request: Message) -> Message:
    """A copy in which every secret is masked; addresses of streams keep all but their key."""
    copy = type(request)()
    copy.CopyFrom(request)
    _redact(copy)
    return copy


def _redact(message: Message) -> None:
    for field, value in message.ListFields():
        if field.message_type is not None:
            if field.message_type.GetOptions().map_entry:
                continue
            for inner in value if field.is_repeated else (value,):
                _redact(inner)
        elif field.name in _SECRET_FIELDS and isinstance(value, str):
            setattr(message, field.name, mask(value))
    if isinstance(message, egress.StreamOutput | egress.UpdateStreamRequest):
        for name in ("urls", "add_output_urls", "remove_output_urls"):
            urls = getattr(message, name, None)
            if urls:
                urls[:] = [masked_rtmp(url) for url in urls]
    elif isinstance(message, egress.StreamDestination):
        message.url = masked_rtmp(message.url)
    elif isinstance(message, egress.TrackEgressRequest) and message.websocket_url:
        message.websocket_url = masked_websocket(message.websocket_url)
    elif isinstance(message, egress.ProxyConfig) and "@" in message.url:
        scheme, _, rest = message.url.partition("://")
        message.url = f"{scheme}://{{...}}@{rest.rpartition('@')[2]}"
