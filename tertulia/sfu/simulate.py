"""Faults that client test-suites ask for (wire contract 5.9): each behaves as the real fault would."""

from livekit.protocol import models, rtc

from tertulia.protocol.machine import SECOND
from tertulia.sfu import downlink, hearing, leaving, negotiating
from tertulia.sfu.participant import LocalParticipant
from tertulia.sfu.state import RoomState

Reason = models.DisconnectReason
DROP_RESUME_NS = 5 * SECOND
SPEAKER_LEVEL = 0.9
MAX_SPEAKING_S = 60


def on_scenario(state: RoomState, local: LocalParticipant, scenario: rtc.SimulateScenario) -> None:
    match scenario.WhichOneof("scenario"):
        case "speaker_update":
            _speak(state, local, scenario.speaker_update)
        case "node_failure" | "migration":
            _vanish(state, local)
        case "server_leave":
            leaving.remove(state, local.who, Reason.SERVER_SHUTDOWN)
        case "leave_request_full_reconnect":
            leaving.remove(state, local.who, Reason.STATE_MISMATCH, rtc.LeaveRequest.RECONNECT)
        case "switch_candidate_protocol":
            negotiating.restart(state, local)
        case "disconnect_signal_on_resume":
            _drop_next_resume(state, local, silently=False)
        case "disconnect_signal_on_resume_no_messages":
            _drop_next_resume(state, local, silently=True)
        case "subscriber_bandwidth":
            local.bandwidth_cap_bps = max(scenario.subscriber_bandwidth, 0)
            downlink.cap_changed(state, local)
        case _:
            state.counters["simulate_unknown"] += 1


def _speak(state: RoomState, local: LocalParticipant, seconds: int) -> None:
    hearing.tell_speaker(state, local.who, SPEAKER_LEVEL)
    if local.pretended is not None:
        local.pretended.cancel()
    local.pretended = state.agenda.at(
        state.after(min(max(seconds, 0), MAX_SPEAKING_S) * SECOND),
        lambda: hearing.tell_speaker(state, local.who, 0.0),
    )


def _vanish(state: RoomState, local: LocalParticipant) -> None:
    """As if the node had died: no leave is said; the client's resume will meet STATE_MISMATCH."""
    leaving.end_session(state, local, None)
    leaving.remove(state, local.who, Reason.STATE_MISMATCH)


def _drop_next_resume(state: RoomState, local: LocalParticipant, *, silently: bool) -> None:
    local.drop_resume_until = state.after(DROP_RESUME_NS)
    local.drop_resume_silently = silently
