"""Which models of transformers are causal language models, and what of them says the next token."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["body_of", "check_causal", "unsupported"]


def unsupported(found: str) -> str:
    return (
        f"no adapter for transformers' {found}: supported are causal language models, as AutoModelForCausalLM loads "
        "them (GPT-2, Llama, Qwen, ...), not encoders or encoder-decoder models"
    )


def body_of(net: Any) -> Any:
    """A model without its output layer; that of Llama 4 is not where its `base_model` looks for it."""
    found = (net.base_model, net.get_decoder(), getattr(net, "model", net))
    return next((body for body in found if body is not None and body is not net), net)  # None: Gemma 3 of 4.56


def check_causal(net: Any) -> None:
    """Raise unless it is a causal language model with weights of one type."""
    generates = getattr(net, "can_generate", lambda: False)()
    if not generates or net.config.is_encoder_decoder:
        raise TypeError(unsupported(type(net).__name__))
    types = sorted({str(p.dtype).removeprefix("torch.") for p in net.parameters() if p.is_floating_point()})
    if len(types) > 1:
        raise ValueError(
            f"the model's weights are of several types, {' and '.join(types)}: bring them to one, model.to(torch."
            f"{types[0]}), or load it with dtype={types[0]}"
        )
    if not _is_causal(net.eval()):  # no dropout
        raise TypeError(unsupported(type(net).__name__))


@torch.no_grad()
def _is_causal(net: Any) -> bool:
    """Whether a later token leaves what is said of earlier ones alone; encoders are also loaded as 'causal' models."""
    device = net.get_input_embeddings().weight.device
    first, second = (net(torch.tensor([[0, 1, last]], device=device)).logits[:, :2] for last in (0, 1))
    return torch.allclose(first, second, rtol=1e-5, atol=1e-7)
