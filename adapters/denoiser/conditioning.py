"""Where the decoder input goes in a denoiser: an embedding of time or class, or tokens that attention reads."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from context_module.errors import ShapeError

__all__ = ["SUPPORTED", "Conditioning", "conditioning_of"]

_PACKED = 2  # side of the squares of latents that a FluxTransformer2DModel sees as channels


class Conditioning(nn.Module, ABC):
    """Calls a denoiser with a decoder input, which is an offset: zero leaves the denoiser as it is.

    Args:
        net: the denoiser.
        tokens: number of virtual tokens, for those that read tokens.

    Attributes:
        latent_shape: of one decoder input.
        channels: of the data that is diffused.
        patch: side of the squares of data that are a token each; None for denoisers that are no transformers.
        distilled: the denoiser was distilled from guidance: `forward` takes its scale, as ``guidance``.
    """

    latent_shape: tuple[int, ...]
    distilled: bool = False

    @abstractmethod
    def __init__(self, net: Any, tokens: int) -> None:
        super().__init__()
        self.channels: int = net.config.in_channels
        self.patch: int | None = net.config.get("patch_size")

    def set_prompt(self, pipeline: Any, prompt: str) -> None:
        """Compose decoder inputs on top of a prompt, as the pipeline's text encoder reads it."""
        raise ValueError(f"the denoiser of this {type(pipeline).__name__} reads no text, so it takes no prompt")

    def set_timesteps(self, scheduler: Any, steps: int, device: torch.device) -> None:
        """Set a scheduler to so many steps of generation, as the denoiser's pipeline does."""
        scheduler.set_timesteps(steps, device=device)

    @abstractmethod
    def forward(self, net: nn.Module, z: Tensor, timestep: Tensor, latent: Tensor, prompted: bool = True) -> Tensor:
        """The denoiser's output (B, C, H, W) for noisy data z (B, C, H, W) at timesteps (B,).

        Args:
            latent: decoder inputs (B, *latent_shape).
            prompted: with the prompt; otherwise with the empty one.
        """


class TimeOffset(Conditioning):
    """`UNet2DModel`: the decoder input is added to the timestep's embedding.

    One with ``class_embed_type="identity"`` takes it as its class embedding, with which it may have been trained. To
    an unconditional one it is added as the denoiser runs here; its own pipeline runs it as ever.
    """

    def __init__(self, net: Any, tokens: int) -> None:
        super().__init__(net, tokens)
        kinds = net.config.class_embed_type, net.config.num_class_embeds
        if kinds[0] != "identity" and kinds != (None, None):
            raise ValueError(
                "this UNet2DModel has no place for a decoder input, as it asks for a class: its class_embed_type is "
                f"{kinds[0]!r}, num_class_embeds {kinds[1]!r}. Supported are unconditional ones (None, None) and "
                'class_embed_type="identity"'
            )
        self.latent_shape = (4 * net.config.block_out_channels[0],)

    def forward(self, net: Any, z: Tensor, timestep: Tensor, latent: Tensor, prompted: bool = True) -> Tensor:
        if net.config.class_embed_type == "identity":
            return net(z, timestep, class_labels=latent).sample
        hook = net.time_embedding.register_forward_hook(lambda _, inputs, embedding: embedding + latent)
        try:
            return net(z, timestep).sample
        finally:
            hook.remove()


class ClassOffset(Conditioning):
    """`DiTTransformer2DModel`: the decoder input is added to every block's embedding of the null class.

    Embeddings take the place of labels, which the denoiser and its pipeline take as before.
    """

    def __init__(self, net: Any, tokens: int) -> None:
        super().__init__(net, tokens)
        self.latent_shape = (net.inner_dim,)
        for block in net.transformer_blocks:
            embedder = block.norm1.emb.class_embedder
            embedder.forward = MethodType(_embed_class, embedder)

    def forward(self, net: nn.Module, z: Tensor, timestep: Tensor, latent: Tensor, prompted: bool = True) -> Tensor:
        return net(z, timestep=timestep, class_labels=latent).sample


