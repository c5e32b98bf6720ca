"""Members with valid tokens and keys attack with media and data while two people talk in another room: these must not
notice, and every refusal has a name.

One server bears all attacks in a row, so what an earlier one leaves behind harms the later ones. All traffic stays on
loopback and is bounded in count and time.
"""

import asyncio
import contextlib
import json
import random
import struct
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiortc.rtcsctptransport as base
import pytest
import pytest_asyncio
from livekit.protocol import models, rtc

from benchmarks.load.receiving import Stream
from tertulia.protocol.machine import Nanos
from tertulia.sfu.transport.channels import ChannelOptions, build_open
from tertulia.sfu.transport.dtls import DtlsDatagram, DtlsEndpoint, DtlsIdentity
from tertulia.sfu.transport.dtls import Role as DtlsRole
from tests.interop.attacker import Attacker, Rewrite, hears_everything, instead_of
from tests.interop.live import LiveServer
from tests.interop.sdk import SdkClient
from tests.interop.test_bystander import Bystanders

pytestmark = [pytest.mark.interop, pytest.mark.timeout(60), pytest.mark.asyncio(loop_scope="module")]


class Besieged(Bystanders):
    """What the server held before the first attack."""

    files_before = rss_before = 0


def files(server: LiveServer) -> int:
    return len(list(Path(f"/proc/{server.pid}/fd").iterdir()))


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def talk() -> AsyncIterator[Besieged]:
    """The server and the two people, for all tests of this file."""
    server = await LiveServer().start()
    speaker, listener = await SdkClient().start(), await SdkClient().start()
    people = Besieged(server, speaker, listener)
    await people.begin()
    people.files_before, people.rss_before = files(server), server.rss_bytes()
    yield people
    await speaker.stop()
    await listener.stop()
    await server.stop()
    assert "Traceback" not in server.log(), server.log()[server.log().find("Traceback") - 1000 :][:6000]


@pytest_asyncio.fixture(loop_scope="module")
async def people(talk: Besieged) -> Bystanders:
    await talk.watch()
    return talk


async def held(people: Bystanders, *names: str) -> None:
    """Nobody was harmed, nothing crashed, and every one of these counters rose."""
    before = dict(people.drops)
    await people.unharmed(*names)
    after = await people.server.metrics()
    grown = {name for name, value in after.items() if value > before.get(name, 0) and "kind=" in name}
    missing = [name for name in names if not any(f'kind="{name}"' in line for line in grown)]
    assert not missing, f"{missing} did not rise; what did: {sorted(line.split(',')[0] for line in grown)}"
    assert not [line for line in grown if "crashed" in line]


async def rose(people: Bystanders, name: str) -> float:
    """By how much the counter has grown since the beginning of the test."""
    now = await people.server.metrics()
    return sum(value - people.drops.get(line, 0) for line, value in now.items() if f'kind="{name}"' in line)


# --------------------------------------------------------------------------------------- ICE and DTLS


async def test_checks_that_lie(people: Bystanders) -> None:
    """Wrong passwords, names nobody has, replays from other addresses, nominations of everything."""
    async with Attacker(people.server.url, "eve", "vp8") as eve:
        strangers = [eve.stranger() for _ in range(200)]
        recorded = eve.check()
        asked = answered = 0
        for number, stranger in enumerate(strangers):
            lies = [
                eve.check(pwd="x" * 24, number=number),
                eve.check(ufrag=f"no{number}"),
                recorded[:-8],
                recorded[:40],
            ]
            asked += sum(map(len, lies))
            await eve.pour(lies, stranger)
        await asyncio.sleep(0.2)
        for stranger in strangers:
            answered += len(_read(stranger))
        assert answered <= asked, "who has no password gets no more bytes than he sent"
        for stranger in strangers[:50]:
            await eve.pour([recorded] * 5, stranger)
        controlled = struct.pack("!HHQ", 0x8029, 8, 2**64 - 1)
        unheard_of = struct.pack("!HHI", 0x7777, 4, 0)
        for number, stranger in enumerate(strangers):
            ill = eve.check(number=number, extra=[controlled, unheard_of][number % 2])
            await eve.pour([ill, eve.check(number=number, nominate=False)], stranger)
        for number, stranger in enumerate(strangers):
            await eve.pour([eve.check(number=number)], stranger)
        await asyncio.sleep(3)  # its own next check nominates its own address again
        assert not eve.lost, eve.lost
        before = eve.count("count_key_frames_wanted")
        async with Attacker(people.server.url, "mallory") as mallory:
            await mallory.streams()
            await asyncio.sleep(0.5)
            assert mallory.count("packets_in") > 5, "the call of the victim of nominations goes on"
        assert eve.count("count_key_frames_wanted") > before, "and what the server sends reaches it"
        assert not eve.lost
    await held(
        people, "stun_bad_integrity", "stun_unknown_ufrag", "stun_replayed", "ice_paths_refused", "stun_error_487"
    )


