"""Training the encoder that was made for a base without one: amortised inference of the decoder's own latents.

Source: Kingma and Welling 2014, "Auto-Encoding Variational Bayes", with the decoder fixed.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from context_module.adapters import DecoderAdapter
from context_module.base import base_output
from context_module.data import ContextDataset, mixed_context_loader
from context_module.errors import NonFiniteError
from context_module.io import progress_bar

__all__ = ["fit_encoder", "wants_encoder"]


def wants_encoder(base: DecoderAdapter) -> bool:
    """Whether the base has an encoder made for it that is yet to be trained."""
    return "encoder" in base.own_parts and not base.get_submodule("encoder").get_buffer("fitted")


def fit_encoder(
    base: DecoderAdapter,
    images: ContextDataset,
    *,
    steps: int = 2000,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    seed: int = 0,
    progress: bool = True,
) -> float:
    """Train the encoder of a base such as `DecoderOnlyAdapter`, on images of all contexts, their labels unused.

    The loss is the negative ELBO, -log p(x | e) + KL(q(e | x) || N(0, I)), through the decoder, which stays as it is;
    the weight of the KL rises from zero over the first third, so that the latent learns to carry the image first.

    Args:
        base: with an `encoder` among its `own_parts`; on the device to train on.
        images: to train on.
        steps: of Adam, at least 1.
        batch_size: images per step.
        learning_rate: at first; it falls to 1% along a cosine.
        seed: of batches and draws.
        progress: show a bar.

    Returns:
        the mean loss of the last tenth of the steps, in nats per image.

    Raises:
        ValueError: for a base whose encoder is its own.
        NonFiniteError: for a loss that is not finite; the encoder counts as untrained then.
    """
    if "encoder" not in base.own_parts:
        raise ValueError(f"the encoder of a {base.name!r} base is its own, and is not trained here")
    encoder = base.requires_grad_(False).get_submodule("encoder").requires_grad_(True)
    optimizer = torch.optim.Adam(encoder.parameters(), lr=learning_rate)
    generator = torch.Generator().manual_seed(seed)
    losses: list[float] = []
    _mark(encoder, True)
    bar = progress_bar(total=steps, desc="training an encoder", unit="step", disable=not progress)
    loader = mixed_context_loader(images, batch_size, seed, num_steps=steps)
    for step, batch in enumerate(loader):
        share = step / steps
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share)))
        x = batch["x"].to(base.device)
        out = base_output(base, x, base.encode(x.to(base.dtype)), generator)
        loss = (out.neg_log_likelihood + min(1.0, 3 * share) * out.kl_base).mean()
        if not loss.isfinite():
            _mark(encoder, False)
            raise NonFiniteError(
                f"the loss of the encoder is {loss.item()} at step {step}: lower its learning rate, or check that the "
                "decoder gives logits of images, or what its `output` says"
            )
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(encoder.parameters(), 100.0)
        optimizer.step()
        losses.append(loss.item())
        bar.update()
    bar.close()
    encoder.requires_grad_(False)
    last = losses[-max(1, steps // 10) :]
    return sum(last) / len(last)


def _mark(encoder: nn.Module, fitted: bool) -> None:
    encoder.get_buffer("fitted").fill_(fitted)