class VirtualTokens(Conditioning):
    """`UNet2DConditionModel`: the decoder input is tokens for cross-attention, after those of the prompt if any.

    Tokens start from a neutral value, to which the decoder input is added: the last ones of the empty prompt's
    embedding, or zero for a denoiser without text.
    """

    neutral: Tensor

    def __init__(self, net: Any, tokens: int) -> None:
        super().__init__(net, tokens)
        self.latent_shape = (tokens, self.width(net.config))
        self.register_buffer("neutral", torch.zeros(self.latent_shape), persistent=False)
        self._names: set[str] = set()

    def width(self, config: Any) -> int:
        """D, of the embeddings that the denoiser reads."""
        extra = {name: config[name] for name in ("class_embed_type", "addition_embed_type") if config[name]}
        if config.encoder_hid_dim_type not in (None, "text_proj"):
            extra["encoder_hid_dim_type"] = config.encoder_hid_dim_type
        if extra:
            raise ValueError(
                f"this UNet2DConditionModel asks for more than tokens ({extra}), which this adapter does not give it"
            )
        widths = config.encoder_hid_dim or config.cross_attention_dim
        if not isinstance(widths, int):
            if len(set(widths)) > 1:
                raise ValueError(f"cross_attention_dim must be one number for all blocks, got {widths}")
            (widths,) = set(widths)
        if not any("CrossAttn" in block for block in (*config.down_block_types, *config.up_block_types)):
            raise ValueError(
                "this UNet2DConditionModel has no place for a decoder input: none of its blocks has cross-attention"
            )
        return widths

    def embed(self, pipeline: Any, prompt: str) -> dict[str, Tensor]:
        """What the denoiser reads of a prompt: ``tokens`` (L, D)."""
        return {"tokens": _encode_prompt(pipeline, prompt)[0][0]}

    def set_prompt(self, pipeline: Any, prompt: str) -> None:
        texts = {"prompt": self.embed(pipeline, prompt), "empty": self.embed(pipeline, "")}
        count, width = self.latent_shape
        prompted, empty = texts["prompt"]["tokens"], texts["empty"]["tokens"]
        if prompted.shape[1] != width or len(empty) < count:
            raise ShapeError(
                f"{count} virtual tokens of width {width} do not go with a prompt of {len(empty)} tokens of width "
                f"{prompted.shape[1]}"
            )
        device = self.neutral.device
        self.neutral = empty[-count:].float().to(device)
        for kind, values in texts.items():
            for name, value in values.items():
                self.register_buffer(f"{kind}_{name}", value.float().to(device), persistent=False)
                self._names.add(name)

    def _text(self, name: str, prompted: bool, like: Tensor) -> Tensor | None:
        """Of the prompt or the empty one, for each sample of `like`; None without text."""
        if name not in self._names:
            return None
        value = getattr(self, f"{'prompt' if prompted else 'empty'}_{name}")
        return value.to(like.dtype).expand(len(like), *value.shape)

    def _tokens(self, latent: Tensor, prompted: bool) -> Tensor:
        """(B, L, D), the virtual ones last."""
        virtual, text = self.neutral.to(latent.dtype) + latent, self._text("tokens", prompted, latent)
        return virtual if text is None else torch.cat([text, virtual], dim=1)

    def forward(self, net: nn.Module, z: Tensor, timestep: Tensor, latent: Tensor, prompted: bool = True) -> Tensor:
        return net(z, timestep, encoder_hidden_states=self._tokens(latent, prompted)).sample


class CaptionTokens(VirtualTokens):
    """`PixArtTransformer2DModel`: tokens in the space of the caption's embeddings."""

    def width(self, config: Any) -> int:
        if config.caption_channels is None:
            raise ValueError(
                "this PixArtTransformer2DModel has no place for a decoder input: its caption_channels are None"
            )
        return config.caption_channels

    def embed(self, pipeline: Any, prompt: str) -> dict[str, Tensor]:
        """Besides, ``attended`` (L,): 1 for tokens to attend to."""
        found = _encode_prompt(pipeline, prompt)
        return {"tokens": found[0][0], "attended": found[1][0]}

    def forward(self, net: Any, z: Tensor, timestep: Tensor, latent: Tensor, prompted: bool = True) -> Tensor:
        attended = self._text("attended", prompted, latent)
        extra: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
        if net.use_additional_conditions:
            height, width = (8 * size for size in z.shape[-2:])  # pixels, as PixArt was trained
            extra["resolution"] = latent.new_tensor([height, width]).repeat(len(z), 1)
            extra["aspect_ratio"] = latent.new_tensor([height / width]).repeat(len(z), 1)
        if attended is not None:
            attended = torch.cat([attended, attended.new_ones(len(latent), self.latent_shape[0])], dim=1)
        return net(
            z,
            timestep=timestep,
            encoder_hidden_states=self._tokens(latent, prompted),
            encoder_attention_mask=attended,
            added_cond_kwargs=extra,
        ).sample


class JointTokens(VirtualTokens):
    """`SD3Transformer2DModel`: tokens of the joint attention. The pooled embedding is the prompt's, zero without."""

    def __init__(self, net: Any, tokens: int) -> None:
        super().__init__(net, tokens)
        self.pooled_width = net.config.pooled_projection_dim

    def width(self, config: Any) -> int:
        return config.joint_attention_dim

    def embed(self, pipeline: Any, prompt: str) -> dict[str, Tensor]:
        """Besides, ``pooled`` (P,)."""
        found = _encode_prompt(pipeline, prompt)
        return {"tokens": found[0][0], "pooled": found[2][0]}

    def _pooled(self, latent: Tensor, prompted: bool) -> Tensor:
        """(B, P)."""
        pooled = self._text("pooled", prompted, latent)
        return latent.new_zeros(len(latent), self.pooled_width) if pooled is None else pooled

    def forward(self, net: nn.Module, z: Tensor, timestep: Tensor, latent: Tensor, prompted: bool = True) -> Tensor:
        return net(
            z,
            timestep=timestep,
            encoder_hidden_states=self._tokens(latent, prompted),
            pooled_projections=self._pooled(latent, prompted),
        ).sample


