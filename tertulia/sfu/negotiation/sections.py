"""One section of a client's description: what it asks for.

RFC 8866 (directions, codecs), RFC 8830 (msid), RFC 8853 (simulcast), RFC 5576 (sources).
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from tertulia.protocol import sdp
from tertulia.protocol.errors import PeerError
from tertulia.protocol.sdp_attributes import (
    DIRECTIONS,
    ExtMap,
    parse_extmaps,
    parse_rids,
    parse_simulcast,
    parse_ssrc_groups,
    parse_ssrcs,
)
from tertulia.sfu.negotiation import extensions
from tertulia.sfu.negotiation.codecs import common_payloads
from tertulia.sfu.negotiation.remembered import MAX_REMEMBERED, remembering
from tertulia.sfu.negotiation.words import Kind, Payload

Attributes = dict[str, list[str]]

_MEDIA_PROTOCOLS = frozenset({"UDP/TLS/RTP/SAVPF", "TCP/TLS/RTP/SAVPF", "RTP/SAVPF"})
_DATA_PROTOCOLS = frozenset({"UDP/DTLS/SCTP", "TCP/DTLS/SCTP"})


class SectionRead(NamedTuple):
    """One section of the client's description."""

    mid: str
    extmaps: tuple[ExtMap, ...]
    kind: Kind | None
    """None: data, or something we do not take."""
    is_data: bool
    media_line: tuple[str, str, tuple[str, ...]]
    """Kind, protocol and formats as they stand, for refusing the section."""
    is_zero: bool
    """Its port is zero: the client refuses or has stopped it."""
    usable: bool
    """We take it: right protocol, in the bundle, a codec in common."""
    sends: bool
    """The client wants to send on it."""
    receives: bool
    payloads: tuple[Payload, ...]
    rids: tuple[str, ...]
    stream_id: str
    cid: str
    ssrcs: tuple[int, ...]
    rtx_ssrcs: Mapping[int, int]
    reduced_size: bool
    """RTCP of reduced size (RFC 5506)."""


class Common(NamedTuple):
    """What the reading of every section depends on beside its own text."""

    enabled: frozenset[str]
    extmaps: tuple[str, ...]
    directions: tuple[str, ...]


def read_section(
    section: sdp.Section,
    one: Attributes,
    mid: str,
    bundled: bool,
    common: Common,
    settled: extensions.Settled,
) -> tuple[SectionRead, tuple[ExtMap, ...], extensions.Settled]:
    """Its reading, all extensions it offers, and the number space of the bundle after it."""
    # RFC 8843 7.2.1: a bundle-only section has port zero and is not stopped
    is_zero = section.port == 0 and not (bundled and "bundle-only" in one)
    is_data = section.kind == "application"
    kind: Kind | None = "audio" if section.kind == "audio" else "video" if section.kind == "video" else None
    usable = bundled and not is_zero
    payloads: tuple[Payload, ...] = ()
    if is_data:
        usable = usable and section.protocol in _DATA_PROTOCOLS and "webrtc-datachannel" in section.formats
    elif kind is not None and usable and section.protocol in _MEDIA_PROTOCOLS and "rtcp-mux" in one:
        payloads = common_payloads(kind, section.formats, one, common.enabled)
        usable = bool(payloads)
    else:
        usable = False
    direction = _direction(directions_of(one), common.directions)
    stream_id, cid = _msid(one)
    ssrcs, rtx_ssrcs = _sources(one)
    is_media = usable and kind is not None
    lines = (*common.extmaps, *one.get("extmap", ())) if is_media else ()
    offered = remembering(_extmaps, lines)(lines)
    extmaps, settled = extensions.accept(offered, settled)
    read = SectionRead(
        mid=mid,
        extmaps=extmaps,
        kind=kind,
        is_data=is_data,
        media_line=(section.kind, section.protocol, tuple(section.formats)),
        is_zero=is_zero,
        usable=usable,
        sends=is_media and direction in ("sendrecv", "sendonly"),
        receives=is_media and direction in ("sendrecv", "recvonly"),
        payloads=payloads,
        rids=_simulcast(one),
        stream_id=stream_id,
        cid=cid,
        ssrcs=ssrcs,
        rtx_ssrcs=rtx_ssrcs,
        reduced_size="rtcp-rsize" in one,
    )
    return read, offered, settled


@lru_cache(maxsize=MAX_REMEMBERED)
def _extmaps(lines: tuple[str, ...]) -> tuple[ExtMap, ...]:
    """Remembered, as the payloads are: the sections of one offer say the same."""
    return tuple(parse_extmaps(lines))


def directions_of(one: Attributes) -> tuple[str, ...]:
    return tuple(direction for direction in DIRECTIONS if direction in one)


def _direction(*said_by: tuple[str, ...]) -> str:
    """RFC 8866 6.7: sendrecv when nothing is said; a section's word goes before the session's."""
    for said in said_by:
        if len(said) > 1:
            raise PeerError("a section has two directions")
        if said:
            return said[0]
    return "sendrecv"


def _msid(one: Attributes) -> tuple[str, str]:
    """Stream id and track id (RFC 8830); the older form on `a=ssrc` lines is read where there is no `a=msid`."""
    value = first_of(one, "msid")
    if value is None:
        value = next((text.partition(" msid:")[2] for text in one.get("ssrc", ()) if " msid:" in text), "")
    stream_id, _, cid = value.strip().partition(" ")
    return "" if stream_id == "-" else stream_id, cid.strip()


def _simulcast(one: Attributes) -> tuple[str, ...]:
    """Stream names in the order of `a=simulcast:send` (RFC 8853); a lone rid needs no simulcast line."""
    names = [rid.name for rid in parse_rids(one.get("rid", ())) if rid.direction == "send"]
    value = first_of(one, "simulcast")
    if value is None:
        return tuple(names[:1])
    streams = [stream.rid for stream in parse_simulcast(value).get("send", ())]
    if len(set(streams)) != len(streams) or not set(streams) <= set(names):
        raise PeerError("a=simulcast names a stream without an a=rid line, or names it twice")
    return tuple(streams)


def _sources(one: Attributes) -> tuple[tuple[int, ...], dict[int, int]]:
    """Primary SSRCs and their repair SSRCs (RFC 5576 4.2)."""
    known = parse_ssrcs(one.get("ssrc", ()))
    simulcast: tuple[int, ...] = ()
    repairs: dict[int, int] = {}
    for semantics, members in parse_ssrc_groups(one.get("ssrc-group", ())):
        if semantics == "SIM":
            simulcast = members
        elif semantics == "FID" and len(members) == 2:
            repairs[members[0]] = members[1]
    primary = simulcast or tuple(ssrc for ssrc in known if ssrc not in repairs.values())
    return primary, {first: second for first, second in repairs.items() if first in primary}


def first_of(attributes: Attributes, name: str) -> str | None:
    values = attributes.get(name)
    return values[0] if values else None
