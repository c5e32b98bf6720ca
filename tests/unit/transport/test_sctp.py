"""The association against aiortc's over a simulated line: messages, throughput, turns, loss."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterator

import aiortc.rtcsctptransport as base
import pytest
from aiortc import RTCDataChannel, RTCDataChannelParameters

from tertulia.protocol.machine import Nanos
from tertulia.sfu.transport import channels
from tertulia.sfu.transport.api import ChannelClosed, ChannelMessage, ChannelOpened, TransportEvent
from tertulia.sfu.transport.association import Association
from tertulia.sfu.transport.channels import ChannelOptions

from .virtual import VirtualLoop, virtual_loop


class Wire:
    """One direction: delay, rate with a bounded queue, and a given fate for each packet."""

    def __init__(self, loop: VirtualLoop, receive: Callable[[bytes], None], *, delay_s: float, bps: float) -> None:
        self._loop = loop
        self._receive = receive
        self._delay_s = delay_s
        self._bps = bps
        self._free_at = 0.0
        self.loses: Callable[[bytes], bool] = lambda packet: False
        self.queue_s = 0.2
        self.packets = 0
        self.dropped = 0

    def send(self, packet: bytes) -> None:
        self.packets += 1
        now = self._loop.time()
        if self.loses(packet) or self._free_at - now > self.queue_s:
            self.dropped += 1
            return
        self._free_at = max(now, self._free_at) + len(packet) * 8 / self._bps
        self._loop.call_at(self._free_at + self._delay_s, self._receive, packet)


class ClientCarrier:
    """The DTLS of aiortc's association."""

    state = "connected"
    _role = "client"

    def __init__(self) -> None:
        self.wire: Wire

    def _register_data_receiver(self, receiver: object) -> None: ...

    def _unregister_data_receiver(self, receiver: object) -> None: ...

    async def _send_data(self, data: bytes) -> None:
        self.wire.send(data)


class Pair:
    """Our association and aiortc's, joined."""

    def __init__(self, loop: VirtualLoop, *, delay_s: float = 0.025, bps: float = 50e6) -> None:
        self.loop = loop
        self.counts: Counter[str] = Counter()
        self.events: list[tuple[float, TransportEvent]] = []
        carrier = ClientCarrier()
        self.client = base.RTCSctpTransport(carrier)  # type: ignore[arg-type]
        self.down = Wire(loop, self._to_client, delay_s=delay_s, bps=bps)
        self.up = Wire(loop, self._to_server, delay_s=delay_s, bps=bps)
        carrier.wire = self.up
        self.server = Association(
            self.down.send,
            server=True,
            emit=lambda event: self.events.append((loop.time(), event)),
            count=lambda name: self.counts.update([name]),
        )
        self.inbox: list[tuple[float, str, bytes]] = []
        self.channels: dict[str, RTCDataChannel] = {}
        self.client.on("datachannel", self.watch)

    def _to_client(self, packet: bytes) -> None:
        self.loop.create_task(self.client._handle_data(packet))

    def _to_server(self, packet: bytes) -> None:
        self.server.handle(self.now, packet)
        self.server.wake(self.now)

    @property
    def now(self) -> Nanos:
        return Nanos(int(self.loop.time() * 1e9))

    def watch(self, channel: RTCDataChannel) -> None:
        self.channels[channel.label] = channel
        channel.on("message", lambda data: self.inbox.append((self.loop.time(), channel.label, data)))

    def open(self, label: str, **options: object) -> RTCDataChannel:
        channel = RTCDataChannel(self.client, RTCDataChannelParameters(label=label, **options))  # type: ignore[arg-type]
        self.watch(channel)
        return channel

    async def start(self) -> None:
        self.server.begin(self.now, 5000, 262144)
        await self.client.start(base.RTCSctpCapabilities(262144), 5000)
        await self.until(lambda: self.client.state == "connected")

    async def until(self, condition: Callable[[], bool], limit_s: float = 60) -> float:
        """Virtual seconds until it holds."""
        start = self.loop.time()
        while not condition():
            assert self.loop.time() - start < limit_s, f"not within {limit_s} virtual seconds"
            self.wake()
            await asyncio.sleep(0.005)
        return self.loop.time() - start

    def wake(self) -> None:
        """As the hub does."""
        due = self.server.next_wake()
        if due is not None and due <= self.now:
            self.server.wake(self.now)

    async def finish(self) -> None:
        self.server.close()
        await self.client.stop()
        await asyncio.sleep(1)  # what is on the wire arrives

    @property
    def messages(self) -> list[ChannelMessage]:
        return [event for _, event in self.events if isinstance(event, ChannelMessage)]


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Iterator[VirtualLoop]:
    with virtual_loop(monkeypatch) as loop:
        yield loop


