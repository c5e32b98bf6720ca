"""Data packets: who sent them, who gets them, none twice, none lost."""

import pytest
from livekit.protocol import models

from tertulia.sfu.events import SessionClosed
from tertulia.sfu.transport.api import ChannelMessage, ChannelOpened, TransportConnected
from tests.unit.room.stage import Stage

RELIABLE, LOSSY = models.DataPacket.RELIABLE, models.DataPacket.LOSSY


def user(payload: bytes, **more: object) -> models.DataPacket:
    return models.DataPacket(user=models.UserPacket(payload=payload), **more)  # type: ignore[arg-type]


def test_everybody_else_gets_it_with_the_senders_name() -> None:
    stage = Stage()
    ann, ben, cyd = stage.join("ann"), stage.join("ben"), stage.join("cyd")
    # the SDK says LOSSY on the reliable channel, and somebody else's name
    ann.send_data(user(b"hi", kind=LOSSY, sequence=1, participant_identity="cyd"))
    assert not ann.packets
    for guest in (ben, cyd):
        (packet,) = guest.packets
        assert packet.kind == RELIABLE
        assert (packet.participant_identity, packet.participant_sid) == ("ann", ann.sid)
        assert (packet.user.participant_identity, packet.user.participant_sid) == ("ann", ann.sid)
        assert (packet.sequence, packet.user.payload) == (1, b"hi")


def test_lossy_stays_lossy() -> None:
    stage = Stage()
    ann, ben = stage.join("ann"), stage.join("ben")
    ann.send_data(user(b"x"), "_lossy")
    assert [label for label, _ in stage.transports.sent[ben.down]] == ["_lossy"]
    assert ben.packets[0].kind == LOSSY


@pytest.mark.parametrize("legacy", [False, True])
def test_addressed_packets(legacy: bool) -> None:
    stage = Stage()
    ann, ben, cyd = stage.join("ann"), stage.join("ben"), stage.join("cyd")
    packet = user(b"psst", sequence=1)
    if legacy:
        packet.user.destination_sids.append(ben.sid)
    else:
        packet.destination_identities.append("ben")
    ann.send_data(packet)
    assert len(ben.packets) == 1
    assert not cyd.packets


def test_sequences_are_kept_and_duplicates_dropped() -> None:
    stage = Stage()
    ann, ben = stage.join("ann"), stage.join("ben")
    for sequence in (1, 2, 2, 1, 3, 0, 0):
        ann.send_data(user(b"", sequence=sequence))
    assert [packet.sequence for packet in ben.packets] == [1, 2, 3, 0, 0]
    assert stage.room.counters["data_duplicate"] == 2


def test_unknown_fields_and_encrypted_packets_pass_through() -> None:
    stage = Stage()
    ann, ben = stage.join("ann"), stage.join("ben")
    secret = models.EncryptedPacket(encrypted_value=b"\x00\xff", iv=b"iv", key_index=3)
    data = models.DataPacket(encrypted_packet=secret).SerializeToString() + b"\xd2\x3e\x03abc"  # field 1002
    ann.happens(ChannelMessage("_reliable", data))
    (_, got) = stage.transports.sent[ben.down][0]
    assert b"\xd2\x3e\x03abc" in got
    assert ben.packets[0].encrypted_packet == secret


def test_streams_and_rpc_are_only_forwarded() -> None:
    stage = Stage()
    ann, ben = stage.join("ann"), stage.join("ben")
    sent = [
        models.DataPacket(sequence=1, stream_header=models.DataStream.Header(stream_id="s", topic="t")),
        models.DataPacket(sequence=2, stream_chunk=models.DataStream.Chunk(stream_id="s", content=b"c")),
        models.DataPacket(sequence=3, stream_trailer=models.DataStream.Trailer(stream_id="s")),
        models.DataPacket(
            sequence=4, rpc_request=models.RpcRequest(id="1", method="m"), destination_identities=["ben"]
        ),
        models.DataPacket(sequence=5, chat_message=models.ChatMessage(message="hello")),
    ]
    for packet in sent:
        ann.send_data(packet)
    assert [p.WhichOneof("value") for p in ben.packets] == [p.WhichOneof("value") for p in sent]


def test_who_may_not_send_data_is_not_heard() -> None:
    stage = Stage()
    ann, ben = stage.join("ann", grants={"can_publish_data": False}), stage.join("ben")
    ann.send_data(user(b"x"))
    ben.send_data(models.DataPacket(transcription=models.Transcription()))
    ben.send_data(models.DataPacket(speaker=models.ActiveSpeakerUpdate()))
    assert not ann.packets
    assert not ben.packets
    assert stage.room.counters["data_not_allowed"] == 3


def test_agents_may_speak_for_others_and_hidden_members_are_nobody() -> None:
    stage = Stage()
    ben = stage.join("ben")
    agent = stage.join("agent", claims={"kind": "agent"})
    spy = stage.join("spy", grants={"hidden": True})
    agent.send_data(models.DataPacket(transcription=models.Transcription(), participant_identity="ben"))
    spy.send_data(user(b"boo"))
    assert [packet.participant_identity for packet in ben.packets] == ["ben", ""]


