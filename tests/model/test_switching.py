"""Several modules around one base."""

import copy

import pytest
import torch

from context_module import ContextualDecoder, adapt
from context_module.errors import AdapterError, CheckpointError
from helpers.draws import seeded
from helpers.models import randomise_lora, wrapped_at_random
from helpers.tensors import same, state


def wrapped(base, concepts=("a", "b"), lora=False, **options):
    """A model whose module, and LoRA, are at random."""
    model = wrapped_at_random(base, concepts, **options)
    return randomise_lora(model.add_lora(rank=2), 0.5).eval() if lora else model


def made(model, do=None, **options):
    return model.generate(3, do=do, generator=seeded(2), **options)


@pytest.fixture
def folders(make_base, tmp_path):
    """Two modules for one base, in folders: of the concepts a and b, and with LoRA of the concept hue."""
    wrapped(make_base("lightweight")).save_pretrained(tmp_path / "letters")
    wrapped(make_base("lightweight"), ["hue"], seed=3, lora=True).save_pretrained(tmp_path / "hues")
    return tmp_path


def alone(folders, name, make_base):
    return ContextualDecoder.from_pretrained(folders / name, base=make_base("lightweight"))


def test_each_is_what_it_is_alone(folders, make_base):
    letters, hues = (alone(folders, name, make_base) for name in ("letters", "hues"))
    model = alone(folders, "letters", make_base)
    base = state(model.base)
    assert model.load_adapter(folders / "hues", "hues") is None
    assert (model.active_adapter, model.adapters) == ("default", ("default", "hues"))
    assert model.concepts == ["a", "b"]  # not yet
    assert same(state(model), state(letters))
    for _ in range(2):
        assert model.set_adapter("hues") is model
        assert model.adapters == ("hues", "default")
        assert model.concepts == ["hue"]
        assert torch.equal(made(model, "hue"), made(hues, "hue"))
        assert same(state(model), state(hues))
        assert model.lora == hues.lora
        model.set_adapter("default")
        assert model.concepts == ["a", "b"]
        assert torch.equal(made(model, "a+b"), made(letters, "a+b"))
        assert same(state(model.base), base)
    assert not model.training
    x = torch.rand(2, *model.base.image_shape)
    assert torch.equal(model.abduct(x, "a").noise, letters.abduct(x, "a").noise)


def test_from_lora_to_none_and_back(folders, make_base):
    """The other way round: the first one has LoRA, and the second goes onto the base without it."""
    model = alone(folders, "hues", make_base)
    before = made(model, "hue")
    model.load_adapter(folders / "letters", "letters")
    assert torch.equal(made(model, "hue"), before)
    model.set_adapter("letters")
    assert torch.equal(made(model, "a"), made(alone(folders, "letters", make_base), "a"))
    assert torch.equal(made(copy.deepcopy(model).set_adapter("default"), "hue"), before)


def test_only_the_active_one_trains(folders, make_base):
    model = alone(folders, "letters", make_base).train()
    model.load_adapter(folders / "hues", "hues")
    assert model.training
    assert not model.base.training
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert names == {name for name, _ in model.named_parameters() if not name.startswith("held.")}
    x = torch.rand(2, *model.base.image_shape)
    model.set_adapter("hues")
    assert model.module.training
    model(x, ["obs", "hue"]).loss.mean().backward()
    assert all(p.grad is not None for p in model.module.parameters())
    with pytest.raises(ValueError, match="unknown concept 'a'"):
        model(x, ["obs", "a"])


