"""ICE-TCP with a raw client: the whole way up to messages and media, and everything that is not a proper beginning."""

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from tertulia.sfu.transport import tcp
from tertulia.sfu.transport.api import ChannelMessage, ChannelOpened, TransportConnected

from .peers import HOST, House, SmallClient, TcpPipe, UdpPipe


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with House(tcp=True) as house:
        yield house


async def client_over_tcp(house: House) -> tuple[SmallClient, TcpPipe]:
    pipe = await TcpPipe(house.changes).start(house)
    client = SmallClient(house, pipe.send)
    pipe.receive = client.receive
    client.open()
    return client, pipe


async def raw(house: House) -> TcpPipe:
    return await TcpPipe(house.changes).start(house)


def count(house: House, name: str) -> int:
    return house.hub.totals().get(name, 0)


async def test_everything_goes_over_tcp(house: House) -> None:
    client, pipe = await client_over_tcp(house)
    client.check(nominate=True)
    await house.changes.until(lambda: client.answers)
    assert client.answers[0].mapped == pipe.stream.get_extra_info("sockname")
    assert house.plane.selected[client.transport] is None
    client.hello()
    await house.heard(TransportConnected)
    await house.changes.until(lambda: client.keys is not None)
    client.start_sctp()
    client.open_channel("_reliable")
    await house.heard(ChannelOpened)
    payload = random.Random(1).randbytes(200_000)
    assert house.hub.send(client.transport, "_reliable", payload)
    await house.changes.until(lambda: ChannelMessage("_reliable", payload) in client.events)
    assert client.sctp is not None
    assert client.sctp.send("_reliable", payload)
    assert await house.heard(ChannelMessage) == [ChannelMessage("_reliable", payload)]
    house.plane.media(client.transport, b"\x80" + bytes(1100))
    await house.changes.until(lambda: client.media)
    assert client.media == [b"\x80" + bytes(1100)]
    client.send(b"\x80" + bytes(50))
    client.check()
    await house.changes.until(lambda: len(client.answers) == 2)
    assert house.plane.fed == [(client.transport, b"\x80" + bytes(50))]
    client.stop()
    house.hub.close(client.transport)
    await house.changes.until(lambda: pipe.lost)
    await house.changes.until(lambda: house.hub.totals()["tcp_connections"] == 0)


async def test_frames_in_single_bytes_are_put_together(house: House) -> None:
    client, pipe = await client_over_tcp(house)
    framed: list[bytes] = []
    client.send = framed.append
    data = client.check(nominate=True)
    for byte in len(data).to_bytes(2, "big") + data:
        pipe.stream.write(bytes([byte]))
        await asyncio.sleep(0)
    await house.changes.until(lambda: client.answers)
    pipe.close()


async def test_udp_takes_over_and_tcp_takes_back(house: House) -> None:
    client, pipe = await client_over_tcp(house)
    client.check(nominate=True)
    await house.changes.until(lambda: len(client.answers) == 1)
    udp = await UdpPipe().start(house)
    udp.receive = client.receive
    client.send = udp.send
    client.check(nominate=True)
    await house.changes.until(lambda: len(client.answers) == 2)
    assert house.plane.selected[client.transport] == udp.address
    client.send = pipe.send
    client.check(nominate=True)
    await house.changes.until(lambda: len(client.answers) == 3)
    assert house.plane.selected[client.transport] is None
    pipe.close()
    await house.changes.until(lambda: house.plane.selected[client.transport] == udp.address)
    udp.close()


@pytest.mark.parametrize(
    ("beginning", "name"),
    [
        (b"\xff\xff", "tcp_oversize"),
        (b"\x10\x01" + bytes(10), "tcp_oversize"),
        (b"\x00\x05\x16\xfe\xfd\x00\x00", "tcp_unproven"),
        (b"\x00\x14\x00\x01" + bytes(18), "tcp_unproven"),
        (b"\x00\x0c\x80" + bytes(11), "tcp_unproven"),
        (b"GET / HTTP/1.1\r\n\r\n", "tcp_oversize"),
        (b"\x00\x00\x00\x00\x00\x01\x80", "tcp_unproven"),
    ],
)
async def test_a_wrong_beginning_is_the_end(house: House, beginning: bytes, name: str) -> None:
    pipe = await raw(house)
    pipe.stream.write(beginning)
    await house.changes.until(lambda: pipe.lost)
    assert count(house, name) == 1
    assert house.hub.totals()["tcp_connections"] == 0


