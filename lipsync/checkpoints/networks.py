"""Networks straight from a weight file: built to the sizes that the weights tell, then loaded strictly."""

from __future__ import annotations

from collections.abc import Mapping

from lipsync.checkpoints.adapters import identify
from lipsync.checkpoints.kinds import Kind, expert_kwargs, generator_kwargs, gfpgan_kwargs
from lipsync.checkpoints.loading import LoadedWeights, Source, load_state, load_weights, read_network
from lipsync.checkpoints.store import Progress, resolve
from lipsync.models.face_parser import BiSeNet, ParseNet
from lipsync.models.gfpgan import GFPGANv1Clean
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


def load_gfpgan(source: Source, progress: Progress | None = None) -> tuple[GFPGANv1Clean, LoadedWeights]:
    """A GFP-GAN face restorer ("clean", 1.2 to 1.4) of any size, in eval mode.

    Else as :func:`load_generator`; of a file that holds averaged weights (``params_ema``) these are taken.
    """
    state, loaded = read_network(source, Kind.GFPGAN, progress)
    restorer = GFPGANv1Clean(**gfpgan_kwargs(state))
    load_weights(restorer, state)
    return restorer.eval(), loaded


def load_face_parser(
    source: Source, progress: Progress | None = None
) -> tuple[BiSeNet | ParseNet, LoadedWeights]:
    """A face parser, whichever network the file holds, in eval mode; else as :func:`load_generator`."""
    held = source if isinstance(source, Mapping) else resolve(source, progress)
    kind = identify(held if isinstance(held, Mapping) else load_state(held))
    network = ParseNet() if kind is Kind.PARSENET else BiSeNet()
    return network.eval(), load_weights(network, held)
