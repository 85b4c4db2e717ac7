"""What differs between diffusers' autoencoders, as a table: a class is shown by its row, a new one by adding a row.

Here images are in [-1, 1], as most of them take them, and latents (B, C, H, W): to autoencoders of videos an image is
a video of one frame. Their `decode` takes what follows the latents in another order in every class, so that goes by
keyword; `forward` is never called (`AutoencoderTiny`'s rounds latents to bytes, and gradients with them).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["AUTOENCODERS", "Autoencoder", "row_of"]

_CONSISTENCY_STEPS = 2  # all that its scheduler knows


def _decode(net: Any, raw: Tensor, noises: Sequence[Tensor]) -> Tensor:
    return net.decode(raw).sample


def _decode_frame(net: Any, raw: Tensor, noises: Sequence[Tensor]) -> Tensor:
    return net.decode(raw, num_frames=1).sample


def _decode_consistency(net: Any, raw: Tensor, noises: Sequence[Tensor]) -> Tensor:
    """What `ConsistencyDecoderVAE.decode` does, on given noise (Song et al. 2023, "Consistency Models")."""
    scheduler, size = net.decoder_scheduler, noises[0].shape[-2:]
    scheduler.set_timesteps(_CONSISTENCY_STEPS, device=raw.device)
    condition = (raw * net.config.scaling_factor - net.means.to(raw)) / net.stds.to(raw)
    condition = F.interpolate(condition, size=size, mode="nearest")
    clean = torch.zeros_like(noises[0])
    for step, noise in zip(scheduler.timesteps, noises, strict=True):
        noisy = scheduler.sqrt_alphas_cumprod[step] * clean + scheduler.sqrt_one_minus_alphas_cumprod[step] * noise
        read = torch.cat([(noisy * scheduler.c_in[step]).to(raw.dtype), condition], dim=1)
        predicted = net.decoder_unet(read, step).sample[:, : noise.shape[1]]
        clean = scheduler.c_out[step] * predicted + scheduler.c_skip[step] * noisy
    return clean


def _consistency_scale_and_shift(net: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The decoder reads (raw * scaling_factor - means) / stds, channel by channel."""
    factor, means, stds = net.config.scaling_factor, net.means.flatten().tolist(), net.stds.flatten().tolist()
    return tuple(factor / std for std in stds), tuple(mean / factor for mean in means)


def _normalised_already(net: Any) -> tuple[float, float]:
    """For networks whose `encode` gives normalised latents, which their `decode` takes."""
    return 1.0, 0.0


