"""Header extensions (RFC 8285): which we accept, and the numbers of our own offers.

Everything useful is accepted in every section from the first answer on: browsers never offer again what an answer
left out, and simulcast fails without rid (wire contract G1).
"""

from functools import lru_cache

from tertulia.protocol.sdp_attributes import MAX_EXTENSION_ID, ExtMap
from tertulia.sfu.negotiation.remembered import MAX_REMEMBERED, remembering
from tertulia.sfu.negotiation.words import Kind
from tertulia.sfu.plane.api import Extension

_WEBRTC = "http://www.webrtc.org/experiments/rtp-hdrext/"

URIS = {
    Extension.MID: "urn:ietf:params:rtp-hdrext:sdes:mid",
    Extension.RID: "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id",
    Extension.RRID: "urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id",
    Extension.TWCC: "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01",
    Extension.ABS_SEND_TIME: _WEBRTC + "abs-send-time",
    Extension.AUDIO_LEVEL: "urn:ietf:params:rtp-hdrext:ssrc-audio-level",
    Extension.DEPENDENCY_DESCRIPTOR: (
        "https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension"
    ),
    Extension.PLAYOUT_DELAY: _WEBRTC + "playout-delay",
    Extension.VIDEO_ORIENTATION: "urn:3gpp:video-orientation",
    Extension.VIDEO_LAYERS_ALLOCATION: _WEBRTC + "video-layers-allocation00",
    Extension.ABS_CAPTURE_TIME: _WEBRTC + "abs-capture-time",
    Extension.COLOR_SPACE: _WEBRTC + "color-space",
    Extension.VIDEO_CONTENT_TYPE: _WEBRTC + "video-content-type",
    Extension.VIDEO_TIMING: _WEBRTC + "video-timing",
}
BY_URI = {uri: extension for extension, uri in URIS.items()}

OFFERED: dict[Kind, dict[Extension, int]] = {
    "audio": {
        Extension.AUDIO_LEVEL: 1,
        Extension.ABS_SEND_TIME: 2,
        Extension.TWCC: 3,
        Extension.MID: 4,
        Extension.ABS_CAPTURE_TIME: 9,
    },
    "video": {
        Extension.ABS_SEND_TIME: 2,
        Extension.TWCC: 3,
        Extension.MID: 4,
        Extension.PLAYOUT_DELAY: 5,
        Extension.VIDEO_CONTENT_TYPE: 6,
        Extension.VIDEO_TIMING: 7,
        Extension.COLOR_SPACE: 8,
        Extension.ABS_CAPTURE_TIME: 9,
        Extension.DEPENDENCY_DESCRIPTOR: 12,
        Extension.VIDEO_ORIENTATION: 13,
    },
}
"""Our numbers on the subscriber connection of /rtc; one number space, as BUNDLE demands (RFC 8843 9.1)."""


Settled = tuple[tuple[Extension, int], ...]
"""The number space of a bundle so far."""


def accept(extmaps: tuple[ExtMap, ...], settled: Settled) -> tuple[tuple[ExtMap, ...], Settled]:
    """The extensions of one section that we take, and the number space of the bundle after it.

    Where sections contradict each other the first one wins and the other goes without the extension.
    """
    return remembering(_accept, [extmap.uri for extmap in extmaps])(extmaps, settled)


@lru_cache(maxsize=MAX_REMEMBERED)
def _accept(extmaps: tuple[ExtMap, ...], settled: Settled) -> tuple[tuple[ExtMap, ...], Settled]:
    """Remembered: the sections of one offer say the same."""
    numbers = dict(settled)
    taken: list[ExtMap] = []
    for extmap in extmaps:
        extension = BY_URI.get(extmap.uri)
        if extension is None or extmap.id > MAX_EXTENSION_ID or extmap.direction == "inactive":
            continue
        known = numbers.get(extension)
        if extmap.id != known if known is not None else extmap.id in numbers.values():
            continue
        if any(one.uri == extmap.uri for one in taken):
            continue
        numbers[extension] = extmap.id
        taken.append(extmap)
    return tuple(taken), tuple(numbers.items())
