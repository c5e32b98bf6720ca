"""Who is asking: addresses and rates, clients and their User-Agents."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from livekit.protocol import models

from tertulia.protocol.machine import SECOND, Nanos
from tertulia.signal import doorman
from tertulia.signal.admission import parse_join_request, parse_query
from tertulia.signal.backend import Refused
from tertulia.signal.clients import client_of_query, complete
from tertulia.signal.doorman import Doorman, Proxies, Rate, network_of
from tertulia.signal.settings import DoorSettings

AGENTS = [
    (
        "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 "
        "Safari/537.36",
        ("Chrome", "141.0.0.0", "Windows", ""),
    ),
    (
        "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 "
        "Safari/537.36 Edg/141.0.0.0",
        ("Edge", "141.0.0.0", "Windows", ""),
    ),
    (
        "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.3 "
        "Safari/605.1.15",
        ("Safari", "18.3", "Mac OS X", "Mac"),
    ),
    (
        "Mozilla/5.0 (iPhone; CPU iPhone OS 18_3 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.3 "
        "Mobile/15E148 Safari/604.1",
        ("Mobile Safari", "18.3", "iOS", "iPhone"),
    ),
    (
        "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 Mobile "
        "Safari/537.36",
        ("Chrome Mobile", "141.0.0.0", "Android", ""),
    ),
    (
        "Mozilla/5.0 (Android 15; Mobile; rv:140.0) Gecko/140.0 Firefox/140.0",
        ("Firefox Mobile", "140.0", "Android", ""),
    ),
    ("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", ("Firefox", "140.0", "Linux", "")),
    ("livekit-python/1.2.0", ("", "", "", "")),
    ("", ("", "", "", "")),
]


@pytest.mark.parametrize(("agent", "expected"), AGENTS)
def test_user_agents(agent: str, expected: tuple[str, str, str, str]) -> None:
    client = complete(models.ClientInfo(), agent, "9.9.9.9")
    assert (client.browser, client.browser_version, client.os, client.device_model) == expected
    assert client.address == "9.9.9.9"


def test_what_the_client_says_counts_more() -> None:
    said = models.ClientInfo(browser="Mine", browser_version="1", os="Own", device_model="D")
    client = complete(said, AGENTS[0][0], "")
    assert (client.browser, client.browser_version, client.os, client.device_model) == ("Mine", "1", "Own", "D")


@given(st.text(max_size=2_000))
def test_any_user_agent(agent: str) -> None:
    complete(models.ClientInfo(), "Mozilla/" + agent.encode("latin-1", "replace").decode("latin-1"), "")


@pytest.mark.parametrize(
    ("sdk", "name"), [("js", "JS"), ("reactnative", "REACT_NATIVE"), ("unityweb", "UNITY_WEB"), ("new", "UNKNOWN")]
)
def test_sdk_names(sdk: str, name: str) -> None:
    client = client_of_query({"sdk": sdk, "protocol": "99999999999999", "client_protocol": "-1"})
    assert models.ClientInfo.SDK.Name(client.sdk) == name
    assert (client.protocol, client.client_protocol) == (0, 0)


@given(st.text(max_size=300))
def test_any_join_request(text: str) -> None:
    with suppress(Refused):  # and nothing else
        parse_join_request(text)


@given(st.binary(max_size=300))
def test_any_query(data: bytes) -> None:
    with suppress(Refused):  # and nothing else
        client_of_query(parse_query(data))


# ---------------------------------------------------------------------------------------------- rates


def test_rate_burst_and_recovery() -> None:
    rate = Rate(10, burst=3)
    now = Nanos(1_000 * SECOND)
    assert [rate.take(now, "a") == 0 for _ in range(4)] == [True, True, True, False]
    assert rate.take(now, "b") == 0, "others have their own share"
    wait_ns = rate.take(now, "a")
    assert 0 < wait_ns <= SECOND // 10
    assert rate.take(Nanos(now + wait_ns), "a") == 0
    assert rate.take(Nanos(now + wait_ns), "a") > 0


def test_rate_of_nothing_is_no_limit() -> None:
    rate = Rate(0, burst=1)
    assert all(rate.take(Nanos(0), "a") == 0 for _ in range(1000))


def test_rate_forgets_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doorman, "MAX_ADDRESSES", 10)
    rate = Rate(0.001, burst=1)
    for number in range(20):
        assert rate.take(Nanos(0), str(number)) == 0
    assert rate.take(Nanos(0), "19") > 0
    assert rate.take(Nanos(0), "0") == 0


def test_ipv6_counts_by_network() -> None:
    assert network_of("2001:db8:1:2:3:4:5:6") == network_of("2001:db8:1:2::9") != network_of("2001:db8:1:3::9")
    assert network_of("::ffff:10.0.0.1") == "10.0.0.1"
    assert network_of("10.0.0.1") == "10.0.0.1"
    assert network_of("fe80::1%eth0") == "fe80::/64"
    assert network_of("not:an:address") == "not:an:address"


def test_addresses_behind_proxies() -> None:
    proxies = Proxies(["10.0.0.0/8", "fd00::/8"])

    def address(peer: str, forwarded: str = "", real: str = "") -> str:
        return proxies.address(peer, {b"x-forwarded-for": forwarded.encode(), b"x-real-ip": real.encode()})

    assert address("9.9.9.9", "1.2.3.4") == "9.9.9.9", "a stranger's word"
    assert address("10.0.0.1", "1.2.3.4") == "1.2.3.4"
    assert address("10.0.0.1", "6.6.6.6, 1.2.3.4, 10.2.2.2") == "1.2.3.4", "the left part is anybody's word"
    assert address("10.0.0.1", "garbage") == "10.0.0.1"
    assert address("10.0.0.1", "1.2.3.4, garbage") == "10.0.0.1"
    assert address("10.0.0.1", "", "5.6.7.8") == "5.6.7.8"
    assert address("10.0.0.1") == "10.0.0.1"
    assert address("fd00::1", "2001:db8::1") == "2001:db8::1"
    with pytest.raises(ValueError, match="nonsense"):
        Proxies(["nonsense"])


def test_waiting_connections_are_paired() -> None:
    man = Doorman(DoorSettings(waiting_connections=2, trusted_proxies=("10.0.0.0/8",)))
    assert [man.wait_begins("1.1.1.1") for _ in range(3)] == [True, True, False]
    man.wait_ends("1.1.1.1")
    assert man.wait_begins("1.1.1.1")
    assert all(man.wait_begins("10.0.0.1") for _ in range(5)), "a proxy brings many"
