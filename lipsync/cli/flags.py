"""From what users type to Hydra overrides.

Two kindnesses on top of Hydra's grammar: the spelled flags of the Wav2Lip family
(``--face x --pads 0 20 0 0 --nosmooth``) become overrides, and values of settings that
hold file names are quoted, so that ``face=my clip, take (1).mp4`` needs no escaping.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from lipsync.errors import ConfigError

PATH_KEYS = frozenset(
    (
        *("face", "audio", "outfile", "checkpoint", "ckpt_path", "data.offsets"),
        *("model.expert_checkpoint", "model.judge_checkpoint", "model.init_checkpoint"),
        *("data_root", "preprocessed_root", "data.root", "videos", "references", "output", "judge"),
        *("generator", "filelist", "metrics.lpips", "metrics.fid", "metrics.fvd", "metrics.identity"),
        *("metrics.landmarks",),
        *("jobs", "expert", "detector.weights", "restorer.weights", "restorer.path"),
        *("enhancer.parser.weights", "mask.landmarks.path", "mask.parser.weights"),
        *("interpolator.weights", "hydra.run.dir"),
    )
)
"""Settings that hold file names."""

LIST_KEYS = frozenset(("compare",))
"""Settings that hold several file names, between commas: ``compare=A,B``."""

ALIASES = {
    "driven_audio": "audio",
    "source_video": "face",
    "checkpoint_path": "checkpoint",
    "syncnet_checkpoint_path": "model.expert_checkpoint",
    "wav2lip_batch_size": "batch_size",
    "time_step": "interpolator.time_step",
    "use_DAIN": "interpolator=dain",
    "cpu": "device=cpu",
    "face_enhancement": "enhancer=face",
}

UNUSED = frozenset(("face_det_batch_size",))
"""Flags of the Wav2Lip family that have nothing to set here: accepted, so that old command lines run."""

HYDRA_SWITCHES = frozenset(
    ("--help", "-h", "--hydra-help", "--version", "--resolve", "--run", "-r", "--multirun", "-m")
)
HYDRA_OPTIONS = frozenset(
    (
        *("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn"),
        *("--config-dir", "-cd", "--experimental-rerun", "--info", "-i", "--shell-completion", "-sc"),
    )
)
"""Hydra's own arguments that take a value."""

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_QUOTED = re.compile(r"""^(['"]).*\1$""", re.DOTALL)


def quote(value: str) -> str:
    """``value`` as a quoted string of Hydra's override grammar, taken literally."""
    # A run of backslashes before a quote must be doubled; "${" would start an interpolation.
    escaped = re.sub(r"(\\*)'", lambda match: match[1] * 2 + r"\'", value)
    escaped = re.sub(r"(\\+)$", lambda match: match[1] * 2, escaped)
    return "'" + escaped.replace("${", "\\${") + "'"


def to_overrides(argv: Sequence[str]) -> list[str]:
    """Hydra's argument list for what the user typed.

    Args:
        argv: The arguments after the program's name.

    Raises:
        ConfigError: A flag stands without the value it needs.
    """
    multirun = any(arg in ("--multirun", "-m") for arg in argv)
    overrides: list[str] = []
    arguments = list(argv)
    while arguments:
        arg = arguments.pop(0)
        if arg in HYDRA_SWITCHES or arg.partition("=")[0] in HYDRA_OPTIONS:
            overrides.append(arg)
            if arg in HYDRA_OPTIONS and arguments:
                overrides.append(arguments.pop(0))
        elif arg.startswith("--"):
            override = _from_flag(arg, arguments)
            overrides += [] if override is None else [override]
        else:
            overrides.append(arg if multirun else _quoted_path(arg))
    return overrides


def _from_flag(arg: str, rest: list[str]) -> str | None:
    """The override of ``--name value ...``, if it has one; takes its values off the front of ``rest``."""
    name, has_value, value = arg[2:].partition("=")
    values = [value] if has_value else []
    while not has_value and rest and not _starts_option(rest[0], after_value=bool(values), name=name):
        values.append(rest.pop(0))
    target = ALIASES.get(name, name)
    if name in UNUSED:
        return None
    if "=" in target:
        return target
    if not values:
        if target in PATH_KEYS:
            raise ConfigError(f"--{name} needs a value; write --{name} FILE")
        return f"{target}=true"
    if len(values) > 1:
        return f"{target}=[{','.join(values)}]"
    return f"{target}={_value(target, values[0])}"


def _starts_option(arg: str, *, after_value: bool, name: str) -> bool:
    """Whether ``arg`` begins the next option instead of being a value of ``--name``."""
    if arg.startswith("-") and not _NUMBER.fullmatch(arg):
        return True
    if after_value:  # further values are numbers: --pads 0 20 0 0
        return not _NUMBER.fullmatch(arg)
    is_path = ALIASES.get(name, name) in PATH_KEYS
    return not is_path and re.match(r"^[~+]{0,2}[\w./@]+=", arg) is not None


def _quoted_path(arg: str) -> str:
    key, equals, value = arg.partition("=")
    if equals and key.lstrip("+") in PATH_KEYS:
        return f"{key}={_value(key.lstrip('+'), value)}"
    if equals and key in LIST_KEYS and value != "null" and not value.startswith("["):
        return f"{key}=[{','.join(quote(part) for part in value.split(','))}]"
    return arg


def _value(key: str, value: str) -> str:
    if key not in PATH_KEYS or value == "null" or _QUOTED.match(value):
        return value
    return quote(value)
