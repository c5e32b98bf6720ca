"""A file that is being recorded: whatever happens, what was written whole can be read. Blocking; for a lane's thread.

Decides the order in which bytes reach the disk. Containers write forwards and at the end go back to patch an earlier
header; those patches wait until the rest is safely on the disk, for a full disk between the two would cost the file.
"""

import contextlib
import fcntl
import os
from pathlib import Path

from tertulia.protocol.errors import RequestError


def _open(path: Path, flags: int) -> int:
    flags |= os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o644)
    except FileNotFoundError:  # the directory went as empty with a file that was uploaded
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, flags, 0o644)


def claim(path: Path) -> int:
    """Open an empty file that is ours alone; links are not followed.
    Raises OSError, or RequestError(already_exists) while another recording writes there."""
    fd = _open(path, os.O_RDWR)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise RequestError("already_exists", f"another recording is writing to {path.name}") from None
    os.ftruncate(fd, 0)
    return fd


class RecordingFile:
    """A sink for `mux.Muxer`. Raises OSError from `write`; takes the path for itself or refuses."""

    def __init__(self, path: Path) -> None:
        self._fd = claim(path)
        self._path = path
        self._at = self._end = self._synced = 0
        self._patches: list[tuple[int, bytes]] = []

    @property
    def size(self) -> int:
        return self._end

    def write(self, data: bytes) -> int:
        view = memoryview(data).cast("B")
        if self._at < self._end:
            self._patches.append((self._at, bytes(view)))
            self._at += len(view)
            return len(view)
        self._put(view, self._end)
        self._end += len(view)
        self._at = self._end
        return len(view)

    def _put(self, view: memoryview, at: int) -> None:
        while view:
            written = os.pwrite(self._fd, view, at)
            view, at = view[written:], at + written

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._end}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def seekable(self) -> bool:
        return True

    def sync(self) -> None:
        """What was written so far survives a power cut."""
        if self._synced != self._end:
            os.fdatasync(self._fd)
            self._synced = self._end

    def commit(self) -> None:
        """All is written: apply the patches and close. When it raises, `salvage` is still to be called."""
        os.fsync(self._fd)
        for at, data in self._patches:
            self._put(memoryview(data), at)
        os.fsync(self._fd)
        os.close(self._fd)
        _sync_directory(self._path.parent)

    def salvage(self, *, fragmented: bool) -> None:
        """Writing failed: drop the patches and the half-written end, keep the rest, close."""
        try:
            with contextlib.suppress(OSError):
                if fragmented:
                    self._end = _whole_fragments(self._fd, self._end)
                os.ftruncate(self._fd, self._end)
                os.fsync(self._fd)
        finally:
            os.close(self._fd)

    def discard(self) -> None:
        """Nothing was recorded: leave no empty file."""
        os.close(self._fd)
        with contextlib.suppress(OSError):
            self._path.unlink()


def _sync_directory(directory: Path) -> None:
    with contextlib.suppress(OSError):  # not every file system lets directories be synced
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _whole_fragments(fd: int, end: int) -> int:
    """Where the last complete box of a fragmented MP4 ends that a reader needs no later box for
    (ISO/IEC 14496-12 4.2): the header, or an `mdat` after its `moof`."""
    at = whole = 0
    header_seen = False
    while at + 8 <= end:
        header = os.pread(fd, 16, at)
        size, kind = int.from_bytes(header[:4], "big"), header[4:8]
        if size == 1:
            size = int.from_bytes(header[8:16], "big")
        if size < 8 or at + size > end:
            break
        at += size
        if kind == b"mdat" or (kind == b"moov" and not header_seen):  # a second `moov` is of use with its patch only
            whole, header_seen = at, True
    return whole


def replace_file(path: Path, data: bytes) -> None:
    """Write a small file so that a reader sees the old one or the new one, never half of either."""
    aside = path.with_name(f".{path.name}.part")
    fd = _open(aside, os.O_WRONLY | os.O_TRUNC)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
    except OSError:
        os.close(fd)
        with contextlib.suppress(OSError):
            aside.unlink()
        raise
    os.close(fd)
    os.replace(aside, path)
