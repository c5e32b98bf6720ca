"""The hub over real sockets, with aiortc and with a client in small pieces."""

import asyncio
import gc
import random
import weakref
from collections.abc import AsyncIterator

import pytest

from tertulia.protocol.errors import RequestError
from tertulia.protocol.ids import TransportId
from tertulia.sfu.plane.api import Address, SrtpProfile, TransportSilent
from tertulia.sfu.transport.api import (
    ChannelClosed,
    ChannelMessage,
    ChannelOpened,
    TransportConnected,
    TransportEvent,
    TransportFailed,
)
from tertulia.sfu.transport.dtls import DtlsIdentity, Role
from tertulia.sfu.transport.hub import monotonic
from tertulia.sfu.transport.transport import PeerTransport

from .peers import AiortcClient, House, SmallClient, UdpPipe


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with House() as house:
        yield house


async def small(house: House, **changes: object) -> tuple[SmallClient, UdpPipe]:
    """A client whose path is proven and nominated."""
    pipe = await UdpPipe().start(house)
    client = SmallClient(house, pipe.send)
    pipe.receive = client.receive
    client.open(**changes)
    client.check(nominate=True)
    await house.changes.until(lambda: client.answers)
    return client, pipe


def leave(client: SmallClient, pipe: UdpPipe) -> None:
    client.stop()
    pipe.close()


async def test_aiortc_joins_and_messages_of_every_size_come_back(house: House) -> None:
    client = AiortcClient(house)

    def echo(transport: TransportId, event: TransportEvent) -> None:
        if isinstance(event, ChannelMessage):
            assert house.hub.send(transport, event.label, event.data)

    house.on_event = echo
    transport = await client.join()
    await house.heard(ChannelOpened, 2)
    await house.changes.until(lambda: client.channels["_reliable"].readyState == "open")
    sizes = [1, 100, 1160, 1161, 15_000, 64_000, 65_536, 131_072, 262_144]
    payloads = [random.Random(size).randbytes(size) for size in sizes]
    for payload in payloads:
        client.channels["_reliable"].send(payload)
    await house.changes.until(lambda: len(client.inbox) == len(payloads))
    assert client.inbox == [("_reliable", payload) for payload in payloads]
    client.channels["_lossy"].send(b"lossy")
    await house.changes.until(lambda: ("_lossy", b"lossy") in client.inbox)
    assert house.events[0] == (transport, TransportConnected())
    assert house.plane.keys[transport][0] is SrtpProfile.AEAD_AES_128_GCM
    assert house.hub.owner(transport) == "RM_test"
    assert house.hub.round_trip_ns(transport) > 0
    await client.pc.close()
    await house.heard(TransportFailed)
    assert house.events[-1][1] == TransportFailed("the peer closed the connection")
    house.hub.close(transport)
    assert house.plane.rows == set()


async def test_aiortc_takes_an_offer_of_ours_with_our_channels(house: House) -> None:
    client = AiortcClient(house)
    transport = await client.accept()
    opened = await house.heard(ChannelOpened, 2)
    assert [event.label for event in opened] == ["_reliable", "_lossy"]
    payload = random.Random(1).randbytes(100_000)
    assert house.hub.send(transport, "_reliable", payload)
    await house.changes.until(lambda: client.inbox == [("_reliable", payload)])
    await client.pc.close()


async def test_five_megabytes_from_one_client_to_another(house: House) -> None:
    """What a byte stream does: 100 messages of 50 kB, relayed."""
    sender, receiver = AiortcClient(house), AiortcClient(house)
    source = await sender.join()
    target = await receiver.join()

    def relay(transport: TransportId, event: TransportEvent) -> None:
        if transport == source and isinstance(event, ChannelMessage):
            assert house.hub.send(target, event.label, event.data)

    house.on_event = relay
    await house.heard(ChannelOpened, 4)
    await house.changes.until(lambda: sender.channels["_reliable"].readyState == "open")
    payloads = [random.Random(number).randbytes(50_000) for number in range(100)]
    for payload in payloads:
        sender.channels["_reliable"].send(payload)
    await house.changes.until(lambda: len(receiver.inbox) == 100)
    assert [data for _, data in receiver.inbox] == payloads
    await sender.pc.close()
    await receiver.pc.close()


