"""Sample videos: whole validation clips as the generator draws them, with their sound."""

from __future__ import annotations

from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
import torch
from PIL import Image as Picture
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn
from typing_extensions import override

from lipsync.audio.spec import SAMPLES_PER_FRAME, TRAINING_FPS, WAV2LIP
from lipsync.audio.windows import mel_window, training_start
from lipsync.data.base_clip import BaseClip
from lipsync.data.clip import AUDIO
from lipsync.errors import ConfigError
from lipsync.media.waveform import load_waveform
from lipsync.media.writer import VideoWriter


class WholeClips(Callback):
    """Base of callbacks that draw whole validation clips, as inference draws them, after a validation.

    Args:
        clips: How many: the first clips of the list.
        split: Name of the validation list; by default the first.
        seconds: Longest part of a clip that is drawn.
        every_n_steps: Training steps between two validations that draw, at least; the first and the last
            draw in any case.
        batch_size: Frames a forward.

    Raises:
        ConfigError: A setting is out of range or, when training starts, ``split`` is no validation list.
    """

    entry: ClassVar[str]
    """Name in the configuration, for messages."""

    def __init__(
        self, clips: int, split: str | None, seconds: float, every_n_steps: int, batch_size: int
    ) -> None:
        least = {"clips": (clips, 1), "batch_size": (batch_size, 1), "seconds": (seconds, 1 / TRAINING_FPS)}
        for name, (value, minimum) in least.items():
            if value < minimum:
                raise ConfigError(f"callbacks.{self.entry}.{name}={value}: give at least {minimum}")
        self.clips, self.split = clips, split
        self.frames = int(seconds * TRAINING_FPS)
        self.every_n_steps, self.batch_size = every_n_steps, batch_size
        self.last_step: int | None = None

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Say now, and not after the first validation, that there is no such list."""
        splits = trainer.datamodule.val_splits  # type: ignore[attr-defined]
        if self.split is not None and self.split not in splits:
            raise ConfigError(
                f"callbacks.{self.entry}.split={self.split}: no validation list; data.val_splits has "
                f"{', '.join(splits)}"
            )

    def due(self, trainer: pl.Trainer) -> bool:
        """Whether this validation is to draw; where it is, it counts as drawn."""
        step = trainer.global_step
        if trainer.sanity_checking or not (
            self.last_step is None or step == trainer.max_steps or step - self.last_step >= self.every_n_steps
        ):
            return False
        self.last_step = step
        return True

    def validation_list(self, trainer: pl.Trainer) -> tuple[str, Any]:
        """Name and data set of the validation list."""
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        split = self.split or datamodule.val_splits[0]
        return split, datamodule.val_sets[split]

    def draw(
        self, trainer: pl.Trainer, generator: nn.Module, data: Any, clip: BaseClip
    ) -> npt.NDArray[np.uint8]:
        """:func:`draw_clip` in the precision of the run and with the settings of the data set."""
        with trainer.precision_plugin.forward_context():
            return draw_clip(
                generator,
                clip,
                frames=self.frames,
                size=data.image_size,
                mel_shift=data.mel_shift,
                silent=getattr(data, "reference", "random") == "silent",
                batch_size=self.batch_size,
            )

    @override
    def state_dict(self) -> dict[str, Any]:
        """When it drew last, for resume."""
        return {"last_step": self.last_step}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` saved."""
        self.last_step = state_dict["last_step"]


