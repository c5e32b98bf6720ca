"""From the plane to a client: wishes are reviewed against what is possible, and reconciled with sections and rows.

`review` is the one place that decides; everything that may change its answer calls it (a track appears, a permission
changes, the client asks), so wishes heal by themselves when their obstacle goes (E.4).
"""

from collections.abc import Iterable, Sequence
from functools import partial

from livekit.protocol import models, rtc

from tertulia.sfu import downlink, dynacast, telling
from tertulia.sfu.media.forwarder import UNTOLD, ViewerSettings
from tertulia.sfu.media.receiver import Receiver
from tertulia.sfu.negotiation import DownSection, Wanted
from tertulia.sfu.participant import LocalParticipant
from tertulia.sfu.publication import PublishedTrack
from tertulia.sfu.settings import SETTINGS_DEBOUNCE_NS, UNKNOWN_TRACK_NS
from tertulia.sfu.state import RoomState
from tertulia.sfu.subscription import Obstacle, Phase, Subscription

# ------------------------------------------------------------------------------------------ review


def review_all(state: RoomState, local: LocalParticipant) -> None:
    """After a join, or a change of the member's permission."""
    for track in list(state.tracks.values()):
        review(state, local, track)


def review(state: RoomState, local: LocalParticipant, track: PublishedTrack) -> None:
    """Bring one wish and its fact together."""
    wish = local.subscriptions.get(track.sid)
    if wish is None:
        if track.publisher_sid == local.sid or not local.wants(track.sid):
            return
        if len(local.subscriptions) >= state.config.max_subscriptions:
            state.counters["limit_subscriptions"] += 1
            return
        wish = Subscription(track, _first_settings(local, track))
        local.subscriptions[track.sid] = track.subscriptions[local.sid] = wish
    before, wish.obstacle = wish.obstacle, _obstacle(state, local, wish)
    if (before is Obstacle.FORBIDDEN) != (wish.obstacle is Obstacle.FORBIDDEN):
        telling.permission(state, local, track, allowed=before is Obstacle.FORBIDDEN)
    if wish.obstacle is Obstacle.NONE:
        _ask(state, local, wish)
        return
    _withdraw(state, local, wish)
    if wish.obstacle is Obstacle.UNWISHED:
        end(state, local, wish)
    elif wish.obstacle is Obstacle.NO_MEDIA and not track.receivers:
        state.relay.want(track)


def _obstacle(state: RoomState, local: LocalParticipant, wish: Subscription) -> Obstacle:
    publisher = state.members.get(wish.track.publisher_sid)
    if not local.wants(wish.track.sid) or publisher is None:
        return Obstacle.UNWISHED
    if not local.who.info.permission.can_subscribe:
        return Obstacle.MAY_NOT_SUBSCRIBE
    if publisher.is_hidden:
        return Obstacle.HIDDEN
    if not publisher.allows(local.who, wish.track.sid):
        return Obstacle.FORBIDDEN
    if not wish.track.receivers:
        return Obstacle.NO_MEDIA
    return Obstacle.NONE if wish.best_receiver() is not None else Obstacle.UNSUPPORTED


def _first_settings(local: LocalParticipant, track: PublishedTrack) -> ViewerSettings:
    """What the client said of the track already; an adaptive client begins low until it knows its sizes (E.6)."""
    said = local.viewer_settings.get(track.sid)
    if said is not None:
        return viewer_settings(said)
    quality = models.VideoQuality.LOW if local.adaptive_stream and track.is_video else models.VideoQuality.HIGH
    return ViewerSettings(quality=quality)


def _ask(state: RoomState, local: LocalParticipant, wish: Subscription) -> None:
    """Have a section negotiated; again when another codec of the track is the best one now."""
    receiver = wish.best_receiver()
    assert receiver is not None
    if wish.phase is not Phase.WISHED and wish.receiver is receiver:
        return
    _remove_row(state, wish)
    wish.receiver = receiver
    if wish.phase is not Phase.ASKED:
        wish.become(Phase.ASKED)
    track = wish.track
    wanted = Wanted(
        track_sid=track.sid,
        participant_sid=track.publisher_sid,
        kind="video" if track.is_video else "audio",
        mime_type=receiver.mime_type,
        fmtp=receiver.payload.fmtp,
        stereo=track.info.stereo or models.AudioTrackFeature.TF_STEREO in track.info.audio_features,
        stream_name=_stream_name(state, track),
    )
    (local.offerer or local.answerer).send(wanted)
    state.renegotiate(local)


