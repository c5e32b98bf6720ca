"""What a member's way down carries, and which layer of each track it gets for that.

Joins `bwe.Channel` (which decides) to subscriptions and the plane. Audio is counted and never touched. A client that
gives no feedback is not managed, and one whose path was never too full gets whatever it asked for.
"""

import struct
from collections.abc import Sequence

from livekit.protocol import rtc

from tertulia.protocol.machine import MILLISECOND, SECOND
from tertulia.sfu import telling
from tertulia.sfu.bwe.allocator import CAMERA_PRIORITY, SCREEN_PRIORITY, Demand, Division
from tertulia.sfu.bwe.channel import Channel, Snapshot
from tertulia.sfu.bwe.estimate import Phase
from tertulia.sfu.media.forwarder import ALL_TEMPORAL, PAUSED
from tertulia.sfu.media.receiver import Receiver, UpStream
from tertulia.sfu.participant import LocalParticipant
from tertulia.sfu.plane.api import Feedback
from tertulia.sfu.publication import PublishedTrack
from tertulia.sfu.state import RoomState
from tertulia.sfu.subscription import Subscription

RATE_RISE, RATE_FALL = 0.5, 0.1
"""A layer's rate is believed quickly when it grows, and slowly when it falls: pictures calm down for a moment only."""
GUESSED_BPS = ((180, 160_000), (360, 450_000), (720, 1_700_000))
"""Rates of cameras up to this height, until measured (LiveKit's presets)."""
MOST_GUESSED_BPS = 3_000_000
PROBE_EVERY_NS = 20 * MILLISECOND
PROBE_PACKET_BYTES = 1000
RETRY_NS = 5 * SECOND
"""Everything is paused and so no feedback comes: after this long it is tried again."""
COLLAPSE = 0.6
"""An estimate below this part of the use: stop at once instead of waiting for the lower layer's key frame."""

# ------------------------------------------------------------------------------------------ rates


def tick(state: RoomState, *, with_audio: bool) -> None:
    """Once per cycle: what every up stream brings; and whoever is held back is looked at without feedback too."""
    for track in state.tracks.values():
        if not track.info.muted and (with_audio or track.is_video):
            for receiver in track.receivers:
                for stream in receiver.streams.values():
                    _measure(state, stream)
    for local in state.local_members():
        if local.is_held_back:
            _retry(state, local)
            if local.channel.is_division_due(state.now):
                _divide(state, local)


def _measure(state: RoomState, stream: UpStream) -> None:
    stats = state.plane.up_stats(stream.up)
    if stats is None:
        return
    elapsed = state.now - stream.measured_at
    bps = (stats.bytes - stream.bytes) * 8 * SECOND / elapsed if stream.measured_at and elapsed > 0 else 0.0
    stream.measured_at, stream.bytes = state.now, stats.bytes
    if not stream.bps:
        stream.bps = bps
    elif bps > 0:  # a layer that is not sent at all keeps its rate for when it is
        stream.bps += (bps - stream.bps) * (RATE_RISE if bps > stream.bps else RATE_FALL)


def layer_bps(track: PublishedTrack, receiver: Receiver, layer: int) -> int:
    """Measured, else declared, else guessed from the height."""
    stream = receiver.streams.get(layer)
    if stream is not None and stream.bps:
        return int(stream.bps)
    declared = track.info.layers
    if layer < len(declared) and declared[layer].bitrate:
        return declared[layer].bitrate
    height = track.heights(receiver.layers)[layer]
    return next((bps for most, bps in GUESSED_BPS if height <= most), MOST_GUESSED_BPS)


# ------------------------------------------------------------------------------------------ evidence


