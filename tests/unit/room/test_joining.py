"""Coming in: the join response, who hears of it, and who is refused."""

import pytest
from livekit.protocol import models, rtc

from tertulia.protocol.errors import RequestError
from tertulia.sfu.events import Happened, SessionClosed
from tertulia.sfu.transport.api import TransportConnected
from tests.unit.room.stage import Stage, claims_of, track_request

JOINED, ACTIVE = models.ParticipantInfo.JOINED, models.ParticipantInfo.ACTIVE
GONE = models.ParticipantInfo.DISCONNECTED


def test_join_comes_first_then_the_answer() -> None:
    ann = Stage().join("ann", connected=False)
    assert ann.kinds() == ["join", "answer", "trickle"]
    assert ann.last("answer").id == 1
    assert len(ann.refreshes) == 1


def test_join_response_says_what_clients_need() -> None:
    stage = Stage(metadata="m", max_participants=7)
    join = stage.join("ann").last("join")
    assert join.room.sid.startswith("RM_")
    assert (join.room.name, join.room.metadata, join.room.max_participants) == ("stage", "m", 7)
    assert (join.room.empty_timeout, join.room.departure_timeout) == (300, 20)
    assert join.participant.sid.startswith("PA_")
    assert (join.participant.identity, join.participant.name, join.participant.state) == ("ann", "Ann", JOINED)
    assert join.participant.permission.can_publish
    assert join.participant.joined_at == 1_700_000_100
    assert join.server_info.version
    assert join.server_info.node_id == "ND_here"
    assert (join.ping_interval, join.ping_timeout) == (5, 15)
    assert len(join.sif_trailer) == 16
    assert join.enabled_publish_codecs[0].mime == "video/VP8"
    assert not join.subscriber_primary
    assert join.fast_publish


def test_client_protocol_and_capabilities_are_shown_to_others() -> None:
    stage = Stage()
    client = models.ClientInfo(client_protocol=2, capabilities=[models.ClientInfo.CAP_PACKET_TRAILER])
    stage.join("ann", client=client)
    other = stage.join("ben").last("join").other_participants[0]
    assert other.client_protocol == 2
    assert list(other.capabilities) == [models.ClientInfo.CAP_PACKET_TRAILER]


def test_others_hear_of_a_member_when_it_joins_and_when_it_is_active() -> None:
    stage = Stage()
    ann = stage.join("ann")
    ann.forget()
    ben = stage.join("ben", connected=False)
    assert [p.identity for p in ben.last("join").other_participants] == ["ann"]
    (first,) = ann.all("update")
    assert [(p.identity, p.state) for p in first.participants] == [("ben", JOINED)]
    ben.happens(TransportConnected())
    second = ann.last("update").participants[0]
    assert second.state == ACTIVE
    assert second.version > first.participants[0].version
    assert ben.last("update").participants[0].identity == "ben"
    assert stage.happened().count("participant_joined") == 2


def test_duplicate_identity_the_new_one_stays() -> None:
    stage = Stage()
    ann, old = stage.join("ann"), stage.join("ben")
    ann.forget()
    new = stage.join("ben", connected=False)
    assert old.last("leave").reason == models.DisconnectReason.DUPLICATE_IDENTITY
    assert old.is_ended
    told = [p for update in ann.all("update") for p in update.participants]
    assert [(p.sid, p.state) for p in told] == [(old.sid, GONE), (new.sid, JOINED)]
    assert told[0].disconnect_reason == models.DisconnectReason.DUPLICATE_IDENTITY
    stage.feed(SessionClosed(old.session))  # late news of the old session change nothing
    assert {p.identity for p in stage.join("cyd").last("join").other_participants} == {"ann", "ben"}


def test_full_room_refuses_and_agents_do_not_count() -> None:
    stage = Stage(max_participants=1)
    stage.join("agent", claims={"kind": "agent"})
    stage.join("ann")
    with pytest.raises(RequestError, match="max participants") as caught:
        stage.room.admit(claims_of("ben"))
    assert caught.value.code == "permission_denied"
    stage.room.admit(claims_of("ann"))  # comes back
    ben = stage.join("ben")  # the door asked before somebody else took the last place
    assert ben.last("leave").reason == models.DisconnectReason.JOIN_FAILURE
    assert ben.is_ended
    assert stage.room.counters["join_refused"] == 1


def test_hidden_members_see_and_are_not_seen() -> None:
    stage = Stage()
    ann = stage.join("ann")
    ann.forget()
    spy = stage.join("spy", grants={"hidden": True})
    assert "update" not in ann.kinds()
    assert [p.identity for p in spy.last("join").other_participants] == ["ann"]
    assert not stage.join("ben").last("join").other_participants[1:]
    spy.say(leave=rtc.LeaveRequest())
    assert not [p for u in ann.all("update") for p in u.participants if p.identity == "spy"]


def test_a_member_that_never_connects_is_removed() -> None:
    stage = Stage()
    ann = stage.join("ann")
    ben = stage.join("ben", connected=False)
    stage.pass_time(59)
    assert not ben.is_ended
    stage.pass_time(2)
    assert ben.last("leave").reason == models.DisconnectReason.JOIN_FAILURE
    assert ann.last("update").participants[0].disconnect_reason == models.DisconnectReason.JOIN_FAILURE
    assert stage.room.counters["join_timeout"] == 1
    assert "participant_connection_aborted" in stage.happened()


def test_tracks_of_the_join_request_are_announced_before_the_answer() -> None:
    ann = Stage().join("ann", add_tracks=(track_request("mic", "audio"),))
    assert ann.kinds()[:3] == ["join", "track_published", "answer"]


def test_tokens_are_refreshed_every_five_minutes() -> None:
    stage = Stage()
    ann = stage.join("ann")
    stage.pass_time(301)
    assert len(ann.refreshes) == 2
    assert ann.refreshes[-1].claims.identity == "ann"


def test_too_large_metadata_is_refused() -> None:
    ann = Stage().join("ann", claims={"metadata": "x" * (600 << 10)})
    assert ann.last("leave").reason == models.DisconnectReason.JOIN_FAILURE


def test_room_events_for_webhooks() -> None:
    stage = Stage()
    stage.join("ann")
    assert stage.happened() == ["room_started", "participant_joined"]
    joined = stage.outputs[-1]
    assert isinstance(joined, Happened)
    assert joined.participant is not None
    assert (joined.participant.identity, joined.participant.state) == ("ann", ACTIVE)
    assert joined.room.num_participants == 1
