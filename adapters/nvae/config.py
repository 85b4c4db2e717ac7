"""What shapes an NVAE: `NVAEConfig`, its JSON form, and how the public training code's arguments map to it."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from context_module.errors import ContextModuleError

__all__ = ["CELL_TYPES", "OPS_PRESETS", "NVAEConfig", "NVAEConfigError", "parse_mconv"]


class NVAEConfigError(ContextModuleError, ValueError):
    """A value that cannot be part of an NVAE's configuration."""


CELL_TYPES = ("normal_enc", "down_enc", "normal_dec", "up_dec", "normal_pre", "down_pre", "normal_post", "up_post")
LIKELIHOODS = ("bernoulli", "normal", "logistic_mixture")
TWO_LAYER_OPS = ("res_elu", "res_bnelu", "res_bnswish", "res_bnswish5")
_MOST_HALVINGS = 32
_MCONV = re.compile(r"mconv_e(\d+(?:\.\d+)?)k(\d*[13579])g(\d+)")


def parse_mconv(op: str) -> tuple[float, int, int] | None:
    """(expansion, odd kernel size, groups; 0 for depthwise) of an op named like ``mconv_e6k5g0``, else None."""
    match = _MCONV.fullmatch(op)
    return (float(match[1]), int(match[2]), int(match[3])) if match else None


def _preset(enc: Sequence[str], dec: Sequence[str], pre: Sequence[str], post: Sequence[str]) -> dict[str, list[str]]:
    chosen = {"enc": enc, "dec": dec, "pre": pre, "post": post}
    return {cell: list(chosen[cell.partition("_")[2]]) for cell in CELL_TYPES}


def _res_mbconv(first: str, second: str) -> dict[str, list[str]]:
    return _preset([first, second], ["mconv_e6k5g0"], [first, second], ["mconv_e3k5g0"])


OPS_PRESETS: dict[str, dict[str, list[str]]] = {
    **{op: _preset(*[[op, op]] * 4) for op in ("res_elu", "res_bnelu", "res_bnswish")},
    "mbconv_sep": _preset(["mconv_e6k5g0"], ["mconv_e6k5g0"], ["mconv_e3k5g0"], ["mconv_e3k5g0"]),
    "mbconv_sep11": _preset(["mconv_e6k11g0"], ["mconv_e6k11g0"], ["mconv_e3k5g0"], ["mconv_e3k5g0"]),
    "res_mbconv": _res_mbconv("res_bnswish", "res_bnswish"),
    "res53_mbconv": _res_mbconv("res_bnswish5", "res_bnswish"),
    "res35_mbconv": _res_mbconv("res_bnswish", "res_bnswish5"),
    "res55_mbconv": _res_mbconv("res_bnswish5", "res_bnswish5"),
}


