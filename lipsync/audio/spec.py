"""Constants of the acoustic front end and the arithmetic between frames, samples and mel steps.

The values are those of Wav2Lip (Prajwal et al., "A Lip Sync Expert Is All You Need", 2020): changing one
of them makes every published checkpoint useless.
"""

from __future__ import annotations

from dataclasses import dataclass

MEL_STEPS = 16
"""Mel steps of one window: 200 ms."""
SYNC_FRAMES = 5
"""Video frames of one window at the training rate: 200 ms."""
TRAINING_FPS = 25
"""Frame rate of every training clip."""


@dataclass(frozen=True, slots=True)
class AudioSpec:
    """Parameters of the log-mel spectrogram. Frequencies in Hz, lengths in samples, levels in dB."""

    sample_rate: int = 16000
    n_fft: int = 800
    win: int = 800
    hop: int = 200
    n_mels: int = 80
    fmin: float = 55.0
    fmax: float = 7600.0
    preemphasis: float = 0.97
    min_level_db: float = -100.0
    ref_level_db: float = 20.0
    max_abs: float = 4.0

    @property
    def steps_per_second(self) -> float:
        """Mel steps per second of sound (80 for Wav2Lip)."""
        return self.sample_rate / self.hop

    def steps(self, samples: int) -> int:
        """Mel steps that ``samples`` of sound give: ``1 + samples // hop`` (centred frames)."""
        return 1 + samples // self.hop


WAV2LIP = AudioSpec()
SAMPLES_PER_FRAME = WAV2LIP.sample_rate // TRAINING_FPS
"""Samples of one video frame at the training rate: 40 ms."""
