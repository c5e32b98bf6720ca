"""Codecs we know: what of an offered section we take, and which payload of a client carries a given track.

The client's payload type numbers are always kept (wire contract 3.1). RFC 8866 6.6, RFC 4585 4.2, RFC 4588 8.6.
"""

from collections.abc import Sequence
from functools import lru_cache

from tertulia.protocol.sdp_attributes import (
    STATIC_PAYLOADS,
    RtpMap,
    build_fmtp,
    fmtp_parameters,
    parse_feedback,
    parse_fmtps,
    parse_formats,
    parse_rtpmaps,
)
from tertulia.sfu.negotiation.remembered import MAX_REMEMBERED, remembering
from tertulia.sfu.negotiation.words import Kind, Payload, Preference, Wanted

OPUS = "audio/opus"
RED = "audio/red"
_H264 = "video/h264"

KNOWN = {
    mime.lower(): mime
    for mime in (
        "audio/opus",
        "audio/red",
        "audio/PCMU",
        "audio/PCMA",
        "video/VP8",
        "video/VP9",
        "video/H264",
        "video/H265",
        "video/AV1",
    )
}
"""Lower-case mime type to LiveKit's spelling."""

VIDEO_FEEDBACK = ("goog-remb", "transport-cc", "ccm fir", "nack", "nack pli")
AUDIO_FEEDBACK = ("transport-cc", "nack")

HIGH_BITRATE_OPUS = "510000"
"""maxaveragebitrate for stereo tracks: the ceiling of RFC 7587 6.1, so that the sender's own setting decides."""

_PROFILE_PARAMETERS = {
    "video/vp9": (("profile-id", "0"),),
    "video/av1": (("profile", "0"),),
    "video/h265": (("profile-id", "1"), ("tier-flag", "0")),
}
"""Parameters that must agree, with the value meant when absent (RFC 9628 6, AV1 RTP 7.2.3, RFC 7798 7.1)."""


def enabled_set(mime_types: Sequence[str]) -> frozenset[str]:
    """Known codecs among those the room enables, in lower case."""
    enabled = frozenset(KNOWN).intersection(mime.lower() for mime in mime_types)
    return enabled if OPUS in enabled else enabled - {RED}


def common_payloads(
    kind: Kind, formats: Sequence[str], attributes: dict[str, list[str]], enabled: frozenset[str]
) -> tuple[Payload, ...]:
    """Codecs of an offered (or answered) section that we take, in the client's order."""
    rtpmaps, fmtps, feedback = (tuple(attributes.get(name, ())) for name in ("rtpmap", "fmtp", "rtcp-fb"))
    read = remembering(_common_payloads, formats, rtpmaps, fmtps, feedback)
    return read(kind, tuple(formats), rtpmaps, fmtps, feedback, enabled)


@lru_cache(maxsize=MAX_REMEMBERED)
def _common_payloads(
    kind: Kind,
    formats: tuple[str, ...],
    rtpmap_lines: tuple[str, ...],
    fmtp_lines: tuple[str, ...],
    feedback_lines: tuple[str, ...],
    enabled: frozenset[str],
) -> tuple[Payload, ...]:
    """Remembered: the sections of all clients of one make are alike, and they are half the cost of reading an offer."""
    order = parse_formats(formats)
    maps = STATIC_PAYLOADS | parse_rtpmaps(rtpmap_lines)
    fmtps = parse_fmtps(fmtp_lines)
    feedback = parse_feedback(feedback_lines)
    repairs = _repairs(order, maps, fmtps)
    found = []
    for pt in order:
        entry = maps.get(pt)
        mime = f"{kind}/{entry.name}".lower() if entry is not None else ""
        if entry is None or mime not in enabled:
            continue
        offered = feedback.get(pt, []) + feedback.get(None, [])
        ours = VIDEO_FEEDBACK if kind == "video" else AUDIO_FEEDBACK if mime == OPUS else ()
        found.append(
            Payload(
                pt=pt,
                mime_type=KNOWN[mime],
                clock_hz=entry.clock_hz,
                channels=0 if kind == "video" else entry.channels or 1,
                fmtp=fmtps.get(pt, ""),
                rtx_pt=repairs.get(pt, 0) if kind == "video" else 0,
                feedback=tuple(item for item in ours if item in offered),
            )
        )
    return tuple(payload for payload in found if payload.mime_type.lower() != RED or _wraps(payload, found))


def _repairs(order: list[int], maps: dict[int, RtpMap], fmtps: dict[int, str]) -> dict[int, int]:
    """Payload type to the payload type of its RTX stream, by `apt`."""
    found: dict[int, int] = {}
    for pt in order:
        if pt in maps and maps[pt].name.lower() == "rtx":
            apt = fmtp_parameters(fmtps.get(pt, "")).get("apt", "")
            if apt.isascii() and apt.isdigit():
                found.setdefault(int(apt[:4]), pt)
    return found


def _wraps(red: Payload, others: Sequence[Payload]) -> bool:
    """RFC 2198 5: `a=fmtp:63 111/111` names what is inside; we only understand opus inside."""
    inside = set(red.fmtp.split("/"))
    return any(other.mime_type == OPUS and inside == {str(other.pt)} for other in others)


