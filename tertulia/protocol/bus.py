"""Words between nodes. Inside a room: who is there, data, speakers, wishes for media. Between nodes: links, questions.

LiveKit's protobufs travel serialised inside. Every word carries the `instance` of the replica that speaks and a number,
so that late, repeated or reordered words do no harm; a digest finds what was lost. Sealing is the node's business.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from tertulia.protocol.errors import PeerError

TOGETHER_BYTES = 1 << 18
"""Words of one moment share a message up to this size."""
VERSION = 1
"""First byte of every word; words of another version are refused (`bus_version`)."""


class Word(msgspec.Struct, kw_only=True, array_like=True, tag=True):
    """Fields are positional on the wire; new ones go to the end and have a default."""


# ---------------------------------------------------------------------------------------------- inside a room


class CodecOffer(Word):
    """One codec of a track, as it can be had over a relay."""

    mime_type: str
    clock_hz: int
    channels: int
    fmtp: str
    feedback: tuple[str, ...]
    repair: bool
    """The publisher sends a repair stream (RFC 4588)."""
    layers: int
    mid: str = ""


class TrackOffer(Word):
    sid: str
    codecs: tuple[CodecOffer, ...]


class Member(Word):
    """A member as its node knows it; newer when `revision` is higher."""

    sid: str
    revision: int
    ticket: int
    """Order of claims of an identity: the larger one came later."""
    info: bytes
    """`livekit.ParticipantInfo`."""
    rule: bytes | None = None
    """`livekit.SubscriptionPermission`; None: everybody may subscribe."""
    tracks: tuple[TrackOffer, ...] = ()


class Left(Word):
    """A member is gone for good: its sid never comes back."""

    sid: str
    reason: int


class Hello(Word):
    """I hold this room now: tell me everything."""

    instance: int


class Snapshot(Word):
    """All members of the speaking node, as of change `number`; others it may have had are gone."""

    instance: int
    number: int
    members: tuple[Member, ...]
    data_number: int
    """The next reliable data packet to this listener carries this number."""


class Change(Word):
    """What happened to members of the speaking node; numbers follow one another without gaps."""

    instance: int
    number: int
    members: tuple[Member, ...] = ()
    left: tuple[Left, ...] = ()


class Digest(Word):
    """Where the speaker stands, said regularly: who has heard less asks for a snapshot or a packet again."""

    instance: int
    number: int
    data_number: int
    wants_number: int = 0
    """Of the last `Wants` to this listener; 0: none."""


class Data(Word):
    """A data packet; `number` 0: lossy, sent once."""

    instance: int
    number: int
    packet: bytes
    """`livekit.DataPacket`, stamped by the sender's node."""


class Repeat(Word):
    """Reliable packets from `first` to `last` did not come."""

    instance: int
    """Of the listener of this word: whose numbers are meant."""
    first: int
    last: int


class DataTrackPacket(Word):
    """One packet of a data track of a member here, for subscribers there; sent once."""

    track_sid: str
    packet: bytes


class Quality(Word):
    """How good the connections of the speaking node's members are (0..100), by sid."""

    instance: int
    number: int
    scores: dict[str, int]


class Stream(Word):
    """Numbers the listener chose for one layer of a relayed codec."""

    ssrc: int
    rtx_ssrc: int


class Want(Word):
    """What the speaking node's members need of one codec of a track."""

    track_sid: str
    mime_type: str
    streams: tuple[Stream, ...]
    """One per layer, low to high."""
    layers: tuple[int, ...]
    """The layers somebody there is to be shown; empty: none just now."""
    payload_type: int
    rtx_payload_type: int


class Wants(Word):
    """All wishes of the speaking node for media of the listening node's members; what is missing is not wished."""

    instance: int
    number: int
    wants: tuple[Want, ...]
    data_tracks: tuple[str, ...] = ()
    """Sids of data tracks somebody there is subscribed to."""


class Goodbye(Word):
    """The speaking node does not hold this room (any more). `instance` 0: it never did, as far as it knows."""

    instance: int


class Stale(Word):
    """You were gone for us and your members with you: let them come anew."""

    instance: int
    """Of the listener."""


class Ended(Word):
    """The room is over for everybody."""

    reason: int


RoomWord = (
    Hello | Snapshot | Change | Digest | Data | Repeat | DataTrackPacket | Quality | Wants | Goodbye | Stale | Ended
)

# ---------------------------------------------------------------------------------------------- between nodes


class ForRoom(Word):
    """A room's word; `room_sid` names the incarnation."""

    room: str
    room_sid: str
    word: bytes


class RecordChanged(Word):
    """The room's record in the store has this version now."""

    room: str
    room_sid: str
    version: int


class LinkHello(Word):
    """My half of a media link between our two nodes; `heard` is the other half as I know it."""

    nonce: bytes
    heard: bytes
    host: str
    port: int


class Ask(Word):
    """A call of the server API to be carried out by the listener."""

    number: int
    service: str
    method: str
    request_type: str
    request: bytes
    hops: int = 0


class Answer(Word):
    """`error_code` empty: `response` is the answer."""

    number: int
    response_type: str = ""
    response: bytes = b""
    error_code: str = ""
    error_message: str = ""


class CallForBids(Word):
    """An egress job is to be placed: who takes it, and how busy are you? Every node for egress answers."""

    number: int


class Bid(Word):
    """The answer. `takes` False: not just now."""

    number: int
    takes: bool
    record: bytes
    """The speaking node's record, of this moment."""


class NodeBye(Word):
    """The speaking node leaves the cluster."""


class Several(Word):
    """Words that were said in one moment, in their order; none of them is `Several`."""

    words: tuple[bytes, ...]


NodeWord = ForRoom | RecordChanged | LinkHello | Ask | Answer | CallForBids | Bid | NodeBye

_encoder = msgspec.msgpack.Encoder()
_room_decoder = msgspec.msgpack.Decoder(RoomWord)
_node_decoder = msgspec.msgpack.Decoder(NodeWord)
_bus_decoder = msgspec.msgpack.Decoder(NodeWord | Several)


def encode(word: Word) -> bytes:
    return bytes((VERSION,)) + _encoder.encode(word)


def decode_room(data: bytes) -> RoomWord:
    """PeerError names what is wrong."""
    word: RoomWord = _decode(data, _room_decoder)
    return word


def decode_node(data: bytes) -> Iterator[NodeWord]:
    """The words of one message. PeerError names what is wrong, when it is reached."""
    word: NodeWord | Several = _decode(data, _bus_decoder)
    if isinstance(word, Several):
        yield from (_decode(one, _node_decoder) for one in word.words)
    else:
        yield word


def together(words: Sequence[bytes]) -> Iterator[bytes]:
    """Encoded node words in as few messages as their size allows."""
    batch: list[bytes] = []
    size = 0
    for word in words:
        if batch and size + len(word) > TOGETHER_BYTES:
            yield _message(batch)
            batch, size = [], 0
        batch.append(word)
        size += len(word)
    if batch:
        yield _message(batch)


def _message(words: list[bytes]) -> bytes:
    return words[0] if len(words) == 1 else encode(Several(words=tuple(words)))


def _decode(data: bytes, decoder: "msgspec.msgpack.Decoder[Any]") -> Any:
    if not data or data[0] != VERSION:
        raise PeerError("bus_version")
    try:
        return decoder.decode(memoryview(data)[1:])
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise PeerError("bus_malformed") from None