def _read(sock: object) -> bytes:
    """Everything that waits."""
    found = b""
    while True:
        try:
            found += sock.recv(2048)  # type: ignore[attr-defined]
        except OSError:
            return found


def client_hello(eve: Attacker) -> bytes:
    endpoint = DtlsEndpoint(
        DtlsIdentity(), DtlsRole.CLIENT, eve.remote.fingerprints, Nanos(time.monotonic_ns()), lambda name: None
    )
    output = endpoint.poll()
    assert isinstance(output, DtlsDatagram)
    return output.data


def fragment(number: int, total: int, begin: int, size: int, *, claimed: int | None = None) -> bytes:
    """A ClientHello record with one fragment (RFC 6347 4.2.2)."""
    length = size if claimed is None else claimed
    body = b"\x01" + total.to_bytes(3, "big") + b"\0\0" + begin.to_bytes(3, "big") + length.to_bytes(3, "big")
    body += bytes(size)
    return b"\x16\xfe\xfd\0\0" + number.to_bytes(6, "big") + len(body).to_bytes(2, "big") + body


def absurd_fragments(rng: random.Random) -> Iterator[bytes]:
    for number in range(300):
        yield fragment(number, 500, 0, 0)
        yield fragment(number, 500, rng.randrange(500), 100)
        yield fragment(number, 100, 0xFFFFF0, 100)
        yield fragment(number, 0xFFFFFF, number * 1000, 1000)
        yield fragment(number, 0xFFFFFF, 0, 100, claimed=0xFFFFFF)
        yield b"\x16\xfe\xfd" + rng.randbytes(rng.randrange(60))


async def test_hellos_out_of_turn(people: Bystanders) -> None:
    """From addresses that proved nothing, thousands from one that did, never finished, absurdly cut."""
    url = people.server.url
    async with Attacker(url, "eve", "vp8") as eve:
        hello = client_hello(eve)
        for _ in range(40):
            await eve.pour([hello] * 25, eve.stranger())
        await eve.pour((hello for _ in range(2000)), per_s=2000)
        alerts = [bytes([21, 0xFE, 0xFD, 0, 0, 0, 0, 0, 0, 0, n, 0, 2, *alert]) for n in range(50) for alert in FORGED]
        await eve.pour(alerts)
        await asyncio.sleep(0.2)
        assert not eve.lost, "alerts in clear end nothing"
    async with contextlib.AsyncExitStack() as left_open:
        for number in range(20):
            half = await left_open.enter_async_context(Attacker(url, f"half{number}", speechless=True))
            if number < 2:
                await half.pour((hello for _ in range(1000)), per_s=4000)
            elif number < 4:
                await half.pour(absurd_fragments(random.Random(number)), per_s=4000)
            else:
                await half.pour([hello])
        async with Attacker(url, "carol") as carol:
            assert carol.connection.connected.done()
    await held(people, "dtls_unproven", "dtls_rate_limited")


FORGED = ((1, 0), (2, 40), (2, 0))
"""Alerts: close_notify, a fatal handshake_failure, a fatal close."""


# --------------------------------------------------------------------------------------- SRTP and RTP


