"""From a client to the plane: add_track, sections that publish, SSRCs that turn up, mute, and the end of a track.

add_track and its section may come in either order (wire contract 2.4); a track counts as published when both are
there, media is not required (G42).
"""

from collections.abc import Sequence

from livekit.protocol import rtc

from tertulia.protocol.errors import RequestError
from tertulia.sfu import dynacast, subscribing
from tertulia.sfu.media.receiver import Receiver
from tertulia.sfu.negotiation import PublishedSection
from tertulia.sfu.participant import LocalParticipant
from tertulia.sfu.plane.api import UnboundSsrc
from tertulia.sfu.publication import Pending, PublishedTrack, check_request, new_track
from tertulia.sfu.settings import MAX_CODEC_CHANGES, MAX_PENDING_TRACKS, MAX_UNMATCHED_SECTIONS
from tertulia.sfu.state import RoomState

Reason = rtc.RequestResponse.Reason

# ------------------------------------------------------------------------------------------ add_track


def add_track(state: RoomState, local: LocalParticipant, request: rtc.AddTrackRequest) -> None:
    """Announce a track, or another codec of one."""
    try:
        check_request(request)
    except RequestError as error:
        reason = Reason.UNSUPPORTED_TYPE if error.code == "unimplemented" else Reason.INVALID_REQUEST
        _refuse(state, local, request, reason, error.message)
        return
    if not local.who.may_publish(request.source):
        _refuse(state, local, request, Reason.NOT_ALLOWED, "this participant may not publish such a track")
    elif request.sid:
        _add_codec(state, local, request)
    elif any(request.cid in track.cids for track in local.who.tracks.values()):
        _queue(state, local, request)
    elif request.cid in local.pending:
        _answer(state, local, request.cid, local.pending[request.cid].track)  # said twice
    elif len(local.pending) >= MAX_PENDING_TRACKS or len(local.who.tracks) >= state.config.max_tracks:
        state.counters["limit_tracks"] += 1
        _refuse(state, local, request, Reason.LIMIT_EXCEEDED, "too many tracks")
    else:
        track = new_track(request, local.sid, state.rng, state.config.enabled_codecs)
        track.info.version.unix_micro = state.wall_ns() // 1000
        _announce(state, local, Pending(track, request))


def _add_codec(state: RoomState, local: LocalParticipant, request: rtc.AddTrackRequest) -> None:
    """The backup codec of a track that is published already (wire contract 3.6)."""
    track = local.who.tracks.get(request.sid)
    if track is None:
        _refuse(state, local, request, Reason.NOT_FOUND, "track is not found")
    elif len(local.pending) >= MAX_PENDING_TRACKS:
        state.counters["limit_tracks"] += 1
        _refuse(state, local, request, Reason.LIMIT_EXCEEDED, "too many tracks")
    else:
        described = new_track(request, local.sid, state.rng, state.config.enabled_codecs)
        for codec in described.info.codecs:
            known = next((c for c in track.info.codecs if not c.mid and c.mime_type == codec.mime_type), None)
            (known if known is not None else track.info.codecs.add()).CopyFrom(codec)
        track.cids |= described.cids
        _announce(state, local, Pending(track, request))


def _queue(state: RoomState, local: LocalParticipant, request: rtc.AddTrackRequest) -> None:
    """The same client track is still published: this request waits until that one ends."""
    if len(local.queued) >= MAX_PENDING_TRACKS:
        state.counters["limit_tracks"] += 1
        _refuse(state, local, request, Reason.LIMIT_EXCEEDED, "too many tracks")
        return
    local.queued[request.cid] = request
    _refuse(state, local, request, Reason.QUEUED, "the same track is still published")


def _announce(state: RoomState, local: LocalParticipant, pending: Pending) -> None:
    cid = pending.request.cid
    _answer(state, local, cid, pending.track)
    section = _waiting_section(local, pending)
    if section is None:
        local.pending[cid] = pending
        return
    del local.unmatched[section.mid]
    _publish(state, local, section, pending)


def _answer(state: RoomState, local: LocalParticipant, cid: str, track: PublishedTrack) -> None:
    response = rtc.TrackPublishedResponse(cid=cid, track=track.info)
    state.send(local, rtc.SignalResponse(track_published=response))


def _refuse(state: RoomState, local: LocalParticipant, request: rtc.AddTrackRequest, reason: Reason, text: str) -> None:
    state.counters[f"add_track_{Reason.Name(reason).lower()}"] += 1
    response = rtc.RequestResponse(reason=reason, message=text, add_track=request)
    state.send(local, rtc.SignalResponse(request_response=response))


# ------------------------------------------------------------------------------------------ matching


def _waiting_section(local: LocalParticipant, pending: Pending) -> PublishedSection | None:
    """The section that came before its add_track: by cid, or one that names no track."""
    sections = [section for section in local.unmatched.values() if section.kind == pending.kind]
    exact = next((section for section in sections if section.cid in pending.track.cids), None)
    return exact or next((section for section in sections if not section.cid), None)


