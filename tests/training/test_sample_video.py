"""Videos of whole validation clips: which pictures, which sound, where they go."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image as Picture
from torch import Tensor, nn

from lipsync.audio.windows import mel_window, training_start
from lipsync.data.base_clip import BaseClip
from lipsync.data.clip import Clip
from lipsync.data.clip_writer import ClipWriter
from lipsync.errors import ConfigError
from lipsync.media.reader import VideoReader
from lipsync.media.waveform import load_waveform
from lipsync.models.wav2lip import Wav2Lip
from lipsync.training.sample_video import SampleVideo, animated_gif, clip_sound, draw_clip, generator_of

SIZE = 96


class Drawn(BaseClip):
    """A clip in memory: frame ``i`` is all ``2 * i``, mel column ``j`` is all ``j / 100``; no sound kept."""

    def __init__(self, length: int, missing: tuple[int, ...] = ()) -> None:
        super().__init__("speaker/drawn")
        self._length = length
        self._present = np.array([i for i in range(length) if i not in missing], dtype=np.int64)

    @property
    def length(self) -> int:
        return self._length

    @property
    def present(self) -> np.ndarray:
        return self._present

    @property
    def mel_steps(self) -> int:
        return self._length * 16 // 5 + 1

    def frames(self, indices: Any, size: int) -> np.ndarray:
        assert set(indices) <= set(self._present.tolist())
        shape = (len(indices), size, size, 3)
        return np.broadcast_to((2 * np.asarray(indices))[:, None, None, None], shape).astype(np.uint8)

    def mel(self) -> np.ndarray:
        return np.tile(np.arange(self.mel_steps, dtype=np.float32) / 100, (80, 1))


class Recorder(nn.Module):
    """Stands for a generator: answers 0.5 and remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.mels: list[Tensor] = []
        self.faces: list[Tensor] = []

    def forward(self, mels: Tensor, faces: Tensor) -> Tensor:
        self.mels += [mels.clone()]
        self.faces += [faces.clone()]
        return faces[:, :3] * 0 + 0.5


def columns(rows: np.ndarray) -> list[np.ndarray]:
    """Reference, masked, generated, truth."""
    return np.split(rows, 4, axis=2)


