"""The NVAE network: encoder, decoder, and the two together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from context_module.adapters.contract import Likelihood
from context_module.adapters.nvae.checkpoint import read_public_checkpoint
from context_module.adapters.nvae.config import NVAEConfig
from context_module.adapters.nvae.distributions import Normal
from context_module.adapters.nvae.flows import FlowCell
from context_module.adapters.nvae.layers import Cell, DecoderCombiner, EncoderCombiner, WeightNormConv2d
from context_module.adapters.nvae.likelihoods import likelihood_channels, make_likelihood, quantise
from context_module.errors import ShapeError
from context_module.io import bounded_by, check_counts, load_network, load_strictly, save_network

__all__ = ["NVAE", "DecoderPass", "NVAEOutput"]


class DecoderPass(NamedTuple):
    """What `NVAE.decode` returns.

    Attributes:
        logits: (B, C', H, W), parameters of the likelihood.
        kl_per_group: (G - 1, B), KL of the deeper latents in nats; zeros for draws from the prior.
        residuals: for each deeper latent (value - prior mean) / prior sigma, in decoding order.
        log_q: (B,), log-density of the deeper draws under the posterior, before the flows; zeros for prior draws.
        log_p: (B,), log-density of the deeper latents under the prior; zeros for prior draws.
    """

    logits: Tensor
    kl_per_group: Tensor
    residuals: tuple[Tensor, ...]
    log_q: Tensor
    log_p: Tensor


@dataclass
class NVAEOutput:
    """What the whole network says of a batch of images.

    Attributes:
        logits: (B, C', H, W), parameters of the likelihood.
        likelihood: p(x | latents).
        neg_log_likelihood: (B,), summed over channels and pixels, nats.
        kl_per_group: (G, B), summed over channels and pixels, coarsest group first, nats.
        log_q: (B,), log-density of all draws under the posterior, before the flows.
        log_p: (B,), log-density of all latents under the prior.
    """

    logits: Tensor
    likelihood: Likelihood
    neg_log_likelihood: Tensor
    kl_per_group: Tensor
    log_q: Tensor
    log_p: Tensor


class NVAE(nn.Module):
    """A deep hierarchical variational autoencoder (Vahdat & Kautz 2020, "NVAE").

    Built anew it is ready for training; `from_checkpoint` reads the files of the public training code, and
    `save_pretrained` and `from_pretrained` are this library's own format.

    Args:
        config: the network's shape.

    Attributes:
        name_or_path: the file or folder it was read from; None if it was not.
    """

    name_or_path: str | None = None

    def __init__(self, config: NVAEConfig) -> None:
        super().__init__()
        self.config = config
        scales = range(config.num_scales)
        top = config.total_stride

        def cell(channels: int, stride: int, kind: str) -> Cell:
            return Cell(channels, stride, config.cell_ops(kind), config.use_se)

        # encoder, finest scale first
        self.stem = WeightNormConv2d(config.in_channels, config.encoder_channels, 3)
        self.pre_process = nn.ModuleList()
        for block in range(config.num_blocks):
            channels = config.encoder_channels * 2**block
            self.pre_process.extend(cell(channels, 1, "normal_pre") for _ in range(config.preprocess_cells - 1))
            self.pre_process.append(cell(channels, 2, "down_pre"))
        self.enc_tower = nn.ModuleList()
        for scale in scales if not config.is_single_group else ():
            width = 2 ** (config.num_blocks + scale)
            channels = config.encoder_channels * width
            for group in range(config.groups[scale]):
                self.enc_tower.extend(cell(channels, 1, "normal_enc") for _ in range(config.encoder_cells))
                if scale < scales[-1] or group < config.groups[scale] - 1:
                    self.enc_tower.append(EncoderCombiner(channels, config.decoder_channels * width))
            if scale < scales[-1]:
                self.enc_tower.append(cell(channels, 2, "down_enc"))
        channels = config.encoder_channels * top
        self.enc0 = nn.Sequential(nn.ELU(), WeightNormConv2d(channels, channels, 1), nn.ELU())

        # latents, coarsest group first
        widths = [config.image_size // size for size in config.group_sizes]
        raw_channels = 2 * config.latent_channels
        self.enc_sampler = nn.ModuleList(
            WeightNormConv2d(config.encoder_channels * width, raw_channels, 3) for width in widths
        )
        self.dec_sampler = nn.ModuleList(
            nn.Sequential(nn.ELU(), WeightNormConv2d(config.decoder_channels * width, raw_channels, 1))
            for width in widths[1:]
        )
        self.nf_cells = nn.ModuleList(FlowCell(config.latent_channels) for _ in range(len(widths) * config.num_flows))

        # decoder, coarsest scale first
        self.latent_shape = (config.latent_channels, config.group_sizes[0], config.group_sizes[0])
        self.prior_ftr0 = nn.Parameter(torch.randn(config.decoder_channels * top, *self.latent_shape[1:]))
        self.dec_tower = nn.ModuleList()
        if config.is_single_group:
            self.prior_ftr0.requires_grad_(False)  # in the files, but unused
            self.stem_decoder = WeightNormConv2d(config.latent_channels, config.encoder_channels * top, 1)
            channels = config.encoder_channels * top
        else:
            for scale in reversed(scales):
                channels = config.decoder_channels * 2 ** (config.num_blocks + scale)
                for _ in range(config.groups[scale]):
                    if len(self.dec_tower):
                        self.dec_tower.extend(cell(channels, 1, "normal_dec") for _ in range(config.decoder_cells))
                    self.dec_tower.append(DecoderCombiner(channels, config.latent_channels))
                if scale > 0:
                    self.dec_tower.append(cell(channels, -1, "up_dec"))
        self.post_process = nn.ModuleList()
        for _ in range(config.num_blocks):
            self.post_process.append(cell(channels, -1, "up_post"))
            channels //= 2
            self.post_process.extend(cell(channels, 1, "normal_post") for _ in range(config.postprocess_cells - 1))
        self.image_conditional = nn.Sequential(nn.ELU(), WeightNormConv2d(channels, likelihood_channels(config), 3))
        # in which convolutions are fastest, on CPUs and on CUDA
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor, temperature: float = 1.0, generator: torch.Generator | None = None) -> NVAEOutput:
        """Encode and decode images.

        Args:
            x: (B, C, H, W) with values in [0, 1]; floored first if the network is for fewer than 8 bits.
            temperature: multiplies the standard deviation of every posterior draw; 0 gives the means. Densities and
                KLs are those of the untempered distributions.
            generator: for the draws.
        """
        posterior, states = self.encode(x)
        draw = posterior.sample(temperature, generator)
        z0 = self.apply_flows(0, draw)
        kl, log_q, log_p = self._score(posterior, self.first_prior(len(x)), draw, z0)
        decoded = self.decode(z0, states, temperature=temperature, generator=generator)
        likelihood = self.likelihood(decoded.logits)
        return NVAEOutput(
            logits=decoded.logits,
            likelihood=likelihood,
            neg_log_likelihood=-likelihood.log_prob(x),
            kl_per_group=torch.cat((kl[None], decoded.kl_per_group)),
            log_q=log_q + decoded.log_q,
            log_p=log_p + decoded.log_p,
        )

    def first_prior(self, batch: int) -> Normal:
        """The prior of the first latent, (batch, *latent_shape): mean 0, standard deviation 1.01."""
        channels, height, width = self.latent_shape
        return Normal.from_raw(self.prior_ftr0.new_zeros(batch, 2 * channels, height, width))

    def encode(self, x: Tensor) -> tuple[Normal, tuple[Tensor, ...]]:
        """The first latent's posterior and, in decoding order, the encoder states for the deeper ones.

        Args:
            x: (B, C, H, W) with values in [0, 1].

        Returns:
            The posterior before the flows, (B, *latent_shape), and G - 1 states.
        """
        state = self.stem((2 * quantise(x, self.config.num_bits) - 1).to(self.stem.weight.dtype))
        for layer in self.pre_process:
            state = layer(state)
        kept: list[Tensor] = []
        for layer in self.enc_tower:
            if isinstance(layer, EncoderCombiner):
                kept.append(state)
            else:
                state = layer(state)
        return Normal.from_raw(self.enc_sampler[0](self.enc0(state))), tuple(reversed(kept))

    def apply_flows(self, group: int, draw: Tensor) -> Tensor:
        """The latent the decoder gets for a posterior draw of a group; the same without flows."""
        count = self.config.num_flows
        for cell in self.nf_cells[group * count : (group + 1) * count]:
            draw = cell(draw.to(self.prior_ftr0.dtype)).float()
        return draw

    def decode(
        self,
        z0: Tensor,
        states: tuple[Tensor, ...] | None = None,
        residuals: tuple[Tensor, ...] = (),
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> DecoderPass:
        """Decode a first latent; deeper latents are drawn from their posterior if there are states, else their prior.

        Args:
            z0: (B, *latent_shape), after any flows.
            states: from `encode`.
            residuals: standardised noise of all deeper latents instead of draws from the prior (see `DecoderPass`);
                temperature does not apply to them. Not together with `states`.
            temperature: multiplies the standard deviation of every draw; 0 gives the means.
            generator: for the draws.

        Raises:
            ShapeError: for a latent of another shape, or another number of states or residuals than deeper groups.
        """
        self._check_decoder_input(z0, states, residuals)
        dtype = self.prior_ftr0.dtype
        if self.config.is_single_group:
            empty = z0.new_zeros(0, len(z0), dtype=torch.float32)
            logits = self._post_process(self.stem_decoder(z0.to(dtype)))
            return DecoderPass(logits, empty, (), empty.sum(0), empty.sum(0))

        combiners = [layer for layer in self.enc_tower if isinstance(layer, EncoderCombiner)][::-1]
        state = self.prior_ftr0.expand(len(z0), -1, -1, -1)
        made: list[Tensor] = []
        scores: list[tuple[Tensor, Tensor, Tensor]] = []
        z, group = z0, 0
        for layer in self.dec_tower:
            if not isinstance(layer, DecoderCombiner):
                state = layer(state)
                continue
            if group > 0:
                raw_prior = self.dec_sampler[group - 1](state).float()
                prior = Normal.from_raw(raw_prior)
                if states is not None:
                    features = combiners[group - 1](states[group - 1], state)
                    raw = self.enc_sampler[group](features).float()
                    posterior = Normal.from_raw(raw + raw_prior if self.config.res_dist else raw)
                    draw = posterior.sample(temperature, generator)
                    z = self.apply_flows(group, draw)
                    scores.append(self._score(posterior, prior, draw, z))
                elif residuals:
                    z = prior.mean + prior.sigma * residuals[group - 1]
                else:
                    z = prior.sample(temperature, generator)
                made.append(prior.standardise(z))
            state = layer(state, z.to(dtype))
            group += 1
        if states is not None:
            kl, log_q, log_p = (torch.stack(terms) for terms in zip(*scores, strict=True))
        else:
            kl = log_q = log_p = z0.new_zeros(len(made), len(z0), dtype=torch.float32)
        return DecoderPass(self._post_process(state), kl, tuple(made), log_q.sum(0), log_p.sum(0))

    def likelihood(self, logits: Tensor) -> Likelihood:
        """The distribution over images that `logits` (B, C', H, W) stand for."""
        return make_likelihood(self.config, logits)

    def sample_logits(self, n: int, temperature: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
        """Logits (n, C', H, W) for latents drawn from their priors, with standard deviations times `temperature`."""
        z0 = self.first_prior(n).sample(temperature, generator)
        return self.decode(z0, temperature=temperature, generator=generator).logits

    def sample(self, n: int, temperature: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
        """Images (n, C, H, W) in [0, 1]: the likelihood's mean for latents drawn as in `sample_logits`."""
        return self.likelihood(self.sample_logits(n, temperature, generator)).mean

    @classmethod
    def from_checkpoint(cls, path: str | Path) -> NVAE:
        """The network of a ``checkpoint.pt`` of the public training code, in eval mode.

        Only tensors, plain values and ``argparse.Namespace`` are read; nothing in the file is executed.

        Raises:
            CheckpointError: for a file that is missing, truncated, foreign, unsafe, or does not fit its own arguments.
        """
        config, tensors = read_public_checkpoint(path)
        check_counts(config.to_dict(), tensors, path)
        with bounded_by(tensors, path):
            net = cls(config)
        load_strictly(net, tensors, path)
        net.name_or_path = str(path)
        return net.eval()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``config.json`` and ``model.safetensors`` into `folder`, which is made if need be."""
        save_network(folder, self, self.config.to_dict())

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> NVAE:
        """The network of a folder written by `save_pretrained`, in eval mode.

        Raises:
            CheckpointError: for files that are missing, broken, or do not fit each other; names them.
        """
        net = load_network(folder, lambda **config: cls(NVAEConfig.from_dict(config)), "NVAE", {}).eval()
        net.name_or_path = str(folder)
        return net

    def _score(self, posterior: Normal, prior: Normal, draw: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """KL, log q of the draw and log p of the value the flows made of it: (B,) each."""
        log_q, log_p = posterior.log_prob(draw), prior.log_prob(value)
        kl = log_q - log_p if self.config.num_flows else posterior.kl(prior)
        return kl.flatten(1).sum(1), log_q.flatten(1).sum(1), log_p.flatten(1).sum(1)

    def _post_process(self, state: Tensor) -> Tensor:
        for layer in self.post_process:
            state = layer(state)
        return self.image_conditional(state)

    def _check_decoder_input(
        self, z0: Tensor, states: tuple[Tensor, ...] | None, residuals: tuple[Tensor, ...]
    ) -> None:
        if tuple(z0.shape[1:]) != self.latent_shape:
            expected = ", ".join(map(str, self.latent_shape))
            raise ShapeError(f"expected latents of shape (batch, {expected}), got {tuple(z0.shape)}")
        deeper = len(self.dec_sampler)
        if states is not None and len(states) != deeper:
            raise ShapeError(f"expected one encoder state for each of {deeper} deeper latents, got {len(states)}")
        if residuals and states is not None:
            raise ShapeError("residuals replace the prior's noise, so they do not go with an encoding: leave one out")
        if residuals and len(residuals) != deeper:
            raise ShapeError(f"expected residuals for all {deeper} deeper latents or none, got {len(residuals)}")
