from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from fractions import Fraction
from typing import ClassVar

import av
import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lipsync.errors import NotScorableError
from lipsync.evaluation.columns import Column
from lipsync.evaluation.feature_collectors import ClipCollector
from lipsync.evaluation.feature_store import FeatureStore, FeatureWriter, read_features
from lipsync.evaluation.inputs import VideoItem
from lipsync.evaluation.picture_observers import (
    MouthMotion,
    PairCounter,
    PictureComparison,
    SharpnessObserver,
    picture_observers,
)
from lipsync.evaluation.regions import cut, region_box, region_column, region_key
from lipsync.evaluation.set_observers import set_observers
from lipsync.evaluation.visual import FramePair, SetObserver, VisualPass
from lipsync.faces.detector import AnnotatedDetector
from lipsync.media.probe import probe
from lipsync.media.provenance import Provenance
from lipsync.media.reader import VideoReader
from lipsync.media.writer import VideoWriter
from lipsync.metrics.frechet import FrechetDistance, I3DFeatures
from lipsync.metrics.image import psnr, ssim
from lipsync.types import Box, Face

BOX = (20.0, 16.0, 68.0, 64.0)


@dataclass
class Watcher:
    """Keeps what it is shown."""

    family: str = "identity"
    columns: tuple = (Column("seen", "seen", "identity"),)
    needs_faces: bool = False
    pairing: str = "none"
    fails_in: str = ""
    pairs: list = field(default_factory=list)
    items: list = field(default_factory=list)

    def begin(self, item, info):
        self.items.append(item)
        self.pairs = []
        self._fail("begin")

    def update(self, pair):
        self.pairs.append(pair)
        self._fail("update")

    def finish(self):
        self._fail("finish")
        return {"seen": len(self.pairs)}

    def _fail(self, where):
        if where == self.fails_in:
            raise NotScorableError(f"fails\nin {where}")


@pytest.fixture
def make_textured():
    """``make(path, frames, size, faces, paint)``: texture with a face box; ``paint(i, image)`` changes it."""

    def make(path, frames=12, size=(96, 80), *, fps=Fraction(25), faces=lambda i: [BOX], paint=None, seed=0):
        noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        texture = cv2.GaussianBlur(noise, (0, 0), 1.5)
        path.parent.mkdir(parents=True, exist_ok=True)
        with VideoWriter(path, *size, fps, None, crf=4, preset="ultrafast") as writer:
            for index in range(frames):
                image = texture.copy()
                if paint is not None:
                    paint(index, image)
                writer.write(image)
        if faces is not None:
            found = [[[*box, 0.99, None] for box in faces(index)] for index in range(frames)]
            path.with_name(f"{path.stem}.faces.json").write_text(
                json.dumps({"fps": str(fps), "faces": found})
            )
        return path

    return make


def _measure(observers, item, detector=None, **settings):
    return VisualPass(observers, detector, **settings).measure(item, probe(item.path))[:3]


def _images(path):
    return [frame.image for frame in VideoReader(path)]


# Regions


def test_regions_are_whole_pixels_inside_the_picture():
    face = Face(Box(-5.4, 10.2, 60.6, 70.7), 1.0)
    assert region_box("frame", None, 50, 60) == Box(0, 0, 50, 60)
    assert region_box("face", face, 50, 60) == Box(0, 10, 50, 60)
    assert region_box("mouth", face, 50, 60) == Box(0, 40, 50, 60)
    assert region_box("face", None, 50, 60) is None
    assert region_box("mouth", Face(Box(0, 0, 10, 130), 1.0), 50, 60) is None
    image = np.zeros((60, 50, 3), np.uint8)
    assert cut("mouth", face, image).shape == (20, 50, 3)
    assert cut("mouth", None, image) is None
    assert cut("frame", None, image) is image


def test_columns_state_the_region():
    column = region_column(Column("psnr", "PSNR", "image"), "mouth")
    assert (column.key, column.label) == ("psnr_mouth", "PSNR, mouth")
    assert "lower half" in column.about
    assert region_key("psnr", "frame") == "psnr"
    keys = [column.key for column in VisualPass(picture_observers()).columns]
    assert len(keys) == len(set(keys))
    assert {"psnr", "ssim_face", "sharpness_mouth", "motion_mouth", "n_frames_reference"} <= set(keys)


