"""Networks straight from a weight file: built to the sizes that the weights tell, then loaded strictly."""

from __future__ import annotations

from lipsync.checkpoints.kinds import Kind, expert_kwargs, generator_kwargs
from lipsync.checkpoints.loading import LoadedWeights, Source, load_weights, read_network
from lipsync.checkpoints.store import Progress
from lipsync.models.syncnet import SyncNet
from lipsync.models.wav2lip import Wav2Lip


def load_generator(source: Source, progress: Progress | None = None) -> tuple[Wav2Lip, LoadedWeights]:
    """A Wav2Lip generator of any width and image size, in eval mode.

    Of a training checkpoint that holds averaged weights (``generator_ema``) these are taken; see
    :data:`lipsync.checkpoints.adapters.PARTS`.

    Args:
        source: A name of the catalogue, a path (our ``last.ckpt`` too), or a loaded dict.
        progress: Called while a file of the catalogue is downloaded.

    Raises:
        CheckpointError: The file cannot be had or read, or holds no generator.
    """
    state, loaded = read_network(source, Kind.GENERATOR, progress)
    generator = Wav2Lip(**generator_kwargs(state))
    load_weights(generator, state)
    return generator.eval(), loaded


def load_expert(source: Source, progress: Progress | None = None) -> tuple[SyncNet, LoadedWeights]:
    """A SyncNet expert of any width, image size and head, in eval mode; else as :func:`load_generator`."""
    state, loaded = read_network(source, Kind.EXPERT, progress)
    expert = SyncNet(**expert_kwargs(state))
    load_weights(expert, state)
    return expert.eval(), loaded
