"""Every option of every config group composes and names things that exist; every experiment trains."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from lipsync.checkpoints.networks import load_expert, load_generator
from lipsync.cli.app import config_dir, require_values
from lipsync.cli.evaluate import evaluate
from lipsync.cli.infer import infer
from lipsync.errors import ConfigError

CONFIGS = config_dir()
COMMANDS = ("preprocess", "train", "evaluate", "infer")
OPTIONS = sorted(
    (path.parent.relative_to(CONFIGS).as_posix(), path.stem) for path in CONFIGS.glob("*/**/*.yaml")
)
EXPERIMENTS = sorted(path.stem for path in (CONFIGS / "experiment").glob("*.yaml"))
# Options that make sense beside another one only.
BESIDE = {("data/windows", "sync"): ["model=syncnet"]}
# Values that only a running command has, and mandatory ones.
GIVEN = {
    "preprocess": ["data_root=in", "preprocessed_root=out"],
    "train": ["data.root=in", "paths.output_dir=out"],
    "evaluate": ["videos=in", "output=out"],
    "infer": ["face=f.mp4", "audio=a.wav", "checkpoint=c.pth"],
}


def composed(command: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose(command, overrides=[*GIVEN[command], *overrides])


def groups_of(command: str) -> set[str]:
    """The groups that a command chooses from, ``hydra`` among them."""
    defaults = OmegaConf.to_container(OmegaConf.load(CONFIGS / f"{command}.yaml").defaults)
    assert isinstance(defaults, list)
    entries = [str(key) for item in defaults if isinstance(item, dict) for key in item]
    return {entry.removeprefix("override ").strip() for entry in entries}


def targets(node: Any, at: str = "") -> Iterator[tuple[str, str]]:
    """Where in a configuration a class is named, and its path."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield at, node["_target_"]
        for key, value in node.items():
            yield from targets(value, f"{at}.{key}")
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from targets(value, f"{at}[{number}]")


def assert_targets_exist(cfg: DictConfig) -> int:
    found = list(targets(OmegaConf.to_container(cfg, resolve=True)))
    for at, path in found:
        assert callable(get_object(path)), f"{at}: {path}"
    return len(found)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_compose(command: str) -> None:
    cfg = composed(command)
    require_values(cfg)
    assert assert_targets_exist(cfg) > 1


@pytest.mark.parametrize("command", COMMANDS)
def test_mandatory_values_are_mandatory(command: str) -> None:
    # What evaluate.py and infer.py need depends on what they are asked for; they say so themselves.
    check = {"evaluate": evaluate, "infer": infer}.get(command, require_values)
    overrides = [item for item in GIVEN[command] if command == "evaluate" and item.startswith("output=")]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose(command, overrides)
    with pytest.raises(ConfigError, match="missing: ") as error:
        check(cfg)
    names = [item.partition("=")[0] for item in GIVEN[command] if not item.startswith(("paths", "output="))]
    assert all(name in str(error.value) for name in names)


def documented(name: str) -> list[str]:
    """The settings in a page that stand as `key=value`, file names filled in."""
    text = (CONFIGS.parent / name).read_text(encoding="utf-8")
    spans = [word for span in re.findall(r"`([^`\n]+)`", text) for word in span.split()]
    found = {word for word in spans if re.fullmatch(r"[a-z_.]+=[^|=]+", word)}
    return sorted(found)


@pytest.mark.parametrize("setting", documented("docs/inference.md"))
def test_every_documented_setting_of_inference_is_one(setting: str) -> None:
    key, _, value = setting.partition("=")
    groups = {"restorer.path": ["restorer=onnx"], "mask.landmarks.path": ["mask=landmarks"]}
    cfg = composed("infer", *groups.get(key, []), f"{key}={'3' if value == 'n' else value}")
    assert key.split(".")[0] in cfg


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_and_its_classes_exist(group: str, option: str) -> None:
    users = [command for command in COMMANDS if group in groups_of(command)]
    assert users, f"no command lets the user choose {group}"
    for command in users:
        if group == "hydra":  # chosen in the primary config only
            continue
        cfg = composed(command, f"{group}={option}", *BESIDE.get((group, option), []))
        assert_targets_exist(cfg)
        assert "@" not in str(list(cfg)), "a package header was not understood"


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_can_still_be_overridden(experiment: str) -> None:
    cfg = composed("train", f"experiment={experiment}", "trainer.max_steps=7", "data.batch_size=3", "seed=9")
    assert (cfg.trainer.max_steps, cfg.data.batch_size, cfg.seed) == (7, 3, 9)
    expected = "SyncPairDataset" if "syncnet" in experiment else "GenerationDataset"
    assert cfg.data.windows._target_.endswith(expected), "the data follow the model"


def test_paper_settings_are_the_papers() -> None:
    """Wav2Lip (ACM Multimedia 2020), section 4, and its reference implementation's hparams."""
    expert = composed("train", "experiment=paper_syncnet")
    assert (expert.model.objective, expert.model.optimizer.lr, expert.data.batch_size) == ("bce", 1e-4, 64)
    plain = composed("train", "experiment=paper_wav2lip")
    assert (plain.model.optimizer.lr, plain.data.batch_size) == (1e-4, 16)
    gate = plain.callbacks.sync_gate
    assert (gate.weight, gate.threshold, gate.copy_margin, gate.ramp_steps) == (0.01, 0.75, None, 0)
    hq = composed("train", "experiment=paper_wav2lip_hq")
    assert (hq.model.adversarial_weight, hq.callbacks.sync_gate.weight) == (0.07, 0.03)
    assert list(hq.model.optimizer.betas) == [0.5, 0.999]
    assert hq.model.expert_mode == "train"
    assert plain.model.critic is None


def test_the_model_chooses_its_data_and_a_given_one_wins() -> None:
    def windows(*overrides: str) -> str:
        return str(composed("train", *overrides).data.windows._target_).rpartition(".")[2]

    assert windows() == windows("model=wav2lip") == windows("model=wav2lip_hq") == "GenerationDataset"
    assert windows("model=syncnet") == "SyncPairDataset"
    assert windows("model=syncnet", "data/windows=generation") == "GenerationDataset"


@pytest.mark.slow
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_trains(
    experiment: str, command: Any, corpus: Path, weights: dict[str, Path], tmp_path: Path
) -> None:
    cfg = composed("train", f"experiment={experiment}")
    is_expert = "expert_checkpoint" not in cfg.model
    small = [
        f"experiment={experiment}",
        f"data.root={corpus}",
        f"hydra.run.dir={tmp_path / 'run'}",
        *("data.num_workers=0", "data.val_batch_size=2", "data.batch_size=4", "data.epoch_draws=1"),
        *("trainer.max_steps=2", "trainer.val_check_interval=2", "trainer.log_every_n_steps=1"),
        *("trainer.enable_progress_bar=false", "callbacks.progress=null", "trainer.accelerator=cpu"),
        "data.windows.windows_per_clip=4" if is_expert else "callbacks.sync_gate.start_step=1",
        "model.width=0.125" if is_expert else "model.generator.width=0.125",
    ]
    if not is_expert:
        small.append(f"model.expert_checkpoint={weights['cosine']}")
        small += ["model.critic.width=0.125"] * (cfg.model.critic is not None)
    done = command("train", *small)
    assert done.code == 0, done.err
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    network, _ = (load_expert if is_expert else load_generator)(path)
    assert all(torch.isfinite(value).all() for value in network.state_dict().values())
    columns = (tmp_path / "run" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert "train/sync" in columns
