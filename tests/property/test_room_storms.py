"""Whatever clients, networks and callers do: a room never crashes, tells the truth, and gives everything back."""

from collections.abc import Callable
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from livekit.protocol import models, room, rtc

from tertulia.protocol.errors import RequestError
from tertulia.sfu.events import Closed, SessionClosed
from tertulia.sfu.plane.api import AudioWindow, KeyFrame, Switched, TransportSilent, UnboundSsrc
from tertulia.sfu.transport.api import (
    ChannelClosed,
    ChannelMessage,
    TransportConnected,
    TransportFailed,
    TransportLost,
    TransportRestored,
)
from tests.unit.room.stage import Guest, Stage
from tests.unit.room.test_two_connections import answer_to

NAMES = ("ann", "ben", "cyd", "dan")
FIRST = {"join", "reconnect", "leave"}


class Storm:
    """One stage and a crowd that does anything."""

    def __init__(self) -> None:
        self.stage = Stage(departure_timeout=5, max_participants=3)
        self.lost: list[Guest] = []
        """Guests without a session that may resume."""
        self.rng = Random(0)

    def act(self, seed: int) -> None:
        self.rng = Random(seed)
        self.rng.choice(ACTIONS)(self)

    def guest(self) -> Guest | None:
        there = [guest for guest in self.stage.guests.values() if not guest.is_ended]
        return self.rng.choice(there) if there else None

    def sid(self, kind: str = "track") -> str:
        """Something that exists, or did, or never will."""
        known = ["", "TR_x"]
        for guest in self.stage.guests.values():
            known += [told.track.sid for told in guest.all("track_published")]
            known.append(guest.sid)
            known += [told.info.sid for told in guest.all("publish_data_track_response")]
        return self.rng.choice(known)

    def number(self) -> int:
        plane = self.stage.plane
        return self.rng.choice([0, *plane.ups, *plane.downs, *plane.tracks])

    # coming and going

    def join(self) -> None:
        grants = {name: self.rng.random() < 0.9 for name in ("can_publish", "can_subscribe", "can_publish_data")}
        self.stage.join(
            self.rng.choice(NAMES),
            v1=self.rng.random() < 0.7,
            connected=self.rng.random() < 0.8,
            auto_subscribe=self.rng.random() < 0.8,
            adaptive_stream=self.rng.random() < 0.3,
            auto_subscribe_data_track=self.rng.random() < 0.5,
            grants={**grants, "hidden": self.rng.random() < 0.1, "can_update_own_metadata": True},
        )

    def lose_session(self) -> None:
        if (guest := self.guest()) is not None:
            guest.is_ended = True
            self.stage.feed(SessionClosed(guest.session))
            self.lost.append(guest)

    def resume(self) -> None:
        old = self.rng.choice(self.lost) if self.lost else self.guest()
        if old is not None:
            disabled = [self.sid()]
            wish = rtc.UpdateSubscription(track_sids=[self.sid()], subscribe=self.rng.random() < 0.5)
            known = (
                [rtc.TrackPublishedResponse(track=models.TrackInfo(sid=self.sid()))] if self.rng.random() < 0.3 else []
            )
            state = rtc.SyncState(subscription=wish, track_sids_disabled=disabled, publish_tracks=known)
            self.stage.resume(old, sync_state=self.rng.choice([None, state]))

    def transport(self) -> None:
        if (guest := self.guest()) is not None and guest.transports:
            events = [TransportConnected(), TransportLost(), TransportRestored(), ChannelClosed("_reliable")]
            event = TransportFailed("storm") if self.rng.random() < 0.1 else self.rng.choice(events)
            guest.happens(event, self.rng.choice(guest.transports))

    # signal

    def publish(self) -> None:
        if (guest := self.guest()) is None:
            return
        kind = self.rng.choice(["audio", "video"])
        cid = f"{kind}{self.rng.randrange(3)}"
        if self.rng.random() < 0.8:
            guest.add_track(cid, kind, muted=self.rng.random() < 0.2)
        if self.rng.random() < 0.8:
            guest.add_section(cid if self.rng.random() < 0.9 else "", kind, self.rng.choice([(), ("q", "h", "f")]))
        guest.say(offer=guest.next_offer())

    def unpublish(self) -> None:
        guest = self.guest()
        own = [section for section in guest.sections if section.cid] if guest is not None else []
        if guest is not None and own:
            section = self.rng.choice(own)
            section.direction, section.cid, section.rids = "inactive", "", ()
            guest.say(offer=guest.next_offer())

    def negotiate(self) -> None:
        if (guest := self.guest()) is None:
            return
        if offers := guest.all("offer"):
            guest.say(answer=answer_to(offers[-1]))
        elif self.rng.random() < 0.05:
            guest.say(offer=rtc.SessionDescription(type="offer", sdp="v=0"))
        else:
            guest.say(offer=guest.next_offer())

    def ask(self) -> None:
        if (guest := self.guest()) is not None:
            guest.say(**self.rng.choice(REQUESTS)(self))

    # media and data

    def report(self) -> None:
        guest = self.guest()
        if guest is None or not guest.transports:
            return
        rid = self.rng.choice(["", "q", "h", "f", "z"])
        ssrc = self.rng.randrange(1, 30)
        mid, pt = str(self.rng.randrange(9)), self.rng.choice([96, 97, 111])
        reports = [
            UnboundSsrc(guest.up, ssrc, pt, mid, rid, ""),
            UnboundSsrc(guest.up, ssrc, pt, mid, "", rid),
            KeyFrame(self.number(), 0, 0),
            Switched(self.number(), self.rng.randrange(-1, 3)),
        ]
        if self.rng.random() < 0.03:
            reports.append(TransportSilent(guest.up, "storm"))
        self.stage.report(self.rng.choice(reports))

    def speech(self) -> None:
        for up in list(self.stage.plane.ups):
            self.stage.plane.levels.append(AudioWindow(up, 20, self.rng.randrange(21), self.rng.randrange(128)))

    def data(self) -> None:
        if (guest := self.guest()) is None or not guest.transports:
            return
        packet = models.DataPacket(
            sequence=self.rng.randrange(5),
            destination_identities=self.rng.choice([[], ["ann"], ["nobody"]]),
            user=models.UserPacket(payload=b"x"),
        )
        label = self.rng.choice(["_reliable", "_lossy", "_data_track", "other"])
        body = self.rng.choice([packet.SerializeToString(), self.rng.randbytes(14), b"\x18\0\0\x01" + bytes(9)])
        guest.happens(ChannelMessage(label, body), self.rng.choice(guest.transports))

    # others

    def command(self) -> None:
        name = self.rng.choice(NAMES)
        permission = models.ParticipantPermission(
            can_subscribe=self.rng.random() < 0.7, can_publish=self.rng.random() < 0.7, hidden=self.rng.random() < 0.2
        )
        choices: list[tuple[str, Any]] = [
            ("ListParticipants", room.ListParticipantsRequest()),
            ("MutePublishedTrack", room.MuteRoomTrackRequest(identity=name, track_sid=self.sid(), muted=True)),
            ("UpdateParticipant", room.UpdateParticipantRequest(identity=name, permission=permission, metadata="m")),
            ("UpdateSubscriptions", room.UpdateSubscriptionsRequest(identity=name, track_sids=[self.sid()])),
            ("SendData", room.SendDataRequest(data=b"x", destination_identities=[name])),
        ]
        if self.rng.random() < 0.1:
            choices = [("RemoveParticipant", room.RoomParticipantIdentity(identity=name))]
        try:
            self.stage.command(*self.rng.choice(choices))
        except RequestError as error:
            if error.code not in ("not_found", "failed_precondition"):
                raise

    def wait(self) -> None:
        self.stage.pass_time(self.rng.choice([0.1, 0.5, 2, 6, 20, 70]))


