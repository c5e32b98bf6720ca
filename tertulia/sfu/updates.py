"""Who must be told what about whom: ParticipantUpdates, coalesced per turn, in batches when a room is big.

LiveKit: publishers' changes go out at once, comings and goings of listeners are batched; hidden members are shown to
nobody but themselves; the end of an old sid precedes the new sid of the same identity (wire contract 5.2).
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from livekit.protocol import models, rtc

from tertulia.protocol.machine import Nanos
from tertulia.sfu.participant import Participant
from tertulia.sfu.settings import MAX_DEPARTED, MAX_UPDATE_BYTES


@dataclass
class _Change:
    who: Participant
    to_self: bool
    as_gone: bool = False
    """Others shall forget this member: it left, or became hidden."""

    @property
    def is_shown(self) -> bool:
        return self.as_gone or not (self.who.is_hidden or self.who.is_gone)


class Updates:
    """What is still to be told."""

    def __init__(self) -> None:
        self._changes: dict[str, _Change] = {}
        """By participant sid, oldest first."""
        self._is_urgent = False
        self._departed: deque[tuple[Nanos, models.ParticipantInfo]] = deque(maxlen=MAX_DEPARTED)
        """For clients that resume."""

    def mark(self, who: Participant, *, to_self: bool, can_wait: bool = False) -> None:
        """`can_wait`: what listeners of a big room need not hear at once."""
        change = self._changes.get(who.sid)
        if change is None:
            self._changes[who.sid] = _Change(who, to_self)
        else:
            change.to_self |= to_self
        self._is_urgent |= not can_wait or who.info.is_publisher

    def depart(self, who: Participant, now: Nanos) -> None:
        """The member is gone; its info says DISCONNECTED."""
        self.mark(who, to_self=False, can_wait=True)
        if not who.is_hidden:
            self.vanish(who, now)

    def vanish(self, who: Participant, now: Nanos) -> None:
        """Others shall not see this member any more."""
        self.mark(who, to_self=not who.is_gone, can_wait=who.is_gone)
        self._changes[who.sid].as_gone = True
        self._departed.append((now, departure(who.info)))

    def departed(self, since: int) -> list[models.ParticipantInfo]:
        """Who left lately: a client that resumes may have missed it."""
        return [info for at, info in self._departed if at >= since]

    @property
    def is_waiting(self) -> bool:
        return bool(self._changes)

    @property
    def is_urgent(self) -> bool:
        """Must go out in this turn, however big the room is."""
        return self._is_urgent

    def take(self) -> "Digest":
        changes = list(self._changes.values())
        self._changes.clear()
        self._is_urgent = False
        return Digest(changes)


class Digest:
    """One flush of updates: nearly the same messages for everybody."""

    def __init__(self, changes: Sequence[_Change]) -> None:
        self._changes = {change.who.sid: change for change in changes}
        self._infos = {
            change.who.sid: departure(change.who.info) if change.as_gone else change.who.info
            for change in changes
            if change.is_shown
        }
        self._common = list(_messages(list(self._infos.values())))

    def messages_for(self, member: Participant) -> list[rtc.SignalResponse]:
        own = self._changes.get(member.sid)
        if own is None or (own.to_self and not own.as_gone and member.sid in self._infos):
            return self._common
        infos = [info for sid, info in self._infos.items() if sid != member.sid]
        if own.to_self:
            infos.append(member.info)
        return list(_messages(infos))


def departure(info: models.ParticipantInfo) -> models.ParticipantInfo:
    """What others hear of a member that left."""
    return models.ParticipantInfo(
        sid=info.sid,
        identity=info.identity,
        state=models.ParticipantInfo.DISCONNECTED,
        version=info.version,
        kind=info.kind,
        joined_at=info.joined_at,
        joined_at_ms=info.joined_at_ms,
        disconnect_reason=info.disconnect_reason,
    )


def _messages(infos: Sequence[models.ParticipantInfo]) -> Iterator[rtc.SignalResponse]:
    """Split so that one message stays small."""
    batch: list[models.ParticipantInfo] = []
    size = 0
    for info in infos:
        bytes_more = info.ByteSize()
        size += bytes_more
        if batch and size > MAX_UPDATE_BYTES:
            yield _message(batch)
            batch, size = [], bytes_more
        batch.append(info)
    if batch:
        yield _message(batch)


def _message(infos: Sequence[models.ParticipantInfo]) -> rtc.SignalResponse:
    response = rtc.SignalResponse()
    for info in infos:  # not by a constructor, which copies three times as slowly, and twice
        response.update.participants.add().CopyFrom(info)
    return response


def full_update(infos: Sequence[models.ParticipantInfo]) -> list[rtc.SignalResponse]:
    """The whole roster, for a client that resumed."""
    return list(_messages(infos))
