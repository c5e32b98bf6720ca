"""Metrics: LiveKit's names and labels, drops by name, and a scrape that reads what is there now."""

import base64
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tertulia.node.health import LATE_NS, Health
from tertulia.node.metrics import MAX_SERIES, METRICS, Histogram, Metrics, Snapshot, metrics_app


def scrape(snapshot: Snapshot) -> dict[str, float]:
    text = Metrics(lambda: snapshot, "ND_test").render().decode()
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = {name: value for name, value in sample.labels.items() if name not in ("node_id", "node_type")}
            found[sample.name + ("" if not labels else str(sorted(labels.items())))] = sample.value
    return found


def test_names_labels_and_types() -> None:
    rtt = Histogram((10, 100))
    for value in (10, 50, 500):
        rtt.observe(value)
    found = scrape(
        {
            "room_total": 2,
            "node_messages": {("signal", "success", "in"): 4},
            "nack_total": {("incoming", ""): 3},
            "track_published_total": {("audio",): 1, ("video",): 2},
            "room_participant_total": 5,
            "packet_loss_rate": {("incoming",): 0.25},
            "forwarded_rtp_total": 10**12,
            "drops_total": {("plane_no_keys",): 7},
            "event_loop_delay_seconds": 0.5,
            "forward_latency_ns": rtt,
        }
    )
    assert found["livekit_room_total"] == 2
    assert found["livekit_node_messages[('direction', 'in'), ('status', 'success'), ('type', 'signal')]"] == 4
    assert found["livekit_nack_total[('country', ''), ('direction', 'incoming')]"] == 3
    assert found["livekit_track_published_total[('kind', 'video')]"] == 2
    assert found["livekit_room_participant_total"] == 5
    assert found["livekit_packet_loss_rate[('direction', 'incoming')]"] == 0.25
    assert found["livekit_forwarded_rtp_total"] == 10**12
    assert found["tertulia_drops_total[('kind', 'plane_no_keys')]"] == 7
    assert found["tertulia_event_loop_delay_seconds"] == 0.5
    assert found["livekit_forward_latency_ns_bucket[('le', '10.0')]"] == 1
    assert found["livekit_forward_latency_ns_bucket[('le', '100.0')]"] == 2
    assert found["livekit_forward_latency_ns_bucket[('le', '+Inf')]"] == 3
    assert found["livekit_forward_latency_ns_sum"] == 560
    assert found["process_resident_memory_bytes"] > 0


def test_every_row_carries_the_node() -> None:
    text = Metrics(lambda: {"room_total": 1}, "ND_abc").render().decode()
    assert 'livekit_room_total{node_id="ND_abc",node_type="SERVER"} 1.0' in text


def test_numbers_are_read_at_the_scrape() -> None:
    rooms = 0

    def snapshot() -> dict[str, Any]:
        return {"room_total": rooms}

    metrics = Metrics(snapshot, "ND_x")
    rooms = 9
    assert b"} 9.0" in metrics.render()


def test_label_values_cannot_flood_a_scrape() -> None:
    found = scrape({"drops_total": {(f"invented{n}",): 1 for n in range(MAX_SERIES * 2)}})
    drops = {name: value for name, value in found.items() if name.startswith("tertulia_drops")}
    assert len(drops) == MAX_SERIES
    assert sum(drops.values()) == MAX_SERIES * 2


def test_the_table_names_each_metric_once() -> None:
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)


async def call(app: Any, authorization: str = "", method: str = "GET") -> tuple[int, bytes]:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"authorization", authorization.encode())] if authorization else []
    await app({"type": "http", "method": method, "path": "/metrics", "headers": headers}, None, send)
    return sent[0]["status"], sent[1]["body"]


async def test_the_listener_asks_for_its_password() -> None:
    app = metrics_app(lambda: b"numbers", "me", "secret")
    right = "Basic " + base64.b64encode(b"me:secret").decode()
    assert await call(app, right) == (200, b"numbers")
    assert (await call(app))[0] == 401
    assert (await call(app, "Basic bWU6d3Jvbmc="))[0] == 401
    assert (await call(app, right, "POST"))[0] == 405
    assert await call(metrics_app(lambda: b"open")) == (200, b"open")


def test_health_tells_why() -> None:
    health = Health()
    assert health.reasons() == ()
    state: list[str | None] = ["unreachable"]
    health.watch("redis", lambda: state[0])
    health.watch("broken", lambda: str(1 // 0))
    assert health.reasons() == ("redis: unreachable", "broken: the check failed (ZeroDivisionError)")
    state[0] = None
    health.forget("broken")
    assert health.reasons() == ()


def test_a_late_loop_is_overload_until_it_has_recovered() -> None:
    health = Health()
    health.noticed(LATE_NS * 2)
    assert health.reasons() == ("overload: the event loop runs 2000 ms late",)
    for _ in range(10):
        health.noticed(0)
    assert health.reasons() == ()
