"""One codec of a published track: which SSRC carries which layer, and its rows in the plane.

Decides how an SSRC that turns up is bound (RFC 8852: mid, rid, repaired rid). What is forwarded is the forwarder's.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from tertulia.protocol.ids import TransportId
from tertulia.sfu.media.layers import LayerTracker
from tertulia.sfu.negotiation import Payload, PublishedSection
from tertulia.sfu.plane.api import Codec, Plane, UnboundSsrc
from tertulia.sfu.settings import MAX_LAYERS

RID_LAYER: Mapping[str, int] = {"q": 0, "h": 1, "f": 2}
"""LiveKit clients name simulcast streams quarter, half, full."""
CODECS: Mapping[str, Codec] = {
    "audio/opus": Codec.OPUS,
    "audio/red": Codec.RED,
    "video/vp8": Codec.VP8,
    "video/vp9": Codec.VP9,
    "video/h264": Codec.H264,
    "video/av1": Codec.AV1,
    "video/h265": Codec.H265,
}


@dataclass
class UpStream:
    """One incoming SSRC."""

    up: int
    """Plane handle."""
    ssrc: int
    layer: int
    rtx_ssrc: int = 0
    frames: int = 0
    frames_per_s: float = 0.0
    bytes: int = 0
    bps: float = 0.0
    """What it brings, while it does; the stream allocator counts with it."""
    measured_at: int = 0


class Receiver:
    """Owns one plane track and its up streams."""

    def __init__(
        self, plane: Plane, transport: TransportId, section: PublishedSection, payload: Payload, *, screen: bool
    ) -> None:
        self.transport = transport
        self.section = section
        self.layers = max(1, min(len(section.rids) or len(section.ssrcs), MAX_LAYERS))
        """How many the publisher may send."""
        self.payload = payload
        self.codec = CODECS.get(payload.mime_type.lower(), Codec.OTHER)
        self.plane_track = plane.add_track(self.codec, payload.clock_hz)
        self.streams: dict[int, UpStream] = {}
        """By layer."""
        self.tracker = LayerTracker(screen=screen)
        self._plane = plane
        self._repairs: dict[int, tuple[int, int]] = {}
        """Repair streams that came before what they repair: layer -> (ssrc, payload type)."""
        self._bind_signalled()

    @property
    def mime_type(self) -> str:
        return self.payload.mime_type

    @property
    def mid(self) -> str:
        return self.section.mid

    def layer_of_rid(self, rid: str) -> int | None:
        """None: no such stream was agreed."""
        if not self.section.rids:
            return 0
        if rid not in self.section.rids:
            return None
        order = sorted(self.section.rids, key=lambda name: RID_LAYER.get(name, 0))
        return min(order.index(rid), MAX_LAYERS - 1)

    def _bind_signalled(self) -> None:
        """SSRCs named in the SDP; a SIM group lists them low to high."""
        if self.section.rids:
            return
        for layer, ssrc in enumerate(self.section.ssrcs[:MAX_LAYERS]):
            self._bind(ssrc, layer)
            repair = self.section.rtx_ssrcs.get(ssrc, 0)
            if repair and self.payload.rtx_pt:
                self._bind_repair(layer, repair, self.payload.rtx_pt)

    def take(self, report: UnboundSsrc) -> str:
        """Bind an SSRC of our section. Returns the name of the problem, empty when it is bound."""
        layer = self.layer_of_rid(report.repaired_rid or report.rid)
        if layer is None:
            return "ssrc_without_rid" if not (report.rid or report.repaired_rid) else "ssrc_unknown_rid"
        if report.repaired_rid or report.payload_type in self._repair_types():
            self._bind_repair(layer, report.ssrc, report.payload_type)
            return ""
        if report.payload_type != self.payload.pt:
            return "ssrc_unexpected_payload"
        self._bind(report.ssrc, layer)
        return ""

    def takes_payload_type(self, payload_type: int) -> bool:
        """Could a packet without a mid be ours?"""
        return payload_type == self.payload.pt or payload_type in self._repair_types()

    def _repair_types(self) -> set[int]:
        return {payload.rtx_pt for payload in self.section.payloads if payload.rtx_pt}

    def _bind(self, ssrc: int, layer: int) -> None:
        old = self.streams.get(layer)
        if old is not None:
            if old.ssrc == ssrc:
                return
            self._plane.remove_up(old.up)  # the encoder was restarted with another SSRC
            self.tracker.disappear(layer)
        up = self._plane.add_up(
            self.plane_track,
            self.transport,
            ssrc,
            layer,
            payload_type=self.payload.pt,
            nack="nack" in self.payload.feedback,
            twcc="transport-cc" in self.payload.feedback,
        )
        self.streams[layer] = UpStream(up, ssrc, layer)
        if (repair := self._repairs.pop(layer, None)) is not None:
            self._bind_repair(layer, *repair)

    def _bind_repair(self, layer: int, ssrc: int, payload_type: int) -> None:
        stream = self.streams.get(layer)
        if stream is None:
            self._repairs[layer] = (ssrc, payload_type)
            return
        stream.rtx_ssrc = ssrc
        self._plane.bind_rtx(stream.up, ssrc, payload_type)

    def close(self) -> None:
        self._plane.remove_track(self.plane_track)
        self.streams.clear()
