"""What a room asks of its peer connections, and what they tell it. The live one is `hub`, the simulator has its own."""

from dataclasses import dataclass
from typing import Protocol

from tertulia.protocol.ids import TransportId


@dataclass(frozen=True, slots=True)
class LocalParameters:
    """Our side of one peer connection, for the SDP."""

    ufrag: str
    pwd: str
    fingerprint_algorithm: str
    fingerprint: str
    candidates: tuple[str, ...]
    """Values of `a=candidate:` lines, without the attribute name."""


@dataclass(frozen=True, slots=True)
class RemoteParameters:
    """The peer's side, from its SDP."""

    ufrag: str
    pwd: str
    fingerprints: tuple[tuple[str, str], ...]
    """(algorithm, value) pairs (RFC 8122)."""
    setup: str
    """`actpass`, `active` or `passive`; we are always the DTLS server unless the peer insists on `passive`."""
    sctp_port: int | None
    max_message_bytes: int


PEER_CLOSED = "the peer closed the connection"
"""The one reason of `TransportFailed` that the peer chose: its farewell by signal is then usually on its way."""


@dataclass(frozen=True, slots=True)
class TransportConnected:
    """ICE nominated and DTLS done: media and data may flow."""


@dataclass(frozen=True, slots=True)
class TransportLost:
    """No authenticated check for `DISCONNECTED_NS`; the peer may come back by itself."""


@dataclass(frozen=True, slots=True)
class TransportRestored:
    """Checks came back after `TransportLost`."""


@dataclass(frozen=True, slots=True)
class TransportFailed:
    """Over for good: handshake refused, consent gone for `FAILED_NS`, or the peer closed."""

    reason: str


@dataclass(frozen=True, slots=True)
class ChannelOpened:
    label: str


@dataclass(frozen=True, slots=True)
class ChannelMessage:
    label: str
    data: bytes


@dataclass(frozen=True, slots=True)
class ChannelClosed:
    label: str


TransportEvent = (
    TransportConnected
    | TransportLost
    | TransportRestored
    | TransportFailed
    | ChannelOpened
    | ChannelMessage
    | ChannelClosed
)


class Transports(Protocol):
    """Peer connections of a node. Nothing here waits; results come as events for the transport's owner."""

    def open(self, owner: str) -> tuple[TransportId, LocalParameters]:
        """A new peer connection for the room sid `owner`: plane row, ICE credentials, candidates."""

    def connect(self, transport: TransportId, remote: RemoteParameters) -> LocalParameters:
        """Take the peer's parameters; repeated calls are fine. A changed remote ufrag is an ICE restart: new local
        credentials come back, DTLS, SRTP and SCTP stay (RFC 8445 2.4, RFC 8842 5.5)."""

    def restart(self, transport: TransportId) -> LocalParameters:
        """ICE restart begun by us (two-connection topology on resume)."""

    def open_channel(self, transport: TransportId, label: str, *, ordered: bool, max_retransmits: int | None) -> None:
        """A data channel opened by us (two-connection topology only)."""

    def send(self, transport: TransportId, label: str, data: bytes) -> bool:
        """Queue a binary message on a channel (PPID 53). False: not open, or dropped because its buffer is full."""

    def buffered_bytes(self, transport: TransportId, label: str) -> int: ...

    def round_trip_ns(self, transport: TransportId) -> int: ...

    def close(self, transport: TransportId) -> None: ...
