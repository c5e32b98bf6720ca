"""The compiled plane on real sockets: a thread per Port that runs C and never takes the GIL.

Before it is trusted, libsrtp's functions are called by address once and compared with what pylibsrtp answers; so is
every supplier of AES-GCM. The fastest that can be had and gives libsrtp's bytes is taken; `reason` says why not
one that is faster.
"""

import functools
import os
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from random import Random

from pylibsrtp import Error

from tertulia.sfu.plane import srtp
from tertulia.sfu.plane.api import Report
from tertulia.sfu.plane.native import Native
from tertulia.sfu.plane.orders import Orders
from tertulia.sfu.plane.srtp import NoPointers

KEY = bytes(range(28))
SIZES = (0, 1, 2, 15, 16, 17, 31, 32, 33, 48)
PROBE = bytes.fromhex("80600001000000010000000a") + b"the quick brown fox"


class SelfTestFailed(Exception):
    """The compiled life does not do here what the interpreted one does."""


class Compiled(Orders):
    """`LivePlane`, compiled."""

    def __init__(self, ports: Sequence[Sequence[socket.socket]], rng: Random) -> None:
        supplier, self.reason = chosen_supplier()
        self._ports = [len(row) for row in ports]
        self._native = Native([sock for row in ports for sock in row], rng.getrandbits(64), supplier)
        self._wakes: list[int] = []
        self._threads: list[threading.Thread] = []
        super().__init__(self._native, rng)

    def fileno(self) -> int:
        return self._native.bell()

    def start(self) -> None:
        first = 0
        for index, count in enumerate(self._ports):
            wake = self._native.open_wake()
            self._wakes.append(wake)
            thread = threading.Thread(
                target=self._native.run, args=(first, count, wake), name=f"plane-{index}", daemon=True
            )
            self._threads.append(thread)
            first += count
            thread.start()

    def stop(self) -> None:
        """End the threads; the sockets stay the caller's."""
        self._native.halt()
        for wake in self._wakes:
            os.eventfd_write(wake, 1)
        for thread in self._threads:
            thread.join()
        self._native.silence()
        for wake in self._wakes:
            os.close(wake)
        self._wakes.clear()
        self._threads.clear()

    def reports(self) -> list[Report]:
        self._native.quiet()
        return super().reports()


def self_test() -> None:
    """One packet through the compiled plumbing, protected by address, against the same through pylibsrtp.

    Raises SelfTestFailed with the difference.
    """
    native = Native([], 0, "")
    place = (0, "192.0.2.1", 9)
    native.add_transport(1, 0, 0)
    native.set_keys(1, 7, KEY, KEY)
    native.allow(1, *place)
    native.select(1, place)
    native.add_track(2, 0, 48000)
    native.add_up(3, 2, 1, 10, 0, 0x60, 0, 0)
    native.add_down(4, 2, 1, 11, 0x60, 0, 0, 0, b"", 0, 1, 1)
    native.aim(4, 0, 7)
    native.step(1, [(place, srtp.session(7, KEY, outbound=True).protect(PROBE))])
    expected = bytearray(PROBE)
    expected[11] = 11
    sent = [data for _, data in native.sent() if not 192 <= data[1] < 224]
    if sent != [srtp.session(7, KEY, outbound=True).protect(bytes(expected))]:
        raise SelfTestFailed("libsrtp called by address gives other bytes than pylibsrtp")


@functools.cache
def chosen_supplier() -> tuple[str, str]:
    """Whose AES-GCM is used ("": libsrtp's), and why nobody's who is faster."""
    reasons: list[str] = []
    for supplier in srtp.SUPPLIERS:
        reason = why_not(supplier)
        if not reason:
            return supplier, f"AES-GCM by {supplier}: {'; '.join(reasons)}" if reasons else ""
        reasons.append(reason)
    return "", f"AES-GCM by libsrtp: {'; '.join(reasons)}"


def why_not(supplier: str) -> str:
    """A supplier against libsrtp, both ways: sizes around blocks, a header extension, numbers that wrap, skip, repeat.

    "" when they agree.
    """
    try:
        native = Native([], 0, supplier)
    except NoPointers as error:
        return str(error)
    native.add_transport(1, 0, 0)
    native.set_keys(1, srtp.GCM, KEY, KEY)
    packets = []
    for number, sequence in enumerate((1, 2, 2, 30000, 60000, 59990, 20000, 19999, 65535, 0)):
        head = struct.pack("!BBHII", 0x90, 0x60, sequence, number, 10) + bytes.fromhex("bede000110aa0000")
        packets.append(head + bytes(range(256)) * 5 if number % 3 else head + bytes(SIZES[number]))
    compounds = [struct.pack("!BBHI", 0x80, 201, 1, 10) + bytes(range(4 * words)) for words in (0, 1, 6, 31)]
    sends, hears = srtp.session(srtp.GCM, KEY, outbound=True), srtp.session(srtp.GCM, KEY, outbound=False)
    sealed = [tried(sends.protect, packet) for packet in packets]
    told = [sends.protect_rtcp(compound) for compound in compounds]
    arriving = [packet for packet in sealed if packet]
    arriving += [arriving[0], spoilt(arriving[-1]), arriving[-1][:20]]
    again = [*told, told[0], spoilt(told[1]), told[2][:20]]
    if any(native.seal(1, packets, own) != sealed for own in (0, 16)) or native.seal_rtcp(1, compounds) != told:
        return f"{supplier} gives other bytes than libsrtp"
    if native.heard(1, arriving) != [tried(hears.unprotect, packet) for packet in arriving]:
        return f"{supplier} understands other packets than libsrtp"
    if native.heard(1, again, is_rtcp=True) != [tried(hears.unprotect_rtcp, compound) for compound in again]:
        return f"{supplier} understands other RTCP than libsrtp"
    return ""


def tried(work: Callable[[bytes], bytes], packet: bytes) -> bytes | None:
    try:
        return work(packet)
    except Error:
        return None


def spoilt(packet: bytes) -> bytes:
    """One bit of the tag is wrong."""
    return packet[:-6] + bytes([packet[-6] ^ 1]) + packet[-5:]
