"""The mouth of a video: like its reference's, and moving with the sound?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from lipsync.audio.spec import WAV2LIP
from lipsync.errors import NotScorableError, UserError
from lipsync.evaluation.columns import Column, Family
from lipsync.evaluation.inputs import VideoItem
from lipsync.evaluation.sounds import OWN, SHIFTED, SoundShelf
from lipsync.evaluation.visual import FramePair, Pairing
from lipsync.faces.landmarks import LandmarkNet
from lipsync.metrics.landmarks import (
    OPEN,
    LandmarkDistance,
    aperture,
    correlation,
    loudness,
    mouth_aspect_ratio,
    sound_fit,
)
from lipsync.types import VideoInfo, Waveform

COLUMNS = (
    Column(
        *("lmd", "LMD", "landmarks", "lower"),
        unit="px",
        about="Mean distance of the 20 mouth landmarks from the reference's, mouth centres aligned.",
    ),
    Column(
        *("lmd_percent", "LMD", "landmarks", "lower"),
        unit="% of eye distance",
        digits=2,
        about="LMD over the distance of the reference's outer eye corners: comparable between sizes.",
    ),
    Column(
        *("lmd_face_percent", "face LMD", "landmarks", "lower"),
        unit="% of eye distance",
        digits=2,
        about="As LMD, over all 98 landmarks.",
    ),
    Column(
        *("aperture_error", "aperture error", "landmarks", "lower"),
        digits=4,
        about="Mean difference of the inner lips' opening (in eye distances) from the reference's.",
    ),
    Column(
        *("aperture_r", "aperture r", "landmarks", "higher"),
        about="Pearson correlation over time of the opening with the reference's.",
    ),
    Column(
        *("aperture_audio_r", "aperture-audio r", "landmarks", "higher"),
        about="Pearson correlation over time of the mouth's opening with the loudness of the speech (300 to "
        "3000 Hz), both without changes slower than 0.6 s. No trained judge takes part. Single clips scatter "
        "by about 0.2 around the mean, whatever the sound: compare means with the real and shuffled rows.",
    ),
    Column(
        *("aperture_audio_lag", "aperture-audio lag", "landmarks"),
        unit="frames of 40 ms",
        digits=2,
        about="Delay of the sound, within ±5, at which that correlation is largest; read the median over "
        "many videos.",
    ),
    Column(
        *("open_share", "mouth open", "landmarks"),
        about=f"Share of frames whose inner lips are opened by more than {OPEN} of their width.",
    ),
    Column(
        *("aperture_motion", "mouth motion", "landmarks"),
        digits=4,
        about="Mean change of the opening (in eye distances) from a frame to the next.",
    ),
)

SOUND_KEYS = ("aperture_audio_r", "aperture_audio_lag")


class MouthObserver:
    """Measures the mouth in every frame with a face.

    Values that need a paired reference, or sound, are left out where there is none; :attr:`missing` says why.

    Args:
        landmarks: Finds the points.
        sounds: Where sounds come from; one that others use, too, spares decoding them again.
    """

    family: Family = "landmarks"
    pairing: Pairing = "none"
    columns: tuple[Column, ...] = COLUMNS

    def __init__(self, landmarks: LandmarkNet, sounds: SoundShelf | None = None) -> None:
        self.landmarks = landmarks
        self.sounds = sounds or SoundShelf()
        self.missing: dict[str, str] = {}
        """After :meth:`finish`: why columns have no value, by key."""
        self.probed: dict[str, dict[str, float]] = {}
        """After :meth:`finish`: values against the item's probes (not known shifts), by their system."""
        self._item: VideoItem
        self._info: VideoInfo
        self._frames = _Frames()

    def begin(self, item: VideoItem, info: VideoInfo) -> None:
        """Start a video."""
        self._item, self._info = item, info
        self._frames = _Frames()
        self.missing, self.probed = {}, {}

    def update(self, pair: FramePair) -> None:
        """Take the next frame."""
        points = reference = None
        if pair.face is not None and pair.face.box.area > 0:
            points = self.landmarks.points(pair.image, pair.face.box)
        beside = pair.reference_face if pair.comparable else None
        if pair.reference is not None and beside is not None and beside.box.area > 0:
            reference = self.landmarks.points(pair.reference, beside.box)
        self._frames.add(points, reference)

    def finish(self) -> Mapping[str, float]:
        """Values by column.

        Raises:
            NotScorableError: No frame has a face.
        """
        if not self._frames.any_face:
            raise NotScorableError("no face was found in the video")
        sounds = self.sounds.sounds_for(self._unshifted())
        own, reason = self._against(sounds.pop(OWN))
        if reason:
            self._without(SOUND_KEYS, reason)
        self.probed = {name: values for name, sound in sounds.items() if (values := self._against(sound)[0])}
        return {**self._frames.motion(), **self._against_reference(), **own}

    def _against_reference(self) -> dict[str, float]:
        keys = (*LandmarkDistance.names, "aperture_r")
        if self._item.reference is None:
            return self._without(keys, "no reference")
        if not self._item.paired:
            return self._without(keys, "the reference says something else, so frames cannot be paired")
        if self._frames.compared == 0:
            return self._without(keys, "no frame has a face both in the video and in its reference")
        values = self._frames.distances()
        try:
            values["aperture_r"] = correlation(self._frames.apertures, self._frames.reference_apertures)
        except NotScorableError as error:
            self._without(("aperture_r",), str(error))
        return values

    def _unshifted(self) -> VideoItem:
        """The item without its known shifts, which are there to probe the judge."""
        probes = {k: sound for k, sound in self._item.probes.items() if not k.startswith(SHIFTED)}
        return replace(self._item, probes=probes)

    def _against(self, sound: Waveform | UserError) -> tuple[dict[str, float], str]:
        """How the mouth follows a sound, or why that cannot be said."""
        apertures, fps = self._frames.apertures, self._info.fps
        try:
            if isinstance(sound, UserError):
                raise sound
            fit = sound_fit(apertures, loudness(sound, fps, len(apertures), WAV2LIP.sample_rate), fps)
        except UserError as error:
            return {}, " ".join(str(error).split())
        return dict(zip(SOUND_KEYS, (fit.r, float(fit.lag)), strict=True)), ""

    def _without(self, keys: tuple[str, ...], reason: str) -> dict[str, float]:
        self.missing.update(dict.fromkeys(keys, reason))
        return {}


