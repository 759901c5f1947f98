from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from typing import Literal

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from lipsync.errors import CheckpointError, NotScorableError
from lipsync.faces.mtcnn import MtcnnDetector
from lipsync.inference.detect import FirstFace, FollowFace
from lipsync.inference.source import repeated
from lipsync.inference.speaker import SpeakerFinder
from lipsync.media.reader import VideoReader
from lipsync.types import Box, Face, Frame, Image, Waveform

SIZE = 40
LEFT, RIGHT = Box(20, 30, 60, 70), Box(130, 30, 170, 70)


class StubJudge:
    """Reads a number off a grey crop, and the same number off the loudness of 40 ms: equal is in sync."""

    name = "stub"
    kind: Literal["lse", "expert"] = "expert"
    sha256 = ""
    vshift = 15
    padding = float("nan")
    size = 8

    def __init__(self, view: Literal["scene", "face"] = "face", broken: bool = False) -> None:
        self.view: Literal["scene", "face"] = view
        self.broken = broken
        self.looked = 0
        self.heard = 0
        self.crops: list[Image] = []

    def look(self, frames: Iterable[Image]) -> Iterator[Tensor]:
        images = list(frames)
        if len(images) < 29:
            raise NotScorableError(f"only {len(images)}")
        self.looked += len(images) - 4
        self.crops += images
        levels = torch.tensor([float(image[3:5, 3:5].mean()) for image in images]) / 255
        yield _embedded(levels.unfold(0, 5, 1)) * (float("nan") if self.broken else 1)

    def windows(self, waveform: Waveform, start: int, stop: int, *, last: bool = False) -> Tensor:
        frames = len(waveform) // 640
        if frames < 29:
            raise NotScorableError(f"sound lasts {frames} frames of 40 ms, at least 29 are needed")
        levels = torch.from_numpy(waveform[: frames * 640].reshape(frames, 640).max(axis=1))
        return levels.unfold(0, 5, 1)[start:stop]

    def hear(self, windows: Tensor) -> Tensor:
        self.heard += len(windows)
        return _embedded(windows)


def _embedded(levels: Tensor) -> Tensor:
    return torch.nn.functional.normalize(torch.cat([levels, 1 - levels], dim=1), dim=1)


class Spots:
    """Finds the faces that are drawn at given boxes and times."""

    def __init__(self, *spots: tuple[Box, float, float]) -> None:
        self.spots = spots
        self.seen: list[float] = []

    def detect(self, frames: Sequence[Frame]) -> list[list[Face]]:
        self.seen += [frame.time for frame in frames]
        return [
            [Face(box, 0.9) for box, start, stop in self.spots if start <= frame.time < stop]
            for frame in frames
        ]


def voice(seed: int, seconds: float) -> np.ndarray:
    """A mouth by time, one number in [0, 1] every 40 ms."""
    return np.random.default_rng(seed).uniform(0.1, 0.9, int(seconds * 25) + 50)


def sound(mouth: np.ndarray, seconds: float) -> Waveform:
    return np.repeat(mouth, 640)[: int(seconds * 16000)].astype(np.float32)


def scene(
    mouths: Sequence[tuple[Box, np.ndarray]], seconds: float, fps: Fraction = Fraction(25), start: float = 0.0
) -> Iterator[Frame]:
    """Grey squares whose brightness is the mouth's number."""
    for index in range(int(seconds * fps)):
        time = start + float(index / fps)
        image = np.full((240, 400, 3), 60, np.uint8)  # so large that changing faces are no cut
        for box, mouth in mouths:
            x1, y1, x2, y2 = box.rounded()
            image[y1:y2, x1:x2] = round(255 * mouth[int(time * 25 + 1e-6)])
        yield Frame(index, time, image)


ALWAYS = (0.0, 1e9)
BOTH = Spots((LEFT, *ALWAYS), (RIGHT, *ALWAYS))
ONE, OTHER = voice(1, 20), voice(2, 20)


