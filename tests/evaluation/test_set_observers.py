"""FID and FVD of sets of videos, and the features they are computed from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from watching import images, measure

from lipsync.evaluation.feature_collectors import ClipCollector
from lipsync.evaluation.feature_store import FeatureStore, FeatureWriter, read_features
from lipsync.evaluation.inputs import VideoItem
from lipsync.evaluation.picture_observers import (
    PairCounter,
)
from lipsync.evaluation.set_observers import set_observers
from lipsync.evaluation.visual import SetObserver
from lipsync.faces.detector import AnnotatedDetector
from lipsync.media.probe import probe
from lipsync.metrics.frechet import FrechetDistance, I3DFeatures
from lipsync.types import Box, Face


class Means:
    """In place of a network: mean colours of the quarters of a picture."""

    dimensions = 4
    sha256 = "0" * 64
    size, frames = 32, 4

    def __init__(self):
        self.calls = 0

    def __call__(self, pictures):
        self.calls += len(pictures)
        rows = [[p[..., :8, :].mean(), p[..., 8:, :].mean(), p[..., 0].mean(), p.std()] for p in pictures]
        return np.array(rows, np.float32)


def _wave(index, image):
    image[:, : 8 * (index % 7)] //= 2


@pytest.fixture
def sets(tmp_path, make_textured):
    names = ("a", "b")
    videos = [
        make_textured(tmp_path / f"{name}.mp4", 20, seed=i, paint=_wave) for i, name in enumerate(names)
    ]
    reference = make_textured(tmp_path / "r.mp4", 30, seed=5, paint=_wave)
    return [VideoItem(video.stem, video, reference, system="ours") for video in videos]


def _fid(folder, network, region="frame"):
    return set_observers(folder, fid=network, fid_regions=[region], fid_every=2)


def test_sets_are_compared_and_resumed(tmp_path, sets):
    network = Means()
    store = tmp_path / "features"
    (observer,) = observers = _fid(store, network)
    assert isinstance(observer, SetObserver)
    assert not isinstance(PairCounter(), SetObserver)
    for item in sets:
        values, reasons, _ = measure(observers, item)
        assert (values, reasons) == ({"n_frames_reference": 30, "n_frames": 20}, {})
    assert network.calls == 10 + 10 + 15  # a reference counts as a whole, and once
    values, notes = observer.aggregates("ours", ["a", "b"])
    expected = FrechetDistance(4)
    for item in sets:
        expected.add(Means()(images(item.path)[::2]), real=False)
    expected.add(Means()(images(sets[0].reference)[::2]), real=True)
    assert values == {"fid": pytest.approx(expected.distance(), rel=1e-6)}
    assert values["fid"] > 1
    assert "20 frames of the videos against 15 of the references" in notes[0]
    assert "full rank" not in notes[0]
    (resumed,) = _fid(store, Means())
    assert resumed.aggregates("ours", ["a", "b"])[0] == values
    assert not list(store.rglob("*.part"))


def test_what_is_missing_is_noted(tmp_path, sets):
    (observer,) = observers = _fid(tmp_path / "features", Means())
    assert observer.aggregates("ours", ["a", "b"]) == ({}, [])
    measure(observers, sets[0])
    _, notes = observer.aggregates("ours", ["a", "b"])
    assert notes[-1] == "FID, whole frame: 1 of 2 videos have no frames and do not count"
    # A video that is begun again and not finished counts no more.
    observer.begin(sets[0], probe(sets[0].path))
    assert observer.aggregates("ours", ["a"]) == ({}, [])


def test_few_frames_are_noted(tmp_path, make_textured):
    video = make_textured(tmp_path / "v.mp4", 6, paint=_wave)
    (observer,) = observers = _fid(tmp_path / "features", Means())
    measure(observers, VideoItem("v", video, video))
    values, notes = observer.aggregates("videos", ["v"])
    assert values["fid"] == pytest.approx(0, abs=1e-3)
    assert "fewer than 4, so the covariance is not of full rank" in notes[0]


def test_sets_of_faces_need_faces(tmp_path, make_textured):
    video = make_textured(tmp_path / "v.mp4", 6, faces=lambda i: [])
    observers = _fid(tmp_path / "features", Means(), "face")
    values, reasons, _ = measure(observers, VideoItem("v", video, video), AnnotatedDetector())
    assert values == {"n_frames_reference": 6, "n_frames": 6}
    assert reasons["image"] == "FID, face: the video has no frames with the region"
    assert not list((tmp_path / "features").rglob("*.npy"))


def test_a_changed_reference_is_another_one(tmp_path, make_textured):
    path = make_textured(tmp_path / "r.mp4", 4)
    store = FeatureStore(tmp_path / "features", "kind")
    before = store.reference(path)
    make_textured(path, 5)
    assert store.reference(path) != before


def test_clips_are_cut_by_the_first_box(tmp_path):
    seen = []

    class Watching(Means):
        def __call__(self, pictures):
            seen.extend(pictures)
            return super().__call__(pictures)

    collector = ClipCollector(Watching(), FeatureWriter(tmp_path / "clips.npy"))
    image = np.zeros((80, 96, 3), np.uint8)
    image[:, 48:] = 200
    faces = [Face(Box(16.0 + i, 16.0, 48.0 + i, 48.0), 1.0) for i in range(6)]
    for index, face in enumerate([*faces, None, *faces[:4]]):
        collector.add(index, image, face)
    assert collector.finish() == 2  # frames 0-3; 4-5 are broken off by the gap; then four more
    assert [clip.shape for clip in seen] == [(4, 32, 32, 3)] * 2
    assert all(clip.max() == 0 for clip in seen)  # the box of frame 0 ends where the bright half begins


class _Motion(nn.Module):
    """Called as an I3D for FVD is: how bright a clip is, and how much it moves."""

    def forward(
        self, x: Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False
    ) -> Tensor:
        change = (x[:, :, 1:] - x[:, :, :-1]).abs().mean(dim=(1, 2, 3, 4))
        return torch.stack([x.mean(dim=(1, 2, 3, 4)), change], dim=1)


def test_videos_that_move_otherwise_differ(tmp_path, make_textured):
    torch.jit.save(torch.jit.script(_Motion()), str(tmp_path / "i3d.pt"))

    def flicker(index, image):
        image[30:50] = 40 * (index % 3) * (1 + index // 16)

    still, moving = (
        make_textured(tmp_path / "s.mp4", 50),
        make_textured(tmp_path / "m.mp4", 50, paint=flicker),
    )
    observers = set_observers(tmp_path / "features", fvd=I3DFeatures(tmp_path / "i3d.pt"))
    for item in (VideoItem("s", still, still, system="same"), VideoItem("m", moving, still, system="other")):
        assert measure(observers, item, AnnotatedDetector())[1] == {}
    (same, notes), (other, _) = (
        observers[0].aggregates("same", ["s"]),
        observers[0].aggregates("other", ["m"]),
    )
    assert "3 clips of the videos against 3 of the references" in notes[0]
    assert same["fvd_face"] == pytest.approx(0, abs=1e-6)
    assert other["fvd_face"] > 1


def test_features_are_written_as_they_come(tmp_path):
    path = tmp_path / "deep" / "rows.npy"
    rows = np.random.default_rng(0).standard_normal((1300, 3)).astype(np.float32)
    writer = FeatureWriter(path)
    writer.append(rows[:700])
    assert not path.exists()
    writer.append(rows[700:])
    writer.close()
    np.testing.assert_array_equal(np.load(path), rows)
    parts = list(read_features(path, 3))
    assert max(map(len, parts)) <= 512
    np.testing.assert_array_equal(np.concatenate(parts), rows)
    abandoned = FeatureWriter(path)
    abandoned.append(rows[:5])
    abandoned.discard()
    assert [found.name for found in path.parent.iterdir()] == ["rows.npy"]