@pytest.mark.parametrize("seed", range(4))
async def test_a_fifth_of_the_handshake_is_lost(house: House, seed: int) -> None:
    client, pipe = await small(house)
    dice = random.Random(seed)
    house.plane.loses = lambda data: 20 <= data[0] < 64 and dice.random() < 0.2
    client.hello()
    await house.heard(TransportConnected)
    await house.changes.until(lambda: client.keys is not None)
    assert client.keys is not None
    assert house.plane.keys[client.transport] == (client.keys.profile, client.keys.tx, client.keys.rx)
    leave(client, pipe)


async def test_an_ice_restart_keeps_keys_and_channels(house: House) -> None:
    client, pipe = await small(house)
    client.hello()
    await house.heard(TransportConnected)
    await house.changes.until(lambda: client.keys is not None)
    client.start_sctp()
    client.open_channel("_reliable")
    await house.heard(ChannelOpened)
    await house.changes.until(lambda: client.events)
    keys = house.plane.keys[client.transport]

    client.ufrag = "peer2"
    old, client.local = client.local, house.hub.connect(client.transport, client.remote())
    assert client.local.ufrag != old.ufrag
    assert client.local.fingerprint == old.fingerprint
    again = await UdpPipe().start(house)
    again.receive = client.receive
    client.send = again.send
    client.check(nominate=True)
    await house.changes.until(lambda: house.plane.selected[client.transport] == again.address)
    assert client.sctp is not None
    assert client.sctp.send("_reliable", b"over the new path")
    assert house.hub.send(client.transport, "_reliable", b"and back")
    await house.heard(ChannelMessage)
    await house.changes.until(lambda: ChannelMessage("_reliable", b"and back") in client.events)
    assert house.plane.keys[client.transport] == keys
    assert len(house.of(TransportConnected)) == 1
    assert house.hub.totals()["ufrags"] == 1
    again.close()
    leave(client, pipe)


async def test_our_own_restart_gives_new_credentials_once(house: House) -> None:
    client, pipe = await small(house)
    offered = house.hub.restart(client.transport)
    assert offered.ufrag != client.local.ufrag
    client.ufrag = "peer2"
    assert house.hub.connect(client.transport, client.remote()) == offered
    leave(client, pipe)


async def test_a_peer_that_insists_on_being_the_server(house: House) -> None:
    client, pipe = await small(house, setup="passive")
    client.hello(Role.SERVER)
    await house.heard(TransportConnected)
    await house.changes.until(lambda: client.keys is not None)
    assert client.keys is not None
    assert house.plane.keys[client.transport] == (client.keys.profile, client.keys.tx, client.keys.rx)
    leave(client, pipe)


async def test_data_begins_when_the_application_section_comes_later(house: House) -> None:
    client, pipe = await small(house, sctp_port=None)
    house.hub.open_channel(client.transport, "_reliable", ordered=True, max_retransmits=None)
    client.hello()
    await house.heard(TransportConnected)
    await house.changes.until(lambda: client.keys is not None)
    assert not house.hub.send(client.transport, "_reliable", b"too early")
    client.start_sctp()
    house.hub.connect(client.transport, client.remote())
    await house.heard(ChannelOpened)
    leave(client, pipe)


async def test_the_wrong_certificate_ends_the_transport_without_keys(house: House) -> None:
    client, pipe = await small(house)
    client.hello(identity=DtlsIdentity())
    (failed,) = await house.heard(TransportFailed)
    assert failed.reason == "the DTLS certificate is not the one the SDP names"
    assert house.plane.keys == {}
    assert house.of(TransportConnected) == []
    leave(client, pipe)


async def test_bad_parameters_are_refused(house: House) -> None:
    transport, _ = house.hub.open("RM_test")
    remote = SmallClient(house, lambda data: None).remote
    with pytest.raises(RequestError, match="fingerprint"):
        house.hub.connect(transport, type(remote())("u", "p", (("sha-1", "AA"),), "actpass", 5000, 0))
    with pytest.raises(RequestError, match="gone"):
        house.hub.connect(TransportId(99), remote())
    with pytest.raises(RequestError, match="gone"):
        house.hub.restart(TransportId(99))
    assert not house.hub.send(TransportId(99), "_reliable", b"x")
    house.hub.open_channel(TransportId(99), "_reliable", ordered=True, max_retransmits=None)
    house.hub.close(TransportId(99))
    assert house.hub.buffered_bytes(TransportId(99), "x") == house.hub.round_trip_ns(TransportId(99)) == 0


async def test_a_changed_fingerprint_is_refused_and_the_old_connection_lives(house: House) -> None:
    client, pipe = await small(house)
    client.hello()
    await house.heard(TransportConnected)
    with pytest.raises(RequestError, match="fingerprint"):
        house.hub.connect(client.transport, client.remote(fingerprint=DtlsIdentity().fingerprint))
    assert house.of(TransportFailed) == []
    leave(client, pipe)


