"""Clips in memory, and the ways in which the tests make them wrong on purpose."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np

from lipsync.audio.mel import log_mel
from lipsync.audio.windows import SILENCE
from lipsync.data.base_clip import BaseClip
from lipsync.data.synthetic import draw_clip

SIZE = 96


class MemoryClip(BaseClip):
    """A clip whose crops and mel are arrays."""

    def __init__(self, name: str, pictures: np.ndarray, speech: np.ndarray) -> None:
        super().__init__(name)
        self.images, self.speech = pictures, np.ascontiguousarray(speech, dtype=np.float32)

    @property
    def length(self) -> int:
        return len(self.images)

    @property
    def present(self) -> np.ndarray:
        return np.arange(len(self.images))

    @property
    def mel_steps(self) -> int:
        return int(self.speech.shape[1])

    def frames(self, indices: Sequence[int] | np.ndarray, size: int) -> np.ndarray:
        return np.stack(
            [
                cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA)
                for picture in self.images[np.asarray(indices)]
            ]
        )

    def mel(self) -> np.ndarray:
        return self.speech

    def changed(self, pictures: np.ndarray | None = None, speech: np.ndarray | None = None) -> MemoryClip:
        kept_pictures = self.images if pictures is None else pictures
        return MemoryClip(self.name, kept_pictures, self.speech if speech is None else speech)


Corpus = list[MemoryClip]


def drawn_corpus(clips: int = 12, speakers: int = 4, seconds: float = 2.4) -> Corpus:
    """The synthetic corpus, cropped to its true boxes as preprocessing does."""
    corpus = []
    for number in range(clips):
        clip = draw_clip(number % speakers, number, seconds, size=128)
        crops = []
        for image, box in zip(clip.frames(), clip.faces, strict=True):
            x1, y1, x2, y2 = box.clipped(128, 128).rounded()
            crops.append(cv2.resize(image[y1:y2, x1:x2], (SIZE, SIZE)))
        name = f"speaker{number % speakers:02d}/{number:05d}"
        corpus.append(MemoryClip(name, np.stack(crops), log_mel(clip.waveform)))
    return corpus


def late(clip: MemoryClip, frames: int) -> MemoryClip:
    """The sound comes ``frames`` later; what falls off the end comes in at the start."""
    return clip.changed(speech=np.roll(clip.speech, round(3.2 * frames), axis=1))


def constant_offset(corpus: Corpus, frames: int = 8) -> Corpus:
    return [late(clip, frames) for clip in corpus]


def random_offsets(corpus: Corpus, share: float = 0.34) -> Corpus:
    rng = np.random.default_rng(0)
    shifted = rng.permutation(len(corpus))[: round(share * len(corpus))]
    frames = [int(rng.choice([-1, 1])) * int(rng.integers(4, 11)) for _ in corpus]
    return [late(clip, frames[at]) if at in shifted else clip for at, clip in enumerate(corpus)]


def of_rate(corpus: Corpus, fps: int) -> Corpus:
    """Pictures of another rate, numbered as if they were 25 a second."""
    out = []
    for clip in corpus:
        count = int(clip.length * fps / 25)
        source = np.minimum(np.round(np.arange(count) * 25 / fps).astype(int), clip.length - 1)
        out.append(clip.changed(pictures=clip.images[source]))
    return out


def silent(corpus: Corpus) -> Corpus:
    return [clip.changed(speech=np.full_like(clip.speech, SILENCE)) for clip in corpus]


def humming(corpus: Corpus) -> Corpus:
    """A steady tone instead of speech, in every fourth clip."""
    time = np.arange(len(corpus[0].speech[0]) * 200) / 16000
    hum = log_mel((0.1 * np.sin(2 * np.pi * 100 * time)).astype(np.float32))
    return [clip.changed(speech=hum) if at % 4 == 0 else clip for at, clip in enumerate(corpus)]


def jittering(corpus: Corpus, share: float = 0.06) -> Corpus:
    """The box jumps from frame to frame."""
    rng = np.random.default_rng(0)
    return [
        clip.changed(pictures=np.stack([_moved(image, rng, share) for image in clip.images]))
        for clip in corpus
    ]


def scattered(corpus: Corpus, share: float = 0.2) -> Corpus:
    """The face sits elsewhere in every clip."""
    seeds = np.arange(len(corpus))
    return [
        clip.changed(
            pictures=np.stack([_moved(image, np.random.default_rng(seed), share) for image in clip.images])
        )
        for seed, clip in zip(seeds.tolist(), corpus, strict=True)
    ]


def mouth_in_the_upper_half(corpus: Corpus) -> Corpus:
    return [clip.changed(pictures=np.roll(clip.images, -SIZE // 3, axis=1)) for clip in corpus]


def shuffled_frames(corpus: Corpus) -> Corpus:
    rng = np.random.default_rng(0)
    return [clip.changed(pictures=clip.images[rng.permutation(clip.length)]) for clip in corpus]


def photographs(corpus: Corpus) -> Corpus:
    return [clip.changed(pictures=np.repeat(clip.images[:1], clip.length, axis=0)) for clip in corpus]


def dubbed(corpus: Corpus) -> Corpus:
    """The sound of another clip."""
    return [
        clip.changed(speech=other.speech)
        for clip, other in zip(corpus, [*corpus[1:], corpus[0]], strict=True)
    ]


def _moved(image: np.ndarray, rng: np.random.Generator, share: float) -> np.ndarray:
    x, y = rng.uniform(-share, share, 2) * len(image)
    matrix = np.array([[1, 0, x], [0, 1, y]], dtype=np.float32)
    return np.asarray(cv2.warpAffine(image, matrix, (SIZE, SIZE), borderMode=cv2.BORDER_REFLECT))


Wrong = Callable[[Corpus], Corpus]
WRONG_DATA: dict[str, tuple[Wrong, str]] = {
    "constant offset": (constant_offset, "audio offset"),
    "random offsets": (random_offsets, "audio offset"),
    "all offsets random": (lambda corpus: random_offsets(corpus, 1.0), "audio offset"),
    "24 fps": (lambda corpus: of_rate(corpus, 24), "wrong fps"),
    "30 fps": (lambda corpus: of_rate(corpus, 30), "wrong fps"),
    "50 fps": (lambda corpus: of_rate(corpus, 50), "wrong fps"),
    "60 fps": (lambda corpus: of_rate(corpus, 60), "wrong fps"),
    "silent": (silent, "mel silent"),
    "humming": (humming, "mel silent"),
    "jittering": (jittering, "faces not aligned"),
    "scattered": (scattered, "faces not aligned"),
    "mouth above": (mouth_in_the_upper_half, "faces not aligned"),
    "shuffled": (shuffled_frames, "frames out of order"),
    "photographs": (photographs, "pictures stand still"),
    "dubbed": (dubbed, "speech unrelated"),
}
QUICK = ("30 fps", "silent", "jittering")
"""Tried by default; the others are slow tests."""
