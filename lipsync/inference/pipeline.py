"""From a video (or picture) and speech to a lip-synced video, streaming.

    pipeline = LipSyncPipeline(
        Wav2LipSynthesizer.from_checkpoint("wav2lip_gan.pth"), MtcnnDetector(), FeatherCompositor()
    )
    report = pipeline.run("face.mp4", "speech.wav", "out.mp4")

decode -> detect -> synthesize -> composite -> further stages -> encode: each stage pulls from the one before
and holds a batch, so memory does not grow with the length of the clip. Decoding and detection, generation,
and encoding run in three threads, a bounded number of frames apart.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TypeAlias

from lipsync.audio.mel import log_mel
from lipsync.audio.spec import WAV2LIP
from lipsync.audio.windows import MelWindows
from lipsync.errors import ConfigError, MediaError, NoFaceError
from lipsync.faces.detector import FaceDetector
from lipsync.inference.composite import Compositor
from lipsync.inference.detect import HOW_TO_HELP, FaceStage, FirstFace, FixedBox, FollowFace, Pads
from lipsync.inference.hooks import Hook
from lipsync.inference.source import Extend, FrameTransform, first_only, repeated
from lipsync.inference.stage import FrameStage, prefetch
from lipsync.inference.synthesize import Synthesizer
from lipsync.media.probe import is_image, probe
from lipsync.media.reader import StillReader, VideoReader
from lipsync.media.waveform import load_waveform
from lipsync.media.writer import CONTAINERS, VideoWriter
from lipsync.types import FaceFrame, Frame

Video: TypeAlias = VideoReader | StillReader

_LOOK_AHEAD = 8
"""Frames a thread may run ahead of the next; more only costs memory (25 MB a frame in 4K)."""


@dataclass(frozen=True, slots=True)
class RunReport:
    """What a run did."""

    frames: int
    with_face: int
    without_face: int
    """Frames that passed through unchanged because no face was found in them."""
    seconds: float
    """Wall time."""
    fps: Fraction
    outfile: Path


@dataclass(slots=True)
class _Tally:
    """Counts frames with and without a face as they stream by."""

    with_face: int = 0
    without_face: int = 0

    def __call__(self, faces: Iterable[FaceFrame]) -> Iterator[FaceFrame]:
        for item in faces:
            if item.face is None:
                self.without_face += 1
            else:
                self.with_face += 1
            yield item


class LipSyncPipeline:
    """Lip synchronisation of one video at a time; reusable.

    Args:
        synthesizer: Repaints face regions from speech.
        detector: Finds faces; not used where ``box`` is given.
        compositor: Puts repainted regions back into their frames.
        stages: Run on finished frames, in order, before encoding.
        writer: Makes the output: called as ``writer(path, width, height, fps, audio, trim_audio=True,
            metadata=...)``; see :class:`lipsync.media.writer.VideoWriter`.
        transform: Applied to every decoded frame.
        pads: ``top, bottom, left, right`` pixels around the detected box; None takes the synthesizer's.
        every: Run the detector on every n-th frame and track between.
        smooth: Average boxes over time.
        static: Use the first frame of the video throughout.
        box: ``top, bottom, left, right``: use this region on every frame and detect nothing; None detects.
        still_fps: Frame rate of the output for a still image.
        extend: What follows when the audio is longer than the video: ``loop`` starts the video again (as the
            reference does), ``freeze`` holds its last frame, ``cut`` ends the output with the video.
        must_have_face: Raise at the first frame without a face instead of passing it through.
        audio_shift: Mel windows are taken this many frames of 40 ms later (negative: earlier); None takes the
            synthesizer's.
    """

    def __init__(
        self,
        synthesizer: Synthesizer,
        detector: FaceDetector,
        compositor: Compositor,
        *,
        stages: Sequence[FrameStage] = (),
        writer: Callable[..., VideoWriter] = VideoWriter,
        transform: FrameTransform | None = None,
        pads: Pads | None = None,
        every: int = 5,
        smooth: bool = True,
        static: bool = False,
        box: tuple[int, int, int, int] | None = None,
        still_fps: Fraction = Fraction(25),
        extend: Extend = "loop",
        must_have_face: bool = False,
        audio_shift: int | None = None,
    ) -> None:
        if extend not in ("loop", "freeze", "cut"):
            raise ConfigError(f"extend={extend} is unknown: use loop, freeze or cut")
        if still_fps <= 0:
            raise ConfigError(f"fps={still_fps}: give a rate above 0")
        if every < 1:
            raise ConfigError(f"every={every}: give 1 or more")
        self.synthesizer = synthesizer
        self.compositor = compositor
        self.stages = tuple(stages)
        self.writer = writer
        self.transform = transform or FrameTransform()
        self.static = static
        self.still_fps = still_fps
        self.extend: Extend = extend
        self.audio_shift = synthesizer.mel_shift if audio_shift is None else audio_shift
        pads = synthesizer.pads if pads is None else pads
        self._moving: FaceStage = FollowFace(
            detector, every=every, smooth=smooth, pads=pads, must_have_face=must_have_face
        )
        self._still: FaceStage = FirstFace(detector, pads=pads)
        if box is not None:
            self._moving = self._still = FixedBox(box)

    def frames(self, video: Video, speech: MelWindows, count: int | None = None) -> Iterator[Frame]:
        """Finished frames, in order, as they become ready.

        Args:
            video: Frames at the rate of ``speech``.
            speech: Mel windows by frame index.
            count: Frames wanted; None takes as many as the sound lasts. With ``extend="cut"`` there are fewer
                where the video is shorter.

        Raises:
            MediaError: The video cannot be decoded or holds no frame.
            NoFaceError: A face is missing where one is needed.
        """
        return self._frames(video, speech, speech.frames_to_cover if count is None else count, _Tally())

    def run(
        self,
        face: str | Path,
        audio: str | Path,
        outfile: str | Path,
        hook: Hook | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> RunReport:
        """Lip-sync ``face`` to ``audio`` and write ``outfile``, which appears only when it is complete.

        The output lasts as long as the audio, rounded up to whole frames, whichever of the two is longer;
        with ``extend="cut"`` picture and sound end with the shorter one. Its frame rate is the exact rate of
        the source, its sound the given audio. The reference stops 0.07 to 0.17 s before the sound does, at
        its last mel window; here the frames after it reuse that window.

        Args:
            face: Video or picture with a face.
            audio: Any file with an audio stream.
            outfile: Video file to write; missing folders are made.
            hook: Told about each encoded frame.
            metadata: Tags of the file; see :class:`lipsync.media.provenance.Provenance`.

        Raises:
            MediaError: An input cannot be read or ``outfile`` cannot be written.
            NoFaceError: No frame has a face.
        """
        started = time.perf_counter()
        face, audio, outfile = Path(face), Path(audio), Path(outfile)
        video = self._opened(face)
        fps = video.info.fps
        waveform = load_waveform(audio, WAV2LIP.sample_rate)
        _check_outfile(outfile, inputs=(face, audio))
        speech = MelWindows(log_mel(waveform), fps, shift=self.audio_shift)
        total = math.ceil(Fraction(waveform.size, WAV2LIP.sample_rate) * fps)
        tally, written = _Tally(), 0
        with closing(self._frames(video, speech, total, tally)) as frames, ExitStack() as stack:
            for frame in frames:
                if written == 0:
                    height, width = frame.image.shape[:2]
                    output = stack.enter_context(
                        self.writer(outfile, width, height, fps, audio, trim_audio=True, metadata=metadata)
                    )
                output.write(frame.image)
                written += 1
                if hook is not None:
                    hook("lip-sync", written, total)
            if tally.with_face == 0:
                raise NoFaceError(f"{face}: no face in any of {written} frames; {HOW_TO_HELP}")
        seconds = time.perf_counter() - started
        return RunReport(written, tally.with_face, tally.without_face, seconds, fps, outfile)

    def _frames(
        self, video: Video, speech: MelWindows, count: int, tally: _Tally
    ) -> Generator[Frame, None, None]:
        still = self.static or isinstance(video, StillReader)
        source = first_only(video, count) if still else repeated(video, count, self.extend)
        depth = min(self.synthesizer.batch_size, _LOOK_AHEAD)
        faces = prefetch(tally((self._still if still else self._moving)(source)), depth)
        frames = self.compositor(self.synthesizer(faces, speech))
        for stage in self.stages:
            frames = stage(frames)
        return prefetch(frames, depth)

    def _opened(self, face: Path) -> Video:
        """The source at a constant rate: a still at ``still_fps``, a video at its average rate."""
        if is_image(face):
            return StillReader(face, self.still_fps, transform=self.transform)
        return VideoReader(face, fps=probe(face).fps, transform=self.transform)


def _check_outfile(outfile: Path, inputs: tuple[Path, ...]) -> None:
    """Raise MediaError where ``outfile`` cannot be written, before hours are spent on it."""
    if outfile.suffix.lower() not in CONTAINERS:
        raise MediaError(f"{outfile}: cannot write this kind of file; use one of {', '.join(CONTAINERS)}")
    try:
        if outfile.is_dir():
            raise MediaError(f"{outfile}: is a folder; give a file to write, such as {outfile / 'out.mp4'}")
        if any(outfile.exists() and outfile.samefile(path) for path in inputs):
            raise MediaError(f"{outfile}: is also an input and would be overwritten; choose another outfile")
        outfile.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=outfile.parent):
            pass
    except OSError as error:
        raise MediaError(f"{outfile}: cannot be written ({error.strerror}); choose another folder") from error
