"""What is odd about a module, in words: beside its tables when training ends, and in the report."""

from __future__ import annotations

import torch

from context_module.data import ContextDataset
from context_module.evaluation.result import Evaluation
from context_module.model import ContextualDecoder
from context_module.nn import evaluating
from context_module.normal import standard_normal_kl
from context_module.training import wants_encoder

__all__ = ["posterior_notes", "unfamiliar_notes"]

_TOLD = 0.01  # nats
_LOOKED_AT = 20  # images of a context


def posterior_notes(model: ContextualDecoder, images: ContextDataset, *, pooled: bool = False) -> list[str]:
    """A note on the concepts of whose noise images tell next to nothing, if there are such.

    Args:
        model: the wrapped base.
        images: of the training contexts, not trained on.
        pooled: see `evaluate`.
    """
    collapsed = ", ".join(_collapsed(model, images, pooled))
    note = (
        f"the posterior hardly tells the noise of {collapsed} from any other: counterfactuals move these too little, "
        "unless abduct(..., sample=True) draws it"
    )
    return [note] if collapsed else []


def unfamiliar_notes(scored: Evaluation) -> list[str]:
    """A note on the contexts with more than a few images that the base does not know, if there are such."""
    found = {name: context.strangers for name, context in scored.contexts.items()}
    strange = ", ".join(f"{name} {share:.0%}" for name, share in found.items() if share is not None)
    return [f"unlike anything that the base knows, empty or blended perhaps: {strange} of images"] if strange else []


@torch.no_grad()
def _collapsed(model: ContextualDecoder, images: ContextDataset, pooled: bool) -> list[str]:
    """The concepts of whose noise images tell less than `_TOLD` nats a number, on average."""
    if model.posterior_heads is None or pooled or images.kind == "texts" or wants_encoder(model.base):
        return []
    contexts = [name for name, count in images.counts.items() for _ in range(min(count, _LOOKED_AT))]
    with evaluating(model):
        posterior = model.posterior(images.first(_LOOKED_AT).to(model.device), contexts)
    told = standard_normal_kl(posterior.mean.T, posterior.variance.T).cpu() / len(contexts)
    by_block = told.unflatten(0, (-1, model.config.noise_width)).mean(1)
    return [name for name, nats in zip(model.config.concepts, by_block.tolist(), strict=False) if nats < _TOLD]
