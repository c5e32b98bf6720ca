"""Pictures and samples -> encoded packets, once for all outputs (imports av: import this module lazily).

Decides the encoders' settings. Frames are numbered by the job's ticks; key frames come when the job asks for them, so
that they fall on the same moments for every output.
"""

from fractions import Fraction
from typing import Any

import av
import numpy as np

from tertulia.egress.decode import Samples
from tertulia.egress.outputs.api import EncodedPacket, StreamSpec
from tertulia.egress.plan import AudioPlan, VideoPlan
from tertulia.egress.timeline import SAMPLE_RATE

_ENCODERS = {"aac": "aac", "opus": "libopus", "mp3": "libmp3lame"}
_FORMATS = {"aac": "fltp", "opus": "s16", "mp3": "s16p"}
BUFFER_SECONDS = 2
"""x264's VBV: how far the rate may swing."""
ONE_THREAD_PIXELS = 1920 * 1080 * 30
"""Per second; more than this takes one core too long."""


class VideoEncoder:
    """x264. `tick` counts frames of the plan's rate from the recording's start; it may leave some out."""

    def __init__(self, plan: VideoPlan, *, preset: str, threads: int, constant_rate: bool) -> None:
        context: Any = av.CodecContext.create("libx264", "w")
        context.width, context.height, context.pix_fmt = plan.width, plan.height, "yuv420p"
        context.framerate = Fraction(plan.frame_rate)
        context.time_base = Fraction(1, plan.frame_rate)
        context.bit_rate = plan.bit_rate
        pixel_rate = plan.width * plan.height * plan.frame_rate
        context.thread_count = threads or (2 if pixel_rate > ONE_THREAD_PIXELS else 1)
        context.color_range = 1  # limited, as every WebRTC sender has it
        kbps = plan.bit_rate // 1000
        details = [f"vbv-maxrate={kbps}", f"vbv-bufsize={kbps * BUFFER_SECONDS}", "keyint=infinite", "scenecut=0"]
        if constant_rate:
            details.append("nal-hrd=vbr")
        context.options = {
            "preset": preset,
            "profile": plan.profile,
            "forced-idr": "1",
            "x264-params": ":".join(details),
        }
        self._context = context
        self._time_base = Fraction(1, plan.frame_rate)
        self.spec = StreamSpec(
            "video",
            "h264",
            self._time_base,
            width=plan.width,
            height=plan.height,
            frame_rate=Fraction(plan.frame_rate),
            bit_rate=plan.bit_rate,
        )

    def encode(self, frame: av.VideoFrame, tick: int, *, key_frame: bool) -> list[EncodedPacket]:
        frame.pts = tick
        frame.time_base = self._time_base
        kind = av.video.frame.PictureType
        frame.pict_type = kind.I if key_frame else kind.NONE
        return self._packets(self._context.encode(frame))

    def flush(self) -> list[EncodedPacket]:
        if not self._context.is_open:
            return []
        return self._packets(self._context.encode(None))

    def _packets(self, packets: list[Any]) -> list[EncodedPacket]:
        return [
            EncodedPacket(
                "video", bytes(p), _number(p.pts), _number(p.dts), self._time_base, p.is_keyframe, p.duration or 1
            )
            for p in packets
        ]


class AudioEncoder:
    """AAC, Opus or MP3 from 48 kHz stereo; resamples where the plan wants another rate."""

    def __init__(self, plan: AudioPlan) -> None:
        context: Any = av.CodecContext.create(_ENCODERS[plan.codec], "w")
        context.sample_rate = plan.sample_rate
        context.layout = "stereo"
        context.format = av.AudioFormat(_FORMATS[plan.codec])
        context.bit_rate = plan.bit_rate
        context.time_base = Fraction(1, plan.sample_rate)
        context.open()
        self._context = context
        self._time_base = Fraction(1, plan.sample_rate)
        self._resampler = av.AudioResampler(
            _FORMATS[plan.codec], "stereo", plan.sample_rate, frame_size=context.frame_size or 960
        )
        self.spec = StreamSpec(
            "audio",
            plan.codec,
            self._time_base,
            extradata=bytes(context.extradata or b""),
            sample_rate=plan.sample_rate,
            channels=2,
            bit_rate=plan.bit_rate,
        )

    def encode(self, samples: Samples, position: int) -> list[EncodedPacket]:
        """`position` in samples at 48 kHz from the recording's start."""
        frame = av.AudioFrame(format="s16", layout="stereo", samples=len(samples))
        frame.sample_rate = SAMPLE_RATE
        frame.pts = position
        frame.time_base = Fraction(1, SAMPLE_RATE)
        np.frombuffer(memoryview(frame.planes[0]), np.int16, samples.size)[:] = samples.reshape(-1)
        return self._encode(self._resampler.resample(frame))

    def flush(self) -> list[EncodedPacket]:
        packets = self._encode(self._resampler.resample(None))
        return packets + self._packets(self._context.encode(None))

    def _encode(self, frames: list[av.AudioFrame]) -> list[EncodedPacket]:
        out: list[EncodedPacket] = []
        for frame in frames:
            out += self._packets(self._context.encode(frame))
        return out

    def _packets(self, packets: list[Any]) -> list[EncodedPacket]:
        return [
            EncodedPacket(
                "audio",
                bytes(p),
                _number(p.pts),
                _number(p.pts),
                self._time_base,
                key_frame=True,
                duration=p.duration or 0,
            )
            for p in packets
        ]


def _number(value: int | None) -> int:
    assert value is not None  # every frame that goes in has a time
    return value
