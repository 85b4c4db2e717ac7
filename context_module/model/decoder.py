"""`ContextualDecoder`: a context module in front of a pretrained base, and everything a user does with the pair."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from context_module.adapters import DecoderAdapter
from context_module.base import (
    ContextualOutput,
    HeldBase,
    LoraSettings,
    base_output,
    fingerprint,
    is_lora,
    plain_name,
)
from context_module.contexts import OBSERVATIONAL, Concepts, ContextsLike
from context_module.errors import AdapterError, ShapeError
from context_module.model import generation, parameters, pretrained, switching, train_modes
from context_module.model.packs import ConceptPacks
from context_module.model.slot import ModuleSlot
from context_module.model.switching import DEFAULT, WaitingModules
from context_module.nn import (
    CausalGraph,
    ConceptPack,
    ContextModule,
    ContextModuleConfig,
    Edge,
    EditModule,
    PosteriorHeads,
    ValueMaps,
    evaluating,
    learned_graph,
)
from context_module.normal import draw_normal, standard_normal_kl
from context_module.saving import CardDetails

__all__ = ["ContextualDecoder"]


class ContextualDecoder(nn.Module):
    """A base with a context module in front of its decoder.

    The base is frozen: no gradients, and eval mode whatever `train` is told, so its weights and buffers stay as they
    are, bit for bit, unless `unfreeze_base` lets it train along; `add_lora` adapts its decoder and leaves them alone.
    Build one with `wrap_decoder` or `from_pretrained`.

    There may be several modules with names, in peft's words: each has its own concepts, posterior heads, values,
    concept packs and LoRA. Only the active one is a part of the model: it alone trains, moves and is in the
    state dict.

    Attributes:
        held: the `HeldBase`: the base, whether it trains, and LoRA on it.
        slot: the `ModuleSlot` of the active module.
        active_adapter: the name of the active module.
        waiting: the other ones, `WaitingModules`.
        disabled: whether `disable_adapter` has switched the module off.
    """

    def __init__(self, base: DecoderAdapter, config: ContextModuleConfig) -> None:
        if tuple(config.latent_shape) != tuple(base.latent.shape) or config.num_features != base.num_features:
            raise ShapeError(
                f"the module is made for decoder inputs of shape {config.latent_shape} and {config.num_features} "
                f"encoder features; the base {base.name!r} has {tuple(base.latent.shape)} and {base.num_features}"
            )
        if config.latent_noise and not base.embeds:
            raise ValueError(
                f"a {base.name!r} base has no decoder inputs of its own behind {base.kind} for latent_noise=True "
                "(the latent objective) to model: leave it out, for the likelihood of what is decoded"
            )
        super().__init__()
        self.held = HeldBase(base)
        self.slot = ModuleSlot(config).to(base.device)
        self.active_adapter = DEFAULT
        self.waiting = WaitingModules(self.held)
        self.disabled = False
        self.train(self.training)

    @property
    def base(self) -> DecoderAdapter:
        """The adapter that shows the base."""
        return self.held.base

    @property
    def config(self) -> ContextModuleConfig:
        """The shape of the active module."""
        return self.slot.config

    @property
    def module(self) -> ContextModule | EditModule:
        """The active `ContextModule`, or `EditModule`."""
        return self.slot.module

    @property
    def posterior_heads(self) -> PosteriorHeads | None:
        """q(z | x, context) on the base's encoder features; None with edits."""
        return self.slot.posterior_heads

    @property
    def value_maps(self) -> ValueMaps:
        """For concepts that can be set to a value, from values to concept values; see `fit_values`."""
        return self.slot.value_maps

    @property
    def packs(self) -> ConceptPacks:
        """The concept packs that were added; see `add_concept`."""
        return self.slot.packs

    @property
    def details(self) -> CardDetails:
        """What the active module's card says of its data and scores; to be set anew after training further."""
        return self.slot.details

    @details.setter
    def details(self, details: CardDetails) -> None:
        self.slot.details = details

    @property
    def concepts(self) -> Concepts:
        """The K concepts of the module, then the P of concept packs."""
        return self.packs.concepts

    @property
    def device(self) -> torch.device:
        """Where base and module are."""
        return self.slot.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the base's weights, and of what it generates; a module stays in float32."""
        return self.base.dtype

    @property
    def base_trains(self) -> bool:
        """Whether the base is unfrozen."""
        return self.held.trains

    @property
    def owns_base(self) -> bool:
        """Whether the base is saved with the module, as it is no longer the one it came from."""
        return self.held.owned

    @property
    def lora(self) -> LoraSettings | None:
        """The settings of LoRA on the base's decoder, None without it."""
        return self.held.lora

    def forward(
        self, x: Any, contexts: ContextsLike, *, beta: float = 1.0, generator: torch.Generator | None = None
    ) -> ContextualOutput:
        """Losses per sample, and the reconstruction.

        With edits they are those of the base as an autoencoder, to adapt its decoder by: edits draw embeddings by
        example, so that there is no KL of noise and no gradient of theirs.

        Args:
            x: images (B, C, H, W), float, in [0, 1]; for a language model texts, or token ids (B, T).
            contexts: one context name, one name per sample, or a bool mask (B, K).
            beta: weight of the noise's KL.
            generator: for the draws of noise and deeper latents; the default generator without it.

        Raises:
            ShapeError: for images of another size, dtype or range, NaN among them, or a mask that does not fit.
            ConceptError: for unknown concepts.
        """
        x = self.base.check_inputs(x)
        mask = self._mask(contexts, len(x))
        encoding = self.held.encode(x)
        if self.disabled:
            return base_output(self.base, x, encoding, generator)
        posterior = self.slot.posterior(encoding, mask)
        noise = posterior.mean + posterior.stddev * draw_normal(posterior.mean, generator)
        latent, kl_latent = self.slot.explain_latent(self.slot.latent_mean(noise, mask), encoding, generator)
        decoding = self.held.decode(latent, encoding, generator=generator)
        kl_noise, kl_base = standard_normal_kl(posterior.mean, posterior.variance), kl_latent + decoding.kl
        if isinstance(self.module, EditModule):
            kl_noise = torch.zeros_like(kl_noise)
        neg_log_likelihood = -decoding.log_prob(x)
        loss = neg_log_likelihood + beta * kl_noise + kl_base
        return ContextualOutput(loss, neg_log_likelihood, kl_noise, kl_base, decoding)

    def posterior(self, x: Any, contexts: ContextsLike | None = None) -> Normal:
        """q(z | x, context), a `torch.distributions.Normal` over the noise (B, (K+F) w_z).

        Without `contexts` the images are taken as observational.
        """
        self.check_enabled("posterior")
        x = self.base.check_inputs(x)
        mask = self._mask(OBSERVATIONAL if contexts is None else contexts, len(x))
        return self.slot.posterior(self.held.encode(x), mask)

    generate = generation.generate
    abduct = generation.abduct

    def graph(self, samples: int = 1000, seed: int = 0) -> CausalGraph:
        """The learned graph of the module's concepts, by how far interventions reach; see `learned_graph`."""
        self.check_enabled("graph")
        if isinstance(self.module, EditModule):
            return self.module.graph()
        with evaluating(self):
            return learned_graph(self.module, samples, seed)

    def fix_graph(self, edges: Iterable[Edge]) -> None:
        """Keep these edges between concepts alone: all others are left out and cannot be learned any more.

        As with ``wrap_decoder(..., graph=edges)``, edges to and from free blocks stay as they are.

        Args:
            edges: (cause, effect) pairs, such as ``model.graph().acyclic_edges()``.

        Raises:
            ConceptError: for unknown concepts, or a cycle.
            AdapterError: with the module disabled.
        """
        self.check_enabled("fix_graph")
        self.module.fix_graph(edges)

    # --- what trains

    freeze_base = train_modes.freeze_base
    unfreeze_base = train_modes.unfreeze_base
    frozen_base = train_modes.frozen_base
    add_lora = train_modes.add_lora
    merge_lora = train_modes.merge_lora
    get_base_model = train_modes.get_base_model
    unload = train_modes.unload
    merge_and_unload = train_modes.merge_and_unload
    gradient_checkpointing_enable = train_modes.gradient_checkpointing_enable

    get_nb_trainable_parameters = parameters.get_nb_trainable_parameters
    print_trainable_parameters = parameters.print_trainable_parameters
    num_parameters = parameters.num_parameters
    __repr__ = parameters.described

    # --- several modules, and concepts besides

    def add_concept(self, pack: str | Path | ConceptPack, **hub: Any) -> None:
        """Add a concept that was trained alone, beside others, to generate with (`recipes/train_concept.py`).

        What the model does without it stays the same, bit for bit. It is not saved with the model: it is a file of its
        own.

        Args:
            pack: a file, or one on the Hugging Face Hub, ``user/repository/concept.safetensors``; a folder or
                repository with one concept pack; or what `ConceptPack.load` read from it.
            hub: ``revision``, ``token`` and ``local_files_only``, as everywhere in huggingface_hub.

        Raises:
            CheckpointError: for a file that is missing, damaged or foreign, or that was trained on another base or
                module.
            ConceptError: for a concept that there is already.
        """
        name = f"the concept pack {pack.config.concept!r}" if isinstance(pack, ConceptPack) else str(pack)
        pack = pack if isinstance(pack, ConceptPack) else ConceptPack.load(pack, **hub)
        self.packs.add(pack, self.config.latent_shape, (fingerprint(self.base), fingerprint(self.module)), name)
        pack.to(self.module.device, self.module.dtype)

    @property
    def adapters(self) -> tuple[str, ...]:
        """The names of all modules, the active one first."""
        return (self.active_adapter, *self.waiting.names)

    @property
    def active_adapters(self) -> list[str]:
        """The names of the modules that are active: one."""
        return [self.active_adapter]

    @property
    def peft_config(self) -> dict[str, ContextModuleConfig]:
        """The configuration of every module, by name, the active one first."""
        return {self.active_adapter: self.config, **self.waiting.configs}

    load_adapter = switching.load_adapter
    set_adapter = switching.set_adapter
    delete_adapter = switching.delete_adapter
    disable_adapter = switching.disable_adapter

    # --- saving and loading

    save_pretrained = pretrained.save_pretrained
    push_to_hub = pretrained.push_to_hub
    from_pretrained = classmethod(pretrained.from_pretrained)

    def adapter_state_dict(self) -> dict[str, Tensor]:
        """The tensors that are saved: module, posterior heads, value maps and LoRA, not the base and concept packs.

        Of the base only the parts that are ours, such as an encoder that was made for a decoder without one.
        """
        ours = tuple(f"base.{part}." for part in self.base.own_parts)
        of_base = {
            plain_name(name): tensor
            for name, tensor in self.held.state_dict().items()
            if name.startswith(ours) or (self.lora is not None and is_lora(name))
        }
        of_module = self.slot.state_dict().items()
        return of_base | {name: tensor for name, tensor in of_module if not name.startswith("packs.")}

    def _mask(self, contexts: ContextsLike, batch_size: int) -> Tensor:
        mask = self.packs.own_columns(self.concepts.mask(self.packs.widen(contexts), batch_size))
        return mask.to(self.slot.device)

    def check_enabled(self, what: str) -> None:
        """Raise AdapterError inside of `disable_adapter`'s block."""
        if self.disabled:
            raise AdapterError(
                f"{what} needs the module, which disable_adapter has switched off: leave its block first"
            )
