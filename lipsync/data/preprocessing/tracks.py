"""From a stream of faces to the pictures of clips."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lipsync.audio.spec import SAMPLES_PER_FRAME
from lipsync.data.clip_writer import ClipWriter
from lipsync.data.preprocessing.settings import Settings
from lipsync.faces.crop import crop, whole_box
from lipsync.faces.shots import CutFinder
from lipsync.faces.smoothing import SAME_TRACK_IOU
from lipsync.types import Box, FaceFrame


@dataclass(frozen=True, slots=True)
class Track:
    """Crops of one face, as yet without a final name."""

    writer: ClipWriter
    first: int
    """Frame of the source that is frame 0 of the clip."""

    @property
    def frames(self) -> int:
        """Length of the track."""
        return self.writer.present[-1] + 1


class TrackWriter:
    """Splits the stream of faces into uninterrupted tracks and writes each as it comes."""

    def __init__(self, final: Path, settings: Settings, samples: int) -> None:
        self.final = final
        self.settings = settings
        self.sound_frames = samples // SAMPLES_PER_FRAME
        self.kept: list[Track] = []
        self.frames = self.without_face = self.short = self.longest = 0
        self._open: Track | None = None
        self._last: Box | None = None

    def __enter__(self) -> TrackWriter:
        # What an interrupted run left of this source.
        for folder in self.final.parent.glob("*.part"):
            if re.fullmatch(re.escape(self.final.name) + r"_\d{3,}\.part", folder.name):
                shutil.rmtree(folder)
        return self

    def __exit__(self, *_: object) -> None:
        for track in [*self.kept, *([self._open] if self._open else [])]:
            track.writer.discard()

    def consume(self, faces: Iterable[FaceFrame]) -> None:
        """Write the crops of all tracks; afterwards ``kept`` holds those long enough."""
        cuts = CutFinder()
        for item in faces:
            self._push(item, cuts(item.frame.image))
        self._close()

    def why_nothing(self, path: Path) -> str:
        """One line for the report."""
        if self.without_face == self.frames:
            return f"{path}: no face in any of its {self.frames} frames"
        return (
            f"{path}: no face stays for {self.settings.min_frames} frames with sound "
            f"(longest: {self.longest} frames, sound: {self.sound_frames} frames)"
        )

    def _push(self, item: FaceFrame, cut: bool) -> None:
        self.frames += 1
        image, face = item.frame.image, item.face
        height, width = image.shape[:2]
        box = None if face is None else whole_box(face.box.padded(*self.settings.pads), width, height)
        if box is None or cut or (self._last is not None and box.iou(self._last) < SAME_TRACK_IOU):
            self._close()
        self._last = box
        if box is None:
            self.without_face += 1
            return
        if self._open is None:
            self._open = Track(self._new_writer(), item.frame.index)
        corners = (int(box.x1), int(box.y1), int(box.x2), int(box.y2))
        self._open.writer.write(item.frame.index - self._open.first, crop(image, box), corners)

    def _new_writer(self) -> ClipWriter:
        number = len(self.kept) + self.short
        return ClipWriter(self.final.with_name(f"{self.final.name}_{number:03d}.part"))

    def _close(self) -> None:
        track, self._open = self._open, None
        if track is None:
            return
        self.longest = max(self.longest, track.frames)
        if min(track.frames, self.sound_frames - track.first) >= self.settings.min_frames:
            self.kept.append(track)
        else:
            self.short += 1
            track.writer.discard()
