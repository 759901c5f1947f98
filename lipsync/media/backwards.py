"""The frames of a video from the last to the first, decoded forwards in stretches; memory stays flat.

A codec runs in one direction only, so a stretch of frames is decoded from the keyframe before it, held as
the decoder made it, and given out in reverse. What a forward pass showed is known by a :class:`Trace`, and
each frame found after a seek is compared with it: where a container seeks to the wrong place, a decoder
that started midway makes another picture of the same time, or the clock of a recording was reset, the
stretch is decoded from further back, at last from the beginning of the file.
"""

from __future__ import annotations

import zlib
from array import array
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, MutableSequence
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias, cast

import numpy as np

from lipsync.errors import MediaError
from lipsync.media.probe import ratio
from lipsync.types import Frame, Image

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

Shown: TypeAlias = "tuple[int, VideoFrame]"
"""Number of an output frame and what it shows; one that is shown again is the same object."""

MOST_FRAMES = 256
"""Decoded frames that are held: a usual GOP of small pictures, so that it is decoded once."""
MOST_BYTES = 128 << 20
"""Bytes of decoded frames that are held: 97 frames of 720p, 43 of 1080p, 10 of 2160p (8-bit 4:2:0)."""
_UNKNOWN = -(1 << 63)
_CLOCK = Fraction(1, 90_000)
_MOST_FAILURES = 3
"""Stretches in a row that could not be found by seeking, after which a file is not sought in any more."""


class Decoding(Protocol):
    """A pass over a file."""

    path: Path
    rate: Fraction
    corrupt_packets: int

    def shown(self) -> Generator[Shown, None, None]:
        """What each output frame shows, from the beginning."""

    def sought(self, stamp: int) -> Generator[VideoFrame, None, None]:
        """The frames of the file from the keyframe before a timestamp on; perhaps others before them."""

    def image(self, frame: VideoFrame) -> Image:
        """The picture of a frame as it is yielded."""


