"""Which video encoder to use, and how each is told the same quality and speed.

The options are those of FFmpeg's encoders: constant quality by the number that x264 calls crf, on the
encoder's own scale, and one of x264's presets, or an encoder's own.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

import av
from av.codec.codec import UnknownCodecError
from av.error import FFmpegError
from av.video.frame import VideoFrame

from lipsync.checks import is_whole
from lipsync.errors import ConfigError, MediaError
from lipsync.media.probe import reason

if TYPE_CHECKING:
    from av.video.codeccontext import VideoCodecContext

ANY_HARDWARE = "hardware"
"""Stands for the first of :data:`HARDWARE` that works."""
HARDWARE = ("h264_nvenc", "h264_videotoolbox", "h264_qsv", "h264_amf")
"""Of NVIDIA, Apple, Intel and AMD."""
SOFTWARE = "libx264"
"""Works everywhere."""

WEB_CODECS = ("libvpx-vp9", "libsvtav1", "libaom-av1")
"""VP9 and AV1."""

PRESETS = (
    "ultrafast",
    "superfast",
    "veryfast",
    "faster",
    "fast",
    "medium",
    "slow",
    "slower",
    "veryslow",
    "placebo",
)
"""x264's, fastest first."""
REALTIME = "realtime"
"""A preset of this module: for x264 the quality and size of ``superfast`` in little more than half its time;
for other encoders their quickest."""

_X264 = ("libx264", "libx264rgb")
# With AVX-512, x264's macroblock tree gives other bytes from run to run (seen with clips longer than its
# look-ahead of 40 frames); everything else in it repeats exactly.
_X264_PARAMS = "mbtree=0"
# "ultrafast" leaves out what costs little: the deblocking filter (1 dB), CABAC and the 8x8 transform (a sixth
# of the size), B-frames in a fixed pattern (a further sixth to third).
_REALTIME_PARAMS = f"{_X264_PARAMS}:deblock=1,0,0:cabac=1:8x8dct=1:bframes=3:b-adapt=0"
_QP2LAMBDA = 118
"""FFmpeg's units of ``global_quality`` in one step of ``-q``."""
_PROBED_FRAMES = 3


def options(codec: str, crf: int, preset: str | int) -> dict[str, str]:
    """FFmpeg's options for constant quality.

    Args:
        codec: FFmpeg encoder; one without such a scale gets no options.
        crf: 0 to :func:`highest_crf`, lower is better.
        preset: One of :data:`PRESETS`, :data:`REALTIME`, or the encoder's own, which may be a number.

    Raises:
        ConfigError: ``crf`` is no whole number or out of range, or ``preset`` is neither a name nor a number.
    """
    highest = highest_crf(codec)
    if not is_whole(crf) or not 0 <= crf <= highest:
        raise ConfigError(f"encoder.crf={crf}: give a whole number from 0 (lossless) to {highest}")
    if not isinstance(preset, str) and not is_whole(preset):
        raise ConfigError(f"encoder.preset={preset}: give one of {', '.join(PRESETS)} or {REALTIME}")
    build = _OPTIONS.get(codec)
    return {} if build is None else build(crf, str(preset))


def highest_crf(codec: str) -> int:
    """The end of the encoder's scale."""
    return 63 if codec in WEB_CODECS else 51


def choose(codec: str, width: int, height: int, pix_fmt: str = "yuv420p") -> str:
    """The encoder to use: ``codec`` itself, or for ``hardware`` the first that works, else libx264.

    Args:
        codec: FFmpeg encoder, or :data:`ANY_HARDWARE`.
        width: Of the pictures; hardware has limits in both directions.
        height: Of the pictures.
        pix_fmt: Of the pictures.

    Raises:
        MediaError: This FFmpeg has no encoder of that name.
    """
    if codec == ANY_HARDWARE:
        working = (name for name in HARDWARE if available(name, width, height, pix_fmt))
        return next(working, SOFTWARE)
    if not _known(codec):
        raise MediaError(
            f"encoder.codec={codec}: this FFmpeg has no such encoder; use {SOFTWARE}, which every machine "
            f"runs, or {ANY_HARDWARE} for a graphics card where one works"
        )
    return codec


@lru_cache(maxsize=64)
def available(codec: str, width: int = 640, height: int = 360, pix_fmt: str = "yuv420p") -> bool:
    """Whether the encoder works on this machine: it is opened, and a few frames go through it.

    FFmpeg lists the encoders it was built with, whether or not there is the card or the driver.
    """
    if not _known(codec):
        return False
    try:
        return _encodes(codec, width, height, stored_format(codec, pix_fmt))
    except (FFmpegError, OSError, ValueError):
        return False


def refusal(codec: str, details: str, error: Exception) -> str:
    """One line for an encoder that does not open."""
    text = f"encoder {codec} does not accept {details} ({reason(error)})"
    if codec in HARDWARE:
        text += f"; the card or its driver may be missing: use encoder.codec={SOFTWARE} or {ANY_HARDWARE}"
    return text