def play(loop: VirtualLoop, story: Callable[[Pair], object], **line: float) -> Pair:
    """Join, open the usual channels, run the story, end; nothing may be left over."""

    async def whole() -> Pair:
        pair = Pair(loop, **line)
        await pair.start()
        pair.open("_lossy", ordered=False, maxRetransmits=0)
        pair.open("_reliable")
        await pair.until(lambda: sum(isinstance(event, ChannelOpened) for _, event in pair.events) == 2)
        await pair.until(lambda: all(channel.readyState == "open" for channel in pair.channels.values()))
        await story(pair)  # type: ignore[misc]
        await pair.finish()
        return pair

    pair = loop.run_until_complete(whole())
    assert loop.pending_timers == 0
    assert pair.counts["sctp_malformed"] == 0
    assert pair.counts["sctp_refused"] == 0
    return pair


SIZES = [1, 2, 1159, 1160, 1161, 15_000, 64_000, 65_536, 100_001, 262_144]


def test_messages_of_every_size_go_both_ways(loop: VirtualLoop) -> None:
    payloads = [random.Random(size).randbytes(size) for size in SIZES] + [b""]

    async def story(pair: Pair) -> None:
        for payload in payloads:
            assert pair.server.send("_reliable", payload)
            pair.channels["_reliable"].send(payload)
        await pair.until(lambda: len(pair.inbox) == len(payloads) and len(pair.messages) == len(payloads))
        assert [data for _, _, data in pair.inbox] == payloads
        assert pair.messages == [ChannelMessage("_reliable", payload) for payload in payloads]

    play(loop, story)


def test_text_comes_as_its_bytes(loop: VirtualLoop) -> None:
    async def story(pair: Pair) -> None:
        pair.channels["_reliable"].send("¡hola!")
        pair.channels["_reliable"].send("")
        await pair.until(lambda: len(pair.messages) == 2)
        assert [message.data for message in pair.messages] == ["¡hola!".encode(), b""]

    play(loop, story)


@pytest.mark.parametrize(("loss", "limit_s"), [(0.0, 3.0), (0.01, 20.0)])
def test_five_megabytes_flow_to_a_client(loop: VirtualLoop, loss: float, limit_s: float) -> None:
    """50 Mbit/s and 50 ms round trip; on the clean line most of the rate is used (5 MB are 0.8 s of it)."""
    payload = random.Random(1).randbytes(50_000)

    async def story(pair: Pair) -> None:
        dice = random.Random(2)
        pair.down.loses = lambda packet: dice.random() < loss
        for _ in range(100):
            assert pair.server.send("_reliable", payload)
        took_s = await pair.until(lambda: len(pair.inbox) == 100, limit_s)
        assert all(data == payload for _, _, data in pair.inbox)
        assert pair.server.buffered_bytes("_reliable") == 0
        assert took_s < limit_s

    play(loop, story)


@pytest.mark.parametrize("loss", [0.0, 0.02])
def test_five_megabytes_flow_from_a_client(loop: VirtualLoop, loss: float) -> None:
    payload = random.Random(1).randbytes(50_000)

    async def story(pair: Pair) -> None:
        dice = random.Random(3)
        pair.up.loses = lambda packet: dice.random() < loss
        for _ in range(100):
            pair.channels["_reliable"].send(payload)
        await pair.until(lambda: len(pair.messages) == 100, 120)
        assert all(message.data == payload for message in pair.messages)

    play(loop, story)


def test_a_lossy_message_does_not_wait_behind_a_long_reliable_queue(loop: VirtualLoop) -> None:
    async def story(pair: Pair) -> None:
        for _ in range(80):
            assert pair.server.send("_reliable", bytes(60_000))
        await asyncio.sleep(0.3)
        sent_at = loop.time()
        assert pair.server.send("_lossy", b"now")
        await pair.until(lambda: any(label == "_lossy" for _, label, _ in pair.inbox), 30)
        arrived = next(at for at, label, _ in pair.inbox if label == "_lossy")
        assert arrived - sent_at < 0.5
        assert sum(label == "_reliable" for _, label, _ in pair.inbox) < 80

    play(loop, story, bps=10e6)


