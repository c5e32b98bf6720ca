"""Who is tapped, in which layer, and who sits where."""

from livekit.protocol import models

from tertulia.egress.plan import PairSource, PersonSource, RoomSource, Source
from tertulia.egress.stage import (
    AUDIO_LIMIT,
    MAIN_HOLD_NS,
    CloseTrack,
    MuteTrack,
    OpenTrack,
    ResizeTrack,
    Scene,
    SourceEnded,
    Stage,
    StageOutput,
)
from tertulia.protocol.machine import SECOND, Nanos
from tertulia.protocol.tap import ParticipantGone, RoomGone, SpeakersChanged, TapEvent, TrackAvailable, TrackGone

SIZE = (1280, 720)


def available(
    who: str, sid: str, source: int = models.CAMERA, *, kind: int = 0, size: tuple[int, int] = (1280, 720),
    muted: bool = False, layers: tuple[int, ...] = (180, 360, 720), mime: str | None = None,
) -> TrackAvailable:  # fmt: skip
    sound = source in (models.MICROPHONE, models.SCREEN_SHARE_AUDIO)
    track = models.TrackInfo(
        sid=sid, type=models.AUDIO if sound else models.VIDEO, source=source, width=size[0], height=size[1], muted=muted
    )
    if not sound:
        for height in layers:
            track.layers.add(width=size[0] * height // size[1], height=height)
    person = models.ParticipantInfo(sid=f"PA_{who}", identity=who, kind=kind, joined_at=ord(who[0]))
    return TrackAvailable(person, track, mime or ("audio/opus" if sound else "video/VP8"), 48_000 if sound else 90_000)


class Drive:
    def __init__(
        self,
        source: Source | None = None,
        *,
        layout: str = "grid",
        audio: bool = True,
        size: tuple[int, int] | None = SIZE,
    ) -> None:
        self.stage = Stage(source or RoomSource(layout, "both"), size, audio=audio)
        self.now = Nanos(SECOND)
        self.out: list[StageOutput] = []

    def tell(self, *events: TapEvent) -> list[StageOutput]:
        self.now = Nanos(self.now + SECOND // 50)
        for event in events:
            self.stage.handle(self.now, event)
        return self.poll()

    def poll(self) -> list[StageOutput]:
        out: list[StageOutput] = []
        while (output := self.stage.poll()) is not None:
            out.append(output)
        self.out += out
        return out

    def seats(self) -> list[str]:
        return [tile.track_sid for tile in next(o for o in reversed(self.out) if isinstance(o, Scene)).tiles]


def test_layers_follow_the_tiles() -> None:
    drive = Drive()
    opened = drive.tell(available("a", "A"))
    assert isinstance(opened[0], OpenTrack)
    assert opened[0].max_height == 720
    out = drive.tell(available("b", "B"), available("c", "C"), available("d", "D"))
    assert [o.max_height for o in out if isinstance(o, OpenTrack)] == [360, 360, 360]
    assert [o for o in out if isinstance(o, ResizeTrack)] == [ResizeTrack("A", 360)]
    out = drive.tell(*(available(x, x.upper()) for x in "efghi"))
    assert {o.max_height for o in out if isinstance(o, OpenTrack | ResizeTrack)} == {
        360
    }  # 232 lines need more than 180
    out = drive.tell(*(available(x, x.upper()) for x in "jklm"))
    assert {o.max_height for o in out if isinstance(o, OpenTrack | ResizeTrack)} == {180}
    assert len(drive.seats()) == 13


def test_nobody_moves_without_need() -> None:
    drive = Drive()
    drive.tell(*(available(x, x.upper()) for x in "abcd"))
    assert drive.seats() == ["A", "B", "C", "D"]
    drive.tell(SpeakersChanged(("PA_d", "PA_c")))
    assert drive.seats() == ["A", "B", "C", "D"]
    drive.tell(TrackGone("PA_b", "B"))
    assert drive.seats() == ["A", "C", "D"]
    drive.tell(available("b", "B2"))
    assert drive.seats() == ["A", "C", "D", "B2"]


def test_who_speaks_gets_onto_a_full_page() -> None:
    drive = Drive(size=(1280, 720))
    people = [f"{chr(97 + i)}" for i in range(26)]
    drive.tell(*(available(x, x.upper()) for x in people))
    assert "Z" not in drive.seats()
    out = drive.tell(SpeakersChanged(("PA_z",)))
    assert "Z" in drive.seats()
    assert len(drive.seats()) == 25
    closed = [o.track_sid for o in out if isinstance(o, CloseTrack)]
    assert len(closed) == 1
    assert drive.seats()[:24] == [x.upper() for x in people[:24]]


def test_the_main_place_is_held_a_while() -> None:
    drive = Drive(layout="speaker")
    drive.tell(available("a", "A"), available("b", "B"), available("c", "C"))
    drive.tell(SpeakersChanged(("PA_b",)))
    drive.stage.wake(Nanos(drive.now + MAIN_HOLD_NS))
    drive.poll()
    assert drive.seats()[0] == "B"
    drive.now = Nanos(drive.now + MAIN_HOLD_NS)
    drive.tell(SpeakersChanged(("PA_c",)))
    wake = drive.stage.next_wake()
    if wake is not None:
        drive.stage.wake(wake)
        drive.poll()
    assert drive.seats()[0] == "C"
    drive.tell(SpeakersChanged(("PA_a",)))
    assert drive.seats()[0] == "C"  # too soon
    wake = drive.stage.next_wake()
    assert wake is not None
    drive.stage.wake(wake)
    drive.poll()
    assert drive.seats()[0] == "A"
    drive.tell(TrackGone("PA_a", "A"))
    assert len(drive.seats()) == 2  # who is gone is not waited for


def test_screens_come_first_whatever_is_said() -> None:
    drive = Drive(layout="grid")
    drive.tell(available("a", "A"), available("b", "B"))
    drive.tell(available("b", "S", models.SCREEN_SHARE, size=(1920, 1080)))
    assert drive.seats()[0] == "S"
    drive.tell(SpeakersChanged(("PA_a",)))
    assert drive.seats()[0] == "S"
    drive.tell(TrackGone("PA_b", "S"))
    scene = next(o for o in reversed(drive.out) if isinstance(o, Scene))
    assert scene.tiles[0].rect.width == scene.tiles[1].rect.width  # a grid again


def test_single_speaker_shows_one() -> None:
    drive = Drive(layout="single-speaker-light")
    out = drive.tell(available("a", "A"), available("b", "B"))
    assert [o.track.track.sid for o in out if isinstance(o, OpenTrack)] == ["A"]
    drive.tell(SpeakersChanged(("PA_b",)))
    drive.now = Nanos(drive.now + 2 * SECOND)
    drive.stage.wake(drive.now)
    out = drive.poll()
    assert drive.seats() == ["B"]
    assert CloseTrack("A") in out


def test_mutes_are_told_once() -> None:
    drive = Drive()
    drive.tell(available("a", "A"), available("a", "M", models.MICROPHONE))
    assert MuteTrack("A", True) in drive.tell(available("a", "A", muted=True))
    assert drive.tell(available("a", "A", muted=True)) == []
    assert MuteTrack("A", False) in drive.tell(available("a", "A"))


def test_upright_pictures_and_screens_are_shown_whole() -> None:
    drive = Drive()
    drive.tell(available("a", "A", size=(720, 1280), layers=(1280,)), available("b", "B"))
    scene = next(o for o in reversed(drive.out) if isinstance(o, Scene))
    assert [tile.whole for tile in scene.tiles] == [True, False]


def test_sound_only_and_picture_only() -> None:
    both = (available("a", "A"), available("a", "M", models.MICROPHONE))
    opened = [o.track.track.sid for o in Drive(size=None).tell(*both) if isinstance(o, OpenTrack)]
    assert opened == ["M"]
    opened = [o.track.track.sid for o in Drive(audio=False).tell(*both) if isinstance(o, OpenTrack)]
    assert opened == ["A"]


def test_channels() -> None:
    agent = models.ParticipantInfo.Kind.AGENT
    drive = Drive(RoomSource("", "agent"), size=None)
    out = drive.tell(available("a", "M", models.MICROPHONE), available("b", "N", models.MICROPHONE, kind=agent))
    assert [o.channel for o in out if isinstance(o, OpenTrack)] == ["right", "left"]
    drive = Drive(RoomSource("", "alternate"), size=None)
    out = drive.tell(*(available(x, x.upper(), models.MICROPHONE) for x in "abc"))
    assert [o.channel for o in out if isinstance(o, OpenTrack)] == ["left", "right", "left"]


def test_voices_are_limited_and_a_seat_that_falls_free_is_taken() -> None:
    drive = Drive(size=None)
    out = drive.tell(*(available(f"p{i}", f"M{i}", models.MICROPHONE) for i in range(AUDIO_LIMIT + 3)))
    assert sum(isinstance(o, OpenTrack) for o in out) == AUDIO_LIMIT
    out = drive.tell(TrackGone("PA_p0", "M0"))
    assert [type(o) for o in out] == [CloseTrack, OpenTrack]


def test_a_person_and_nobody_else() -> None:
    drive = Drive(PersonSource("a", False))
    out = drive.tell(
        available("a", "A"), available("a", "S", models.SCREEN_SHARE), available("b", "B"),
        available("a", "M", models.MICROPHONE),
    )  # fmt: skip
    assert {o.track.track.sid for o in out if isinstance(o, OpenTrack)} == {"A", "M"}
    assert not any(isinstance(o, SourceEnded) for o in drive.tell(ParticipantGone("b", "PA_b")))
    assert any(isinstance(o, SourceEnded) for o in drive.tell(ParticipantGone("a", "PA_a")))
    drive = Drive(PersonSource("a", True))
    out = drive.tell(available("a", "A"), available("a", "S", models.SCREEN_SHARE))
    assert {o.track.track.sid for o in out if isinstance(o, OpenTrack)} == {"S"}


def test_pairs_name_what_is_missing_and_end_when_both_are_gone() -> None:
    drive = Drive(PairSource("M", "A"))
    assert drive.stage.casting.missing() == "track M"
    drive.tell(available("a", "M", models.MICROPHONE))
    assert drive.stage.casting.missing() == "track A"
    drive.tell(available("b", "A"))
    assert drive.stage.casting.missing() == ""
    assert not any(isinstance(o, SourceEnded) for o in drive.tell(TrackGone("PA_a", "M")))
    assert any(isinstance(o, SourceEnded) for o in drive.tell(TrackGone("PA_b", "A")))


def test_what_cannot_be_recorded_is_left_out_with_its_reason() -> None:
    drive = Drive()
    drive.tell(available("a", "A", mime="video/H265"), available("b", "B"))
    assert drive.seats() == ["B"]
    assert drive.stage.casting.unrecordable == {"A": "codec video/H265 cannot be recorded"}


def test_after_the_end_nothing_more_is_wished() -> None:
    drive = Drive()
    drive.tell(RoomGone(0))
    assert drive.tell(available("a", "A"), RoomGone(0)) == []
