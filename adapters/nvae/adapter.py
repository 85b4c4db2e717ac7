"""Shows an NVAE to the library: its first latent is the decoder input, the deeper ones follow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from context_module.adapters.contract import DecoderAdapter, Decoding, Encoding, LatentSpec, no_wider_than_the_prior
from context_module.adapters.nvae.layers import EncoderCombiner
from context_module.adapters.nvae.network import NVAE
from context_module.adapters.pretrained import source_of
from context_module.adapters.pretraining import Pretraining
from context_module.io import CONFIG_FILE, HUB_OPTIONS, WEIGHTS_FILE, local_folder, recorded

__all__ = ["NVAEAdapter"]

_EXPECTED = "a folder written by NVAE.save_pretrained, a checkpoint.pt of the public NVAE training code"


class NVAEAdapter(DecoderAdapter):
    """An NVAE as a base.

    The decoder input is the first latent z0 as the decoder gets it (after the flows, if there are any). Features are
    the mean and the log standard deviation of z0's posterior; states are the encoder's, for the deeper latents.

    Args:
        net: the network.
        source: the file or folder it was read from; default: what the network says.
    """

    name = "nvae"
    load_options = HUB_OPTIONS

    def __init__(self, net: NVAE, source: str | None = None) -> None:
        super().__init__()
        self.net = net
        self.source = source or source_of(net)
        self.latent = LatentSpec(net.latent_shape)
        self.image_shape = (net.config.in_channels, net.config.image_size, net.config.image_size)
        channels, height, width = net.latent_shape
        self.num_features = 2 * channels * height * width

    @classmethod
    def matches(cls, base: object) -> bool:
        return isinstance(base, NVAE)

    @classmethod
    def wrap(cls, base: Any) -> NVAEAdapter:
        return cls(base)

    @classmethod
    def load(cls, path: str | Path, **hub: Any) -> NVAEAdapter:
        """The adapter around a saved folder, here or on the Hub, or a ``checkpoint.pt`` of the public code."""
        found = local_folder(path, (CONFIG_FILE, WEIGHTS_FILE), expected=_EXPECTED, **hub)
        net = NVAE.from_pretrained(found) if found.is_dir() else NVAE.from_checkpoint(found)
        adapter = cls(net, source=str(path))
        adapter.options = recorded(hub)
        return adapter

    @classmethod
    def pretraining(cls) -> type[Pretraining]:
        from context_module.adapters.nvae.pretraining import NVAEPretraining

        return NVAEPretraining

    def save(self, directory: str | Path) -> None:
        self.net.save_pretrained(directory)

    def decoder_parts(self) -> list[nn.Module]:
        """All that `encode` does not run: the decoder, and in it the posteriors of the deeper latents."""
        net = self.net
        parts = [net.dec_tower, net.dec_sampler, net.post_process, net.image_conditional]
        parts += [layer for layer in net.enc_tower if isinstance(layer, EncoderCombiner)]
        parts += [*net.enc_sampler[1:], *net.nf_cells[net.config.num_flows :]]
        return [*parts, net.stem_decoder] if net.config.is_single_group else parts

    def encode(self, x: Tensor) -> Encoding:
        self.check_inputs(x)
        posterior, states = self.net.encode(x)
        log_sigma = posterior.sigma.log()
        return Encoding(
            features=torch.cat((posterior.mean.flatten(1), log_sigma.flatten(1)), dim=1),
            # the flows keep volumes, so what they make of the mean goes with the variance before them
            mean=self.net.apply_flows(0, posterior.mean),
            log_var=no_wider_than_the_prior(2 * log_sigma),
            states=states,
        )

    def decode(
        self,
        latent: Tensor,
        encoding: Encoding | None = None,
        residuals: tuple[Tensor, ...] = (),
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Decoding:
        states = None if encoding is None else encoding.states
        decoded = self.net.decode(latent, states, residuals, temperature, generator)
        return Decoding(self.net.likelihood(decoded.logits), decoded.kl_per_group.sum(0), decoded.residuals)

    def sample_latent(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n draws from the first latent's prior, whose standard deviation is 1.01."""
        return self.net.first_prior(n).sample(generator=generator)
