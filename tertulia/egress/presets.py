"""What to encode: LiveKit's presets and advanced options as values, checked.

Decides picture size, rates and codecs; which codec fits which container is `plan`'s business.
"""

from dataclasses import dataclass
from typing import Literal

from livekit.protocol import egress, models

from tertulia.protocol.errors import RequestError

AudioCodecName = Literal["aac", "opus", "mp3"]
H264Profile = Literal["baseline", "main", "high"]

SMALLEST_SIDE = 16
LARGEST_SIDE = 4096
LARGEST_PICTURE = 3840 * 2160
FRAME_RATES = (1, 60)
VIDEO_KBPS = (50, 50_000)
AUDIO_KBPS = (8, 510)
KEY_FRAME_SECONDS = (0.1, 60.0)
AUDIO_RATES = {
    "aac": (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000),
    "opus": (48000,),
    "mp3": (16000, 22050, 24000, 32000, 44100, 48000),
}
_OPUS_ROUNDED_UP = (8000, 12000, 16000, 24000, 44100, 48000)
"""Rates callers ask for with Opus: it plays at 48 kHz whatever was asked (RFC 7845 5.1)."""


@dataclass(frozen=True, slots=True)
class VideoOptions:
    width: int = 1280
    height: int = 720
    frame_rate: int = 30
    bit_rate: int = 3_000_000
    profile: H264Profile = "main"
    key_frame_interval_s: float | None = None


@dataclass(frozen=True, slots=True)
class AudioOptions:
    codec: AudioCodecName | None = None
    """None: what the outputs like best."""
    bit_rate: int = 128_000
    sample_rate: int | None = None
    """None: 44.1 kHz, LiveKit's default; Opus always 48 kHz."""


PRESETS: dict[int, VideoOptions] = {
    egress.H264_720P_30: VideoOptions(1280, 720, 30, 3_000_000),
    egress.H264_720P_60: VideoOptions(1280, 720, 60, 4_500_000),
    egress.H264_1080P_30: VideoOptions(1920, 1080, 30, 4_500_000),
    egress.H264_1080P_60: VideoOptions(1920, 1080, 60, 6_000_000),
    egress.PORTRAIT_H264_720P_30: VideoOptions(720, 1280, 30, 3_000_000),
    egress.PORTRAIT_H264_720P_60: VideoOptions(720, 1280, 60, 4_500_000),
    egress.PORTRAIT_H264_1080P_30: VideoOptions(1080, 1920, 30, 4_500_000),
    egress.PORTRAIT_H264_1080P_60: VideoOptions(1080, 1920, 60, 6_000_000),
}

_PROFILES: dict[int, H264Profile] = {
    models.DEFAULT_VC: "main",
    models.H264_BASELINE: "baseline",
    models.H264_MAIN: "main",
    models.H264_HIGH: "high",
}
_AUDIO: dict[int, AudioCodecName | None] = {
    models.DEFAULT_AC: None,
    models.OPUS: "opus",
    models.AAC: "aac",
    models.AC_MP3: "mp3",
}


def preset_options(preset: int) -> tuple[VideoOptions, AudioOptions]:
    if preset not in PRESETS:
        name = "PASSTHROUGH" if preset == egress.PASSTHROUGH else str(preset)
        raise invalid("preset", f"{name} is not possible here")
    return PRESETS[preset], AudioOptions()


def advanced_options(wish: egress.EncodingOptions) -> tuple[VideoOptions, AudioOptions]:
    """Zero means default, as everywhere in these messages. Raises RequestError(invalid_argument)."""
    base = VideoOptions()
    width, height = _side("width", wish.width, base.width), _side("height", wish.height, base.height)
    if width * height > LARGEST_PICTURE:
        raise invalid("width and height", f"more than {LARGEST_PICTURE} pixels")
    if wish.depth not in (0, 8, 16, 24):
        raise invalid("depth", "8, 16 or 24")
    if wish.video_codec not in _PROFILES:
        raise invalid("video_codec", "H264_BASELINE, H264_MAIN or H264_HIGH")
    if wish.audio_codec not in _AUDIO:
        raise invalid("audio_codec", "OPUS, AAC or AC_MP3")
    interval = wish.key_frame_interval
    if interval and not KEY_FRAME_SECONDS[0] <= interval <= KEY_FRAME_SECONDS[1]:
        raise invalid("key_frame_interval", f"between {KEY_FRAME_SECONDS[0]} and {KEY_FRAME_SECONDS[1]} seconds")
    video = VideoOptions(
        width,
        height,
        _between("framerate", wish.framerate, base.frame_rate, FRAME_RATES),
        _between("video_bitrate", wish.video_bitrate, base.bit_rate // 1000, VIDEO_KBPS) * 1000,
        _PROFILES[wish.video_codec],
        interval or None,
    )
    codec = _AUDIO[wish.audio_codec]
    rate = wish.audio_frequency or None
    known = AUDIO_RATES["aac"] if codec is None else (*AUDIO_RATES[codec], *_OPUS_ROUNDED_UP)
    if rate is not None and rate not in known:
        raise invalid("audio_frequency", f"one of {', '.join(map(str, sorted(set(known))))}")
    return video, AudioOptions(codec, _between("audio_bitrate", wish.audio_bitrate, 128, AUDIO_KBPS) * 1000, rate)


def sample_rate(codec: AudioCodecName, wish: int | None) -> int:
    """The rate the encoder runs at: the wish where the codec has it."""
    if codec == "opus":
        return 48_000
    return wish if wish in AUDIO_RATES[codec] else 44_100


def _side(field: str, value: int, default: int) -> int:
    if not value:
        return default
    if not SMALLEST_SIDE <= value <= LARGEST_SIDE or value % 2:
        raise invalid(field, f"even, between {SMALLEST_SIDE} and {LARGEST_SIDE}")
    return value


def _between(field: str, value: int, default: int, limits: tuple[int, int]) -> int:
    if not value:
        return default
    if not limits[0] <= value <= limits[1]:
        raise invalid(field, f"between {limits[0]} and {limits[1]}")
    return value


def invalid(field: str, why: str) -> RequestError:
    """The caller's mistake, told by the field's name."""
    return RequestError("invalid_argument", f"request has missing or invalid field: {field} ({why})")
