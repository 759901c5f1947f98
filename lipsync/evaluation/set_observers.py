"""Distances of sets: FID and FVD of all videos of a system from all their references."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lipsync.errors import NotScorableError
from lipsync.evaluation.columns import Column, Family, Region
from lipsync.evaluation.feature_collectors import ClipCollector, Collector, FrameCollector
from lipsync.evaluation.feature_store import FeatureStore, FeatureWriter, read_features
from lipsync.evaluation.frame_pairs import FramePair
from lipsync.evaluation.inputs import VideoItem
from lipsync.evaluation.regions import region_column
from lipsync.evaluation.visual import Pairing
from lipsync.metrics.frechet import FrechetDistance, I3DFeatures, InceptionFeatures
from lipsync.types import Face, Image, VideoInfo


class Extractor(Protocol):
    """What is known of the network behind the features."""

    @property
    def dimensions(self) -> int:
        """Numbers in a row of features."""
        ...

    @property
    def sha256(self) -> str | None:
        """Of its weights."""
        ...


def set_observers(
    folder: Path,
    *,
    fid: InceptionFeatures | None = None,
    fid_regions: Sequence[Region] = ("face",),
    fid_every: int = 5,
    fvd: I3DFeatures | None = None,
) -> list[SetDistance]:
    """Observers of sets.

    Args:
        folder: Where features are kept.
        fid: Network of FID; None leaves it out.
        fid_regions: Where FID is measured.
        fid_every: Frames 0, fid_every, 2 * fid_every ... count.
        fvd: Network of FVD, measured on faces; None leaves it out.

    Raises:
        ValueError: ``fid_every`` is below 1.
    """
    if fid_every < 1:
        raise ValueError(f"fid_every must be at least 1, not {fid_every}")
    found = [_fid(folder, fid, region, fid_every) for region in fid_regions if fid is not None]
    return found if fvd is None else [*found, _fvd(folder, fvd)]


def _fid(folder: Path, network: InceptionFeatures, region: Region, every: int) -> SetDistance:
    about = (
        f"Fréchet distance of 2048 Inception features, every {every}. frame of all videos against every "
        f"{every}. frame of all references, resized to 299 x 299. It grows as the number of frames falls."
    )
    column = Column("fid", "FID", "image", "lower", digits=2, about=about, per_video=False)
    return SetDistance(
        region_column(column, region),
        network,
        FeatureStore(folder, _kind(f"fid-{region}-{every}", network)),
        lambda writer: FrameCollector(network, writer, region, every),
        counted="frames",
        needs_faces=region != "frame",
    )


def _fvd(folder: Path, network: I3DFeatures) -> SetDistance:
    about = (
        f"Fréchet distance of I3D features of clips of {network.frames} frames that follow one another, cut "
        f"out by the first frame's face, resized to {network.size} x {network.size}; all videos against all "
        "references."
    )
    column = Column("fvd", "FVD", "image", "lower", digits=1, about=about, per_video=False)
    return SetDistance(
        region_column(column, "face"),
        network,
        FeatureStore(folder, _kind("fvd-face", network)),
        lambda writer: ClipCollector(network, writer),
        counted="clips",
    )


def _kind(name: str, network: Extractor) -> str:
    return f"{name}-{(network.sha256 or 'unknown')[:12]}"


class SetDistance:
    """A distance of the videos of a system from their references.

    Frames are measured at any size and rate, and also where the reference says something else: sets are
    compared, not frames. A reference counts as a whole and once, however many videos have it.

    Args:
        column: Of the distance.
        network: Gives the features.
        store: Keeps them.
        collect: Makes a collector that writes to the writer given.
        counted: What a row of features stands for, in the plural.
        needs_faces: Whether they are of faces.
    """

    family: Family = "image"
    pairing: Pairing = "person"

    def __init__(
        self,
        column: Column,
        network: Extractor,
        store: FeatureStore,
        collect: Callable[[FeatureWriter], Collector],
        *,
        counted: str,
        needs_faces: bool = True,
    ) -> None:
        self.column = column
        self.columns: tuple[Column, ...] = (column,)
        self.needs_faces = needs_faces
        self._network = network
        self._store = store
        self._collect = collect
        self._counted = counted
        self._open: _Open | None = None

    def begin(self, item: VideoItem, info: VideoInfo) -> None:
        """Start a video.

        Raises:
            NotScorableError: It has no reference.
        """
        if self._open is not None:
            self._open.discard()
        if item.reference is None:
            raise NotScorableError(f"{self.column.label}: no reference")
        self._store.forget(item.system, item.name)
        reference = self._store.reference(item.reference)
        self._open = _Open(
            item,
            item.reference,
            self._collect(FeatureWriter(self._store.video(item.system, item.name))),
            None if reference.is_file() else self._collect(FeatureWriter(reference)),
        )

    def update(self, pair: FramePair) -> None:
        """Take the next frame."""
        self._running.ours.add(pair.index, pair.image, pair.region_face)
        if pair.reference is not None:
            self.update_reference(pair.index, pair.reference, pair.reference_face)

    def update_reference(self, index: int, image: Image, face: Face | None) -> None:
        """Take a frame of the reference, unless its features are there already."""
        theirs = self._running.theirs
        if theirs is not None:
            theirs.add(index, image, face)

    def finish(self) -> Mapping[str, float]:
        """Keep the features; a video alone has no value.

        Raises:
            NotScorableError: The video or its reference gave no features.
        """
        running, self._open = self._running, None
        ours = running.ours.finish()
        theirs = 1 if running.theirs is None else running.theirs.finish()
        if min(ours, theirs) == 0:
            whose = "video" if ours == 0 else "reference"
            raise NotScorableError(f"{self.column.label}: the {whose} has no {self._counted} with the region")
        self._store.link(running.item.system, running.item.name, running.reference)
        return {}

    @property
    def _running(self) -> _Open:
        if self._open is None:
            raise ValueError("begin comes first")
        return self._open

    def aggregates(self, system: str, names: Sequence[str]) -> tuple[dict[str, float], list[str]]:
        """The distance of the videos ``names``, by column key, and how far to trust it.

        Nothing at all where none of the videos has features.

        Raises:
            DataError: A file of features is damaged.
        """
        files = [found for name in names if (found := self._store.linked(system, name)) is not None]
        if not files:
            return {}, []
        metric = FrechetDistance(self._network.dimensions)
        counts = []
        for real, paths in (
            (False, [video for video, _ in files]),
            (True, sorted({ref for _, ref in files})),
        ):
            counts.append(0)
            for path in paths:
                for rows in read_features(path, self._network.dimensions):
                    metric.add(rows, real=real)
                    counts[-1] += len(rows)
        notes = self._notes(len(files), len(names), *counts)
        if min(counts) < 2:
            return {}, notes
        return {self.column.key: metric.distance()}, notes

    def _notes(self, complete: int, videos: int, ours: int, theirs: int) -> list[str]:
        label, counted = self.column.label, self._counted
        notes = [f"{label}: {ours} {counted} of the videos against {theirs} of the references"]
        if min(ours, theirs) < 2:
            notes[0] += "; at least 2 are needed, so there is no value"
        elif min(ours, theirs) < self._network.dimensions:
            notes[0] += (
                f"; fewer than {self._network.dimensions}, so the covariance is not of full rank: the "
                "value is comparable only with one of as many from the same references"
            )
        if complete < videos:
            notes.append(
                f"{label}: {videos - complete} of {videos} videos have no {counted} and do not count"
            )
        return notes


@dataclass(frozen=True, slots=True)
class _Open:
    """A video that is being measured."""

    item: VideoItem
    reference: Path
    ours: Collector
    theirs: Collector | None
    """None where the features of the reference are there already."""

    def discard(self) -> None:
        self.ours.discard()
        if self.theirs is not None:
            self.theirs.discard()
