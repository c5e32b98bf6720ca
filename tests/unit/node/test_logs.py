"""Logs: what a line looks like, what never stands in one, and how a flood is cut."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from tertulia.node import logs
from tertulia.node.config import Logging

TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl"


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    logs.configure(Logging(level="debug"), stream=stream)

    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()
    logs.known.tell([])
    logging.captureWarnings(False)


@pytest.mark.parametrize(
    "text",
    [
        f"GET /rtc?access_token={TOKEN}&auto_subscribe=1",
        "/rtc?access_token=opaque-canary",
        "Authorization: Bearer canary-canary",
        "a=ice-ufrag:abcd\r\na=ice-pwd:canarycanarycanary\r\n",
        "https://bucket.example.org/x?X-Amz-Signature=canary&X-Amz-Credential=canary/eu",
        "redis://user:canary@redis:6379",
        "rtmp://live.example.org/app/canary-stream-key",
        "a=crypto:1 AES inline:canarycanarycanary",
        f"token {TOKEN} here",
    ],
)
def test_text_that_opens_doors_is_hidden(text: str) -> None:
    clean = logs.redact(text)
    assert "canary" not in clean
    assert "eyJ" not in clean
    assert logs.HIDDEN in clean


def test_ordinary_text_stays() -> None:
    for text in ("alice joined room demo over UDP 10.0.0.1:5000", "https://example.org/path?room=demo", "tokens: 5"):
        assert logs.redact(text) == text


def test_fields_are_hidden_by_name_by_look_and_by_value(lines: io.StringIO) -> None:
    logs.known.tell(["seeded-canary-secret", "short"])
    log = structlog.get_logger("tertulia.test")
    log.info(
        "upload.failed",
        room="demo",
        secret="canary1",
        api_secret="canary2",
        headers={"Authorization": "canary3", "host": "h"},
        url="https://x/?token=canary4",
        items=[{"password": "canary5"}, TOKEN],
        note="contains seeded-canary-secret inside",
        short="short",
        tokens=5,
        count=7,
    )
    line = json.loads(lines.getvalue())
    assert "canary" not in lines.getvalue()
    assert "eyJ" not in lines.getvalue()
    assert line["room"] == "demo"
    assert line["count"] == 7
    assert line["headers"]["host"] == "h"
    assert line["short"] == "short"
    assert (line["event"], line["level"], line["logger"]) == ("upload.failed", "info", "tertulia.test")


def test_tracebacks_and_libraries_go_the_same_way(lines: io.StringIO) -> None:
    try:
        raise ValueError(f"bad url /rtc?access_token={TOKEN}")
    except ValueError:
        structlog.get_logger().exception("room.crashed")
    logging.getLogger("some.library").warning("connecting to redis://u:%s@h", "canary")
    text = lines.getvalue()
    assert "ValueError" in text
    assert "eyJ" not in text
    assert "canary" not in text
    assert all(json.loads(line)["level"] in ("error", "warning") for line in text.splitlines())


def test_levels_of_single_parts() -> None:
    stream = io.StringIO()
    handlers = logging.getLogger().handlers[:]
    try:
        logs.configure(Logging(level="error", component_levels={"tertulia.loud": "debug"}), stream=stream)
        structlog.get_logger("tertulia.loud").debug("heard")
        structlog.get_logger("tertulia.other").info("not heard")
    finally:
        logging.getLogger().handlers[:] = handlers
        logging.getLogger("tertulia.loud").setLevel(logging.NOTSET)
        structlog.reset_defaults()
    assert '"heard"' in stream.getvalue()
    assert "not heard" not in stream.getvalue()


def test_a_flood_of_one_event_is_cut_and_counted() -> None:
    now = [0]
    limit = logs.RateLimit(lambda: now[0])

    def offer(name: str) -> dict[str, object] | None:
        try:
            return dict(limit(None, "info", {"event": name}))
        except structlog.DropEvent:
            return None

    passed = [offer("flood") for _ in range(logs.PER_EVENT + 30)]
    assert sum(line is not None for line in passed) == logs.PER_EVENT
    assert offer("other") is not None
    now[0] += logs.WINDOW_NS
    assert offer("flood") == {"event": "flood", "left_out": 30}
    assert offer("flood") == {"event": "flood"}


def test_invented_event_names_cannot_grow_the_table() -> None:
    limit = logs.RateLimit(lambda: 0)
    passed = 0
    for number in range(logs.MAX_EVENTS * 2):
        try:
            limit(None, "info", {"event": f"e{number}"})
            passed += 1
        except structlog.DropEvent:
            pass
    assert passed <= logs.MAX_EVENTS + logs.PER_EVENT


def test_long_values_are_cut(lines: io.StringIO) -> None:
    structlog.get_logger().info("big", value="x" * 100_000)
    assert len(lines.getvalue()) < 3_000
