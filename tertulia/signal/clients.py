"""What a client is: from its own words, completed from its User-Agent.

Browsers say nothing about themselves in v1, yet the room needs to know Firefox from Safari to avoid what each cannot do
(wire contract 1.6). Family names are those of the ua-parser project, which LiveKit compares with.
"""

import re
from collections.abc import Mapping

from livekit.protocol import models

MAX_AGENT_CHARS = 512

_BROWSERS: tuple[tuple[str, str], ...] = (
    ("Edge", r"Edg(?:e|A|iOS)?/([\d.]+)"),
    ("Opera", r"(?:OPR|Opera)/([\d.]+)"),
    ("Samsung Internet", r"SamsungBrowser/([\d.]+)"),
    ("Firefox iOS", r"FxiOS/([\d.]+)"),
    ("Firefox Mobile", r"(?:Mobile|Tablet);.*Firefox/([\d.]+)"),
    ("Firefox", r"Firefox/([\d.]+)"),
    ("Chrome Mobile iOS", r"CriOS/([\d.]+)"),
    ("HeadlessChrome", r"HeadlessChrome/([\d.]+)"),
    ("Chrome Mobile", r"Chrome/([\d.]+) Mobile"),
    ("Chrome", r"Chrome/([\d.]+)"),
    ("Mobile Safari", r"Version/([\d.]+) Mobile/\S+ Safari"),
    ("Safari", r"Version/([\d.]+) Safari"),
)
_SYSTEMS: tuple[tuple[str, str], ...] = (
    ("iOS", r"(?:iPhone|iPad|iPod).*? OS ([\d_]+)"),
    ("Android", r"Android ([\d.]+)"),
    ("Chrome OS", r"CrOS \S+ ([\d.]+)"),
    ("Mac OS X", r"Mac OS X ([\d_.]+)"),
    ("Windows", r"Windows NT ([\d.]+)"),
    ("Linux", r"Linux()"),
)
_DEVICES: tuple[tuple[str, str], ...] = (
    ("iPhone", r"iPhone"),
    ("iPad", r"iPad"),
    ("Mac", r"Macintosh"),
)
_BROWSER_PATTERNS = [(name, re.compile(pattern)) for name, pattern in _BROWSERS]
_SYSTEM_PATTERNS = [(name, re.compile(pattern)) for name, pattern in _SYSTEMS]
_DEVICE_PATTERNS = [(name, re.compile(pattern)) for name, pattern in _DEVICES]

_SDKS = {name.replace("_", "").lower(): name for name, _ in models.ClientInfo.SDK.items()}
_CAPABILITIES = frozenset(models.ClientInfo.Capability.keys())


def client_of_query(query: Mapping[str, str]) -> models.ClientInfo:
    """ClientInfo from v0 query parameters (wire contract 1.5); unknown values are left out."""
    names = dict.fromkeys(query.get("capabilities", "").split(","))
    return models.ClientInfo(
        sdk=_SDKS.get(query.get("sdk", "").replace("-", "").replace("_", "").lower(), "UNKNOWN"),
        version=query.get("version", ""),
        protocol=_number(query.get("protocol", "")),
        client_protocol=_number(query.get("client_protocol", "")),
        os=query.get("os", ""),
        os_version=query.get("os_version", ""),
        device_model=query.get("device_model", ""),
        browser=query.get("browser", ""),
        browser_version=query.get("browser_version", ""),
        network=query.get("network", ""),
        capabilities=[name for name in names if name in _CAPABILITIES],
    )


def complete(client: models.ClientInfo, user_agent: str, address: str) -> models.ClientInfo:
    """The same with what the client did not say itself."""
    full = models.ClientInfo()
    full.CopyFrom(client)
    full.address = address
    agent = user_agent[:MAX_AGENT_CHARS]
    if "Mozilla/" not in agent:
        return full
    if not full.browser:
        full.browser, full.browser_version = _first(_BROWSER_PATTERNS, agent)
    if not full.os:
        full.os, full.os_version = _first(_SYSTEM_PATTERNS, agent)
    if not full.device_model:
        full.device_model = next((name for name, pattern in _DEVICE_PATTERNS if pattern.search(agent)), "")
    return full


def _first(patterns: list[tuple[str, re.Pattern[str]]], agent: str) -> tuple[str, str]:
    for name, pattern in patterns:
        if match := pattern.search(agent):
            return name, match[1].replace("_", ".").strip(".")
    return "", ""


def _number(text: str) -> int:
    """A signed 32-bit number or 0."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
