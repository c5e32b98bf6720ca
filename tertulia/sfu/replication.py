"""The room's words to the other nodes that hold a replica of it. Each node is the authority for its own members.

What is said here is applied there by `replica`. As long as no other node is known nothing is written.
"""

from enum import IntEnum

from livekit.protocol import models, rtc

from tertulia.protocol.errors import PeerError
from tertulia.protocol.ids import NodeId
from tertulia.sfu.events import ToNodes
from tertulia.sfu.state import RoomState


class Word(IntEnum):
    """First byte of a message; a protobuf of LiveKit's follows."""

    HELLO = 1
    """Nothing follows: tell me your members, I have a replica now."""
    MEMBER = 2
    """`ParticipantUpdate`: members of the sending node as they are now (or DISCONNECTED)."""
    DATA = 3
    """`DataPacket` for members of the receiving node."""


def build(word: Word, body: bytes = b"") -> bytes:
    return bytes([word]) + body


def parse(data: bytes) -> tuple[Word, bytes]:
    try:
        return Word(data[0]), data[1:]
    except (IndexError, ValueError):
        raise PeerError("replication_unknown_word") from None


def hello(state: RoomState) -> None:
    """This node holds a replica from now on."""
    state.emit(ToNodes(build(Word.HELLO)))


def members(state: RoomState, infos: list[models.ParticipantInfo], node: NodeId | None = None) -> None:
    """Members of this node changed (`node`: only that one wants to know)."""
    if state.nodes and infos:
        update = rtc.ParticipantUpdate(participants=infos)
        state.emit(ToNodes(build(Word.MEMBER, update.SerializeToString()), node))


def data(state: RoomState, packet: bytes) -> None:
    if state.nodes:
        state.emit(ToNodes(build(Word.DATA, packet)))