def _stream_name(state: RoomState, track: PublishedTrack) -> str:
    """With sync_streams the tracks of one source share a stream, so that browsers keep lips in sync."""
    return track.info.stream if state.options.sync_streams or state.config.sync_streams else ""


def _withdraw(state: RoomState, local: LocalParticipant, wish: Subscription) -> None:
    """The wish cannot be fulfilled now: give its section back."""
    if wish.phase not in (Phase.ASKED, Phase.FLOWING):
        return
    _remove_row(state, wish)
    wish.receiver = None
    wish.become(Phase.WISHED)
    (local.offerer or local.answerer).stop(wish.track.sid)
    state.renegotiate(local)
    dynacast.review(state, wish.track)


def end(state: RoomState, local: LocalParticipant, wish: Subscription) -> None:
    """Nobody wishes this any more, or the track is gone."""
    if wish.phase is Phase.ENDED:
        return
    _withdraw(state, local, wish)
    wish.become(Phase.ENDED)
    local.subscriptions.pop(wish.track.sid, None)
    wish.track.subscriptions.pop(local.sid, None)
    if not wish.track.subscriptions and state.members[wish.track.publisher_sid].local is None:
        state.relay.unwant(wish.track)


# ------------------------------------------------------------------------------------------ rows


def settle(
    state: RoomState,
    local: LocalParticipant,
    sections: Sequence[DownSection],
    stopped: Iterable[str],
    unsupported: Iterable[str],
) -> None:
    """A negotiation ended: which wished tracks have a section now."""
    for track_sid in stopped:
        wish = local.subscriptions.get(track_sid)
        if wish is not None and wish.phase is Phase.FLOWING:  # the client took its section back
            state.counters["section_taken_back"] += 1
            local.wishes[track_sid] = False
            review(state, local, wish.track)
    added: list[Subscription] = []
    for section in sections:
        wish = local.subscriptions.get(section.track_sid)
        if wish is not None and wish.phase is not Phase.WISHED and (section.fresh or wish.down is None):
            added += _add_row(state, local, wish, section)
    _begin(state, local, added)
    for track_sid in unsupported:
        if (wish := local.subscriptions.get(track_sid)) is not None:
            _unsupported(state, local, wish)


def _add_row(
    state: RoomState, local: LocalParticipant, wish: Subscription, section: DownSection
) -> tuple[Subscription, ...]:
    """The wish, when it has a row now."""
    receiver = wish.receiver
    assert receiver is not None
    if section.payload.mime_type.lower() != receiver.mime_type.lower():
        return ()  # settled for a codec we do not want any more; the next negotiation follows
    _remove_row(state, wish)
    wish.down = state.plane.add_down(
        receiver.plane_track,
        local.down.transport,
        section.ssrc,
        payload_type=section.payload.pt,
        rtx_ssrc=section.rtx_ssrc,
        rtx_payload_type=section.payload.rtx_pt if section.rtx_ssrc else 0,
        mid=section.mid,
        first_sequence=state.rng.randrange(1, 1 << 15),
        first_timestamp=state.rng.randrange(1 << 32),
    )
    state.downs[wish.down] = wish
    if wish.phase is not Phase.FLOWING:
        wish.become(Phase.FLOWING)
    return (wish,)


def _begin(state: RoomState, local: LocalParticipant, added: Sequence[Subscription]) -> None:
    """These have a row now: the way down is divided anew once, then each hears its layer."""
    downlink.rows_added(state, local, added)
    for wish in added:
        downlink.aim(state, wish)
        dynacast.review(state, wish.track, wish)
        telling.first_subscriber(state, wish.track)


def _remove_row(state: RoomState, wish: Subscription) -> None:
    if wish.down is not None:
        state.plane.remove_down(wish.down)
        del state.downs[wish.down]
        wish.down = None
    forwarder = wish.forwarder
    forwarder.target = (UNTOLD, forwarder.target[1])
    forwarder.forwarded = -1


def _unsupported(state: RoomState, local: LocalParticipant, wish: Subscription) -> None:
    """The client cannot decode this codec: another one of the track, or it hears that there is none."""
    if wish.receiver is not None:
        wish.refused.add(wish.receiver.mime_type.lower())
    _remove_row(state, wish)
    wish.receiver = None
    if wish.phase is not Phase.WISHED:
        wish.become(Phase.WISHED)
    review(state, local, wish.track)
    dynacast.review(state, wish.track)
    if wish.obstacle is Obstacle.UNSUPPORTED and not wish.backup_codec():
        state.counters["subscription_codec_unsupported"] += 1
        telling.subscription_error(state, local, wish.track.sid, models.SubscriptionError.SE_CODEC_UNSUPPORTED)


