"""The m-sections of one peer connection: who publishes on them, what we send on them, and the SDP that says so.

Pure values and two deciders (`Answerer`, `Offerer`); time and sockets do not occur here. See `words` for the values.
"""

from tertulia.sfu.negotiation.answerer import Answerer
from tertulia.sfu.negotiation.offerer import Offerer
from tertulia.sfu.negotiation.words import (
    Accepted,
    Answer,
    DownSection,
    Kind,
    Offer,
    OfferRead,
    Payload,
    Preference,
    PublishedSection,
    Wanted,
)

__all__ = [
    "Accepted",
    "Answer",
    "Answerer",
    "DownSection",
    "Kind",
    "Offer",
    "OfferRead",
    "Offerer",
    "Payload",
    "Preference",
    "PublishedSection",
    "Wanted",
]
