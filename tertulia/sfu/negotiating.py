"""Offers and answers of one member: read, match with what was announced, answer; and our own wish to negotiate.

The negotiation of one connection is serialised because every offer is answered in the turn it arrives (G8).
"""

import json
from functools import lru_cache

from livekit.protocol import models, rtc

from tertulia.protocol.errors import PeerError, RequestError
from tertulia.sfu import publishing, subscribing
from tertulia.sfu.negotiation import Answer, Offer
from tertulia.sfu.participant import LocalParticipant
from tertulia.sfu.plane.api import Extension
from tertulia.sfu.settings import MAX_PACE_NS, MIN_PACE_NS, NEGOTIATION_NS, PACE_NS
from tertulia.sfu.state import RoomState

Reason = rtc.RequestResponse.Reason


def on_offer(state: RoomState, local: LocalParticipant, description: rtc.SessionDescription) -> None:
    """The client's offer: on the single connection, or on the publisher connection of /rtc."""
    try:
        offer = local.answerer.read(description.sdp)
        local.up.parameters = state.transports.connect(local.up.transport, offer.remote)
    except (PeerError, RequestError) as error:
        _refuse(state, local, "bad_offer", f"offer: {error}")
        return
    publishing.sections_ended(state, local, offer.ended)
    matched = publishing.match(local, offer.published)
    answer = local.answerer.answer(offer, local.up.parameters)
    state.plane.set_extensions(local.up.transport, answer.extensions)
    if local.single_connection:
        local.gives_feedback = Extension.TWCC in answer.extensions
    response = rtc.SignalResponse()
    _describe(response.answer, "answer", answer, description.id)
    state.send(local, response)
    _trickle(state, local)
    publishing.settle(state, local, answer.published, matched)
    if local.single_connection:
        subscribing.settle(state, local, answer.down, answer.stopped, answer.unsupported)
        _pace(state, local, answer.sdp)
    state.renegotiate(local)


def _describe(message: rtc.SessionDescription, kind: str, made: Answer | Offer, number: int) -> None:
    """Into the message that is sent: a description made by itself would be copied there, and it is long."""
    message.type, message.sdp, message.id = kind, made.sdp, number
    message.mid_to_track_id.update(made.mid_to_track_id)


def _trickle(state: RoomState, local: LocalParticipant) -> None:
    """Our candidates once more as messages: they stand in the answer, but connection tests look for them here."""
    if local.up.trickled:
        return
    local.up.trickled = True
    candidates = local.up.parameters.candidates
    for number, candidate in enumerate(candidates, 1):
        message = rtc.TrickleRequest(
            candidateInit=_candidate_init(candidate), target=rtc.PUBLISHER, final=number == len(candidates)
        )
        state.send(local, rtc.SignalResponse(trickle=message))


@lru_cache(maxsize=64)
def _candidate_init(candidate: str) -> str:
    """Remembered: our candidates are few, and the same for every client."""
    return json.dumps(
        {"candidate": f"candidate:{candidate}", "sdpMid": "0", "sdpMLineIndex": 0, "usernameFragment": None}
    )


def on_answer(state: RoomState, local: LocalParticipant, description: rtc.SessionDescription) -> None:
    """The client's answer to our offer; 0 is the id of clients that do not echo it (wire contract 2.2)."""
    offerer = local.offerer
    if offerer is None or not offerer.is_waiting or description.id not in (0, local.offer_id):
        state.counters["answer_unexpected"] += 1
        return
    try:
        accepted = offerer.accept(description.sdp)
        local.down.parameters = state.transports.connect(local.down.transport, accepted.remote)
    except (PeerError, RequestError) as error:
        _refuse(state, local, "bad_answer", f"answer: {error}")
        return
    _cancel_deadline(local)
    state.plane.set_extensions(local.down.transport, accepted.extensions)
    local.gives_feedback = Extension.TWCC in accepted.extensions
    subscribing.settle(state, local, accepted.down, accepted.stopped, accepted.unsupported)
    _pace(state, local, description.sdp)
    state.renegotiate(local)


def _refuse(state: RoomState, local: LocalParticipant, counter: str, text: str) -> None:
    """Said in words for who reads logs, and as a leave so that the client starts afresh instead of waiting."""
    state.counters[counter] += 1
    response = rtc.RequestResponse(reason=Reason.INVALID_REQUEST, message=text[:512])
    state.send(local, rtc.SignalResponse(request_response=response))
    state.condemn(local.who, models.DisconnectReason.STATE_MISMATCH, rtc.LeaveRequest.RECONNECT)


def speak(state: RoomState, local: LocalParticipant) -> None:
    """At the end of a turn: ask a single-connection client for an offer, or make one ourselves."""
    if local.paced_until > state.now:
        if local.pacing is None:
            local.pacing = state.agenda.at(local.paced_until, lambda: _pace_ended(state, local))
        return
    if local.offerer is not None:
        if local.offerer.is_due:
            offer(state, local)
        return
    requirement = local.answerer.take_requirement()
    if requirement is not None:
        state.send(local, rtc.SignalResponse(media_sections_requirement=requirement))


def _pace(state: RoomState, local: LocalParticipant, text: str) -> None:
    """One round is over. In a crowd the next one waits for more to do, but not for one who is just coming in."""
    if not local.is_active:
        return
    pace_ns = min(MAX_PACE_NS, PACE_NS * len(state.sessions) * text.count("\nm="))
    if pace_ns >= MIN_PACE_NS:
        local.paced_until = state.after(pace_ns)


def _pace_ended(state: RoomState, local: LocalParticipant) -> None:
    local.pacing = None
    if not local.who.is_gone:
        state.renegotiate(local)


def offer(state: RoomState, local: LocalParticipant) -> None:
    """Our next offer on the subscriber connection; one in flight."""
    offerer = local.offerer
    assert offerer is not None
    made = offerer.offer(local.down.parameters)
    local.offer_id += 1
    response = rtc.SignalResponse()
    _describe(response.offer, "offer", made, local.offer_id)
    state.send(local, response)
    _cancel_deadline(local)
    local.offer_deadline = state.agenda.at(state.after(NEGOTIATION_NS), lambda: _unanswered(state, local))


def restart(state: RoomState, local: LocalParticipant) -> None:
    """The client resumed: what was in flight may be lost (wire contract 5.6)."""
    local.answerer.forget_requirement()
    local.paced_until = state.now
    if local.offerer is not None:
        if local.offerer.is_waiting:
            local.offerer.abandon()
        local.down.parameters = state.transports.restart(local.down.transport)
        offer(state, local)
    state.renegotiate(local)


def _cancel_deadline(local: LocalParticipant) -> None:
    if local.offer_deadline is not None:
        local.offer_deadline.cancel()
        local.offer_deadline = None


def _unanswered(state: RoomState, local: LocalParticipant) -> None:
    local.offer_deadline = None
    if local.session is not None and local.offerer is not None and local.offerer.is_waiting:
        state.counters["negotiation_timeout"] += 1
        state.condemn(local.who, models.DisconnectReason.STATE_MISMATCH, rtc.LeaveRequest.RECONNECT)
