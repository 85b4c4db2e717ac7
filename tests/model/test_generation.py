"""What people who know diffusers, transformers and peft reach for."""

import numpy as np
import pytest
import torch
from PIL import Image

from context_module import wrap_decoder
from context_module.adapters.lightweight import LightweightVAE
from context_module.errors import AdapterError, ShapeError
from helpers.draws import seeded


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = wrap_decoder(LightweightVAE("conv3"), ("a", "b"), noise_width=2, concept_width=2)
    with torch.no_grad():
        for parameter in model.module.parameters():
            parameter.add_(torch.randn_like(parameter))
    return model.eval()


def test_a_seed_is_a_generator(model):
    assert torch.equal(model.generate(3, do="a", seed=7), model.generate(3, do="a", generator=seeded(7)))
    assert not torch.equal(model.generate(3, seed=7), model.generate(3, seed=8))
    with model.disable_adapter():
        assert torch.equal(model.generate(3, seed=7), model.generate(3, generator=seeded(7)))


def test_many_are_decoded_some_at_a_time(model, monkeypatch):
    sizes, decode = [], model.base.decode
    monkeypatch.setattr(
        model.base, "decode", lambda latent, *a, **o: sizes.append(len(latent)) or decode(latent, *a, **o)
    )
    noise = model.module.sample_noise(300, generator=seeded())
    whole = model.generate(noise=noise, do="a", seed=1)
    assert sizes == [128, 128, 44]
    torch.testing.assert_close(
        whole[200:210], model.generate(noise=noise[200:210], do="a", seed=1), rtol=1e-3, atol=1e-6
    )


def test_pictures_and_arrays(model):
    tensor = model.generate(2, seed=1)
    array = model.generate(2, seed=1, output_type="np")
    assert array.shape == (2, 28, 28, 1)
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, tensor.permute(0, 2, 3, 1).numpy())
    pictures = model.generate(2, seed=1, output_type="pil")
    assert [(picture.mode, picture.size) for picture in pictures] == [("L", (28, 28))] * 2
    assert isinstance(pictures[0], Image.Image)
    np.testing.assert_allclose(np.asarray(pictures[1]) / 255, array[1, :, :, 0], atol=0.5 / 255 + 1e-6)


def test_a_list_is_a_context_per_image(model):
    noise = model.module.sample_noise(3, generator=seeded())
    made = model.generate(noise=noise, do=["a", "obs", "a+b"], seed=0)
    for row, context in enumerate(["a", None, ("a", "b")]):
        alone = model.generate(noise=noise, do=context, seed=0)
        torch.testing.assert_close(made[row], alone[row])
    tuples = model.generate(noise=noise, do=["a", (), ("b", "a")], seed=0)
    assert torch.equal(made, tuples)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": 0, "generator": seeded()}, "a generator or a seed, not both"),
        ({"output_type": "jpeg"}, "unknown output_type 'jpeg': expected 'pt', 'np' or 'pil'"),
        ({"num_inference_steps": 5}, "a 'lightweight' base takes no num_inference_steps: it generates in one pass"),
    ],
)
def test_what_cannot_be(model, options, message):
    with pytest.raises(ValueError, match=message):
        model.generate(2, **options)


def test_a_list_of_another_length_names_both_ways_out(model):
    with pytest.raises(ShapeError, match=r"got 2 for 3 images: \['a', 'b'\]; for a joint .* give a tuple, or 'a\+b'"):
        model.generate(3, do=["a", "b"])


def test_outputs_are_indexed_by_name_and_place(model):
    out = model(torch.rand(2, 1, 28, 28), "a")
    assert out["loss"] is out.loss is out[0]
    assert out["kl_base"] is out.kl_base
    with pytest.raises(KeyError, match="no 'logits' in the output; it has loss, neg_log_likelihood, "):
        out["logits"]


def test_names_of_peft_and_transformers(model):
    module = sum(p.numel() for p in model.slot.parameters())
    assert model.get_nb_trainable_parameters() == (module, model.num_parameters())
    assert model.num_parameters(only_trainable=True) == module
    assert model.num_parameters() == module + sum(p.numel() for p in model.base.parameters())
    assert (model.device.type, model.dtype) == ("cpu", torch.float32)
    assert model.active_adapters == ["default"]
    assert model.peft_config == {"default": model.config}
    assert model.get_base_model() is model.base
    assert model.merge_and_unload() is model.unload() is model.base
    assert repr(model) == (
        f"ContextualDecoder(lightweight of {model.base.takes}, concepts a, b, structural, {module:,d} of "
        f"{model.num_parameters():,d} parameters train)"
    )


def test_one_module_at_a_time(model):
    with pytest.raises(AdapterError, match="one module is active at a time, got .*: add_concept"):
        model.set_adapter(["default", "other"])


def test_lora_is_merged_or_taken_off():
    pytest.importorskip("peft")
    for leave in ("merge_and_unload", "unload"):
        torch.manual_seed(0)
        model = wrap_decoder(LightweightVAE("conv3"), ("a",), noise_width=2, concept_width=2).add_lora(2)
        with torch.no_grad():
            for name, parameter in model.base.named_parameters():
                if "lora" in name:
                    parameter.normal_()
        latent = torch.randn(2, *model.base.latent.shape)
        with_lora = model.base.decode(latent).mean
        with model.disable_adapter():
            without = model.base.decode(latent).mean
        base = getattr(model, leave)()
        assert not any("lora" in name for name, _ in base.named_parameters())
        expected = with_lora if leave == "merge_and_unload" else without
        torch.testing.assert_close(base.decode(latent).mean, expected, atol=1e-5, rtol=1e-4)


def test_gradient_checkpointing_needs_a_network_that_knows_how(model):
    with pytest.raises(ValueError, match="no network of a 'lightweight' base knows gradient checkpointing"):
        model.gradient_checkpointing_enable()
