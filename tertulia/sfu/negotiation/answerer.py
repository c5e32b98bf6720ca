"""The side that answers: the single connection of /rtc/v1 and the publisher connection of /rtc.

    offer = answerer.read(sdp)                      # PeerError: say it to the client; nothing has changed
    local = transports.connect(transport, offer.remote)
    ...match offer.published with add_track requests, answerer.prefer(mid, Preference(...))...
    answer = answerer.answer(offer, local)
    requirement = answerer.take_requirement()       # and after every send/stop

Offers must be answered in the order they were read, one at a time.
"""

from collections.abc import Sequence
from random import Random

from livekit.protocol import models, rtc

from tertulia.sfu.negotiation.words import Answer, OfferRead, Preference, Wanted
from tertulia.sfu.transport.api import LocalParameters


class Answerer:
    """Sections of one peer connection whose client always offers."""

    def __init__(
        self, *, enabled_codecs: Sequence[str], client: models.ClientInfo, rng: Random, sends: bool = True
    ) -> None:
        """`enabled_codecs`: mime types in order of preference. `sends`: False on the publisher connection of /rtc,
        whose recvonly sections stay inactive (wire contract G25)."""

    def send(self, wanted: Wanted) -> None:
        """This track shall have a section from the next answer that finds one. Saying it again with other values
        gives it a new SSRC."""
        raise NotImplementedError

    def stop(self, track_sid: str) -> None:
        """This track shall lose its section. A freed section is given to another track one answer later, so that
        every client sees the old track end."""
        raise NotImplementedError

    def prefer(self, mid: str, preference: Preference) -> None:
        """How the client shall send on this section; kept until the section ends."""
        raise NotImplementedError

    def read(self, sdp: str) -> OfferRead:
        """Understand and check an offer without changing anything. PeerError: what is wrong with it."""
        raise NotImplementedError

    def answer(self, offer: OfferRead, local: LocalParameters) -> Answer:
        raise NotImplementedError

    def take_requirement(self) -> rtc.MediaSectionsRequirement | None:
        """What to ask the client for, when `send` or `stop` needs a new offer and none was asked for since the last
        answer. Coalesces: at most one is out."""
        raise NotImplementedError

    def forget_requirement(self) -> None:
        """The last requirement may not have arrived (the client resumed): the next `take_requirement` may repeat it."""
        raise NotImplementedError
