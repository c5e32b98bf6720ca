"""Logs: one line per event, JSON or for eyes, with secrets taken out and floods cut short.

Decides how a line looks and what may not be in one; not what is worth saying. Everything goes through here: structlog
events of ours and `logging` records of libraries. `bind` room, participant and track with structlog's contextvars or
`log.bind(...)`. Lines go to stderr.
"""

import logging
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from tertulia.node.config import Logging

PER_EVENT = 20
"""Lines of one event name let through per window; the rest are counted and told in the first line of the next."""
WINDOW_NS = 2_000_000_000
MAX_EVENTS = 1_000
"""Event names remembered for the rate; beyond it all others share one."""
MAX_VALUE_CHARS = 2_000
MAX_SECRET_CHARS = 2_000
"""Read beyond the cut, so that a secret that lies across it is recognised."""

_LEVELS = {"debug": 10, "info": 20, "warn": 30, "warning": 30, "error": 40}
_LIBRARIES = {"asyncio": 30, "uvicorn": 40, "aiohttp": 30, "aioice": 30, "aiortc": 30, "libav": 30, "websockets": 40}
"""They are told to be quiet: at their own INFO some write whole URLs or a line per packet."""


def configure(settings: Logging, *, development: bool = False, stream: TextIO | None = None) -> None:
    """Set up structlog and `logging`; may be called again."""
    out = sys.stderr if stream is None else stream
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[Processor] = [structlog.processors.format_exc_info, Redactor()]
    render: Processor
    if settings.json or not (development or out.isatty()):
        render = structlog.processors.JSONRenderer(default=repr)
    else:
        render = structlog.dev.ConsoleRenderer(colors=out.isatty(), pad_event_to=28)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            RateLimit(),
            *shared,
            structlog.stdlib.add_logger_name,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last, render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(_LEVELS[settings.level])
    for name, level in _LIBRARIES.items():
        logging.getLogger(name).setLevel(max(level, root.level))
    for name, wanted in settings.component_levels.items():
        logging.getLogger(name).setLevel(_LEVELS[wanted])
    logging.captureWarnings(True)
    threading.excepthook = _thread_died
    sys.unraisablehook = _nobody_caught


def _thread_died(args: threading.ExceptHookArgs) -> None:
    """Python's own hook writes past the redactor."""
    name = args.thread.name if args.thread else ""
    if args.exc_value is not None and not issubclass(args.exc_type, SystemExit):
        structlog.get_logger("tertulia.threads").error("thread.died", thread=name, exc_info=args.exc_value)


def _nobody_caught(args: "sys.UnraisableHookArgs") -> None:
    """The same for what is raised in finalizers and C callbacks."""
    if isinstance(args.exc_value, Exception):
        structlog.get_logger("tertulia.threads").error("exception.lost", note=args.err_msg, exc_info=args.exc_value)


# ---------------------------------------------------------------------------------------------- redaction

HIDDEN = "***"
_SECRET_NAMES = re.compile(
    r"(?:^|_)(?:secret|password|credential|authorization|token|jwt|pwd|signature|session_token|access_key|account_key"
    r"|api_secret|private_key|ice_pwd|stream_key|keys)$"
)
_JWT = re.compile(r"\beyJ[\w-]{6,}\.+[\w-]+(?:\.[\w-]*)?")
"""Also with dots in its middle, as `reprlib` shortens one."""
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{6,}")
_QUERY = re.compile(
    r"(?i)\b((?:access_?token|token|join_request|secret|password|passwd|sig(?:nature)?|credential|key|api_key"
    r"|x-amz-(?:signature|credential|security-token)|x-goog-(?:signature|credential)|awsaccesskeyid)=)[^&\s\"'<>]+"
)
_ICE_PWD = re.compile(r"(a=ice-pwd:)\S+")
_USER_INFO = re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s/:@]*:)[^\s/@]+(@)")
_SRTP_KEY = re.compile(r"(inline:)[A-Za-z0-9+/=]{8,}")
_RTMP_KEY = re.compile(r"(\brtmps?://[^\s/]+/[^\s/]+/)[^\s\"']+")
_SPELLED_OUT = re.compile(
    r"(?i)((?:secret|password|passwd|pwd|token|jwt|credentials?|credentials_json|authorization|signature|access_key"
    r"|account_key|private_key|stream_key)[\"']?\s*[:=]\s*(?:Secret\()?b?)(\"(?:\\.|[^\"\\])*\"?|'(?:\\.|[^'\\])*'?)"
)
"""A field with a quoted value, as Python's repr, JSON and protobuf's text write it."""