def test_lossy_messages_are_dropped_when_the_line_is_slow(loop: VirtualLoop) -> None:
    async def story(pair: Pair) -> None:
        taken = sum(pair.server.send("_lossy", bytes(1000)) for _ in range(2000))
        assert taken < 200
        assert pair.server.buffered_bytes("_lossy") <= channels.LOSSY_BUFFER_BYTES
        assert pair.counts["data_dropped_lossy"] == 2000 - taken
        await pair.until(lambda: pair.server.buffered_bytes("_lossy") == 0)
        assert pair.server.send("_lossy", b"again")
        await pair.until(lambda: bool(pair.inbox) and pair.inbox[-1][2] == b"again")

    play(loop, story, bps=1e6)


def test_a_reliable_queue_has_an_end_and_loses_nothing_that_was_taken(
    loop: VirtualLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "RELIABLE_BUFFER_BYTES", 2_000_000)
    monkeypatch.setattr(channels, "MAX_QUEUED_MESSAGES", 500)

    async def story(pair: Pair) -> None:
        pair.down.loses = lambda packet: True
        message = bytes(200_000)
        taken = 0
        while pair.server.send("_reliable", message):
            taken += 1
        assert channels.RELIABLE_BUFFER_BYTES // 200_000 <= taken <= channels.RELIABLE_BUFFER_BYTES // 200_000 + 3
        assert pair.counts["data_dropped_reliable"] == 1
        while pair.server.send("_reliable", b"x"):
            taken += 1
        assert taken <= channels.MAX_QUEUED_MESSAGES + 3
        pair.down.loses = lambda packet: False
        await pair.until(lambda: len(pair.inbox) == taken, 120)

    play(loop, story)


def test_what_the_client_cannot_take_is_refused(loop: VirtualLoop) -> None:
    async def story(pair: Pair) -> None:
        assert not pair.server.send("_reliable", bytes(262_145))
        assert not pair.server.send("nowhere", b"x")
        assert pair.counts["data_oversize"] == pair.counts["data_not_open"] == 1
        pair.client._remote_max_message_size = 0
        pair.channels["_reliable"].send(bytes(262_145))
        pair.channels["_reliable"].send(b"after")
        await pair.until(lambda: len(pair.messages) == 1)
        assert pair.messages == [ChannelMessage("_reliable", b"after")]
        assert pair.counts["data_oversize_in"] == 1

    play(loop, story)


@pytest.mark.parametrize("seed", range(8))
def test_the_association_begins_under_heavy_loss(loop: VirtualLoop, seed: int) -> None:
    async def story() -> None:
        pair = Pair(loop)
        dice = random.Random(seed)
        pair.up.loses = pair.down.loses = lambda packet: dice.random() < 0.3
        pair.server.begin(pair.now, 5000, 262144)
        await pair.client.start(base.RTCSctpCapabilities(262144), 5000)
        channel = pair.open("_reliable")
        await pair.until(lambda: channel.readyState == "open", 20)
        await pair.until(lambda: pair.server.send("_reliable", bytes(30_000)))
        channel.send(b"short, as the other side repeats after 3 s only")
        await pair.until(lambda: len(pair.inbox) == 1 and len(pair.messages) == 1, 60)
        await pair.finish()

    loop.run_until_complete(story())
    assert loop.pending_timers == 0


def test_a_dead_line_is_tried_less_and_less_and_at_least_every_three_seconds(loop: VirtualLoop) -> None:
    async def story(pair: Pair) -> None:
        await pair.until(lambda: pair.server.round_trip_ns > 0)
        pair.down.loses = lambda packet: len(packet) > 500
        before = pair.down.dropped
        assert pair.server.send("_reliable", bytes(1000))
        await asyncio.sleep(30)
        assert 10 <= pair.down.dropped - before <= 14
        pair.down.loses = lambda packet: False
        assert await pair.until(lambda: len(pair.inbox) == 1) < 3.5

    play(loop, story)


def test_channels_of_ours_are_announced(loop: VirtualLoop) -> None:
    async def story() -> None:
        pair = Pair(loop)
        pair.server.open_channel(ChannelOptions("_reliable"))
        pair.server.open_channel(ChannelOptions("_lossy", ordered=False, max_retransmits=0))
        await pair.start()
        await pair.until(lambda: len(pair.events) == 2)
        assert [event for _, event in pair.events] == [ChannelOpened("_reliable"), ChannelOpened("_lossy")]
        reliable, lossy = pair.channels["_reliable"], pair.channels["_lossy"]
        assert (reliable.id, reliable.ordered, reliable.maxRetransmits) == (1, True, None)
        assert (lossy.id, lossy.ordered, lossy.maxRetransmits) == (3, False, 0)
        lossy.send(b"up")
        assert pair.server.send("_lossy", b"down")
        await pair.until(lambda: len(pair.inbox) == 1 and len(pair.messages) == 1)
        await pair.finish()

    loop.run_until_complete(story())


