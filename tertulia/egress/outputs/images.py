"""Pictures of a recording at fixed intervals, as JPEG files.

Decides when a picture is due and what its file is called. Takes decoded frames (the compositor's canvas or a decoded
track), scales and encodes them in a thread of its own.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

import av
from livekit.protocol import egress

from tertulia.egress.outputs.api import EncodedPacket, Hooks, OutputResult, StoredFile, StreamSpec
from tertulia.egress.outputs.lane import LaneOutput
from tertulia.egress.outputs.recording import replace_file
from tertulia.egress.outputs.upload import Depot

log = logging.getLogger(__name__)

JPEG_QUALITY = "4"
"""libav's scale, 2 best to 31 worst."""


@dataclass(frozen=True, slots=True)
class ImagesPlan:
    """`prefix` is a clean path below the storage's root; width and height 0 leave a picture as it is."""

    prefix: str
    interval_s: float = 10.0
    width: int = 0
    height: int = 0
    suffix: int = egress.ImageFileSuffix.IMAGE_SUFFIX_INDEX


class ImagesOutput(LaneOutput):
    """One series of pictures. Satisfies `api.Output`; packets are not for it."""

    def __init__(self, plan: ImagesPlan, depot: Depot, hooks: Hooks = Hooks()) -> None:  # noqa: B008
        """On the loop. Raises RequestError for a name that cannot be."""
        super().__init__(plan.prefix, hooks)
        depot.local(plan.prefix + "_00000.jpeg")
        self._plan, self._depot = plan, depot
        self._epoch_ns = 0
        self._next_ns: int | None = None
        self._taken = 0
        self._info = egress.ImagesInfo(filename_prefix=plan.prefix)
        self._stored_files: list[StoredFile] = []
        self._uploads: set[asyncio.Task[None]] = set()
        self._in_turn = asyncio.Lock()

    def wants(self, pts_ns: int) -> bool:
        """Worker. Whether a picture is due; cheap, to be asked for every frame."""
        return self._next_ns is None or pts_ns >= self._next_ns

    def picture(self, frame: av.VideoFrame, pts_ns: int) -> None:
        """Worker. Hand over a frame, which is not changed any more."""
        interval_ns = int(self._plan.interval_s * 1e9)
        self._next_ns = (pts_ns // interval_ns + 1) * interval_ns
        self._submit(frame.width * frame.height * 3 // 2, lambda: self._save(frame, pts_ns))

    # In the lane's thread.

    def _begin(self, streams: Sequence[StreamSpec], epoch_ns: int) -> None:
        self._epoch_ns = epoch_ns

    def _take(self, packet: EncodedPacket) -> None:
        """Encoded packets are for others."""

    def _finish(self) -> None:
        """Every picture is whole when it is saved."""

    def _save(self, frame: av.VideoFrame, pts_ns: int) -> None:
        moment_ns = self._epoch_ns + pts_ns
        name = self._plan.prefix + self._suffix(moment_ns)
        data = jpeg(frame, self._plan.width or frame.width, self._plan.height or frame.height)
        replace_file(self._depot.local(name), data)
        self._taken += 1
        self._post(self._saved, name, moment_ns)

    def _suffix(self, moment_ns: int) -> str:
        if self._plan.suffix == egress.ImageFileSuffix.IMAGE_SUFFIX_NONE_OVERWRITE:
            return ".jpeg"
        if self._plan.suffix == egress.ImageFileSuffix.IMAGE_SUFFIX_TIMESTAMP:
            moment = datetime.fromtimestamp(moment_ns // 1_000_000_000, UTC)
            return f"_{moment:%Y%m%d%H%M%S}{moment_ns // 1_000_000 % 1000:03d}.jpeg"
        return f"_{self._taken:05d}.jpeg"

    # On the loop.

    def _saved(self, name: str, moment_ns: int) -> None:
        self._info.image_count += 1
        self._info.started_at = self._info.started_at or moment_ns
        self._info.ended_at = moment_ns
        task = asyncio.create_task(self._upload(name), name="image upload")
        self._uploads.add(task)
        task.add_done_callback(self._uploads.discard)

    async def _upload(self, name: str) -> None:
        overwritten = self._plan.suffix == egress.ImageFileSuffix.IMAGE_SUFFIX_NONE_OVERWRITE
        async with self._in_turn:  # so that no older picture overwrites a newer one
            stored = await self._depot.store(name, "image/jpeg", last=not overwritten)
        self._stored_files.append(stored)
        if stored.error:  # one picture less; the series goes on
            log.warning("egress image: %s", stored.error)

    async def _stored(self, *, upload: bool) -> None:
        if self._uploads and upload:
            await asyncio.wait(set(self._uploads))
        for task in set(self._uploads):
            task.cancel()
        kept = [stored for stored in self._stored_files if stored.error]
        if upload and kept:
            self._fail(f"{len(kept)} images were not uploaded; {kept[0].error}")
        if self._plan.suffix == egress.ImageFileSuffix.IMAGE_SUFFIX_NONE_OVERWRITE and self._depot.uploads and not kept:
            path = self._depot.local(self._plan.prefix + ".jpeg")
            await asyncio.to_thread(path.unlink, missing_ok=True)

    def result(self) -> OutputResult:
        info = egress.ImagesInfo()
        info.CopyFrom(self._info)
        return OutputResult(images=[info], stored=list(self._stored_files), backup_storage_used=self._depot.backup_used)


def jpeg(frame: av.VideoFrame, width: int, height: int) -> bytes:
    """One frame as a JPEG file."""
    scaled = frame.reformat(width=width, height=height, format="yuvj420p")
    encoder: Any = av.CodecContext.create("mjpeg", "w")
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuvj420p"
    encoder.time_base = Fraction(1, 30)
    encoder.options = {"qmin": JPEG_QUALITY, "qmax": JPEG_QUALITY}
    scaled.pts, scaled.time_base = 0, Fraction(1, 30)
    return b"".join(bytes(packet) for packet in (*encoder.encode(scaled), *encoder.encode(None)))
