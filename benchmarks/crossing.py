"""What a copy to another node costs beside a copy to a subscriber: the same packets, one data plane, in turns.

Rows towards nodes are made as `sfu.giving` makes them, on links as `node.cluster.links` has them, subscribers' rows as
a room's. Every sink is a bound socket nobody reads; CPU time of this process, user and system.
"""

import os
import random
import socket
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection

from benchmarks.plane import ratio_of_turns
from benchmarks.publisher import KEY_BYTES, PROFILE, published, published_track, udp
from tertulia.node.cluster.links import EXTENSIONS
from tertulia.sfu.plane import open_plane
from tertulia.sfu.plane.api import Address, Extension, LivePlane

MEDIA, RELAY = 0, 1
"""Ports of a node in a cluster; each has one socket here."""
NODES = 20
TURN_S = 0.4
REST_S = 0.03


def subscriber_rows(plane: LivePlane, track: int, sinks: Sequence[socket.socket], key: bytes) -> list[int]:
    """A room's members on this node."""
    downs = []
    for index, sink in enumerate(sinks):
        transport = plane.add_transport(MEDIA)
        plane.set_keys(transport, PROFILE, key, os.urandom(KEY_BYTES))
        plane.set_extensions(transport, {Extension.TWCC: 5, Extension.AUDIO_LEVEL: 1, Extension.MID: 4})
        plane.select(transport, Address(MEDIA, *sink.getsockname()))
        downs.append(
            plane.add_down(
                track, transport, 1000 + index, payload_type=96, rtx_ssrc=2000 + index, rtx_payload_type=97, mid="3"
            )
        )
    return downs


def link_rows(plane: LivePlane, track: int, sinks: Sequence[socket.socket], key: bytes) -> list[int]:
    """As many other nodes."""
    downs = []
    for index, sink in enumerate(sinks):
        transport = plane.add_transport(RELAY)
        plane.set_extensions(transport, EXTENSIONS)
        plane.set_feedback(transport, 1 + index)
        plane.set_keys(transport, PROFILE, key, os.urandom(KEY_BYTES))
        plane.select(transport, Address(RELAY, *sink.getsockname()))
        downs.append(
            plane.add_down(
                track, transport, 3000 + index, payload_type=96, rtx_ssrc=4000 + index, rtx_payload_type=97, raw=True
            )
        )
    return downs


@dataclass(frozen=True, slots=True)
class Copies:
    """What was found: microseconds of CPU of a subscriber's copy, and two ratios to it."""

    subscriber_us: float
    link: float
    """A copy to another node."""
    equal: float
    """A copy to one of as many other subscribers: 1.0 but for noise."""


def relayed_copy(turns: int) -> Copies:
    """Subscribers, other nodes and once more subscribers, in turns whose order changes."""
    server, relay, key = udp(4 << 20), udp(4 << 20), os.urandom(KEY_BYTES)
    sinks = [udp() for _ in range(NODES)]
    plane = open_plane([[server], [relay]], life="compiled", rng=random.Random(1))
    try:
        with published(server, key) as (pipe, source):
            track = published_track(plane, source, key)
            kinds = [rows(plane, track, sinks, key) for rows in (subscriber_rows, link_rows, subscriber_rows)]
            plane.start()
            found = []
            for turn in range(turns + 1):
                order = [(turn + place) % 3 for place in range(3)]
                costs = {kind: _turn(plane, pipe, kinds[kind]) for kind in order}
                if turn:  # the first warms up
                    found.append(costs)
    finally:
        plane.stop()
        for sock in (server, relay, *sinks):
            sock.close()
    return Copies(
        statistics.median(costs[0] for costs in found),
        ratio_of_turns([((costs[0] + costs[2]) / 2, costs[1]) for costs in found]),
        ratio_of_turns([(costs[0], costs[2]) for costs in found]),
    )


def _turn(plane: LivePlane, pipe: Connection, downs: list[int]) -> float:
    """Microseconds per copy to these rows, receiving and deciding included; the others have no part in it."""
    for down in downs:
        plane.set_target(down, 0)
    before, cpu = plane.totals()["packets_out"], time.process_time()
    pipe.send(TURN_S)
    expected = pipe.recv() * len(downs)
    time.sleep(REST_S)
    copies, used = plane.totals()["packets_out"] - before, time.process_time() - cpu
    for down in downs:
        plane.set_target(down, -1)
    plane.reports()
    if copies < 0.9 * expected:
        raise RuntimeError(f"only {copies} of {expected} copies were sent: {plane.totals()}")
    return used / copies * 1e6
