"""Who is in the cluster, by a clock of the test: gone are those whose lease ran out while all others had their turn."""

from tertulia.node.cluster.api import NodeRecord, Unavailable
from tertulia.node.cluster.directory import Directory
from tertulia.node.cluster.memory import MemoryCluster, MemoryStore
from tertulia.protocol.ids import NodeId

B = NodeId("b")


class Shelf(MemoryStore):
    """Leases that the test ends, a store that the test takes away."""

    def __init__(self) -> None:
        super().__init__(MemoryCluster())
        self.present: set[str] = {B}
        self.is_away = False

    async def renew(self, node: NodeRecord) -> None:
        if self.is_away:
            raise Unavailable("the shared store", "Redis sleeps")

    async def nodes(self) -> list[NodeRecord]:
        return [NodeRecord(id=node, epoch=1) for node in self.present]


class Stage:
    def __init__(self) -> None:
        self.now_s = 1000.0
        self.gone: list[NodeId] = []
        self.returned = 0
        self.shelf = Shelf()
        me = NodeRecord(id="a", epoch=1)
        self.directory = Directory(self.shelf, lambda: me, self.gone.append, self._back, lambda: self.now_s)

    def _back(self) -> None:
        self.returned += 1

    async def look(self, after_s: float = 1.0, times: int = 1) -> None:
        for _ in range(times):
            self.now_s += after_s
            await self.directory.refresh()


async def test_a_lease_that_ran_out() -> None:
    stage = Stage()
    await stage.look(times=6)
    assert list(stage.directory.nodes) == [B]
    stage.shelf.present.clear()
    await stage.look()
    assert stage.gone == [B]
    assert stage.returned == 0


async def test_nobody_is_gone_after_a_pause_of_the_store_before_all_had_their_turn() -> None:
    stage = Stage()
    await stage.look(times=6)
    stage.shelf.present.clear()
    await stage.look(after_s=3.8)
    await stage.look()
    assert stage.gone == [], "its renewal waited as ours did"
    assert not stage.directory.is_trusted
    stage.shelf.present.add(B)
    await stage.look(times=6)
    stage.shelf.present.clear()
    await stage.look()
    assert stage.gone == [B]


async def test_a_store_that_is_always_slow_does_not_keep_the_dead() -> None:
    stage = Stage()
    await stage.look(times=6)
    stage.shelf.present.clear()
    await stage.look(after_s=3.0, times=3)
    assert stage.gone == [B]


async def test_a_node_that_stood_still_knows_that_its_lease_ran_out() -> None:
    stage = Stage()
    await stage.look(times=6)
    await stage.look(after_s=20.0)
    assert stage.returned == 1, "say everything again"
    assert stage.gone == []
    await stage.look()
    assert stage.returned == 1


async def test_an_absent_store_says_why_and_nobody_is_gone() -> None:
    stage = Stage()
    await stage.look(times=6)
    stage.shelf.is_away = True
    stage.shelf.present.clear()
    await stage.look(times=10)
    assert not stage.directory.is_available
    assert stage.directory.why == "Redis sleeps"
    stage.shelf.is_away = False
    await stage.look(times=3)
    assert (stage.gone, stage.returned) == ([], 1)
    stage.shelf.present.add(B)
    await stage.look(times=5)
    assert stage.gone == []
