"""In a crowd one round of negotiation takes several tracks; a small call, and the first track, never wait."""

from tertulia.protocol.machine import SECOND
from tertulia.sfu.settings import MAX_PACE_NS
from tests.unit.room.stage import Guest, Stage


def asked(guest: Guest) -> int:
    return len(guest.all("media_sections_requirement"))


def crowd(stage: Stage, members: int) -> tuple[Guest, Guest]:
    ann, ben = stage.join("ann"), stage.join("ben")
    for number in range(members):
        stage.join(f"guest{number}", connected=False)
    stage.pass_time(2)
    ben.forget()
    return ann, ben


def test_a_crowd_has_one_round_for_several_tracks() -> None:
    stage = Stage()
    ann, ben = crowd(stage, 60)
    sids = {ann.publish("cam").sid}
    assert asked(ben) == 1, "the first track is asked for at once"
    ben.offer()
    for number in range(4):
        sids.add(ann.publish(f"mic{number}", "audio").sid)
        ben.add_section("", "audio").direction = "recvonly"
    assert asked(ben) == 1
    stage.pass_time(MAX_PACE_NS / SECOND)
    assert asked(ben) == 2
    assert set(ben.offer().mid_to_track_id.values()) == sids


def test_a_round_of_the_client_brings_what_waits() -> None:
    stage = Stage()
    ann, ben = crowd(stage, 60)
    ann.publish("cam")
    ben.offer()
    mic = ann.publish("mic", "audio")
    assert mic.sid in ben.offer().mid_to_track_id.values()
    stage.pass_time(MAX_PACE_NS / SECOND)
    assert asked(ben) == 1


def test_a_small_call_never_waits() -> None:
    stage = Stage()
    ann, ben = crowd(stage, 1)
    ann.publish("cam")
    ben.offer()
    ann.publish("mic", "audio")
    assert asked(ben) == 2
