"""`wrap_decoder`: a context module in front of a pretrained base, and everything a user does with the pair."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Normal

from context_module.adapters import DecoderAdapter, Decoding, Encoding, adapt
from context_module.base import Abduction, ContextualOutput, base_output, base_samples, fingerprint
from context_module.contexts import OBSERVATIONAL, Concepts, ContextsLike
from context_module.errors import ShapeError
from context_module.interventions import Do, parse_interventions
from context_module.model.packs import ConceptPacks
from context_module.model.pretrained import SavedModules
from context_module.nn import (
    CausalGraph,
    ConceptPack,
    ContextModule,
    ContextModuleConfig,
    Edge,
    PosteriorHeads,
    ValueMaps,
    auto_widths,
    evaluating,
    learned_graph,
)
from context_module.normal import draw_normal, standard_normal_kl

__all__ = ["ContextualDecoder", "wrap_decoder"]


class ContextualDecoder(SavedModules):
    """A base with a context module in front of its decoder.

    The base is frozen: no gradients, and eval mode whatever `train` is told, so its weights and buffers stay as they
    are, bit for bit, unless `unfreeze_base` lets it train along; `add_lora` adapts its decoder and leaves them alone.
    Build one with `wrap_decoder` or `from_pretrained`.

    Attributes:
        base: the `DecoderAdapter` that shows the base.
        module: the `ContextModule`.
        posterior_heads: q(z | x, context) on the base's encoder features.
        packs: the concept packs that were added; see `add_concept`.
        value_maps: for concepts that can be set to a value, from values to concept values; see `fit_values`.
        base_trains, owns_base, lora: see `WrappedBase`.
        active_adapter, adapters: see `SwitchableModules`, for several modules around one base.
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
                "(the latent objective) to model: leave it out (--objective pixel: the likelihood of what is decoded)"
            )
        super().__init__(base, config)
        self.module = ContextModule(config)
        self.posterior_heads = PosteriorHeads(config)
        self.value_maps = ValueMaps({})
        self.packs = ConceptPacks(config.concepts)
        self.module.to(base.device)
        self.posterior_heads.to(base.device)
        self.train(self.training)

    @property
    def concepts(self) -> Concepts:
        """The K concepts of the module, then the P of concept packs."""
        return self.packs.concepts

    def add_concept(self, pack: str | Path | ConceptPack, **hub: Any) -> None:
        """Add a concept that was trained alone, beside others, to generate with (`recipes/train_concept.py`).

        What the model does without it stays the same, bit for bit. It is not saved with the model: it is a file of its
        own.

        Args:
            pack: a file, or one on the Hugging Face Hub, ``user/repository/concept.safetensors``; a folder or
                repository with one concept pack; or what `ConceptPack.load` read from it.
            hub: `revision`, `token` and `local_files_only`, as everywhere in huggingface_hub.

        Raises:
            CheckpointError: for a file that is missing, damaged or foreign, or that was trained on another base or
                module.
            ConceptError: for a concept that there is already.
        """
        name = f"the concept pack {pack.config.concept!r}" if isinstance(pack, ConceptPack) else str(pack)
        pack = pack if isinstance(pack, ConceptPack) else ConceptPack.load(pack, **hub)
        self.packs.add(pack, self.config.latent_shape, (fingerprint(self.base), fingerprint(self.module)), name)
        pack.to(self.module.inversion.linear.weight)

    def forward(
        self, x: Any, contexts: ContextsLike, *, beta: float = 1.0, generator: torch.Generator | None = None
    ) -> ContextualOutput:
        """Losses per sample, and the reconstruction.

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
        encoding = self._encode(x)
        if self._disabled:
            return base_output(self.base, x, encoding, generator)
        posterior = self.posterior_heads(encoding.features, mask)
        noise = posterior.mean + posterior.stddev * draw_normal(posterior.mean, generator)
        latent, kl_latent = self._explain_latent(self._latent_mean(noise, mask), encoding, generator)
        decoding = self._decode(latent, encoding, generator=generator)
        kl_noise, kl_base = standard_normal_kl(posterior.mean, posterior.variance), kl_latent + decoding.kl
        neg_log_likelihood = -decoding.log_prob(x)
        loss = neg_log_likelihood + beta * kl_noise + kl_base
        return ContextualOutput(loss, neg_log_likelihood, kl_noise, kl_base, decoding)

    def posterior(self, x: Any, contexts: ContextsLike | None = None) -> Normal:
        """q(z | x, context), a `torch.distributions.Normal` over the noise (B, (K+F) w_z).

        Without `contexts` the images are taken as observational.
        """
        self._check_enabled("posterior")
        x = self.base.check_inputs(x)
        mask = self._mask(OBSERVATIONAL if contexts is None else contexts, len(x))
        return self.posterior_heads(self._encode(x).features, mask)

    @torch.no_grad()
    def generate(
        self,
        n: int | None = None,
        *,
        noise: Tensor | Abduction | None = None,
        do: Do = None,
        temperature: float = 1.0,
        sample: bool = False,
        generator: torch.Generator | None = None,
    ) -> Any:
        """Generate images, or texts, under an intervention.

        Args:
            n: number of images, with fresh noise; or give `noise`.
            noise: the noise itself (n, (K+F) w_z), or what `abduct` returned: the same images under another `do`.
            do: the concepts to intervene on, jointly: ``"size"``, ``"quad1+size"``, ``("quad1", "size")``; None for
                the observational context. Or, by name, ``{"quad1": 0.5, "size": Value(0.7)}``: a strength from 0, the
                concept's observational mechanism, to 1, its interventional one; or the value to set the concept to,
                for models whose training data carried its values (`fit_values`). Either may be a sequence, one per
                image. Or a mask with a row per image, (n, K) or (n, K+P), bool or of strengths.
            temperature: standard deviation of fresh noise, and factor on that of the base's deeper latents; of the
                tokens drawn, for a language model.
            sample: draw from the likelihood instead of returning its mean (a language model: the likeliest tokens,
                one by one).
            generator: makes the result reproducible.

        Returns:
            (n, C, H, W), float, in [0, 1]; of a language model a list of n strings.

        Raises:
            ValueError: unless exactly one of `n` and `noise` is given; for a negative temperature.
            ConceptError, ShapeError: for unknown concepts; for a strength outside [0, 1]; for a value outside the
                range of the training data, or of a concept without values; for noise or a mask that does not fit.
        """
        if (n is None) == (noise is None):
            raise ValueError("generate needs either n, the number of images, or noise=..., not both")
        if n is not None and n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        if not temperature >= 0:
            raise ValueError(f"temperature must be 0 or more, got {temperature}")
        if self._disabled:
            if n is None or do not in (None, OBSERVATIONAL):
                self._check_enabled("an intervention, or given noise,")
            with evaluating(self):
                return base_samples(self.base, n or 0, temperature=temperature, sample=sample, generator=generator)
        abduction = noise if isinstance(noise, Abduction) else Abduction(noise) if noise is not None else None
        n = len(abduction.noise) if abduction else n or 0
        interventions = parse_interventions(self.packs.widen(do), self.concepts, n)
        fixed, pack_noise = self.value_maps(interventions.values), self.packs.sample_noise(n, temperature, generator)
        with evaluating(self):
            if abduction is None:
                abduction = Abduction(self.module.sample_noise(n, temperature, generator))
            strengths = interventions.strengths.to(self.module.inversion.linear.weight.device)
            strengths, of_packs = strengths.split([len(self.config.concepts), len(self.packs)], dim=1)
            latent = self._latent_mean(abduction.noise, strengths, fixed)
            if abduction.latent is None:
                latent = self._draw_latent(latent, temperature, generator)
            else:
                latent = latent + self.module.scale * abduction.latent
            latent = self.packs(latent, of_packs, pack_noise)
            decoding = self._decode(
                latent, residuals=abduction.residuals, temperature=temperature, generator=generator
            )
            samples = self.base.present(decoding.sample(generator) if sample else decoding.mean)
        if of_packs.any():
            draw_normal(latent.new_empty(1), generator)  # other noise for the packs in the next call
        return samples

    @torch.no_grad()
    def abduct(self, x: Any, contexts: ContextsLike = OBSERVATIONAL) -> Abduction:
        """The noise behind images seen in a context: posterior means, and what they leave of every later latent.

        ``generate(noise=abduct(x, c), do=c)`` is the reconstruction of x; with another `do` it is the counterfactual.
        With ``latent_noise=True`` the reconstruction is the base's own.

        Args:
            x: images (B, C, H, W) in [0, 1]; for a language model texts, or token ids (B, T).
            contexts: the contexts they were seen in.
        """
        self._check_enabled("abduct")
        x = self.base.check_inputs(x)
        mask = self._mask(contexts, len(x))
        with evaluating(self):
            encoding = self._encode(x)
            noise = self.posterior_heads(encoding.features, mask).mean
            latent, residual = self._latent_mean(noise, mask), None
            if self.config.latent_noise:
                residual = (encoding.mean.float() - latent) / self.module.scale
                latent = encoding.mean
            decoding = self._decode(latent, encoding, temperature=0.0)
        return Abduction(noise, residual, decoding.residuals)

    def graph(self, samples: int = 1000, seed: int = 0) -> CausalGraph:
        """The learned graph of the module's concepts, by how far interventions reach; see `learned_graph`."""
        self._check_enabled("graph")
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
        self._check_enabled("fix_graph")
        self.config = replace(self.config, graph=tuple(edges))
        self.module.fix_graph(self.config)

    def trainable_parameters(self) -> tuple[int, int]:
        """(trainable, all) parameter counts."""
        counts = [(p.numel(), p.requires_grad) for p in self.parameters()]
        return sum(n for n, trains in counts if trains), sum(n for n, _ in counts)

    def print_trainable_parameters(self) -> None:
        """Print how many parameters train, of how many, in peft's words."""
        trains, total = self.trainable_parameters()
        print(f"trainable params: {trains:,d} || all params: {total:,d} || trainable%: {100 * trains / total:.4f}")

    def _mask(self, contexts: ContextsLike, batch_size: int) -> Tensor:
        mask = self.packs.own_columns(self.concepts.mask(self.packs.widen(contexts), batch_size))
        return mask.to(self.module.inversion.linear.weight.device)

    def _encode(self, x: Tensor) -> Encoding:
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.base_trains):
            # token ids stay what they are
            return self.base.encode(x.to(self.base.dtype) if x.is_floating_point() else x)

    def _decode(self, latent: Tensor, encoding: Encoding | None = None, **options: Any) -> Decoding:
        self._check_own_lora()
        return self.base.decode(latent.to(self.base.dtype), encoding, **options)

    def _latent_mean(self, noise: Tensor, mask: Tensor, fixed: Mapping[str, Tensor] | None = None) -> Tensor:
        return self.module(noise.to(self.module.inversion.linear.weight.dtype), mask, fixed)

    def _explain_latent(
        self, mean: Tensor, encoding: Encoding, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """The decoder input behind images, drawn from its posterior, and its KL (B,) from N(mean, scale^2).

        The posterior is the base's own, q(e | x). Without latent noise, or for a deterministic encoder, the posterior
        is what the module says.
        """
        if not self.config.latent_noise or encoding.log_var is None:
            return self._draw_latent(mean, 1.0, generator), mean.new_zeros(len(mean))
        center, deviation = encoding.mean.float(), (0.5 * encoding.log_var.float()).exp()
        scale = torch.as_tensor(self.module.scale).float()
        kl = (scale / deviation).log() + 0.5 * (deviation.square() + (center - mean.float()).square()) / scale**2 - 0.5
        return center + deviation * draw_normal(center, generator), kl.flatten(1).sum(1)

    def _draw_latent(self, mean: Tensor, temperature: float, generator: torch.Generator | None) -> Tensor:
        if not self.config.latent_noise:
            return mean
        return mean + self.module.scale * temperature * draw_normal(mean, generator)


def wrap_decoder(base: object, concepts: Iterable[str], **options: Any) -> ContextualDecoder:
    """Put a context module in front of a pretrained base.

    Args:
        base: a `DecoderAdapter`, or anything the registry recognises (our `NVAE`, a `LightweightVAE`, ...).
        concepts: names of the concepts that can be intervened on, in a fixed order.
        options: the other fields of `ContextModuleConfig`: ``noise_width``, ``concept_width``, ``depth``,
            ``free_blocks``, ``form``, ``graph``, ``composition``, ``inversion_width``, ``inversion``, ``reference``,
            ``latent_noise``, ``posterior_width``. What is left out or None is as `auto_widths` says for the base's
            decoder input and the number of concepts, or has its default.

    Raises:
        TypeError: if no adapter knows the base, or for an unknown option.
        ValueError: for options out of range (ConceptError for unusable names).
    """
    adapter, names = adapt(base), tuple(Concepts(concepts))
    shape = tuple(adapter.latent.shape)
    given = {name: value for name, value in options.items() if value is not None}
    chosen = {} if options.get("reference") else auto_widths(shape, len(names))  # the paper's are the defaults
    config = ContextModuleConfig(
        concepts=names, latent_shape=shape, num_features=adapter.num_features, **{**chosen, **given}
    )
    return ContextualDecoder(adapter, config)