def redact(text: str) -> str:
    """The text without anything that opens a door."""
    text = _JWT.sub(HIDDEN, text)
    text = _BEARER.sub(rf"\1 {HIDDEN}", text)
    text = _QUERY.sub(rf"\1{HIDDEN}", text)
    text = _ICE_PWD.sub(rf"\1{HIDDEN}", text)
    text = _USER_INFO.sub(rf"\1{HIDDEN}\2", text)
    text = _SRTP_KEY.sub(rf"\1{HIDDEN}", text)
    text = _RTMP_KEY.sub(rf"\1{HIDDEN}", text)
    return _SPELLED_OUT.sub(rf"\1'{HIDDEN}'", text)


class Redactor:
    """Takes secrets out of every value: those it was told by value, by the name of the field, and by their look."""

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        return {name: self._clean(name, value) for name, value in event.items()}

    def _clean(self, name: str, value: Any, depth: int = 0) -> Any:
        if isinstance(value, bool | int | float) or value is None:
            return value
        if _SECRET_NAMES.search(name.lower().replace("-", "_")):
            return HIDDEN if value else value
        if isinstance(value, Mapping) and depth < 4:
            return {str(key): self._clean(str(key), item, depth + 1) for key, item in list(value.items())[:100]}
        if isinstance(value, list | tuple | set | frozenset) and depth < 4:
            return [self._clean("", item, depth + 1) for item in list(value)[:100]]
        text = value if isinstance(value, str) else repr(value)
        limit = MAX_VALUE_CHARS if name not in ("exception", "stack") else 20 * MAX_VALUE_CHARS
        clean = known.hide(
            redact(text[: limit + MAX_SECRET_CHARS])
        )  # first hidden, then cut: half a secret is one, too
        return clean[:limit] + ("…" if len(text) > limit or len(clean) > limit else "")


class KnownSecrets:
    """The node's own secrets by value: wherever they turn up in a line, they are hidden."""

    MIN_CHARS = 8
    """Shorter ones would hide half the dictionary."""

    def __init__(self) -> None:
        self._pattern: re.Pattern[str] | None = None

    def tell(self, secrets: list[str]) -> None:
        worth = sorted({secret for secret in secrets if len(secret) >= self.MIN_CHARS}, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, worth))) if worth else None

    def hide(self, text: str) -> str:
        return text if self._pattern is None else self._pattern.sub(HIDDEN, text)


known = KnownSecrets()

# ----------------------------------------------------------------------------------------------- the rate


class RateLimit:
    """At most `PER_EVENT` lines of one event name per window; how many were left out is told with the next one."""

    def __init__(self, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._clock = clock
        self._seen: dict[str, list[int]] = {}

    def __call__(self, logger: WrappedLogger, method: str, event: MutableMapping[str, Any]) -> EventDict:
        name = str(event.get("event", ""))
        if name not in self._seen and len(self._seen) >= MAX_EVENTS:
            name = ""
        now = self._clock()
        started, count, dropped = self._seen.setdefault(name, [now, 0, 0])
        if now - started >= WINDOW_NS:
            self._seen[name] = [now, 1, 0]
            if dropped:
                event["left_out"] = dropped
            return event
        if count >= PER_EVENT:
            self._seen[name][2] += 1
            raise structlog.DropEvent
        self._seen[name][1] += 1
        return event