# What observers are shown


def test_frames_are_paired_by_index_up_to_the_shorter_end(tmp_path, make_video):
    video = make_video(tmp_path / "a.mp4", 12)
    reference = make_video(tmp_path / "b.mp4", 9)
    watcher, counter = Watcher(), PairCounter()
    values, reasons, _ = _measure([watcher, counter], VideoItem("a", video, reference))
    assert reasons == {}
    assert [pair.index for pair in watcher.pairs] == list(range(12))
    assert [pair.reference is None for pair in watcher.pairs] == [False] * 9 + [True] * 3
    for pair in watcher.pairs[:9]:
        assert pair.comparable
        assert abs(pair.image.mean() - pair.reference.mean()) < 2
    assert values["n_frames_compared"] == 9
    assert values["n_frames_reference"] == 9
    other, _, _ = _measure([counter], VideoItem("b", reference, video))
    assert (other["n_frames_compared"], other["n_frames_reference"]) == (9, 12)


@pytest.mark.parametrize("difference", ["size", "fps"])
def test_unlike_references_cost_what_needs_pairs(tmp_path, make_video, difference):
    video = make_video(tmp_path / "a.mp4", 6)
    changes = {"size": (80, 48)} if difference == "size" else {"fps": Fraction(30)}
    reference = make_video(tmp_path / "b.mp4", 6, **changes)
    alone, person = Watcher(), Watcher(pairing="person")
    observers = [PictureComparison("frame"), SharpnessObserver("frame"), alone, person]
    values, reasons, _ = _measure(observers, VideoItem("a", video, reference))
    assert values == {"seen": 6}
    assert f"{'size 64 x 48' if difference == 'size' else '25.000 fps'} differ" in reasons["image"]
    assert alone.items[0].reference is None
    assert all(pair.reference is None for pair in alone.pairs)
    assert person.items[0].reference == reference
    assert all(pair.reference is not None and not pair.comparable for pair in person.pairs)


def test_a_rate_that_is_rounded_differently_is_the_same(tmp_path, make_video):
    video = make_video(tmp_path / "a.mp4", 6, fps=Fraction(30000, 1001))
    reference = make_video(tmp_path / "b.mp4", 6, fps=Fraction(2997, 100))
    values, reasons, _ = _measure([PictureComparison("frame")], VideoItem("a", video, reference))
    assert reasons == {}
    assert "ssim" in values


def test_an_unpaired_reference_shows_the_person_only(tmp_path, make_video):
    video, reference = make_video(tmp_path / "a.mp4", 6), make_video(tmp_path / "b.mp4", 6, fps=Fraction(30))
    watcher = Watcher()
    item = VideoItem("a", video, reference, paired=False)
    values, reasons, _ = _measure([watcher, PictureComparison("frame")], item)
    assert (values, reasons) == ({"seen": 6}, {})
    assert all(pair.reference is not None and not pair.comparable for pair in watcher.pairs)


@pytest.mark.parametrize(
    ("expected", "reason"), [(True, {"image": "no reference of this name"}), (False, {})]
)
def test_no_reference(tmp_path, make_video, expected, reason):
    item = VideoItem("a", make_video(tmp_path / "a.mp4", 6))
    observers = [Watcher(), PictureComparison("frame")]
    values, reasons, _ = _measure(observers, item, expect_references=expected)
    assert (values, reasons) == ({"seen": 6}, reason)


def test_an_unreadable_reference_is_a_reason(tmp_path, make_video):
    reference = tmp_path / "b.mp4"
    reference.write_bytes(b"no video" * 99)
    observers = [Watcher(), PictureComparison("frame")]
    values, reasons, _ = _measure(observers, VideoItem("a", make_video(tmp_path / "a.mp4", 6), reference))
    assert values == {"seen": 6}
    assert "b.mp4" in reasons["image"]
    assert "\n" not in reasons["image"]


