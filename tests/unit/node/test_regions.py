"""/settings/regions as a table: which entries, in which order, seen from which node."""

from random import Random

from tertulia.node.cluster.api import NodeRecord
from tertulia.node.cluster.selector import UNKNOWN_M, Selector
from tertulia.node.regions import MAX_ENTRIES, region_settings

PLACES = {"oslo": (59.91, 10.75), "paris": (48.86, 2.35), "sydney": (-33.87, 151.21)}
SELECTOR = Selector(places=PLACES, kind="cpuload")


def node(name: str, region: str, url: str | None = None, **more: object) -> NodeRecord:
    return NodeRecord(id=name, epoch=1, region=region, url=f"wss://{name}" if url is None else url, **more)  # type: ignore[arg-type]


def entries(nodes: list[NodeRecord], asked_at: str = "", selector: Selector = SELECTOR) -> list[tuple[str, str, int]]:
    settings = region_settings(nodes, nodes[0], asked_at, selector, Random(1))
    return [(info.region, info.url, info.distance) for info in settings.regions]


def test_the_nearest_first_from_each() -> None:
    oslo, paris, sydney = nodes = [node("o", "oslo"), node("p", "paris"), node("s", "sydney")]
    assert [name for name, _, _ in entries(nodes)] == ["oslo", "paris", "sydney"]
    assert [name for name, _, _ in entries([paris, sydney, oslo])] == ["paris", "oslo", "sydney"]
    assert [name for name, _, _ in entries([sydney, oslo, paris])] == ["sydney", "oslo", "paris"]
    distances = [distance for _, _, distance in entries(nodes)]
    assert distances[0] == 0
    assert 1_300_000 < distances[1] < 1_400_000 < distances[2] < UNKNOWN_M


def test_of_equally_near_nodes_the_busy_one_is_named_last() -> None:
    nodes = [node("a", "oslo", cpu_load=0.95), node("b", "oslo", cpu_load=0.2), node("c", "paris")]
    assert [url for _, url, _ in entries(nodes)] == ["wss://b", "wss://a", "wss://c"]


def test_who_is_not_named() -> None:
    nodes = [
        node("a", "oslo"),
        node("b", "oslo", draining=True),
        node("c", "oslo", roles=("egress",)),
        node("d", "x", ""),
    ]
    assert entries(nodes) == [("oslo", "wss://a", 0)]


def test_an_egress_node_names_the_others() -> None:
    assert entries([node("e", "oslo", roles=("egress",)), node("p", "paris")])[0][:2] == ("paris", "wss://p")


def test_without_an_address_of_its_own_the_asked_node_is_where_it_was_asked() -> None:
    nodes = [node("a", "", ""), node("b", "", "")]
    assert entries(nodes, "wss://calls.example.org") == [("", "wss://calls.example.org", 0)]
    assert entries([node("a", ""), *nodes[1:]], "wss://calls.example.org") == [("", "wss://a", 0)]
    assert entries(nodes, "") == []


def test_nodes_behind_one_address_are_one_entry() -> None:
    nodes = [node("a", "oslo", "wss://oslo"), node("b", "oslo", "wss://oslo"), node("c", "paris", "wss://paris")]
    assert [url for _, url, _ in entries(nodes)] == ["wss://oslo", "wss://paris"]


def test_regions_without_coordinates_come_last_and_the_list_is_bounded() -> None:
    nodes = [node("a", "oslo"), *(node(f"m{index}", "mars") for index in range(2 * MAX_ENTRIES)), node("p", "paris")]
    found = entries(nodes)
    assert len(found) == MAX_ENTRIES
    assert [name for name, _, _ in found[:3]] == ["oslo", "paris", "mars"]
    assert found[-1][2] == UNKNOWN_M