@pytest.mark.parametrize(("speaking", "where"), [(ONE, LEFT), (OTHER, RIGHT)])
@pytest.mark.parametrize("every", [1, 4, 5])
def test_the_one_whose_mouth_fits_is_followed(speaking: np.ndarray, where: Box, every: int) -> None:
    video = list(scene([(LEFT, ONE), (RIGHT, OTHER)], 4))
    choice = SpeakerFinder(BOTH, StubJudge(), every=every).find(video, sound(speaking, 4))
    (shot,) = choice.shots
    assert choice.notes == ()
    assert shot.faces == 2
    assert shot.margin is not None
    assert shot.margin > 0.05
    assert {item.face.box for item in FollowFace(BOTH, select=choice)(video) if item.face} == {where}
    assert {item.face.box for item in FirstFace(BOTH, select=choice)(video[50:]) if item.face} == {where}


@pytest.mark.parametrize("shift", [-3, 2])
def test_sound_and_picture_may_be_a_few_frames_apart(shift: int) -> None:
    video = scene([(LEFT, ONE), (RIGHT, OTHER)], 4)
    choice = SpeakerFinder(BOTH, StubJudge()).find(video, sound(np.roll(OTHER, shift), 4))
    assert choice.shots[0].paths[0].boxes[0] == RIGHT
    assert choice.shots[0].confidence is not None
    assert choice.shots[0].confidence > 0.2


@pytest.mark.parametrize("fps", [Fraction(24000, 1001), Fraction(30), Fraction(60), Fraction(12)])
def test_any_frame_rate_is_judged_at_25(fps: Fraction) -> None:
    judge, video = StubJudge(), list(scene([(LEFT, ONE), (RIGHT, OTHER)], 4, fps))
    choice = SpeakerFinder(BOTH, judge).find(video, sound(ONE, 4))
    assert choice.shots[0].paths[0].boxes[0] == LEFT
    assert judge.looked == 2 * (round(len(video) / fps * 25) - 1 - 4), (
        "the frame that both faces are first seen in is not compared"
    )
    assert {item.face.box for item in FollowFace(BOTH, select=choice)(video) if item.face} == {LEFT}


def test_one_face_needs_no_judge() -> None:
    judge = StubJudge()
    choice = SpeakerFinder(Spots((LEFT, 0, 2), (RIGHT, 3, 9)), judge).find(
        scene([(LEFT, ONE), (RIGHT, OTHER)], 5), sound(ONE, 5)
    )
    assert judge.looked == judge.heard == 0
    assert choice.notes == ()
    assert [(shot.faces, shot.paths) for shot in choice.shots] == [(2, ())]


def test_each_shot_has_its_own_choice_in_every_pass() -> None:
    # The pictures of the second shot are much brighter.
    first = list(scene([(LEFT, ONE), (RIGHT, OTHER)], 3))
    second = [
        Frame(75 + frame.index, frame.time, np.where(frame.image == 60, 200, frame.image).astype(np.uint8))
        for frame in scene([(LEFT, OTHER), (RIGHT, ONE)], 3, start=3.0)
    ]
    video = first + second
    choice = SpeakerFinder(BOTH, StubJudge()).find(video, sound(ONE, 6))
    assert [shot.start for shot in choice.shots] == [0.0, 3.0]
    expected = [LEFT] * 75 + [RIGHT] * 75
    stage = FollowFace(BOTH, select=choice)
    looped = [item.face and item.face.box for item in stage(repeated(video, 300, "loop"))]
    assert looped == expected * 2
    there_and_back = [item.face and item.face.box for item in stage(video + video[::-1])]
    assert there_and_back == expected + expected[::-1]


def test_a_speaker_who_comes_late_is_waited_for() -> None:
    detector = Spots((LEFT, *ALWAYS), (RIGHT, 2.0, 1e9))
    video = list(scene([(LEFT, ONE), (RIGHT, OTHER)], 6))
    choice = SpeakerFinder(detector, StubJudge()).find(video, sound(OTHER, 6))
    boxes = [item.face and item.face.box for item in FollowFace(detector, select=choice)(video)]
    assert boxes[:38] == [None] * 38
    assert boxes[50:] == [RIGHT] * 100


