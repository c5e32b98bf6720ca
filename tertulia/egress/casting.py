"""Which of a room's tracks belong in a recording, and to which ear a voice goes.

Decides by the plan's source alone, track by track; where pictures stand is `stage`'s business. What cannot be recorded
(end-to-end encrypted, a codec nobody here can read) is left out, with the reason kept for EgressInfo.
"""

from livekit.protocol import models

from tertulia.egress.depacketize import depacketizer_for
from tertulia.egress.plan import Channel, MixSource, OneTrackSource, PairSource, PersonSource, RoomSource, Source
from tertulia.protocol.tap import TrackAvailable

UNRECORDABLE_LIMIT = 20


class Casting:
    """Asked once per track."""

    def __init__(self, source: Source, *, video: bool, audio: bool) -> None:
        self._source = source
        self._video = video
        self._audio = audio
        self._alternate = 0
        self._seen: set[str] = set()
        self.found = isinstance(source, RoomSource)
        """What is to be recorded is, or was, there."""
        self.unrecordable: dict[str, str] = {}
        """Track sid -> why it is left out; the first few."""
        self.mistake = ""
        """What the caller has got wrong, once the room tells."""

    def admit(self, event: TrackAvailable) -> bool:
        """The track belongs in the recording and can be recorded."""
        if event.participant.kind == models.ParticipantInfo.Kind.EGRESS or not self._belongs(event):
            return False
        self.found = True
        sid = event.track.sid
        if sid in self._named():
            self._seen.add(sid)
        why = _why_not(event)
        if not why:
            return True
        if len(self.unrecordable) < UNRECORDABLE_LIMIT:
            self.unrecordable[sid] = why
        if isinstance(self._source, PairSource | OneTrackSource):
            self.mistake = self.mistake or f"track {sid} cannot be recorded: {why}"
        return False

    def channel(self, event: TrackAvailable) -> Channel:
        """Asked once per admitted track, in order of appearance."""
        if event.track.type != models.AUDIO:
            return "both"
        match self._source:
            case RoomSource(mixing="agent"):
                return "left" if event.participant.kind == models.ParticipantInfo.Kind.AGENT else "right"
            case RoomSource(mixing="alternate"):
                self._alternate += 1
                return "left" if self._alternate % 2 else "right"
            case MixSource(routes=routes):
                return next((route.channel for route in routes if route.takes(event)), "both")
            case _:
                return "both"

    def ends_with(self, identity: str) -> bool:
        """This person was what is recorded, and has left."""
        return isinstance(self._source, PersonSource) and identity == self._source.identity and self.found

    def missing(self) -> str:
        """What shall be recorded and has not been seen, in words; empty when nothing is."""
        unseen = [sid for sid in self._named() if sid not in self._seen]
        if unseen:
            return f"track {unseen[0]}"
        if isinstance(self._source, PersonSource) and not self.found:
            return f"participant {self._source.identity} with a track to record"
        return ""

    def _named(self) -> tuple[str, ...]:
        """Tracks that the request names."""
        match self._source:
            case PairSource(audio_track_id=audio, video_track_id=video):
                return tuple(sid for sid in (audio, video) if sid)
            case OneTrackSource(track_id=sid):
                return (sid,)
            case MixSource(video_track_id=sid) if sid:
                return (sid,)
            case _:
                return ()

    def _belongs(self, event: TrackAvailable) -> bool:
        track, person = event.track, event.participant
        match self._source:
            case PersonSource(identity=identity, screen_share=screen):
                usual = track.source in (models.CAMERA, models.MICROPHONE)
                if person.identity != identity:
                    return False
                self.found = True
                if usual == screen:
                    return False
            case PairSource(audio_track_id=audio, video_track_id=video):
                if track.sid not in (audio, video):
                    return False
                field, kind = ("audio", models.AUDIO) if track.sid == audio else ("video", models.VIDEO)
                if track.type != kind:
                    self.mistake = f"request has missing or invalid field: {field}_track_id (not {field})"
            case OneTrackSource(track_id=only):
                return track.sid == only
            case MixSource() as mix:
                if not (mix.shows(event) if track.type == models.VIDEO else mix.hears(event)):
                    return False
        return self._video if track.type == models.VIDEO else self._audio and track.type == models.AUDIO


def _why_not(event: TrackAvailable) -> str:
    if event.track.encryption != models.Encryption.NONE:
        return "end-to-end encrypted"
    if depacketizer_for(event.mime_type) is None:
        return f"codec {event.mime_type} cannot be recorded"
    return ""