async def test_media_without_keys(people: Bystanders) -> None:
    """Forged, repeated, from elsewhere, cut to every length."""
    rng = random.Random(4)
    async with Attacker(people.server.url, "eve", "vp8") as eve, Attacker(people.server.url, "mallory") as mallory:
        await mallory.streams()
        await asyncio.sleep(0.3)
        stranger = eve.stranger()
        good = [eve.protect(eve.rtp(rng.randbytes(100))) for _ in range(1000)]
        await eve.pour(good)
        await eve.pour(good)
        await eve.pour(good, stranger)
        await eve.pour(packet[:12] + rng.randbytes(116) for packet in good)
        await eve.pour(packet[:12] + rng.randbytes(116) for packet in good[:500])
        for size in range(29):
            shapes = [bytes([first]) + rng.randbytes(max(0, size - 1)) for first in (0x80, 0x90, 0xBF, 0x81)]
            shapes += [(b"\x80\xc9" + rng.randbytes(27))[:size], good[0][:size]]
            await eve.pour(shape[:size] for shape in shapes)
            await eve.pour((shape[:size] for shape in shapes), stranger)
        await eve.pour(good[0] + rng.randbytes(size) for size in (1373, 1500, 4000, 9000, 65_000))
        lies = ((0xBF, "padding, extension, 15 CSRCs"), (0x8F, "15 CSRCs"), (0x40, "version 1"), (0xC0, "version 3"))
        await eve.pour(bytes([first]) + packet[1:] for packet in good[:20] for first, _ in lies)
        await eve.pour(b"\x90" + packet[1:12] + b"\xbe\xde\xff\xff" + packet[12:] for packet in good[:20])
        await eve.pour(bytes([first]) + rng.randbytes(40) for first in range(64, 128))
        report = mallory.rtcp(struct.pack("!BBHI", 0x80, 201, 1, 1))
        await mallory.pour([report] * 50, stranger)
        before = mallory.count("packets_in")
        await asyncio.sleep(0.5)
        assert mallory.count("packets_in") > before + 5, "its own media goes on"
        assert not _read(stranger), "who only sends under the right keys is not sent to"
        assert not eve.lost
    await held(people, "plane_authentication", "plane_replay", "plane_unknown_address", "plane_malformed")


def payloads_of_every_wrong_kind(rng: random.Random) -> list[bytes]:
    """Payload descriptors that lie, for whatever codec is told."""
    vp8 = [
        b"\x90",
        b"\x90\x80",
        b"\x90\x80\x80",
        b"\xff\xff\xff\xff",
        b"\x90\xf0\xff\xff\xff\xff",
        b"\x10",
        b"\x00\x01",
    ]
    vp9 = [
        b"\xff" * 9,
        b"\x02\xf8" + b"\xff" * 40,
        b"\x8a\x80",
        b"\xb2\xff\xff\xe0\xff",
        b"\x0a\xff" + b"\xff\xff" * 16,
    ]
    h264 = [
        b"\x78\x00\x00",
        b"\x78\xff\xff\x67",
        b"\x78\x00\x00\x00\x00",
        b"\x7c\x85",
        b"\x7c\x85\x88\x7c\x85",
        b"\x1c",
    ]
    av1 = [
        b"\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x30\x80",
        b"\xf8",
        b"\x10\x7f\x0a\xff",
        b"\x08\x0a\xff\xff\x7f",
    ]
    red = [b"\xef\xff\xff\xff", b"\x80", b"\xef\x00\x03\xff" * 40, b"\xef\xff\xff\xff\x6f", b"\x6f"]
    known = [b"", b"\0", *vp8, *vp9, *h264, *av1, *red]
    cut = [rng.choice(known) + rng.randbytes(rng.randrange(60)) for _ in range(300)]
    return known + cut + [rng.randbytes(rng.randrange(1, 40)) for _ in range(300)]


CODECS: dict[str, tuple[str, Rewrite, int]] = {
    "vp8": ("vp8", lambda said: said, 96),
    "h264": ("h264", lambda said: said, 98),
    "vp9": ("vp8", instead_of("VP8/90000", "VP9/90000", {"96": "100", "97": "101"}), 100),
    "av1": ("vp8", instead_of("VP8/90000", "AV1/90000", {"96": "102", "97": "103"}), 102),
    "opus": ("opus", lambda said: said, 111),
}