def on_feedback(state: RoomState, report: Feedback) -> None:
    """The plane's summary of a client's feedback, several times a second."""
    local = state.by_transport.get(report.transport)
    if local is None or not state.config.congestion_control or local.down.transport != report.transport:
        state.counters["report_unused"] += 1
        return
    channel = local.channel
    is_remb = not channel.estimate.has_acknowledgements
    cut = channel.feed(report, _use(local) if is_remb else 0)
    if cut or ((channel.is_managed or local.is_held_back) and channel.is_division_due(state.now)):
        _divide(state, local, collapsed=cut and channel.estimate.bps < COLLAPSE * _use(local))
    _attend(state, local)


def rows_added(state: RoomState, local: LocalParticipant, added: Sequence[Subscription]) -> None:
    """Tracks begin to flow: they take their part of what there is."""
    if not (state.config.congestion_control and any(wish.track.is_video for wish in added)):
        return
    channel = local.channel
    channel.allow_pause = state.config.allow_pause or local.allow_pause
    if local.gives_feedback and channel.estimate.phase is Phase.UNKNOWN:
        channel.begin(state.now)
    if channel.is_managed:
        _divide(state, local)


def cap_changed(state: RoomState, local: LocalParticipant) -> None:
    """A test wants the way down to look thinner, or (0) as it is."""
    if not state.config.congestion_control:
        return
    local.channel.reset()
    _divide(state, local)


def snapshots(state: RoomState) -> dict[str, Snapshot]:
    """What each member's way down carries and why, by identity."""
    return {local.who.identity: local.channel.snapshot() for local in state.local_members()}


def _use(local: LocalParticipant) -> int:
    """What is sent to this member now."""
    use = 0
    for wish in local.subscriptions.values():
        layer = wish.forwarder.target[0]
        if wish.track.is_video and wish.down is not None and wish.receiver is not None and layer >= 0:
            use += layer_bps(wish.track, wish.receiver, layer)
        else:
            use += _audio_bps(wish)
    return use


def _retry(state: RoomState, local: LocalParticipant) -> None:
    """Everything is paused, so no feedback comes and nothing can be learned: after a while it is tried again."""
    channel = local.channel
    shares = channel.division.shares.values()
    if not shares or channel.other_bps or any(share.layer != PAUSED for share in shares):
        local.paused_since = None
    elif local.paused_since is None:
        local.paused_since = state.now
    elif state.now - local.paused_since >= RETRY_NS:
        local.paused_since = None
        state.counters["downlink_retried"] += 1
        channel.reset()
        if local.gives_feedback:
            channel.begin(state.now)


# ------------------------------------------------------------------------------------------ decisions


def _divide(state: RoomState, local: LocalParticipant, *, collapsed: bool = False) -> None:
    channel = local.channel
    if local.bandwidth_cap_bps:
        channel.cap(local.bandwidth_cap_bps)
    channel.other_bps = sum(_audio_bps(wish) for wish in local.subscriptions.values())
    demands = [demand for wish in local.subscriptions.values() if (demand := _demand(channel, wish)) is not None]
    before = channel.division
    division = channel.divide(state.now, demands)
    local.is_held_back = channel.is_managed
    for name, count in channel.news().items():
        state.counters[f"downlink_{name}"] += count
    _apply(state, local, division, collapsed=collapsed)
    _tell_paused(state, local, before, division)
    _attend(state, local)
    if channel.prober.is_running and not local.is_probing:
        local.is_probing = True
        _probe(state, local)


def _attend(state: RoomState, local: LocalParticipant) -> None:
    """A path that carries everything is looked at seldom, unless the plane sees trouble."""
    transport = local.down.transport
    if transport is not None and (every_ns := local.channel.attention(transport)) is not None:
        state.plane.attend(transport, every_ns)


def _audio_bps(wish: Subscription) -> int:
    if wish.track.is_video or wish.down is None or wish.receiver is None or wish.track.info.muted:
        return 0
    return int(sum(stream.bps for stream in wish.receiver.streams.values()))