async def test_a_wrong_password_is_the_end(house: House) -> None:
    client, pipe = await client_over_tcp(house)
    client.check(nominate=True, pwd="x" * 24)
    await house.changes.until(lambda: pipe.lost)
    assert client.answers == []
    assert count(house, "stun_bad_integrity") == 1


async def test_the_silent_are_closed_at_the_deadline(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp, "PROOF_DEADLINE_S", 0.05)
    silent = await raw(house)
    half = await raw(house)
    half.stream.write(b"\x00\x60\x00\x01")
    client, proven = await client_over_tcp(house)
    client.check(nominate=True)
    await house.changes.until(lambda: silent.lost and half.lost)
    assert count(house, "tcp_unproven_expired") == 2
    assert not proven.lost
    assert house.hub.totals()["tcp_connections"] == 1
    proven.close()


async def test_there_are_not_more_connections_than_allowed(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp, "MAX_PER_HOST", 5)
    pipes = [await raw(house) for _ in range(12)]
    await house.changes.until(lambda: sum(pipe.lost for pipe in pipes) == 7)
    assert count(house, "tcp_refused") == 7
    for pipe in pipes:
        pipe.close()
    await house.changes.until(lambda: all(pipe.lost for pipe in pipes))
    monkeypatch.setattr(tcp, "MAX_UNPROVEN", 3)
    pipes = [await raw(house) for _ in range(5)]
    await house.changes.until(lambda: sum(pipe.lost for pipe in pipes) == 2)
    for pipe in pipes:
        pipe.close()


async def test_many_nominated_connections_push_each_other_out(house: House) -> None:
    """One peer keeps at most 16 paths; the connections of the others are closed."""
    client, first = await client_over_tcp(house)
    pipes = [first]
    for number in range(24):
        if number:
            pipes.append(await raw(house))
            pipes[-1].receive = client.receive
        client.send = pipes[-1].send
        client.check(nominate=True)
        await house.changes.until(lambda number=number: len(client.answers) == number + 1)  # type: ignore[misc]
    await house.changes.until(lambda: sum(pipe.lost for pipe in pipes) == 8)
    assert house.hub.totals()["tcp_connections"] == 16
    assert not pipes[-1].lost
    for pipe in pipes:
        pipe.close()


async def test_a_peer_that_does_not_read_loses_packets_not_our_memory(house: House) -> None:
    client, pipe = await client_over_tcp(house)
    client.check(nominate=True)
    await house.changes.until(lambda: client.answers)
    pipe.stream.pause_reading()
    for _ in range(20_000):
        house.plane.media(client.transport, b"\x80" + bytes(1199))
    assert count(house, "tcp_write_dropped") > 1000
    (connection,) = house.hub._listener._connections.values()  # type: ignore[union-attr]
    stream = connection._stream
    assert stream is not None
    assert stream.get_write_buffer_size() <= tcp.MAX_WRITE_BUFFER_BYTES + 2000
    house.hub.close(client.transport)
    await house.changes.until(lambda: house.hub.totals()["tcp_connections"] == 0)
    pipe.close()


async def test_a_connection_of_one_transport_cannot_serve_another(house: House) -> None:
    client, pipe = await client_over_tcp(house)
    client.check(nominate=True)
    await house.changes.until(lambda: client.answers)
    other = SmallClient(house, pipe.send)
    other.open()
    client.hello()
    await house.heard(TransportConnected)
    assert [transport for transport, _ in house.events] == [client.transport]
    pipe.close()
    client.stop()


async def test_a_thousand_idle_connections_leave_nothing() -> None:
    async with House(tcp=True) as house:
        pipes = [await raw(house) for _ in range(300)]
        assert house.hub.totals()["tcp_connections"] <= tcp.MAX_PER_HOST
    assert house.hub.totals()["tcp_connections"] == 0
    await house.changes.until(lambda: all(pipe.lost for pipe in pipes))
    assert HOST
