"""Going out: leave, lost sessions and connections, the life of the room itself."""

from livekit.protocol import models, rtc

from tertulia.sfu.events import Closed, SessionClosed
from tertulia.sfu.plane.api import TransportSilent
from tertulia.sfu.transport.api import PEER_CLOSED, TransportFailed, TransportLost, TransportRestored
from tests.unit.room.stage import Stage
from tests.unit.room.test_publishing import shown

Reason = models.DisconnectReason
GONE = models.ParticipantInfo.DISCONNECTED


def closed(stage: Stage) -> list[int]:
    return [output.reason for output in stage.outputs if isinstance(output, Closed)]


def test_a_session_that_ends_before_the_connection_is_a_leave() -> None:
    stage = Stage()
    ann = stage.join("ann")
    ben = stage.join("ben", connected=False)
    stage.feed(SessionClosed(ben.session))
    assert shown(ann, "ben").disconnect_reason == Reason.SIGNAL_CLOSE
    assert stage.transports.opened == {ann.up}


def test_a_lost_session_with_living_media_is_kept() -> None:
    stage = Stage()
    ann, ben = stage.join("ann"), stage.join("ben")
    stage.feed(SessionClosed(ben.session))
    stage.pass_time(300)
    assert shown(ann, "ben").state == models.ParticipantInfo.ACTIVE


def test_neither_signal_nor_media_for_half_a_minute() -> None:
    stage = Stage()
    ann, ben = stage.join("ann"), stage.join("ben")
    ben.happens(TransportLost())
    stage.feed(SessionClosed(ben.session))
    stage.pass_time(29)
    assert shown(ann, "ben").state == models.ParticipantInfo.ACTIVE
    stage.pass_time(2)
    assert shown(ann, "ben").state == GONE
    assert shown(ann, "ben").disconnect_reason == Reason.CONNECTION_TIMEOUT


def test_media_that_comes_back_saves_the_member() -> None:
    stage = Stage()
    ann, ben = stage.join("ann"), stage.join("ben")
    stage.feed(SessionClosed(ben.session))
    ben.happens(TransportLost())
    stage.pass_time(20)
    ben.happens(TransportRestored())
    stage.pass_time(60)
    assert shown(ann, "ben").state == models.ParticipantInfo.ACTIVE


def test_a_failed_connection_makes_the_client_start_afresh() -> None:
    stage = Stage()
    ann, ben = stage.join("ann"), stage.join("ben")
    ben.happens(TransportFailed("consent"))
    assert ben.last("leave").action == rtc.LeaveRequest.RECONNECT
    assert ben.last("leave").can_reconnect
    assert shown(ann, "ben").disconnect_reason == Reason.CONNECTION_TIMEOUT
    ben.happens(TransportLost())  # late news
    assert stage.room.counters["transport_event_late"] == 1


def test_a_closed_connection_waits_for_the_word_of_leave() -> None:
    stage = Stage()
    ann, ben = stage.join("ann"), stage.join("ben")
    ben.happens(TransportFailed(PEER_CLOSED))
    ben.say(leave=rtc.LeaveRequest())
    assert shown(ann, "ben").disconnect_reason == Reason.CLIENT_INITIATED


def test_a_closed_connection_without_a_word_is_a_lost_one() -> None:
    stage = Stage()
    ann, ben = stage.join("ann"), stage.join("ben")
    ben.happens(TransportFailed(PEER_CLOSED))
    assert shown(ann, "ben").state == models.ParticipantInfo.ACTIVE
    stage.pass_time(3)
    assert ben.last("leave").action == rtc.LeaveRequest.RECONNECT
    assert shown(ann, "ben").disconnect_reason == Reason.CONNECTION_TIMEOUT


def test_a_connection_that_hit_a_limit_ends() -> None:
    stage = Stage()
    ben = stage.join("ben")
    stage.report(TransportSilent(ben.up, "ssrc flood"))
    assert ben.is_ended


def test_the_room_ends_a_while_after_the_last_leaves() -> None:
    stage = Stage(departure_timeout=7)
    ann = stage.join("ann")
    ann.say(leave=rtc.LeaveRequest())
    stage.pass_time(6)
    assert not closed(stage)
    stage.pass_time(2)
    assert closed(stage) == [Reason.ROOM_CLOSED]
    assert stage.happened()[-1] == "room_finished"
    assert stage.room.next_wake() is None
    assert not stage.transports.opened


def test_somebody_coming_back_keeps_it_open() -> None:
    stage = Stage(departure_timeout=7)
    stage.join("ann").say(leave=rtc.LeaveRequest())
    stage.pass_time(6)
    stage.join("ann")
    stage.pass_time(60)
    assert not closed(stage)


def test_a_room_nobody_joins_ends_too() -> None:
    stage = Stage(empty_timeout=9)
    stage.pass_time(8)
    assert not closed(stage)
    stage.pass_time(2)
    assert closed(stage) == [Reason.ROOM_CLOSED]


def test_agents_do_not_keep_it_open_and_hear_the_end() -> None:
    stage = Stage(departure_timeout=7)
    agent = stage.join("agent", claims={"kind": "agent"})
    stage.join("ann").say(leave=rtc.LeaveRequest())
    stage.pass_time(8)
    assert closed(stage) == [Reason.ROOM_CLOSED]
    assert agent.last("leave").reason == Reason.ROOM_CLOSED
    assert agent.is_ended


def test_shut_down_says_so() -> None:
    stage = Stage()
    ann = stage.join("ann")
    ann.publish()
    stage.room.shut_down(stage.now)
    stage.drain()
    assert ann.last("leave").reason == Reason.SERVER_SHUTDOWN
    assert closed(stage) == [Reason.SERVER_SHUTDOWN]
    assert stage.plane.is_empty
    stage.feed(SessionClosed(ann.session))  # after the end nothing matters


def test_a_leave_says_nothing_back() -> None:
    stage = Stage()
    ann, ben = stage.join("ann"), stage.join("ben")
    ben.forget()
    ben.say(leave=rtc.LeaveRequest(reason=Reason.CLIENT_INITIATED))
    assert ben.signals == []
    assert ben.is_ended
    assert shown(ann, "ben").disconnect_reason == Reason.CLIENT_INITIATED
    ben.say(leave=rtc.LeaveRequest())
    assert stage.room.counters["request_without_member"] == 1
