"""Identifiers as LiveKit clients expect them: a prefix and twelve base-57 characters, minted from a given rng."""

from random import Random
from typing import NewType

RoomSid = NewType("RoomSid", str)
ParticipantSid = NewType("ParticipantSid", str)
TrackSid = NewType("TrackSid", str)
NodeId = NewType("NodeId", str)
TransportId = NewType("TransportId", int)
"""One peer connection on this node; the same number names it in the data plane."""
SessionId = NewType("SessionId", int)
"""One WebSocket connection on this node; a participant outlives its sessions when it resumes."""

ALPHABET = "23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
LENGTH = 12


def mint(prefix: str, rng: Random) -> str:
    """A new identifier such as `PA_9mVxZq2LrTaw`; prefixes: RM_ PA_ TR_ DTR_ ND_ EG_ EV_ AD_ AJ_ AW_."""
    return prefix + "".join(rng.choices(ALPHABET, k=LENGTH))
