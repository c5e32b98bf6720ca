"""The hub on the real data plane (plain Python life): a client joins, talks, sends a packet the plane can read."""

import asyncio
import socket
import struct

import pytest
from pylibsrtp import Policy, Session

from tertulia.sfu.plane.api import Datagram, Outgoing, Rtcp, TransportSilent, UnboundSsrc
from tertulia.sfu.plane.open import open_plane
from tertulia.sfu.transport.api import ChannelMessage, ChannelOpened, TransportConnected, TransportEvent
from tertulia.sfu.transport.hub import TransportHub, monotonic
from tertulia.sfu.transport.listen import TcpEndpoint, UdpEndpoint

from .peers import HOST, AiortcClient, Changes, House, SmallClient, TcpPipe, UdpPipe


class RealHouse(House):
    """The same house over `open_plane`."""

    def __init__(self) -> None:
        self.changes = Changes()
        self.events = []
        self.on_event = lambda transport, event: None
        self.reports: list[object] = []
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.bind((HOST, 0))
        self.live = open_plane([[self.socket]], life="interpreted")
        self.hub = TransportHub(self.live, [[self.endpoint()]], self._deliver, tcp=TcpEndpoint(HOST, 0, (HOST,)))
        self.plane = self  # type: ignore[assignment]  # what a pipe asks for the endpoint

    def endpoint(self, index: int = 0) -> UdpEndpoint:
        return UdpEndpoint(index, HOST, self.socket.getsockname()[1])

    async def __aenter__(self) -> "RealHouse":
        await self.hub.start()
        self.live.start()
        loop = asyncio.get_running_loop()
        if self.live.fileno() >= 0:
            loop.add_reader(self.live.fileno(), self._reports)
        else:
            self._poll = loop.call_soon(self._poll_again)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.hub.stop()
        if self.live.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self.live.fileno())
        else:
            self._poll.cancel()
        self.live.stop()
        self.socket.close()

    def _poll_again(self) -> None:
        self._reports()
        self._poll = asyncio.get_running_loop().call_later(0.002, self._poll_again)

    def _reports(self) -> None:
        now = monotonic()
        for report in self.live.reports():
            if isinstance(report, Datagram | Outgoing | TransportSilent):
                self.hub.on_report(now, report)
            else:
                self.reports.append(report)
        self.changes.tell()


def first_packet() -> bytes:
    return struct.pack("!BBHLL", 0x80, 111, 1, 2, 0xABCD) + bytes(100)


async def test_a_client_talks_through_the_real_plane() -> None:
    async with RealHouse() as house:
        client = AiortcClient(house)

        def echo(transport: object, event: TransportEvent) -> None:
            if isinstance(event, ChannelMessage):
                house.hub.send(transport, event.label, event.data)  # type: ignore[arg-type]

        house.on_event = echo
        await client.join()
        await house.heard(ChannelOpened, 2)
        await house.changes.until(lambda: client.channels["_reliable"].readyState == "open")
        payload = bytes(range(256)) * 1000
        client.channels["_reliable"].send(payload)
        await house.changes.until(lambda: client.inbox == [("_reliable", payload)])
        await client.pc.close()


@pytest.mark.parametrize("way", ["udp", "tcp"])
async def test_media_is_read_with_the_agreed_keys(way: str) -> None:
    async with RealHouse() as house:
        pipe = await UdpPipe().start(house) if way == "udp" else await TcpPipe(house.changes).start(house)
        client = SmallClient(house, pipe.send)
        pipe.receive = client.receive
        client.open()
        client.check(nominate=True)
        await house.changes.until(lambda: client.answers)
        client.hello()
        await house.heard(TransportConnected)
        await house.changes.until(lambda: client.keys is not None)
        assert client.keys is not None
        session = Session(
            Policy(
                key=client.keys.tx,
                ssrc_type=Policy.SSRC_ANY_OUTBOUND,
                srtp_profile=Policy.SRTP_PROFILE_AEAD_AES_128_GCM,
            )
        )
        client.send(session.protect(first_packet()))
        await house.changes.until(lambda: any(isinstance(report, UnboundSsrc) for report in house.reports))
        (report,) = (report for report in house.reports if isinstance(report, UnboundSsrc))
        assert (report.transport, report.ssrc, report.payload_type) == (client.transport, 0xABCD, 111)

        back = Session(
            Policy(
                key=client.keys.rx,
                ssrc_type=Policy.SSRC_ANY_INBOUND,
                srtp_profile=Policy.SRTP_PROFILE_AEAD_AES_128_GCM,
            )
        )
        receiver_report = struct.pack("!BBHL", 0x80, 201, 1, 7)
        house.live.send_rtcp(client.transport, receiver_report)
        await house.changes.until(lambda: client.media)
        assert back.unprotect_rtcp(client.media[0]) == receiver_report
        assert not any(isinstance(report, Rtcp) for report in house.reports)
        client.stop()
        pipe.close()
