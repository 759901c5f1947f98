from __future__ import annotations

import base64
from fractions import Fraction
from typing import ClassVar

import av
import cv2
import numpy as np
import pytest
from watching import BOX, Watcher, images, measure

from lipsync.evaluation.columns import Column
from lipsync.evaluation.inputs import VideoItem
from lipsync.evaluation.picture_observers import (
    MouthMotion,
    PairCounter,
    PictureComparison,
    SharpnessObserver,
    picture_observers,
)
from lipsync.evaluation.regions import cut, region_box, region_column, region_key
from lipsync.evaluation.visual import FramePair, VisualPass
from lipsync.faces.detector import AnnotatedDetector
from lipsync.media.probe import probe
from lipsync.media.provenance import Provenance
from lipsync.media.reader import VideoReader
from lipsync.media.writer import VideoWriter
from lipsync.metrics.image import psnr, ssim
from lipsync.types import Box, Face

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
    values, reasons, _ = measure([watcher, counter], VideoItem("a", video, reference))
    assert reasons == {}
    assert [pair.index for pair in watcher.pairs] == list(range(12))
    assert [pair.reference is None for pair in watcher.pairs] == [False] * 9 + [True] * 3
    for pair in watcher.pairs[:9]:
        assert pair.comparable
        assert abs(pair.image.mean() - pair.reference.mean()) < 2
    assert values["n_frames_compared"] == 9
    assert values["n_frames_reference"] == 9
    other, _, _ = measure([counter], VideoItem("b", reference, video))
    assert (other["n_frames_compared"], other["n_frames_reference"]) == (9, 12)


@pytest.mark.parametrize("difference", ["size", "fps"])
def test_unlike_references_cost_what_needs_pairs(tmp_path, make_video, difference):
    video = make_video(tmp_path / "a.mp4", 6)
    changes = {"size": (80, 48)} if difference == "size" else {"fps": Fraction(30)}
    reference = make_video(tmp_path / "b.mp4", 6, **changes)
    alone, person = Watcher(), Watcher(pairing="person")
    observers = [PictureComparison("frame"), SharpnessObserver("frame"), alone, person]
    values, reasons, _ = measure(observers, VideoItem("a", video, reference))
    assert values == {"seen": 6}
    assert f"{'size 64 x 48' if difference == 'size' else '25.000 fps'} differ" in reasons["image"]
    assert alone.items[0].reference is None
    assert all(pair.reference is None for pair in alone.pairs)
    assert person.items[0].reference == reference
    assert all(pair.reference is not None and not pair.comparable for pair in person.pairs)


def test_a_rate_that_is_rounded_differently_is_the_same(tmp_path, make_video):
    video = make_video(tmp_path / "a.mp4", 6, fps=Fraction(30000, 1001))
    reference = make_video(tmp_path / "b.mp4", 6, fps=Fraction(2997, 100))
    values, reasons, _ = measure([PictureComparison("frame")], VideoItem("a", video, reference))
    assert reasons == {}
    assert "ssim" in values


def test_an_unpaired_reference_shows_the_person_only(tmp_path, make_video):
    video, reference = make_video(tmp_path / "a.mp4", 6), make_video(tmp_path / "b.mp4", 6, fps=Fraction(30))
    watcher = Watcher()
    item = VideoItem("a", video, reference, paired=False)
    values, reasons, _ = measure([watcher, PictureComparison("frame")], item)
    assert (values, reasons) == ({"seen": 6}, {})
    assert all(pair.reference is not None and not pair.comparable for pair in watcher.pairs)


@pytest.mark.parametrize(
    ("expected", "reason"), [(True, {"image": "no reference of this name"}), (False, {})]
)
def test_no_reference(tmp_path, make_video, expected, reason):
    item = VideoItem("a", make_video(tmp_path / "a.mp4", 6))
    observers = [Watcher(), PictureComparison("frame")]
    values, reasons, _ = measure(observers, item, expect_references=expected)
    assert (values, reasons) == ({"seen": 6}, reason)


