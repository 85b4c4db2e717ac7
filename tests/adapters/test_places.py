"""Bases from where they lie, and where bases say that they come from."""

import pytest
import torch

from context_module import ContextualDecoder, adapt, wrap_decoder
from context_module.adapters import family_of
from context_module.adapters.lightweight import LightweightVAE
from context_module.adapters.nvae import NVAE
from context_module.adapters.transformers import TransformersAdapter
from context_module.errors import CheckpointError
from helpers.bases import tiny_autoencoder, tiny_denoiser, tiny_flux, tiny_nvae
from helpers.draws import seeded
from helpers.files import edit_json
from helpers.models import SMALL

TEXTS = ["the cat sees a ball .", "the dogs run ."]


def language_model():
    return TransformersAdapter.from_texts(TEXTS, hidden_size=8, num_layers=1, virtual_tokens=2, max_tokens=9)


# family -> (what writes it, what reads it as a user does)
FAMILIES = {
    "nvae": (tiny_nvae, NVAE.from_pretrained),
    "lightweight": (lambda: LightweightVAE("conv3"), LightweightVAE.from_pretrained),
    "diffusers": (tiny_autoencoder, lambda folder: library("diffusers").AutoencoderKL.from_pretrained(folder)),
    "denoiser": (
        lambda: tiny_denoiser().pipeline,
        lambda folder: library("diffusers").DDIMPipeline.from_pretrained(folder),
    ),
    "transformers": (
        language_model,
        lambda folder: library("transformers").AutoModelForCausalLM.from_pretrained(folder),
    ),
}


def library(name):
    return pytest.importorskip(name)


@pytest.fixture(params=FAMILIES)
def family(request):
    if request.param in ("diffusers", "transformers", "denoiser"):
        library("transformers" if request.param == "transformers" else "diffusers")
    return request.param


@pytest.fixture
def folder(family, tmp_path):
    torch.manual_seed(0)
    written = FAMILIES[family][0]()
    (written.save if family == "transformers" else written.save_pretrained)(tmp_path / "base")
    return tmp_path / "base"


@pytest.mark.parametrize("kind", [str, lambda path: path], ids=["str", "Path"])
def test_a_folder_is_a_base(kind, family, folder, tmp_path):
    assert family_of(kind(folder)) == family
    model = wrap_decoder(kind(folder), ["a"], **SMALL)
    assert (model.base.name, model.base.source) == (family, str(folder))
    assert model.config.noise_width == SMALL["noise_width"]
    assert not any(module.training for module in model.base.modules())
    model.save_pretrained(tmp_path / "module")
    assert ContextualDecoder.from_pretrained(tmp_path / "module").base.source == str(folder)


def test_a_loaded_model_knows_where_it_came_from(family, folder, tmp_path):
    loaded = FAMILIES[family][1](folder)
    model = wrap_decoder(loaded, ["a"], **SMALL).eval()
    assert model.base.source == str(folder)
    model.save_pretrained(tmp_path / "module")
    again = ContextualDecoder.from_pretrained(tmp_path / "module")  # by itself
    one, other = (m.generate(2, do="a", generator=seeded()) for m in (model, again))
    assert one == other if family == "transformers" else torch.equal(one, other)


def test_what_was_made_here_comes_from_nowhere(family):
    made = FAMILIES[family][0]()
    assert adapt(made).source is None


def test_an_encoder_given_by_hand_does_not_lie_with_the_pipeline(tmp_path):
    library("diffusers")
    base = tiny_denoiser(autoencoder=True)
    base.pipeline.save_pretrained(tmp_path)  # without the encoder
    loaded = library("diffusers").DDIMPipeline.from_pretrained(tmp_path)
    assert adapt(loaded).source == str(tmp_path)
    assert adapt(loaded, encoder=base.encoder).source is None


def test_an_nvae_of_a_checkpoint_file(tmp_path):
    (tmp_path / "checkpoint.pt").write_bytes(b"")
    assert family_of(tmp_path / "checkpoint.pt") == "nvae"


def test_options_reach_the_base(tmp_path):
    library("diffusers")
    tiny_autoencoder().save_pretrained(tmp_path / "pipeline" / "vae")
    base = wrap_decoder(tmp_path / "pipeline", ["a"], subfolder="vae", sample_size=16, depth=1).base
    assert base.image_shape == (3, 16, 16)
    assert base.options == {"subfolder": "vae", "sample_size": 16}
    with pytest.raises(ValueError, match=r"a 'diffusers' base takes no option wings \(3\): it takes revision"):
        wrap_decoder(tmp_path / "pipeline", ["a"], subfolder="vae", wings=3)


def test_options_of_models_that_are_loaded_already():
    model = wrap_decoder(language_model().net, ["a"], tokenizer=language_model().tokenizer, virtual_tokens=3)
    assert model.base.latent.shape[3] == 3
    with pytest.raises(
        TypeError,
        match="unknown option wings: a 'transformers' base that is loaded already takes tokenizer, virtual_tokens, ",
    ):
        wrap_decoder(language_model().net, ["a"], wings=3)
    with pytest.raises(
        TypeError,
        match="option tokenizer: a 'nvae' base that is loaded already takes none; wrap_decoder takes the fields of",
    ):
        wrap_decoder(tiny_nvae(), ["a"], tokenizer=3)


def test_lora_of_peft_is_of_the_family_of_its_base(tmp_path):
    peft = library("peft")
    tiny_autoencoder().save_pretrained(tmp_path / "vae")
    net = library("diffusers").AutoencoderKL.from_pretrained(tmp_path / "vae")
    tuned = peft.get_peft_model(net, peft.LoraConfig(r=2, target_modules=["to_q"]))
    tuned.save_pretrained(tmp_path / "lora")
    edit_json(tmp_path / "lora" / "adapter_config.json", base_model_name_or_path=str(tmp_path / "vae"))
    assert family_of(tmp_path / "lora") == "diffusers"
    assert wrap_decoder(tmp_path / "lora", ["a"]).base.source == str(tmp_path / "lora")


def test_places_without_a_base(tmp_path, family, folder):
    with pytest.raises(CheckpointError, match="no such file or folder; expected a folder with a model_index.json"):
        wrap_decoder(tmp_path / "nowhere", ["a"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="empty holds no base that is known here: expected a folder with a"):
        wrap_decoder(tmp_path / "empty", ["a"])
    (tmp_path / "empty" / "config.json").write_text('{"wheels": 4}')
    with pytest.raises(CheckpointError, match=r"config.json of no base that is known here \(its entries: wheels\)"):
        wrap_decoder(tmp_path / "empty", ["a"])
    wrap_decoder(folder, ["a"]).save_pretrained(tmp_path / "module")
    with pytest.raises(CheckpointError, match="module holds a context module, not a base: ContextualDecoder.from_pre"):
        wrap_decoder(tmp_path / "module", ["a"])
    if family == "denoiser":
        with pytest.raises(CheckpointError, match="holds a UNet2DModel alone, which does not say how noisy"):
            wrap_decoder(folder / "unet", ["a"])


def test_a_pipeline_by_its_folder_takes_its_options(tmp_path):
    library("diffusers")
    tiny_flux().save_pretrained(tmp_path)
    model = wrap_decoder(tmp_path, ["a"], sample_size=8, tokens=2, num_inference_steps=2)
    assert model.base.latent.shape[0] == 2
    assert model.base.options["num_inference_steps"] == 2
