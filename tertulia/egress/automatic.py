"""CreateRoom's egress block: records every person and every track of a room as they come.

Decides when a recording is due and what its file is called; starting it is the service's business. As LiveKit: one
participant egress per identity, begun at its first publish and again after it has left; one track egress per track.
"""

import logging
from collections.abc import Callable

from livekit.protocol import egress, models
from livekit.protocol import room as room_messages

from tertulia.egress.plan import Request
from tertulia.protocol.tap import ParticipantGone, RoomGone, TapRoom, TrackAvailable, TrackGone

log = logging.getLogger(__name__)


class Automatic:
    """One room's standing wish."""

    def __init__(self, room: TapRoom, wish: room_messages.RoomEgress, start: Callable[[Request], None]) -> None:
        self._room = room
        self._wish = wish
        self._start = start
        self._people: set[str] = set()
        self._tracks: set[str] = set()

    def tick(self) -> bool:
        """False when the room is gone."""
        for event in self._room.events():
            match event:
                case TrackAvailable():
                    self._available(event)
                case TrackGone(track_sid=sid):
                    self._tracks.discard(sid)
                case ParticipantGone(identity=identity):
                    self._people.discard(identity)
                case RoomGone():
                    self.close()
                    return False
        return True

    def close(self) -> None:
        self._room.leave()

    def _available(self, event: TrackAvailable) -> None:
        if event.participant.kind == models.ParticipantInfo.Kind.EGRESS:
            return
        identity, track = event.participant.identity, event.track
        if self._wish.HasField("participant") and identity not in self._people:
            self._people.add(identity)
            self._start(participant_request(self._room.info.name, identity, self._wish.participant))
        if self._wish.HasField("tracks") and track.sid not in self._tracks:
            self._tracks.add(track.sid)
            self._start(track_request(self._room.info.name, track.sid, self._wish.tracks))


def participant_request(
    room_name: str, identity: str, wish: egress.AutoParticipantEgress
) -> egress.ParticipantEgressRequest:
    request = egress.ParticipantEgressRequest(
        room_name=room_name,
        identity=identity,
        file_outputs=wish.file_outputs,
        segment_outputs=wish.segment_outputs,
    )
    match wish.WhichOneof("options"):
        case "preset":
            request.preset = wish.preset
        case "advanced":
            request.advanced.CopyFrom(wish.advanced)
        case _:
            pass
    return request


def track_request(room_name: str, track_sid: str, wish: egress.AutoTrackEgress) -> egress.TrackEgressRequest:
    file = egress.DirectFileOutput(filepath=track_path(wish.filepath), disable_manifest=wish.disable_manifest)
    kind = wish.WhichOneof("output")
    if kind is not None:
        getattr(file, kind).CopyFrom(getattr(wish, kind))
    return egress.TrackEgressRequest(room_name=room_name, track_id=track_sid, file=file)


def track_path(template: str) -> str:
    """Tracks must not write over each other: `{track_id}` is put in where the caller left it out (as LiveKit does)."""
    if template == "" or template.endswith("/"):
        return template + "{track_id}-{time}"
    if "{track_id}" in template:
        return template
    head, slash, last = template.rpartition("/")
    stem, dot, ending = last.partition(".")
    return f"{head}{slash}{stem}-{{track_id}}{dot}{ending}"