def test_a_closed_channel_is_told_and_its_number_comes_back(loop: VirtualLoop) -> None:
    async def story(pair: Pair) -> None:
        for _ in range(3):
            channel = pair.channels["_reliable"]
            channel.close()
            await pair.until(lambda channel=channel: channel.readyState == "closed")  # type: ignore[misc]
            assert pair.events[-1][1] == ChannelClosed("_reliable")
            assert not pair.server.send("_reliable", b"x")
            again = pair.open("_reliable")
            await pair.until(lambda again=again: again.readyState == "open")  # type: ignore[misc]
            assert pair.server.send("_reliable", b"y")
            await pair.until(lambda: bool(pair.inbox) and pair.inbox[-1][2] == b"y")

    play(loop, story)


def test_the_end_is_told_once_on_both_sides(loop: VirtualLoop) -> None:
    async def story(pair: Pair) -> None:
        await pair.client.stop()
        await pair.until(lambda: pair.server.ended)
        closed = sorted(event.label for _, event in pair.events if isinstance(event, ChannelClosed))
        assert closed == ["_lossy", "_reliable"]
        assert not pair.server.send("_reliable", b"x")
        assert pair.server.next_wake() is None

    play(loop, story)


def test_the_round_trip_is_measured_by_heartbeat(loop: VirtualLoop) -> None:
    async def story(pair: Pair) -> None:
        await pair.until(lambda: pair.server.round_trip_ns > 0)
        assert 0.079 <= pair.server.round_trip_ns / 1e9 <= 0.083

    play(loop, story, delay_s=0.04)


def test_half_of_the_acknowledgements_are_saved(loop: VirtualLoop) -> None:
    async def story(pair: Pair) -> None:
        before = pair.down.packets
        pair.channels["_reliable"].send(bytes(250_000))
        await pair.until(lambda: len(pair.messages) == 1)
        assert pair.down.packets - before < 250_000 / 1160 * 0.75

    play(loop, story)


def test_a_client_that_begins_costs_no_crossing_init(loop: VirtualLoop) -> None:
    async def story() -> None:
        pair = Pair(loop)
        from_server = watched(pair.down)
        await pair.start()
        await pair.until(lambda: pair.server.round_trip_ns > 0)
        assert [kinds for kinds in from_server if base.InitChunk in kinds] == []
        await pair.finish()

    loop.run_until_complete(story())
    assert loop.pending_timers == 0


def test_a_client_that_only_answers_is_begun_with(loop: VirtualLoop) -> None:
    async def story() -> None:
        pair = Pair(loop)
        from_server = watched(pair.down)
        pair.up.loses = lambda packet: base.InitChunk in kinds_of(packet)
        await pair.start()
        assert [kinds for kinds in from_server if base.InitChunk in kinds] == [[base.InitChunk]]
        await pair.finish()

    loop.run_until_complete(story())
    assert loop.pending_timers == 0


def test_what_waited_for_the_association_and_what_acknowledges_share_packets(loop: VirtualLoop) -> None:
    async def story() -> None:
        pair = Pair(loop)
        from_server = watched(pair.down)
        pair.server.open_channel(ChannelOptions("_reliable"))
        pair.server.open_channel(ChannelOptions("_lossy", ordered=False, max_retransmits=0))
        await pair.start()
        await pair.until(lambda: set(pair.channels) == {"_reliable", "_lossy"})
        begun = next(kinds for kinds in from_server if base.CookieAckChunk in kinds)
        assert begun.count(base.DataChunk) == 2
        pair.open("theirs")
        await pair.until(lambda: pair.channels["theirs"].readyState == "open")
        assert {base.SackChunk, base.DataChunk} <= set(
            next(kinds for kinds in reversed(from_server) if base.DataChunk in kinds)
        )
        await pair.finish()

    loop.run_until_complete(story())
    assert loop.pending_timers == 0


def kinds_of(packet: bytes) -> list[type[base.Chunk]]:
    return [type(chunk) for chunk in base.parse_packet(packet)[3]]


def watched(wire: Wire) -> list[list[type[base.Chunk]]]:
    """What each packet carried that was given to this wire; loses none."""
    seen: list[list[type[base.Chunk]]] = []

    def note(packet: bytes) -> bool:
        seen.append(kinds_of(packet))
        return False

    wire.loses = note
    return seen