class SampleVideo(WholeClips):
    """Writes ``[reference | masked | generated | truth]`` of whole validation clips after each validation.

    Every frame is drawn as inference draws it, by itself and with its own speech. Its reference is the frame
    half the clip away, so that no frame sees its own mouth, and a generator that copies shows it by moving
    its lips with the first column; models trained with silent references see the quietest frame throughout.
    Frames without a face are black, which keeps picture and sound together.

    Files go to ``<dirpath>/step%09d_<clip>.mp4``; W&B gets them, TensorBoard a GIF and the sound beside it.
    The same weights give the same bytes. Models without a generator have no videos.

    Args:
        dirpath: Folder of the videos.
        clips: Videos a validation, see :class:`WholeClips` for this and the others.
        split: Name of the validation list.
        seconds: Longest part of a clip.
        every_n_steps: Training steps between two validations with videos, at least.
        batch_size: Frames a forward.

    Raises:
        ConfigError: As :class:`WholeClips`.
    """

    entry = "sample_video"

    def __init__(
        self,
        dirpath: str,
        *,
        clips: int = 2,
        split: str | None = None,
        seconds: float = 4.0,
        every_n_steps: int = 0,
        batch_size: int = 16,
    ) -> None:
        super().__init__(clips, split, seconds, every_n_steps, batch_size)
        self.dirpath = Path(dirpath)

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw, write and log; the other ranks only remember when."""
        generator = generator_of(pl_module)
        if generator is not None and self.due(trainer) and trainer.is_global_zero:
            self._write(trainer, generator)

    def _write(self, trainer: pl.Trainer, generator: nn.Module) -> None:
        split, data = self.validation_list(trainer)
        samples = []
        for clip in data.clips[: self.clips]:
            rows = self.draw(trainer, generator, data, clip)
            path = self.dirpath / f"step{trainer.global_step:09d}_{clip.name.replace('/', '_')}.mp4"
            samples.append(Sample(clip.name, path, rows, clip_sound(clip, len(rows))))
            write_video(samples[-1])
        for logger in trainer.loggers:
            log_samples(logger, split, samples, trainer.global_step)


class Sample(NamedTuple):
    """One clip, drawn."""

    name: str
    """Of the clip."""
    path: Path
    """Of the video."""
    rows: npt.NDArray[np.uint8]
    """``(n, H, 4 * H, 3)`` BGR."""
    sound: npt.NDArray[np.float32] | None
    """``(n * 640,)`` at 16 kHz in [-1, 1], None where the clip keeps none."""


def generator_of(module: Any) -> nn.Module | None:
    """The generator that validation judges: the averaged one where there is one; None for other models."""
    network = getattr(module, "eval_generator", None)
    return network if network is not None else getattr(module, "generator", None)


def draw_clip(
    generator: nn.Module,
    clip: BaseClip,
    *,
    frames: int,
    size: int = 96,
    mel_shift: int = -1,
    silent: bool = False,
    batch_size: int = 16,
) -> npt.NDArray[np.uint8]:
    """The first ``frames`` frames of a clip, each drawn by itself.

    Args:
        generator: ``(mels (B, 1, 80, 16), faces (B, 6, H, W)) -> (B, 3, H, W)``, in eval mode.
        clip: Any clip.
        frames: Of the clip's beginning, gaps included.
        size: Side of the face crop that the generator takes.
        mel_shift: Frames by which speech is read later, as in training.
        silent: The reference is the frame of the quietest speech, not the one half the clip away.
        batch_size: Frames a forward.

    Returns:
        ``(n, size, 4 * size, 3)`` uint8 BGR: reference, masked, generated, truth; black without a face.
    """
    length = min(frames, clip.length)
    present = clip.present[clip.present < length]
    rows = np.zeros((length, size, 4 * size, 3), dtype=np.uint8)
    if not len(present):
        return rows
    mel = clip.mel()
    speech = np.stack([mel_window(mel, training_start(frame + mel_shift)) for frame in present.tolist()])
    truth = clip.frames(present, size)
    masked = truth.copy()
    masked[:, size // 2 :] = 0
    quietest = np.full(len(present), speech.sum(axis=(1, 2)).argmin())
    reference = truth[quietest] if silent else np.roll(truth, len(truth) // 2, axis=0)
    for start in range(0, len(present), batch_size):
        part = slice(start, start + batch_size)
        fake = _generate(generator, speech[part], np.concatenate([masked[part], reference[part]], axis=3))
        rows[present[part]] = np.concatenate([reference[part], masked[part], fake, truth[part]], axis=2)
    return rows


def _generate(
    generator: nn.Module, mels: npt.NDArray[np.float32], faces: npt.NDArray[np.uint8]
) -> npt.NDArray[np.uint8]:
    """``(B, 80, 16)`` and ``(B, H, W, 6)`` -> ``(B, H, W, 3)``."""
    weight = next(generator.parameters())
    # A compiled generator would be compiled again for these shapes, for longer than it takes to draw them.
    with torch.inference_mode(), torch.compiler.set_stance("force_eager"):
        pixels = torch.from_numpy(faces).to(weight.device).permute(0, 3, 1, 2)
        speech = torch.from_numpy(mels).to(weight).unsqueeze(1)
        return to_pixels(generator(speech, pixels.to(weight.dtype) / 255))


def to_pixels(images: Tensor) -> npt.NDArray[np.uint8]:
    """``(B, 3, H, W)`` in [0, 1] -> ``(B, H, W, 3)`` uint8, rounded to the nearest value."""
    pixels = (images.float().clamp(0, 1) * 255).round().to(torch.uint8)
    return np.ascontiguousarray(pixels.permute(0, 2, 3, 1).cpu().numpy())


def clip_sound(clip: BaseClip, frames: int) -> npt.NDArray[np.float32] | None:
    """The sound of the first ``frames`` frames, ``(N,)`` at 16 kHz; None where only its mel was kept.

    Raises:
        MediaError: There is sound, but it cannot be decoded.
    """
    folder: Path | None = getattr(clip, "path", None)
    if folder is None or not (folder / AUDIO).is_file():
        return None
    waveform = load_waveform(folder / AUDIO, WAV2LIP.sample_rate)[: frames * SAMPLES_PER_FRAME]
    return waveform if len(waveform) else None


def write_video(sample: Sample) -> None:
    """Encode one sample at 25 fps; complete or not there at all."""
    _, height, width, _ = sample.rows.shape
    # Small pictures: faster settings cost little, and one thread is as fast as four.
    with VideoWriter(
        sample.path,
        width,
        height,
        Fraction(TRAINING_FPS),
        sample.sound,
        sample_rate=WAV2LIP.sample_rate,
        preset="veryfast",
        threads=1,
    ) as writer:
        for row in sample.rows:
            writer.write(row)


def log_samples(logger: Any, split: str, samples: list[Sample], step: int) -> None:
    """Hand the samples to a logger that takes pictures; others are left alone."""
    if isinstance(logger, pl.loggers.WandbLogger):
        paths, names = [str(sample.path) for sample in samples], [sample.name for sample in samples]
        logger.log_video(f"{split}/video", paths, step=step, caption=names)
    elif isinstance(logger, pl.loggers.TensorBoardLogger):
        for sample in samples:
            _to_tensorboard(logger.experiment, split, sample, step)


def _to_tensorboard(writer: Any, split: str, sample: Sample, step: int) -> None:
    """TensorBoard shows no video; it plays a GIF given as an encoded picture, and sound by itself.

    ``SummaryWriter.add_video`` makes such a GIF too, but needs moviepy and an ffmpeg program.
    """
    from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]

    _, height, width, _ = sample.rows.shape
    gif = Summary.Image(
        height=height, width=width, colorspace=3, encoded_image_string=animated_gif(sample.rows)
    )
    value = Summary.Value(tag=f"{split}/video/{sample.name}", image=gif)
    writer.file_writer.add_summary(Summary(value=[value]), step)
    if sample.sound is not None:
        writer.add_audio(
            f"{split}/sound/{sample.name}", torch.from_numpy(sample.sound), step, WAV2LIP.sample_rate
        )


def animated_gif(rows: npt.NDArray[np.uint8]) -> bytes:
    """``(n, H, W, 3)`` BGR at 25 fps as an endless GIF; a palette a frame, because one is too few colours."""
    first, *rest = (
        Picture.fromarray(np.ascontiguousarray(row[..., ::-1])).quantize(
            256, method=Picture.Quantize.FASTOCTREE, dither=Picture.Dither.NONE
        )
        for row in rows
    )
    file = BytesIO()
    milliseconds = 1000 // TRAINING_FPS
    first.save(file, format="GIF", save_all=True, append_images=rest, duration=milliseconds, loop=0)
    return file.getvalue()
