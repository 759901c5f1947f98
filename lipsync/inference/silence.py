"""What the mouth does where the sound is silent: follow the generator, stay the source's, or close.

``speak``   the generator draws every frame. It was trained on speech; in silence, and more so in the noise of
            a recording, its mouths may move.
``source``  in longer silence the frame shows the source's own mouth: still if the source is silent there,
            speaking if the source speaks.
``close``   the generator hears digital silence instead of the noise between words.

    active = speech_activity(waveform)                            # lipsync.audio.voice
    mel = gated_mel(log_mel(waveform), active)                    # close: before the windows are cut
    patches = SilenceGate(active, fps)(synthesizer(faces, speech))  # source: before the compositor
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from lipsync.audio.spec import WAV2LIP
from lipsync.audio.windows import SILENCE
from lipsync.types import Patch

SilenceMode: TypeAlias = Literal["speak", "source", "close"]
SILENCE_MODES: tuple[SilenceMode, ...] = ("speak", "source", "close")
"""The first one is the default: the gate is off."""

LEAST = 0.3
"""Seconds: shorter silence is a pause within speech, in which the mouth hardly rests."""
RAMP = 0.12
"""Seconds of the cross-fade between the generator's mouth and the source's: three frames at 25 fps."""

_RATE = WAV2LIP.steps_per_second


def gated_mel(mel: npt.NDArray[np.float32], active: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """The spectrogram with digital silence where nobody speaks.

    Args:
        mel: ``(80, T)`` of :func:`lipsync.audio.mel.log_mel`; it is not changed.
        active: ``(T,)`` of :func:`lipsync.audio.voice.speech_activity`.

    Returns:
        ``(80, T)``, a copy.

    Raises:
        ValueError: The lengths differ.
    """
    if mel.ndim != 2 or active.shape != mel.shape[1:]:
        raise ValueError(f"activity of {active.shape} does not go with a mel of {mel.shape}")
    return np.where(active, mel, np.float32(SILENCE))


class SilenceGate:
    """Fades the generator's mouth out where the sound is silent, and in again before it speaks.

    Frame ``i`` shows the sound from ``i / fps`` to ``(i + 1) / fps`` seconds, whatever the shift of the mel
    windows. Where speech touches that time the strength is 1: both ramps lie in the silence. Before the
    sound's start and after its end there is silence, too.

    Args:
        active: ``(T,)`` of :func:`lipsync.audio.voice.speech_activity`.
        fps: Frame rate of the video.
        least: Seconds; shorter silence is left to the generator.
        ramp: Seconds of each fade; 0 switches.

    Raises:
        ValueError: ``fps`` is not positive, ``least`` or ``ramp`` negative, or ``active`` not ``(T,)``.
    """

    def __init__(
        self, active: npt.NDArray[np.bool_], fps: Fraction, *, least: float = LEAST, ramp: float = RAMP
    ) -> None:
        if fps <= 0 or least < 0 or ramp < 0:
            raise ValueError(f"need fps above 0, least and ramp of 0 or more, not {fps}, {least}, {ramp}")
        if active.ndim != 1:
            raise ValueError(f"activity must be (T,), got {active.shape}")
        self.fps = fps
        self.ramp = ramp
        self._starts, self._stops = _silences(active, least)

    def strength(self, index: int) -> float:
        """How much of the generator's mouth frame ``index`` shows, 0 to 1."""
        begin, end = float(index / self.fps), float((index + 1) / self.fps)
        # The only silence that may hold the whole frame is the last one that starts before it.
        place = int(np.searchsorted(self._starts, begin, side="right")) - 1
        if place < 0 or end > self._stops[place]:
            return 1.0
        inside = min(begin - self._starts[place], self._stops[place] - end)
        if inside >= self.ramp:
            return 0.0
        return float(1 - inside / self.ramp)

    def __call__(self, patches: Iterable[Patch]) -> Iterator[Patch]:
        """The same patches, in order, with their strengths multiplied.

        Frame 0 (``patch.frame.index``) goes with the start of the sound.
        """
        for patch in patches:
            strength = self.strength(patch.frame.index)
            yield patch if strength == 1 else replace(patch, strength=patch.strength * strength)


def _silences(
    active: npt.NDArray[np.bool_], least: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Start and end, in seconds, of each silence that lasts ``least``; the outer ones reach to infinity.

    Column ``t`` stands for the sound around ``t / 80`` seconds, half a column either way.
    """
    speaks = np.concatenate([[False], active, [False]])
    (changes,) = np.nonzero(speaks[1:] != speaks[:-1])
    edges = np.concatenate([[-math.inf], (changes - 0.5) / _RATE, [math.inf]])
    starts, stops = edges[0::2], edges[1::2]
    long = stops - starts >= least - 1e-9
    return starts[long], stops[long]