# ------------------------------------------------------------------------------------------ layers


def retarget_all(state: RoomState, track: PublishedTrack) -> None:
    """The living layers of a track changed."""
    state.relay.layers_changed(track)
    for wish in track.subscriptions.values():
        downlink.aim(state, wish)
    state.taps.retarget(track)


# ------------------------------------------------------------------------------------------ tracks


def track_ready(state: RoomState, track: PublishedTrack) -> None:
    """The track is published, or has (another) receiver on this node."""
    for local in state.local_members():
        review(state, local, track)


def receiver_gone(state: RoomState, track: PublishedTrack, receiver: Receiver) -> None:
    """One codec of a track ended; its rows go with it."""
    for sid, wish in list(track.subscriptions.items()):
        if wish.receiver is receiver:
            local = state.members[sid].local
            assert local is not None
            _withdraw(state, local, wish)
            review(state, local, track)


def track_gone(state: RoomState, track: PublishedTrack) -> None:
    for local in state.local_members():
        local.wishes.pop(track.sid, None)
        local.viewer_settings.pop(track.sid, None)
        if (wish := local.subscriptions.get(track.sid)) is not None:
            end(state, local, wish)
    state.taps.gone(track)


def review_publisher(state: RoomState, publisher_sid: str) -> None:
    """The publisher's subscription permissions changed."""
    for track in list(state.members[publisher_sid].tracks.values()):
        track_ready(state, track)


# ------------------------------------------------------------------------------------------ requests


def update_subscription(
    state: RoomState, local: LocalParticipant, track_sids: Iterable[str], *, subscribe: bool
) -> None:
    """Explicit wishes; a wish for an unknown track waits a minute for it."""
    for track_sid in dict.fromkeys(track_sids):
        if track_sid not in local.wishes and len(local.wishes) >= state.config.max_subscriptions:
            state.counters["limit_subscriptions"] += 1
            return
        local.wishes[track_sid] = subscribe
        track = state.tracks.get(track_sid)
        if track is not None:
            if subscribe and (wish := local.subscriptions.get(track_sid)) is not None:
                wish.refused.clear()
            review(state, local, track)
        elif subscribe and track_sid not in local.awaited:
            local.awaited.add(track_sid)
            state.agenda.at(state.after(UNKNOWN_TRACK_NS), partial(_still_unknown, state, local, track_sid))


def named_tracks(request: rtc.UpdateSubscription) -> list[str]:
    """Both lists of the request name the same tracks."""
    return [*request.track_sids, *(sid for entry in request.participant_tracks for sid in entry.track_sids)]


def _still_unknown(state: RoomState, local: LocalParticipant, track_sid: str) -> None:
    local.awaited.discard(track_sid)
    if local.who.is_gone or track_sid in state.tracks or not local.wishes.get(track_sid):
        return
    del local.wishes[track_sid]
    state.counters["subscription_track_not_found"] += 1
    telling.subscription_error(state, local, track_sid, models.SubscriptionError.SE_TRACK_NOTFOUND)


def on_track_setting(state: RoomState, local: LocalParticipant, request: rtc.UpdateTrackSettings) -> None:
    """Sizes are debounced; what was hidden and becomes visible is not kept waiting (E.6)."""
    for track_sid in dict.fromkeys(request.track_sids):
        known = local.viewer_settings
        if track_sid not in known and len(known) >= state.config.max_subscriptions:
            state.counters["limit_subscriptions"] += 1
            return
        known[track_sid] = request
        wish = local.subscriptions.get(track_sid)
        if wish is None:
            continue
        if wish.forwarder.settings.disabled and not request.disabled:
            _apply_settings(state, local, wish)
        elif not wish.settings_due:
            wish.settings_due = True
            state.agenda.at(state.after(SETTINGS_DEBOUNCE_NS), partial(_apply_settings, state, local, wish))


def _apply_settings(state: RoomState, local: LocalParticipant, wish: Subscription) -> None:
    wish.settings_due = False
    said = local.viewer_settings.get(wish.track.sid)
    if said is None or wish.phase is Phase.ENDED:
        return
    wish.forwarder.settings = viewer_settings(said)
    downlink.aim(state, wish)
    dynacast.review(state, wish.track, wish)


def viewer_settings(said: rtc.UpdateTrackSettings) -> ViewerSettings:
    return ViewerSettings(
        disabled=said.disabled,
        quality=said.quality,
        width=said.width,
        height=said.height,
        fps=said.fps,
        priority=said.priority,
    )