REQUESTS: list[Callable[[Storm], dict[str, Any]]] = [
    lambda s: {"mute": rtc.MuteTrackRequest(sid=s.sid(), muted=s.rng.random() < 0.5)},
    lambda s: {"subscription": rtc.UpdateSubscription(track_sids=[s.sid()], subscribe=s.rng.random() < 0.6)},
    lambda s: {
        "track_setting": rtc.UpdateTrackSettings(
            track_sids=[s.sid()],
            disabled=s.rng.random() < 0.3,
            height=s.rng.choice([0, 90, 360]),
            fps=s.rng.choice([0, 9]),
        )
    },
    lambda s: {
        "subscription_permission": rtc.SubscriptionPermission(
            all_participants=s.rng.random() < 0.5,
            track_permissions=[rtc.TrackPermission(participant_identity="ann", track_sids=[s.sid()])],
        )
    },
    lambda s: {"update_metadata": rtc.UpdateParticipantMetadata(attributes={"a": s.rng.choice(["", "b"])})},
    lambda s: {"publish_data_track_request": rtc.PublishDataTrackRequest(pub_handle=s.rng.randrange(3), name="n")},
    lambda s: {"unpublish_data_track_request": rtc.UnpublishDataTrackRequest(pub_handle=s.rng.randrange(3))},
    lambda s: {
        "update_data_subscription": rtc.UpdateDataSubscription(
            updates=[rtc.UpdateDataSubscription.Update(track_sid=s.sid(), subscribe=s.rng.random() < 0.7)]
        )
    },
    lambda s: {"simulate": rtc.SimulateScenario(speaker_update=1)},
    lambda s: {"simulate": rtc.SimulateScenario(switch_candidate_protocol=rtc.CandidateProtocol.TCP)},
    lambda s: {"simulate": rtc.SimulateScenario(disconnect_signal_on_resume=True)},
    lambda s: {"leave": rtc.LeaveRequest()},
    lambda s: {"update_audio_track": rtc.UpdateLocalAudioTrack(track_sid=s.sid())},
    lambda s: {"trickle": rtc.TrickleRequest(candidateInit="nonsense")},
    lambda s: {},
]