def match(local: LocalParticipant, sections: Sequence[PublishedSection]) -> dict[str, Pending]:
    """Which announced track each new section carries, by mid; tells the negotiation how it shall be sent."""
    fresh = [section for section in sections if section.mid not in local.by_mid]
    cids = {section.cid for section in fresh if section.cid}
    found: dict[str, Pending] = {}
    for section in fresh:
        pending = _take_pending(local, section, cids)
        if pending is not None:
            found[section.mid] = pending
            local.answerer.prefer(section.mid, pending.track.preference(section.cid))
    return found


def _take_pending(local: LocalParticipant, section: PublishedSection, cids: set[str]) -> Pending | None:
    """By cid; else the oldest of its kind that no other section names (clients whose SDP has other track ids)."""
    for key, pending in local.pending.items():
        if section.cid and section.cid in pending.track.cids | {key}:
            return local.pending.pop(key)
    if not section.fresh:
        return None
    for key, pending in local.pending.items():
        if pending.kind == section.kind and not cids & (pending.track.cids | {key}):
            return local.pending.pop(key)
    return None


def settle(
    state: RoomState, local: LocalParticipant, sections: Sequence[PublishedSection], matched: dict[str, Pending]
) -> None:
    """The answer is made: sections with a track are published, the others wait for their add_track."""
    for section in sections:
        if section.mid in local.by_mid:
            continue
        pending = matched.pop(section.mid, None)
        if pending is not None:
            local.unmatched.pop(section.mid, None)
            _publish(state, local, section, pending)
        elif section.mid in local.unmatched or len(local.unmatched) < MAX_UNMATCHED_SECTIONS:
            local.unmatched[section.mid] = section
        else:
            state.counters["limit_unmatched_sections"] += 1
    for pending in matched.values():  # the section was declined after all
        _refuse(state, local, pending.request, Reason.UNSUPPORTED_TYPE, "no codec in common")


def sections_ended(state: RoomState, local: LocalParticipant, mids: Sequence[str]) -> None:
    """The client stopped sending on these sections."""
    for mid in mids:
        local.unmatched.pop(mid, None)
        track = local.by_mid.pop(mid, None)
        if track is None:
            continue
        ended = next((receiver for receiver in track.receivers if receiver.mid == mid), None)
        if ended is track.receivers[0] or ended is None:
            unpublish(state, track)
        else:
            _drop_receiver(state, track, ended)


def _publish(state: RoomState, local: LocalParticipant, section: PublishedSection, pending: Pending) -> None:
    """The track (or one more codec of it) exists from now on."""
    track = pending.track
    if not section.payloads:
        _refuse(state, local, pending.request, Reason.UNSUPPORTED_TYPE, "no codec in common")
        return
    if track.receivers and track.sid not in state.tracks:
        return  # a backup codec of a track that ended meanwhile
    receiver = Receiver(state.plane, local.up.transport, section, section.payloads[0], screen=track.is_screen)
    is_new = track.sid not in state.tracks
    track.attach(receiver, section.cid)
    local.by_mid[section.mid] = track
    local.who.tracks[track.sid] = state.tracks[track.sid] = track
    _enable(state, track, receiver)
    for report in list(local.waiting_ssrcs):
        on_unbound(state, local, report)
    state.changed(local.who)
    state.taps.changed(local.who.info, track)
    if is_new:
        state.happened("track_published", local.who, track.info)
        dynacast.begin(state, track)
    subscribing.track_ready(state, track)


def _enable(state: RoomState, track: PublishedTrack, receiver: Receiver) -> None:
    """A new receiver takes over the track's state."""
    if track.info.muted:
        state.plane.set_track_enabled(receiver.plane_track, False)
    for stream in receiver.streams.values():
        _appeared(state, track, receiver, stream.layer)


# ------------------------------------------------------------------------------------------ media


def on_unbound(state: RoomState, local: LocalParticipant, report: UnboundSsrc) -> None:
    """An SSRC showed up: its section says whose it is, the receiver which layer."""
    found = _receiver_of(local, report)
    if found is None:
        if report not in local.waiting_ssrcs:
            full = len(local.waiting_ssrcs) == local.waiting_ssrcs.maxlen
            state.counters["limit_waiting_ssrcs" if full else "ssrc_early"] += 1
            local.waiting_ssrcs.append(report)
        return
    if report in local.waiting_ssrcs:
        local.waiting_ssrcs.remove(report)
    track, receiver = found
    problem = receiver.take(report)
    if problem == "ssrc_unexpected_payload":
        receiver = _other_codec(state, local, track, receiver, report) or receiver
        problem = receiver.take(report)
    if problem:
        state.counters[problem] += 1
        return
    for stream in receiver.streams.values():
        _appeared(state, track, receiver, stream.layer)