def test_an_unreadable_video_costs_everything(tmp_path, make_video):
    good = make_video(tmp_path / "a.mp4", 6)
    info = probe(good)
    good.write_bytes(good.read_bytes()[:100])
    values, reasons, thumbnail, *_ = VisualPass([Watcher(), PictureComparison("frame")]).measure(
        VideoItem("a", good, good), info
    )
    assert values == {}
    assert thumbnail is None
    assert "a.mp4" in reasons["identity"]


@pytest.mark.parametrize("where", ["begin", "update", "finish"])
def test_one_that_gives_up_does_not_stop_the_others(tmp_path, make_video, where):
    failing = Watcher(family="landmarks", fails_in=where)
    values, reasons, _ = _measure([failing, Watcher()], VideoItem("a", make_video(tmp_path / "a.mp4", 6)))
    assert values == {"seen": 6}
    assert reasons == {"landmarks": f"fails in {where}"}


# Faces


def test_faces_are_followed_in_both(tmp_path, make_textured):
    moved = (30.0, 16.0, 78.0, 64.0)
    small = (0.0, 0.0, 16.0, 16.0)
    video = make_textured(tmp_path / "a.mp4", faces=lambda i: [small, moved])
    reference = make_textured(tmp_path / "b.mp4")
    watcher = Watcher(needs_faces=True)
    _measure([watcher], VideoItem("a", video, reference), AnnotatedDetector())
    assert {pair.face.box for pair in watcher.pairs} == {Box(*moved)}
    assert {pair.reference_face.box for pair in watcher.pairs} == {Box(*BOX)}
    assert {pair.region_face.box for pair in watcher.pairs} == {Box(*BOX)}
    _measure([watcher], VideoItem("a", video, reference, paired=False), AnnotatedDetector())
    assert {pair.region_face.box for pair in watcher.pairs} == {Box(*moved)}


def test_without_a_detector_faces_are_missing(tmp_path, make_textured):
    video = make_textured(tmp_path / "a.mp4")
    values, reasons, _ = _measure(picture_observers(), VideoItem("a", video, video))
    assert values["ssim"] == 1.0
    assert "psnr_face" not in values
    assert reasons["image"] == "no face detector; give detector=default"


def test_a_detector_that_fails_costs_the_faces(tmp_path, make_textured):
    video = make_textured(tmp_path / "a.mp4")
    reference = make_textured(tmp_path / "b.mp4", faces=None)
    values, reasons, _ = _measure(picture_observers(), VideoItem("a", video, reference), AnnotatedDetector())
    assert "b.faces.json: no such file" in reasons["image"]
    assert "ssim" in values
    assert "ssim_face" not in values


def test_frames_without_a_face_do_not_count(tmp_path, make_textured):
    video = make_textured(tmp_path / "a.mp4", faces=lambda i: [])
    values, reasons, _ = _measure(picture_observers(), VideoItem("a", video, video), AnnotatedDetector())
    assert {"ssim", "sharpness"} <= set(values)
    assert not [key for key in values if "face" in key or "mouth" in key]
    assert "face: no frame with a face" in reasons["image"]
    assert "mouth: no two consecutive frames" in reasons["image"]


# Pictures


def test_every_region_is_compared_where_the_reference_has_its_face(tmp_path, make_textured):
    def darken(index, image):
        image[40:60, 30:60] //= 2

    video = make_textured(tmp_path / "a.mp4", paint=darken, faces=lambda i: [(0, 0, 30, 30)])
    reference = make_textured(tmp_path / "b.mp4")
    values, reasons, _ = _measure(picture_observers(), VideoItem("a", video, reference), AnnotatedDetector())
    assert reasons == {}
    pairs = list(zip(_images(video), _images(reference), strict=True))
    for region, part in (
        ("frame", np.s_[:, :]),
        ("face", np.s_[16:64, 20:68]),
        ("mouth", np.s_[40:64, 20:68]),
    ):
        expected = np.mean([psnr(one[part], other[part]) for one, other in pairs])
        assert values[region_key("psnr", region)] == pytest.approx(expected, abs=1e-4)
        expected = np.mean([ssim(one[part], other[part]) for one, other in pairs])
        assert values[region_key("ssim", region)] == pytest.approx(expected, abs=1e-6)
    assert values["psnr_mouth"] < values["psnr_face"] < values["psnr"]
    few = VisualPass(picture_observers(["frame"], every=5, sharpness=False)).measure(
        VideoItem("a", video, reference), probe(video)
    )[0]
    assert few["n_frames_compared"] == 3
    assert few["psnr"] == pytest.approx(np.mean([psnr(*pairs[i]) for i in (0, 5, 10)]), abs=1e-4)
    assert "sharpness" not in few


