from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from inference_stubs import BOX, frames_of
from torch import Tensor, nn

from lipsync.audio.windows import MelWindows
from lipsync.errors import CheckpointError, ConfigError
from lipsync.faces.crop import crop
from lipsync.inference.synthesize import (
    RELEASED_PADS,
    TRAINED_PADS,
    PlainGenerator,
    Wav2LipSynthesizer,
    network_input,
)
from lipsync.models.syncnet import SyncNet
from lipsync.models.wav2lip import Wav2Lip
from lipsync.models.wav2lip_folded import FoldedWav2Lip
from lipsync.types import Box, Face, FaceFrame


def speech(seconds: float = 2.0) -> MelWindows:
    """A mel whose column ``t`` holds ``t / 100`` everywhere."""
    steps = int(seconds * 80) + 1
    return MelWindows(np.tile(np.arange(steps, dtype=np.float32) / 100, (80, 1)), Fraction(25))


class Probe(nn.Module):
    """A generator that remembers its input and answers with a constant."""

    image_size = 96

    def __init__(self, value: float = 0.5) -> None:
        super().__init__()
        self.value = value
        self.calls: list[tuple[Tensor, Tensor]] = []

    def forward(self, mels: Tensor, faces: Tensor) -> Tensor:
        assert not self.training
        self.calls.append((mels.clone(), faces.clone()))
        return torch.full((len(mels), 3, 96, 96), self.value)


def face_frames(count: int, missing: tuple[int, ...] = ()) -> list[FaceFrame]:
    return [
        FaceFrame(frame, None if frame.index in missing else Face(BOX, 0.9)) for frame in frames_of(count)
    ]


def test_the_network_sees_the_masked_crop_then_the_crop() -> None:
    probe = Probe()
    frames = face_frames(3)
    list(Wav2LipSynthesizer(probe, batch_size=3)(frames, speech()))
    (_, faces) = probe.calls[0]
    expected = torch.from_numpy(crop(frames[1].frame.image, BOX, 96)).permute(2, 0, 1) / 255
    torch.testing.assert_close(faces[1, 3:], expected)
    torch.testing.assert_close(faces[1, :3, :48], expected[:, :48])
    assert faces[1, :3, 48:].abs().max() == 0


def test_network_input_leaves_its_argument_alone() -> None:
    faces = torch.rand(2, 3, 96, 96)
    before = faces.clone()
    assert network_input(faces).shape == (2, 6, 96, 96)
    torch.testing.assert_close(faces, before, rtol=0, atol=0)


def test_each_frame_is_driven_by_its_own_mel_window_across_gaps_and_batches() -> None:
    probe = Probe()
    windows = speech()
    list(Wav2LipSynthesizer(probe, batch_size=4)(face_frames(10, missing=(1, 5)), windows))
    mels = torch.cat([mel for mel, _ in probe.calls])[:, 0]
    expected = torch.from_numpy(np.stack([windows[i] for i in range(10) if i not in (1, 5)]))
    torch.testing.assert_close(mels, expected, rtol=0, atol=0)


def test_patches_keep_the_order_and_frames_without_a_face_have_no_image() -> None:
    patches = list(
        Wav2LipSynthesizer(Probe(), batch_size=4)(face_frames(11, missing=(0, 3, 4, 10)), speech())
    )
    assert [patch.frame.index for patch in patches] == list(range(11))
    assert [patch.image is None for patch in patches] == [i in (0, 3, 4, 10) for i in range(11)]
    assert all((patch.box is None) == (patch.image is None) for patch in patches)


def test_a_batch_without_any_face_does_not_run_the_network() -> None:
    probe = Probe()
    assert len(list(Wav2LipSynthesizer(probe, batch_size=2)(face_frames(4, (0, 1, 2, 3)), speech()))) == 4
    assert probe.calls == []


@pytest.mark.parametrize(("value", "pixel"), [(0.0, 0), (1.0, 255), (100.4 / 255, 100), (100.6 / 255, 101)])
def test_the_output_is_rounded_not_truncated(value: float, pixel: int) -> None:
    (patch,) = Wav2LipSynthesizer(Probe(value), batch_size=1)(face_frames(1), speech())
    assert patch.image is not None
    assert patch.image.dtype == np.uint8
    assert set(np.unique(patch.image)) == {pixel}


