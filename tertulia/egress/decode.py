"""Encoded frames -> pictures and samples, by libav (imports av and numpy: import this module lazily).

Decides which decoder and that a broken frame is the peer's fault, told as PeerError. One thread per decoder: many small
pictures, and the job's one worker thread, gain nothing from more.
"""

from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.codec.context import Flags

from tertulia.protocol.errors import PeerError

_DECODERS = {"video/vp8": "vp8", "video/vp9": "vp9", "video/h264": "h264", "video/av1": "libdav1d"}
PIXELS_LIMIT = 4096 * 4096
"""A picture header may claim anything; libav refuses before it takes the memory."""
SILENT_BYTES = 2
"""Opus packets no longer than this carry no sound (DTX, RFC 6716 3.1)."""

Samples = npt.NDArray[np.int16]


class PictureDecoder:
    """One video track; survives changes of size."""

    def __init__(self, mime_type: str) -> None:
        self._context: Any = av.CodecContext.create(_DECODERS[mime_type.lower()], "r")
        self._context.thread_count = 1
        self._context.options = {"max_pixels": str(PIXELS_LIMIT)}
        self._context.flags |= Flags.low_delay  # no reordering: WebRTC sends no B-frames

    def decode(self, data: bytes) -> av.VideoFrame | None:
        """The newest picture of these bytes. Raises PeerError; then only a key frame helps."""
        try:
            pictures: list[av.VideoFrame] = self._context.decode(av.Packet(data))
        except av.FFmpegError as error:
            raise PeerError(f"undecodable picture: {error.strerror}") from None
        return pictures[-1] if pictures else None


class VoiceDecoder:
    """One Opus track -> interleaved stereo at 48 kHz."""

    def __init__(self) -> None:
        self._context: Any = av.CodecContext.create("libopus", "r")
        self._context.sample_rate = 48_000
        self._context.layout = "stereo"

    def decode(self, data: bytes) -> Samples:
        """Shape (n, 2). Raises PeerError."""
        try:
            frames: list[av.AudioFrame] = self._context.decode(av.Packet(data))
        except av.FFmpegError as error:
            raise PeerError(f"undecodable sound: {error.strerror}") from None
        parts = [
            np.frombuffer(memoryview(frame.planes[0]), np.int16, frame.samples * 2).reshape(-1, 2) for frame in frames
        ]
        if not parts:
            return np.zeros((0, 2), np.int16)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)
