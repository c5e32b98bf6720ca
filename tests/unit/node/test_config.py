"""The configuration: what is taken, from where, and that every problem is told with its line."""

import stat
from pathlib import Path

import pytest

from tertulia.node.config import Config
from tertulia.node.config_read import ConfigError, Flag, Loaded, Sources, load, parse_keys
from tertulia.node.config_tree import Where
from tertulia.node.config_types import Duration, Secret, format_duration, parse_duration, parse_ports

SECRET = "a-secret-of-tests-that-is-long-enough"
KEYS = f"keys:\n  testkey: {SECRET}\n"


def read(
    body: str = "", *flags: Flag, env: dict[str, str] | None = None, dev: bool = False, strict: bool = True
) -> Loaded:
    return load(Sources(body=body, flags=flags, environment=env or {}, dev=dev, strict=strict))


def problems(body: str, *flags: Flag, env: dict[str, str] | None = None, dev: bool = False) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(body, *flags, env=env, dev=dev)
    return caught.value.lines()


def problem(body: str, **more: dict[str, str]) -> str:
    found = problems(body, **more)  # type: ignore[arg-type]
    assert len(found) == 1, found
    return found[0].removeprefix("--config-body")


def test_a_livekit_file_is_taken_as_it_is() -> None:
    loaded = read(
        KEYS + "port: 7880\nredis:\n  address: redis:6379\nrtc:\n  port_range_start: 50000\n  port_range_end: 60000\n"
        "  tcp_port: 7881\n  use_external_ip: true\nlogging:\n  level: warn\nroom:\n  empty_timeout: 10\n"
        "  enabled_codecs:\n    - mime: audio/opus\n    - mime: video/vp8\n"
        "turn:\n  enabled: true\n  domain: t.example.org\n"
        "video:\n  dynacast_pause_delay: 1m30s\nnode_selector:\n  kind: sysload\n  sysload_limit: 0.7\n"
    )
    config = loaded.config
    assert config.redis.address == "redis:6379"
    assert config.redis.configured
    assert config.room.empty_timeout == 10
    assert [codec.mime for codec in config.room.enabled_codecs] == ["audio/opus", "video/vp8"]
    assert config.video.dynacast_pause_delay.s == 90
    assert (config.node_selector.kind, config.node_selector.sysload_limit) == ("sysload", 0.7)
    # What has no effect is accepted and told.
    told = "\n".join(loaded.notes)
    assert config.rtc.udp_port == (50000,)  # where the operator's firewall is open
    for key in ("rtc.port_range_end", "turn.enabled", "turn.domain"):
        assert f"{key} has no effect: " in told


