"""The configuration file in the words of each room: nothing an operator wrote is lost on the way."""

import os

import pytest

from tertulia.node import settings
from tertulia.node.cluster.selector import Selector
from tertulia.node.config import Config
from tertulia.node.recording import egress_config
from tertulia.signal.doorman import Doorman
from tests.unit.node.test_config import KEYS, problem, read


def config(body: str) -> Config:
    return read(KEYS + body).config


def test_node_selector() -> None:
    found = settings.selector(
        config(
            "region: paris\nnode_selector:\n  kind: regionaware\n  sort_by: tracks\n  algorithm: twochoice\n"
            "  cpu_load_limit: 0.5\n  sysload_limit: 1.5\n  regions:\n"
            "    - {name: paris, lat: 48.86, lon: 2.35}\n    - {name: quito, lat: -0.18, lon: -78.47}\n"
        )
    )
    places = {"paris": (48.86, 2.35), "quito": (-0.18, -78.47)}
    assert found == Selector("regionaware", "tracks", "twochoice", 0.5, 1.5, places)
    assert settings.selector(config("")) == Selector()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("node_selector:\n  kind: regional\n", "expected one of any, cpuload, sysload, regionaware, random"),
        ("node_selector:\n  cpu_load_limit: 90\n", "node_selector.cpu_load_limit: expected 0 to 1, got 90"),
        ("node_selector:\n  kind: regionaware\n", "node_selector.kind: regionaware needs region"),
        (
            "region: pairs\nnode_selector:\n  kind: regionaware\n  regions: [{name: paris}, {name: oslo}]\n",
            "has no place for 'pairs', this node's region; did you mean paris?",
        ),
        ("node_selector:\n  regions: [{lat: 1}]\n", "node_selector.regions: entry 1 has no name"),
        ("node_selector:\n  regions: [{name: a}, {name: a}]\n", "node_selector.regions: 'a' is there twice"),
        (
            "node_selector:\n  regions: [{name: a, lat: 91}]\n",
            "regions.0.lat: expected -90 to 90, got 91",
        ),
        ("node:\n  trusted_proxies: [10.0.0.0/33]\n", "node.trusted_proxies: '10.0.0.0/33' is not a network"),
        *(
            (f"node:\n  url: '{url}'\n", "node.url: expected where clients reach this node")
            for url in (
                "paris",
                "https://x",
                "ws://",
                "wss://u:p@x",
                "wss://x:70000",
                "wss://x?y=1",
                "wss://x/\\u00e9é",
            )
        ),
        ("egress:\n  latency: 10ms\n", "egress.latency: expected 100ms to 30s, got 10ms"),
        ("egress:\n  track_wait: 0s\n", "egress.track_wait: "),
        ("egress:\n  video_preset: superfats\n", "did you mean superfast?"),
        ("egress:\n  nice: 20\n", "egress.nice: expected 0 to 19, got 20"),
    ],
)
def test_what_cannot_be_is_told(body: str, said: str) -> None:
    assert said in problem(KEYS + body)


def test_behind_a_proxy_each_client_counts_as_itself() -> None:
    headers = {b"x-forwarded-for": b"203.0.113.9, 10.1.2.3"}
    behind = Doorman(settings.door(config("node:\n  trusted_proxies: [10.0.0.0/8, '::1']\n")))
    assert behind.address("10.9.9.9", headers) == "203.0.113.9"
    assert behind.address("::1", headers) == "203.0.113.9"
    assert behind.address("192.0.2.1", headers) == "192.0.2.1"
    assert Doorman(settings.door(config(""))).address("10.9.9.9", headers) == "10.9.9.9"


def test_egress() -> None:
    found = egress_config(
        config(
            "egress:\n  output_roots: [here]\n  cpu_cores: 2.5\n  max_jobs: 3\n  video_preset: veryfast\n"
            "  encoder_threads: 2\n  nice: 5\n  latency: 1s500ms\n  track_wait: 1m\n"
        )
    )
    assert (found.cpu_cores, found.jobs_limit, found.video_preset, found.encoder_threads) == (2.5, 3, "veryfast", 2)
    assert (found.nice, found.latency_ms, found.track_wait_s) == (5, 1500, 60.0)
    plain = egress_config(config(""))
    assert (plain.cpu_cores, plain.latency_ms, plain.track_wait_s) == (float(os.cpu_count() or 1), 800, 30.0)


def test_storage_and_backup_each_have_their_prefix() -> None:
    found = egress_config(
        config(
            "egress:\n  storage:\n    prefix: calls\n    generate_presigned_url: true\n    s3: {bucket: one}\n"
            "  backup:\n    prefix: spare\n    s3: {bucket: two}\n"
        )
    )
    assert (found.storage_prefix, found.storage_presigned) == ("calls", True)
    assert (found.backup_prefix, found.backup_presigned) == ("spare", False)
    assert found.storage is not None
    assert found.backup is not None
    assert (found.storage.s3.bucket, found.backup.s3.bucket) == ("one", "two")