@dataclass(frozen=True)
class NVAEConfig:
    """The shape of an NVAE (Vahdat & Kautz 2020, "NVAE: A Deep Hierarchical Variational Autoencoder").

    Attributes:
        image_size: height and width of the images in pixels; a multiple of 2 ** (num_blocks + num_scales - 1).
        in_channels: of the images; "normal" and "logistic_mixture" need 3.
        likelihood: "bernoulli" (one logit per channel), "normal" (a density) or "logistic_mixture" (of bins).
        num_mixtures: components of the logistic mixture; the other likelihoods ignore it.
        num_bits: of the images, 1 to 8; images are floored to that many before anything else.
        num_scales: resolutions that hold latents, each half the size of the one before.
        groups_per_scale: latent groups of the finest scale; of every scale without `ada_groups`.
        ada_groups: each coarser scale has half as many groups, but at least `min_groups_per_scale`.
        min_groups_per_scale: see `ada_groups`.
        latent_channels: channels of one latent group.
        encoder_channels: of the stem; doubled by every halving of the size.
        decoder_channels: at the image's size; doubled likewise.
        num_blocks: blocks before the encoder, each halving the size, and after the decoder, each doubling it.
        preprocess_cells: cells of one block before the encoder.
        postprocess_cells: cells of one block after the decoder.
        encoder_cells: cells before each group's combiner in the encoder.
        decoder_cells: cells before each group's combiner in the decoder.
        use_se: squeeze-and-excitation in every cell.
        res_dist: deeper posteriors are given relative to their priors.
        num_flows: pairs of autoregressive flow cells after each posterior draw.
        ops: name of a preset in `OPS_PRESETS`, or the op names of every cell type in `CELL_TYPES`.

    Raises:
        NVAEConfigError: for values that cannot make a network; names the value and what was expected.
    """

    image_size: int = 32
    in_channels: int = 3
    likelihood: str = "logistic_mixture"
    num_mixtures: int = 10
    num_bits: int = 8
    num_scales: int = 2
    groups_per_scale: int = 10
    ada_groups: bool = True
    min_groups_per_scale: int = 1
    latent_channels: int = 20
    encoder_channels: int = 32
    decoder_channels: int = 32
    num_blocks: int = 1
    preprocess_cells: int = 2
    postprocess_cells: int = 2
    encoder_cells: int = 2
    decoder_cells: int = 2
    use_se: bool = True
    res_dist: bool = True
    num_flows: int = 0
    ops: str | Mapping[str, Sequence[str]] = "res_mbconv"

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type == "int":
                minimum = 0 if field.name in ("num_blocks", "num_flows") else 1
                if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
                    raise NVAEConfigError(f"{field.name} must be an integer of at least {minimum}, got {value!r}")
            elif field.type == "bool" and not isinstance(value, bool):
                raise NVAEConfigError(f"{field.name} must be true or false, got {value!r}")
        if self.likelihood not in LIKELIHOODS:
            raise NVAEConfigError(f"unknown likelihood {self.likelihood!r}; expected one of {', '.join(LIKELIHOODS)}")
        if self.likelihood != "bernoulli" and self.in_channels != 3:
            raise NVAEConfigError(
                f"the {self.likelihood!r} likelihood needs in_channels=3, got {self.in_channels}; "
                'likelihood="bernoulli" takes any number of channels'
            )
        if self.num_bits > 8:
            raise NVAEConfigError(f"num_bits must be between 1 and 8, got {self.num_bits}")
        if self.num_blocks + self.num_scales > _MOST_HALVINGS:
            raise NVAEConfigError(
                f"num_blocks and num_scales halve the image at most {_MOST_HALVINGS} times together, got "
                f"{self.num_blocks} and {self.num_scales}"
            )
        if self.image_size % self.total_stride:
            raise NVAEConfigError(
                f"image_size must be a multiple of {self.total_stride} (2 ** (num_blocks + num_scales - 1)), "
                f"got {self.image_size}: pad or resize the images, or use fewer scales or blocks"
            )
        if not isinstance(self.ops, str):
            object.__setattr__(self, "ops", _check_ops(self.ops))
        elif self.ops not in OPS_PRESETS:
            raise NVAEConfigError(f"unknown ops preset {self.ops!r}; expected one of {', '.join(OPS_PRESETS)}")

    @property
    def groups(self) -> tuple[int, ...]:
        """Latent groups of each scale, finest scale first."""
        groups = [self.groups_per_scale]
        for _ in range(self.num_scales - 1):
            fewer = max(self.min_groups_per_scale, groups[-1] // 2)
            groups.append(fewer if self.ada_groups else groups[-1])
        return tuple(groups)

    @property
    def total_stride(self) -> int:
        """Image size over the size of the first (coarsest) latent."""
        return 2 ** (self.num_blocks + self.num_scales - 1)

    @property
    def group_sizes(self) -> tuple[int, ...]:
        """Height and width of every latent group in decoding order, coarsest first."""
        finest = self.image_size // 2**self.num_blocks
        return tuple(
            finest // 2**scale for scale in reversed(range(self.num_scales)) for _ in range(self.groups[scale])
        )

    @property
    def is_single_group(self) -> bool:
        """Whether there is one latent group only; such a network has no towers."""
        return sum(self.groups) == 1

    def cell_ops(self, cell: str) -> Sequence[str]:
        """Op names of a cell type of `CELL_TYPES`."""
        return (OPS_PRESETS[self.ops] if isinstance(self.ops, str) else self.ops)[cell]

    def to_dict(self) -> dict[str, Any]:
        """The configuration as JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> NVAEConfig:
        """The configuration of `to_dict`; left-out keys take their default.

        Raises:
            NVAEConfigError: for a key that does not exist, by name, or a bad value.
        """
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise NVAEConfigError(f"unknown keys {', '.join(unknown)}; the known ones are {', '.join(known)}")
        return cls(**values)

    @classmethod
    def from_checkpoint_args(
        cls, args: argparse.Namespace, arch_instance: Mapping[str, Sequence[str]] | None = None
    ) -> NVAEConfig:
        """The configuration of a network trained by the public NVAE training code.

        Args:
            args: the file's ``args``; the fields that older files lack take the value those versions had.
            arch_instance: the file's op names by cell type; without it ``args.arch_instance`` names a preset.

        Raises:
            NVAEConfigError: for a missing argument, an unknown data set or a bad value.
        """
        values = {"ada_groups": False, "min_groups_per_scale": 1, "num_mixture_dec": 10, **vars(args)}
        needed = {"dataset", "num_postprocess_blocks", *_ARGS.values()}
        if arch_instance is None:
            needed.add("arch_instance")
        else:
            arch_instance = {cell: ops for cell, ops in arch_instance.items() if cell != "ar_nn"}  # never used
        missing = sorted(needed - set(values))
        if missing:
            raise NVAEConfigError(f"the arguments lack {', '.join(missing)}, which shape the network")
        image_size, in_channels = _image_shape(values["dataset"])
        if values["num_postprocess_blocks"] != values["num_preprocess_blocks"]:
            raise NVAEConfigError(
                "expected as many postprocessing as preprocessing blocks, got num_postprocess_blocks="
                f"{values['num_postprocess_blocks']} and num_preprocess_blocks={values['num_preprocess_blocks']}"
            )
        likelihood = "normal" if values["num_mixture_dec"] == 1 else "logistic_mixture"
        return cls(
            image_size=image_size,
            in_channels=in_channels,
            likelihood="bernoulli" if in_channels == 1 else likelihood,
            ops=arch_instance if arch_instance is not None else values["arch_instance"],
            **{ours: values[theirs] for ours, theirs in _ARGS.items()},
        )


# our name -> the public training code's
_ARGS = {
    "num_mixtures": "num_mixture_dec",
    "num_bits": "num_x_bits",
    "num_scales": "num_latent_scales",
    "groups_per_scale": "num_groups_per_scale",
    "ada_groups": "ada_groups",
    "min_groups_per_scale": "min_groups_per_scale",
    "latent_channels": "num_latent_per_group",
    "encoder_channels": "num_channels_enc",
    "decoder_channels": "num_channels_dec",
    "num_blocks": "num_preprocess_blocks",
    "preprocess_cells": "num_preprocess_cells",
    "postprocess_cells": "num_postprocess_cells",
    "encoder_cells": "num_cell_per_cond_enc",
    "decoder_cells": "num_cell_per_cond_dec",
    "use_se": "use_se",
    "res_dist": "res_dist",
    "num_flows": "num_nf",
}


def _image_shape(dataset: object) -> tuple[int, int]:
    """(size, channels) of the images of one of the public training code's data sets."""
    if dataset in ("mnist", "omniglot"):
        return 32, 1
    if dataset == "cifar10":
        return 32, 3
    if dataset == "ffhq":
        return 256, 3
    match = re.fullmatch(r"(?:celeba|imagenet|lsun_\w+)_(\d+)", str(dataset))
    if not match:
        raise NVAEConfigError(
            f"unknown data set {dataset!r}; expected mnist, omniglot, cifar10, ffhq, "
            "celeba_<size>, imagenet_<size> or lsun_<category>_<size>"
        )
    return int(match[1]), 3


def _check_ops(ops: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    if not isinstance(ops, Mapping) or set(ops) != set(CELL_TYPES):
        found = sorted(ops) if isinstance(ops, Mapping) else ops
        raise NVAEConfigError(f"ops must be a preset's name or have the keys {', '.join(CELL_TYPES)}, got {found!r}")
    for cell, names in ops.items():
        if isinstance(names, str) or not names:
            raise NVAEConfigError(f"ops[{cell!r}] must be a list of at least one op name, got {names!r}")
        for name in names:
            if name not in TWO_LAYER_OPS and not (isinstance(name, str) and parse_mconv(name)):
                raise NVAEConfigError(
                    f"unknown op {name!r} in ops[{cell!r}]; expected {', '.join(TWO_LAYER_OPS)} or "
                    "mconv_e<expansion>k<odd kernel size>g<groups, 0 for depthwise>"
                )
    return {cell: list(names) for cell, names in ops.items()}