ACTIONS: list[Callable[[Storm], None]] = [
    *[Storm.join] * 4,
    Storm.lose_session,
    *[Storm.resume] * 2,
    *[Storm.transport] * 2,
    *[Storm.publish] * 5,
    Storm.unpublish,
    *[Storm.negotiate] * 4,
    *[Storm.ask] * 6,
    *[Storm.report] * 4,
    Storm.speech,
    *[Storm.data] * 2,
    Storm.command,
    *[Storm.wait] * 2,
]


def check_sessions(stage: Stage) -> None:
    """The first word of a session is one clients understand; versions never go back."""
    for guest in stage.guests.values():
        assert not guest.signals or guest.kinds()[0] in FIRST
        versions: dict[str, int] = {}
        for update in guest.all("update"):
            for info in update.participants:
                assert info.version >= versions.get(info.sid, 0)
                versions[info.sid] = info.version


def check_rosters(stage: Stage) -> None:
    """What every member was told of the others is what is."""
    listed = stage.command("ListParticipants", room.ListParticipantsRequest()).participants
    truth = {info.sid: info for info in listed if not info.permission.hidden}
    for guest in stage.guests.values():
        if guest.is_ended:
            continue
        known: dict[str, models.ParticipantInfo] = {}
        for signal in guest.signals:
            infos = [*signal.join.other_participants, *signal.update.participants]
            known |= {info.sid: info for info in infos if info.sid != guest.sid}
        present = {sid: info for sid, info in known.items() if info.state != models.ParticipantInfo.DISCONNECTED}
        others = {sid: info for sid, info in truth.items() if sid != guest.sid}
        assert {sid: list(info.tracks) for sid, info in present.items()} == {
            sid: list(info.tracks) for sid, info in others.items()
        }


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 2**32 - 1), max_size=100))
def test_storms(seeds: list[int]) -> None:
    storm = Storm()
    stage = storm.stage
    for seed in seeds:
        storm.act(seed)
        if any(isinstance(output, Closed) for output in stage.outputs):
            break
    else:
        check_rosters(stage)
        stage.command("DeleteRoom", room.DeleteRoomRequest())
    check_sessions(stage)
    assert isinstance(stage.outputs[-1], Closed)
    assert stage.plane.is_empty
    assert not stage.transports.opened
    assert stage.room.next_wake() is None
    assert all(guest.is_ended for guest in stage.guests.values())