def test_each_frame_has_its_own_speech_mask_and_a_reference_half_the_clip_away() -> None:
    clip, network = Drawn(20), Recorder()
    rows = draw_clip(network, clip, frames=100, size=SIZE, mel_shift=-1, batch_size=8)
    assert rows.shape == (20, SIZE, 4 * SIZE, 3)
    reference, masked, generated, truth = columns(rows)
    assert truth[:, 0, 0, 0].tolist() == [2 * i for i in range(20)]
    assert reference[:, 0, 0, 0].tolist() == [2 * ((i + 10) % 20) for i in range(20)]
    assert np.array_equal(masked[:, : SIZE // 2], truth[:, : SIZE // 2])
    assert masked[:, SIZE // 2 :].max() == 0
    assert set(np.unique(generated)) == {128}
    assert [len(part) for part in network.faces] == [8, 8, 4]
    faces, mels = torch.cat(network.faces), torch.cat(network.mels)
    pixels = torch.from_numpy(np.concatenate([masked, reference], axis=3)).permute(0, 3, 1, 2)
    assert torch.equal(faces, pixels.float() / 255)
    for frame in range(20):
        own = mel_window(clip.mel(), training_start(frame - 1))
        assert np.array_equal(mels[frame, 0].numpy(), own), frame


def test_the_beginning_only_and_frames_without_a_face_stay_black() -> None:
    rows = draw_clip(Recorder(), Drawn(30, missing=(0, 4, 5)), frames=10, size=SIZE)
    assert len(rows) == 10
    black = [frame for frame in range(10) if rows[frame].max() == 0]
    assert black == [0, 4, 5]
    assert columns(rows)[3][9, 0, 0, 0] == 18
    nobody = draw_clip(Recorder(), Drawn(12, missing=tuple(range(6))), frames=6, size=SIZE)
    assert nobody.shape == (6, SIZE, 4 * SIZE, 3)
    assert nobody.max() == 0


def test_silent_references_are_the_quietest_frame() -> None:
    reference = columns(draw_clip(Recorder(), Drawn(20, missing=(0,)), frames=20, size=SIZE, silent=True))[0]
    assert set(reference[1:, 0, 0, 0].tolist()) == {2}, "the mel rises, so the first frame is quietest"


def test_the_videos_do_not_depend_on_the_batch_size(fill: Callable[..., Any]) -> None:
    network = fill(Wav2Lip(width=0.125), gain=0.7)
    one, many = (draw_clip(network, Drawn(9), frames=9, batch_size=size) for size in (1, 9))
    assert np.abs(one.astype(int) - many.astype(int)).max() <= 1
    assert np.array_equal(many, draw_clip(network, Drawn(9), frames=9, batch_size=9))


def test_half_precision_generators_get_their_own_type() -> None:
    network = Recorder().to(torch.bfloat16)
    draw_clip(network, Drawn(4), frames=4, size=SIZE)
    assert network.faces[0].dtype == network.mels[0].dtype == torch.bfloat16


def test_a_compiled_generator_is_not_compiled_again_for_the_videos() -> None:
    compiled: list[int] = []

    def backend(graph: Any, _: Any) -> Any:
        compiled.append(1)
        return graph.forward

    network = nn.Sequential(nn.Identity(), Recorder())
    network.forward = lambda mels, faces: faces[:, :3]  # type: ignore[method-assign]
    network.compile(backend=backend)
    draw_clip(network, Drawn(5), frames=5, size=SIZE, batch_size=4)
    assert not compiled
    network(torch.zeros(1), torch.zeros(1, 6, 2, 2))
    assert compiled, "outside of the videos it is compiled"


def test_the_averaged_generator_is_shown() -> None:
    plain, averaged = Recorder(), Recorder()
    assert generator_of(SimpleNamespace(generator=plain)) is plain
    assert generator_of(SimpleNamespace(generator=plain, eval_generator=averaged)) is averaged
    assert generator_of(SimpleNamespace(expert=plain)) is None


@pytest.fixture
def clips(tmp_path: Path) -> list[Clip]:
    """Two clips of 12 and 10 frames of noise, the first without frame 3, with a tone each."""
    rng, made = np.random.default_rng(0), []
    for name, frames, pitch in (("s0/a", 12, 300), ("s1/b", 10, 500)):
        folder = tmp_path / "corpus" / name
        with ClipWriter(folder.with_name(f"{folder.name}.part")) as writer:
            for frame in range(frames):
                if (name, frame) != ("s0/a", 3):
                    image = rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)
                    writer.write(frame, image, (0, 0, 24, 24))
            tone = 0.4 * np.sin(2 * np.pi * pitch * np.arange(frames * 640) / 16000)
            writer.commit(folder, tone.astype(np.float32), frames, {})
        made.append(Clip(folder, name))
    return made


class Run:
    """As much of a trainer and a module as the callback looks at."""

    def __init__(self, clips: list[Any], *, max_steps: int = -1) -> None:
        data = SimpleNamespace(clips=clips, mel_shift=-1, image_size=SIZE, reference="random")
        self.trainer: Any = SimpleNamespace(
            global_step=0,
            max_steps=max_steps,
            sanity_checking=False,
            is_global_zero=True,
            loggers=[],
            precision_plugin=SimpleNamespace(forward_context=nullcontext),
            datamodule=SimpleNamespace(
                val_splits=["val", "seen"], val_sets={"val": data, "seen": SimpleNamespace(**vars(data))}
            ),
        )
        self.module: Any = SimpleNamespace(generator=Recorder())

    def validate(self, videos: SampleVideo, step: int) -> None:
        self.trainer.global_step = step
        videos.on_validation_end(self.trainer, self.module)


def test_a_video_with_sound_of_each_of_the_first_clips(clips: list[Clip], tmp_path: Path) -> None:
    run, folder = Run(clips), tmp_path / "samples"
    run.validate(SampleVideo(str(folder), clips=2), 1200)
    assert sorted(path.name for path in folder.iterdir()) == [
        "step000001200_s0_a.mp4",
        "step000001200_s1_b.mp4",
    ], "and no unfinished file"
    for clip, frames in ((clips[0], 12), (clips[1], 10)):
        reader = VideoReader(folder / f"step000001200_{clip.name.replace('/', '_')}.mp4")
        pictures = [frame.image for frame in reader]
        assert (reader.info.fps, len(pictures)) == (Fraction(25), frames)
        assert pictures[0].shape == (SIZE, 4 * SIZE, 3)
        generated = pictures[0][8:-8, 2 * SIZE + 8 : 3 * SIZE - 8].astype(int)
        assert np.abs(generated - 128).max() < 12, "the generator's grey, encoded"
        sound = load_waveform(reader.info.path, 16000)
        assert abs(len(sound) - frames * 640) <= 1024, "of AAC's frame length"
        expected = clip.waveform()[: len(sound)]
        assert np.corrcoef(sound[: len(expected)], expected)[0, 1] > 0.95
    black = [frame.image.max() for frame in VideoReader(folder / "step000001200_s0_a.mp4")]
    assert [index for index, peak in enumerate(black) if peak < 40] == [3]


def test_the_same_weights_give_the_same_bytes(clips: list[Clip], tmp_path: Path) -> None:
    for name in ("one", "two"):
        Run(clips).validate(SampleVideo(str(tmp_path / name), clips=1), 7)
    one, two = ((tmp_path / name / "step000000007_s0_a.mp4").read_bytes() for name in ("one", "two"))
    assert one == two


def test_another_list_and_fewer_seconds(clips: list[Clip], tmp_path: Path) -> None:
    run = Run(clips)
    run.trainer.datamodule.val_sets["seen"].clips = clips[1:]
    videos = SampleVideo(str(tmp_path / "samples"), split="seen", seconds=0.2)
    videos.setup(run.trainer, run.module, "fit")
    run.validate(videos, 1)
    (path,) = (tmp_path / "samples").iterdir()
    assert path.name == "step000000001_s1_b.mp4"
    assert len(list(VideoReader(path))) == 5
    with pytest.raises(ConfigError, match=r"split=gone: .*val, seen"):
        SampleVideo(str(tmp_path), split="gone").setup(run.trainer, run.module, "fit")


@pytest.mark.parametrize("setting", [{"clips": 0}, {"seconds": 0.0}, {"batch_size": 0}])
def test_settings_that_draw_nothing_are_refused(setting: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"sample_video.{next(iter(setting))}="):
        SampleVideo(str(tmp_path), **setting)


def test_how_often(tmp_path: Path) -> None:
    run = Run([Drawn(3)], max_steps=45)
    videos = SampleVideo(str(tmp_path), every_n_steps=20)
    for step in (10, 20, 30, 40, 45):
        run.validate(videos, step)
    assert [path.name[4:13] for path in sorted(tmp_path.iterdir())] == ["000000010", "000000030", "000000045"]
    resumed = SampleVideo(str(tmp_path / "resumed"), every_n_steps=20)
    resumed.load_state_dict(videos.state_dict())
    run.validate(resumed, 60)
    assert not (tmp_path / "resumed").exists(), "the last one was at step 45"
    run.validate(resumed, 65)
    assert len(list((tmp_path / "resumed").iterdir())) == 1


def test_no_video_in_the_sanity_check_on_other_ranks_and_of_an_expert(tmp_path: Path) -> None:
    for change in ({"sanity_checking": True}, {"is_global_zero": False}):
        run = Run([Drawn(3)])
        vars(run.trainer).update(change)
        run.validate(SampleVideo(str(tmp_path / "samples")), 1)
    run = Run([Drawn(3)])
    run.module = SimpleNamespace(expert=Recorder())
    run.validate(SampleVideo(str(tmp_path / "samples")), 1)
    assert not (tmp_path / "samples").exists()


def test_a_clip_that_keeps_no_sound_has_a_silent_video(clips: list[Clip], tmp_path: Path) -> None:
    assert clip_sound(Drawn(3), 3) is None
    assert len(clip_sound(clips[0], 5)) == 5 * 640
    (clips[0].path / "audio.wav").unlink()
    assert clip_sound(clips[0], 5) is None, "a packed corpus may stand alone"
    Run([Drawn(3)]).validate(SampleVideo(str(tmp_path / "samples")), 1)
    (path,) = (tmp_path / "samples").iterdir()
    assert len(list(VideoReader(path))) == 3


def test_the_gif_shows_every_frame_at_25_fps() -> None:
    rng = np.random.default_rng(1)
    rows = rng.integers(0, 256, (6, 8, 32, 3)).astype(np.uint8)
    gif = animated_gif(rows)
    assert gif == animated_gif(rows)
    from io import BytesIO

    picture: Any = Picture.open(BytesIO(gif))
    assert (picture.n_frames, picture.size, picture.info["loop"]) == (6, (32, 8), 0)
    for frame in range(6):
        picture.seek(frame)
        assert picture.info["duration"] == 40
        shown = np.asarray(picture.convert("RGB")).astype(int)[..., ::-1]
        assert np.abs(shown - rows[frame]).mean() < 20, "the right frame, the channels in order"


def test_tensorboard_gets_a_gif_and_the_sound(clips: list[Clip], tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = pl.loggers.TensorBoardLogger(str(tmp_path), name="", version="tensorboard")
    run = Run(clips)
    run.trainer.loggers = [logger]
    run.validate(SampleVideo(str(tmp_path / "samples"), clips=1), 9)
    logger.finalize("success")
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    (shown,) = events.Images("val/video/s0/a")
    assert (shown.step, shown.width, shown.height) == (9, 4 * SIZE, SIZE)
    assert shown.encoded_image_string.startswith(b"GIF89a")
    (heard,) = events.Audio("val/sound/s0/a")
    assert (heard.sample_rate, heard.length_frames) == (16000, 12 * 640)


def test_a_real_run_leaves_the_network_as_it_was(
    *, make_module: Any, make_trainer: Any, same_batch: Any, generation_batch: Any, tmp_path: Path
) -> None:
    data = same_batch(generation_batch)
    data.val_sets = {"val": SimpleNamespace(clips=[Drawn(5)], mel_shift=-1, image_size=SIZE)}

    def weights(callbacks: list[Any]) -> dict[str, Tensor]:
        module = make_module()
        module.generator.register_forward_pre_hook(lambda net, args: modes.add((args[1].ndim, net.training)))
        torch.manual_seed(0)
        make_trainer(2, callbacks=callbacks, limit_val_batches=1.0, val_check_interval=1).fit(module, data)
        assert module.training
        return dict(module.state_dict())

    modes: set[tuple[int, bool]] = set()
    without = weights([])
    drawn = weights([SampleVideo(str(tmp_path / "samples"))])
    assert len(list((tmp_path / "samples").iterdir())) == 2
    assert modes == {(5, True), (5, False), (4, False)}, "single frames are drawn in eval mode only"
    for key, value in without.items():
        assert torch.equal(value, drawn[key]), key
