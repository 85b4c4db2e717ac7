import json

import numpy as np
import pytest

from context_module import ContextModuleConfig
from context_module.errors import CheckpointError, ConceptError
from context_module.nn.config import auto_widths

NEEDED = {"concepts": ("a", "b", "c"), "latent_shape": (2, 4, 4), "num_features": 7}


def test_derived_sizes():
    config = ContextModuleConfig(**NEEDED, noise_width=6, free_blocks=2)
    assert config.num_blocks == 5
    assert config.noise_size == 30


@pytest.mark.parametrize(
    ("depth", "noise_width", "concept_width", "widths"),
    [
        (1, 8, 8, (8,)),
        (2, 32, 8, (32, 8)),
        (3, 16, 5, (16, 10, 5)),
        (4, 32, 8, (32, 24, 16, 8)),
        (5, 3, 9, (3, 4, 6, 7, 9)),
        (6, 15, 4, (15, 12, 10, 8, 6, 4)),
    ],
)
def test_widths_are_the_integer_part_of_even_steps(depth, noise_width, concept_width, widths):
    config = ContextModuleConfig(**NEEDED, depth=depth, noise_width=noise_width, concept_width=concept_width)
    assert config.widths == widths
    if depth > 1:
        assert widths == tuple(np.linspace(noise_width, concept_width, depth).astype(int))


def test_goes_to_json_and_back():
    config = ContextModuleConfig(**NEEDED, form="reduced", composition="published", reference=True)
    assert ContextModuleConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert ContextModuleConfig.from_dict(NEEDED) == ContextModuleConfig(**NEEDED)


BAD = [
    ({"num_features": 0}, "num_features must be an integer of at least 1, got 0"),
    ({"noise_width": 2.5}, "noise_width must be an integer of at least 1, got 2.5"),
    ({"concept_width": True}, "concept_width must be an integer of at least 1, got True"),
    ({"depth": 0}, "depth must be an integer of at least 1, got 0"),
    ({"free_blocks": -1}, "free_blocks must be an integer of at least 0, got -1"),
    ({"posterior_width": "9"}, "posterior_width must be an integer of at least 1, got '9'"),
    ({"latent_shape": ()}, r"latent_shape must hold positive integers, got \(\)"),
    ({"latent_shape": (2, 0)}, r"latent_shape must hold positive integers, got \(2, 0\)"),
    ({"form": "linear"}, "form must be one of structural, reduced, edits, got 'linear'"),
    ({"composition": "sum"}, "composition must be one of do, published, got 'sum'"),
    ({"depth": 1}, r"depth 1 has no layer between the noise \(width 32\) and the concepts \(width 8\)"),
    ({"reference": True}, "it needs form='reduced', free_blocks=0, inversion_width=0 and inversion='dense'"),
    (
        {"reference": True, "form": "reduced", "free_blocks": 1},
        "it needs form='reduced', free_blocks=0, inversion_width=0 and inversion='dense'",
    ),
    ({"concepts": ("a", "a")}, "named more than once: a"),
    ({"concepts": ()}, "no concepts given: name at least one concept.*or ask for free_blocks"),
]


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_refuses_impossible_values(changes, message):
    with pytest.raises(ConceptError if "concepts" in changes else ValueError, match=message):
        ContextModuleConfig(**{**NEEDED, **changes})


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_impossible_values_in_a_file(changes, message):
    with pytest.raises(CheckpointError, match=f"configuration cannot be used: .*{message}"):
        ContextModuleConfig.from_dict({**NEEDED, **changes})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {**NEEDED, "wings": 2, "legs": 4},
            "unknown fields in the module's configuration: legs, wings.*newer version",
        ),
        ({"concepts": ["a"]}, "cannot be used: .*latent_shape"),
        ({**NEEDED, "latent_shape": 5}, "cannot be used"),
        ({**NEEDED, "concepts": None}, "cannot be used"),
    ],
)
def test_unknown_and_missing_fields_in_a_file(content, message):
    with pytest.raises(CheckpointError, match=message):
        ContextModuleConfig.from_dict(content)


@pytest.mark.parametrize(
    ("latent_shape", "num_concepts", "width", "inversion_width"),
    [
        ((128,), 6, 16, 512),  # 8 blocks of 16 are 128 values
        ((8, 4, 4), 6, 16, 512),
        ((128,), 14, 8, 512),
        ((2, 4, 4), 3, 8, 128),
        ((2, 2, 1), 1, 8, 64),  # no narrower than 8 and 64
        ((4, 32, 32), 6, 32, 512),  # no wider than 32 and 512
    ],
)
def test_widths_follow_the_decoder_input_and_the_number_of_concepts(
    latent_shape, num_concepts, width, inversion_width
):
    assert auto_widths(latent_shape, num_concepts) == {
        "noise_width": width,
        "concept_width": width,
        "depth": 2,
        "free_blocks": 2,
        "inversion_width": inversion_width,
    }
