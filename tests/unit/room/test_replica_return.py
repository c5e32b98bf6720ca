"""Back in the cluster after this node was gone for the others: who comes back, and who leaves for good."""

from livekit.protocol import models, rtc

from tertulia.protocol import bus
from tertulia.protocol.ids import NodeId
from tertulia.sfu.events import FromNode, NodesHere, ToNodes
from tests.unit.room.stage import Guest, Stage

OTHER = NodeId("ND_other")
Leave = rtc.LeaveRequest


def hear(stage: Stage, word: bus.Word) -> None:
    stage.feed(FromNode(OTHER, bus.encode(word)))


def said(stage: Stage) -> list[bus.Word]:
    return [bus.decode_room(output.data) for output in stage.outputs if isinstance(output, ToNodes)]


def snapshot(*members: bus.Member) -> bus.Snapshot:
    return bus.Snapshot(instance=7, number=0, members=members, data_number=1)


def ends(guest: Guest) -> list[tuple[int, int]]:
    return [(leave.reason, leave.action) for leave in guest.all("leave")]


def back(stage: Stage) -> None:
    """The other node says that we were gone."""
    stage.feed(NodesHere(frozenset({OTHER})))
    hear(stage, snapshot())
    instance = next(word.instance for word in said(stage) if isinstance(word, bus.Hello))
    hear(stage, bus.Stale(instance=instance))
    greeted = {word.instance for word in said(stage) if isinstance(word, bus.Hello)}
    assert greeted > {instance}, "from now on it is another replica"


def member(identity: str) -> bus.Member:
    info = models.ParticipantInfo(sid="PA_late", identity=identity, state=models.ParticipantInfo.ACTIVE)
    return bus.Member(sid="PA_late", revision=0, ticket=5, info=info.SerializeToString())


def test_who_came_back_elsewhere_is_not_displaced() -> None:
    stage = Stage()
    ann, bob = stage.join("ann"), stage.join("bob")
    back(stage)
    assert ends(ann) == ends(bob) == [], "first we hear who is there"
    hear(stage, snapshot(member("bob")))
    stage.pass_time(0.1)
    assert ends(bob) == [(models.DUPLICATE_IDENTITY, Leave.DISCONNECT)]
    assert ends(ann) == [(models.STATE_MISMATCH, Leave.RECONNECT)]


def test_a_node_that_does_not_tell_its_members_holds_nobody_up_for_long() -> None:
    stage = Stage()
    ann = stage.join("ann")
    back(stage)
    stage.pass_time(1.5)
    assert ends(ann) == []
    late = stage.join("late")
    stage.pass_time(1)
    assert ends(ann) == [(models.STATE_MISMATCH, Leave.RECONNECT)]
    assert ends(late) == [], "came after we were back"