class PackedTokens(JointTokens):
    """`FluxTransformer2DModel`: as above, after T5's. Latents are packed: squares of them are a token each."""

    def __init__(self, net: Any, tokens: int) -> None:
        super().__init__(net, tokens)
        self.channels, self.patch = net.config.in_channels // _PACKED**2, _PACKED
        self.distilled = net.config.guidance_embeds

    def embed(self, pipeline: Any, prompt: str) -> dict[str, Tensor]:
        clip, t5 = (pipeline.components.get(name) for name in ("text_encoder", "text_encoder_2"))
        if clip is not None and t5 is None:
            raise ValueError(
                f"this {type(pipeline).__name__} has CLIP's text encoder without T5's (text_encoder_2): give both, "
                "or neither for virtual tokens alone"
            )
        found = _encode_prompt(pipeline, prompt)
        return {"tokens": found[0][0], "pooled": found[1][0]}

    def set_timesteps(self, scheduler: Any, steps: int, device: torch.device) -> None:
        """From noise alone to one part of `steps`, evenly; the scheduler shifts them."""
        if "sigmas" in inspect.signature(scheduler.set_timesteps).parameters:
            scheduler.set_timesteps(sigmas=[1 - step / steps for step in range(steps)], device=device)
        else:
            super().set_timesteps(scheduler, steps, device)

    def forward(
        self,
        net: nn.Module,
        z: Tensor,
        timestep: Tensor,
        latent: Tensor,
        prompted: bool = True,
        guidance: float = 1.0,
    ) -> Tensor:
        squares, tokens = F.pixel_unshuffle(z, _PACKED), self._tokens(latent, prompted)
        size = squares.shape[-2:]
        places = torch.cartesian_prod(*(torch.arange(n, device=z.device) for n in (1, *size)))  # (L, 3): rows, columns
        output = net(
            squares.flatten(2).transpose(1, 2),
            timestep=timestep / 1000,  # which the transformer multiplies again
            guidance=torch.full_like(timestep, guidance) if self.distilled else None,
            encoder_hidden_states=tokens,
            pooled_projections=self._pooled(latent, prompted),
            txt_ids=places.new_zeros(tokens.shape[1], 3),
            img_ids=places,
        ).sample
        return F.pixel_shuffle(output.transpose(1, 2).unflatten(2, size), _PACKED)


_CONDITIONINGS: dict[str, type[Conditioning]] = {
    "UNet2DModel": TimeOffset,
    "UNet2DConditionModel": VirtualTokens,
    "PixArtTransformer2DModel": CaptionTokens,
    "SD3Transformer2DModel": JointTokens,
    "FluxTransformer2DModel": PackedTokens,
    "DiTTransformer2DModel": ClassOffset,
}
SUPPORTED = tuple(_CONDITIONINGS)  # names of diffusers' classes


def conditioning_of(net: Any, tokens: int) -> Conditioning:
    """How the decoder input conditions a denoiser.

    Raises:
        TypeError: for a class that is not supported.
        ValueError: for a denoiser without a place for a decoder input.
    """
    kind = type(net).__name__
    if kind not in _CONDITIONINGS:
        raise TypeError(f"no conditioning known for a denoiser of the class {kind}; supported: {', '.join(SUPPORTED)}")
    return _CONDITIONINGS[kind](net, tokens)


@torch.no_grad()
def _encode_prompt(pipeline: Any, prompt: str) -> tuple[Tensor, ...]:
    """What the pipeline's ``encode_prompt`` returns of one prompt alone."""
    if pipeline.components.get("text_encoder") is None:
        raise ValueError(f"this {type(pipeline).__name__} has no text encoder: leave out the prompt ({prompt!r})")
    if not hasattr(pipeline, "encode_prompt"):
        raise ValueError(f"a {type(pipeline).__name__} has no encode_prompt, so it takes no prompt here")
    options: dict[str, Any] = {"num_images_per_prompt": 1}
    if "do_classifier_free_guidance" in inspect.signature(pipeline.encode_prompt).parameters:
        options["do_classifier_free_guidance"] = False
    further = {name: None for name in ("prompt_2", "prompt_3") if hasattr(pipeline, f"text_encoder{name[6:]}")}
    return pipeline.encode_prompt(prompt=prompt, device=pipeline.text_encoder.device, **further, **options)


def _embed_class(embedder: Any, labels: Tensor) -> Tensor:
    """In place of the forward of diffusers' `LabelEmbedding`: offsets (B, D) from the null class are labels, too."""
    if labels.is_floating_point():
        return embedder.embedding_table.weight[embedder.num_classes] + labels
    return type(embedder).forward(embedder, labels)