def stored_format(codec: str, pix_fmt: str) -> str:
    """``pix_fmt``, or ``nv12`` where the encoder takes 8-bit 4:2:0 in no other layout."""
    formats = {known.name for known in av.Codec(codec, "w").video_formats or ()}
    if pix_fmt == "yuv420p" and formats and pix_fmt not in formats and "nv12" in formats:
        return "nv12"
    return pix_fmt


def _known(codec: str) -> bool:
    try:
        return av.Codec(codec, "w").type == "video"
    except UnknownCodecError:
        return False


def _encodes(codec: str, width: int, height: int, pix_fmt: str) -> bool:
    context = cast("VideoCodecContext", av.CodecContext.create(codec, "w"))
    context.width, context.height, context.pix_fmt = width, height, pix_fmt
    context.time_base, context.framerate = Fraction(1, 25), Fraction(25)
    context.options = cast("dict[str, Any]", options(codec, 18, "medium"))
    context.open()
    size = 0
    for index in range(_PROBED_FRAMES):
        frame = VideoFrame(width, height, pix_fmt)
        for plane in frame.planes:
            plane.update(bytes([128]) * plane.buffer_size)
        frame.pts, frame.time_base = index, Fraction(1, 25)
        size += sum(packet.size for packet in context.encode(frame))
    size += sum(packet.size for packet in context.encode(None))
    return size > 0


def _step(preset: str, names: tuple[str, ...]) -> str:
    """The encoder's own name for x264's preset, by its place between quickest and slowest."""
    if preset == REALTIME:
        return names[0]
    if preset not in PRESETS:
        return preset
    return names[round(PRESETS.index(preset) * (len(names) - 1) / (len(PRESETS) - 1))]


def _x264(crf: int, preset: str) -> dict[str, str]:
    if preset == REALTIME:
        return {"crf": str(crf), "preset": "ultrafast", "x264-params": _REALTIME_PARAMS}
    return {"crf": str(crf), "preset": preset, "x264-params": _X264_PARAMS}


def _x265(crf: int, preset: str) -> dict[str, str]:
    # It prints to the terminal by itself.
    return {"crf": str(crf), "preset": _step(preset, PRESETS), "x265-params": "log-level=error"}


def _svtav1(crf: int, preset: str) -> dict[str, str]:
    return {"crf": str(crf), "preset": _step(preset, tuple(str(speed) for speed in range(12, 1, -1)))}


def _vp9(crf: int, preset: str) -> dict[str, str]:
    speed = _step(preset, tuple(str(speed) for speed in range(8, -1, -1)))
    # Without b=0, crf is only a bound of a bit rate.
    return {"crf": str(crf), "b": "0", "deadline": "good", "cpu-used": speed, "row-mt": "1"}


def _aom(crf: int, preset: str) -> dict[str, str]:
    # Its speeds beyond 6 are for its real-time mode only.
    speed = _step(preset, tuple(str(speed) for speed in range(6, -1, -1)))
    return {"crf": str(crf), "b": "0", "cpu-used": speed, "row-mt": "1"}


def _nvenc(crf: int, preset: str) -> dict[str, str]:
    speed = _step(preset, tuple(f"p{speed}" for speed in range(1, 8)))
    if crf == 0:  # cq=0 means "automatic"
        return {"preset": speed, "tune": "hq", "rc": "constqp", "qp": "0"}
    return {"preset": speed, "tune": "hq", "rc": "vbr", "cq": str(crf), "b": "0"}


def _videotoolbox(crf: int, preset: str) -> dict[str, str]:
    # -q:v, 1 to 100, higher is better; Apple's processors have it, and 65 is about crf 18.
    quality = max(1, round(101 - 2 * crf))
    return {"flags": "+qscale", "global_quality": str(_QP2LAMBDA * quality)}


def _qsv(crf: int, preset: str) -> dict[str, str]:
    speed = _step(preset, ("veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow"))
    return {"preset": speed, "global_quality": str(max(1, crf))}


def _amf(crf: int, preset: str) -> dict[str, str]:
    speed = _step(preset, ("speed", "balanced", "quality"))
    constant = {"rc": "cqp", "qp_i": str(crf), "qp_p": str(crf)}
    return {"usage": "transcoding", "quality": speed, **constant}


_OPTIONS: dict[str, Callable[[int, str], dict[str, str]]] = {
    **dict.fromkeys(_X264, _x264),
    "libx265": _x265,
    "libsvtav1": _svtav1,
    "libvpx-vp9": _vp9,
    "libaom-av1": _aom,
    "h264_nvenc": _nvenc,
    "hevc_nvenc": _nvenc,
    "h264_videotoolbox": _videotoolbox,
    "hevc_videotoolbox": _videotoolbox,
    "h264_qsv": _qsv,
    "hevc_qsv": _qsv,
    "h264_amf": _amf,
    "hevc_amf": _amf,
}