class Trace:
    """What a pass showed: 24 bytes a frame, no pictures."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self.count = 0
        """Output frames."""
        self.complete = False
        """Whether the pass came to its end."""
        self.largest = 1
        """Bytes of the largest frame."""
        self.base = _CLOCK
        """Seconds of one unit of the timestamps."""
        self._first = array("q")  # output frame that shows it first
        self._stamps = array("q")
        self._prints = array("I")
        self._keys = bytearray()

    def __len__(self) -> int:
        """Frames of the file that were shown."""
        return len(self._first)

    def follow(self, shown: Iterable[Shown]) -> Iterator[Shown]:
        """Pass on what is shown and write it down; forgets what was written before."""
        self._clear()
        last: VideoFrame | None = None
        for index, frame in shown:
            if frame is not last:
                last = frame
                self._add(index, frame)
            self.count = index + 1
            yield index, frame
        self.complete = True

    def _add(self, index: int, frame: VideoFrame) -> None:
        self._first.append(index)
        self._stamps.append(_UNKNOWN if frame.pts is None else frame.pts)
        self._prints.append(_fingerprint(frame))
        self._keys.append(frame.key_frame)
        self.largest = max(self.largest, sum(plane.buffer_size for plane in frame.planes))
        self.base = ratio(frame.time_base) or self.base

    def outputs(self, at: int) -> range:
        """The output frames that show frame ``at``."""
        return range(self._first[at], self._first[at + 1] if at + 1 < len(self) else self.count)

    def stamp(self, at: int) -> int | None:
        """The timestamp of frame ``at``."""
        stamp = self._stamps[at]
        return None if stamp == _UNKNOWN else stamp

    def is_frame(self, at: int, frame: VideoFrame) -> bool:
        """Whether ``frame`` is frame ``at``: its timestamp and its samples."""
        return frame.pts == self._stamps[at] and _fingerprint(frame) == self._prints[at]

    def start(self, stop: int) -> int:
        """Where a stretch that ends before ``stop`` begins: at a keyframe where one lies near enough."""
        lowest = stop - max(1, min(MOST_FRAMES, MOST_BYTES // self.largest))
        if lowest <= 0:
            return 0
        key = self._keys.find(1, lowest, stop)
        return lowest if key < 0 else key


def reverse(new_pass: Callable[[], Decoding], trace: Trace) -> Generator[Frame, None, None]:
    """What a pass yields, in reverse; holds at most ``MOST_FRAMES`` decoded frames and ``MOST_BYTES``.

    Where seeking works, a stretch of ``m`` frames in a GOP of ``g`` costs ``g / 2 + m / 2`` decoded frames
    on average, or ``m`` where the GOP fits into it. Where it does not, each stretch costs all the frames
    before it, ``n / (2 m)`` passes over a file of ``n`` frames, and holds images instead of decoded frames.
    Damaged pictures are repaired from what happens to be decoded, so when a decoder runs several threads,
    two passes over a damaged file can differ there, in either direction.

    Args:
        new_pass: Starts a pass; called once for each stretch.
        trace: Of a complete pass; one that is not complete is filled by a pass of its own first.

    Raises:
        MediaError: The file is no longer the one that was traced.
    """
    if not trace.complete:
        deque(trace.follow(new_pass().shown()), maxlen=0)
    stretches = _Stretches(new_pass, trace)
    run = new_pass()
    stop = len(trace)
    while stop:
        held = stretches.decode(trace.start(stop), stop)
        while held:
            stop -= 1
            # Nothing may refer to the frame any longer: FFmpeg frees those of a stretch together.
            image = _converted(held.pop(), run)
            for index in reversed(trace.outputs(stop)):
                yield Frame(index, float(index / run.rate), image, run.path)


def _converted(item: VideoFrame | Image, run: Decoding) -> Image:
    return item if isinstance(item, np.ndarray) else run.image(item)


class _Stretches:
    """Decodes stretches of a file and remembers how far before them it has to begin."""

    def __init__(self, new_pass: Callable[[], Decoding], trace: Trace) -> None:
        self.new_pass = new_pass
        self.trace = trace
        self._level = 0
        self._failures = 0

    def decode(self, start: int, stop: int) -> MutableSequence[VideoFrame] | MutableSequence[Image]:
        """The frames ``start <= at < stop``, or the images of as many before ``stop`` as may be held."""
        if self._failures < _MOST_FAILURES:
            found = self._by_seeking(start, stop)
            self._failures = 0 if found else self._failures + 1
            if found:
                return found
        return self._from_beginning(start, stop)

    def _by_seeking(self, start: int, stop: int) -> list[VideoFrame] | None:
        """The frames, found from 0, 1/4, 1, 4 ... seconds before them; None: not found."""
        stamp, earliest = self.trace.stamp(start), self.trace.stamp(0)
        if stamp is None or earliest is None:
            return None
        level = self._level
        while True:
            lead = Fraction(4**level, 16) if level else Fraction(0)
            target = stamp - round(lead / self.trace.base)
            found = self._sought(target, start, stop)
            if found is not None:
                # Transport streams always need a little; damage needs more, but only here.
                self._level = min(level, max(1, level - 1))
                return found
            if target <= earliest:
                return None
            level += 1

    def _sought(self, target: int, start: int, stop: int) -> list[VideoFrame] | None:
        found: list[VideoFrame] = []
        with closing(self.new_pass().sought(target)) as frames:
            for frame in frames:
                at = start + len(found)
                stamp = self.trace.stamp(at)
                if stamp is None or (frame.pts is not None and frame.pts > stamp):
                    return None  # begun too late, or another picture came for this one
                if self.trace.is_frame(at, frame):
                    found.append(frame)
                    if at + 1 == stop:
                        return found
        return None

    def _from_beginning(self, start: int, stop: int) -> deque[Image]:
        """The images of the frames, without those at the beginning that are too many.

        Each is made at once, as in a pass forwards: where a damaged picture shows what was in its memory
        before, holding decoded frames would change it.
        """
        found: deque[Image] = deque()
        run = self.new_pass()
        at = start
        last: VideoFrame | None = None
        with closing(run.shown()) as shown:
            for index, last in shown:
                if index == self.trace.outputs(at).start:
                    found.append(run.image(last))
                    if len(found) > 1 and len(found) * found[-1].nbytes > MOST_BYTES:
                        found.popleft()
                    at += 1
                    if at == stop:
                        return found
        if last is None or not run.corrupt_packets:
            raise MediaError(
                f"{run.path}: changed while it was being read; start again with a file that stays"
            )
        # With several threads, damage costs a frame more or less: the last one is held.
        found.extend([run.image(last)] * (stop - at))
        return found


def _fingerprint(frame: VideoFrame) -> int:
    """32 bits that differ where any sample, the size or the coding of the colours does.

    Of the sums of the columns, eight bytes at a time: a tenth of the time of a checksum of all samples.
    """
    layout = frame.format
    stated = (layout.name, frame.width, frame.height, frame.rotation)
    value = zlib.crc32(repr((*stated, int(frame.colorspace), int(frame.color_range))).encode())
    for number, plane in enumerate(frame.planes):
        samples = np.frombuffer(cast("bytes", plane), np.uint8)
        # Rows are padded with anything.
        used = sum(c.width * ((c.bits + 7) // 8) for c in layout.components if c.plane == number)
        if 0 < used <= plane.line_size:
            rows = samples.reshape(-1, plane.line_size)[:, :used]
            whole = used - used % 8
            value = zlib.crc32(rows[:, :whole].view(np.uint64).sum(axis=0), value)
            samples = rows[:, whole:].sum(axis=0, dtype=np.uint32).view(np.uint8)
        value = zlib.crc32(cast("bytes", samples), value)
    return value