def test_every_problem_is_told_at_once_with_line_and_suggestion() -> None:
    found = problems(
        "port: 7880\nprot: 1\nrtc:\n  port_range_strat: 5\n  tcp_port: many\nlogging: {level: debgu}\n"
        "room:\n  empty_timeout: [1]\nroom:\n  auto_create: true\ntcp_port: 3\n"
    )
    assert found == [
        "--config-body:2: unknown key prot; did you mean port?",
        "--config-body:4: unknown key rtc.port_range_strat; did you mean port_range_start?",
        "--config-body:5: rtc.tcp_port: expected a whole number, got many",
        "--config-body:6: logging.level: expected one of debug, info, warn, warning, error, got debgu; "
        "did you mean debug?",
        "--config-body:8: room.empty_timeout: expected a whole number, got a list",
        "--config-body:9: room is given twice (first on line 7)",
        "--config-body:11: unknown key tcp_port; did you mean rtc.tcp_port?",
    ]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("rtc:\n\ttcp_port: 1\n", ":2: a tab indents this line"),
        ("port: [1\n", "not readable as YAML"),
        ("- a\n- b\n", ":1: expected `key: value` lines"),
        ("rtc: 5\n", ":1: rtc: expected keys below it, got 5"),
        ("port: 70000\n", ":1: port: expected 0 to 65535, got 70000"),
        ("port: '7880'\n", ":1: port: expected a whole number, got the text '7880'"),
        ("port: 0777\n", ":1: port: expected a whole number, got 0777"),
        ("room:\n  auto_create: maybe\n", ":2: room.auto_create: expected true or false, got maybe"),
        ("rtc:\n  udp_port: 7890-7882\n", ":2: rtc.udp_port: the range is reversed; did you mean 7882-7890?"),
        ("rtc:\n  udp_port: 1-60000\n", ":2: rtc.udp_port: more than 64 ports"),
        ("room:\n  create_room_timeout: 5\n", ":2: room.create_room_timeout: expected a duration with units"),
        ("bind_addresses: 0.0.0.0\n", ":1: bind_addresses: expected a list, got 0.0.0.0"),
        ("node:\n  roles: [sfu, egres]\n", ":2: node.roles.1: expected one of sfu, egress, got egres; did you mean"),
        ("keys: a:b\n", ":1: keys: expected `name: value` lines below it, got a value"),
        ("room:\n  room_configurations:\n    x:\n      nope: 1\n", 'no field named "nope"'),
    ],
)
def test_a_wrong_value_is_named(body: str, told: str) -> None:
    found = problem(body)
    assert told in found
    assert "\n" not in found


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("port: 7880\n", "keys: there is no API key"),
        ("keys: {abc: short}\n", ":1: keys: the secret of API key 'abc' has 5 bytes; at least 32 are needed"),
        (KEYS + "rtc:\n  tcp_port: 7880\n", ":4: rtc.tcp_port: port 7880 is already used by port"),
        (KEYS + "rtc:\n  port_range_start: 9\n  port_range_end: 5\n", ":5: rtc.port_range_end: 5 is below"),
        (KEYS + "rtc:\n  node_ip: example.org\n", ":4: rtc.node_ip: 'example.org' is not an IP address"),
        (KEYS + "rtc:\n  ips:\n    includes: [10.0.0.0/99]\n", "is not a network such as 10.0.0.0/8"),
        (KEYS + "prometheus: {port: 6789, username: me}\n", ":3: prometheus: username and password go together"),
        (KEYS + "webhook: {urls: [ftp://x/]}\n", "expected addresses that begin with http:// or https://"),
        (KEYS + "webhook: {urls: ['http://x/'], api_key: other}\n", "'other' is not one of keys"),
        (
            KEYS + "webhook:\n  filter_params:\n    include_events: [room_start]\n",
            "no event is called 'room_start'; did you mean room_started?",
        ),
        (KEYS + "room: {enabled_codecs: [{mime: video/VP7}]}\n", "unknown codec 'video/VP7'; did you mean"),
        (KEYS + "redis: {address: 'here:port'}\n", "'here:port' is not host:port"),
        (KEYS + "redis: {sentinel_addresses: ['a:1']}\n", "needs redis.sentinel_master_name"),
        (KEYS + "cluster: {secret: abc}\n", "cluster.secret: has fewer than 32 characters"),
        (KEYS + "egress: {storage: {s3: {bucket: a}, gcp: {bucket: b}}}\n", "give one of s3, gcp and azure"),
        (KEYS + "egress: {storage: {s3: {region: a}}}\n", "egress.storage.s3: bucket is missing"),
        (KEYS + "key_file: /nowhere/keys\nkeys: {}\n", "keys is given twice"),
    ],
)
def test_values_must_fit_together(body: str, told: str) -> None:
    assert told in problem(body)


def test_secrets_never_show_in_problems_or_reprs() -> None:
    found = "\n".join(
        problems(
            "keys:\n  a: topsecret1\n  b: [topsecret2]\nredis:\n  password: {x: topsecret3}\nport: ${HIDDEN}\n",
            env={"HIDDEN": "topsecret4"},
        )
    )
    assert "topsecret" not in found
    assert "got ${HIDDEN}" in found
    config = read(KEYS + "redis: {address: 'r:1', password: topsecret5}\n").config
    assert "topsecret" not in repr(config)
    assert SECRET not in repr(config)
    assert config.redis.password == "topsecret5"


def test_variables_are_values_never_structure() -> None:
    env = {"SECRET": SECRET, "PORT": "7890", "EVIL": "a\nport: 1", "EMPTY": ""}
    config = read(
        "keys: {k: '${SECRET}'}\nport: ${PORT}\nregion: ${EVIL}\nrtc: {tcp_port: '${TCP:-7000}'}\n"
        "redis: {username: '$${PORT}', password: 'x${EMPTY}y$'}\n",
        env=env,
    ).config
    assert config.keys == {"k": SECRET}
    assert config.port == 7890
    assert config.region == "a\nport: 1"
    assert config.rtc.tcp_port == 7000
    assert config.redis.username == "${PORT}"
    assert config.redis.password == "xy$"
    assert "the environment variable NOPE is not set" in problem("region: ${NOPE}\n")
    assert "is not a variable's name" in problem("region: ${no way}\n")


def test_bombs_are_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    assert any("more than 20000 values" in line for line in problems("\n".join(lines)))
    assert "nested" in problem("a: " + "[" * 60 + "]" * 60)
    assert "nested" in problem("a: " + "[" * 5_000 + "]" * 5_000)
    assert "larger than 1 MiB" in problems("region: " + "x" * (2 << 20))[0]
    assert problems("a: &a\n  b: *a\n")


def test_anchors_and_merge_keys_work() -> None:
    config = read(KEYS + "rtc:\n  ips: &nets\n    includes: [10.0.0.0/8]\n  interfaces:\n    <<: *nets\n").config
    assert config.rtc.interfaces.includes == ("10.0.0.0/8",)


