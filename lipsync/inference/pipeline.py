"""From a video (or picture) and speech to a lip-synced video, streaming.

    pipeline = LipSyncPipeline(
        Wav2LipSynthesizer.from_checkpoint("wav2lip_gan.pth"), MtcnnDetector(), FeatherCompositor()
    )
    report = pipeline.run("face.mp4", "speech.wav", "out.mp4")

decode -> detect -> synthesize -> composite -> enhance -> further stages -> encode: each stage pulls from the
one before and holds a batch, so memory does not grow with the length of the clip. Decoding and detection,
generation, and encoding run in three threads, a bounded number of frames apart.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np

from lipsync.audio.mel import log_mel
from lipsync.audio.spec import WAV2LIP
from lipsync.audio.voice import speech_activity
from lipsync.audio.windows import MelWindows
from lipsync.errors import MediaError, NoFaceError
from lipsync.faces.detector import FaceDetector
from lipsync.faces.selection import Selection, largest
from lipsync.inference.composite import Compositor
from lipsync.inference.detect import HOW_TO_HELP, FaceStage, FirstFace, FixedBox, FollowFace, Pads
from lipsync.inference.hooks import Hook
from lipsync.inference.output import check_outfile
from lipsync.inference.report import RunReport, Tally
from lipsync.inference.settings import BoxSides, NoFace, check_settings
from lipsync.inference.silence import SilenceGate, SilenceMode, gated_mel
from lipsync.inference.source import (
    Extend,
    FrameTransform,
    Remainder,
    first_only,
    repeated,
)
from lipsync.inference.speaker import SpeakerFinder
from lipsync.inference.stage import EnhanceStage, FrameStage, prefetch
from lipsync.inference.synthesize import Synthesizer
from lipsync.inference.timing import StageClock
from lipsync.media.probe import is_image, probe
from lipsync.media.reader import VideoReader
from lipsync.media.sequence import SequenceReader
from lipsync.media.still import StillReader
from lipsync.media.waveform import AudioReader, load_waveform
from lipsync.media.writer import VideoWriter
from lipsync.types import Composite, FaceFrame, Frame, Patch, Waveform

Video: TypeAlias = VideoReader | StillReader | SequenceReader

_LOOK_AHEAD = 96 * 2**20
"""Bytes of frames that a thread may run ahead of the next."""


@dataclass(frozen=True, slots=True)
class _Speech:
    """What drives the mouth."""

    windows: MelWindows
    frames: int
    """Of the video until the sound ends."""
    gate: SilenceGate | None
    """Where the mouth of the source stays."""


@dataclass(slots=True)
class _Task:
    """One run: what it works on, and what it counts."""

    video: Video
    speech: _Speech
    clock: StageClock
    select: Selection
    tally: Tally = field(default_factory=Tally)
    notes: Sequence[str] = ()
    """What the user should know of how it was done."""


class LipSyncPipeline:
    """Lip synchronisation of one video at a time; reusable.

    Args:
        synthesizer: Repaints face regions from speech.
        detector: Finds faces; not used where ``box`` is given.
        compositor: Puts repainted regions back into their frames.
        enhancer: Restores detail in the repainted faces; None leaves them as they are.
        stages: Run on finished frames, in order, before encoding.
        writer: Makes the output: called as ``writer(path, width, height, fps, audio, trim_audio=True,
            color=..., metadata=...)``; see :class:`lipsync.media.writer.VideoWriter`.
        transform: Applied to every decoded frame.
        face_select: Rule that chooses among several faces; see :mod:`lipsync.faces.selection`.
        speaker: Finds in a pass of its own who speaks; then :meth:`run` follows them and asks no rule.
        pads: ``top, bottom, left, right`` pixels around the detected box; None takes the synthesizer's.
        every: Run the detector on every n-th frame and track between.
        smooth: Average boxes over time.
        static: Use the first frame of the video throughout.
        box: ``top, bottom, left, right``: use this region on every frame and detect nothing; None detects.
        no_face: Frames without a face: ``keep`` passes them through, ``trim`` leaves them out together with
            their sound, ``error`` stops at the first one.
        still_fps: Frame rate of the output for a still image or a folder of images.
        extend: What follows when the audio is longer than the video: ``bounce`` plays the video backwards and
            forwards in turn, ``loop`` starts it again (as the reference does), ``freeze`` holds its last
            frame, ``cut`` ends the output with the video.
        remainder: What becomes of the rest of a video that is longer than the audio: ``cut`` leaves it out,
            ``keep`` shows it with the mouth of the source and without sound.
        silence: Mouth where the speech pauses: ``speak`` as the generator paints it, ``source`` that of the
            source, ``close`` as the generator paints digital silence; see :mod:`lipsync.inference.silence`.
        audio_shift: Mel windows are taken this many frames of 40 ms later (negative: earlier); None takes the
            synthesizer's.

    Raises:
        ConfigError: A setting is out of range.
    """

    def __init__(
        self,
        synthesizer: Synthesizer,
        detector: FaceDetector,
        compositor: Compositor,
        *,
        enhancer: EnhanceStage | None = None,
        stages: Sequence[FrameStage] = (),
        writer: Callable[..., VideoWriter] = VideoWriter,
        transform: FrameTransform | None = None,
        face_select: Selection = largest,
        speaker: SpeakerFinder | None = None,
        pads: Pads | None = None,
        every: int = 5,
        smooth: bool = True,
        static: bool = False,
        box: BoxSides | None = None,
        no_face: NoFace = "keep",
        still_fps: Fraction = Fraction(25),
        extend: Extend = "loop",
        remainder: Remainder = "cut",
        silence: SilenceMode = "speak",
        audio_shift: int | None = None,
    ) -> None:
        check_settings(
            extend=extend,
            remainder=remainder,
            no_face=no_face,
            silence=silence,
            still_fps=still_fps,
            every=every,
            box=box,
        )
        self.synthesizer = synthesizer
        self.detector = detector
        self.compositor = compositor
        self.enhancer = enhancer
        self.stages = tuple(stages)
        self.writer = writer
        self.transform = transform or FrameTransform()
        self.face_select = face_select
        self.speaker = speaker
        self.pads = synthesizer.pads if pads is None else pads
        self.every = every
        self.smooth = smooth
        self.static = static
        self.box = None if box is None else FixedBox(box)
        self.no_face: NoFace = no_face
        self.still_fps = still_fps
        self.extend: Extend = extend
        self.remainder: Remainder = remainder
        self.silence: SilenceMode = silence
        self.audio_shift = synthesizer.mel_shift if audio_shift is None else audio_shift

    def frames(self, video: Video, waveform: Waveform, clock: StageClock | None = None) -> Iterator[Frame]:
        """Finished frames, in order, as they become ready; their indexes jump where frames were left out.

        Args:
            video: At a constant rate.
            waveform: ``(N,)`` float32 at 16 kHz.
            clock: Charged with the time of each stage.

        Raises:
            MediaError: The video cannot be decoded or holds no frame.
            NoFaceError: A face is missing where one is needed.
        """
        speech = self._speech(waveform, video.info.fps)
        return self._frames(_Task(video, speech, clock or StageClock(), self.face_select))

    def run(
        self,
        face: str | Path,
        audio: str | Path,
        outfile: str | Path,
        hook: Hook | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> RunReport:
        """Lip-sync ``face`` to ``audio`` and write ``outfile``, which appears only when it is complete.

        The output lasts as long as the audio, rounded up to whole frames; see ``extend`` and ``remainder``
        for a video that is shorter or longer. Its frame rate is the exact rate of the source, its sound the
        given audio. The reference stops 0.07 to 0.17 s before the sound does, at its last mel window; here
        the frames after it reuse that window.

        Args:
            face: Video, picture or folder of pictures with a face.
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
        video, sound = self._opened(face), AudioReader(audio)
        speech = self._speech(sound.load(WAV2LIP.sample_rate), video.info.fps)
        check_outfile(outfile, inputs=(face, audio))
        task = _Task(video, speech, StageClock(), self.face_select)
        if self.speaker is not None:
            self._choose_speaker(self.speaker, task, hook)
        writer = partial(
            self.writer, outfile, audio=audio, trim_audio=True, color=video.info.color, metadata=metadata
        )
        with closing(self._frames(task)) as frames:
            written = self._write(frames, writer, task, hook)
        return self._report(task, sound, outfile, written, time.perf_counter() - started)

    def _report(
        self, task: _Task, sound: AudioReader, outfile: Path, written: int, seconds: float
    ) -> RunReport:
        video, tally = task.video, task.tally
        return RunReport(
            outfile=outfile,
            fps=video.info.fps,
            frames=written,
            with_face=tally.with_face,
            without_face=tally.without_face,
            repainted=tally.repainted,
            trimmed=self.no_face == "trim",
            damaged_packets=0 if isinstance(video, StillReader) else video.corrupt_packets,
            missing_frames=0 if isinstance(video, StillReader) else video.missing_frames,
            damaged_sound=sound.corrupt_packets,
            missing_sound=sound.missing_seconds,
            notes=task.notes,
            seconds=seconds,
            stages=task.clock.stages,
        )

    def _choose_speaker(self, speaker: SpeakerFinder, task: _Task, hook: Hook | None) -> None:
        """Follow whose mouth agrees with the video's own sound: what it is to say next agrees with nobody."""
        video = task.video
        if self._is_still(video):
            task.notes = ["who speaks cannot be told from a still picture, so the largest face is used"]
            return
        own = np.zeros(0, np.float32)
        if video.info.has_audio:
            with suppress(MediaError):  # no sound to judge by, which the finder notes
                own = load_waveform(video.path)
        with task.clock.charged("find the speaker"):
            chosen = speaker.find(video, own, hook, video.info.frame_count or None)
        task.select, task.notes = chosen, chosen.notes

    def _write(
        self, frames: Iterable[Frame], writer: Callable[..., VideoWriter], task: _Task, hook: Hook | None
    ) -> int:
        """Encode the frames; how many there were."""
        total = self._total(task)
        expected = written = 0
        with ExitStack() as stack:
            for frame in frames:
                with task.clock.charged("encode"):
                    if written == 0:
                        height, width = frame.image.shape[:2]
                        output = stack.enter_context(
                            writer(width=width, height=height, fps=task.video.info.fps)
                        )
                        if output.codec != output.requested:
                            task.notes = [*task.notes, f"encoder {output.requested}: {output.codec} is used"]
                    if frame.index > expected:  # frames were left out: so is their sound
                        output.skip(frame.index - expected)
                    output.write(frame.image)
                written, expected = written + 1, frame.index + 1
                if hook is not None:
                    hook("lip-sync", expected, total)
            if task.tally.with_face == 0:
                seen = task.tally.without_face
                which = "no face" if task.select is largest else "no face that face_select chooses"
                raise NoFaceError(f"{task.video.path}: {which} in any of {seen} frames; {HOW_TO_HELP}")
            with task.clock.charged("encode"):  # what the encoder still holds
                stack.close()
        return written

    def _frames(self, task: _Task) -> Generator[Frame, None, None]:
        video, speech, clock = task.video, task.speech, task.clock
        still = self._is_still(video)
        source = (
            first_only(video, speech.frames)
            if still
            else repeated(video, speech.frames, self.extend, self.remainder)
        )
        found = self._face_stage(still, task.select)(clock.watch("decode", source))
        faces: Iterator[FaceFrame] = clock.watch("detect", task.tally.faces(found))
        if self.no_face == "trim":
            faces = (item for item in faces if item.face is not None)
        depth = self._look_ahead(video)
        ready = clock.watch(None, prefetch(faces, depth))
        patches: Iterator[Patch] = clock.watch(
            "synthesize", self.synthesizer(ready, speech.windows, top=self.compositor.top)
        )
        if speech.gate is not None:
            patches = speech.gate(patches)
        composites: Iterator[Composite] = clock.watch(
            "composite", task.tally.composites(self.compositor(patches))
        )
        frames: Iterator[Frame] = (composite.frame for composite in composites)
        if self.enhancer is not None:
            frames = clock.watch("enhance", self.enhancer(composites))
        for stage in self.stages:
            frames = clock.watch("interpolate", stage(frames))
        return clock.watch(None, prefetch(frames, depth))

    def _face_stage(self, still: bool, select: Selection) -> FaceStage:
        if self.box is not None:
            return self.box
        if still:
            return FirstFace(self.detector, pads=self.pads, select=select)
        return FollowFace(
            self.detector,
            every=self.every,
            smooth=self.smooth,
            pads=self.pads,
            must_have_face=self.no_face == "error",
            select=select,
        )

    def _speech(self, waveform: Waveform, fps: Fraction) -> _Speech:
        mel = log_mel(waveform)
        gate = None
        if self.silence != "speak":
            active = speech_activity(waveform)
            if self.silence == "close":
                mel = gated_mel(mel, active)
            else:
                gate = SilenceGate(active, fps)
        if gate is None and self.remainder == "keep":  # only what lies beyond the sound is silence
            gate = SilenceGate(np.ones(mel.shape[1], bool), fps)
        windows = MelWindows(mel, fps, shift=self.audio_shift)
        return _Speech(windows, math.ceil(Fraction(waveform.size, WAV2LIP.sample_rate) * fps), gate)

    def _total(self, task: _Task) -> int:
        """Source frames to go through, as far as is known before."""
        wanted, stated = task.speech.frames, task.video.info.frame_count
        if self._is_still(task.video) or stated == 0:
            return wanted
        if stated < wanted:
            return stated if self.extend == "cut" else wanted
        return stated if self.remainder == "keep" else wanted

    def _look_ahead(self, video: Video) -> int:
        """Frames between two threads: a batch and a half keeps both busy, where memory allows."""
        frames = _LOOK_AHEAD // (3 * video.info.width * video.info.height)
        return max(2, min(frames, 3 * self.synthesizer.batch_size // 2))

    def _is_still(self, video: Video) -> bool:
        return self.static or isinstance(video, StillReader)

    def _opened(self, face: Path) -> Video:
        """The source at a constant rate: pictures at ``still_fps``, a video at its average rate."""
        if face.is_dir():
            return SequenceReader(face, self.still_fps, transform=self.transform)
        if is_image(face):
            return StillReader(face, self.still_fps, transform=self.transform)
        return VideoReader(face, fps=probe(face).fps, transform=self.transform)