def test_fractional_boxes_become_whole_pixels_inside_the_frame() -> None:
    frame = frames_of(1)[0]
    item = FaceFrame(frame, Face(Box(-10.2, 20.6, 60.4, 500.0), 0.9))
    (patch,) = Wav2LipSynthesizer(Probe(), batch_size=1)([item], speech())
    assert patch.box == Box(0, 21, 60, 120)


def inputs(count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    crops = rng.integers(0, 255, (count, 96, 96, 3), dtype=np.uint8)
    return crops, rng.uniform(-4, 4, (count, 80, 16)).astype(np.float32)


def test_the_speech_and_the_face_both_matter(generator: Wav2Lip) -> None:
    synthesizer = Wav2LipSynthesizer(generator)
    crops, mels = inputs(2)
    base = synthesizer.repaint(crops, mels)
    assert base.shape == (2, 96, 96, 3)
    np.testing.assert_array_equal(base, synthesizer.repaint(crops, mels), err_msg="not deterministic")
    assert (synthesizer.repaint(crops[::-1].copy(), mels) != base).mean() > 0.1
    assert (synthesizer.repaint(crops, mels[::-1].copy()) != base).mean() > 0.1


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_the_folded_copy_paints_what_the_network_paints(generator: Wav2Lip, batch_size: int) -> None:
    crops, mels = inputs(5)
    folded = Wav2LipSynthesizer(generator, batch_size=batch_size)
    assert isinstance(folded.network, FoldedWav2Lip)
    base = folded.repaint(crops, mels)
    plain = PlainGenerator(generator)(torch.from_numpy(mels)[:, None], torch.from_numpy(crops)).numpy()
    difference = np.abs(base.astype(int) - plain)
    assert difference.max() <= 1
    assert difference.mean() < 1e-3


@pytest.mark.parametrize("top", [0.3, 0.5, 0.9])
def test_rows_above_the_top_show_the_crop(generator: Wav2Lip, top: float) -> None:
    items = face_frames(5, missing=(1,))
    synthesizer = Wav2LipSynthesizer(generator, batch_size=2)
    first = int(top * 96)
    for whole, patch in zip(synthesizer(items, speech()), synthesizer(items, speech(), top=top), strict=True):
        if whole.image is None or patch.image is None:
            assert whole.image is patch.image
            continue
        difference = np.abs(whole.image[first - 1 :].astype(int) - patch.image[first - 1 :])
        assert difference.max() <= 1
        np.testing.assert_array_equal(patch.image[: first - 1], crop(patch.frame.image, BOX, 96)[: first - 1])
        assert (patch.image[: first - 1] != whole.image[: first - 1]).any()
    with pytest.raises(ValueError, match="top=1"):
        list(synthesizer(items, speech(), top=1))


def test_a_network_of_another_make_gives_the_same_rows() -> None:
    crops, mels = inputs(1)
    (whole,), (lower,) = (Wav2LipSynthesizer(Probe()).repaint(crops, mels, top) for top in (0, 0.5))
    assert set(np.unique(whole)) == set(np.unique(lower[47:])) == {128}
    np.testing.assert_array_equal(lower[:47], crops[0, :47])


def test_patches_name_their_face_and_frames_stay_untouched(generator: Wav2Lip) -> None:
    items = face_frames(3, missing=(1,))
    before = [item.frame.image.copy() for item in items]
    patches = list(Wav2LipSynthesizer(generator)(items, speech()))
    assert [patch.face for patch in patches] == [item.face for item in items]
    for item, image in zip(items, before, strict=True):
        np.testing.assert_array_equal(item.frame.image, image)


def test_bfloat16_stays_near_float32(generator: Wav2Lip) -> None:
    crops, mels = inputs(2)
    full = Wav2LipSynthesizer(generator, precision="float32").repaint(crops, mels)
    half = Wav2LipSynthesizer(generator, precision="bfloat16").repaint(crops, mels)
    assert 0 < np.abs(full.astype(int) - half.astype(int)).mean() < 2


def test_the_first_patch_needs_one_batch_only() -> None:
    taken = []

    def source() -> Iterator[FaceFrame]:
        for item in face_frames(20):
            taken.append(item.frame.index)
            yield item

    patches = Wav2LipSynthesizer(Probe(), batch_size=4)(source(), speech())
    assert next(patches).frame.index == 0
    assert len(taken) == 4


def test_when_memory_runs_out_no_frame_is_painted_twice() -> None:
    class Small(Probe):
        def forward(self, mels: Tensor, faces: Tensor) -> Tensor:
            if len(mels) > 3:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(mels, faces)

    small, windows = Small(), speech()
    synthesizer = Wav2LipSynthesizer(small, batch_size=8)
    patches = list(synthesizer(face_frames(11, missing=(4,)), windows))
    assert [patch.frame.index for patch in patches] == list(range(11))
    assert [patch.image is None for patch in patches] == [i == 4 for i in range(11)]
    heard = torch.cat([mels for mels, _ in small.calls])[:, 0]
    expected = torch.from_numpy(np.stack([windows[i] for i in range(11) if i != 4]))
    torch.testing.assert_close(heard, expected, rtol=0, atol=0)
    assert synthesizer.batch_size == 3


def test_batches_do_not_depend_on_the_runs_before() -> None:
    probe = Probe()
    synthesizer = Wav2LipSynthesizer(probe, device="cpu")
    runs = []
    for _ in range(2):
        list(synthesizer(face_frames(30), speech()))
        runs.append([len(mels) for mels, _ in probe.calls])
        probe.calls.clear()
        synthesizer.repaint(*inputs(20))
        runs.append([len(mels) for mels, _ in probe.calls])
        probe.calls.clear()
    assert runs == [[8, 16, 6], [8, 12]] * 2


def test_a_compiled_network_sees_batches_of_one_size(
    generator: Wav2Lip, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, object]] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, **settings: asked.append(settings))
    crops, mels = inputs(5)
    probe = Probe()
    assert Wav2LipSynthesizer(probe, batch_size=4, compiled=True).repaint(crops, mels).shape == crops.shape
    assert [len(mel) for mel, _ in probe.calls] == [4, 4]
    assert asked == [{"dynamic": False}]
    compiled = Wav2LipSynthesizer(generator, batch_size=4, compiled=True).repaint(crops, mels)
    plain = Wav2LipSynthesizer(generator, batch_size=4).repaint(crops, mels)
    assert np.abs(compiled.astype(int) - plain).max() <= 1


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="device=tpu9 is unknown"):
        Wav2LipSynthesizer(Probe(), device="tpu9")
    with pytest.raises(ConfigError, match="precision=float16 needs a GPU"):
        Wav2LipSynthesizer(Probe(), device="cpu", precision="float16")
    with pytest.raises(ConfigError, match="batch_size=0"):
        Wav2LipSynthesizer(Probe(), batch_size=0)


