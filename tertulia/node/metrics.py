"""Metrics for Prometheus: plain numbers read from the node when they are scraped, under LiveKit's names.

Decides names, types and labels. The numbers come from one `snapshot()`: {name without prefix: value}, where value is

    a number                                   a metric without labels
    {("audio",): 3, ("video",): 2}             one per label values, in the order of METRICS
    Histogram                                  or {label values: Histogram}

Names missing in METRICS that end in `_total` appear as `tertulia_<name>` with a label `kind` (use it for drops:
{"drops_total": {("stun_forged",): 7}}), others as gauges `tertulia_<name>`. Nothing here is called per packet.
"""

import base64
import hmac
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MAX_SERIES = 2_000
"""Per metric; more are summed under the label values "other"."""


class Histogram:
    """Counts per bucket as plain integers; `bounds` are upper ends, rising."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


Value = int | float | Histogram
Snapshot = Mapping[str, Value | Mapping[tuple[str, ...], Value]]


@dataclass(frozen=True, slots=True)
class Known:
    """One metric LiveKit's dashboards know (prefix `livekit_`)."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    help: str


_FLOW = ("direction", "source", "type", "country")

METRICS = (
    Known("node_messages", "counter", ("type", "status", "direction"), "Signal messages"),
    Known("node_service_operation", "counter", ("type", "status", "error_type"), "Joins and other operations"),
    Known("node_twirp_request_status", "counter", ("service", "method", "status", "code"), "API requests"),
    Known("node_twirp_request_latency_ms", "histogram", ("service", "method", "status"), "API requests, duration"),
    Known("node_packet_total", "gauge", ("type",), "Packets of the machine's network interfaces"),
    Known("room_total", "gauge", (), "Rooms"),
    Known("room_duration_seconds", "histogram", (), "Length of ended rooms"),
    Known("participant_total", "gauge", (), "Participants on this node"),
    Known("room_participant_total", "gauge", (), "Participants on this node, in all rooms"),
    Known("track_published_total", "gauge", ("kind",), "Published tracks"),
    Known("track_subscribed_total", "gauge", ("kind",), "Subscribed tracks"),
    Known("track_publish_counter", "counter", ("kind", "state"), "Attempts to publish"),
    Known("track_subscribe_counter", "counter", ("state", "error"), "Attempts to subscribe"),
    Known("session_join_latency_ms", "histogram", ("protocol_version",), "From request to join response"),
    Known("session_start_time_ms", "histogram", ("protocol_version", "warp"), "From request to media flowing"),
    Known("session_duration_ms", "histogram", ("protocol_version",), "Length of sessions"),
    Known("peer_connection_state", "counter", ("transport", "state"), "State changes of transports"),
    Known("packet_total", "counter", ("direction", "transmission", "country"), "Media packets"),
    Known("packet_bytes", "counter", ("direction", "transmission", "country"), "Media bytes"),
    Known("nack_total", "counter", ("direction", "country"), "Packets asked for again"),
    Known("pli_total", "counter", ("direction", "country"), "Picture loss indications"),
    Known("fir_total", "counter", ("direction", "country"), "Full intra requests"),
    Known("packet_loss_total", "counter", _FLOW, "Packets lost"),
    Known("packet_loss_rate", "gauge", ("direction",), "Share of packets lost lately, 0..1"),
    Known("packet_out_of_order_total", "counter", _FLOW, "Packets out of order"),
    Known("jitter_us", "histogram", _FLOW, "Jitter"),
    Known("rtt_ms", "histogram", _FLOW, "Round-trip time"),
    Known("participant_join_total", "counter", ("state", "warp"), "Joins by how far they came"),
    Known("connection_total", "gauge", ("kind",), "Connected transports"),
    Known("forward_latency", "gauge", (), "Forwarding latency, ns"),
    Known("forward_jitter", "gauge", (), "Forwarding jitter, ns"),
    Known("forward_latency_ns", "histogram", (), "Forwarding latency"),
    Known("forwarded_rtp_total", "counter", (), "Copies of media packets sent to subscribers"),
    Known("quality_rating", "histogram", (), "Connection quality: 0 poor, 1 good, 2 excellent"),
    Known("quality_score", "histogram", (), "Connection quality, 1 to 4.5"),
    Known("webhook_dispatch_total", "counter", ("status", "reason"), "Webhook posts"),
    Known("webhook_queue_length", "gauge", (), "Webhooks waiting"),
    Known("egress_available", "gauge", (), "1 when this node takes egress jobs"),
    Known("egress_requests", "gauge", ("type",), "Egress jobs running"),
)
_KNOWN = {metric.name: metric for metric in METRICS}


