"""The interpreted and the compiled life of the plane do the same, byte for byte, whatever happens to them.

A scenario is a seed: peers, tracks, rows and taps come and go, media of every codec arrives lost, late, doubled and
mangled, feedback is honest or garbage, time passes. After every step both must have sent the same datagrams and told
the same reports. Half of the scenarios run in the clear, the others under a protection profile (which is
deterministic, so the bytes are still compared).
"""

import struct
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tertulia.protocol import stun
from tertulia.protocol.machine import Nanos
from tertulia.sfu.plane import srtp
from tertulia.sfu.plane.api import Address, Codec, Extension, SrtpProfile
from tertulia.sfu.plane.interpreted import Interpreted
from tertulia.sfu.plane.orders import Orders
from tests.unit.plane.packets import one_byte, rtp, vp8

native = pytest.importorskip("tertulia.sfu.plane.native", reason="the compiled data plane was not built")

KEYS = {SrtpProfile.NULL: 0, SrtpProfile.AES128_CM_SHA1_80: 30, SrtpProfile.AEAD_AES_128_GCM: 28}

WRAP = 1 << 42
"""Here the 32 bits of the times kept per packet begin anew (`bits.ticked`)."""


class Both:
    """One call, two planes, and a comparison."""

    def __init__(self, seed: int) -> None:
        self.now = WRAP - 4 * 10**9
        self.sent: list[Any] = []
        self.cores = [
            Interpreted(lambda place, data: self.sent.append((place, data)) or True, lambda: self.now),
            native.Native([], seed),
        ]
        self.planes = [Orders(core, Random(seed)) for core in self.cores]

    def order(self, name: str, *args: Any, **kwargs: Any) -> Any:
        self.cores[1].set_time(self.now)
        results = [getattr(plane, name)(*args, **kwargs) for plane in self.planes]
        assert results[0] == results[1], name
        return results[0]

    def step(self, batch: list[tuple[Any, bytes]]) -> list[tuple[Any, bytes]]:
        for core in self.cores:
            core.step(self.now, batch)
        return self.compare()

    def compare(self) -> list[tuple[Any, bytes]]:
        sent, self.sent = self.sent, []
        assert sent == self.cores[1].sent()
        self.order("reports")
        assert self.cores[0].engine.due == self.cores[1].due()
        return sent


