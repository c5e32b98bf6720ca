"""What subscribers need of a track, summed up for its publisher: which qualities of which codec are worth sending.

More is asked for at once, less after a pause, nothing is paused in a track's first seconds (E.5, wire contract 5.3).
A hidden viewer needs nothing; a muted publisher is told nothing new.
"""

from livekit.protocol import models, rtc

from tertulia.protocol.machine import Nanos
from tertulia.sfu.media.receiver import Receiver
from tertulia.sfu.publication import PublishedTrack
from tertulia.sfu.settings import DYNACAST_FIRST_NS, MAX_LAYERS
from tertulia.sfu.state import RoomState
from tertulia.sfu.subscription import Subscription

QUALITIES = (models.VideoQuality.LOW, models.VideoQuality.MEDIUM, models.VideoQuality.HIGH)
NOTHING = -1
EVERYTHING = MAX_LAYERS - 1
Need = dict[str, int]
"""Highest wanted quality by mime type (NOTHING: none)."""


def begin(state: RoomState, track: PublishedTrack) -> None:
    """A video track was published; it starts with every layer."""
    if track.is_video:
        track.dynacast.quiet_until = state.after(DYNACAST_FIRST_NS)
        track.dynacast.told = {receiver.mime_type.lower(): EVERYTHING for receiver in track.receivers}
        review(state, track)


def review(state: RoomState, track: PublishedTrack, changed: Subscription | None = None) -> None:
    """Something about the subscribers of a track changed; `changed`: nothing but this one came or wishes otherwise."""
    if track.sid in state.tracks and state.members[track.publisher_sid].local is None:
        state.relay.review(track)  # its own node sums up
        return
    if not track.is_video or track.sid not in state.tracks:
        return
    if changed is not None and track.dynacast.is_due and _is_covered(track, changed):
        return  # that less is needed will be found out when the pause is over
    need = _need(state, track)
    told = track.dynacast.told
    raised = {mime: max(layer, told.get(mime, NOTHING)) for mime, layer in need.items()}
    if raised != told:
        _tell(state, track, raised)
    if need != raised:
        _lower_later(state, track)


def _need(state: RoomState, track: PublishedTrack) -> Need:
    need: Need = {codec.mime_type.lower(): NOTHING for codec in track.info.codecs if codec.mime_type}
    for wish in track.subscriptions.values():
        receiver = wish.receiver
        if receiver is None:
            if wish.refused and (backup := wish.backup_codec()):
                need[backup] = EVERYTHING  # it cannot have the primary codec: the backup must be sent
            continue
        _raise(need, receiver, _wanted(wish, receiver))
    for receiver, layer in (*state.taps.wanted(track), *state.relay.wanted(track)):
        _raise(need, receiver, layer)
    return need


def _wanted(wish: Subscription, receiver: Receiver) -> int:
    return wish.forwarder.wanted_layer(receiver.layers, wish.track.heights(receiver.layers))


def _is_covered(track: PublishedTrack, wish: Subscription) -> bool:
    """What the publisher was told last is enough for this viewer."""
    receiver = wish.receiver
    if receiver is None:
        return False
    own: Need = {}
    _raise(own, receiver, _wanted(wish, receiver))
    return all(layer <= track.dynacast.told.get(mime, NOTHING) for mime, layer in own.items())


def _raise(need: Need, receiver: Receiver, layer: int) -> None:
    """A single stream is sent whole or not at all: asking for its only layer means every quality."""
    quality = EVERYTHING if layer >= receiver.layers - 1 else layer
    mime = receiver.mime_type.lower()
    need[mime] = max(need.get(mime, NOTHING), quality)


def _lower_later(state: RoomState, track: PublishedTrack) -> None:
    plan = track.dynacast
    if plan.is_due:
        return
    plan.is_due = True
    due = Nanos(max(state.after(state.config.dynacast_pause_ns), plan.quiet_until))
    state.agenda.at(due, lambda: _lower(state, track))


def _lower(state: RoomState, track: PublishedTrack) -> None:
    track.dynacast.is_due = False
    if track.sid not in state.tracks:
        return
    need = _need(state, track)
    if need != track.dynacast.told:
        _tell(state, track, need)


def _tell(state: RoomState, track: PublishedTrack, need: Need) -> None:
    track.dynacast.told = dict(need)
    for receiver in track.receivers:
        receiver.tracker.expect(range(need.get(receiver.mime_type.lower(), NOTHING) + 1))
    publisher = state.members[track.publisher_sid].local
    if publisher is not None:
        state.send(publisher, rtc.SignalResponse(subscribed_quality_update=quality_update(track, need)))


def quality_update(track: PublishedTrack, need: Need) -> rtc.SubscribedQualityUpdate:
    """All three qualities of each codec are listed; `subscribed_qualities` repeats the first codec's."""
    update = rtc.SubscribedQualityUpdate(track_sid=track.sid)
    for mime, highest in need.items():
        codec = update.subscribed_codecs.add(codec=mime.removeprefix("video/"))
        for layer, quality in enumerate(QUALITIES):
            codec.qualities.add(quality=quality, enabled=layer <= highest)
    if update.subscribed_codecs:
        update.subscribed_qualities.extend(update.subscribed_codecs[0].qualities)
    return update