class NodeCollector(Collector):
    """Turns one snapshot into metric families, each with `node_id` and `node_type`."""

    def __init__(self, snapshot: Callable[[], Snapshot], node_id: str, node_type: str = "SERVER") -> None:
        self._snapshot = snapshot
        self._constant = {"node_id": node_id, "node_type": node_type}

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterable[Metric]:
        for name, value in self._snapshot().items():
            yield self._family(name, value)

    def _family(self, name: str, value: Value | Mapping[tuple[str, ...], Value]) -> Metric:
        rows: Mapping[tuple[str, ...], Value] = value if isinstance(value, Mapping) else {(): value}
        known = _KNOWN.get(name)
        if known is None:
            labels = ("kind",) if any(rows) else ()
            known = Known(name, "counter" if name.endswith("_total") else "gauge", labels, name.replace("_", " "))
            full = f"tertulia_{name}"
        else:
            full = f"livekit_{name}"
        family = _metric(full, known)
        for values, number in _bounded(rows, len(known.labels)).items():
            self._add(family, full, {**self._constant, **dict(zip(known.labels, values, strict=True))}, number)
        return family

    @staticmethod
    def _add(family: Metric, name: str, labels: dict[str, str], number: Value) -> None:
        if not isinstance(number, Histogram):
            family.add_sample(name, labels, number)
            return
        total = 0
        for bound, count in zip((*map(float, number.bounds), float("inf")), number.counts, strict=True):
            total += count
            end = "+Inf" if bound == float("inf") else repr(bound)
            family.add_sample(f"{name}_bucket", {**labels, "le": end}, total)
        family.add_sample(f"{name}_count", labels, total)
        family.add_sample(f"{name}_sum", labels, number.sum)


def _metric(full: str, known: Known) -> Metric:
    if known.kind == "counter" and full.endswith("_total"):
        return Metric(full.removesuffix("_total"), known.help, "counter")
    # A counter named otherwise (LiveKit has some) would be announced under a name it does not have.
    return Metric(full, known.help, "unknown" if known.kind == "counter" else known.kind)


def _bounded(rows: Mapping[tuple[str, ...], Value], width: int) -> Mapping[tuple[str, ...], Value]:
    """Rows of the right width, at most MAX_SERIES of them."""
    right = {
        (tuple(map(str, values)) + ("",) * width)[:width]: number
        for values, number in rows.items()
        if len(values) <= max(width, 0) or width == 0
    }
    if len(right) <= MAX_SERIES:
        return right
    kept = dict(list(right.items())[: MAX_SERIES - 1])
    rest = [number for number in list(right.values())[MAX_SERIES - 1 :] if not isinstance(number, Histogram)]
    kept[("other",) * width] = sum(rest)
    return kept


class Metrics:
    """The scrape: `render()` is the body of /metrics."""

    def __init__(self, snapshot: Callable[[], Snapshot], node_id: str, node_type: str = "SERVER") -> None:
        self.registry = CollectorRegistry()
        self.registry.register(NodeCollector(snapshot, node_id, node_type))
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def render(self) -> bytes:
        return generate_latest(self.registry)


# -------------------------------------------------------------------------- the listener of its own

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


def metrics_app(
    render: Callable[[], bytes], username: str = "", password: str = ""
) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
    """ASGI application for `prometheus.port`: /metrics at every path, with basic authentication when configured."""
    expected = b"Basic " + base64.b64encode(f"{username}:{password}".encode()) if username else b""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        given = dict(scope["headers"]).get(b"authorization", b"")
        if expected and not hmac.compare_digest(given, expected):
            status, body = 401, b"unauthorized"
            headers = [(b"www-authenticate", b'Basic realm="metrics"'), (b"content-type", b"text/plain")]
        elif scope["method"] not in ("GET", "HEAD"):
            status, body, headers = 405, b"only GET is allowed", [(b"content-type", b"text/plain")]
        else:
            status, body, headers = 200, render(), [(b"content-type", CONTENT_TYPE.encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body if scope["method"] != "HEAD" else b""})

    return app