@pytest.mark.parametrize("codec", CODECS)
async def test_payloads_and_headers_that_lie(people: Bystanders, codec: str) -> None:
    """Authentic packets of every wrong content, with somebody who subscribes, so that they are looked into."""
    rng = random.Random(5)
    publish, rewrite, number = CODECS[codec]
    url = people.server.url
    eve = Attacker(url, "eve", publish, rewrite=rewrite)
    async with eve, Attacker(url, "mallory", rewrite=hears_everything) as mallory:
        await mallory.streams()
        eve.hush()
        wrong = payloads_of_every_wrong_kind(rng)
        paddings = [body + bytes([count]) for body in (b"", b"x", bytes(20)) for count in (0, 1, 2, 21, 200, 255)]
        blocks = [
            b"\xbe\xde\x00\x01" + rng.choice([b"\xff\xff\xff\xff", b"\x1f\x00\x00\x00", b"\x4f\x41\x41\x41"]),
            b"\x10\x00\x00\x01\x04\xff\x41\x41",
            b"\x10\x00\x00\x01\x04\x00\x0a\x00",
            b"\xbe\xde\x00\x00",
            b"\xbe\xde\x00\x02\xf0\xf0\xf0\xf0\x00\x00\x00\x00",
            b"\xbe\xde\x00\x01\x30\x00\x30\x00",
            eve.extensions((4, b"0"), (4, b"9"), (10, b"nobody")),
            eve.extensions((4, b"77"), (11, b"f")),
        ]

        def packets() -> Iterator[bytes]:
            def plain(body: bytes, **how: object) -> bytes:
                return eve.protect(eve.rtp(body, payload_type=number, **how))  # type: ignore[arg-type]

            for body in wrong:
                yield plain(body, named=True, marker=rng.random() < 0.5)
            for body in paddings:
                yield plain(body, first=0xA0)
            for block in blocks:
                for body in (b"", bytes(30)):
                    yield plain(body, first=0x90, between=block)
            for kind in (0, 63, 64, 72, 76, 77, 95, 97, 101, 127):
                yield eve.protect(eve.rtp(bytes(30), payload_type=kind))
            for step in (1, 100, 250, 1000, 32_767, 32_768, 40_000, 65_535):
                eve.layer.sequence = eve.layer.sequence + step & 0xFFFF
                yield plain(bytes(30), named=True)
            for stamp in (0, 2**31, 2**32 - 1, 1, 2**31 + 1):
                yield plain(bytes(30), timestamp=stamp)

        await eve.pour(packets(), per_s=3000)
        eve.hush(False)
        await asyncio.sleep(0.3)
        assert not eve.lost
        assert not mallory.lost
    await held(people, "packets_out", "plane_malformed")


async def test_one_who_invents_streams(people: Bystanders) -> None:
    """20 000 SSRCs under a valid key, with every mid and rid there is and is not."""
    rng = random.Random(6)
    async with Attacker(people.server.url, "eve", "vp8", rids=("q", "h", "f")) as eve:
        names = [("0", "q"), ("3", "f"), (eve.layer.mid, "x" * 16), (eve.layer.mid, "q"), ("7" * 16, ""), ("", "h")]
        blocks = [eve.extensions((4, mid.encode()), (10, rid.encode())) for mid, rid in names if mid and rid]
        blocks += [eve.extensions((4, eve.layer.mid.encode()), (11, b"q")), eve.extensions((11, b"nobody"))]

        def invented() -> Iterator[bytes]:
            for number in range(20_000):
                between = blocks[number % len(blocks)] if number % 3 else b""
                first = 0x90 if between else 0x80
                plain = eve.rtp(bytes(20), ssrc=rng.getrandbits(32), sequence=1, first=first, between=between)
                yield eve.protect(plain)

        await eve.pour(invented(), per_s=10_000)
    await held(people, "plane_ssrc_limit")


