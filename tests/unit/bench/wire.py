"""One side sends with SRTP over loopback, the other counts: what the receiving tests stand on."""

import socket
import struct
from typing import Any

import numpy as np

from benchmarks.load import batch
from benchmarks.load.batch import Intake
from benchmarks.load.receiving import Stream, Tables
from tertulia.sfu.plane import srtp

KEY = bytes(range(28))
PROFILE = 7


class Pair:
    """A sender of hand-made packets and a `Tables` with one row for SSRC 1 (repair SSRC 2)."""

    def __init__(self, kind: str = "video", codec: str = "vp8") -> None:
        self.receiver = batch.open_socket(socket.AF_INET)
        self.sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sender.connect(("127.0.0.1", self.receiver.getsockname()[1]))
        self.session = srtp.session(PROFILE, KEY, outbound=True)
        self.inbound = srtp.session(PROFILE, KEY, outbound=False)
        self.tables = Tables()
        self.intake = Intake()
        self.twcc = np.zeros(8, np.int64)
        self.stream = self.add(1, 2, kind, codec)
        self.others: list[bytes] = []
        self.sequenced: list[int] = []

    def add(self, ssrc: int, repair: int, kind: str, codec: str) -> Stream:
        return self.tables.add(0, ssrc, repair, kind, "TR_x", self.inbound._srtp[0], 0, lambda number: codec)

    def packet(
        self, number: int, payload: bytes, *, ssrc: int = 1, marker: bool = False, block: bytes = b"", kind: int = 96
    ) -> bytes:
        head = struct.pack("!BBHII", 0x90 if block else 0x80, kind | marker << 7, number & 0xFFFF, 0, ssrc)
        return bytes(self.session.protect(head + block + payload))

    def send(self, *packets: bytes) -> None:
        for packet in packets:
            self.sender.send(packet)

    def count(self) -> None:
        """Read everything that is there and count it as one batch."""
        while self.intake.room >= batch.RUN and self.intake.read(self.receiver, 0):
            pass
        others, slots, numbers = self.tables.take(self.intake, self.twcc)
        lengths = self.intake.lengths()
        self.others += [bytes(self.intake.pool.data[slot, : lengths[slot]]) for slot in others]
        self.sequenced += [int(number) for number in numbers]
        assert len(slots) == len(numbers)
        self.intake.clear()

    def close(self) -> None:
        self.receiver.close()
        self.sender.close()

    def __enter__(self) -> "Pair":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()