def preferred(payloads: Sequence[Payload], preference: Preference | None, *, only: bool) -> tuple[Payload, ...]:
    """The order and parameters of our answer to a section the client publishes on; it sends the first.

    `only`: leave just the preferred codec, for clients that do not keep to the order.
    """
    if preference is None:
        return _opus_before_red(payloads)
    first = preference.mime_type.lower()
    chosen = [payload for payload in payloads if payload.mime_type.lower() == first]
    rest = [payload for payload in payloads if payload.mime_type.lower() != first]
    if only and chosen:
        rest = []
    ordered = _opus_before_red([*chosen, *rest])
    if preference.red:
        ordered = (*(p for p in ordered if p.mime_type == RED), *(p for p in ordered if p.mime_type != RED))
    return tuple(_tuned(payload, preference) for payload in ordered)


def _opus_before_red(payloads: Sequence[Payload]) -> tuple[Payload, ...]:
    return (*(p for p in payloads if p.mime_type != RED), *(p for p in payloads if p.mime_type == RED))


def _tuned(payload: Payload, preference: Preference) -> Payload:
    """What we ask an opus encoder for (RFC 7587 6.1): DTX and stereo."""
    if payload.mime_type != OPUS:
        return payload
    parameters = fmtp_parameters(payload.fmtp)
    for name in ("usedtx", "stereo", "sprop-stereo"):
        parameters.pop(name, None)
    if preference.dtx:
        parameters["usedtx"] = "1"
    if preference.stereo:
        parameters |= {"stereo": "1", "maxaveragebitrate": HIGH_BITRATE_OPUS}
    return with_fmtp(payload, build_fmtp(parameters))


def with_fmtp(payload: Payload, fmtp: str) -> Payload:
    return Payload(
        payload.pt, payload.mime_type, payload.clock_hz, payload.channels, fmtp, payload.rtx_pt, payload.feedback
    )


def carrying(payloads: Sequence[Payload], wanted: Wanted) -> Payload | None:
    """The client's payload for a track we send; None: it cannot decode the track."""
    mime = wanted.mime_type.lower()
    same = [payload for payload in payloads if payload.mime_type.lower() == mime]
    if mime == _H264:
        return _carrying_h264(same, fmtp_parameters(wanted.fmtp))
    decisive = _PROFILE_PARAMETERS.get(mime)
    if decisive is None:
        return same[0] if same else None
    ours = fmtp_parameters(wanted.fmtp)
    for payload in same:
        theirs = fmtp_parameters(payload.fmtp)
        if all(theirs.get(name, usual) == ours.get(name, usual) for name, usual in decisive):
            return payload
    return None


class Fitting:
    """`carrying` for many sections in one go: they share a few tuples of payloads, each of which is looked at once."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, str, str], tuple[Sequence[Payload], bool]] = {}
        """By the identity of the payloads, which are kept so that it stays theirs."""

    def __call__(self, payloads: Sequence[Payload], wanted: Wanted) -> bool:
        key = id(payloads), wanted.mime_type, wanted.fmtp
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = payloads, carrying(payloads, wanted) is not None
        return found[1]


def _carrying_h264(payloads: Sequence[Payload], ours: dict[str, str]) -> Payload | None:
    """Packetization mode 1 takes what mode 0 sends, not the reverse (RFC 6184 6); then the nearest profile wins.

    Decoders in clients take every profile below the ones they name, and browsers name only the most common.
    """
    mode = ours.get("packetization-mode", "0" if ours else "1")
    profile = (ours.get("profile-level-id") or "42e01f").lower()

    def distance(payload: Payload) -> tuple[bool, bool, bool]:
        theirs = fmtp_parameters(payload.fmtp)
        level = (theirs.get("profile-level-id") or "42000a").lower()
        return (
            theirs.get("packetization-mode", "0") != mode,
            level[:4] != profile[:4],
            level[:2] != profile[:2],
        )

    fitting = [p for p in payloads if mode == "0" or fmtp_parameters(p.fmtp).get("packetization-mode", "0") == mode]
    return min(fitting, key=distance, default=None)


def red_around(payloads: Sequence[Payload], opus: Payload) -> Payload | None:
    """The RED payload that wraps this opus payload."""
    for payload in payloads:
        if payload.mime_type == RED and _wraps(payload, [opus]):
            return payload
    return None


def carried_first(payloads: tuple[Payload, ...], carried: Payload | None, *, stereo: bool) -> tuple[Payload, ...]:
    """The codec of the track we send before the others; a stereo track says so (RFC 7587 6.1)."""
    if carried is None:
        return payloads
    first = carried
    if stereo and carried.mime_type.lower() == OPUS:
        first = with_fmtp(carried, build_fmtp(fmtp_parameters(carried.fmtp) | {"sprop-stereo": "1"}))
    if first is payloads[0]:
        return payloads
    return (first, *(payload for payload in payloads if payload.pt != carried.pt))
