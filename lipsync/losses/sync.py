"""Sync losses: the original cosine cross-entropy, the contrastive objective, and the generator's side.

All of them compute in float32, under autocast too.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from lipsync.models.syncnet import SyncNet


def cosine_bce(audio_emb: Tensor, face_emb: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy of the cosine, read as a probability (Wav2Lip, equations 1 and 2); scalar.

    Equals the reference, logarithms clamped at -100 included, but where that breaks down:

    * rounding may lift the cosine of equal vectors above 1, which is clamped (the reference raises);
    * a cosine of exactly 0 or 1 on the wrong side, as of a zero embedding, costs 100 and sends no gradient
      (the reference sends one of norm up to 1e19, which no optimizer state survives).

    Args:
        audio_emb: ``(B, D)``, non-negative.
        face_emb: ``(B, D)``, non-negative.
        target: ``(B,)`` or ``(B, 1)``: 1 in sync, 0 not.
    """
    audio_emb, face_emb, target = audio_emb.float(), face_emb.float(), target.float().reshape(-1)
    cosine = functional.cosine_similarity(audio_emb, face_emb, dim=1, eps=1e-8)
    regular = (cosine > 0) & (cosine < 1)
    cosine = torch.where(regular, cosine, cosine.detach().clamp(0.0, 1.0))
    # `1 - cosine` is exact for cosines of at least 1/2, where it matters.
    losses = target * _clamped_log(cosine) + (1 - target) * _clamped_log(1 - cosine)
    return -losses.mean()


def contrastive_loss(
    audio: Tensor, face: Tensor, scale: Tensor | float, clip: Tensor, frame: Tensor, *, min_gap: int = 3
) -> Tensor:
    """Contrastive loss with hard negatives from the same clip; scalar.

    The mean of four softmax cross-entropies: face -> audio and audio -> face over the whole batch (InfoNCE,
    van den Oord et al. 2018; symmetric as in CLIP), and the same two over windows of the same clip, which
    differ in nothing but time. Windows of one clip nearer than ``min_gap`` frames sound and look alike and
    are no negatives of each other. A row without a negative in its own clip is left out of the last two
    means; without any such row the first two are the loss.

    Args:
        audio: ``(N, D)`` unit length; row i belongs to row i of ``face``.
        face: ``(N, D)`` unit length.
        scale: Factor on the cosine (inverse temperature).
        clip: ``(N,)`` integer, which clip a window comes from.
        frame: ``(N,)`` integer, first video frame of the window.
        min_gap: Distance in frames from which a window of the same clip is a negative.
    """
    # Autocast would turn the product into bfloat16: three digits, of a cosine multiplied by up to 100.
    with torch.autocast(audio.device.type, enabled=False):
        logits = scale * (face.float() @ audio.float().T)
        own = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
        same = clip[:, None] == clip[None, :]
        near = same & ((frame[:, None] - frame[None, :]).abs() < min_gap) & ~own
        everywhere = logits.masked_fill(near, float("-inf"))
        terms = [_diagonal_cross_entropy(everywhere), _diagonal_cross_entropy(everywhere.T)]
        rows = (same & ~near & ~own).any(dim=1)
        if bool(rows.any()):
            within = everywhere.masked_fill(~same, float("-inf"))
            terms += [_diagonal_cross_entropy(within, rows), _diagonal_cross_entropy(within.T, rows)]
        return torch.stack(terms).mean()


def expert_sync_loss(
    expert: SyncNet, mel: Tensor, face_window: Tensor, other_mel: Tensor | None = None
) -> Tensor:
    """How badly generated frames match the speech, in the eyes of the expert; scalar.

    With the cosine head it is :func:`cosine_bce` against "in sync" (Wav2Lip, equation 2); with the
    contrastive head the cross-entropy of picking, for each face window, its own speech among those of the
    batch and ``other_mel`` (with nothing to pick from: 1 - cosine). The gradient reaches ``face_window``;
    freezing the expert's parameters, and its mode, are the caller's.

    Args:
        expert: The expert; its head chooses the loss.
        mel: ``(B, 1, 80, 16)`` speech of the window.
        face_window: ``(B, 15, 48, 96)`` lower halves of generated frames in [0, 1], stacked by
            :func:`lipsync.models.syncnet.lower_half_windows`.
        other_mel: ``(M, 1, 80, 16)`` speech that fits none of the windows; for the contrastive head the
            speech of the reference windows is the hard negative that punishes copying their mouths.
    """
    audio, face = expert(mel, face_window)
    if expert.head == "cosine":
        return cosine_bce(audio, face, torch.ones(len(audio), device=audio.device))
    if other_mel is not None:
        audio = torch.cat([audio, expert.encode_audio(other_mel)])
    if len(audio) == 1:
        return 1 - functional.cosine_similarity(audio.float(), face.float(), dim=1).mean()
    with torch.autocast(audio.device.type, enabled=False):
        return _diagonal_cross_entropy(expert.scale.detach() * (face.float() @ audio.float().T))


def _clamped_log(p: Tensor) -> Tensor:
    """``max(log p, -100)``; a constant where p is 0."""
    positive = p > 0
    return torch.where(positive, torch.where(positive, p, 1.0).log().clamp(min=-100.0), -100.0)


def _diagonal_cross_entropy(logits: Tensor, rows: Tensor | None = None) -> Tensor:
    """Mean cross-entropy of the diagonal against its row, over ``rows`` (a boolean mask) or all of them.

    ``logits`` may have more columns than rows.
    """
    losses = logits.logsumexp(dim=1) - logits.diagonal()
    return losses.mean() if rows is None else losses[rows].mean()
