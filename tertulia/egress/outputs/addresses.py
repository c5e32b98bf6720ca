"""Addresses that callers give us to connect to: what is allowed, how they are shown, where they lead.

Decides which address is refused and with which words; only `resolve` touches the network (DNS). The guard is applied to
the IP address that is then connected to, so that a name cannot be changed between check and use.
"""

import asyncio
import ipaddress
import re
import socket
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from tertulia.protocol.errors import RequestError

URL_LIMIT = 2048
_PRINTABLE = re.compile(r"[\x21-\x7e]+")

# Services whose addresses callers shorten to `mux://KEY`, `twitch://KEY` (as LiveKit lets them).
_SERVICES = {
    "mux": "rtmps://global-live.mux.com:443/app/",
    "twitch": "rtmps://ingest.global-contribute.live-video.net:443/app/",
}


@dataclass(frozen=True, slots=True)
class AddressRules:
    """What the operator lets callers connect to."""

    allow_private: bool = True
    """Loopback, link-local and private networks; False for a server whose callers are not trusted."""
    ca_file: str = ""
    """Extra certificate authority for rtmps and wss."""
    verify_tls: bool = True


class AddressRefused(Exception):
    """The name leads nowhere, or to where the rules do not let us go."""


@dataclass(frozen=True, slots=True)
class RtmpAddress:
    host: str
    port: int
    tls: bool
    app: str
    key: str
    """Stream name with its query, the secret part."""

    @property
    def tc_url(self) -> str:
        scheme, default = ("rtmps", 443) if self.tls else ("rtmp", 1935)
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == default else f":{self.port}"
        return f"{scheme}://{host}{port}/{self.app}"


def parse_rtmp(url: str) -> RtmpAddress:
    """Raises RequestError(invalid_argument), in words that do not repeat the key."""
    scheme, _, rest = url.partition("://")
    if scheme.lower() in _SERVICES and rest:
        url = _SERVICES[scheme.lower()] + rest
    url = url.removesuffix(" live=1")  # librtmp's way to say what we always say
    parts = _split(url, ("rtmp", "rtmps"))
    path = parts.path.lstrip("/")
    app, slash, key = path.rpartition("/")
    if not slash or not app.strip("/") or not key:
        raise _invalid("urls", "an RTMP address is rtmp[s]://host[:port]/app/key")
    if parts.query:
        key += "?" + parts.query
    tls = parts.scheme == "rtmps"
    return RtmpAddress(parts.hostname or "", parts.port or (443 if tls else 1935), tls, app.strip("/"), key)


def parse_websocket(url: str) -> SplitResult:
    """Raises RequestError(invalid_argument)."""
    return _split(url, ("ws", "wss"), "websocket_url")


def _split(url: str, schemes: tuple[str, ...], name: str = "urls") -> SplitResult:
    if len(url) > URL_LIMIT or not _PRINTABLE.fullmatch(url):
        raise _invalid(name, "not an address")
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname
    except ValueError:
        raise _invalid(name, "not an address") from None
    if parts.scheme not in schemes:
        raise _invalid(name, f"only {' and '.join(schemes)} addresses are taken")
    if not host or port == 0:
        raise _invalid(name, "host or port missing")
    if parts.username is not None or parts.password is not None:
        raise _invalid(name, "user names in addresses are not supported")
    return parts


def _invalid(name: str, why: str) -> RequestError:
    return RequestError("invalid_argument", f"request has missing or invalid field: {name} ({why})")


def mask(secret: str) -> str:
    """`{abc...xyz}`: enough to tell one key from another, fewer letters the shorter it is."""
    for shown in (3, 2, 1):
        if len(secret) >= shown * 4:
            return f"{{{secret[:shown]}...{secret[-shown:]}}}"
    return "{...}"


def masked_rtmp(url: str) -> str:
    """The address with its stream key masked, as StreamInfo, logs and webhooks show it."""
    scheme, _, rest = url.removesuffix(" live=1").partition("://")
    if scheme.lower() in _SERVICES:
        return f"{scheme}://{mask(rest)}"
    path, query = (*rest.split("?", 1), "")[:2]
    head, slash, key = path.rpartition("/")
    if query:
        key += "?" + query
    return f"{scheme}://{head}{slash}{mask(key)}" if slash else f"{scheme}://{mask(rest)}"


def masked_websocket(url: str) -> str:
    """The address with the values of its query masked."""
    head, mark, query = url.partition("?")
    fields = [
        name + "=" + mask(value) if value else name for name, _, value in (f.partition("=") for f in query.split("&"))
    ]
    return head + mark + "&".join(fields) if mark else url


async def resolve(host: str, port: int, rules: AddressRules) -> list[tuple[str, int]]:
    """IP addresses to try, in order. Raises AddressRefused."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        raise AddressRefused(f"the name {host} is not known") from None
    ends = list(dict.fromkeys((str(sockaddr[0]), int(sockaddr[1])) for *_, sockaddr in found))
    if not rules.allow_private:
        ends = [end for end in ends if _is_public(end[0])]
        if not ends:
            raise AddressRefused(f"{host} is on a private network, which this server's configuration refuses")
    return ends


def _is_public(address: str) -> bool:
    ip = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(ip, "ipv4_mapped", None)
    return (mapped or ip).is_global and not ip.is_multicast
