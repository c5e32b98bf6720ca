"""What `/settings/regions` answers: where people may connect, the nearest first (`livekit.RegionSettings`).

One entry for each node that takes calls and has an address clients know, or one for several behind the same address.
Near means near to the node that was asked: clients ask the one their name server or balancer led them to. Of nodes
equally near the one `node_selector` puts first comes first.
"""

import time
from collections.abc import Iterable
from random import Random
from typing import TYPE_CHECKING

from livekit.protocol import rtc

from tertulia.node.cluster.api import NodeRecord
from tertulia.node.cluster.selector import Selector

if TYPE_CHECKING:
    from tertulia.node.cluster.cluster import Cluster
    from tertulia.node.config import Config
    from tertulia.node.house import House

MAX_ENTRIES = 100
"""Nobody tries more."""
FRESH_S = 1.0
"""As old as records of other nodes are anyway: many who ask at once cost one look at our own rooms."""


class Regions:
    """The answer of one node, alone or among others."""

    def __init__(self, house: "House", cluster: "Cluster | None", config: "Config", selector: Selector) -> None:
        self._house, self._cluster, self._selector = house, cluster, selector
        self._config = config
        self._records: list[NodeRecord] = []
        self._read_at = 0.0

    def answer(self, asked_at: str) -> rtc.RegionSettings:
        now = time.monotonic()
        if not self._records or now - self._read_at >= FRESH_S:
            self._records = [self._alone()] if self._cluster is None else self._cluster.records
            self._read_at = now
        return region_settings(self._records, self._records[0], asked_at, self._selector, self._house.rng)

    def _alone(self) -> NodeRecord:
        config = self._config
        return NodeRecord(
            id=self._house.config.node_id,
            epoch=0,
            region=config.region,
            url=config.node.url,
            roles=tuple(config.node.roles),
            draining=self._house.draining,
        )


def region_settings(
    records: Iterable[NodeRecord], here: NodeRecord, asked_at: str, selector: Selector, rng: Random
) -> rtc.RegionSettings:
    """`records` with this node's own; `asked_at`: the address the asker reached `here` at, if it has no other."""
    open_nodes = [record for record in records if "sfu" in record.roles]
    ranked = selector.ranked(open_nodes, here, rng)
    ranked.sort(key=lambda record: selector.distance_m(here.region, record.region))
    found: dict[tuple[str, str], rtc.RegionInfo] = {}
    for record in ranked:
        url = record.url or (asked_at if record.id == here.id else "")
        if url and len(found) < MAX_ENTRIES:
            distance_m = selector.distance_m(here.region, record.region)
            info = rtc.RegionInfo(region=record.region, url=url, distance=distance_m)
            found.setdefault((record.region, url), info)
    return rtc.RegionSettings(regions=found.values())
