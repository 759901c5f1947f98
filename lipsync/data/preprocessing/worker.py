"""One source video -> clips: decode at 25 fps, follow the face, cut it out, cut the sound to it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lipsync.audio.spec import SAMPLES_PER_FRAME, TRAINING_FPS, WAV2LIP
from lipsync.data.clip import MANIFEST
from lipsync.data.preprocessing.records import Outcome, Record, stamp
from lipsync.data.preprocessing.settings import Settings
from lipsync.data.preprocessing.sources import Source
from lipsync.data.preprocessing.tracks import TrackWriter
from lipsync.errors import DataError, MediaError, NoFaceError
from lipsync.faces.detector import FaceDetector
from lipsync.faces.smoothing import smooth_boxes
from lipsync.faces.tracker import track_face
from lipsync.media.reader import VideoReader
from lipsync.media.waveform import load_waveform
from lipsync.types import VideoInfo


@dataclass
class ClipTask:
    """Picklable ``Source -> Outcome``; builds its detector once a process."""

    data_root: Path
    output: Path
    detector_factory: Callable[[], FaceDetector]
    settings: Settings
    overwrite: bool = False
    _detector: FaceDetector | None = field(default=None, repr=False)

    def __call__(self, source: Source) -> Outcome:
        """Preprocess one source; a bad file gives an outcome with a reason.

        Raises:
            Exception: Anything that is not the file's fault (a full disk, a missing package), with a note.
        """
        record = Record(self.output, source, self.settings.digest)
        if not self.overwrite and (finished := record.finished()):
            return finished
        if self._detector is None:
            self._detector = self.detector_factory()
        relative = os.path.relpath(source.path, self.data_root)
        try:
            outcome = self._process(source, relative, self._detector)
        except (MediaError, DataError) as error:
            record.forget()
            return Outcome(source.name, relative, reason=str(error))
        except NoFaceError as error:
            outcome = Outcome(source.name, relative, reason=str(error))
        except Exception as error:
            error.add_note(f"while preprocessing {source.path}")
            raise
        record.write(outcome)
        return outcome

    def _process(self, source: Source, relative: str, detector: FaceDetector) -> Outcome:
        reader = VideoReader(source.path, fps=Fraction(TRAINING_FPS))
        info = reader.info
        if not info.has_audio:
            raise MediaError(f"{source.path}: has no sound; training needs both")
        waveform = load_waveform(source.path, WAV2LIP.sample_rate)
        faces = track_face(reader, detector, every=self.settings.every)
        if self.settings.smooth:
            faces = smooth_boxes(faces)
        with TrackWriter(self.output / source.name, self.settings, len(waveform)) as tracks:
            tracks.consume(faces)
            if not tracks.kept:
                raise NoFaceError(tracks.why_nothing(source.path))
            clips = self._commit(tracks, source, waveform, self._manifest(source, relative, info))
        return Outcome(
            source.name,
            relative,
            clips=clips,
            frames=tracks.frames,
            frames_without_face=tracks.without_face,
            corrupt_packets=reader.corrupt_packets,
            short_tracks=tracks.short,
        )

    def _commit(
        self, tracks: TrackWriter, source: Source, waveform: npt.NDArray[np.float32], manifest: dict[str, Any]
    ) -> tuple[str, ...]:
        """Give the tracks their names: the plain id for a single one, else ``<id>_000``, ``<id>_001``..."""
        single = len(tracks.kept) == 1
        names = [source.name if single else f"{source.name}_{i:03d}" for i in range(len(tracks.kept))]
        for name in names:
            self._check_free(self.output / name, source)
        for name, track in zip(names, tracks.kept, strict=True):
            start = track.first * SAMPLES_PER_FRAME
            sound = waveform[start : start + track.frames * SAMPLES_PER_FRAME]
            place = {"first_frame": track.first, "start": track.first / TRAINING_FPS}
            track.writer.commit(self.output / name, sound, track.frames, {**manifest, **place})
        return tuple(names)

    def _check_free(self, folder: Path, source: Source) -> None:
        """Two sources may lead to one clip name (``a_000.mp4`` and the first track of ``a.mp4``)."""
        manifest = folder / MANIFEST
        if not manifest.is_file():
            return
        owner = self.data_root / str(json.loads(manifest.read_text(encoding="utf-8")).get("source"))
        if owner != source.path and owner.is_file() and not owner.samefile(source.path):
            raise DataError(f"{source.path}: clip {folder} already belongs to {owner}; rename one of them")

    def _manifest(self, source: Source, relative: str, info: VideoInfo) -> dict[str, Any]:
        return {
            "source": relative,
            "source_stamp": stamp(source.path),
            "settings": self.settings.digest,
            "size": [info.width, info.height],
            "detector": self.settings.detector,
            "pads": list(self.settings.pads),
            "smooth": self.settings.smooth,
            "av_offset": None,
        }
