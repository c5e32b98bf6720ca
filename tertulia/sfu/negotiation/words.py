"""Values that pass between a room and the negotiation of one peer connection.

Mime types are LiveKit's (`video/VP8`, `audio/opus`, `audio/red`); compare them without regard to case.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from tertulia.sfu.plane.api import Extension
from tertulia.sfu.transport.api import RemoteParameters

Kind = Literal["audio", "video"]


@dataclass(frozen=True, slots=True)
class Payload:
    """One negotiated codec of a section, with the peer's payload type numbers."""

    pt: int
    mime_type: str
    clock_hz: int
    channels: int = 0
    """Audio only; 0 for video."""
    fmtp: str = ""
    rtx_pt: int = 0
    """Payload type of its repair stream (RFC 4588), 0 when none was agreed."""
    feedback: tuple[str, ...] = ()
    """Agreed RTCP feedback: `nack`, `nack pli`, `ccm fir`, `transport-cc`, `goog-remb`."""


@dataclass(frozen=True, slots=True)
class PublishedSection:
    """A section on which the client sends (or is about to)."""

    mid: str
    kind: Kind
    stream_id: str
    """First part of `a=msid`; empty when the client gave none."""
    cid: str
    """Second part of `a=msid`, the client's track id; empty when the client gave none (match by kind or by mid)."""
    rids: tuple[str, ...]
    """Simulcast stream names in the offered order, `~` removed; empty: one stream without rid."""
    payloads: tuple[Payload, ...]
    """Codecs both sides take, in the client's order (in `Answer.published`: in the order we asked for, the first is
    what the client will send). RED is an entry of its own (`audio/red`)."""
    ssrcs: tuple[int, ...] = ()
    """Primary SSRCs if signalled (in order of an `ssrc-group:SIM`), else empty: bind by mid and rid."""
    rtx_ssrcs: Mapping[int, int] = field(default_factory=dict)
    """Primary to repair SSRC (`ssrc-group:FID`), if signalled."""
    fresh: bool = True
    """First seen in this offer, or another cid than before on this mid."""


@dataclass(frozen=True, slots=True)
class Preference:
    """How we want a published section sent; applies from the next answer on."""

    mime_type: str = ""
    """Codec to put first; empty keeps the client's order."""
    red: bool = False
    """Audio: put RED before opus, if the client offers it."""
    stereo: bool = False
    dtx: bool = True


@dataclass(frozen=True, slots=True)
class Wanted:
    """A track the client shall receive on this peer connection."""

    track_sid: str
    participant_sid: str
    kind: Kind
    mime_type: str
    """What the down track will carry. For opus that is published inside RED say `audio/opus` and `red=True`."""
    fmtp: str = ""
    """The publisher's fmtp: H.264 profile and packetization mode, VP9 profile."""
    red: bool = False
    stereo: bool = False
    stream_name: str = ""
    """Second part of the stream id (`camera` with sync_streams); empty: the track sid."""


@dataclass(frozen=True, slots=True)
class DownSection:
    """A wanted track has a section: everything `Plane.add_down` wants to know."""

    mid: str
    track_sid: str
    payload: Payload
    red: Payload | None
    """The client's RED payload type, when the client takes RED and `Wanted.red` was said."""
    ssrc: int
    rtx_ssrc: int
    """0 when no repair stream was agreed (then answer NACKs on the same SSRC)."""
    fresh: bool
    """New since the last answer (or with another SSRC or payload): make a new down track."""


@dataclass(frozen=True, slots=True)
class OfferRead:
    """An offer that was understood and not yet answered; reading changed nothing."""

    remote: RemoteParameters
    published: tuple[PublishedSection, ...]
    """All sections that publish now."""
    ended: tuple[str, ...]
    """Mids that published until now and do not any more, or publish another cid now (then also in `published`)."""
    plan: object = field(repr=False, compare=False)
    """Opaque: what `Answerer.answer` needs."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Our answer and what it settled."""

    sdp: str
    mid_to_track_id: Mapping[str, str]
    extensions: Mapping[Extension, int]
    """Header extension ids of the whole connection, for `Plane.set_extensions`."""
    published: tuple[PublishedSection, ...]
    ended: tuple[str, ...]
    down: tuple[DownSection, ...]
    """Every wanted track that has a section now, old and fresh."""
    stopped: tuple[str, ...]
    """Track sids whose section was taken away in this answer (after `stop`, or because the client took it back)."""
    unsupported: tuple[str, ...]
    """Track sids the client has no codec for; they are forgotten (call `send` again to retry)."""
    has_data: bool
    """The application section is accepted."""


@dataclass(frozen=True, slots=True)
class Offer:
    """Our offer on the subscriber connection (two-connection topology)."""

    sdp: str
    mid_to_track_id: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Accepted:
    """What the client's answer to our offer settled."""

    remote: RemoteParameters
    extensions: Mapping[Extension, int]
    down: tuple[DownSection, ...]
    stopped: tuple[str, ...]
    unsupported: tuple[str, ...]
