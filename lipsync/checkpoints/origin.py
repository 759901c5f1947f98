"""Where a generator's weights come from: its file, and the experts that trained it."""

from __future__ import annotations

from pathlib import Path

from lipsync.checkpoints.catalog import CATALOG
from lipsync.checkpoints.kinds import Kind
from lipsync.checkpoints.loading import LoadedWeights, read_network
from lipsync.checkpoints.store import Progress
from lipsync.media.provenance import Provenance

_RELEASED = {CATALOG[name].sha256: CATALOG["lipsync_expert"].sha256 for name in ("wav2lip", "wav2lip_gan")}
"""Of released generators, which expert trained them; their files do not say it."""


def generator_provenance(source: str | Path, progress: Progress | None = None) -> Provenance:
    """Hashes of a generator and of its experts.

    Args:
        source: A name of the catalogue, or a path.
        progress: Called while a file of the catalogue is downloaded.

    Raises:
        CheckpointError: The file cannot be had or read, or holds no generator.
    """
    _, loaded = read_network(source, Kind.GENERATOR, progress)
    if loaded.sha256 is None:
        raise ValueError("the weights must come from a file")
    return Provenance(loaded.sha256, _experts(loaded))


def _experts(loaded: LoadedWeights) -> tuple[str, ...]:
    """What :class:`lipsync.training.wav2lip.Wav2LipModule` kept in its hyper-parameters."""
    kept = loaded.hparams.get("expert_sha256")
    if kept is None:
        released = _RELEASED.get(loaded.sha256)
        return () if released is None else (released,)
    return (kept,) if isinstance(kept, str) else tuple(kept)
