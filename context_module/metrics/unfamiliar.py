"""Are composed pictures such that the base knows its way there?"""

from __future__ import annotations

import torch
from torch import Tensor

from context_module.adapters import DecoderAdapter
from context_module.metrics.case import Case
from context_module.metrics.estimate import Estimate, check_samples, share_estimate
from context_module.metrics.metric import ContextMetric, Figure
from context_module.normal import draw_normal

__all__ = ["METRIC", "unfamiliar"]

_MOST = 100  # images of either kind: enough to tell a share that is worth a word
_USUAL = 0.99


@torch.no_grad()
def unfamiliar(base: DecoderAdapter, samples: Tensor, real: Tensor, batch_size: int = 250, seed: int = 0) -> Estimate:
    """The share of generated images that a base makes other ones of than it does of what it knows.

    A base's encoder and decoder hardly change what they have made of a real image before. Where a decoder input lies
    off all that a decoder was trained on, its picture, such as an empty or a blended one, is not found again. A sample
    counts if the mean squared error of its reconstruction is beyond that of 99% of real images, each of them
    reconstructed first, from a draw of its decoder input and of all deeper latents.

    Args:
        base: with embeddings.
        samples, real: (n, C, H, W) and (m, C, H, W), in [0, 1].
        batch_size: images encoded or decoded at a time.
        seed: of the draws.

    Raises:
        DataError: for fewer than `MIN_SAMPLES` of either.
    """
    check_samples(len(samples), len(real))
    generator = torch.Generator().manual_seed(seed)

    def again(images: Tensor, drawn: bool = False) -> Tensor:
        made = []
        for part in images.split(batch_size):
            encoding = base.encode(part.to(base.device, base.dtype))
            latent = encoding.mean
            if drawn and encoding.log_var is not None:
                latent = latent + (0.5 * encoding.log_var).exp() * draw_normal(latent, generator)
            decoding = base.decode(latent, temperature=float(drawn), generator=generator)
            made.append(decoding.mean.float().cpu())
        return torch.cat(made).clamp(0, 1)

    known = again(real, drawn=True)
    usual = _squares(again(known), known).quantile(_USUAL)
    return share_estimate(_squares(again(samples), samples.cpu()) > usual)


def _squares(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).flatten(1).square().mean(1)


def _score(samples: Tensor, real: Tensor, context: str, case: Case) -> Estimate:
    assert case.subject.embedder is not None
    return unfamiliar(case.subject.embedder, samples[:_MOST], real[:_MOST], case.batch_size, case.seed)


def _reason(case: Case) -> str | None:
    return None if case.subject.embedder else "it takes a model in front of a base with embeddings that does not train"


METRIC = ContextMetric(
    name="unfamiliar",
    figure=Figure(
        "Unlike what the base knows",
        "lower",
        "The share of images that the base cannot make again: those that its encoder and decoder change by more than "
        "they change 99% of the base's reconstructions of real images. Many of them are empty pictures, or blends.",
    ),
    score=_score,
    columns=("model",),
    reason=_reason,
)
