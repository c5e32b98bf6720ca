"""One member's wish for one track, and how far it came: wished, asked for a section, flowing (table below)."""

from collections.abc import Mapping
from enum import Enum

from tertulia.sfu.media.forwarder import Forwarder, ViewerSettings
from tertulia.sfu.media.receiver import Receiver
from tertulia.sfu.publication import PublishedTrack


class Phase(Enum):
    """How far a wish came."""

    WISHED = "wished"
    ASKED = "asked"
    """The negotiation was told; no section yet."""
    FLOWING = "flowing"
    """The section exists and the plane has a row for it."""
    ENDED = "ended"


TRANSITIONS: Mapping[Phase, frozenset[Phase]] = {
    Phase.WISHED: frozenset({Phase.ASKED, Phase.ENDED}),
    Phase.ASKED: frozenset({Phase.FLOWING, Phase.WISHED, Phase.ENDED}),
    Phase.FLOWING: frozenset({Phase.ASKED, Phase.WISHED, Phase.ENDED}),
    Phase.ENDED: frozenset(),
}


class Obstacle(Enum):
    """Why a wish is not fulfilled; each heals by itself when its cause goes."""

    NONE = "none"
    UNWISHED = "unwished"
    MAY_NOT_SUBSCRIBE = "may_not_subscribe"
    FORBIDDEN = "forbidden"
    """By the publisher's subscription permissions."""
    HIDDEN = "hidden"
    """The publisher is not shown to anybody."""
    NO_MEDIA = "no_media"
    """No receiver on this node (yet)."""
    UNSUPPORTED = "unsupported"
    """The subscriber can decode none of the track's codecs."""


class Subscription:
    """`down` is the plane's row while FLOWING."""

    def __init__(self, track: PublishedTrack, settings: ViewerSettings) -> None:
        self.track = track
        self.phase = Phase.WISHED
        self.obstacle = Obstacle.NONE
        self.forwarder = Forwarder(settings)
        self.receiver: Receiver | None = None
        """Whose codec was asked for."""
        self.refused: set[str] = set()
        """Mime types (lower case) the subscriber cannot decode."""
        self.down: int | None = None
        self.settings_due = False
        """Newer settings wait for the debounce."""

    def become(self, phase: Phase) -> None:
        assert phase in TRANSITIONS[self.phase], f"{self.phase} to {phase}"
        self.phase = phase

    def best_receiver(self) -> Receiver | None:
        """The first codec of the track the subscriber did not refuse."""
        return next((r for r in self.track.receivers if r.mime_type.lower() not in self.refused), None)

    def backup_codec(self) -> str:
        """A codec of the track (mime type, lower case) the subscriber did not refuse, published or only announced."""
        known = (codec.mime_type.lower() for codec in self.track.info.codecs)
        return next((mime for mime in known if mime and mime not in self.refused), "")