def _other_codec(
    state: RoomState, local: LocalParticipant, track: PublishedTrack, old: Receiver, report: UnboundSsrc
) -> Receiver | None:
    """The client sends another agreed codec than the one we put first: follow it, a few times at most."""
    payload = next((p for p in old.section.payloads if p.pt == report.payload_type), None)
    if payload is None or payload.mime_type.lower() == "audio/red" or track.codec_changes >= MAX_CODEC_CHANGES:
        return None
    track.codec_changes += 1
    state.counters["publisher_changed_codec"] += 1
    state.taps.gone(track)
    _close_receiver(state, old)
    receiver = Receiver(state.plane, local.up.transport, old.section, payload, screen=track.is_screen)
    track.replace(old, receiver)
    _enable(state, track, receiver)
    state.changed(local.who)
    state.taps.changed(local.who.info, track)
    dynacast.begin(state, track)
    subscribing.receiver_gone(state, track, old)
    return receiver


def _receiver_of(local: LocalParticipant, report: UnboundSsrc) -> tuple[PublishedTrack, Receiver] | None:
    for mid, track in local.by_mid.items():
        receiver = next((receiver for receiver in track.receivers if receiver.mid == mid), None)
        if receiver is None:
            continue
        if mid == report.mid:
            return track, receiver
        # Without a mid only a section of one stream can be guessed, by its payload type.
        if not (report.mid or receiver.section.rids or receiver.streams) and receiver.takes_payload_type(
            report.payload_type
        ):
            return track, receiver
    return None


def _appeared(state: RoomState, track: PublishedTrack, receiver: Receiver, layer: int) -> None:
    state.tracks_by_up[receiver.streams[layer].up] = track
    if receiver.tracker.appear(layer):
        subscribing.retarget_all(state, track)


def layer_seen(state: RoomState, up: int) -> None:
    """A key frame began on an up stream: its layer lives."""
    track = state.tracks_by_up.get(up)
    if track is None:
        return
    for receiver in track.receivers:
        for stream in receiver.streams.values():
            if stream.up == up and receiver.tracker.appear(stream.layer):
                subscribing.retarget_all(state, track)


# ------------------------------------------------------------------------------------------ mute


def on_mute(state: RoomState, local: LocalParticipant, request: rtc.MuteTrackRequest) -> None:
    """The publisher's own mute; it may precede the section."""
    for pending in local.pending.values():
        if pending.track.sid == request.sid:
            pending.track.info.muted = request.muted
    if (track := local.who.tracks.get(request.sid)) is not None:
        set_muted(state, track, request.muted)


def set_muted(state: RoomState, track: PublishedTrack, muted: bool) -> None:
    if track.info.muted == muted:
        return
    track.info.muted = muted
    for receiver in track.receivers:
        state.plane.set_track_enabled(receiver.plane_track, not muted)
        receiver.tracker.forgive()
        if not muted and track.is_video:
            for layer in receiver.streams:
                state.plane.request_key_frame(receiver.plane_track, layer)
    who = state.members[track.publisher_sid]
    state.changed(who)
    state.taps.changed(who.info, track)


# ------------------------------------------------------------------------------------------ the end


def unpublish(state: RoomState, track: PublishedTrack, *, tell_publisher: bool = False) -> None:
    """The end of a track, whoever wished it. `tell_publisher`: it was not the publisher."""
    who = state.members[track.publisher_sid]
    subscribing.track_gone(state, track)
    state.relay.track_gone(track)
    for receiver in list(track.receivers):
        _drop_receiver(state, track, receiver)
    del state.tracks[track.sid]
    del who.tracks[track.sid]
    if who.local is not None:
        for mid in [mid for mid, other in who.local.by_mid.items() if other is track]:
            del who.local.by_mid[mid]
        if tell_publisher:
            response = rtc.TrackUnpublishedResponse(track_sid=track.sid)
            state.send(who.local, rtc.SignalResponse(track_unpublished=response))
    state.changed(who)
    state.happened("track_unpublished", who, track.info)
    if who.local is not None:
        _serve_queued(state, who.local, track)


def forget(state: RoomState, track: PublishedTrack) -> None:
    """The end of a remote member's track, as its node said."""
    subscribing.track_gone(state, track)
    state.relay.track_gone(track)
    del state.tracks[track.sid]
    state.members[track.publisher_sid].tracks.pop(track.sid, None)


def _drop_receiver(state: RoomState, track: PublishedTrack, receiver: Receiver) -> None:
    track.receivers.remove(receiver)
    _close_receiver(state, receiver)
    subscribing.receiver_gone(state, track, receiver)


def _close_receiver(state: RoomState, receiver: Receiver) -> None:
    for stream in receiver.streams.values():
        state.tracks_by_up.pop(stream.up, None)
    receiver.close()


def _serve_queued(state: RoomState, local: LocalParticipant, ended: PublishedTrack) -> None:
    for cid in ended.cids:
        if (request := local.queued.pop(cid, None)) is not None:
            add_track(state, local, request)


def review_permission(state: RoomState, local: LocalParticipant) -> None:
    """The live permission changed: what may not be published any more ends."""
    for cid, pending in list(local.pending.items()):
        if not local.who.may_publish(pending.track.info.source):
            del local.pending[cid]
    for track in list(local.who.tracks.values()):
        if not local.who.may_publish(track.info.source):
            unpublish(state, track, tell_publisher=True)


def is_known(local: LocalParticipant, track_sid: str) -> bool:
    """Published or announced."""
    return track_sid in local.who.tracks or any(p.track.sid == track_sid for p in local.pending.values())