def test_identical_frames_have_no_psnr(tmp_path, make_video):
    video = make_video(tmp_path / "a.mp4", 6)
    observers = picture_observers(["frame"])[:2]
    values, reasons, _ = _measure(observers, VideoItem("a", video, video))
    expected = {"ssim": 1.0, "n_frames_compared": 6, "n_frames_identical": 6, "n_frames_reference": 6}
    assert (values, reasons) == (expected, {})


def test_mouths_that_move(tmp_path, make_textured):
    def speak(index, image):
        image[50:60, 35:50] = 20 if index % 2 else 200

    def nod(index, image):
        image[:] = np.roll(image, index, axis=0)

    def motion(**settings):
        path = make_textured(tmp_path / "a.mp4", **settings)
        return _measure([MouthMotion()], VideoItem("a", path), AnnotatedDetector())[0]["motion_mouth"]

    still = motion()
    assert still < 0.5
    assert motion(paint=speak) > 10
    followed = motion(paint=nod, faces=lambda i: [(20, 10 + i, 68, 58 + i)])
    assert followed < motion(paint=nod) / 3


def test_motion_does_not_count_across_a_gap():
    observer = MouthMotion()
    observer.begin(None, None)
    images = [np.full((80, 96, 3), level, np.uint8) for level in (0, 0, 100, 100, 200)]
    faces = [Box(*BOX), Box(*BOX), None, Box(*BOX), Box(0, 0, 20, 20)]
    for index, (image, box) in enumerate(zip(images, faces, strict=True)):
        observer.update(FramePair(index, image, None, None if box is None else Face(box, 1.0), None))
    assert observer.finish() == {"motion_mouth": 0.0}


def test_a_thumbnail_of_the_middle(tmp_path, make_video):
    video = make_video(tmp_path / "a.mp4", 21, (400, 200), level=lambda i: 10 * i)
    _, _, thumbnail = _measure([], VideoItem("a", video))
    image = cv2.imdecode(np.frombuffer(base64.b64decode(thumbnail), np.uint8), cv2.IMREAD_COLOR)
    assert image.shape == (80, 160, 3)
    assert abs(image.mean() - 100) < 3


def test_a_thumbnail_with_a_face(tmp_path, make_video):
    faces = lambda i: [(8, 8, 40, 40)] if i in (16, 17, 18, 19, 20) else []  # noqa: E731 (a table)
    video = make_video(tmp_path / "a.mp4", 21, level=lambda i: 10 * i, faces=faces)
    _, _, thumbnail = _measure([Watcher(needs_faces=True)], VideoItem("a", video), AnnotatedDetector())
    image = cv2.imdecode(np.frombuffer(base64.b64decode(thumbnail), np.uint8), cv2.IMREAD_COLOR)
    assert image.mean() > 150


# Sets


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
        values, reasons, _ = _measure(observers, item)
        assert (values, reasons) == ({"n_frames_reference": 30}, {})
    assert network.calls == 10 + 10 + 15  # a reference counts as a whole, and once
    values, notes = observer.aggregates("ours", ["a", "b"])
    expected = FrechetDistance(4)
    for item in sets:
        expected.add(Means()(_images(item.path)[::2]), real=False)
    expected.add(Means()(_images(sets[0].reference)[::2]), real=True)
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
    _measure(observers, sets[0])
    _, notes = observer.aggregates("ours", ["a", "b"])
    assert notes[-1] == "FID, whole frame: 1 of 2 videos have no frames and do not count"
    # A video that is begun again and not finished counts no more.
    observer.begin(sets[0], probe(sets[0].path))
    assert observer.aggregates("ours", ["a"]) == ({}, [])


