"""The numbers of this node under their metric names, read when somebody asks."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from tertulia.node.metrics import Snapshot, Value

if TYPE_CHECKING:
    from tertulia.node.serve import Node
    from tertulia.sfu.room import Room


class Losses:
    """Packets lost, as a count that only grows although streams come and go; and the share of them lately.

    Read from one scrape to the next: what a stream lost between the last scrape and its end is not in it.
    """

    def __init__(self) -> None:
        self.total: Counter[tuple[str, ...]] = Counter(
            {(direction, "", kind, ""): 0 for direction in ("incoming", "outgoing") for kind in ("audio", "video")}
        )
        self.rate: dict[tuple[str, ...], Value] = {("incoming",): 0.0, ("outgoing",): 0.0}
        self._last: dict[tuple[str, int], tuple[int, int]] = {}

    def update(self, rooms: Iterable["Room"]) -> None:
        seen: dict[tuple[str, int], tuple[int, int]] = {}
        lately: Counter[tuple[str, bool]] = Counter()
        for room in rooms:
            for direction, kind, handle, lost, packets in room.losses():
                lost_before, packets_before = self._last.get((direction, handle), (0, 0))
                seen[direction, handle] = max(lost, lost_before), packets
                grown = max(0, lost - lost_before)
                self.total[direction, "", kind, ""] += grown
                lately[direction, True] += grown
                lately[direction, False] += max(0, packets - packets_before)
        self._last = seen
        for direction in ("incoming", "outgoing"):
            lost, came = lately[direction, True], lately[direction, False]
            expected = lost + came if direction == "incoming" else max(lost, came)
            self.rate[direction,] = lost / expected if expected else 0.0


def snapshot(node: "Node") -> Snapshot:
    """LiveKit's names for rooms, participants, tracks and packets; drops and limits by name beside them."""
    house, plane = node.house, node.plane.totals()
    participants = 0
    published: dict[tuple[str, ...], int] = {("audio",): 0, ("video",): 0}
    subscribed: dict[tuple[str, ...], int] = {("audio",): 0, ("video",): 0}
    rooms: dict[str, int] = {}
    for seat in house.seats.values():
        tracks = seat.room.figures()
        participants += tracks["participants"]
        for kind in ("audio", "video"):
            published[kind,] += tracks[f"published_{kind}"]
            subscribed[kind,] += tracks[f"subscribed_{kind}"]
        for name, count in seat.room.counters.items():
            rooms[name] = rooms.get(name, 0) + count
    sent = plane.get("packets_out", 0)
    node.losses.update(seat.room for seat in house.seats.values())
    drops: dict[tuple[str, ...], Value] = {
        (f"plane_{name[5:]}",): count for name, count in plane.items() if name.startswith("drop_")
    }
    drops.update({(f"signal_{name}",): count for name, count in node.counts.items()})
    figures: dict[str, Value | Mapping[tuple[str, ...], Value]] = {
        "room_total": len(house.seats),
        "participant_total": participants,
        "room_participant_total": participants,
        "track_published_total": published,
        "track_subscribed_total": subscribed,
        "packet_total": {
            ("incoming", "", ""): plane.get("packets_in", 0),
            ("outgoing", "", ""): sent,
            ("outgoing", "retransmit", ""): plane.get("retransmitted", 0),
        },
        "packet_bytes": {
            ("incoming", "", ""): plane.get("bytes_in", 0),
            ("outgoing", "", ""): plane.get("bytes_out", 0),
        },
        "nack_total": {("incoming", ""): plane.get("nacks_in", 0), ("outgoing", ""): plane.get("nacks_out", 0)},
        "pli_total": {("incoming", ""): plane.get("plis_in", 0), ("outgoing", ""): plane.get("plis_out", 0)},
        "packet_loss_total": dict(node.losses.total),
        "packet_loss_rate": node.losses.rate,
        "session_join_latency_ms": {(str(version),): one for version, one in house.join_latency_ms.items()},
        "webhook_queue_length": sum(int(str(queue["queued"])) for queue in node.webhooks.machine.snapshot()),
        "forwarded_rtp_total": sent,
        "drops_total": drops,
        "plane_total": {(name,): count for name, count in plane.items() if not name.startswith("drop_")},
        "tasks": len(asyncio.all_tasks()),
        "transport_total": {(name,): count for name, count in house.hub.totals().items()},
        "house_total": {(name,): count for name, count in house.counters.items()},
        "cluster_total": {(name,): count for name, count in cluster_figures(node).items()},
        "rooms_limits_total": {(name,): count for name, count in rooms.items()},
        "event_loop_delay_seconds": node.health.loop_delay_ns / 1e9,
    }
    if node.recording is not None:
        figures |= node.recording.figures()
    return figures


def cluster_figures(node: "Node") -> Mapping[str, int]:
    """What the cluster's parts counted; nothing on a node that is alone."""
    if node.cluster is None:
        return {}
    rows = sum(seat.room.figures()["relay_rows"] for seat in node.house.seats.values())
    figures: Counter[str] = Counter({"nodes": 1 + len(node.cluster.directory.nodes), "relayed_copies": rows})
    for part in node.cluster.counted:
        figures.update(part)
    return figures