# abuse ----------------------------------------------------------------------------------------------


async def test_hellos_from_unproven_addresses_are_dropped(house: House) -> None:
    """Before and during the handshake; the real client still connects (ASVS 17.2.6)."""
    stranger = await UdpPipe().start(house)
    pipe = await UdpPipe().start(house)
    client = SmallClient(house, pipe.send)
    pipe.receive = client.receive
    client.open()
    null_cipher = bytes.fromhex(
        "16fefd0000000000000000003201000026000000000000002" + "6fefd" + "00" * 34 + "00020000" + "0100"
    )
    for _ in range(5):
        stranger.send(null_cipher)
        client.send(null_cipher)
    await house.changes.until(lambda: house.hub.totals().get("dtls_unproven") == 10)
    client.check(nominate=True)
    await house.changes.until(lambda: client.answers)
    client.hello()
    stranger.send(null_cipher)
    await house.heard(TransportConnected)
    stranger.close()
    leave(client, pipe)


async def test_an_address_the_plane_knows_but_ice_does_not_is_unproven(house: House) -> None:
    client, pipe = await small(house)
    stranger = await UdpPipe().start(house)
    house.plane.allowed[stranger.address] = client.transport
    stranger.send(b"\x16\xfe\xfd" + bytes(30))
    await house.changes.until(lambda: house.hub.totals().get("dtls_unproven") == 1)
    stranger.close()
    leave(client, pipe)


async def test_checks_without_a_home_leave_no_state_and_get_no_answer(house: House) -> None:
    client, pipe = await small(house)
    sent = house.plane.sent
    for port in range(1, 10_001):
        house.plane.arrive(Address(0, "203.0.113.5", port), b"\x00\x01" + bytes(18))
    data = client.check(ufrag="nobody")
    await house.changes.until(lambda: house.hub.totals().get("stun_unknown_ufrag") == 1)
    for port in range(1, 10_001):
        house.plane.arrive(Address(0, "203.0.113.5", port), data)
    totals = house.hub.totals()
    assert totals["stun_unknown_ufrag"] == 10_001
    assert totals["stun_malformed"] == 10_000
    assert house.plane.sent == sent
    assert len(house.plane.allowed) == 1
    assert (totals["transports"], totals["ufrags"]) == (1, 1)
    leave(client, pipe)


async def test_forged_and_replayed_checks_move_nothing(house: House) -> None:
    client, pipe = await small(house)
    stranger = await UdpPipe().start(house)
    answers: list[bytes] = []
    stranger.receive = answers.append
    stranger.send(client.check(nominate=True))
    await house.changes.until(lambda: house.hub.totals().get("stun_replayed") == 1)
    client.send = stranger.send
    client.check(nominate=True, pwd="x" * 24)
    await house.changes.until(lambda: house.hub.totals().get("stun_bad_integrity") == 1)
    assert answers == []
    assert house.plane.selected[client.transport] == pipe.address
    stranger.close()
    leave(client, pipe)


async def test_random_datagrams_are_dropped(house: House) -> None:
    client, pipe = await small(house)
    client.hello()
    await house.heard(TransportConnected)
    dice = random.Random(5)
    for _ in range(3000):
        data = bytes([dice.choice([0, 1, 2, 3, 20, 22, 23, 40, 63])]) + dice.randbytes(
            dice.choice([0, 5, 30, 1400, 9000])
        )
        address = pipe.address if dice.random() < 0.7 else Address(0, "203.0.113.5", dice.randrange(1, 65535))
        house.plane.arrive(address, data)
    totals = house.hub.totals()
    assert totals.get("transports_crashed", 0) == 0
    assert house.of(TransportFailed) == []
    client.check()
    await house.changes.until(lambda: len(client.answers) >= 2)
    leave(client, pipe)