def test_an_unreadable_reference_is_a_reason(tmp_path, make_video):
    reference = tmp_path / "b.mp4"
    reference.write_bytes(b"no video" * 99)
    observers = [Watcher(), PictureComparison("frame")]
    values, reasons, _ = measure(observers, VideoItem("a", make_video(tmp_path / "a.mp4", 6), reference))
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
    values, reasons, _ = measure([failing, Watcher()], VideoItem("a", make_video(tmp_path / "a.mp4", 6)))
    assert values == {"seen": 6}
    assert reasons == {"landmarks": f"fails in {where}"}


# Faces


def test_faces_are_followed_in_both(tmp_path, make_textured):
    moved = (30.0, 16.0, 78.0, 64.0)
    small = (0.0, 0.0, 16.0, 16.0)
    video = make_textured(tmp_path / "a.mp4", faces=lambda i: [small, moved])
    reference = make_textured(tmp_path / "b.mp4")
    watcher = Watcher(needs_faces=True)
    measure([watcher], VideoItem("a", video, reference), AnnotatedDetector())
    assert {pair.face.box for pair in watcher.pairs} == {Box(*moved)}
    assert {pair.reference_face.box for pair in watcher.pairs} == {Box(*BOX)}
    assert {pair.region_face.box for pair in watcher.pairs} == {Box(*BOX)}
    measure([watcher], VideoItem("a", video, reference, paired=False), AnnotatedDetector())
    assert {pair.region_face.box for pair in watcher.pairs} == {Box(*moved)}


def test_without_a_detector_faces_are_missing(tmp_path, make_textured):
    video = make_textured(tmp_path / "a.mp4")
    values, reasons, _ = measure(picture_observers(), VideoItem("a", video, video))
    assert values["ssim"] == 1.0
    assert "psnr_face" not in values
    assert reasons["image"] == "no face detector; give detector=default"


def test_a_detector_that_fails_costs_the_faces(tmp_path, make_textured):
    video = make_textured(tmp_path / "a.mp4")
    reference = make_textured(tmp_path / "b.mp4", faces=None)
    values, reasons, _ = measure(picture_observers(), VideoItem("a", video, reference), AnnotatedDetector())
    assert "b.faces.json: no such file" in reasons["image"]
    assert "ssim" in values
    assert "ssim_face" not in values


def test_frames_without_a_face_do_not_count(tmp_path, make_textured):
    video = make_textured(tmp_path / "a.mp4", faces=lambda i: [])
    values, reasons, _ = measure(picture_observers(), VideoItem("a", video, video), AnnotatedDetector())
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
    values, reasons, _ = measure(picture_observers(), VideoItem("a", video, reference), AnnotatedDetector())
    assert reasons == {}
    pairs = list(zip(images(video), images(reference), strict=True))
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
    values, reasons, _ = measure(observers, VideoItem("a", video, video))
    expected = {"ssim": 1.0, "n_frames_compared": 6, "n_frames_identical": 6, "n_frames_reference": 6}
    expected["n_frames"] = 6
    assert (values, reasons) == (expected, {})


def test_mouths_that_move(tmp_path, make_textured):
    def speak(index, image):
        image[50:60, 35:50] = 20 if index % 2 else 200

    def nod(index, image):
        image[:] = np.roll(image, index, axis=0)

    def motion(**settings):
        path = make_textured(tmp_path / "a.mp4", **settings)
        return measure([MouthMotion()], VideoItem("a", path), AnnotatedDetector())[0]["motion_mouth"]

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
    _, _, thumbnail = measure([], VideoItem("a", video))
    image = cv2.imdecode(np.frombuffer(base64.b64decode(thumbnail), np.uint8), cv2.IMREAD_COLOR)
    assert image.shape == (80, 160, 3)
    assert abs(image.mean() - 100) < 3


def test_a_thumbnail_with_a_face(tmp_path, make_video):
    faces = lambda i: [(8, 8, 40, 40)] if i in (16, 17, 18, 19, 20) else []  # noqa: E731 (a table)
    video = make_video(tmp_path / "a.mp4", 21, level=lambda i: 10 * i, faces=faces)
    _, _, thumbnail = measure([Watcher(needs_faces=True)], VideoItem("a", video), AnnotatedDetector())
    image = cv2.imdecode(np.frombuffer(base64.b64decode(thumbnail), np.uint8), cv2.IMREAD_COLOR)
    assert image.mean() > 150


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
    values, reasons, _ = measure([watcher], VideoItem("a", path, variable))
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
