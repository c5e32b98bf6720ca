"""VP9 payload descriptor (RFC 9628 4.2), without the reference indices' meaning."""

from dataclasses import dataclass

from tertulia.protocol.errors import PeerError

MAX_REFERENCES = 3


@dataclass(frozen=True, slots=True)
class Vp9Payload:
    header_bytes: int
    is_frame_start: bool
    """B: first packet of a layer frame."""
    is_frame_end: bool
    is_predicted: bool
    """P: the picture depends on earlier pictures."""
    picture_id: int | None
    picture_id_bits: int
    temporal: int
    switching_up: bool
    spatial: int
    inter_layer: bool
    """D: depends on the spatial layer below in the same picture."""
    tl0_picture: int | None
    not_for_upper: bool
    """Z: no higher spatial layer needs this frame."""
    sizes: tuple[tuple[int, int], ...]
    """(width, height) by spatial layer, where the scalability structure is told."""

    @property
    def is_key_frame(self) -> bool:
        """A picture's lowest layer that depends on nothing."""
        return self.is_frame_start and not self.is_predicted and not self.inter_layer and self.spatial == 0


def parse_vp9(payload: bytes) -> Vp9Payload:
    try:
        return _parse(payload)
    except IndexError:
        raise PeerError("VP9 payload ends inside its descriptor") from None


def _parse(payload: bytes) -> Vp9Payload:
    first, at = payload[0], 1
    has_id, predicted, layers, flexible = (bool(first & bit) for bit in (0x80, 0x40, 0x20, 0x10))
    picture_id: int | None = None
    bits = 0
    if has_id:
        bits = 15 if payload[at] & 0x80 else 7
        picture_id = (payload[at] & 0x7F) << 8 | payload[at + 1] if bits == 15 else payload[at]
        at += 2 if bits == 15 else 1
    temporal, spatial, switching_up, inter_layer = 0, 0, False, False
    tl0_picture: int | None = None
    if layers:
        octet, at = payload[at], at + 1
        temporal, switching_up = octet >> 5, bool(octet & 0x10)
        spatial, inter_layer = (octet >> 1) & 0x07, bool(octet & 0x01)
        if not flexible:
            tl0_picture, at = payload[at], at + 1
    if flexible and predicted:
        for count in range(1, MAX_REFERENCES + 1):
            octet, at = payload[at], at + 1
            if not octet & 0x01:
                break
            if count == MAX_REFERENCES:
                raise PeerError("VP9 payload names more than three references")
    sizes: tuple[tuple[int, int], ...] = ()
    if first & 0x02:
        sizes, at = _structure(payload, at)
    if at > len(payload):
        raise PeerError("VP9 payload ends inside its descriptor")
    return Vp9Payload(
        header_bytes=at,
        is_frame_start=bool(first & 0x08),
        is_frame_end=bool(first & 0x04),
        is_predicted=predicted,
        picture_id=picture_id,
        picture_id_bits=bits,
        temporal=temporal,
        switching_up=switching_up,
        spatial=spatial,
        inter_layer=inter_layer,
        tl0_picture=tl0_picture,
        not_for_upper=bool(first & 0x01),
        sizes=sizes,
    )


def _structure(payload: bytes, at: int) -> tuple[tuple[tuple[int, int], ...], int]:
    """Scalability structure (4.2.1): sizes, and where the data begins."""
    octet, at = payload[at], at + 1
    sizes: list[tuple[int, int]] = []
    if octet & 0x10:
        for _ in range((octet >> 5) + 1):
            width = payload[at] << 8 | payload[at + 1]
            sizes.append((width, payload[at + 2] << 8 | payload[at + 3]))
            at += 4
    if octet & 0x08:
        pictures, at = payload[at], at + 1
        for _ in range(pictures):
            at += 1 + ((payload[at] >> 2) & 0x03)
    return tuple(sizes), at
