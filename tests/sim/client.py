"""A simulated participant: speaks signal messages, offers SDP, sends and judges media. No clock but the world's."""

import struct
from typing import TYPE_CHECKING

from livekit.protocol import models, rtc

from tertulia.protocol.ids import SessionId, TransportId
from tertulia.protocol.machine import MILLISECOND, Nanos
from tertulia.protocol.token import Claims, VideoGrant
from tertulia.sfu.events import Join
from tests.sim import sdp
from tests.sim.encoder import LIGHT, TWCC, Stream, camera, microphone
from tests.sim.feedback import Arrivals, number_of
from tests.sim.link import Link
from tests.sim.receiver import Broken, Received

if TYPE_CHECKING:
    from tests.sim.world import Node, World

FEEDBACK_NS = 50 * MILLISECOND


class Client:
    """One member of the room under test."""

    def __init__(self, world: "World", name: str, number: int) -> None:
        self.world = world
        self.name = name
        self.session = SessionId(number)
        self.host = ""
        self.node: Node
        self.up: Link
        self.down: Link
        self.transport: TransportId | None = None
        self.sid = ""
        self.sections: list[sdp.Section] = [
            *(sdp.Section(str(index), "audio", "recvonly") for index in range(3)),
            *(sdp.Section(str(index), "video", "recvonly") for index in range(3, 6)),
            sdp.Section("6", "application", "sendrecv"),
        ]
        self.version = 0
        self.outstanding = False
        self.offered: list[str] = []
        """Mids of the offer in flight."""
        self.dirty = False
        self.twcc = False
        """Agrees to transport-wide feedback, from `congestible` on."""
        self.arrivals = Arrivals()
        self.camera_packets = LIGHT
        self.connected = False
        self.left = False
        self.roster: dict[str, models.ParticipantInfo] = {}
        self.streams: list[Stream] = []
        self.pending: dict[str, str] = {}
        """cid -> kind of tracks asked for and not yet offered."""
        self.waiting: dict[str, sdp.Section] = {}
        self.published: dict[str, models.TrackInfo] = {}
        self.received: dict[int, Received] = {}
        self.finished: list[Received] = []
        self.repairs: dict[int, int] = {}
        """Repair SSRC -> primary SSRC."""
        self.track_of: dict[int, str] = {}
        self.messages: list[models.DataPacket] = []
        self.signals: list[rtc.SignalResponse] = []

    # ------------------------------------------------------------------------------------------ wishes

    def congestible(self) -> "Client":
        """Before the join: a client that gives transport-cc feedback."""
        self.twcc = True
        for section in self.sections:
            section.twcc = True
        return self

    def join(self, auto_subscribe: bool = True) -> None:
        self.version += 1
        self.outstanding = True
        self.offered = [section.mid for section in self.sections]
        claims = Claims(
            api_key="key", identity=self.name, name=self.name, video=VideoGrant(room_join=True, room="sim"),
            expires_s=1 << 40,
        )  # fmt: skip
        self.world.to_room(
            self,
            Join(
                session=self.session,
                claims=claims,
                client=models.ClientInfo(sdk=models.ClientInfo.PYTHON, version="1", protocol=17),
                single_connection=True,
                auto_subscribe=auto_subscribe,
                adaptive_stream=False,
                offer=rtc.SessionDescription(
                    type="offer", sdp=sdp.offer(self.sections, self.name, self.version), id=self.version
                ),
            ),
        )

    def publish(self, kind: str, cid: str = "") -> None:
        cid = cid or f"{self.name}-{kind}-{len(self.pending) + len(self.published)}"
        video = kind == "video"
        request = rtc.AddTrackRequest(
            cid=cid,
            name=cid,
            type=models.TrackType.VIDEO if video else models.TrackType.AUDIO,
            source=models.TrackSource.CAMERA if video else models.TrackSource.MICROPHONE,
            width=1280 if video else 0,
            height=720 if video else 0,
        )
        if video:
            for quality, height in ((models.LOW, 180), (models.MEDIUM, 360), (models.HIGH, 720)):
                request.layers.add(quality=quality, width=height * 16 // 9, height=height)
            codec = request.simulcast_codecs.add(codec="vp8", cid=cid)
            codec.layers.extend(request.layers)
        self.pending[cid] = kind
        self.say(rtc.SignalRequest(add_track=request))

    def unpublish(self, cid: str) -> None:
        for section in self.sections:
            if section.cid == cid:
                section.direction, section.cid, section.rids = "inactive", "", ()
                self.streams = [stream for stream in self.streams if stream.mid != section.mid]
        self.published.pop(cid, None)
        self.negotiate()

    def leave(self) -> None:
        self.left = True
        self.streams.clear()
        self.say(rtc.SignalRequest(leave=rtc.LeaveRequest(reason=models.DisconnectReason.CLIENT_INITIATED)))

    def settings(self, track_sid: str, **wanted: int | bool) -> None:
        self.say(rtc.SignalRequest(track_setting=rtc.UpdateTrackSettings(track_sids=[track_sid], **wanted)))

    def say(self, message: rtc.SignalRequest) -> None:
        self.world.signal_to_room(self, message)

    def negotiate(self) -> None:
        if self.outstanding:
            self.dirty = True
            return
        self.version += 1
        self.outstanding, self.dirty = True, False
        self.offered = [section.mid for section in self.sections]
        text = sdp.offer(self.sections, self.name, self.version)
        self.say(rtc.SignalRequest(offer=rtc.SessionDescription(type="offer", sdp=text, id=self.version)))

    # ------------------------------------------------------------------------------------------ signals

    def on_signal(self, message: rtc.SignalResponse) -> None:
        self.signals.append(message)
        match message.WhichOneof("message"):
            case "join":
                self.sid = message.join.participant.sid
                self._roster(message.join.other_participants)
            case "update":
                self._roster(message.update.participants)
            case "answer":
                self._answer(message.answer)
            case "track_published":
                self._track_published(message.track_published)
            case "media_sections_requirement":
                wanted = message.media_sections_requirement
                for kind, count in (("audio", wanted.num_audios), ("video", wanted.num_videos)):
                    for _ in range(count):
                        self.sections.append(sdp.Section(str(len(self.sections)), kind, "recvonly", twcc=self.twcc))
                self.negotiate()
            case "offer":
                raise Broken(f"{self.name}: an offer on a single connection")
            case _:
                pass

    def _roster(self, infos: "list[models.ParticipantInfo]") -> None:
        for info in infos:
            known = self.roster.get(info.identity)
            if info.identity == self.name:
                continue
            if info.state == models.ParticipantInfo.DISCONNECTED:
                if known is not None and known.sid == info.sid:
                    del self.roster[info.identity]
            elif known is None or known.sid != info.sid or known.version <= info.version:
                self.roster[info.identity] = info

    def _track_published(self, response: rtc.TrackPublishedResponse) -> None:
        kind = self.pending.pop(response.cid, None)
        if kind is None:
            return
        rids = ("q", "h", "f") if kind == "video" else ()
        section = sdp.Section(str(len(self.sections)), kind, "sendonly", response.cid, rids, self.twcc)
        self.sections.append(section)
        self.published[response.cid] = response.track
        self.waiting[response.cid] = section
        self.negotiate()

    def _answer(self, answer: rtc.SessionDescription) -> None:
        if answer.id != self.version:
            raise Broken(f"{self.name}: answer {answer.id} to offer {self.version}")
        self.outstanding = False
        sections = sdp.read_answer(answer.sdp)
        if [section.mid for section in sections] != self.offered:
            raise Broken(f"{self.name}: the answer's sections differ from the offer's")
        self._take_down(sections, dict(answer.mid_to_track_id))
        for cid, section in list(self.waiting.items()):
            if section.mid not in self.offered:
                continue
            del self.waiting[cid]
            build = camera(
                self.world.rng, section.mid, sdp.VP8, packets=self.camera_packets
            ) if section.kind == "video" else microphone(
                self.world.rng, section.mid, sdp.OPUS
            )  # fmt: skip
            self.streams += build
            for stream in build:
                self.world.at(
                    Nanos(self.world.now + self.world.rng.randrange(stream.interval_ns)),
                    lambda s=stream: self._encode(s),
                )
        if self.dirty:
            self.negotiate()

    def _take_down(self, sections: list[sdp.AnswerSection], track_ids: dict[str, str]) -> None:
        live: dict[int, Received] = {}
        for section in sections:
            if section.direction not in ("sendonly", "sendrecv"):
                continue
            if section.mid not in track_ids:
                raise Broken(f"{self.name}: section {section.mid} sends but is not in mid_to_track_id")
            ssrc = section.ssrcs[0]
            kind = next(own.kind for own in self.sections if own.mid == section.mid)
            name = f"{self.name} <- {track_ids[section.mid]} (mid {section.mid})"
            live[ssrc] = self.received.pop(ssrc, None) or Received(name, kind == "video")
            self.track_of[ssrc] = track_ids[section.mid]
            if len(section.ssrcs) > 1:
                self.repairs[section.ssrcs[1]] = ssrc
        self.finished += self.received.values()
        self.received = live

    # ------------------------------------------------------------------------------------------ media up

    def on_connected(self) -> None:
        self.connected = True
        self._feedback()

    def _encode(self, stream: Stream) -> None:
        if stream not in self.streams:
            return
        if self.connected and not stream.paused:
            if stream.frame % 20 == 0:
                self.world.media_up(self, stream.sender_report(self.world.now))
            for packet in stream.next_frame():
                self.world.media_up(self, packet)
        self.world.at(Nanos(self.world.now + stream.interval_ns), lambda: self._encode(stream))

    # ------------------------------------------------------------------------------------------ media down

    def on_datagram(self, data: bytes) -> None:
        if self.left or len(data) < 12:
            return
        if 200 <= data[1] <= 207:
            self._rtcp(data)
            return
        ssrc = struct.unpack_from("!I", data, 8)[0]
        if self.twcc and (number := number_of(data, TWCC)) is not None:
            self.arrivals.note(self.world.now, number)
        if ssrc in self.repairs:
            primary = self.repairs[ssrc]
            if primary in self.received:
                self.received[primary].take(self.world.now, unpack_rtx(data, primary), repair=True)
        elif ssrc in self.received:
            self.received[ssrc].take(self.world.now, data)

    def _rtcp(self, data: bytes) -> None:
        offset = 0
        while offset + 4 <= len(data):
            count, kind, words = data[offset] & 31, data[offset + 1], struct.unpack_from("!H", data, offset + 2)[0]
            body = data[offset : offset + 4 + 4 * words]
            if kind == 206 and count == 1:
                self._key_frame(struct.unpack_from("!I", body, 8)[0])
            elif kind == 206 and count == 4:
                self._key_frame(struct.unpack_from("!I", body, 12)[0])
            elif kind == 205 and count == 1:
                self._retransmit(struct.unpack_from("!I", body, 8)[0], body[12:])
            offset += 4 + 4 * words

    def _key_frame(self, ssrc: int) -> None:
        for stream in self.streams:
            if stream.ssrc == ssrc:
                stream.key_wanted = True

    def _retransmit(self, ssrc: int, items: bytes) -> None:
        for stream in self.streams:
            if stream.ssrc != ssrc:
                continue
            for offset in range(0, len(items) - 3, 4):
                first, mask = struct.unpack_from("!HH", items, offset)
                for number in [first, *(first + bit + 1 for bit in range(16) if mask >> bit & 1)]:
                    if (packet := stream.sent.get(number & 0xFFFF)) is not None:
                        self.world.media_up(self, packet)

    def _feedback(self) -> None:
        """NACKs for what is missing, PLI where repair failed (RFC 4585 6.2.1, 6.3.1)."""
        if self.left:
            return
        for ssrc, received in self.received.items():
            if due := received.due_nacks(self.world.now):
                items = b"".join(struct.pack("!HH", number, 0) for number in due)
                self.world.media_up(self, struct.pack("!BBHII", 0x81, 205, 2 + len(due), 7, ssrc) + items)
            if received.key_frame_wanted and received.video:
                received.key_frame_wanted = False
                self.world.media_up(self, struct.pack("!BBHII", 0x81, 206, 2, 7, ssrc))
        if self.twcc and (report := self.arrivals.feedback(next(iter(self.received), 0))):
            self.world.media_up(self, report)
        self.world.at(Nanos(self.world.now + FEEDBACK_NS), self._feedback)

    def judge(self) -> None:
        """Everything received kept the promises of the wire."""
        for received in [*self.finished, *self.received.values()]:
            received.finish()

    def video_from(self, track_sid: str) -> Received | None:
        return next((r for ssrc, r in self.received.items() if self.track_of[ssrc] == track_sid), None)


def unpack_rtx(data: bytes, ssrc: int) -> bytes:
    """The original packet inside a retransmission (RFC 4588 4)."""
    offset = 12 + 4 * (data[0] & 15)
    if data[0] & 0x10:
        offset += 4 + 4 * struct.unpack_from("!H", data, offset + 2)[0]
    sequence = data[offset : offset + 2]
    head = bytearray(data[:offset])
    head[2:4] = sequence
    head[8:12] = struct.pack("!I", ssrc)
    return bytes(head) + data[offset + 2 :]