def test_few_frames_are_noted(tmp_path, make_textured):
    video = make_textured(tmp_path / "v.mp4", 6, paint=_wave)
    (observer,) = observers = _fid(tmp_path / "features", Means())
    _measure(observers, VideoItem("v", video, video))
    values, notes = observer.aggregates("videos", ["v"])
    assert values["fid"] == pytest.approx(0, abs=1e-3)
    assert "fewer than 4, so the covariance is not of full rank" in notes[0]


def test_sets_of_faces_need_faces(tmp_path, make_textured):
    video = make_textured(tmp_path / "v.mp4", 6, faces=lambda i: [])
    observers = _fid(tmp_path / "features", Means(), "face")
    values, reasons, _ = _measure(observers, VideoItem("v", video, video), AnnotatedDetector())
    assert values == {"n_frames_reference": 6}
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
        assert _measure(observers, item, AnnotatedDetector())[1] == {}
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


# Variable frame rates


@pytest.fixture
def variable(tmp_path):
    """Half of the frames for 40 ms, half for 80 ms each; frame i has grey level ``20 + 5 * i``."""
    path = tmp_path / "variable.mp4"
    times = [*range(0, 400, 40), *range(400, 1200, 80)]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "1", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for index, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 20 + 5 * index, np.uint8), format="bgr24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("made_here", [True, False])
def test_a_reference_of_variable_rate_is_read_as_the_maker_of_the_video_read_it(
    tmp_path, variable, made_here
):
    """The pipeline of this package resamples by time; others take frame after frame."""
    fps = probe(variable).fps
    comment = Provenance("ab" * 32).metadata if made_here else None
    path = tmp_path / "video.mp4"
    with VideoWriter(path, 64, 48, fps, None, crf=1, metadata=comment) as writer:
        for frame in VideoReader(variable, fps if made_here else None):
            writer.write(frame.image)
    watcher = Watcher(pairing="frames")
    values, reasons, _ = _measure([watcher], VideoItem("a", path, variable))
    assert reasons == {}
    assert values["n_frames_reference"] == len(watcher.pairs) == probe(path).frame_count
    drift = [abs(float(pair.image.mean()) - float(pair.reference.mean())) for pair in watcher.pairs]
    assert max(drift) < 2.5, "less than half a step from frame to frame"
    by_time = [frame.image.mean() for frame in VideoReader(variable, fps)]
    by_index = [frame.image.mean() for frame in VideoReader(variable)]
    assert np.abs(np.subtract(by_time, by_index)).max() > 5, "the two ways differ"


# Single values that are missing


class _Partial(Watcher):
    missing: ClassVar[dict[str, str]] = {
        "lag": "no sound",
        "r": "no sound",
        "lmd": "no reference",
        "error": "a signal is constant",
    }


@pytest.mark.parametrize("paired", [True, False])
def test_why_single_values_are_missing_is_noted(tmp_path, make_video, paired):
    video = make_video(tmp_path / "a.mp4", 6)
    measured = VisualPass([_Partial(), Watcher()]).measure(
        VideoItem("a", video, video if paired else None), probe(video)
    )
    own = ["lag, r: no sound", "lmd: no reference", "error: a signal is constant"]
    assert list(measured.notes) == (own if paired else [own[0], own[2]])
    assert measured.reasons == {}
    failing = VisualPass([_Partial(fails_in="finish")]).measure(VideoItem("a", video, video), probe(video))
    assert failing.notes == ()
    assert failing.reasons == {"identity": "fails in finish"}


def test_families_and_aggregates_of_the_whole_pass(tmp_path):
    class Sets(Watcher):
        def update_reference(self, index, image, face):
            pass

        def aggregates(self, system, names):
            return {f"{system}-{len(names)}": 1.0}, ["a note"]

    visual = VisualPass([Watcher(), *picture_observers(["frame"]), Sets(), Sets(family="landmarks")])
    assert visual.families == ("identity", "image", "landmarks")
    assert visual.aggregates("real", ["a", "b"]) == ({"real-2": 1.0}, ["a note", "a note"])
