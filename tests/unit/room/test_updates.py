"""Who is told what of whom, and how calmly in a big room."""

from livekit.protocol import models, rtc

from tertulia.protocol.ids import NodeId
from tertulia.protocol.machine import SECOND
from tertulia.sfu.participant import Participant
from tertulia.sfu.settings import CALM_MEMBERS, CALM_UPDATES, MAX_UPDATE_BYTES
from tertulia.sfu.updates import Updates
from tests.unit.room.stage import Stage
from tests.unit.room.test_publishing import shown


def crowd(stage: Stage) -> list[str]:
    return [stage.join(f"guest{number}").name for number in range(CALM_MEMBERS)]


def test_listeners_of_a_big_room_come_and_go_in_batches() -> None:
    stage = Stage()
    ann = stage.join("ann")
    crowd(stage)
    stage.pass_time(CALM_UPDATES[0][1] / 1e9 + 0.5)
    ann.forget()
    for number in range(10):
        stage.join(f"late{number}")
    assert not ann.all("update")
    stage.pass_time(CALM_UPDATES[0][1] / 1e9)
    (update,) = ann.all("update")
    assert [p.identity for p in update.participants] == [f"late{number}" for number in range(10)]


def test_a_join_is_one_message_in_a_room_that_is_not_small() -> None:
    stage = Stage()
    ann = stage.join("ann")
    least, wait_ns = CALM_UPDATES[-1]
    for number in range(least):
        stage.join(f"guest{number}")
    stage.pass_time(1)
    ann.forget()
    stage.join("late")
    assert not ann.all("update")
    stage.pass_time(wait_ns / SECOND)
    (update,) = ann.all("update")
    assert [(p.identity, p.state) for p in update.participants] == [("late", models.ParticipantInfo.ACTIVE)]


def test_publishers_of_a_big_room_are_told_at_once() -> None:
    stage = Stage()
    ann = stage.join("ann")
    crowd(stage)
    ben = stage.join("ben")
    stage.pass_time(1)
    ann.forget()
    cam = ben.publish()
    assert [track.sid for track in shown(ann, "ben").tracks] == [cam.sid]
    ben.say(leave=rtc.LeaveRequest())
    assert shown(ann, "ben").state == models.ParticipantInfo.DISCONNECTED


def test_one_turn_is_one_message() -> None:
    stage = Stage()
    ann, ben = stage.join("ann"), stage.join("ben")
    ann.publish()
    ann.publish("mic", "audio")
    ben.forget()
    ann.say(leave=rtc.LeaveRequest())  # two tracks end, a member leaves
    (update,) = ben.all("update")
    assert len(update.participants) == 1


def test_large_updates_are_split() -> None:
    updates = Updates()
    members = []
    for number in range(5):
        info = models.ParticipantInfo(sid=f"PA_{number}", identity=str(number), metadata="x" * (MAX_UPDATE_BYTES // 2))
        members.append(Participant(info, NodeId("ND_here")))
        updates.mark(members[-1], to_self=False)
    viewer = Participant(models.ParticipantInfo(sid="PA_viewer"), NodeId("ND_here"))
    messages = updates.take().messages_for(viewer)
    assert [[p.identity for p in m.update.participants] for m in messages] == [[str(number)] for number in range(5)]
    assert all(message.ByteSize() < MAX_UPDATE_BYTES for message in messages)
    assert not updates.is_waiting


def test_counts_are_told_every_few_seconds() -> None:
    stage = Stage()
    ann = stage.join("ann")
    stage.pass_time(6)
    assert ann.last("room_update").room.num_participants == 1
    count = len(ann.all("room_update"))
    stage.pass_time(20)
    assert len(ann.all("room_update")) == count
    stage.join("ben").publish()
    stage.pass_time(6)
    room = ann.last("room_update").room
    assert (room.num_participants, room.num_publishers) == (2, 1)
