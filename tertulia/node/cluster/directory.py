"""Who is in the cluster: renews our lease, reads the others', says who came and who is gone.

While the store is away nobody is declared gone: calls go on. When it is back the others get one lease's time to show
up again. A node that cannot reach the store for longer than its lease is gone for the others; rooms settle that.
"""

import asyncio
from collections.abc import Callable

import structlog

from tertulia.node.cluster.api import LEASE_MS, RENEW_MS, NodeRecord, Store, Unavailable
from tertulia.protocol.ids import NodeId

log = structlog.get_logger()

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
    ) -> None:
        self._store = store
        self._describe = describe
        self._on_gone = on_gone
        self._on_return = on_return
        self.nodes: dict[NodeId, NodeRecord] = {}
        self.is_available = False
        """The store answered the last time it was asked."""
        self._trusted_at = 0.0
        """From then on an absent lease means an absent node."""
        self._was_away = False
        self._met: dict[NodeId, int] = {}
        """Nodes heard on the bus before their record was seen, and how often it was looked for."""
        self._gone: set[NodeId] = set()
        """Said goodbye; their record may still be read once."""

    @property
    def is_trusted(self) -> bool:
        """An absent lease means an absent node."""
        return self.is_available and asyncio.get_running_loop().time() >= self._trusted_at

    async def refresh(self) -> None:
        """Renew and look around once. Raises nothing: an absent store is remembered."""
        record = self._describe()
        try:
            await self._store.renew(record)
            found = await self._store.nodes()
        except Unavailable:
            if self.is_available:
                log.warning("store.away")
            self.is_available, self._was_away = False, True
            return
        now = asyncio.get_running_loop().time()
        if not self.is_available:
            self.is_available = True
            self._trusted_at = now + LEASE_MS / 1000
            if self._was_away:
                log.info("store.back")
                self._was_away = False
                self._on_return()
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