def _size_of_patches(net: Any) -> int:
    """A decoder of `AutoencoderRAE` makes a square of pixels from each patch that its encoder sees."""
    config = net.config
    return config.patch_size * (config.encoder_input_size // config.encoder_patch_size)


def _batch_norm_scale_and_shift(net: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Pipelines normalise latents by the statistics of a batch norm that the network itself never runs."""
    scale = (net.bn.running_var.float() + net.bn.eps).rsqrt()
    return tuple(scale.tolist()), tuple(net.bn.running_mean.float().tolist())


@dataclass(frozen=True, kw_only=True)
class Autoencoder:
    """How one class of diffusers is shown.

    Attributes:
        latent: the attribute of what `encode` returns: ``latent_dist`` (a diagonal Gaussian), or a tensor's name.
        encoder_sizes, decoder_sizes: the entries of the configuration with one number for each resolution of the
            encoder and the decoder; sizes are halved between them. Or, as one number, by what sizes are divided.
        in_channels, out_channels: the entries with the images' channels; `out_channels` is None where there is none.
        latent_channels: the entries with the latents' channels, the first that is set.
        decoder: the submodules that decoding runs and encoding does not.
        run_decoder: (network, its own latents, noises) to images in [-1, 1].
        noises: standard normal tensors of an image's shape that decoding takes.
        scale_and_shift: the network's own normalisation of latents, if it is not among the configuration's factors.
        only_size: height and width of the images, for classes that know no other.
        unit_range: the network takes and gives images in [0, 1].
        video: images and latents have frames, on the third axis.
        image_patches: the entry with the side of squares whose pixels the encoder and decoder see as channels.
        latent_patches: the entry with the side of squares of latents that are normalised as channels.
    """

    latent: str = "latent_dist"
    encoder_sizes: str = "block_out_channels"
    decoder_sizes: str = "block_out_channels"
    in_channels: str = "in_channels"
    out_channels: str | None = "out_channels"
    latent_channels: tuple[str, ...] = ("latent_channels",)
    decoder: tuple[str, ...] = ("post_quant_conv", "decoder")
    run_decoder: Callable[[Any, Tensor, Sequence[Tensor]], Tensor] = _decode
    noises: int = 0
    scale_and_shift: Callable[[Any], tuple[float | tuple[float, ...], float | tuple[float, ...]]] | None = None
    only_size: Callable[[Any], int] | None = None
    unit_range: bool = False
    video: bool = False
    image_patches: str | None = None
    latent_patches: str | None = None

    def encode(self, net: Any, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Mean and log-variance (B, C, H, W) of the latents of images in [-1, 1]; None without a distribution."""
        x = (x + 1) / 2 if self.unit_range else x
        found = getattr(net.encode(x[:, :, None] if self.video else x), self.latent)
        if isinstance(found, Tensor):
            return self._image(found, net.config), None
        return self._image(found.mean, net.config), self._image(found.logvar, net.config)

    def decode(self, net: Any, raw: Tensor, noises: Sequence[Tensor]) -> Tensor:
        """Images in [-1, 1] of latents as `encode` gives them."""
        raw = F.pixel_shuffle(raw, _side(net.config, self.latent_patches))
        images = self.run_decoder(net, raw[:, :, None] if self.video else raw, noises)
        images = images[:, :, 0] if self.video else images
        return 2 * images - 1 if self.unit_range else images

    def _image(self, latent: Tensor, config: Any) -> Tensor:
        latent = latent[:, :, 0] if self.video else latent
        return F.pixel_unshuffle(latent, _side(config, self.latent_patches))

    def channels(self, config: Any) -> tuple[int, int, int]:
        """Channels of images encoded, of images decoded, and of latents."""
        ins = config[self.in_channels]
        outs = ins if self.out_channels is None else config[self.out_channels]
        squares, latent_squares = (_side(config, name) ** 2 for name in (self.image_patches, self.latent_patches))
        latents = next(config[name] for name in self.latent_channels if config[name])
        return ins // squares, outs // squares, latents * latent_squares

    def factors(self, config: Any) -> tuple[int, int]:
        """By what the encoder divides heights and widths, and the decoder multiplies them."""
        up = config.get("upsampling_scaling_factor", 2)  # of AutoencoderTiny
        patches = _side(config, self.image_patches) * _side(config, self.latent_patches)
        return patches * _factor(config[self.encoder_sizes]), patches * _factor(config[self.decoder_sizes], up)


def _factor(sizes: int | Sequence[int], by: int = 2) -> int:
    return sizes if isinstance(sizes, int) else by ** (len(sizes) - 1)


def _side(config: Any, patches: str | None) -> int:
    side = config[patches] if patches else None
    return 1 if side is None else side if isinstance(side, int) else side[0]


_DECODER_WITHOUT_CONDITION = ("conv_in", "mid_block", "up_blocks", "conv_norm_out", "conv_out")

AUTOENCODERS = {
    "AutoencoderKL": Autoencoder(),
    # its decoder takes an image and a mask, too, for inpainting; without them it decodes the whole
    "AsymmetricAutoencoderKL": Autoencoder(
        encoder_sizes="down_block_out_channels",
        decoder_sizes="up_block_out_channels",
        decoder=("post_quant_conv", *(f"decoder.{part}" for part in _DECODER_WITHOUT_CONDITION)),
    ),
    # of Stable Video Diffusion; an image is a video of one frame
    "AutoencoderKLTemporalDecoder": Autoencoder(decoder=("decoder",), run_decoder=_decode_frame),
    "AutoencoderKLCogVideoX": Autoencoder(video=True),
    "AutoencoderKLHunyuanVideo": Autoencoder(
        encoder_sizes="spatial_compression_ratio", decoder_sizes="spatial_compression_ratio", video=True
    ),
    "AutoencoderKLWan": Autoencoder(
        encoder_sizes="dim_mult",
        decoder_sizes="dim_mult",
        latent_channels=("z_dim",),
        video=True,
        image_patches="patch_size",
    ),
    "AutoencoderKLQwenImage": Autoencoder(
        encoder_sizes="dim_mult",
        decoder_sizes="dim_mult",
        in_channels="input_channels",
        out_channels=None,
        latent_channels=("z_dim",),
        video=True,
    ),
    "AutoencoderKLFlux2": Autoencoder(latent_patches="patch_size", scale_and_shift=_batch_norm_scale_and_shift),
    "AutoencoderTiny": Autoencoder(
        latent="latents",
        encoder_sizes="encoder_block_out_channels",
        decoder_sizes="decoder_block_out_channels",
        decoder=("decoder",),
    ),
    "AutoencoderDC": Autoencoder(
        latent="latent",
        encoder_sizes="encoder_block_out_channels",
        decoder_sizes="decoder_block_out_channels",
        out_channels=None,
        decoder=("decoder",),
    ),
    # latents are a frozen image encoder's tokens, as a grid
    "AutoencoderRAE": Autoencoder(
        latent="latent",
        encoder_sizes="patch_size",
        decoder_sizes="patch_size",
        in_channels="num_channels",
        out_channels=None,
        latent_channels=("encoder_hidden_size",),
        decoder=("decoder",),
        scale_and_shift=_normalised_already,
        only_size=_size_of_patches,
        unit_range=True,
    ),
    # latents are those before the codebook; decoding quantises them, and gradients pass straight through
    "VQModel": Autoencoder(
        latent="latents",
        latent_channels=("vq_embed_dim", "latent_channels"),
        decoder=("quantize", "post_quant_conv", "decoder"),
    ),
    "ConsistencyDecoderVAE": Autoencoder(
        encoder_sizes="encoder_block_out_channels",
        decoder_sizes="encoder_block_out_channels",
        in_channels="encoder_in_channels",
        out_channels=None,
        decoder=("decoder_unet",),
        run_decoder=_decode_consistency,
        noises=_CONSISTENCY_STEPS,
        scale_and_shift=_consistency_scale_and_shift,
    ),
}


def row_of(net: object) -> Autoencoder | None:
    """The row of a network's class, or of the first class of diffusers that it derives from; None without any."""
    names = (kind.__name__ for kind in type(net).__mro__ if kind.__module__.partition(".")[0] == "diffusers")
    return next((AUTOENCODERS[name] for name in names if name in AUTOENCODERS), None)
