"""The sounds that a video is scored against: its own, another one's, known shifts."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np

from lipsync.audio.spec import SAMPLES_PER_FRAME, WAV2LIP
from lipsync.errors import MediaError, UserError
from lipsync.evaluation.inputs import VideoItem
from lipsync.media.probe import probe
from lipsync.media.waveform import load_waveform
from lipsync.types import Waveform

OWN = "own"
"""Key of the sound that a video's own row is scored against."""
SHIFTED = "shifted"
"""Beginning of the keys of known shifts."""
_KEPT_SAMPLES = 30_000_000
"""Half an hour, 120 MB."""


class SoundShelf:
    """Gives the sounds of items; the latest files stay decoded, since one sound serves several videos.

    Args:
        load: Reads the sound of a file, ``(N,)`` at 16 kHz; None takes it as it is.
    """

    def __init__(self, load: Callable[[Path], Waveform] | None = None) -> None:
        self._load = load or partial(load_waveform, rate=WAV2LIP.sample_rate)
        self._kept: OrderedDict[Path, Waveform] = OrderedDict()

    def sounds_for(self, item: VideoItem) -> dict[str, Waveform | UserError]:
        """``own`` and the item's probes by name: samples at 16 kHz, or why there are none.

        The video's own sound is as it is. The sound of another file is repeated or cut to the video's length.
        Shifts keep the length; silence fills what is missing. All shifts of a sound are views of one array:
        do not write into them.
        """
        sounds = {OWN: item.sound, **item.probes}
        reach: dict[Path | None, int] = {}
        for sound in sounds.values():
            reach[sound.path] = max(reach.get(sound.path, 0), abs(sound.shift) * SAMPLES_PER_FRAME)
        padded = {path: self._padded(path, item, margin) for path, margin in reach.items()}
        result: dict[str, Waveform | UserError] = {}
        for name, sound in sounds.items():
            source, margin = padded[sound.path], reach[sound.path]
            if isinstance(source, UserError):
                result[name] = source
            else:
                start = margin + sound.shift * SAMPLES_PER_FRAME
                result[name] = source[start : start + source.size - 2 * margin]
        return result

    def _padded(self, path: Path | None, item: VideoItem, margin: int) -> Waveform | UserError:
        try:
            if path is None:
                waveform = self._loaded(item.path)
            else:
                waveform = fitted(self._loaded(path), _length(item.path))
        except UserError as error:
            return error
        return np.pad(waveform, margin) if margin else waveform

    def _loaded(self, path: Path) -> Waveform:
        if path not in self._kept:
            self._kept[path] = self._load(path)
            if self._kept[path].size == 0:
                raise MediaError(f"{path}: holds no sound")
        self._kept.move_to_end(path)
        while len(self._kept) > 1 and _total(self._kept.values()) > _KEPT_SAMPLES:
            self._kept.popitem(last=False)
        return self._kept[path]


def fitted(waveform: Waveform, length: int) -> Waveform:
    """Repeated or cut to ``length`` samples; as it is where ``length`` is 0, that is unknown."""
    if length in {0, waveform.size}:
        return waveform
    return np.tile(waveform, -(-length // waveform.size))[:length]


def _length(path: Path) -> int:
    """Samples that a video lasts."""
    info = probe(path)
    return round(info.frame_count * WAV2LIP.sample_rate / info.fps)


def _total(waveforms: Iterable[Waveform]) -> int:
    return sum(waveform.size for waveform in waveforms)