def test_later_sources_win() -> None:
    env = {"LIVEKIT_RTC_TCP_PORT": "7001", "LIVEKIT_REGION": "env", "UDP_PORT": "7100-7101", "LIVEKIT_URL": "ws://x"}
    loaded = read(
        KEYS + "region: file\nport: 1234\nrtc:\n  tcp_port: 7000\n",
        Flag("--region", "region", "flag"),
        Flag("--bind", "bind_addresses", "10.0.0.1"),
        Flag("--bind", "bind_addresses", "10.0.0.2, 10.0.0.3"),
        Flag("--room.auto_create", "room.auto_create", "false"),
        env=env,
    )
    config = loaded.config
    assert (config.region, config.port, config.rtc.tcp_port) == ("flag", 1234, 7001)
    assert config.rtc.udp_port == (7100, 7101)
    assert config.bind_addresses == ("10.0.0.1", "10.0.0.2", "10.0.0.3")
    assert not config.room.auto_create


def test_the_body_may_come_from_the_environment_and_loses_to_an_explicit_one() -> None:
    env = {"LIVEKIT_CONFIG": "region: env\n" + KEYS}
    assert load(Sources(environment=env)).config.region == "env"
    assert load(Sources(body="region: body\n" + KEYS, environment=env)).config.region == "body"


def test_wrong_settings_from_outside_name_their_source() -> None:
    found = problems(
        KEYS, Flag("--rtc.tpc_port", "rtc.tpc_port", "1"), env={"LIVEKIT_PORT": "abc", "NODE_IP": "1.2.3.4"}
    )
    assert found == [
        "--rtc.tpc_port: unknown key rtc.tpc_port; did you mean tcp_port?",
        "LIVEKIT_PORT: port: expected a whole number, got abc",
    ]


def test_keys_from_environment_and_file(tmp_path: Path) -> None:
    env = {"LIVEKIT_KEYS": f"one: {SECRET}, two:{SECRET}\nthree: {SECRET}"}
    assert list(read(env=env).config.keys) == ["one", "two", "three"]
    found: list[object] = []
    parse_keys("nosecret", Where("LIVEKIT_KEYS"), found)  # type: ignore[arg-type]
    assert "expected `key: secret`" in str(found[0])
    file = tmp_path / "keys.yaml"
    file.write_text(f"mine: {SECRET}\n")
    file.chmod(0o644)
    assert "is open to others; chmod 600" in problem(f"key_file: {file}\n")
    file.chmod(stat.S_IRUSR | stat.S_IWUSR)
    assert read(f"key_file: {file}\n").config.keys == {"mine": SECRET}
    assert "No such file" in "".join(problems("key_file: /nowhere/keys\n"))


def test_development_fills_in_what_is_needed_to_try() -> None:
    config = read(dev=True).config
    assert config.development
    assert config.keys == {"devkey": "secret"}
    assert config.bind_addresses[0] == "127.0.0.1"
    assert config.pages.demo is True
    assert config.metrics.main_port is True
    assert read("bind_addresses: [0.0.0.0]\n", dev=True).config.bind_addresses == ("0.0.0.0",)


def test_production_shows_nothing_by_default() -> None:
    config = read(KEYS).config
    assert config.pages.demo is False
    assert config.metrics.main_port is False
    assert read(KEYS + "bind_addresses: ['127.0.0.1']\n").config.metrics.main_port is True


def test_older_names_of_keys_still_work() -> None:
    config = read(KEYS + "log_level: error\nprometheus_port: 6789\n").config
    assert config.logging.level == "error"
    assert config.prometheus.port == 6789


def test_unknown_keys_may_be_forgiven() -> None:
    loaded = read(KEYS + "prot: 1\n", strict=False)
    assert loaded.notes == ("--config-body:3: unknown key prot; did you mean port?",)


def test_an_unreadable_file_is_a_problem(tmp_path: Path) -> None:
    for name, content, told in (
        ("none.yaml", None, "cannot be read"),
        ("bin.yaml", b"\xff\xfe\x00", "not a text file"),
    ):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigError) as caught:
            load(Sources(file=str(tmp_path / name), environment={}))
        assert told in caught.value.lines()[0]


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("0", 0),
        ("1m30s", 90 * 10**9),
        ("1.5h", 5400 * 10**9),
        ("300ms", 300 * 10**6),
        ("7us", 7000),
        (".5s", 5 * 10**8),
    ],
)
def test_durations(text: str, ns: int) -> None:
    assert parse_duration(text) == ns
    assert parse_duration(format_duration(ns)) == ns


@pytest.mark.parametrize("text", ["", "5", "5 s", "1x", "s", "-5s", "1e3s", "9" * 400 + "h"])
def test_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


def test_ports() -> None:
    assert parse_ports(["7882"]) == (7882,)
    assert parse_ports(["7882-7884", "9000"]) == (7882, 7883, 7884, 9000)
    for bad in (["x"], [], ["70000"], ["1-2", "2"], ["-5"]):
        with pytest.raises(ValueError, match="port"):
            parse_ports(bad)


def test_values_that_carry_units_say_so() -> None:
    assert repr(Duration(1_500_000_000)) == "1s500ms"
    assert repr(Secret("x")) == "'***'"
    assert Config().video.dynacast_pause_delay.ms == 5000
