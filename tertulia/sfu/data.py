"""Data packets: what makes one acceptable, what a receiver sees of its sender, what is kept for late receivers.

Pure bookkeeping; who gets a packet is decided in `delivering`. Wire contract 4.2 and 4.3.
"""

from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from google.protobuf.message import DecodeError
from livekit.protocol import models

from tertulia.protocol.errors import PeerError
from tertulia.protocol.machine import Nanos
from tertulia.sfu.agenda import Appointment
from tertulia.sfu.settings import (
    MAX_DATA_BYTES,
    MAX_DESTINATIONS,
    MAX_NONCES,
    RELIABLE_CACHE_BYTES,
    RELIABLE_CACHE_NS,
)

RELIABLE, LOSSY, DATA_TRACK = "_reliable", "_lossy", "_data_track"
KIND = {RELIABLE: models.DataPacket.RELIABLE, LOSSY: models.DataPacket.LOSSY}
MAX_NONCE_BYTES = 64


@dataclass(frozen=True, slots=True)
class Addressed:
    """Who shall get a packet; empty: everybody."""

    identities: frozenset[str]
    sids: frozenset[str]

    def includes(self, identity: str, sid: str) -> bool:
        return not (self.identities or self.sids) or identity in self.identities or sid in self.sids


def parse_packet(data: bytes) -> models.DataPacket:
    """PeerError names what is wrong."""
    if len(data) > MAX_DATA_BYTES:
        raise PeerError("data_too_large")
    try:
        packet = models.DataPacket.FromString(data)
    except DecodeError:
        raise PeerError("data_malformed") from None
    if len(packet.destination_identities) > MAX_DESTINATIONS:
        raise PeerError("data_too_many_destinations")
    return packet


def destinations(packet: models.DataPacket) -> Addressed:
    """Old clients name them inside the user packet."""
    identities, sids = set(packet.destination_identities), set[str]()
    if packet.WhichOneof("value") == "user":
        identities.update(packet.user.destination_identities)
        sids.update(packet.user.destination_sids)
    return Addressed(frozenset(identities), frozenset(sids))


def stamp_sender(packet: models.DataPacket, label: str, sender: models.ParticipantInfo) -> None:
    """The channel says the kind (G12); agents may speak for others, hidden members are nobody."""
    packet.kind = KIND[label]
    value = packet.WhichOneof("value")
    may_impersonate = sender.kind == models.ParticipantInfo.AGENT and value in ("transcription", "chat_message")
    if not (may_impersonate and packet.participant_identity):
        packet.participant_identity = "" if sender.permission.hidden else sender.identity
    packet.participant_sid = "" if sender.permission.hidden else sender.sid
    if value == "user":  # fields older clients read
        packet.user.participant_sid = packet.participant_sid
        packet.user.participant_identity = packet.participant_identity


@dataclass(frozen=True, slots=True)
class Kept:
    """A reliable packet that may be asked for again."""

    at: Nanos
    sender_sid: str
    sequence: int
    to: Addressed
    data: bytes


class DataState:
    """What a room remembers of its data traffic."""

    def __init__(self) -> None:
        self._kept: deque[Kept] = deque()
        self._kept_bytes = 0
        self._nonces: OrderedDict[bytes, None] = OrderedDict()

    def is_repeated(self, nonce: bytes) -> bool:
        """API calls and clients may repeat a packet with the same nonce."""
        if not nonce or len(nonce) > MAX_NONCE_BYTES:
            return False
        if nonce in self._nonces:
            return True
        self._nonces[nonce] = None
        if len(self._nonces) > MAX_NONCES:
            self._nonces.popitem(last=False)
        return False

    def keep(self, packet: Kept) -> None:
        self._kept.append(packet)
        self._kept_bytes += len(packet.data)
        while self._kept and (
            self._kept_bytes > RELIABLE_CACHE_BYTES or self._kept[0].at < packet.at - RELIABLE_CACHE_NS
        ):
            self._kept_bytes -= len(self._kept.popleft().data)

    def missed(self, received: dict[str, int], identity: str, sid: str) -> Iterator[bytes]:
        """Packets newer than what a resumed member says it has, by sender sid."""
        for packet in self._kept:
            newest = received.get(packet.sender_sid)
            if newest is not None and packet.sequence > newest and packet.to.includes(identity, sid):
                yield packet.data


@dataclass
class DataTrack:
    """One published data track and the handles its subscribers know it by."""

    info: models.DataTrackInfo
    publisher_sid: str
    subscribers: dict[str, int] = field(default_factory=dict)
    """Subscriber sid -> its handle."""


@dataclass
class Call:
    """An RPC of the server API that is not answered yet."""

    ticket: int
    callee_sid: str
    timeout: Appointment
    ack_timeout: Appointment