class Scenario:
    """Random events of a small conference."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.both = Both(seed)
        self.profile = self.rng.choice([SrtpProfile.NULL, SrtpProfile.NULL, *KEYS])
        self.peers: list[tuple[int, Address, Any]] = []
        self.tracks: list[tuple[int, Codec]] = []
        self.ups: list[dict[str, Any]] = []
        self.downs: list[dict[str, Any]] = []
        self.taps: list[int] = []
        self.waiting: list[tuple[Any, bytes]] = []
        for _ in range(3):
            self.join()
        for _ in range(2):
            self.publish()

    def join(self) -> None:
        rng, both = self.rng, self.both
        transport = both.order("add_transport")
        address = Address(0, f"198.51.100.{len(self.peers) + 1}", 4000 + transport)
        length = KEYS[self.profile]
        rx, tx = rng.randbytes(length), rng.randbytes(length)
        both.order("set_keys", transport, self.profile, rx, tx)
        both.order("allow", transport, address)
        both.order("select", transport, None if rng.random() < 0.1 else address)
        if rng.random() < 0.9:
            both.order("answer_checks", transport, f"ufrag{transport}", f"password{transport}")
        top = 40 if rng.random() < 0.2 else 14
        numbers = rng.sample(range(1, top + 1), 10)
        kinds = rng.sample(list(Extension), 10)
        both.order("set_extensions", transport, dict(zip(kinds, numbers, strict=True)))
        both.order("set_feedback", transport, rng.getrandbits(32))
        session = srtp.session(self.profile, rx, outbound=True) if length else None
        self.peers.append((transport, address, session))

    def publish(self) -> None:
        rng, both = self.rng, self.both
        codec = rng.choice(list(Codec))
        track = both.order("add_track", codec, rng.choice([8000, 48000, 90000]))
        self.tracks.append((track, codec))
        transport, address, session = rng.choice(self.peers)
        for layer in range(rng.randint(1, 3)):
            ssrc = rng.getrandbits(32)
            up = {"track": track, "codec": codec, "ssrc": ssrc, "rtx": 0, "seq": rng.getrandbits(16), "peer": address}
            up |= {"ts": rng.getrandbits(32), "pic": rng.getrandbits(15), "tl0": 0, "session": session, "pt": 96}
            up |= {"transport": transport, "twcc": rng.getrandbits(16), "rtxseq": 0}
            if rng.random() < 0.3:
                self.media(up)
                self.flush()
            wishes = {"nack": rng.random() < 0.8, "twcc": rng.random() < 0.8}
            up["handle"] = both.order("add_up", track, transport, ssrc, layer, payload_type=96, **wishes)
            if rng.random() < 0.6:
                up["rtx"] = rng.getrandbits(32)
                both.order("bind_rtx", up["handle"], up["rtx"], 97)
            self.ups.append(up)
        for _ in range(rng.randint(1, 3)):
            self.subscribe(track)
        both.compare()

    def subscribe(self, track: int) -> None:
        rng, both = self.rng, self.both
        if rng.random() < 0.2:
            self.taps.append(both.order("add_tap", track, limit_packets=rng.choice([4, 2048])))
            both.order("set_target", self.taps[-1], 0)
            return
        transport, address, session = rng.choice(self.peers)
        ssrc = rng.getrandbits(32)
        rtx = rng.random() < 0.6
        handle = both.order(
            "add_down",
            track,
            transport,
            ssrc,
            payload_type=rng.randrange(35, 127),
            rtx_ssrc=rng.getrandbits(32) if rtx else 0,
            rtx_payload_type=rng.randrange(35, 127) if rtx else 0,
            mid=rng.choice(["", "0", "a-rather-long-mid-value"]),
            raw=rng.random() < 0.1,
            first_sequence=rng.getrandbits(16),
            first_timestamp=rng.getrandbits(32),
        )
        both.order("set_target", handle, rng.randint(-1, 2), rng.choice([0, 1, 7]))
        self.downs.append({"handle": handle, "ssrc": ssrc, "peer": address, "session": session, "got": []})

    def extensions(self, up: dict[str, Any]) -> dict[int, bytes]:
        rng = self.rng
        if rng.random() < 0.3:
            return {}
        found = {n: rng.randbytes(rng.randint(1, 4)) for n in rng.sample(range(1, 15), 3)}
        if rng.random() < 0.7:
            up["twcc"] = (up["twcc"] + rng.choice([1, 1, 1, 2, -1])) & 0xFFFF
            found[rng.randint(1, 14)] = struct.pack("!H", up["twcc"])
        return found

    def payload(self, up: dict[str, Any]) -> bytes:
        rng = self.rng
        if up["codec"] == Codec.VP8 and rng.random() < 0.95:
            up["pic"] = (up["pic"] + (rng.random() < 0.6)) & 0x7FFF
            up["tl0"] = (up["tl0"] + (rng.random() < 0.3)) & 255
            return vp8(
                up["pic"],
                key=rng.random() < 0.2,
                start=rng.random() < 0.7,
                tid=rng.randint(0, 2),
                sync=rng.random() < 0.3,
                tl0=up["tl0"],
            )
        first = {
            Codec.H264: [0x67, 0x65, 0x41, 0x78, 0x7C],
            Codec.VP9: [0x8C, 0xAA, 0x0A, 0xE8],
            Codec.AV1: [0x18, 0x10, 0x90],
            Codec.H265: [0x40, 0x26, 0x62, 0x60],
        }.get(up["codec"], [rng.getrandbits(8)])
        return bytes([rng.choice(first)]) + rng.randbytes(rng.randint(0, 60))

    def media(self, up: dict[str, Any]) -> None:
        """One frame of some packets, with the network's mischief."""
        rng = self.rng
        up["ts"] = (up["ts"] + rng.choice([0, 960, 3000, 3000])) & 0xFFFFFFFF
        if rng.random() < 0.01:
            up["seq"] += rng.choice([300, 1000, 32767, 40000])
        packets = []
        for _ in range(rng.randint(1, 6)):
            up["seq"] = (up["seq"] + 1) & 0xFFFF
            body = b"" if rng.random() < 0.03 else self.payload(up)
            pad = rng.choice([0, 0, 0, 0, 4, 200]) if body else 255
            pt = up["pt"] if rng.random() < 0.98 else 50
            extensions, marker = self.extensions(up), rng.random() < 0.3
            packet = rtp(
                up["ssrc"], up["seq"], up["ts"], body, pt=pt, marker=marker, extensions=extensions, padding=pad
            )
            roll = rng.random()
            if roll < 0.08 and up["rtx"]:
                up["rtxseq"] = (up["rtxseq"] + 1) & 0xFFFF
                inner = struct.pack("!H", up["seq"]) + body
                packet = rtp(up["rtx"], up["rtxseq"], up["ts"], inner, pt=97, marker=marker)
            elif roll < 0.12:
                continue
            elif roll < 0.14:
                packet = self.mangled(packet)
            packets.append(packet)
        if rng.random() < 0.2:
            rng.shuffle(packets)
        if rng.random() < 0.1 and packets:
            packets.append(packets[0])
        for packet in packets:
            self.queue(up["peer"], up["session"], packet, "protect")

    def mangled(self, packet: bytes) -> bytes:
        data = bytearray(packet)
        for _ in range(self.rng.randint(1, 3)):
            data[self.rng.randrange(len(data))] = self.rng.getrandbits(8)
        return bytes(data[: self.rng.randint(1, len(data))])

    def queue(self, peer: Address, session: Any, packet: bytes, how: str) -> None:
        if session is not None and 2 < len(packet) < 1300:
            try:
                packet = getattr(session, how)(packet)
            except Exception:
                return
        self.waiting.append(((peer.socket, peer.host, peer.port), packet))

    def flush(self) -> None:
        batch, self.waiting = self.waiting, []
        for place, data in self.both.step(batch):
            self.note(place, data)

    def note(self, place: Any, data: bytes) -> None:
        """What went out, so that feedback can be about it (in the clear only)."""
        if self.profile == SrtpProfile.NULL and len(data) >= 12 and not 192 <= data[1] < 224:
            ssrc, sequence = struct.unpack_from("!I", data, 8)[0], struct.unpack_from("!H", data, 2)[0]
            for down in self.downs:
                if down["ssrc"] == ssrc:
                    down["got"] = [*down["got"][-40:], sequence]

    def feedback(self) -> None:
        """RTCP of a subscriber or a publisher."""
        rng = self.rng
        parts = b""
        down = rng.choice(self.downs) if self.downs else None
        if down is not None:
            got = down["got"] or [rng.getrandbits(16)]
            for kind in rng.sample(["rr", "nack", "pli", "fir", "twcc", "remb", "bye"], rng.randint(1, 3)):
                if kind == "rr":
                    block = struct.pack("!IIIIII", down["ssrc"], rng.getrandbits(32), 5, 9, rng.getrandbits(32), 99)
                    parts += struct.pack("!BBHI", 0x81, 201, 7, 1) + block
                elif kind == "nack":
                    fci = struct.pack("!HHHH", rng.choice(got), rng.getrandbits(16), rng.choice(got), 0)
                    parts += struct.pack("!BBHII", 0x81, 205, 4, 1, down["ssrc"]) + fci
                elif kind == "pli":
                    parts += struct.pack("!BBHII", 0x81, 206, 2, 1, down["ssrc"])
                elif kind == "fir":
                    parts += struct.pack("!BBHIIII", 0x84, 206, 4, 1, 0, down["ssrc"], 0)
                elif kind == "twcc":
                    parts += self.transport_feedback()
                elif kind == "remb":
                    body = b"REMB" + struct.pack("!BBHI", 1, rng.getrandbits(8), rng.getrandbits(16), 1)
                    parts += struct.pack("!BBHII", 0x8F, 206, 5, 1, 0) + body
                else:
                    parts += struct.pack("!BBHI", 0x81, 203, 1, 1)
            peer, session = down["peer"], down["session"]
        else:
            _, peer, session = rng.choice(self.peers)
        if self.ups and rng.random() < 0.5:
            up = rng.choice(self.ups)
            ntp = (0x83AA7E80 << 32) + self.both.now * 2**32 // 10**9
            if rng.random() < 0.1:
                ntp = rng.getrandbits(64)
            report = struct.pack("!BBHIQIII", 0x80, 200, 6, up["ssrc"], ntp & 2**64 - 1, up["ts"], 1, 1)
            self.queue(up["peer"], up["session"], report, "protect_rtcp")
        if rng.random() < 0.15 and parts:
            parts = self.mangled(parts)
        self.queue(peer, session, parts, "protect_rtcp")

    def transport_feedback(self) -> bytes:
        """Statuses of every kind, often about numbers that were sent."""
        rng = self.rng
        count = rng.randint(1, 60)
        core = self.both.cores[0].engine
        row = rng.choice(core.transports[: core.n_transports])
        base = (row.x_next - rng.randint(0, 80)) & 0xFFFF
        chunks, told = b"", 0
        while told < count:
            roll = rng.random()
            if roll < 0.4:
                run = rng.randint(1, 20)
                chunks += struct.pack("!H", rng.randint(0, 3) << 13 | run)
                told += run
            else:
                chunks += struct.pack("!H", 0x8000 | rng.getrandbits(15))
                told += 7
        body = struct.pack("!HHI", base, count, rng.getrandbits(32)) + chunks + rng.randbytes(count * 2)
        body += bytes(-len(body) % 4)
        return struct.pack("!BBHII", 0x8F, 205, 2 + len(body) // 4, 1, 0) + body

    def change(self) -> None:
        """An order of the control side."""
        rng, both = self.rng, self.both
        roll = rng.random()
        if roll < 0.45 and self.downs:
            both.order("set_target", rng.choice(self.downs)["handle"], rng.randint(-1, 3), rng.choice([0, 1, 2, 7]))
        elif roll < 0.55 and self.tracks:
            both.order("set_track_enabled", rng.choice(self.tracks)[0], rng.random() < 0.7)
        elif roll < 0.62 and self.tracks:
            self.subscribe(rng.choice(self.tracks)[0])
        elif roll < 0.70 and self.downs:
            both.order("remove_down", self.downs.pop(rng.randrange(len(self.downs)))["handle"])
        elif roll < 0.74 and self.ups:
            both.order("remove_up", self.ups.pop(rng.randrange(len(self.ups)))["handle"])
        elif roll < 0.77 and len(self.tracks) > 1:
            track, _ = self.tracks.pop(rng.randrange(len(self.tracks)))
            both.order("remove_track", track)
            self.ups = [up for up in self.ups if up["track"] != track]
        elif roll < 0.83:
            self.publish()
        elif roll < 0.86:
            self.join()
        elif roll < 0.88 and len(self.peers) > 3:
            transport, address, _ = self.peers.pop(0)
            both.order("remove_transport", transport)
            self.ups = [up for up in self.ups if up["peer"] != address]
            self.downs = [down for down in self.downs if down["peer"] != address]
        elif roll < 0.90:
            both.order("attend", rng.choice(self.peers)[0], rng.choice([0, 50, 250, 1000]) * 1_000_000)
        elif roll < 0.91:
            self.rekey()
        elif roll < 0.93:
            both.order("send_rtcp", rng.choice(self.peers)[0], struct.pack("!BBHI", 0x80, 201, 1, 7))
        elif self.tracks:
            both.order("request_key_frame", rng.choice(self.tracks)[0], rng.randint(-1, 4))
        both.compare()

    def rekey(self) -> None:
        """A peer's DTLS began anew: other keys, all packet counters from the start."""
        rng, length = self.rng, KEYS[self.profile]
        index = rng.randrange(len(self.peers))
        transport, address, _ = self.peers[index]
        rx, tx = rng.randbytes(length), rng.randbytes(length)
        self.both.order("set_keys", transport, self.profile, rx, tx)
        session = srtp.session(self.profile, rx, outbound=True) if length else None
        self.peers[index] = (transport, address, session)
        for row in (*self.ups, *self.downs):
            if row["peer"] == address:
                row["session"] = session

    def strange(self) -> None:
        """Datagrams nobody asked for."""
        rng = self.rng
        _, address, session = rng.choice(self.peers)
        place = (address.socket, address.host, address.port + rng.choice([0, 0, 1]))
        roll = rng.random()
        if roll < 0.5:
            self.waiting.append((place, rng.randbytes(rng.choice([1, 2, 8, 12, 13, 20, 40, 1400]))))
        elif roll < 0.7:
            self.queue(address, session, rtp(rng.getrandbits(32), 1, 1, b"who", extensions={4: b"9"}), "protect")
        else:
            head = bytes([0x80 | rng.getrandbits(6), rng.getrandbits(8)]) + rng.randbytes(10)
            self.queue(address, session, head + one_byte({1: b"x"}) + rng.randbytes(30), "protect")

    def check(self) -> None:
        """A peer that keeps its consent alive; sometimes not quite."""
        rng = self.rng
        transport, address, _ = rng.choice(self.peers)
        whole = rng.random() < 0.6
        key = stun.IntegrityKey(f"password{transport}" if whole or rng.random() < 0.8 else "another")
        name = f"ufrag{transport}" if whole or rng.random() < 0.8 else "ufrag"
        extra = b"" if whole else rng.choice([b"", bytes.fromhex("c057000400000001"), bytes.fromhex("7f000000")])
        data = stun.build_request(
            rng.randbytes(12),
            f"{name}:peer",
            key,
            priority=rng.getrandbits(31),
            use_candidate=rng.random() < 0.3,
            tie_breaker=rng.getrandbits(64),
            extra=extra,
        )
        if not whole and rng.random() < 0.3:
            data = self.mangled(data)
        place = (address.socket, address.host, address.port + (0 if whole else rng.choice([0, 0, 1])))
        for _ in range(rng.choice([1, 1, 2, 250])):
            self.waiting.append((place, data))
        self.both.order("has_answered", transport, rng.choice([data[8:20], rng.randbytes(12), b""]))
        self.both.order("last_check", transport)

    def run(self, steps: int) -> None:
        rng = self.rng
        for _ in range(steps):
            roll = rng.random()
            if roll < 0.6 and self.ups:
                for up in rng.sample(self.ups, min(len(self.ups), rng.randint(1, 3))):
                    self.media(up)
            elif roll < 0.75:
                self.feedback()
            elif roll < 0.85:
                self.change()
            elif roll < 0.9:
                self.strange()
            elif roll < 0.96:
                self.check()
            self.both.now += rng.choice([0, 100_000, 1_000_000, 20_000_000, 20_000_000, 300_000_000])
            self.flush()
        self.figures()

    def figures(self) -> None:
        both = self.both
        for up in self.ups:
            both.order("up_stats", up["handle"])
        for down in self.downs:
            both.order("down_stats", down["handle"])
        for tap in self.taps:
            both.order("take_tap", tap)
            both.order("tap_clock", tap)
        both.order("take_levels")
        both.order("totals")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**48))
def test_both_lives_send_the_same_bytes(seed: int) -> None:
    Scenario(seed).run(120)


def test_a_long_conference() -> None:
    Scenario(20261121).run(2500)


def test_the_scenario_reaches_what_it_should() -> None:
    """The comparison is only worth something if everything happens in it."""
    seen: dict[str, int] = {}
    for seed in range(12):
        scenario = Scenario(seed)
        scenario.run(150)
        for name, count in scenario.both.planes[0].totals().items():
            seen[name] = seen.get(name, 0) + count
    live_only = {"gso_segments", "send_errors", "drop_send_buffer", "drop_report_queue"}
    never = {name for name, count in seen.items() if not count} - live_only
    assert never <= {"drop_no_keys", "drop_rate", "drop_ssrc_limit", "drop_oversize", "drop_unbound_ssrc"}, never
    assert Nanos(scenario.both.now) > WRAP
