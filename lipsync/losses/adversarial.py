"""Adversarial terms from logits, and the critic's forward pass for the generator.

Both networks learn from one backward pass and one optimizer step:

    loss = generator_loss(frozen(critic, fake)) + critic_loss(critic(real), critic(fake.detach()))
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional


def generator_loss(logits: Tensor) -> Tensor:
    """Mean cross-entropy of generated frames against "real" (perceptual loss of Wav2Lip-HQ); scalar.

    Args:
        logits: The critic's answers on generated frames, any shape.
    """
    return _cross_entropy(logits, 1.0)


def critic_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Cross-entropy of real frames against "real" plus that of generated frames against "fake"; scalar.

    Each term is a mean over its own frames.

    Args:
        real_logits: The critic's answers on real frames, any shape.
        fake_logits: Its answers on generated frames that carry no gradient to the generator.
    """
    return _cross_entropy(real_logits, 1.0) + _cross_entropy(fake_logits, 0.0)


def frozen(module: nn.Module, x: Tensor) -> Tensor:
    """``module(x)`` with gradients to ``x`` but none to the module's parameters.

    Unlike switching ``requires_grad`` off and on, this leaves the parameters as they are, so that the same
    backward pass may train them through another term. Buffers are used, and updated, as they are.
    """
    constants = {name: parameter.detach() for name, parameter in module.named_parameters()}
    return functional_call(module, constants, (x,))


def _cross_entropy(logits: Tensor, label: float) -> Tensor:
    logits = logits.float()
    return functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))
