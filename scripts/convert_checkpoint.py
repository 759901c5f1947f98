"""Converts any checkpoint that lipsync reads to a plain one: .safetensors, or .pth in the layout of Wav2Lip.

    python scripts/convert_checkpoint.py wav2lip.pdparams wav2lip.safetensors
    python scripts/convert_checkpoint.py last.ckpt critic.pth --part critic

SOURCE is a path or a name of the catalogue. Of a file that holds several networks the main one is taken. The
settings that a checkpoint of this project was trained with are kept, because inference goes by them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from lipsync.checkpoints import store
from lipsync.checkpoints.adapters import identify, networks
from lipsync.checkpoints.kinds import Kind, State, describe, kind_of
from lipsync.checkpoints.loading import HPARAMS, load_state, sha256_of
from lipsync.checkpoints.progress import DownloadBar
from lipsync.errors import CheckpointError, UserError
from lipsync.files import replacing

SUFFIXES = (".safetensors", ".pth")


def chosen(state: Mapping[str, Any], source: Path, part: str | None) -> State:
    """The network ``part`` of what the file ``source`` holds, or its main one."""
    found = networks(state)
    if part is not None:
        for place, weights in found.items():
            if part in (place, place.rpartition(".")[2]):
                return weights
        raise CheckpointError(f"{source}: holds no {part}; it holds {', '.join(found) or 'no weights'}")
    kind = identify(state)
    for weights in found.values():
        if kind_of(weights) is kind:
            return weights
    raise CheckpointError(f"{source}: holds no weights")


def write(weights: State, hparams: Mapping[str, Any], target: Path) -> None:
    """Writes ``target``; the same weights and settings give the same bytes."""
    contiguous = {key: value.clone(memory_format=torch.contiguous_format) for key, value in weights.items()}
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as part:
            if target.suffix == ".safetensors":
                part.write_bytes(save(contiguous, {HPARAMS: json.dumps(hparams)} if hparams else None))
            else:
                wrapped = kind_of(weights) in (Kind.GENERATOR, Kind.EXPERT, Kind.CRITIC)
                content = {"state_dict": contiguous} if wrapped else contiguous
                with part.open("wb") as stream:
                    torch.save({**content, HPARAMS: hparams} if hparams else content, stream)
    except OSError as error:
        raise CheckpointError(f"{target}: cannot be written ({error.strerror or error})") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", help="path of a checkpoint or a name of the catalogue")
    parser.add_argument("target", type=Path, help=f"file to write, ending in {' or '.join(SUFFIXES)}")
    parser.add_argument("--part", help="network to take: generator, critic, expert, netG, ...")
    options = parser.parse_args(arguments)
    try:
        if options.target.suffix not in SUFFIXES:
            raise CheckpointError(f"{options.target}: must end in {' or '.join(SUFFIXES)}")
        with DownloadBar() as bar:
            source = store.resolve(options.source, bar)
        if options.target.exists() and options.target.samefile(source):
            raise CheckpointError(f"{options.target}: is the source; name another file to write")
        state = load_state(source)
        weights = chosen(state, source, options.part)
        write(weights, state.get(HPARAMS, {}), options.target)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{describe(weights)}: {len(weights)} tensors")
    print(f"{sha256_of(options.target)}  {options.target}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
