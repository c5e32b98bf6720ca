"""The two interfaces of a cluster, in memory (one node, nothing to run) or Redis: `Bus` and `Store`.

Messages may come late, twice, reordered or not at all: everything sent over the bus carries a version and is repeated
by a digest. The store is small and authoritative: room records changed by compare-and-set, claims of identities,
leases of nodes. Times in the store are the store's own, so that clocks of nodes need not agree.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import msgspec

from tertulia.protocol.errors import RequestError

LEASE_MS = 4_500
"""A node that has not renewed for this long is gone."""
RENEW_MS = 1_000
"""How often a node renews and looks at the others: one that died is missed within 6 s."""
BUS_MESSAGE_BYTES = 4 << 20
"""Larger messages are refused on both sides (`bus_oversize`)."""

STANDARD_ROLES = ("sfu", "egress")


class NodeRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One node as the others see it; renewed with its lease."""

    id: str
    epoch: int
    """Differs for every start of the node's process."""
    region: str = ""
    url: str = ""
    """Where clients reach it; empty: nobody said."""
    host: str = ""
    relay_host: str = ""
    relay_port: int = 0
    roles: tuple[str, ...] = STANDARD_ROLES
    draining: bool = False
    cpus: int = 1
    cpu_load: float = 0.0
    """Busy share of all cores, 0..1; at least what is promised to egress jobs."""
    sys_load: float = 0.0
    """Processes that want a core, per core, over a minute."""
    rooms: int = 0
    participants: int = 0
    tracks: int = 0
    bytes_per_s: int = 0
    """Media in and out."""


class RoomRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a room is, wherever its members are. `version` rises by one with every change."""

    name: str
    sid: str
    version: int = 1
    room: bytes = b""
    """A serialised `livekit.Room`: metadata, limits, timeouts, creation time."""
    creation: bytes = b""
    """The serialised `livekit.CreateRoomRequest` that made it (automatic egress, agents)."""
    nodes: tuple[str, ...] = ()
    """Nodes with members in the room."""


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """Who holds an identity in a room: the last to join, wherever."""

    identity: str
    sid: str
    node: str
    ticket: int
    """Rises with every claim of the room: the larger one came later."""
    counted: bool = True
    """Whether the member counts against max_participants (recorders and agents do not)."""


class Held(NamedTuple):
    """A room in the store."""

    record: RoomRecord
    claims: list[Claim]


@dataclass(frozen=True, slots=True)
class Claimed:
    """The answer to a claim: ours, and whom it displaced."""

    claim: Claim
    displaced: Claim | None


class Unavailable(RequestError):
    """The store or the bus cannot be reached just now."""

    def __init__(self, what: str, why: str = "") -> None:
        super().__init__("unavailable", f"{what} is not reachable just now; try again")
        self.why = why
        """For the operator, when it is known."""


class Bus(Protocol):
    """Best-effort messages to channels; `on_message(channel, data)` is called on the event loop."""

    @property
    def available(self) -> bool: ...

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def subscribe(self, channel: str, on_message: Callable[[str, bytes], None]) -> None: ...

    def unsubscribe(self, channel: str) -> None: ...

    def publish(self, channel: str, data: bytes) -> None:
        """Queue a message (bounded, `bus_overflow`); order per channel is kept while the connection lives."""


class Store(Protocol):
    """Shared records. Every method may raise Unavailable."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def renew(self, node: NodeRecord) -> None:
        """Announce the node and renew its lease for `LEASE_MS`."""

    async def withdraw(self, node_id: str) -> None:
        """Goodbye: the lease ends now."""

    async def nodes(self) -> list[NodeRecord]:
        """Every node whose lease runs."""

    async def room(self, name: str) -> RoomRecord | None: ...

    async def rooms(self, names: Sequence[str] | None = None) -> dict[str, Held]:
        """Those of these rooms that exist, by name; None: all rooms."""

    async def create_room(self, record: RoomRecord) -> tuple[RoomRecord, bool]:
        """The record in force and whether it is ours; of two creators at the same moment exactly one wins."""

    async def change_room(self, record: RoomRecord) -> RoomRecord | None:
        """Compare-and-set: stored with version + 1 if the stored version and sid equal `record`'s; None: lost."""

    async def remove_room(self, name: str, sid: str, version: int = 0) -> None:
        """Remove the record and its claims if it is still this incarnation (and this version, when one is given)."""

    async def claim(self, room: str, claim: Claim, limit: int) -> Claimed | None:
        """Take the identity (the holder is displaced); None when `limit` > 0 counted members are in already.

        The ticket is higher than all before and than `claim.ticket`.
        """

    async def restore_claim(self, room: str, claim: Claim) -> None:
        """Say a claim again that the store forgot, with its ticket; a later one stays."""

    async def release(self, room: str, identity: str, sid: str) -> None:
        """Give the identity back if this sid still holds it."""
