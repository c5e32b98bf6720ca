"""Who is in the cluster: renews our lease, reads the others', says who came and who is gone.

While the store is away nobody is declared gone: calls go on. When it is back the others get one lease's time to show
up again. A node that cannot reach the store for longer than its lease is gone for the others; rooms settle that. Leases
are the store's, waits are measured by each node's own monotonic clock: what time of day it is matters nowhere.
"""

import asyncio
import time
from collections.abc import Callable

import structlog

from tertulia.node.cluster.api import LEASE_MS, RENEW_MS, NodeRecord, Store, Unavailable
from tertulia.protocol.ids import NodeId

log = structlog.get_logger()

LATE_S = LEASE_MS / 2000
"""After a look this long after the one before (Redis or this node stood still), others may not have had their turn."""
LOOKS = 3
"""A node that was heard before it was seen is looked for this often."""
MAX_MET = 1000


class Directory:
    """The nodes whose lease runs, without this one."""

    def __init__(
        self,
        store: Store,
        describe: Callable[[], NodeRecord],
        on_gone: Callable[[NodeId], None],
        on_return: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._describe = describe
        self._on_gone = on_gone
        self._on_return = on_return
        self._clock = clock
        self.nodes: dict[NodeId, NodeRecord] = {}
        self.is_available = False
        """The store answered the last time it was asked."""
        self.why = ""
        """What is wrong with the store while it is not available."""
        self._trusted_at = 0.0
        """From then on an absent lease means an absent node."""
        self._was_away = False
        self._looked_at: float | None = None
        self._was_late = False
        self._met: dict[NodeId, int] = {}
        """Nodes heard on the bus before their record was seen, and how often it was looked for."""
        self._gone: set[NodeId] = set()
        """Said goodbye; their record may still be read once."""

    @property
    def is_trusted(self) -> bool:
        """An absent lease means an absent node."""
        return self.is_available and self._clock() >= self._trusted_at

    async def refresh(self) -> None:
        """Renew and look around once. Raises nothing: an absent store is remembered."""
        record = self._describe()
        try:
            await self._store.renew(record)
            found = await self._store.nodes()
        except Unavailable as error:
            if self.is_available or error.why != self.why:
                log.warning("store.away", reason=error.why)
            self.why = error.why
            self.is_available, self._was_away = False, True
            return
        now = self._clock()
        gap_s = 0.0 if self._looked_at is None else now - self._looked_at
        is_late, self._looked_at = gap_s > LATE_S, now
        if not self.is_available or (is_late and not self._was_late):
            self._trusted_at = now + LEASE_MS / 1000
        if self._was_away or gap_s > LEASE_MS / 1000:
            log.info("store.back", after_s=round(gap_s, 1))
            self._on_return()
        self.is_available, self._was_away, self._was_late = True, False, is_late
        self._compare({NodeId(node.id): node for node in found if node.id != record.id}, now)

    def _compare(self, found: dict[NodeId, NodeRecord], now: float) -> None:
        for node in [node for node in self.nodes if node not in found]:
            if node in self._met and self._met[node] < LOOKS:
                self._met[node] += 1
            elif now >= self._trusted_at:
                self.gone(node)
        for node, record in found.items():
            if node in self._gone:
                continue
            if node not in self.nodes or node in self._met:
                log.info("node.seen", node=node, region=record.region)
            self.nodes[node] = record
            self._met.pop(node, None)
        self._gone &= set(found)

    def heard(self, node: NodeId) -> None:
        """A node spoke on the bus; should it die before its record is read here, it is missed all the same."""
        if node not in self.nodes and node not in self._gone and len(self._met) < MAX_MET:
            self._met[node] = 0
            self.nodes[node] = NodeRecord(id=node, epoch=0, roles=())

    def gone(self, node: NodeId, *, said_goodbye: bool = False) -> None:
        """A node's lease is over, or it said goodbye."""
        if said_goodbye:
            self._gone.add(node)
        self._met.pop(node, None)
        if self.nodes.pop(node, None) is not None:
            log.info("node.gone", node=node, goodbye=said_goodbye)
            self._on_gone(node)

    async def run(self) -> None:
        while True:
            await asyncio.sleep(RENEW_MS / 1000)
            await self.refresh()
