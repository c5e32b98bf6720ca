"""Which wanted track sits in which section, with which numbers. Shared by both sides of a negotiation."""

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from random import Random

from tertulia.sfu.negotiation import codecs
from tertulia.sfu.negotiation.words import DownSection, Payload, Wanted
from tertulia.sfu.negotiation.writing import Sender


@dataclass(slots=True)
class Placed:
    """A track in a section. A new track on an old mid always gets a new SSRC: a decoder must not inherit the state
    of the track before (wire contract G39)."""

    wanted: Wanted
    ssrc: int
    rtx_ssrc: int
    payload: Payload | None = None
    """None until the client's payload types are known (our own offers)."""
    red: Payload | None = None
    fresh: bool = True
    settled_by: Sequence[Payload] | None = None
    """The client's payloads at the last settling."""
    told: DownSection | None = None
    """What the room heard of it, should it hear the same again."""

    def numbers(self) -> tuple[Wanted, int, int, Payload | None]:
        """Everything a description says of it."""
        return self.wanted, self.ssrc, self.rtx_ssrc, self.payload


class Slots:
    """Wishes in the order they came, and the sections found for them."""

    def __init__(self, rng: Random, *, takes_red: bool) -> None:
        self._rng = rng
        self._takes_red = takes_red
        self._wanted: dict[str, Wanted] = {}
        self._pending: bool | None = False
        """`is_pending` as it was worked out, None since something changed."""
        self.placed: dict[str, Placed] = {}
        """By mid; others only read it."""

    # wishes -------------------------------------------------------------------------------------

    def want(self, wanted: Wanted) -> bool:
        """False: nothing new."""
        if self._wanted.get(wanted.track_sid) == wanted:
            return False
        self._wanted[wanted.track_sid] = wanted
        self._pending = None
        return True

    def drop(self, track_sid: str) -> bool:
        self._pending = None
        return self._wanted.pop(track_sid, None) is not None

    @property
    def is_pending(self) -> bool:
        """Wishes and sections disagree."""
        if self._pending is None:
            self._pending = any(self.is_stale(mid) for mid in self.placed) or bool(self.waiting())
        return self._pending

    def waiting(self) -> list[Wanted]:
        """Wishes without a section."""
        seated = {placed.wanted.track_sid for placed in self.placed.values()}
        return [wanted for sid, wanted in self._wanted.items() if sid not in seated]

    def is_unwanted(self, mid: str) -> bool:
        """The track in this section is not wanted any more."""
        return self.placed[mid].wanted.track_sid not in self._wanted

    def is_stale(self, mid: str) -> bool:
        """Not wanted any more, or wanted with other values."""
        placed = self.placed[mid]
        wanted = self._wanted.get(placed.wanted.track_sid)
        return wanted is not placed.wanted and wanted != placed.wanted

    # sections -----------------------------------------------------------------------------------

    def release(self, keep: Container[str]) -> dict[str, str]:
        """Empty the sections whose track is unwanted or whose mid is not in `keep`; track sids by freed mid."""
        freed = {mid: placed for mid, placed in self.placed.items() if mid not in keep or self.is_unwanted(mid)}
        for mid in freed:
            del self.placed[mid]
        self._pending = None
        return {mid: placed.wanted.track_sid for mid, placed in freed.items()}

    def renew(self) -> None:
        """Wishes that changed their values keep the section and get new numbers."""
        for mid, placed in list(self.placed.items()):
            if self.is_stale(mid):
                self.place(mid, self._wanted[placed.wanted.track_sid])

    def place(self, mid: str, wanted: Wanted) -> None:
        self.placed[mid] = Placed(wanted, self._mint_ssrc(), self._mint_ssrc())
        self._pending = None

    def settle(self, mid: str, payloads: Sequence[Payload]) -> bool:
        """Fix the payload types by what the client takes in this section. False: it cannot decode the track."""
        placed = self.placed[mid]
        if placed.settled_by is payloads:
            return True
        payload = codecs.carrying(payloads, placed.wanted)
        if payload is None:
            return False
        red = codecs.red_around(payloads, payload) if placed.wanted.red and self._takes_red else None
        before = placed.payload
        if before is not None and _numbers(before, placed.red) != _numbers(payload, red):
            self.place(mid, placed.wanted)
            placed = self.placed[mid]
        placed.payload, placed.red, placed.settled_by, placed.told = payload, red, payloads, None
        return True

    def forget(self, track_sids: Iterable[str]) -> None:
        """Wishes that cannot be fulfilled, with their sections."""
        gone = set(track_sids)
        if not gone:
            return
        self._pending = None
        for sid in gone:
            self._wanted.pop(sid, None)
        for mid in [mid for mid, placed in self.placed.items() if placed.wanted.track_sid in gone]:
            del self.placed[mid]

    # what others say about it -------------------------------------------------------------------

    def sender(self, mid: str, *, rtx: bool) -> Sender | None:
        placed = self.placed.get(mid)
        if placed is None:
            return None
        wanted = placed.wanted
        stream_id = f"{wanted.participant_sid}|{wanted.stream_name or wanted.track_sid}"
        repair = placed.rtx_ssrc if rtx and wanted.kind == "video" else 0
        return Sender(stream_id, wanted.track_sid, wanted.participant_sid, placed.ssrc, repair)

    def track_ids(self) -> dict[str, str]:
        return {mid: placed.wanted.track_sid for mid, placed in self.placed.items()}

    def take_down(self) -> tuple[DownSection, ...]:
        """All settled sections of tracks still wanted; what was fresh is not fresh next time."""
        found = []
        for mid, placed in self.placed.items():
            if placed.payload is not None and not self.is_unwanted(mid):
                found.append(placed.told or _down(mid, placed, placed.payload))
                placed.told = None if placed.fresh else found[-1]
                placed.fresh = False
        return tuple(found)

    def _mint_ssrc(self) -> int:
        taken = {number for placed in self.placed.values() for number in (placed.ssrc, placed.rtx_ssrc)}
        while True:
            ssrc = self._rng.randrange(1, 1 << 32)
            if ssrc not in taken:
                return ssrc


def mint_session_id(rng: Random) -> int:
    """RFC 8829 5.2.1: a random number whose top bit is clear."""
    return rng.getrandbits(62) | 1


def _numbers(payload: Payload, red: Payload | None) -> tuple[int, int, int]:
    return payload.pt, payload.rtx_pt, red.pt if red is not None else 0


def _down(mid: str, placed: Placed, payload: Payload) -> DownSection:
    rtx_ssrc = placed.rtx_ssrc if payload.rtx_pt else 0
    return DownSection(mid, placed.wanted.track_sid, payload, placed.red, placed.ssrc, rtx_ssrc, placed.fresh)