async def test_a_mistake_in_one_transport_ends_only_that_one(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    client, pipe = await small(house)
    other, other_pipe = await small(house)
    broken = house.hub._transports[client.transport]
    monkeypatch.setattr(broken.ice, "handle", lambda now, check: 1 // 0)
    client.check()
    (failed,) = await house.heard(TransportFailed)
    assert failed == TransportFailed("internal error")
    assert house.hub.totals()["transports_crashed"] == 1
    other.hello()
    await house.heard(TransportConnected)
    assert house.events[-1][0] == other.transport
    leave(client, pipe)
    leave(other, other_pipe)


async def test_a_mistake_while_sending_ends_that_transport_not_the_room(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, pipe = await small(house)
    broken = house.hub._transports[client.transport]
    monkeypatch.setattr(broken, "send", lambda label, data: 1 // 0)
    assert not house.hub.send(client.transport, "_reliable", b"x")
    assert await house.heard(TransportFailed) == [TransportFailed("internal error")]
    leave(client, pipe)


async def test_a_goodbye_that_fails_still_gives_everything_back(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    client, pipe = await small(house)
    client.hello()
    await house.heard(TransportConnected)
    broken = house.hub._transports[client.transport]
    monkeypatch.setattr(broken._dtls, "close", lambda: 1 // 0)
    monkeypatch.setattr(broken, "send", lambda label, data: 1 // 0)
    assert not house.hub.send(client.transport, "_reliable", b"x")
    assert await house.heard(TransportFailed) == [TransportFailed("internal error")]
    house.hub.close(client.transport)
    assert (house.plane.rows, house.hub.totals()["ufrags"]) == (set(), 0)
    leave(client, pipe)


async def test_an_owner_that_raises_does_not_stop_the_others_events(house: House) -> None:
    def raising(transport: TransportId, event: TransportEvent) -> None:
        raise ZeroDivisionError

    house.on_event = raising
    client, pipe = await small(house)
    client.hello()
    await house.changes.until(lambda: house.hub.totals().get("deliveries_crashed", 0) >= 1 and client.keys)
    house.on_event = lambda transport, event: None
    client.stop()
    assert client.dtls is not None
    client.dtls.close()
    client._settle()
    await house.heard(TransportFailed)
    leave(client, pipe)


async def test_the_planes_verdict_ends_a_transport(house: House) -> None:
    client, pipe = await small(house)
    house.hub.on_report(monotonic(), TransportSilent(client.transport, "too many SSRCs"))
    assert await house.heard(TransportFailed) == [TransportFailed("too many SSRCs")]
    leave(client, pipe)


async def test_closing_from_inside_an_event_is_fine(house: House) -> None:
    def close(transport: TransportId, event: TransportEvent) -> None:
        house.hub.close(transport)

    house.on_event = close
    client, pipe = await small(house)
    client.hello()
    await house.heard(TransportConnected)
    assert house.plane.rows == set()
    await house.changes.until(lambda: client.ended)
    assert client.ended == "the peer closed the connection"
    assert len(house.events) == 1
    leave(client, pipe)


async def test_channels_close_before_the_transport_fails(house: House) -> None:
    client, pipe = await small(house)
    client.hello()
    await house.changes.until(lambda: client.keys is not None)
    client.start_sctp()
    client.open_channel("_reliable")
    await house.heard(ChannelOpened)
    assert client.dtls is not None
    client.dtls.close()
    client._settle()
    await house.heard(TransportFailed)
    assert [type(event) for _, event in house.events[-2:]] == [ChannelClosed, TransportFailed]
    leave(client, pipe)


async def test_transports_go_to_the_least_loaded_port() -> None:
    async with House(ports=3) as house:
        opened = [house.hub.open("RM_test") for _ in range(6)]
        ports = [local.candidates[0].split()[5] for _, local in opened]
        assert len(set(ports)) == 3
        assert ports[:3] == ports[3:]
        house.hub.close(opened[1][0])
        _, local = house.hub.open("RM_test")
        assert local.candidates[0].split()[5] == ports[1]


async def test_a_hundred_joins_leave_nothing() -> None:
    tasks = len(asyncio.all_tasks())
    async with House(tcp=True) as house:
        remains: list[weakref.ref[PeerTransport]] = []
        for number in range(100):
            client, pipe = await small(house)
            remains.append(weakref.ref(house.hub._transports[client.transport]))
            house.hub.open_channel(client.transport, "_reliable", ordered=True, max_retransmits=None)
            if number % 10 == 0:
                client.hello()
                await house.changes.until(lambda client=client: client.keys is not None)  # type: ignore[misc]
                client.start_sctp()
                await house.heard(ChannelOpened, number // 10 + 1)
            house.hub.close(client.transport)
            leave(client, pipe)
        await asyncio.sleep(0)
        totals = house.hub.totals()
        assert (totals["transports"], totals["ufrags"]) == (0, 0)
        assert house.plane.rows == set()
        assert house.hub._loads == [0]
        assert house.hub._timers == []
        assert house.hub._timer is None
        assert len(asyncio.all_tasks()) == tasks
        del client, pipe
        gc.collect()
        assert [reference for reference in remains if reference() is not None] == []
