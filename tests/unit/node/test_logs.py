"""Logs: what a line looks like, what never stands in one, and how a flood is cut."""

import asyncio
import io
import json
import logging
import sys
import threading
from collections.abc import Callable, Iterator

import pytest
import structlog

from tertulia.node import logs
from tertulia.node.config import Logging

CANARY = "canary-of-a-caller"
TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl"


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    hooks = threading.excepthook, sys.unraisablehook
    logs.configure(Logging(level="debug"), stream=stream)

    yield stream
    threading.excepthook, sys.unraisablehook = hooks
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
        "S3Upload(region='eu', secret='canary', access_key=\"ca\\\"nary\")",
        '{"access_token": "canary", "room": "demo"}',
        'bucket: "b"\nsecret: "canary"\n',
        "Transport(ufrag='u', pwd=b'canary')",
        "credentials_json = 'canary that was cut",
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


def crash(given: str) -> None:
    """Raises with secrets in an argument, a local and an outer exception, none of which a log may show."""
    password = given + "-local"
    try:
        raise KeyError(f"redis://u:{password}@h")
    except KeyError as error:
        raise RuntimeError(f"seeded-{CANARY[:6]}-secret in the message") from error


@pytest.mark.parametrize("development", [False, True], ids=["json", "console"])
def test_tracebacks_show_no_locals_and_no_secrets(lines: io.StringIO, development: bool) -> None:
    """However an exception comes to light: logged, in a thread, in a finalizer, by asyncio's own handler."""
    logs.configure(Logging(level="debug"), stream=lines, development=development)
    logs.known.tell(["seeded-canary-secret"])

    def caught() -> None:
        try:
            crash(CANARY)
        except RuntimeError:
            structlog.get_logger("tertulia.test").exception("caught", secret=CANARY)

    class Finalized:
        def __del__(self) -> None:
            crash(CANARY)

    def in_a_loop() -> None:
        with asyncio.Runner() as runner:
            loop = runner.get_loop()
            loop.call_soon(crash, TOKEN)
            runner.run(asyncio.sleep(0))

    ways = (caught, lambda: join(crash, CANARY), lambda: Finalized() and None, in_a_loop)
    for way in ways:
        lines.seek(0)
        lines.truncate()
        way()
        text = lines.getvalue()
        assert "RuntimeError" in text, way
        assert "in crash" in text, way
        assert "canary" not in text, text
        assert "eyJ" not in text, text


def join(function: Callable[[str], None], argument: str) -> None:
    thread = threading.Thread(target=function, args=(argument,))
    thread.start()
    thread.join()


def test_a_secret_across_the_cut_is_hidden_whole(lines: io.StringIO) -> None:
    secret = "seeded-canary-secret"
    logs.known.tell([secret])
    structlog.get_logger("tertulia.test").info("long", value="x" * (logs.MAX_VALUE_CHARS - 8) + secret + "y" * 5_000)
    assert "seeded" not in lines.getvalue()


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