class _Frames:
    """What is kept of the frames: a few numbers each."""

    def __init__(self) -> None:
        self.apertures: list[float] = []
        """nan where there is no face."""
        self.reference_apertures: list[float] = []
        self._ratios: list[float] = []
        self._distances = LandmarkDistance()

    def add(self, points: npt.NDArray[np.float32] | None, reference: npt.NDArray[np.float32] | None) -> None:
        self.apertures.append(np.nan if points is None else float(aperture(points)))
        self.reference_apertures.append(np.nan if reference is None else float(aperture(reference)))
        if points is not None:
            self._ratios.append(float(mouth_aspect_ratio(points)))
            if reference is not None:
                self._distances.update(points, reference)

    @property
    def any_face(self) -> bool:
        return bool(self._ratios)

    @property
    def compared(self) -> int:
        return int(self._distances.frames)

    def distances(self) -> dict[str, float]:
        return {name: float(value) for name, value in self._distances.compute().items()}

    def motion(self) -> dict[str, float]:
        """Values that need the video alone."""
        values = {"open_share": float(np.mean(np.greater(self._ratios, OPEN)))}
        changes = np.abs(np.diff(self.apertures))
        if np.isfinite(changes).any():
            values["aperture_motion"] = float(np.nanmean(changes))
        return values