def test_a_speaker_who_leaves_and_comes_back_is_followed_again() -> None:
    detector = Spots((LEFT, *ALWAYS), (RIGHT, 0.0, 3.0), (RIGHT, 5.0, 8.0))
    video = list(scene([(LEFT, ONE), (RIGHT, OTHER)], 8))
    choice = SpeakerFinder(detector, StubJudge()).find(video, sound(OTHER, 8))
    boxes = [item.face and item.face.box for item in FollowFace(detector, select=choice)(video)]
    assert boxes[:75] == [RIGHT] * 75
    assert boxes[75:125] == [None] * 50
    assert boxes[125:] == [RIGHT] * 75


@pytest.mark.parametrize(
    ("waveform", "reason"),
    [
        (sound(ONE, 0.9), "at least 29 are needed"),
        (np.zeros(64000, np.float32), "the sound is silent"),
        (np.zeros(0, np.float32), "the sound is silent"),
    ],
)
def test_a_sound_that_tells_nothing_leaves_the_largest_and_a_note(waveform: Waveform, reason: str) -> None:
    large = Box(110, 10, 190, 90)
    detector = Spots((LEFT, *ALWAYS), (large, *ALWAYS))
    video = list(scene([(LEFT, ONE), (large, OTHER)], 4))
    choice = SpeakerFinder(detector, StubJudge()).find(video, waveform)
    assert len(choice.notes) == 1
    assert "shot at 0.00 s: 2 faces not judged, the largest is followed" in choice.notes[0]
    assert reason in choice.notes[0]
    assert {item.face.box for item in FollowFace(detector, select=choice)(video) if item.face} == {large}


def test_a_meeting_too_short_to_judge_is_noted() -> None:
    detector = Spots((LEFT, *ALWAYS), (RIGHT, 1.0, 1.5))
    choice = SpeakerFinder(detector, StubJudge()).find(
        scene([(LEFT, ONE), (RIGHT, OTHER)], 4), sound(OTHER, 4)
    )
    assert "none is beside another for 29 frames at a stretch" in choice.notes[0]
    assert choice.shots[0].paths[0].boxes[0] == LEFT, "who stays, of two faces of one size"


def test_somebody_who_flits_by_is_nobody_to_choose() -> None:
    detector = Spots((LEFT, *ALWAYS), (RIGHT, 1.0, 1.2))
    choice = SpeakerFinder(detector, StubJudge()).find(scene([(LEFT, ONE)], 4), sound(OTHER, 4))
    assert (choice.shots[0].faces, choice.shots[0].paths, choice.notes) == (1, (), ())


def test_the_sound_may_end_before_the_picture() -> None:
    judge = StubJudge()
    choice = SpeakerFinder(BOTH, judge).find(scene([(LEFT, ONE), (RIGHT, OTHER)], 8), sound(OTHER, 3))
    assert choice.shots[0].paths[0].boxes[0] == RIGHT
    assert judge.looked < 2 * 75


def test_scores_do_not_depend_on_blocks_and_the_sound_is_heard_once() -> None:
    """The stream of crops and blocks of sound gives what one comparison of everything gives."""
    from lipsync.metrics.functional import sync_distances

    judge, video = StubJudge(), list(scene([(LEFT, ONE), (RIGHT, OTHER)], 12))
    choice = SpeakerFinder(BOTH, judge, every=1).find(video, sound(ONE, 12))
    assert judge.heard == 300 - 4
    crops = [frame.image[30:70, 20:60][16:24, 16:24] for frame in video[1:]]
    fresh = StubJudge()
    rows = torch.cat(list(fresh.look(crops)))
    heard = fresh.hear(fresh.windows(sound(ONE, 12), 1, 296))
    means = sync_distances(rows, heard, padding=float("nan")).nanmean(dim=0)
    assert choice.shots[0].confidence == pytest.approx(float(means.median() - means[12:19].min()), abs=1e-5)


