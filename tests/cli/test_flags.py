"""What users type becomes Hydra overrides, file names stay as they are."""

from __future__ import annotations

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from lipsync.cli.flags import quote, to_overrides
from lipsync.errors import ConfigError

NAMES = [
    "plain.mp4",
    "my clip, take (1).mp4",
    'it\'s "quoted".mp4',
    "a;b&c|d.wav",
    "k=v=w.mp4",
    "[x]{y}.mp4",
    "Übung/видео.mp4",
    "trailing\\",
    "back\\'slash.mp4",
    "null.mp4",
    "~tilde@home$HOME.mp4",
]


@pytest.mark.parametrize("name", NAMES)
def test_any_file_name_survives_the_grammar(name: str) -> None:
    for argv in (["--face", name], [f"face={name}"], [f"--face={name}"]):
        (override,) = OverridesParser.create().parse_overrides(to_overrides(argv))
        assert override.key_or_group == "face"
        assert override.value() == name


def test_interpolation_in_a_name_is_escaped() -> None:
    assert quote("${oc.env:HOME}.mp4") == "'\\${oc.env:HOME}.mp4'"


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--pads", "0", "20", "0", "0"], ["pads=[0,20,0,0]"]),
        (["--box", "-1", "-1", "-1", "-1"], ["box=[-1,-1,-1,-1]"]),
        (["--nosmooth"], ["nosmooth=true"]),
        (["--nosmooth", "outfile='x'"], ["nosmooth=true", "outfile='x'"]),
        (["--static", "False"], ["static=False"]),
        (["--fps", "29.97", "--resize_factor", "2"], ["fps=29.97", "resize_factor=2"]),
        (["--enhancer", "lip"], ["enhancer=lip"]),
        (["--use_DAIN", "--time_step", "0.5"], ["interpolator=dain", "interpolator.time_step=0.5"]),
        (["--cpu", "--face_enhancement"], ["device=cpu", "enhancer=face"]),
        (["--face_det_batch_size", "16", "--nosmooth"], ["nosmooth=true"]),
        (["--driven_audio", "a b.wav", "--source_video", "v.mp4"], ["audio='a b.wav'", "face='v.mp4'"]),
        (["--checkpoint_path", "x.pth"], ["checkpoint='x.pth'"]),
        (["model=syncnet", "data.root=my data"], ["model=syncnet", "data.root='my data'"]),
        (["face='already quoted'"], ["face='already quoted'"]),
        (["judge=null"], ["judge=null"]),
        (["--cfg", "job", "face=x"], ["--cfg", "job", "face='x'"]),
        (["-m", "face=a.mp4,b.mp4"], ["-m", "face=a.mp4,b.mp4"]),
    ],
)
def test_flags(argv: list[str], expected: list[str]) -> None:
    assert to_overrides(argv) == expected


def test_path_flag_without_value() -> None:
    with pytest.raises(ConfigError, match="--face needs a value"):
        to_overrides(["--face", "--nosmooth"])
