"""Where the files of one recording are written and where they end up.

Decides the order primary storage, backup storage, local disk: a recording is never deleted before something else holds
it, and what could not be uploaded is told with its place. Decides which names stay inside the directory. How an object
is stored is `storage`'s business.
"""

import asyncio
import contextlib
import logging
import os
from pathlib import Path, PurePosixPath

from tertulia.egress.outputs.api import StoredFile
from tertulia.egress.outputs.recording import replace_file
from tertulia.egress.outputs.storage import Storage, StorageError, StorageOptions, storage_of
from tertulia.protocol.errors import RequestError

__all__ = ["Depot", "Storage", "StorageError", "StorageOptions", "storage_of"]

log = logging.getLogger(__name__)

NAME_LIMIT_BYTES = 1024
PART_LIMIT_BYTES = 240
"""Of one path component; file systems allow 255, and a `.part` must fit too."""


class Depot:
    """Satisfies `api.Depository`. Without a primary storage the directory itself is where recordings end up."""

    def __init__(self, directory: Path, primary: Storage | None = None, backup: Storage | None = None) -> None:
        self._directory = Path(os.path.abspath(directory))
        self._primary, self._backup = primary, backup
        self.backup_used = False
        """Once the primary storage has failed, everything later goes to the backup (as LiveKit)."""

    @property
    def uploads(self) -> bool:
        return self._primary is not None

    def local(self, name: str) -> Path:
        path = self._directory / _clean(name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise _refused("a directory in it is a file") from None
        except PermissionError:
            pass  # the write that follows says so, as it says everything about the disk
        if not path.parent.resolve().is_relative_to(self._directory.resolve()):
            raise _refused("it leaves the recordings' directory")
        return path

    def location(self, name: str) -> str:
        return self._primary.location(name) if self._primary is not None else str(self._directory / name)

    async def store(self, name: str, content_type: str, *, last: bool = True) -> StoredFile:
        path = self.local(name)
        try:
            size = os.stat(path).st_size
        except OSError as error:
            return StoredFile(name, str(path), 0, error=f"{name} is gone: {(error.strerror or '').lower()}")
        if self._primary is None:
            return StoredFile(name, str(path), size)
        problems = []
        for storage, backup in ((self._primary, False), (self._backup, True)):
            if storage is None or (self.backup_used and not backup):
                continue
            try:
                location = await storage.put(name, path, content_type)
            except StorageError as error:
                problems.append(str(error))
                log.warning("egress upload failed: %s", error)
                self.backup_used = self.backup_used or self._backup is not None
                continue
            if last:
                self._forget(path)
            return StoredFile(name, location, size, backup)
        return StoredFile(name, str(path), size, error=f"upload failed: {'; '.join(problems)}; kept at {path}")

    async def write(self, name: str, data: bytes, content_type: str, *, last: bool = True) -> StoredFile:
        """A small file from memory (manifest, playlist): written whole or not at all, then stored."""
        try:
            await asyncio.to_thread(replace_file, self.local(name), data)
        except OSError as error:
            return StoredFile(name, "", 0, error=f"{name} could not be written: {(error.strerror or '').lower()}")
        return await self.store(name, content_type, last=last)

    def _forget(self, path: Path) -> None:
        """The local copy has done its work; so have directories that are empty now."""
        with contextlib.suppress(OSError):
            path.unlink()
            for parent in path.relative_to(self._directory).parents:
                if parent != Path("."):
                    (self._directory / parent).rmdir()


def _clean(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if not name or len(name.encode(errors="replace")) > NAME_LIMIT_BYTES or name.endswith("/"):
        raise _refused("empty or too long")
    if path.is_absolute() or ".." in path.parts:
        raise _refused("it leaves the recordings' directory")
    if any(ord(char) < 32 or char in "\x7f\\" or 0xD800 <= ord(char) < 0xE000 for char in name):
        raise _refused("control characters or backslashes")
    if any(len(part.encode()) > PART_LIMIT_BYTES for part in path.parts):
        raise _refused("a part of it is too long")
    return path


def _refused(why: str) -> RequestError:
    return RequestError("invalid_argument", f"request has missing or invalid field: filepath ({why})")
