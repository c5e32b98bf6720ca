"""The numbers of this node under their metric names, read when somebody asks."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tertulia.node.metrics import Snapshot, Value

if TYPE_CHECKING:
    from tertulia.node.serve import Node


def snapshot(node: "Node") -> Snapshot:
    """LiveKit's names for rooms, participants, tracks and packets; drops and limits by name beside them."""
    house, plane = node.house, node.plane.totals()
    infos = [seat.room.info() for seat in house.seats.values()]
    participants = sum(info.num_participants for info in infos)
    published: dict[tuple[str, ...], int] = {("audio",): 0, ("video",): 0}
    subscribed: dict[tuple[str, ...], int] = {("audio",): 0, ("video",): 0}
    rooms: dict[str, int] = {}
    for seat in house.seats.values():
        tracks = seat.room.figures()
        for kind in ("audio", "video"):
            published[kind,] += tracks[f"published_{kind}"]
            subscribed[kind,] += tracks[f"subscribed_{kind}"]
        for name, count in seat.room.counters.items():
            rooms[name] = rooms.get(name, 0) + count
    sent, lost = plane.get("packets_out", 0), plane.get("packets_lost", 0)
    drops: dict[tuple[str, ...], Value] = {
        (f"plane_{name[5:]}",): count for name, count in plane.items() if name.startswith("drop_")
    }
    drops.update({(f"signal_{name}",): count for name, count in node.counts.items()})
    figures: dict[str, Value | Mapping[tuple[str, ...], Value]] = {
        "room_total": len(infos),
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
        "packet_loss_rate": {("incoming",): lost / sent if sent else 0.0},
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
    return figures


def cluster_figures(node: "Node") -> Mapping[str, int]:
    """What the cluster's parts counted; nothing on a node that is alone."""
    if node.cluster is None:
        return {}
    figures: Counter[str] = Counter({"nodes": 1 + len(node.cluster.directory.nodes)})
    for part in node.cluster.counted:
        figures.update(part)
    return figures