def test_memory_does_not_grow_with_the_length() -> None:
    alive: list[weakref.ref[np.ndarray]] = []
    most = 0

    def stream(frames: Iterable[Frame]) -> Iterator[Frame]:
        nonlocal most
        for frame in frames:
            alive[:] = [item for item in alive if item() is not None]
            alive.append(weakref.ref(frame.image))
            most = max(most, len(alive))
            yield frame

    detector = Spots((LEFT, *ALWAYS), (RIGHT, 3.0, 1e9))
    SpeakerFinder(detector, StubJudge(), every=5, batch=2, max_gap=12).find(
        stream(scene([(LEFT, ONE), (RIGHT, OTHER)], 16)), sound(ONE, 16)
    )
    assert 0 < most <= 5 * 2 + 12 + 6


def test_batches_give_the_same_choice() -> None:
    detector = Spots((LEFT, *ALWAYS), (RIGHT, 1.0, 1e9))
    video = list(scene([(LEFT, ONE), (RIGHT, OTHER)], 5))
    one = SpeakerFinder(detector, StubJudge()).find(video, sound(OTHER, 5))
    assert SpeakerFinder(detector, StubJudge(), batch=4).find(video, sound(OTHER, 5)) == one


def test_progress_is_reported_frame_by_frame() -> None:
    calls: list[tuple[str, int, int | None]] = []
    video = scene([(LEFT, ONE)], 1)
    SpeakerFinder(BOTH, StubJudge()).find(video, sound(ONE, 2), lambda *call: calls.append(call), total=25)
    assert calls == [("find the speaker", done, 25) for done in range(1, 26)]


def test_a_video_without_frames_gives_the_largest_everywhere() -> None:
    choice = SpeakerFinder(BOTH, StubJudge()).find([], sound(ONE, 2))
    assert choice.shots == ()
    found = choice(Frame(0, 0.0, np.zeros((9, 9, 3), np.uint8)), [Face(LEFT, 0.5), Face(RIGHT, 0.9)])
    assert found is not None
    assert found.box == RIGHT


def test_a_damaged_judge_is_an_error() -> None:
    with pytest.raises(CheckpointError, match="not finite"):
        SpeakerFinder(BOTH, StubJudge(broken=True)).find(
            scene([(LEFT, ONE), (RIGHT, OTHER)], 4), sound(ONE, 4)
        )


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="every >= 1"):
        SpeakerFinder(BOTH, StubJudge(), every=0)


def test_a_scene_judge_sees_the_wide_crop_of_the_strict_protocol() -> None:
    from lipsync.evaluation.tracks import Track, crop_regions, cut

    video = list(scene([(LEFT, ONE), (RIGHT, OTHER)], 2))
    judge = StubJudge("scene")
    corner = Box(2, 1, 42, 41)  # its crop reaches beyond the picture
    SpeakerFinder(Spots((corner, *ALWAYS), (RIGHT, *ALWAYS)), judge, every=1).find(video, sound(ONE, 2))
    track = Track(np.arange(20), np.tile([2.0, 1.0, 42.0, 41.0], (20, 1)))
    wide = cut(video[1].image, crop_regions(track)[10])
    expected = cv2.resize(wide, (8, 8), interpolation=cv2.INTER_LINEAR)
    assert any(np.abs(crop.astype(int) - expected).max() <= 1 for crop in judge.crops)


def test_two_real_clips_side_by_side(shared: object) -> None:
    """Real faces and the real detector; the judge is a stub, told by brightness alone who speaks."""
    folder = shared / "data/raw/grid_s1"  # type: ignore[operator]
    clips = [list(VideoReader(folder / name)) for name in ("bbaf2n.mpg", "lwwm3a.mpg")]
    video = [
        Frame(i, one.time, np.hstack([one.image, other.image]))
        for i, (one, other) in enumerate(zip(*clips, strict=False))
    ]
    width = clips[0][0].image.shape[1]
    finder = SpeakerFinder(MtcnnDetector(), StubJudge())
    level = [float(frame.image[:, width:].mean()) / 255 for frame in video]
    choice = finder.find(video, sound(np.array(level), len(level) / 25))
    (shot,) = choice.shots
    assert shot.faces == 2
    assert choice.notes == ()
    assert shot.confidence is not None
    side = shot.paths[0].boxes[0].center[0] > width
    followed = list(FollowFace(finder.detector, select=choice)(video))
    assert all(item.face and (item.face.box.center[0] > width) == side for item in followed)
