"""Reads ``vae.pth``, the checkpoint of the paper's lightweight VAE, into a wrapped base of ours."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from context_module.adapters.lightweight import LightweightAdapter, LightweightVAE
from context_module.contexts import Concepts
from context_module.errors import CheckpointError, ConceptError
from context_module.io import load_pickled
from context_module.model.decoder import ContextualDecoder
from context_module.model.pretrained import load_saved
from context_module.nn import ContextModuleConfig

__all__ = ["load"]

_FIRST_CONV: dict[tuple[int, ...], str] = {(32, 3, 4, 4): "simple64bn", (32, 1, 4, 4): "conv3"}


def load(path: str | Path, concepts: Iterable[str]) -> ContextualDecoder:
    """The paper's model from its checkpoint; its outputs are the paper's for every context, composed ones included.

    Args:
        path: a ``vae.pth``.
        concepts: names of the concepts in training order, without ``obs``: the file does not hold them.

    Returns:
        the wrapped `LightweightVAE`, in eval mode.

    Raises:
        CheckpointError: for a file that is missing, truncated, foreign or holds more than tensors (nothing in it is
            executed), naming what is missing or does not fit.
        ConceptError: if the number of names is not the file's number of concepts.
    """
    names = Concepts(concepts)
    state = _read(path)
    try:
        size = state["ivn_eps.bias"].numel()
        noise_width = int(state["ivn_eps.block_mask"][0].sum())
        num_concepts = size // noise_width
        depth = 1 + sum(re.fullmatch(r"expressive_layer\.\d+\.block_mask", name) is not None for name in state)
        latent_width, concept_size = state["unpool.weight"].shape
        architecture = _FIRST_CONV[tuple(state["encoder.0.weight"].shape)]
    except (KeyError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"{path} is not a vae.pth of a known architecture ({', '.join(_FIRST_CONV.values())}): {error}"
        ) from None
    if len(names) != num_concepts:
        raise ConceptError(
            f"{path} has {num_concepts} concepts, got {len(names)} names: {', '.join(names)}. Give the intervened "
            "concepts in training order, without 'obs'"
        )
    config = ContextModuleConfig(
        concepts=tuple(names),
        latent_shape=(latent_width,),
        num_features=latent_width,
        noise_width=noise_width,
        concept_width=concept_size // num_concepts,
        depth=depth,
        form="reduced",
        composition="published",
        reference=True,
    )
    model = ContextualDecoder(LightweightAdapter(LightweightVAE(architecture, heads=False)), config)
    try:
        tensors = _translate(state, num_concepts, depth)
    except (KeyError, RuntimeError) as error:
        raise CheckpointError(f"{path} does not fit the {architecture} model it describes: {error}") from error
    everything = dict(model.held.state_dict()) | dict(model.slot.state_dict())
    load_saved(model, tensors, f"{path} ({architecture})", everything)
    model.held.take_weights()
    return model.eval()


def _read(path: str | Path) -> dict[str, Tensor]:
    content = load_pickled(path, "the vae.pth of a trained model")
    state = content.get("model_state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    ):
        raise CheckpointError(f"{path} is not a vae.pth: it holds no 'model_state_dict' of tensors")
    return state


def _translate(state: dict[str, Tensor], num_concepts: int, depth: int) -> dict[str, Tensor]:
    """Our names and layouts: (in, out) matrices, and block-diagonal ones as (blocks, in, out)."""

    def blocks(weight: Tensor) -> Tensor:
        rows, columns = (side // num_concepts for side in weight.shape)
        grid = weight.unflatten(0, (num_concepts, rows)).unflatten(2, (num_concepts, columns))
        return torch.stack([grid[k, :, k].t() for k in range(num_concepts)])

    def rows(bias: Tensor) -> Tensor:
        return bias.unflatten(0, (num_concepts, 1, -1))

    ours = {f"base.net.{name}": tensor for name, tensor in state.items() if name.startswith(("encoder.", "decoder."))}
    for theirs, mine in {"fc_mu": "mean", "fc_var": "log_var"}.items():
        for kind in ("weight", "bias"):
            ours[f"posterior_heads.{mine}.{kind}"] = state[f"{theirs}.{kind}"]
    for theirs, mine in {"obs_weight": "observational", "ivn_weight": "interventional"}.items():
        ours[f"module.embedding.{mine}.weight"] = blocks(state[f"ivn_eps.{theirs}"])
        ours[f"module.embedding.{mine}.bias"] = rows(state["ivn_eps.bias"])  # one bias for both
    ours["module.embedding.dense"] = state["ivn_eps.obs_weight"].t()
    for layer in range(depth - 1):
        linear, norm = f"expressive_layer.{3 * layer}", f"expressive_layer.{3 * layer + 1}."
        ours[f"module.embedding.layers.{layer}.weight"] = blocks(state[f"{linear}.weight"])
        ours[f"module.embedding.layers.{layer}.bias"] = rows(state[f"{linear}.bias"])
        for name in (name for name in state if name.startswith(norm)):
            ours[f"module.embedding.norms.{layer}.{name.removeprefix(norm)}"] = state[name]
    ours["module.intervention.effects"] = state["causal_layer.obs_weight"].t()
    ours["module.intervention.interventional_effects"] = state["causal_layer.ivn_weight"].t()
    ours["module.intervention.bias"] = state["causal_layer.bias"]
    for kind in ("weight", "bias"):
        ours[f"module.inversion.linear.{kind}"] = state[f"unpool.{kind}"]
    return ours
