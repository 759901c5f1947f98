"""The package as a whole: what an import costs, what the console command says, whether the README is true."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

import lipsync
from lipsync.cli.app import config_dir, require_values
from lipsync.cli.flags import HYDRA_OPTIONS, HYDRA_SWITCHES, to_overrides

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "lipsync"
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages([str(PACKAGE)], "lipsync.")
    if not module.name.endswith("__main__")
)
SOURCES = sorted(PACKAGE.rglob("*.py"))
COMMANDS = ("preprocess", "train", "evaluate", "infer")
MOST_LINES, MOST_LINES_OF_A_FUNCTION = 400, 80


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )


@pytest.mark.parametrize("module", ["lipsync", "lipsync.__main__", "lipsync.types", "lipsync.errors"])
def test_a_light_import(module: str) -> None:
    heavy = ("torch", "cv2", "av", "pytorch_lightning", "hydra", "librosa", "wandb")
    done = python("-c", f"import {module}, sys; print([name for name in {heavy} if name in sys.modules])")
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_the_library_loads_no_training_framework() -> None:
    """Inference and evaluation do without; annotations of types cost nothing at run time."""
    heavy = ("pytorch_lightning", "hydra", "omegaconf", "wandb")
    code = "import lipsync.inference.pipeline, lipsync.evaluation.runner, sys;"
    done = python("-c", f"{code} print([name for name in {heavy} if name in sys.modules])")
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_version() -> None:
    done = python("-m", "lipsync", "--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"lipsync {lipsync.__version__}\n", "")
    written = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert written is not None
    assert written[1] == lipsync.__version__


def test_help_and_unknown_commands() -> None:
    usage = python("-m", "lipsync", "--help")
    assert usage.returncode == 0
    assert all(command in usage.stdout for command in COMMANDS)
    for arguments in (["sing"], []):
        done = python("-m", "lipsync", *arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("usage: lipsync ")
        assert "Traceback" not in done.stderr


def test_configs_and_scripts_are_there() -> None:
    assert {path.stem for path in config_dir().glob("*.yaml")} == set(COMMANDS)
    for command in COMMANDS:
        assert f"from lipsync.cli.{command} import main" in (ROOT / f"{command}.py").read_text()


@pytest.mark.parametrize("name", MODULES)
def test_every_module_imports_and_says_what_it_is_for(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__, f"{name} has no docstring"


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Name and length in lines of every function of a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, (node.end_lineno or node.lineno) - node.lineno + 1


def test_files_and_functions_stay_small() -> None:
    assert len(SOURCES) > 50
    long = {str(path.relative_to(ROOT)): path.read_text().count("\n") for path in SOURCES}
    assert {name: lines for name, lines in long.items() if lines > MOST_LINES} == {}
    found = {
        f"{path.relative_to(ROOT)}:{name}": lines
        for path in SOURCES
        for name, lines in functions(path)
        if lines > MOST_LINES_OF_A_FUNCTION
    }
    assert found == {}


def test_no_unsafe_loading() -> None:
    """Weight files come from strangers: torch reads them with ``weights_only``, nothing else unpickles.

    TorchScript is code by its nature; the one file that runs it refuses operators that reach out of it first.
    """
    scripted = PACKAGE / "metrics" / "scripted.py"
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            where = f"{path.relative_to(ROOT)}:{node.lineno}"
            assert called not in {"pickle.load", "pickle.loads", "eval", "exec"}, where
            assert called != "torch.jit.load" or path == scripted, where
            if called == "torch.load":
                assert "weights_only=True" in ast.unparse(node), where


# The README


def shell_lines() -> Iterator[str]:
    """The command lines of the README's bash blocks, continued lines joined, comments left out."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for block in re.findall(
        r"^ *```(?:bash|sh|shell|console) *\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL
    ):
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            yield line.strip().removeprefix("$ ")


def examples() -> list[tuple[str, list[str]]]:
    """``(command, arguments)`` of every line that runs one of the four commands."""
    found = []
    for line in shell_lines():
        # `make setup && python train.py ...` and `LIPSYNC_CACHE=x lipsync infer ...` hold a command too.
        for part in re.split(r"&&|;(?= )|\|", line):
            words = shlex.split(part, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words.pop(0)
            match words:
                case [interpreter, "-m", "lipsync", command, *arguments] if "python" in interpreter:
                    found.append((command, arguments))
                case [interpreter, script, *arguments] if "python" in interpreter and "-" not in script:
                    found.append((Path(script).stem, arguments))
                case ["lipsync" | ".venv/bin/lipsync", command, *arguments]:
                    found.append((command, arguments))
                case _:
                    pass
    return [(command, arguments) for command, arguments in found if command in COMMANDS]


EXAMPLES = examples()


@pytest.mark.parametrize(
    ("command", "arguments"), EXAMPLES, ids=[f"{command}-{i}" for i, (command, _) in enumerate(EXAMPLES)]
)
def test_a_command_of_the_readme_composes(command: str, arguments: list[str]) -> None:
    words = to_overrides(arguments)
    overrides = []
    while words:
        word = words.pop(0)
        if word in HYDRA_OPTIONS:
            words.pop(0)
        elif word.partition("=")[0] not in HYDRA_SWITCHES | HYDRA_OPTIONS:
            overrides.append(word)
    parsed = OverridesParser.create().parse_overrides(overrides)
    # A sweep (model.optimizer.lr=1e-4,1e-3) composes with each value in turn; the first will do.
    single = [
        f"{one.key_or_group}={next(iter(one.sweep_string_iterator()))}" if one.is_sweep_override() else line
        for one, line in zip(parsed, overrides, strict=True)
    ]
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        cfg = compose(command, overrides=single)
    assert cfg, "the configuration composes"
    if not {"--help", "-h", "--cfg", "--hydra-help"} & set(arguments):
        require_values(cfg)


def test_the_readme_shows_all_commands() -> None:
    assert {command for command, _ in EXAMPLES} == set(COMMANDS)


def test_the_readme_names_what_exists() -> None:
    """Targets of the Makefile, scripts, and relative links."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for line in shell_lines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["make"]:
            for target in (word for word in words[1:] if "=" not in word and not word.startswith("-")):
                assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE), line
        for word in words:
            if re.fullmatch(r"(scripts|benchmarks)/\w+\.py", word):
                assert (ROOT / word).is_file(), line
    for link in re.findall(r"\]\((?!https?:|mailto:|#)([^)#\s]+)", text):
        assert (ROOT / link).exists(), f"README.md links to {link}, which is not there"
