"""The side that offers: the subscriber connection of /rtc (two-connection topology).

if offerer.is_due: offer = offerer.offer(local)          # one in flight; `is_due` is False until it is settled
accepted = offerer.accept(answer_sdp)                    # PeerError: the offer stays in flight
transports.connect(transport, accepted.remote)
"""

from collections.abc import Sequence
from random import Random

from livekit.protocol import models

from tertulia.sfu.negotiation.words import Accepted, Offer, Wanted
from tertulia.sfu.transport.api import LocalParameters


class Offerer:
    """Sections of one peer connection on which we offer and only send."""

    def __init__(self, *, enabled_codecs: Sequence[str], client: models.ClientInfo, rng: Random) -> None: ...

    def send(self, wanted: Wanted) -> None:
        """This track shall have a section from the next offer on."""
        raise NotImplementedError

    def stop(self, track_sid: str) -> None:
        """This track shall lose its section with the next offer."""
        raise NotImplementedError

    @property
    def is_due(self) -> bool:
        """An offer would say something new and none is in flight. True at first: the first offer opens the connection."""
        raise NotImplementedError

    @property
    def is_waiting(self) -> bool:
        """An offer is in flight."""
        raise NotImplementedError

    def offer(self, local: LocalParameters) -> Offer:
        """The next offer. Also for an ICE restart (new `local`), when nothing else changed."""
        raise NotImplementedError

    def accept(self, sdp: str) -> Accepted:
        """The client's answer to the offer in flight. PeerError: what is wrong with it; nothing has changed."""
        raise NotImplementedError

    def abandon(self) -> None:
        """The offer in flight will not be answered (the client resumed): take it back; `is_due` becomes True."""
        raise NotImplementedError
