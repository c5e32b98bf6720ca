"""What the first bytes of a payload say: key frame, frame start, temporal layer, picture numbers and where they are.

VP8 RFC 7741 4.2-4.3, VP9 RFC 9628 4.2 (not SVC), H.264 RFC 6184 5.6-5.8 (single NAL, STAP-A, FU-A), H.265 RFC 7798 4.4,
AV1 RTP 1.0 4.4 (N bit). Audio and unknown codecs: every packet is a switching point. Nothing here trusts a length.
"""

try:
    import cython  # type: ignore[import-untyped]
except ImportError:
    from tertulia.sfu.plane import uncompiled as cython

if not cython.compiled:
    from tertulia.sfu.plane.bits import Bytes, rd16
    from tertulia.sfu.plane.rows import Seen
    from tertulia.sfu.plane.words import (
        C_AV1,
        C_H264,
        C_H265,
        C_VP8,
        C_VP9,
        F_KEY,
        F_PICTURE_WIDE,
        F_START,
        F_SYNC,
    )


def look(s: "Seen", codec: int, p: "Bytes", o: int, end: int) -> None:
    """Fill the codec part of `s` from the payload p[o:end]. `s.flags` is only added to."""
    s.tid = 0
    s.picture_at = 0
    s.tl0_at = 0
    s.keyidx_at = 0
    s.width = 0
    s.height = 0
    s.parameters = 0
    if o >= end:
        return
    if codec == C_VP8:
        look_vp8(s, p, o, end)
    elif codec == C_H264:
        look_h264(s, p, o, end)
    elif codec == C_VP9:
        look_vp9(s, p, o, end)
    elif codec == C_AV1:
        if not p[o] & 0x80:
            s.flags |= F_START
            if p[o] & 0x08:
                s.flags |= F_KEY
    elif codec == C_H265:
        look_h265(s, p, o, end)
    else:
        s.flags |= F_KEY | F_START


def look_vp8(s: "Seen", p: "Bytes", o: int, end: int) -> None:
    """Payload descriptor, then three bytes of frame tag and the start code of a key frame."""
    q = o + 1
    first = p[o]
    if first & 0x80:
        if q >= end:
            return
        more = p[q]
        q += 1
        if more & 0x80:
            if q + 1 >= end:
                return
            s.picture_at = q - o
            if p[q] & 0x80:
                s.picture = rd16(p, q) & 0x7FFF
                s.flags |= F_PICTURE_WIDE
                q += 2
            else:
                s.picture = p[q]
                q += 1
        if more & 0x40:
            if q >= end:
                return
            s.tl0_at = q - o
            s.tl0 = p[q]
            q += 1
        if more & 0x30:
            if q >= end:
                return
            if more & 0x20:
                s.tid = p[q] >> 6
                if p[q] & 0x20:
                    s.flags |= F_SYNC
            if more & 0x10:
                s.keyidx_at = q - o
                s.keyidx = p[q] & 31
            q += 1
    if first & 0x10 and first & 7 == 0 and q < end:
        s.flags |= F_START
        if not p[q] & 1:
            s.flags |= F_KEY
            if q + 9 < end and p[q + 3] == 0x9D and p[q + 4] == 0x01 and p[q + 5] == 0x2A:
                s.width = (p[q + 7] << 8 | p[q + 6]) & 0x3FFF
                s.height = (p[q + 9] << 8 | p[q + 8]) & 0x3FFF


def look_vp9(s: "Seen", p: "Bytes", o: int, end: int) -> None:
    """Payload descriptor; the picture id is left as it is (switches happen at key frames)."""
    first = p[o]
    q = o + 1
    if first & 0x80:
        if q >= end:
            return
        q += 2 if p[q] & 0x80 else 1
    spatial = 0
    if first & 0x20:
        if q >= end:
            return
        s.tid = p[q] >> 5
        spatial = p[q] >> 1 & 7
        if p[q] & 0x10:
            s.flags |= F_SYNC
        q += 1 if first & 0x10 else 2
    if first & 0x10 and first & 0x40:
        # up to three reference indices, each with a bit for another
        for _ in range(3):
            if q >= end:
                return
            q += 1
            if not p[q - 1] & 1:
                break
    if not first & 0x08:
        return
    s.flags |= F_START
    if first & 0x40 or spatial:
        return
    s.flags |= F_KEY
    if first & 0x02 and q < end and p[q] & 0x10 and q + 4 < end:
        s.width = rd16(p, q + 1)
        s.height = rd16(p, q + 3)


def nal_h264(s: "Seen", kind: int) -> None:
    """A NAL unit that begins in this packet."""
    if kind == 7:
        s.parameters = 1
        s.flags |= F_KEY
    elif kind == 5:
        s.flags |= F_KEY


def look_h264(s: "Seen", p: "Bytes", o: int, end: int) -> None:
    kind = p[o] & 31
    if kind < 24:
        nal_h264(s, kind)
    elif kind == 24:
        q = o + 1
        while q + 2 < end:
            nal_h264(s, p[q + 2] & 31)
            q += 2 + rd16(p, q)
    elif kind == 28 and o + 1 < end and p[o + 1] & 0x80:
        nal_h264(s, p[o + 1] & 31)


def nal_h265(s: "Seen", kind: int) -> None:
    if kind == 32 or kind == 33:
        s.parameters = 1
        s.flags |= F_KEY
    elif 16 <= kind <= 21:
        s.flags |= F_KEY


def look_h265(s: "Seen", p: "Bytes", o: int, end: int) -> None:
    kind = p[o] >> 1 & 63
    if kind < 48:
        nal_h265(s, kind)
    elif kind == 48:
        q = o + 2
        while q + 2 < end:
            nal_h265(s, p[q + 2] >> 1 & 63)
            q += 2 + rd16(p, q)
    elif kind == 49 and o + 2 < end and p[o + 2] & 0x80:
        nal_h265(s, p[o + 2] & 63)