def test_saved_as_peft_saves_them(folders, make_base, tmp_path):
    model = alone(folders, "letters", make_base)
    model.load_adapter(folders / "hues", "hues")
    model.set_adapter("hues")
    model.save_pretrained(tmp_path / "both")
    assert model.active_adapter == "hues"
    found = {str(path.relative_to(tmp_path / "both")) for path in (tmp_path / "both").rglob("*") if path.is_file()}
    files = {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    assert found == files | {f"hues/{name}" for name in files}
    again = ContextualDecoder.from_pretrained(tmp_path / "both", base=make_base("lightweight"))
    assert again.adapters == ("default",)
    again.load_adapter(tmp_path / "both", "colours", subfolder="hues")
    assert torch.equal(made(again, "a"), made(alone(folders, "letters", make_base), "a"))
    assert torch.equal(made(again.set_adapter("colours"), "hue"), made(model, "hue"))
    again.save_pretrained(tmp_path / "one", selected_adapters=["colours"])
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["colours"]
    with pytest.raises(CheckpointError, match=r"has modules in subfolders: load one of them with subfolder='colours'"):
        ContextualDecoder.from_pretrained(tmp_path / "one", base=make_base("lightweight"))
    named = ContextualDecoder.from_pretrained(
        tmp_path / "one", subfolder="colours", adapter_name="paint", base=make_base("lightweight")
    )
    named.save_pretrained(tmp_path / "two")
    assert [path.name for path in (tmp_path / "two").iterdir()] == ["paint"]


def test_errors(folders, make_base):
    model = alone(folders, "letters", make_base)
    model.load_adapter(folders / "hues", "hues")
    with pytest.raises(AdapterError, match="no module is loaded under the name 'x'; modules: default, hues"):
        model.set_adapter("x")
    with pytest.raises(AdapterError, match="no module is loaded under the name 'x'"):
        model.save_pretrained(folders / "new", selected_adapters=["x"])
    with pytest.raises(AdapterError, match="there is a module 'hues' already; modules: default, hues"):
        model.load_adapter(folders / "hues", "hues")
    for name in ("base", "checkpoint-3", "a/b", "..", ""):
        with pytest.raises(AdapterError, match=f"a module cannot be named '{name}'"):
            model.load_adapter(folders / "hues", name)
    for call in (model.unfreeze_base, model.merge_lora):
        with pytest.raises(AdapterError, match="the modules hues were trained on it as it is. delete_adapter them"):
            call()
    with pytest.raises(AdapterError, match="'default' is the active module: set_adapter to another one"):
        model.delete_adapter("default")
    assert model.delete_adapter("hues").adapters == ("default",)
    with pytest.raises(AdapterError, match="the base trains, so no other module fits it"):
        model.unfreeze_base().load_adapter(folders / "hues", "hues")


def test_a_module_of_another_base_leaves_all_as_it_was(folders, make_base):
    model = ContextualDecoder.from_pretrained(folders / "hues", base=make_base("lightweight"))
    wrapped(make_base("lightweight", seed=1)).save_pretrained(folders / "other")
    before = made(model, "hue")
    with pytest.raises(CheckpointError, match="other was trained on another base"):
        model.load_adapter(folders / "other", "other")
    assert model.adapters == ("default",)
    assert torch.equal(made(model, "hue"), before)


# --- none


@torch.no_grad()
def test_the_bare_base(base):
    adapter = adapt(base).requires_grad_(False)  # frozen, as the model has it: kernels may round in another way then
    generator = seeded(2)
    samples = adapter.decode(adapter.sample_latent(3, generator).to(adapter.dtype), generator=generator).mean
    model = wrapped(adapter, lora=True, latent_noise=True)
    x, before = torch.rand(3, *model.base.image_shape), made(model, "a")
    with model.disable_adapter():
        assert torch.equal(made(model), samples.float())
        assert torch.equal(made(model, "obs"), samples.float())
        out = model(x, "a")
        assert not out.kl_noise.any()
        assert torch.allclose(out.loss, out.neg_log_likelihood + out.kl_base)
        assert out.reconstruction.shape == x.shape
        for call in (lambda: made(model, "a"), lambda: model.abduct(x), lambda: model.posterior(x), model.graph):
            with pytest.raises(AdapterError, match="module, which disable_adapter has switched off: leave its"):
                call()
        for call in (lambda: model.save_pretrained("nowhere"), lambda: model.set_adapter("x")):
            with pytest.raises(AdapterError, match="switched off"):
                call()
    assert torch.equal(made(model, "a"), before)


def test_an_error_in_the_block_leaves_the_module_on(make_base):
    model = wrapped(make_base("lightweight"), lora=True)
    before = made(model, "a")
    with pytest.raises(ZeroDivisionError), model.disable_adapter():
        raise ZeroDivisionError
    assert torch.equal(made(model, "a"), before)


def test_the_bare_base_has_its_own_elbo(make_base):
    from context_module.evaluation import subject_of
    from context_module.metrics import reconstruction_bits

    model = wrapped(make_base("lightweight"))
    x = torch.rand(12, *model.base.image_shape)
    with model.disable_adapter():
        loss = model(x, "obs", generator=seeded(0)).loss
    bits = reconstruction_bits(subject_of(model.base), x).per_dimension.value
    assert loss.mean().item() / (x[0].numel() * 0.6931471805599453) == pytest.approx(bits, rel=1e-5)
