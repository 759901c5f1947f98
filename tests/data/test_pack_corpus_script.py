"""``scripts/pack_corpus.py`` as users call it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from lipsync.data.clip_writer import ClipWriter
from lipsync.data.filelist import write_filelist
from lipsync.data.pack import load_pack

SCRIPT = Path(__file__).parents[2] / "scripts" / "pack_corpus.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pack_corpus", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    names = ["s/0", "s/1", "t/2"]
    for name in names:
        with ClipWriter(tmp_path / f"{name}.part") as writer:
            for index in range(6):
                writer.write(index, rng.integers(0, 256, (20, 18, 3), dtype=np.uint8), (0, 0, 18, 20))
            writer.commit(tmp_path / name, np.zeros(6 * 640, np.float32), 6, {})
    write_filelist(tmp_path / "filelists" / "train.txt", names[:2])
    write_filelist(tmp_path / "filelists" / "val.txt", names[2:])
    write_filelist(tmp_path / "filelists" / "test.txt", [])
    return tmp_path


def call(script: ModuleType, capsys: Any, *arguments: object) -> tuple[int, list[str], list[str]]:
    code = script.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out.splitlines(), captured.err.splitlines()


def test_all_lists_that_name_a_clip(script: ModuleType, root: Path, capsys: Any) -> None:
    code, out, err = call(script, capsys, root)
    assert (code, err) == (0, [])
    folder = root / "pack"
    assert out == [
        f"train: 2 clips, 12 frames, packed: {folder / 'train_96'}",
        f"val: 1 clips, 6 frames, packed: {folder / 'val_96'}",
    ]
    assert load_pack(root, "train", 96).frames.shape == (12, 96, 96, 3)
    assert call(script, capsys, root)[1][0].split(", ")[2].startswith("up to date")


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_size_splits_and_workers(script: ModuleType, root: Path, capsys: Any, workers: int) -> None:
    arguments = (root, "--size", 64, "--splits", "train", "--workers", workers)
    assert call(script, capsys, *arguments)[0] == 0
    assert [path.name for path in (root / "pack").iterdir()] == ["train_64"]
    before = (root / "pack" / "train_64").stat().st_ino
    assert "packed" in call(script, capsys, *arguments, "--overwrite")[1][0]
    assert (root / "pack" / "train_64").stat().st_ino != before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("{root}/none",), "none: no such folder"),
        (("{root}", "--splits", "trian"), "trian.txt: no such file list"),
        (("{root}", "--splits", "test"), "test.txt: lists no clip"),
        (("{root}", "--size", "7"), "pack size 7"),
        (("{root}", "--workers", "-1"), "workers=-1"),
        (("{root}/s",), "no file list that names a clip"),
    ],
)
def test_mistakes_are_one_line(
    script: ModuleType, root: Path, capsys: Any, arguments: tuple[str, ...], said: str
) -> None:
    code, out, err = call(script, capsys, *(part.format(root=root) for part in arguments))
    assert (code, out, len(err)) == (2, [], 1)
    assert said in err[0]
    assert not (root / "pack").exists()


def test_interrupted(script: ModuleType, root: Path, capsys: Any, monkeypatch: Any) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(script, "pack_splits", interrupt)
    code, out, err = call(script, capsys, root)
    assert (code, out, len(err)) == (130, [], 1)
    assert "interrupted" in err[0]
