"""Configurations: validation, JSON, and the public code's arguments."""

import argparse
import json
from typing import Any

import pytest

from context_module.adapters.nvae import NVAEConfig
from context_module.adapters.nvae.config import OPS_PRESETS, NVAEConfigError

ARGS: dict[str, Any] = {
    "dataset": "cifar10",
    "use_se": True,
    "res_dist": True,
    "num_x_bits": 8,
    "num_latent_scales": 3,
    "num_groups_per_scale": 8,
    "num_latent_per_group": 4,
    "num_channels_enc": 12,
    "num_channels_dec": 12,
    "num_preprocess_blocks": 1,
    "num_preprocess_cells": 2,
    "num_cell_per_cond_enc": 1,
    "num_postprocess_blocks": 1,
    "num_postprocess_cells": 2,
    "num_cell_per_cond_dec": 1,
    "num_nf": 0,
    "arch_instance": "res_mbconv",
}


def test_json_round_trip() -> None:
    for ops in ("mbconv_sep", OPS_PRESETS["res53_mbconv"]):
        config = NVAEConfig(ops=ops, num_flows=2)
        assert NVAEConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"imagesize": 32}, "unknown keys imagesize; the known ones are image_size, "),
        ({"image_size": 30}, "image_size must be a multiple of 4 .* got 30"),
        ({"num_scales": 0}, "num_scales must be an integer of at least 1, got 0"),
        ({"num_flows": -1}, "num_flows must be an integer of at least 0, got -1"),
        ({"num_scales": 2.0}, "num_scales must be an integer of at least 1, got 2.0"),
        ({"use_se": 1}, "use_se must be true or false, got 1"),
        ({"likelihood": "gauss"}, "unknown likelihood 'gauss'; expected one of bernoulli, normal, logistic_mixture"),
        ({"in_channels": 1}, "'logistic_mixture' likelihood needs in_channels=3, got 1"),
        ({"num_bits": 9}, "num_bits must be between 1 and 8, got 9"),
        ({"ops": "res_swish"}, "unknown ops preset 'res_swish'; expected one of res_elu, "),
        ({"ops": {"normal_enc": ["res_elu"]}}, r"have the keys normal_enc, .* got \['normal_enc'\]"),
        ({"ops": {**OPS_PRESETS["res_elu"], "up_dec": []}}, r"ops\['up_dec'\] must be a list of at least one"),
        (
            {"ops": {**OPS_PRESETS["res_elu"], "up_dec": ["mconv_e6k4g0"]}},
            r"unknown op 'mconv_e6k4g0' in ops\['up_dec'",
        ),
    ],
)
def test_bad_values_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(NVAEConfigError, match=message):
        NVAEConfig.from_dict(changes)


def test_groups() -> None:
    halving = NVAEConfig(num_scales=3, groups_per_scale=10, min_groups_per_scale=4)
    assert halving.groups == (10, 5, 4)
    assert halving.group_sizes == (4,) * 4 + (8,) * 5 + (16,) * 10
    assert NVAEConfig(num_scales=3, groups_per_scale=2, ada_groups=False).groups == (2, 2, 2)


@pytest.mark.parametrize(
    ("dataset", "num_mixture_dec", "shape", "likelihood"),
    [
        ("mnist", 10, (32, 1), "bernoulli"),
        ("omniglot", 1, (32, 1), "bernoulli"),
        ("cifar10", 10, (32, 3), "logistic_mixture"),
        ("ffhq", 1, (256, 3), "normal"),
        ("celeba_64", 5, (64, 3), "logistic_mixture"),
        ("imagenet_32", 10, (32, 3), "logistic_mixture"),
        ("lsun_church_outdoor_256", 10, (256, 3), "logistic_mixture"),
    ],
)
def test_data_sets(dataset: str, num_mixture_dec: int, shape: tuple[int, int], likelihood: str) -> None:
    args = argparse.Namespace(**{**ARGS, "dataset": dataset, "num_mixture_dec": num_mixture_dec})
    config = NVAEConfig.from_checkpoint_args(args, OPS_PRESETS["res_elu"])
    assert (config.image_size, config.in_channels) == shape
    assert config.likelihood == likelihood


def test_older_arguments() -> None:
    config = NVAEConfig.from_checkpoint_args(argparse.Namespace(**ARGS))
    assert config.ops == "res_mbconv"
    assert config.num_mixtures == 10
    assert config.groups == (8, 8, 8)
    newer = NVAEConfig.from_checkpoint_args(argparse.Namespace(**ARGS, ada_groups=True, min_groups_per_scale=3))
    assert newer.groups == (8, 4, 3)


def test_the_files_own_ops_win() -> None:
    config = NVAEConfig.from_checkpoint_args(argparse.Namespace(**ARGS), {**OPS_PRESETS["res_elu"], "ar_nn": [""]})
    assert config.cell_ops("up_dec") == ["res_elu", "res_elu"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "imagenet"}, "unknown data set 'imagenet'"),
        ({"num_postprocess_blocks": 2}, "num_postprocess_blocks=2 and num_preprocess_blocks=1"),
    ],
)
def test_bad_arguments_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(NVAEConfigError, match=message):
        NVAEConfig.from_checkpoint_args(argparse.Namespace(**{**ARGS, **changes}))


def test_missing_arguments_are_named() -> None:
    args = {key: value for key, value in ARGS.items() if key not in ("use_se", "arch_instance")}
    with pytest.raises(NVAEConfigError, match="lack arch_instance, use_se, which"):
        NVAEConfig.from_checkpoint_args(argparse.Namespace(**args))