async def test_a_flood_of_media(people: Bystanders) -> None:
    """A picture of 3 MB at once, then two seconds of 20 000 authentic packets per second from one publisher."""
    async with Attacker(people.server.url, "eve", "vp8") as eve, Attacker(people.server.url, "mallory") as mallory:
        await mallory.streams()
        eve.hush()
        body = b"\x90\x80\x00\x01" + bytes(100)

        def flood() -> Iterator[bytes]:
            until = time.monotonic() + 2
            while time.monotonic() < until:
                yield eve.protect(eve.rtp(body))

        picture = [
            eve.protect(eve.rtp(b"\x90\x80\x00\x01" + bytes(1190), timestamp=1, marker=False)) for _ in range(2500)
        ]
        await eve.pour(picture, per_s=100_000)
        sent = await eve.pour(flood())
        assert sent > 10_000, "the attacker is too slow to attack"
    await held(people, "plane_rate")


# ------------------------------------------------------------------------------------------------ RTCP


def absurd_rtcp(ssrc: int, rng: random.Random) -> Iterator[bytes]:
    """Packets of every kind whose lengths, counts and numbers lie (RFC 3550, 4585, 3611, transport-cc)."""

    def packet(first: int, kind: int, body: bytes, words: int | None = None) -> bytes:
        return struct.pack("!BBH", first, kind, len(body) // 4 if words is None else words) + body

    own = struct.pack("!II", 1, ssrc)
    kinds = (200, 201, 202, 203, 204, 205, 206, 207, 192, 195)
    for kind in kinds:
        for first in (0x80, 0x81, 0x9F, 0xA1, 0x8F, 0x8B, 0x84):
            for words in (0, 1, 2, 5, 6, 65_535):
                yield packet(first, kind, own + rng.randbytes(24), words)
    yield packet(0x81, 200, own + b"\xff" * 44)
    yield packet(0x80, 200, own + bytes(16))
    yield packet(0x81, 202, own[4:] + b"\x01\xffname")
    yield packet(0x9F, 203, own)
    yield packet(0x81, 201, struct.pack("!IIIIIII", 1, 0xDEAD, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 1))
    yield packet(0x8F, 206, own + b"REMB" + struct.pack("!BBH", 255, 0xFF, 0xFFFF) + own[4:])
    yield packet(0x8F, 206, own + b"REMB" + struct.pack("!BBHI", 1, 0xFC | 3, 0xFFFF, ssrc))
    for start, count, chunks in (
        (0, 65_535, b"\x1f\xff" * 9),
        (65_535, 65_535, b"\xff\xff" * 9),
        (1, 0, b""),
        (9, 14, b"\x7f\xff\0\0"),
    ):
        yield packet(0x8F, 205, own + struct.pack("!HHI", start, count, rng.getrandbits(32)) + chunks + bytes(2))
    yield packet(0x81, 207, own[4:] + b"\xff\xff\xff\xff" + bytes(8))
    for _ in range(300):
        yield packet(0x80 | rng.randrange(64), rng.choice(kinds), rng.randbytes(4 * rng.randrange(12)))


async def test_reports_that_lie_and_floods_of_wishes(people: Bystanders) -> None:
    """A subscriber asks for everything a thousand times: the publisher hears of two key frames per second."""
    rng = random.Random(7)
    async with Attacker(people.server.url, "eve", "vp8") as eve, Attacker(people.server.url, "mallory") as mallory:
        (stream,) = await mallory.streams()
        await asyncio.sleep(0.5)
        for member, ssrc in ((eve, eve.layer.ssrc), (mallory, stream.ssrc)):
            await member.pour(map(member.rtcp, absurd_rtcp(ssrc, rng)), per_s=5000)
        before, began = eve.count("count_key_frames_wanted"), time.monotonic()
        for number in range(1000):
            kind = (1, 4)[number % 2]
            fir = struct.pack("!IBBH", stream.ssrc, number & 255, 0, 0) if kind == 4 else b""
            head = struct.pack("!BBHII", 0x80 | kind, 206, 2 + len(fir) // 4, 1, stream.ssrc)
            mallory.connection.send_rtcp(head + fir)
            if number % 10 == 0:
                await asyncio.sleep(0.02)
        asked = eve.count("count_key_frames_wanted") - before
        assert asked <= 2 * (time.monotonic() - began) + 1, f"{asked} key frames wanted"
        assert asked >= 1
        assert not mallory.lost
        forwarded = await rose(people, "packets_out")
        await _nack_flood(mallory, stream)
        again = await rose(people, "retransmitted")
        assert again < forwarded, f"{again} packets repeated"
    await held(people, "plis_in", "nacks_in")


async def _nack_flood(mallory: Attacker, stream: Stream) -> None:
    """The same numbers, ancient ones and all there are, 20 000 a second."""
    for number in range(1000):
        numbers = struct.pack("!HH", number * 17 & 0xFFFF, 0xFFFF) * 20 + struct.pack("!HH", 7, 0) * 20
        mallory.connection.send_rtcp(struct.pack("!BBHII", 0x81, 205, 2 + len(numbers) // 4, 1, stream.ssrc) + numbers)
        if number % 20 == 0:
            await asyncio.sleep(0.02)


# ------------------------------------------------------------------------------------------------ SCTP


async def test_associations_that_lie(people: Bystanders) -> None:
    """INIT floods, wrong tags, channels without end, messages without end, gaps for ever, garbage."""
    rng = random.Random(8)
    for number in range(7):
        async with Attacker(people.server.url, f"eve{number}") as eve:
            await eve.client.ready_for_data()
            tsn = eve.association._local_tsn
            for index in range(2000):
                if eve.connection.closed:
                    break
                if number == 0:
                    init = base.InitChunk()
                    init.initiate_tag, init.advertised_rwnd, init.initial_tsn = index + 1, 1 << 31, index
                    init.outbound_streams = init.inbound_streams = 65_535
                    eve.chunk(init, tag=0 if index % 2 else None)
                elif number == 1:
                    eve.chunk(
                        eve.data_chunk(tsn + index, build_open(ChannelOptions(f"c{index}")), stream=index, ppid=50)
                    )
                elif number == 2:
                    eve.chunk(eve.data_chunk(tsn + index, bytes(1100), flags=2 if index == 0 else 0))
                elif number == 3:
                    eve.chunk(eve.data_chunk(tsn + 2 + 2 * index, bytes(1100), stream=index % 65_535))
                elif number == 4:
                    eve.chunk(eve.data_chunk(tsn, bytes(20), stream=0, ppid=index), tag=None if index % 2 else index)
                elif number == 5:
                    forward = base.ForwardTsnChunk()
                    forward.cumulative_tsn = tsn + rng.choice([0, 1, 1000, 2**31 - 1, 2**31]) & 0xFFFFFFFF
                    forward.streams = [(stream, rng.getrandbits(16)) for stream in range(index % 200)]
                    reset = base.ReconfigChunk()
                    reset.params = [(rng.choice([13, 14, 15, 16, 17, 18]), rng.randbytes(rng.randrange(40)))]
                    eve.chunk([forward, reset][index % 2])
                else:
                    eve.sctp(rng.randbytes(rng.randrange(200)))
                if index % 50 == 0:
                    await asyncio.sleep(0.005)
    await held(people, "sctp_malformed", "sctp_wrong_tag", "sctp_refused", "sctp_window", "sctp_endless_message")


async def test_messages_too_long_and_a_reader_too_slow(people: Bystanders) -> None:
    """256 KiB and a byte; then one who never acknowledges what the others say."""
    url = people.server.url
    async with Attacker(url, "eve") as eve, Attacker(url, "mallory") as mallory, Attacker(url, "carol") as carol:
        for member in (eve, mallory, carol):
            await member.client.ready_for_data()
        eve.association._remote_max_message_size = 0
        eve.association.send("_reliable", bytes(256 * 1024 + 1))
        eve.association.send("_reliable", random.Random(9).randbytes(4000))
        await asyncio.sleep(0.5)
        mallory.association.handle = lambda now, data: None
        for number in range(600):
            eve.client.send_data(number, 1000, reliable=False)
            if number % 20 == 0:
                eve.client.send_data(number, 15_000, reliable=True)
                await asyncio.sleep(0.02)
        await asyncio.sleep(0.5)
        assert carol.engine.data_received > 300, "the others get what is said"
    await held(people, "data_oversize_in", "data_dropped_lossy")


async def test_a_flood_of_words(people: Bystanders) -> None:
    """5000 small messages as fast as they go, which is below the limit; yet nobody notices."""
    async with Attacker(people.server.url, "eve") as eve, Attacker(people.server.url, "carol") as carol:
        await eve.client.ready_for_data()
        await carol.client.ready_for_data()
        for number in range(5000):
            eve.client.send_data(number, 20, reliable=number % 2 == 0)
            if number % 20 == 0:
                await asyncio.sleep(0.004)
        await asyncio.sleep(0.5)
        assert carol.engine.data_received > 100
    await held(people, "data_lossy", "data_reliable")


# ------------------------------------------------------------------------------------------ signalling


async def test_wishes_beyond_measure(people: Bystanders) -> None:
    """Subscriptions to 100 000 tracks nobody has, tracks of others muted, restarts without end, strange candidates."""
    async with Attacker(people.server.url, "eve", "vp8") as eve, Attacker(people.server.url, "mallory") as mallory:
        await mallory.streams()
        (sid,) = eve.client._layers
        wanted = [f"TR_{number}" for number in range(100_000)]
        await mallory.say(subscription=rtc.UpdateSubscription(track_sids=wanted, subscribe=True))
        await mallory.say(
            track_setting=rtc.UpdateTrackSettings(track_sids=[*wanted[:1000], sid], width=2**31, fps=2**31)
        )
        await mallory.say(mute=rtc.MuteTrackRequest(sid=sid, muted=True))
        attributes = {f"name{number}": "value" for number in range(10_000)}
        await mallory.say(update_metadata=rtc.UpdateParticipantMetadata(attributes=attributes, request_id=1))
        for where in ("host.local", "169.254.169.254", "255.255.255.255", "127.0.0.1", "::ffff:0:0", "x" * 5000, "0"):
            for port in (0, 9, 65_536):
                line = f"candidate:1 1 udp 2130706431 {where} {port} typ host"
                init = json.dumps({"candidate": line, "sdpMid": "0", "sdpMLineIndex": 0})
                await mallory.say(trickle=rtc.TrickleRequest(candidateInit=init, target=rtc.SignalTarget.PUBLISHER))
        for init in ("", "{", "[]", '{"candidate": 1}', "[" * 10_000):
            await mallory.say(trickle=rtc.TrickleRequest(candidateInit=init, target=rtc.SignalTarget.SUBSCRIBER))
        await asyncio.sleep(0.3)
        assert "request_response" in mallory.heard, "10 000 attributes are refused in words"
        before = mallory.count("packets_in")
        await asyncio.sleep(0.5)
        assert mallory.count("packets_in") > before + 5, "the mute of another's track does nothing"
        assert not mallory.lost
        for number in range(100):
            eve.client._up.connection.local = type(eve.connection.local)(  # type: ignore[union-attr]
                f"new{number:05}", "p" * 24, eve.connection.local.fingerprint
            )
            eve.client._up.outstanding = False  # type: ignore[union-attr]
            await eve.client._negotiate(eve.client._up)  # type: ignore[arg-type]
            await asyncio.sleep(0.02)
        for _ in range(3000):
            packet = models.DataPacket(user=models.UserPacket(payload=bytes(500)))
            eve.client._up.connection.send_message("_lossy", packet.SerializeToString())  # type: ignore[union-attr]
    await held(people, "limit_subscriptions", "trickle")


async def test_nothing_is_left_of_the_attackers(talk: Besieged) -> None:
    """Every transport, stream, name and descriptor they had is given back, and the log has not been flooded."""
    held_by_two = {"transports": 2, "ufrags": 2, "ups": 2, "downs": 2}
    left: dict[str, float] = {}
    for _ in range(100):
        metrics = await talk.server.metrics()
        gauges = {name.partition('kind="')[2].partition('"')[0]: value for name, value in metrics.items()}
        left = {name: gauges[name] for name in held_by_two}
        if left == held_by_two:
            break
        await asyncio.sleep(0.1)
    assert left == held_by_two
    assert await asyncio.to_thread(files, talk.server) <= talk.files_before + 2
    assert talk.server.rss_bytes() < talk.rss_before + (64 << 20)
    assert len(talk.server.log().splitlines()) < 500
