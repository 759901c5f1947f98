"""A stretch of crops against one sound or many, by a judge; of its features few are held at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import torch
from torch import Tensor

from lipsync.audio.spec import SAMPLES_PER_FRAME
from lipsync.errors import CheckpointError, NotScorableError
from lipsync.metrics.functional import DistanceStream, SyncScore, score_distances
from lipsync.metrics.judges import Judge
from lipsync.types import Image, Waveform

STRIDE = 64
"""Rows compared at once: sounds are heard in batches of as many windows or more."""


def features(judge: Judge, frames: Iterable[Image], waveform: Waveform) -> tuple[Tensor, Tensor]:
    """Both embeddings of a stretch, ``(V, D)`` each: every window that has both picture and sound.

    For a look at the features of a short clip; scores come from :func:`stretch_distances`, which does not
    hold them all. Frames beyond the end of the sound are not read.

    Raises:
        NotScorableError: Too few frames or too little sound.
    """
    video = torch.cat(list(judge.look(_with_sound(judge, frames, waveform))))
    audio = judge.hear(judge.windows(waveform, 0, len(video), last=True))
    return video[: len(audio)], audio


def sync_score(judge: Judge, frames: Iterable[Image], waveform: Waveform) -> SyncScore:
    """Distance, confidence and offset of a stretch, both embedded by ``judge``.

    Args:
        judge: SyncNet v2 or an expert.
        frames: ``(S, S, 3)`` uint8 BGR crops as the judge wants them, read once and not beyond the sound.
        waveform: ``(N,)`` at 16 kHz; sample 0 belongs to the first frame.

    Raises:
        NotScorableError: Too few frames or too little sound.
        CheckpointError: The features are not finite.
    """
    (found,) = stretch_distances(judge, _with_sound(judge, frames, waveform), [waveform])
    if isinstance(found, NotScorableError):
        raise found
    return score_distances(found)


def stretch_distances(
    judge: Judge,
    frames: Iterable[Image],
    sounds: Sequence[Waveform],
    *,
    padding: float | None = None,
    drop: int = 0,
) -> list[Tensor | NotScorableError]:
    """Distances of a stretch of crops to each of several sounds, in one pass over the crops.

    Memory: the distances, ``2 * vshift + 1`` numbers a frame and sound, and the features of a few seconds,
    however long the stretch is. A window that several sounds have in common, as shifts by whole frames do, is
    heard once.

    Args:
        judge: Embeds both.
        frames: ``(S, S, 3)`` uint8 BGR crops as the judge wants them; not all are read where every sound ends
            before.
        sounds: ``(N,)`` at 16 kHz each; sample 0 belongs to the first frame.
        padding: See :func:`lipsync.metrics.functional.sync_distances`; None: the judge's.
        drop: Rows at the end that are left out.

    Returns:
        For each sound ``(rows, 2 * vshift + 1)``, or why it cannot be compared.

    Raises:
        NotScorableError: Too few frames.
        CheckpointError: The features are not finite.
    """
    beyond = judge.padding if padding is None else padding
    streams = [DistanceStream(judge.vshift, padding=beyond, drop=drop) for _ in sounds]
    ears = _Ears(judge, sounds)
    if not ears.open:  # then the frames are not to blame
        return [ears.refused[index] for index in range(len(sounds))]
    start = 0
    for video, last in _strides(judge.look(frames), STRIDE):
        finite(judge, video)
        for index, audio in ears.hear(start, start + len(video), last).items():
            streams[index].push(video[: len(audio)], audio)
        start += len(video)
        if not ears.open:
            break
    return [ears.refused.get(index) or stream.finish() for index, stream in enumerate(streams)]


class _Ears:
    """Hears several sounds in step, each window once.

    Windows of the step before are remembered, so sounds that are shifts of one another by less than a step
    share all but the first and last of their rows. What is remembered does not outlive a stretch: numbers of
    a clip then depend on nothing that was heard before it, not even in their last digit.
    """

    def __init__(self, judge: Judge, sounds: Sequence[Waveform]) -> None:
        self.judge = judge
        self.open = dict(enumerate(sounds))
        """Sounds that go on."""
        self.refused: dict[int, NotScorableError] = {}
        for index, sound in enumerate(sounds):
            try:
                judge.windows(sound, 0, 0)
            except NotScorableError as error:
                self.refused[index] = error
                del self.open[index]
        self._known: dict[bytes, Tensor] = {}

    def hear(self, start: int, stop: int, last: bool) -> dict[int, Tensor]:
        """Rows ``start`` to ``stop`` of every sound that reaches into them."""
        keys: dict[int, list[bytes]] = {}
        unknown: dict[bytes, Tensor] = {}
        for index, sound in list(self.open.items()):
            try:
                windows = self.judge.windows(sound, start, stop, last=last)
            except NotScorableError as error:
                self.refused[index] = error
                windows = torch.empty(0)
            if len(windows) < stop - start:
                del self.open[index]
            if len(windows):
                keys[index] = [window.tobytes() for window in windows.numpy()]
                unknown.update(
                    (key, window)
                    for key, window in zip(keys[index], windows, strict=True)
                    if key not in self._known
                )
        if unknown:
            rows = self.judge.hear(torch.stack(list(unknown.values())))
            finite(self.judge, rows)
            self._known.update(zip(unknown, (row.clone() for row in rows), strict=True))
        self._known = {key: self._known[key] for found in keys.values() for key in found}
        return {index: torch.stack([self._known[key] for key in found]) for index, found in keys.items()}


def _strides(blocks: Iterable[Tensor], rows: int) -> Iterator[tuple[Tensor, bool]]:
    """Blocks joined to at least ``rows`` rows, and whether it is the last one."""
    held: list[Tensor] = []
    for block in blocks:
        if sum(map(len, held)) >= rows:
            yield torch.cat(held), False
            held = []
        held.append(block)
    if held:
        yield torch.cat(held), True


def _with_sound(judge: Judge, frames: Iterable[Image], waveform: Waveform) -> Iterator[Image]:
    """The frames that the sound reaches to; where it is too short, that is the reason to give."""
    judge.windows(waveform, 0, 0)
    return islice(frames, len(waveform) // SAMPLES_PER_FRAME)


def finite(judge: Judge, rows: Tensor) -> Tensor:
    """The rows, if they are finite: nan means "no pair" where they are compared, and would pass unseen.

    Raises:
        CheckpointError: They are not.
    """
    if not rows.isfinite().all():
        raise CheckpointError(f"judge {judge.name}: its features are not finite; the weights are damaged")
    return rows
