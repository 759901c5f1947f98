"""Sync losses: the original cosine cross-entropy, the contrastive objective, and the generator's side.

All of them compute in float32, under autocast too.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias, get_args

import torch
from torch import Tensor
from torch.nn import functional

from lipsync.models.syncnet import SyncNet

Objective: TypeAlias = Literal["default", "relative", "bounded", "features"]
"""What a generator is asked of its expert: :func:`expert_sync_loss`, or one of the losses that compare with
the true window and stop there."""
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)


class Speech(NamedTuple):
    """Speech beside ``B`` windows; every segment is a log-mel window ``(80, 16)``."""

    own: Tensor
    """``(B, 1, 80, 16)``: spoken in the window."""
    reference: Tensor
    """``(B, 1, 80, 16)``: spoken in the window whose pictures the generator gets as reference."""
    others: Tensor | None = None
    """``(B, M, 1, 80, 16)``: of further moments of the same clip, far enough away to be wrong."""


class MouthWindows(NamedTuple):
    """Lower halves of ``B`` windows, ``(B, 15, H / 2, W)`` each, see ``lower_half_windows``."""

    fake: Tensor
    true: Tensor
    reference: Tensor
    """The window that the generator gets as reference: what a copied mouth looks like."""


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
    expert: SyncNet,
    mel: Tensor,
    face_window: Tensor,
    other_mel: Tensor | None = None,
    other_mels: Tensor | None = None,
) -> Tensor:
    """How badly generated frames match the speech, in the eyes of the expert; scalar.

    With the cosine head it is :func:`cosine_bce` against "in sync" (Wav2Lip, equation 2); with the
    contrastive head the cross-entropy of picking, for each face window, its own speech among those of the
    batch, ``other_mel`` and its own row of ``other_mels`` (with nothing to pick from: 1 - cosine). The
    gradient reaches ``face_window``; freezing the expert's parameters, and its mode, are the caller's.

    Args:
        expert: The expert; its head chooses the loss.
        mel: ``(B, 1, 80, 16)`` speech of the window.
        face_window: ``(B, 15, H / 2, W)`` lower halves of generated frames in [0, 1], stacked by
            :func:`lipsync.models.syncnet.lower_half_windows`.
        other_mel: ``(M, 1, 80, 16)`` speech that fits none of the windows; for the contrastive head the
            speech of the reference windows is the hard negative that punishes copying their mouths.
        other_mels: ``(B, K, 1, 80, 16)`` speech that does not fit the window of the same row.
    """
    audio, face = expert(mel, face_window)
    if expert.head == "cosine":
        return cosine_bce(audio, face, torch.ones(len(audio), device=audio.device))
    if other_mel is not None:
        audio = torch.cat([audio, expert.encode_audio(other_mel)])
    others = None if other_mels is None else _encode_each(expert, other_mels)
    if len(audio) == 1 and others is None:
        return 1 - functional.cosine_similarity(audio.float(), face.float(), dim=1).mean()
    with torch.autocast(audio.device.type, enabled=False):
        logits = face.float() @ audio.float().T
        if others is not None:
            logits = torch.cat([logits, _cosines(face, others)], dim=1)
        return _diagonal_cross_entropy(expert.scale.detach() * logits)


def objective_loss(expert: SyncNet, objective: Objective, speech: Speech, windows: MouthWindows) -> Tensor:
    """The generator's sync loss of one kind; scalar, its gradient reaches ``windows.fake``.

    * ``default``: :func:`expert_sync_loss`, which pays for any higher score, the true window's included.
    * ``relative``: :func:`relative_loss` to the scores of the true and of the reference window.
    * ``bounded``: :func:`bounded_loss`, the shortfall to the scores of the true window.
    * ``features``: :func:`feature_loss` between the expert's views of generated and true window.

    All but the first are zero where generated and true window are equal.

    Args:
        expert: Frozen by the caller.
        objective: One of :data:`OBJECTIVES`.
        speech: What the windows are judged against; ``features`` needs none.
        windows: Views of the mouths; all three must have gone through the same augmentation.

    Raises:
        ValueError: For an unknown objective.
    """
    if objective == "default":
        return expert_sync_loss(expert, speech.own, windows.fake, speech.reference, speech.others)
    if objective == "features":
        with torch.no_grad():
            wanted = face_features(expert, windows.true)
        return feature_loss(face_features(expert, windows.fake), wanted)
    if objective not in OBJECTIVES:
        raise ValueError(f"unknown sync objective {objective!r}, choose from {', '.join(OBJECTIVES)}")
    # Own speech first, then wrong speech; the paper of the relative loss has no use for the reference's.
    segments = [speech.own[:, None]]
    segments += [speech.reference[:, None]] if objective == "bounded" else []
    segments += [] if speech.others is None else [speech.others]
    audio = _encode_each(expert, torch.cat(segments, dim=1))  # (B, 1 + K, D)
    fake = _cosines(expert.encode_face(windows.fake), audio)
    with torch.no_grad():
        true = _cosines(expert.encode_face(windows.true), audio)
    if objective == "bounded":
        return bounded_loss(fake, true)
    with torch.no_grad():
        copied = _cosines(expert.encode_face(windows.reference), audio[:, :1])
    return relative_loss(fake[:, 0], true[:, 0], torch.cat([copied, true[:, 1:]], dim=1))


def relative_loss(fake: Tensor, true: Tensor, unfit: Tensor, *, eps: float = 0.05) -> Tensor:
    """Distance to the true window's score, in units of what separates fit from unfit; scalar, >= 0.

    The stabilised synchronisation loss of Yaman et al. (ECCV 2024, arXiv 2307.09368),
    ``-log(1 - |x - y| / (|x - y| + |y - d|))`` = ``log(1 + |x - y| / |y - d|)``, with ``eps`` added to the
    last denominator, where it could vanish. It falls to zero at the true window's score and rises beyond.

    Args:
        fake: ``(B,)`` cosines of generated window and speech (x).
        true: ``(B,)`` cosines of true window and the same speech (y).
        unfit: ``(B, K)`` cosines of pairs that do not fit (d), the reference window with this speech in the
            paper; the loss is the mean over them.
        eps: Bounds the slope at ``1 / eps``.
    """
    fake, true, unfit = fake.float()[:, None], true.float()[:, None], unfit.float()
    return torch.log1p((fake - true).abs() / ((true - unfit).abs() + eps)).mean()


def bounded_loss(fake: Tensor, true: Tensor) -> Tensor:
    """How far generated windows fall short of the true ones, and nothing for surpassing them; scalar, >= 0.

    The mean of ``max(0, true - fake)`` over the own speech, plus that of ``max(0, fake - true)`` over wrong
    speech: a generated mouth need fit its speech no better, and other speech no worse, than the real mouth.
    Beyond that no score is worth a pattern that only the expert sees.

    Args:
        fake: ``(B, 1 + K)`` cosines of the generated windows with their own speech, then with wrong speech.
        true: ``(B, 1 + K)`` cosines of the true windows, likewise.
    """
    short = true.float() - fake.float()
    loss = short[:, 0].clamp(min=0).mean()
    return loss if short.shape[1] == 1 else loss + (-short[:, 1:]).clamp(min=0).mean()


def face_features(expert: SyncNet, face_window: Tensor) -> list[Tensor]:
    """What the expert's face trunk makes of ``(B, 15, H / 2, W)``: its stages, then the embedding.

    Returns:
        ``(B, C, h, w)`` the last output at each spatial size, from fine to coarse; ``(B, D)`` unit length.
    """
    stages: list[Tensor] = []
    x = face_window
    for block in expert.face_encoder:
        x = block(x)
        if stages and stages[-1].shape[2:] == x.shape[2:]:
            stages[-1] = x
        else:
            stages.append(x)
    return [*stages, functional.normalize(expert.face_head(x.flatten(1)).float(), dim=1)]


def feature_loss(fake: list[Tensor], true: list[Tensor]) -> Tensor:
    """Distance of two results of :func:`face_features`; scalar, >= 0.

    The mean over the stages of the L1 distance as a share of the true stage's mean size, plus
    ``1 - cosine`` of the embeddings (perceptual loss in the manner of Johnson et al., ECCV 2016).
    """
    pairs = zip(fake[:-1], true[:-1], strict=True)
    shares = [
        functional.l1_loss(f.float(), t.float()) / t.float().abs().mean().clamp(min=1e-6) for f, t in pairs
    ]
    # Half the squared distance of unit vectors is 1 - cosine, and exactly 0 for equal ones.
    return torch.stack(shares).mean() + (fake[-1] - true[-1]).square().sum(1).mean() / 2


def _encode_each(expert: SyncNet, mels: Tensor) -> Tensor:
    """``(B, M, 1, 80, 16)`` -> ``(B, M, D)``."""
    return expert.encode_audio(mels.flatten(0, 1)).unflatten(0, mels.shape[:2])


def _cosines(face: Tensor, audio: Tensor) -> Tensor:
    """Unit embeddings ``(B, D)`` against each of ``(B, M, D)``: ``(B, M)``, float32."""
    return (face.float()[:, None] * audio.float()).sum(2)


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
