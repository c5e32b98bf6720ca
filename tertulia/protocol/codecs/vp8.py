"""VP8 payload descriptor (RFC 7741 4.2) and the few bytes of frame header a forwarder looks at (RFC 6386 9.1)."""

from dataclasses import dataclass

from tertulia.protocol.errors import PeerError

START_CODE = b"\x9d\x01\x2a"


@dataclass(frozen=True, slots=True)
class Vp8Payload:
    header_bytes: int
    """Length of the descriptor; the VP8 data follows."""
    is_frame_start: bool
    """First packet of a frame: S set and partition 0."""
    is_key_frame: bool
    """Only told by the first packet of a frame."""
    width: int
    """0 unless this is the first packet of a key frame."""
    height: int
    picture_id: int | None
    picture_id_bits: int
    """7 or 15, 0 without a picture id."""
    tl0_picture: int | None
    temporal: int | None
    layer_sync: bool
    key_index: int | None
    is_discardable: bool
    """N: no other frame refers to this one."""


def parse_vp8(payload: bytes) -> Vp8Payload:
    picture_id: int | None = None
    tl0_picture: int | None = None
    temporal: int | None = None
    key_index: int | None = None
    bits, layer_sync = 0, False
    try:
        first, at = payload[0], 1
        if first & 0x80:
            flags, at = payload[at], at + 1
            if flags & 0x80:
                bits = 15 if payload[at] & 0x80 else 7
                picture_id = (payload[at] & 0x7F) << 8 | payload[at + 1] if bits == 15 else payload[at]
                at += 2 if bits == 15 else 1
            if flags & 0x40:
                tl0_picture, at = payload[at], at + 1
            if flags & 0x30:
                last, at = payload[at], at + 1
                if flags & 0x20:
                    temporal, layer_sync = last >> 6, bool(last & 0x20)
                if flags & 0x10:
                    key_index = last & 0x1F
    except IndexError:
        raise PeerError("VP8 payload ends inside its descriptor") from None
    is_start = bool(first & 0x10) and first & 0x07 == 0
    is_key_frame = is_start and at < len(payload) and not payload[at] & 0x01
    width = height = 0
    if is_key_frame and payload[at + 3 : at + 6] == START_CODE and len(payload) >= at + 10:
        width = int.from_bytes(payload[at + 6 : at + 8], "little") & 0x3FFF
        height = int.from_bytes(payload[at + 8 : at + 10], "little") & 0x3FFF
    return Vp8Payload(
        header_bytes=at,
        is_frame_start=is_start,
        is_key_frame=is_key_frame,
        width=width,
        height=height,
        picture_id=picture_id,
        picture_id_bits=bits,
        tl0_picture=tl0_picture,
        temporal=temporal,
        layer_sync=layer_sync,
        key_index=key_index,
        is_discardable=bool(first & 0x20),
    )


def build_vp8_descriptor(
    *,
    is_frame_start: bool,
    picture_id: int | None = None,
    tl0_picture: int | None = None,
    temporal: int | None = None,
    layer_sync: bool = False,
    key_index: int | None = None,
) -> bytes:
    """A descriptor with a 15-bit picture id, as browsers send it."""
    flags, rest = 0, bytearray()
    if picture_id is not None:
        flags |= 0x80
        rest += (0x8000 | picture_id & 0x7FFF).to_bytes(2, "big")
    if tl0_picture is not None:
        flags |= 0x40
        rest.append(tl0_picture & 0xFF)
    if temporal is not None or key_index is not None:
        flags |= (0x20 if temporal is not None else 0) | (0x10 if key_index is not None else 0)
        rest.append((temporal or 0) << 6 | (0x20 if layer_sync else 0) | (key_index or 0) & 0x1F)
    first = 0x10 if is_frame_start else 0
    return bytes([first | 0x80, flags]) + bytes(rest) if flags else bytes([first])