def test_metrics_go_only_to_those_who_may_read_them() -> None:
    stage = Stage()
    ann, ben = stage.join("ann"), stage.join("ben", grants={"can_subscribe_metrics": True})
    cyd = stage.join("cyd")
    ann.send_data(models.DataPacket(metrics={}))
    assert len(ben.packets) == 1
    assert not cyd.packets


@pytest.mark.parametrize(
    ("label", "data", "counter"),
    [
        ("_reliable", b"\xff\xff\xff", "data_malformed"),
        ("_reliable", bytes(300 << 10), "data_too_large"),
        ("chat", b"", "data_unknown_channel"),
    ],
)
def test_bad_packets_are_counted(label: str, data: bytes, counter: str) -> None:
    stage = Stage()
    ann, ben = stage.join("ann"), stage.join("ben")
    ann.happens(ChannelMessage(label, data))
    assert stage.room.counters[counter] == 1
    assert not ben.packets


def test_too_many_destinations() -> None:
    stage = Stage()
    ann = stage.join("ann")
    ann.send_data(user(b"", destination_identities=[str(number) for number in range(1001)]))
    assert stage.room.counters["data_too_many_destinations"] == 1


def test_nonces_are_used_once() -> None:
    stage = Stage()
    ann, ben = stage.join("ann"), stage.join("ben")
    for _ in range(3):
        ann.send_data(models.DataPacket(user=models.UserPacket(payload=b"x", nonce=b"n" * 16)))
    assert len(ben.packets) == 1


def test_reliable_packets_wait_for_a_channel_that_is_not_open_yet() -> None:
    stage = Stage()
    ann, ben = stage.join("ann"), stage.join("ben", connected=False)
    ann.send_data(user(b"first", sequence=1))
    ann.send_data(user(b"lost"), "_lossy")
    ben.happens(TransportConnected())
    assert not ben.packets
    ben.happens(ChannelOpened("_reliable"))
    ann.send_data(user(b"second", sequence=2))
    assert [packet.user.payload for packet in ben.packets] == [b"first", b"second"]


def test_waiting_packets_are_limited() -> None:
    stage = Stage()
    ann, ben = stage.join("ann"), stage.join("ben", connected=False)
    for sequence in range(1, 5):
        ann.send_data(user(bytes(40_000), sequence=sequence))
    ben.connect()
    assert len(ben.packets) == 2
    assert stage.room.counters["limit_data_waiting"] == 2


def test_slow_receivers_lose_lossy_packets_first() -> None:
    stage = Stage()
    ann, ben = stage.join("ann"), stage.join("ben")
    stage.transports.buffered = 1 << 20
    ann.send_data(user(b"x"), "_lossy")
    ann.send_data(user(b"y", sequence=1))
    assert [packet.user.payload for packet in ben.packets] == [b"y"]
    assert stage.room.counters["data_lossy_dropped"] == 1
    stage.transports.is_full = True
    ann.send_data(user(b"z", sequence=2))
    assert stage.room.counters["data_reliable_dropped"] == 1


def test_missed_packets_are_replayed_on_resume() -> None:
    from livekit.protocol import rtc

    stage = Stage()
    ann, ben, cyd = stage.join("ann"), stage.join("ben"), stage.join("cyd")
    for sequence in (1, 2, 3):
        ann.send_data(user(b"%d" % sequence, sequence=sequence))
    cyd.send_data(user(b"cyd", sequence=1))
    stage.transports.sent.clear()
    stage.feed(SessionClosed(ben.session))
    received = [rtc.DataChannelReceiveState(publisher_sid=ann.sid, last_seq=1)]
    ben = stage.resume(ben, sync_state=rtc.SyncState(datachannel_receive_states=received))
    assert [packet.user.payload for packet in ben.packets] == [b"2", b"3"]
    assert ben.last("reconnect").last_message_seq == 0


def test_old_packets_are_not_kept() -> None:
    from livekit.protocol import rtc

    stage = Stage()
    ann, ben = stage.join("ann"), stage.join("ben")
    ann.send_data(user(b"old", sequence=1))
    stage.pass_time(2.1)
    ann.send_data(user(b"new", sequence=2))
    stage.transports.sent.clear()
    received = [rtc.DataChannelReceiveState(publisher_sid=ann.sid, last_seq=0)]
    ben = stage.resume(ben, sync_state=rtc.SyncState(datachannel_receive_states=received))
    assert [packet.user.payload for packet in ben.packets] == [b"new"]


def test_data_rate_is_limited() -> None:
    stage = Stage()
    ann, ben = stage.join("ann"), stage.join("ben")
    for _ in range(10_100):
        ann.send_data(user(b""), "_lossy")
    assert stage.room.counters["limit_data_rate"] >= 100
    assert len(ben.packets) == 10_000
