"""Datagrams by the batch: recvmmsg and sendmmsg through cffi, on memory that numpy reads without copying.

Decides nothing. Every received datagram comes with the kernel's own time of arrival (SO_TIMESTAMPNS), so a sweep every
few milliseconds measures delay as well as a thread per packet would, and with the number of datagrams its socket lost
before it was read (SO_RXQ_OVFL). Where the system has no recvmmsg the same arrays are filled one by one.
"""

import errno
import socket
import sys
import time
from typing import Any

import numpy as np
from cffi import FFI  # type: ignore[import-untyped]

SLOTS = 4096
SLOT_BYTES = 1600
"""An Ethernet frame; nobody sends more to a WebRTC client."""
RUN = 64
"""Datagrams of one recvmmsg."""
SEND_SLOTS = 256
CONTROL_BYTES = 64
SO_TIMESTAMPNS, SO_RXQ_OVFL, SCM_TIMESTAMPNS = 35, 40, 35
RECEIVE_BUFFER_BYTES = 4 << 20
MESSAGE = np.dtype(
    {
        "names": ["name", "namelen", "iov", "iovlen", "control", "controllen", "flags", "length"],
        "formats": ["u8", "u4", "u8", "u8", "u8", "u8", "i4", "u4"],
        "offsets": [0, 8, 16, 24, 32, 40, 48, 56],
        "itemsize": 64,
    }
)
"""struct mmsghdr of 64-bit Linux."""

ffi: Any = FFI()
ffi.cdef(
    "int recvmmsg(int fd, void *messages, unsigned int count, int flags, void *timeout);"
    "int sendmmsg(int fd, void *messages, unsigned int count, int flags);"
)


def _library() -> Any:
    if not sys.platform.startswith("linux") or sys.maxsize < 1 << 40:
        return None
    found = ffi.dlopen(None)
    return found if hasattr(found, "recvmmsg") and hasattr(found, "sendmmsg") else None


library = _library()


def open_socket(family: int) -> socket.socket:
    """A datagram socket that stamps what it receives."""
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        if library is not None:
            sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            sock.setsockopt(socket.SOL_SOCKET, SO_RXQ_OVFL, 1)
        sock.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", 0))
    except OSError:
        sock.close()
        raise
    return sock


class Pool:
    """Slots of equal size with a message header each; `at(i)` addresses are fixed for the life of the pool."""

    def __init__(self, slots: int, control: bool) -> None:
        self.data = np.zeros((slots, SLOT_BYTES), np.uint8)
        self.view = memoryview(self.data.reshape(-1))  # type: ignore[arg-type]
        self.control = np.zeros((slots, CONTROL_BYTES), np.uint8)
        self.vectors = np.zeros((slots, 2), np.uint64)
        self.messages = np.zeros(slots, MESSAGE)
        self.base = int(self.data.ctypes.data)
        self.vectors[:, 0] = self.base + np.arange(slots, dtype=np.uint64) * SLOT_BYTES
        self.vectors[:, 1] = SLOT_BYTES
        self.messages["iov"] = int(self.vectors.ctypes.data) + np.arange(slots, dtype=np.uint64) * 16
        self.messages["iovlen"] = 1
        if control:
            self.messages["control"] = int(self.control.ctypes.data) + np.arange(slots, dtype=np.uint64) * CONTROL_BYTES
            self.messages["controllen"] = CONTROL_BYTES
        start = int(self.messages.ctypes.data)
        self.headers = [ffi.cast("void *", start + 64 * index) for index in range(slots)]

    def addresses(self) -> list[int]:
        return [self.base + SLOT_BYTES * index for index in range(len(self.data))]


class Intake:
    """A pool that sockets are read into until it is full or they are empty."""

    def __init__(self) -> None:
        self.pool = Pool(SLOTS, control=True)
        self.filled = 0
        self.owner = np.zeros(SLOTS, np.int64)
        """Number of the connection a slot's datagram came to."""
        self.stamps = np.zeros(SLOTS, np.int64)
        self.errors = 0
        """Sockets that reported an error (nobody listens there any more)."""

    @property
    def room(self) -> int:
        return SLOTS - self.filled

    def read(self, sock: socket.socket, owner: int) -> int:
        """Read up to `RUN` datagrams; the number read."""
        begin = self.filled
        count = min(RUN, SLOTS - begin)
        got = self._read_batch(sock, begin, count) if library is not None else self._read_each(sock, begin, count)
        if got > 0:
            self.filled += got
            self.owner[begin : begin + got] = owner
        return got

    def lengths(self) -> Any:
        return self.pool.messages["length"][: self.filled].astype(np.int64)

    def times(self) -> Any:
        """Unix ns of arrival of each filled slot."""
        if library is None:
            return self.stamps[: self.filled]
        control = self.pool.control[: self.filled, :32].reshape(-1).view(np.int64).reshape(-1, 4)
        return control[:, 2] * 1_000_000_000 + control[:, 3]

    def overflows(self) -> list[tuple[int, int]]:
        """(owner, datagrams its socket has lost so far) where the kernel said so."""
        if library is None:
            return []
        said = np.flatnonzero(self.pool.messages["controllen"][: self.filled] > 32)
        values = self.pool.control[said, 48:52].reshape(-1).view(np.uint32) if len(said) else ()
        return [(int(self.owner[slot]), int(value)) for slot, value in zip(said, values, strict=True)]

    def clear(self) -> None:
        """Ready to be filled again: recvmmsg wrote over the control lengths."""
        self.pool.messages["controllen"][: self.filled] = CONTROL_BYTES
        self.filled = 0

    def _read_batch(self, sock: socket.socket, begin: int, count: int) -> int:
        got = library.recvmmsg(sock.fileno(), self.pool.headers[begin], count, socket.MSG_DONTWAIT, ffi.NULL)
        if got < 0:
            if ffi.errno not in (errno.EAGAIN, errno.EINTR):
                self.errors += 1
            return 0
        return int(got)

    def _read_each(self, sock: socket.socket, begin: int, count: int) -> int:
        for index in range(begin, begin + count):
            try:
                size = sock.recv_into(self.pool.view[index * SLOT_BYTES : (index + 1) * SLOT_BYTES])
            except BlockingIOError:
                return index - begin
            except OSError:
                self.errors += 1
                return index - begin
            self.pool.messages["length"][index] = size
            self.stamps[index] = time.time_ns()
        return count


class Outbox:
    """A pool that packets are written into, then sent on one socket."""

    def __init__(self) -> None:
        self.pool = Pool(SEND_SLOTS, control=False)
        self.view = self.pool.view
        self.refused = 0
        """Packets the kernel did not take."""

    def set_length(self, slot: int, size: int) -> None:
        self.pool.vectors[slot, 1] = size

    def flush(self, sock: socket.socket, count: int) -> None:
        """Send slots 0 .. count-1; what the kernel refuses is counted, not repeated."""
        if library is None:
            for slot in range(count):
                start = slot * SLOT_BYTES
                try:
                    sock.send(self.view[start : start + int(self.pool.vectors[slot, 1])])
                except OSError:
                    self.refused += 1
            return
        sent = 0
        while sent < count:
            done = library.sendmmsg(sock.fileno(), self.pool.headers[sent], count - sent, 0)
            if done <= 0:
                self.refused += 1
                done = 1
            sent += done