def test_pads_and_mel_shift_follow_the_kind_of_checkpoint(
    checkpoint: Path, generator: Wav2Lip, tmp_path: Path
) -> None:
    released = Wav2LipSynthesizer.from_checkpoint(checkpoint)
    assert released.pads == RELEASED_PADS == (0, 10, 0, 0)
    assert released.mel_shift == 0
    own = tmp_path / "last.ckpt"
    state = {f"generator.{key}": value for key, value in generator.state_dict().items()}
    torch.save(
        {
            "pytorch-lightning_version": "2.5.0",
            "state_dict": state,
            "hyper_parameters": {"adversarial_weight": 0.07, "mel_shift": -1},
            "global_step": 5,
        },
        own,
    )
    trained = Wav2LipSynthesizer.from_checkpoint(own)
    assert trained.pads == TRAINED_PADS == (0, 0, 0, 0)
    assert trained.mel_shift == -1
    crops, mels = inputs(1)
    expected = Wav2LipSynthesizer(generator).repaint(crops, mels)
    np.testing.assert_array_equal(trained.repaint(crops, mels), expected)


def test_the_wrong_network_is_named(tmp_path: Path) -> None:
    path = tmp_path / "expert.pth"
    torch.save({"state_dict": SyncNet(width=0.125).state_dict()}, path)
    with pytest.raises(CheckpointError, match=r"expert.pth.*SyncNet.*Wav2Lip") as caught:
        Wav2LipSynthesizer.from_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_a_damaged_checkpoint_is_named(checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.pth"
    path.write_bytes(checkpoint.read_bytes()[: checkpoint.stat().st_size // 2])
    with pytest.raises(CheckpointError, match=r"cut.pth.*damaged"):
        Wav2LipSynthesizer.from_checkpoint(path)