def _demand(channel: Channel, wish: Subscription) -> Demand | None:
    """None: nothing of this track is to be shown now."""
    track, receiver, forwarder = wish.track, wish.receiver, wish.forwarder
    if not track.is_video or wish.down is None or receiver is None or track.info.muted:
        return None
    wanted = forwarder.wanted_layer(receiver.layers, track.heights(receiver.layers))
    if wanted == PAUSED:
        return None
    live = receiver.tracker.live
    possible = sorted(layer for layer in live if layer <= wanted) or [min(live, default=wanted)]
    share = channel.division.shares.get(track.sid)
    return Demand(
        key=track.sid,
        layers=tuple((layer, layer_bps(track, receiver, layer)) for layer in possible),
        shown=PAUSED if share is None else share.layer,
        priority=forwarder.settings.priority or (SCREEN_PRIORITY if track.is_screen else CAMERA_PRIORITY),
        pausable=not (track.is_screen and receiver.layers == 1),
    )


def _apply(state: RoomState, local: LocalParticipant, division: Division, *, collapsed: bool) -> None:
    """Ceilings, and from them the plane's targets. A track that shows nothing now will begin with its lowest layer."""
    for wish in local.subscriptions.values():
        if not wish.track.is_video:
            continue
        share = division.shares.get(wish.track.sid)
        ceiling = share.layer if share is not None else 0
        if not local.is_held_back:
            ceiling = ALL_TEMPORAL
        before, wish.forwarder.ceiling = wish.forwarder.ceiling, ceiling
        if before == ceiling:
            continue
        if share is not None and before != ALL_TEMPORAL and wish.down is not None:
            state.counters["downlink_raised" if ceiling > before else "downlink_lowered"] += 1
        if collapsed and wish.down is not None and 0 <= ceiling < wish.forwarder.forwarded:
            state.plane.set_target(wish.down, PAUSED)
        aim(state, wish)


def aim(state: RoomState, wish: Subscription) -> None:
    """Tell the plane which layer this row shall forward, if that changed."""
    receiver = wish.receiver
    if wish.down is None or receiver is None:
        return
    forwarder = wish.forwarder
    layer = forwarder.choose(receiver.layers, wish.track.heights(receiver.layers), receiver.tracker.live)
    stream = receiver.streams.get(layer)
    target = (layer, forwarder.temporal(stream.frames_per_s if stream is not None else 0))
    if target != forwarder.target:
        forwarder.target = target
        state.plane.set_target(wish.down, *target)


def _tell_paused(state: RoomState, local: LocalParticipant, before: Division, after: Division) -> None:
    states = []
    for sid, share in after.shares.items():
        known = before.shares.get(sid)
        was_paused = known is not None and known.layer == PAUSED
        if (share.layer == PAUSED) != was_paused:
            states.append((sid, rtc.StreamState.PAUSED if share.layer == PAUSED else rtc.StreamState.ACTIVE))
    if states:
        state.counters["downlink_paused"] += sum(1 for _, one in states if one == rtc.StreamState.PAUSED)
        telling.stream_states(state, local, states)


# ------------------------------------------------------------------------------------------ probes


def _probe(state: RoomState, local: LocalParticipant) -> None:
    """Send what the probe is due now, and come back."""
    due = None if local.who.is_gone else local.channel.prober.take(state.now)
    if due is None:
        local.is_probing = False
        return
    local.probe_bytes += due
    while local.probe_bytes >= PROBE_PACKET_BYTES:
        local.probe_bytes -= PROBE_PACKET_BYTES
        state.plane.send_rtcp(local.down.transport, PROBE)
    state.agenda.at(state.after(PROBE_EVERY_NS), lambda: _probe(state, local))


def _application_packet(size: int) -> bytes:
    """RTCP APP (RFC 3550 6.7): a receiver ignores names it does not know, so it is load without meaning."""
    return struct.pack("!BBHI4s", 0x80, 204, size // 4 - 1, 1, b"load") + bytes(size - 12)


PROBE = _application_packet(PROBE_PACKET_BYTES)
