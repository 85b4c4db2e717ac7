"""The wrapped base. `base` runs a test on a base of every family; adapters/test_every_adapter.py on every class."""

import functools
import importlib.metadata
import itertools
import json
import struct

import pytest
import safetensors.torch
import torch
from torch import nn

from context_module import ContextModuleConfig, ContextualDecoder, adapt, wrap_decoder
from context_module.adapters import (
    DecoderAdapter,
    Decoding,
    Encoding,
    LatentSpec,
    available_adapters,
    get_adapter,
    register_adapter,
)
from context_module.adapters.lightweight import LightweightVAE
from context_module.adapters.likelihoods import BernoulliLikelihood
from context_module.base.fingerprint import fingerprint
from context_module.errors import CheckpointError, ConceptError, ContextModuleError, ShapeError
from helpers.draws import seeded
from helpers.files import edit_json, edit_tensors
from helpers.models import wrapped_at_random
from helpers.tensors import same, state

CONFIG, WEIGHTS, CARD = "adapter_config.json", "adapter_model.safetensors", "README.md"
CONTEXTS = ["obs", "a", "b", "c", "a+b", "b+c+a"]


wrapped = functools.partial(wrapped_at_random, concepts=["a", "b", "c"], free_blocks=0, inversion_width=0)


def images(model, n=6):
    return torch.rand(n, *model.base.image_shape, generator=seeded(2))


# -- losses


def test_losses_per_sample(base):
    model = wrapped(base)
    x = images(model)
    out = model(x, CONTEXTS, beta=0.3, generator=seeded())
    for loss in (out.loss, out.neg_log_likelihood, out.kl_noise, out.kl_base):
        assert loss.shape == (6,)
        assert loss.dtype == torch.float32
        assert loss.isfinite().all()
    assert torch.allclose(out.loss, out.neg_log_likelihood + 0.3 * out.kl_noise + out.kl_base)
    assert torch.equal(out.neg_log_likelihood, -out.decoding.log_prob(x))
    assert (out.kl_noise > 0).all()
    assert out.kl_base.any() == (model.base.name == "nvae")
    assert out.reconstruction.shape == x.shape
    assert out.reconstruction.aminmax()[0] >= 0
    assert out.reconstruction.aminmax()[1] <= 1
    # the Gaussian KL in closed form
    posterior = model.posterior(x, CONTEXTS)
    kl = 0.5 * (posterior.mean**2 + posterior.variance - posterior.variance.log() - 1).sum(1)
    assert torch.allclose(out.kl_noise, kl, rtol=1e-4)


def test_names_and_mask_say_the_same(base):
    model = wrapped(base)
    x = images(model)
    by_name = model(x, CONTEXTS, generator=seeded())
    by_mask = model(x, model.concepts.mask(CONTEXTS), generator=seeded())
    assert torch.equal(by_name.loss, by_mask.loss)
    assert not torch.equal(by_name.loss, model(x, "obs", generator=seeded()).loss)
    assert torch.equal(model(x, "a", generator=seeded()).loss, model(x, ["a"] * 6, generator=seeded()).loss)


def test_posterior(base):
    model = wrapped(base, free_blocks=1)
    x = images(model)
    posterior = model.posterior(x, CONTEXTS)
    assert isinstance(posterior, torch.distributions.Normal)
    assert posterior.mean.shape == posterior.stddev.shape == (6, 16)
    assert torch.equal(model.posterior(x).mean, model.posterior(x, "obs").mean)
    assert not torch.equal(model.posterior(x).mean, model.posterior(x, "a").mean)


def test_an_image_unlike_all_others_has_a_bounded_posterior(make_base):
    model = wrapped(make_base("modules"))
    nn.init.constant_(model.posterior_heads.log_var.bias, 40.0)  # as heads extrapolate now and then
    out = model(images(model), "a", generator=seeded())
    assert (model.posterior(images(model), "a").variance < 8).all()
    assert (out.kl_noise < 100 * model.config.noise_size).all()


# -- generation


def test_generates_images(base):
    model = wrapped(base)
    made = model.generate(3, generator=seeded())
    assert made.shape == (3, *model.base.image_shape)
    assert made.dtype == torch.float32
    assert not made.requires_grad
    assert made.min() >= 0
    assert made.max() <= 1
    assert torch.equal(made, model.generate(3, generator=seeded()))
    assert not torch.equal(made, model.generate(3, generator=seeded(1)))


@pytest.mark.parametrize(
    "spellings",
    [
        [None, "obs", (), torch.zeros(2, 3).bool(), torch.zeros(3).bool()],
        ["b", ("b",), ["b", "b"], {"b"}, torch.tensor([[False, True, False]] * 2)],
        ["a+b", "b+a", ("a", "b"), ("b", "a"), {"a", "b"}, ["a+b", ("b", "a")], torch.tensor([True, True, False])],
    ],
    ids=["obs", "b", "a+b"],
)
def test_ways_to_write_an_intervention(base, spellings):
    model = wrapped(base)
    first, *others = [model.generate(2, do=do, generator=seeded()) for do in spellings]
    for other in others:
        assert torch.equal(first, other)


def test_interventions_change_images(base):
    model = wrapped(base)
    made = [model.generate(2, do=do, generator=seeded()) for do in CONTEXTS]
    for one, other in itertools.combinations(made, 2):
        assert not torch.equal(one, other)
    mask = model.concepts.mask(["a", "b+c"])
    mixed = model.generate(2, do=mask, temperature=0)
    assert torch.allclose(mixed[:1], model.generate(1, do="a", temperature=0), atol=1e-6)
    assert torch.allclose(mixed[1:], model.generate(1, do="b+c", temperature=0), atol=1e-6)


def test_noise_in_place_of_a_count(base):
    model = wrapped(base)
    noise = model.module.sample_noise(2, generator=seeded())
    assert torch.equal(
        model.generate(noise=noise, do="a", generator=seeded()),
        model.generate(noise=noise, do="a", generator=seeded()),
    )
    with pytest.raises(ValueError, match="needs either n, the number of images, or noise=..., not both"):
        model.generate(2, noise=noise)
    with pytest.raises(ValueError, match="needs either n"):
        model.generate(do="a")
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        model.generate(0)
    with pytest.raises(ShapeError, match=r"noise must have shape \(batch, 12\)"):
        model.generate(noise=noise[:, :-1])
    with pytest.raises(ShapeError, match="has 3 rows for a batch of 2"):
        model.generate(noise=noise, do=torch.zeros(3, 3).bool())
    with pytest.raises(ConceptError, match="unknown concept 'z'"):
        model.generate(2, do=("a", "z"))


def test_temperature(base):
    model = wrapped(base)
    still = model.generate(2, temperature=0)
    assert torch.allclose(still[0], still[1], atol=1e-6)
    assert torch.equal(still, model.generate(2, temperature=0))
    calm, hot = (model.generate(16, temperature=t, generator=seeded()).std(0).mean() for t in (0.1, 1.0))
    assert calm < hot
    for bad in (-0.1, float("nan")):
        with pytest.raises(ValueError, match=f"temperature must be a number from 0 to 1e.06, got {bad}"):
            model.generate(2, temperature=bad)


def test_draws_from_the_likelihood(base):
    model = wrapped(base)
    drawn = model.generate(2, sample=True, generator=seeded())
    steps = 255 if model.base.name == "diffusers" else 1  # the others' images are of Bernoulli variables
    assert torch.equal((drawn * steps).round() / steps, drawn)
    assert torch.equal(drawn, model.generate(2, sample=True, generator=seeded()))
    assert not torch.equal(drawn, model.generate(2, generator=seeded()))


def test_generating_leaves_no_trace(make_base):
    model = wrapped(make_base("modules"), form="reduced", reference=True).train()  # the module has a batch norm itself
    before, random = state(model), torch.get_rng_state()
    x = images(model)
    made = model.generate(4, generator=seeded())
    model.generate(noise=model.abduct(x, CONTEXTS), do="a")
    assert model.training
    assert model.module.training
    assert not model.base.training
    assert same(state(model), before)
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(made, model.eval().generate(4, generator=seeded()))
    with pytest.raises(ShapeError):
        model.train().generate(noise=torch.zeros(2, 1))
    assert model.training


# -- counterfactuals


def test_abduct_draws_from_the_posterior(base):
    model = wrapped_at_random(base)
    x = images(model)
    first, again = (model.abduct(x, sample=True, generator=seeded(1)) for _ in range(2))
    assert torch.equal(first.noise, again.noise)
    posterior = model.posterior(x)
    drawn = torch.stack([model.abduct(x, sample=True, generator=seeded(i)).noise for i in range(40)])
    assert ((drawn.mean(0) - posterior.mean).abs() < 5 * posterior.stddev / 40**0.5).all()


def test_abduct_with_a_context_per_image(base):
    model = wrapped(base)
    x = images(model)
    mask = model.concepts.mask(CONTEXTS)
    together = model.generate(noise=model.abduct(x, CONTEXTS), do=mask)
    for k, context in enumerate(CONTEXTS):
        alone = model.generate(noise=model.abduct(x[k : k + 1], context), do=context)
        assert torch.allclose(together[k : k + 1], alone, atol=1e-5)
    assert torch.equal(model.abduct(x).noise, model.abduct(x, "obs").noise)


# -- what is refused

BAD_IMAGES = {
    "size": (lambda x: x[..., 1:], r"takes images of shape \(batch, 1, 8, 8\) \(channels, height, width\), got"),
    "channels": (lambda x: x.expand(-1, 3, -1, -1), r"got \(6, 3, 8, 8\): resize or convert the images"),
    "no batch": (lambda x: x[0], r"got \(1, 8, 8\)"),
    "uint8": (lambda x: (x * 255).byte(), r"got torch.uint8: use x.float\(\) / 255"),
    "list": (lambda x: x.tolist(), "got list"),
    "0 to 255": (lambda x: x * 0 + 255, r"in \[0, 1\], got a range of \[255, 255\]"),
    "negative": (lambda x: x - 2, r"in \[0, 1\], got a range of \[-"),
    "NaN": (lambda x: x.index_fill(0, torch.tensor([1]), torch.nan), r"got a range of \[nan, nan\]"),
    "infinite": (lambda x: x.index_fill(0, torch.tensor([1]), torch.inf), "inf"),
}


@pytest.mark.parametrize("case", BAD_IMAGES)
def test_refuses_images(case, make_base):
    spoil, message = BAD_IMAGES[case]
    model = wrapped(make_base("modules"))
    x = spoil(images(model))
    for call in (lambda: model(x, "obs"), lambda: model.posterior(x), lambda: model.abduct(x)):
        with pytest.raises(ShapeError, match=message):
            call()


@pytest.mark.parametrize(
    ("contexts", "error", "message"),
    [
        ("d", ConceptError, "unknown concept 'd'; known concepts: a, b, c"),
        (["obs", "a"], ShapeError, "2 context names for a batch of 6"),
        (torch.zeros(5, 3).bool(), ShapeError, "has 5 rows for a batch of 6"),
        (torch.zeros(6, 2).bool(), ShapeError, r"shape \(batch, 3\) for the concepts a, b, c, got \(6, 2\)"),
        (torch.zeros(6, 3), ShapeError, "must be torch.bool"),
    ],
)
def test_refuses_contexts(contexts, error, message, make_base):
    model = wrapped(make_base("modules"))
    x = images(model)
    for call in (model.forward, model.posterior, model.abduct):
        with pytest.raises(error, match=message):
            call(x, contexts)


def test_refuses_a_configuration_made_for_another_base(make_base):
    config = ContextModuleConfig(concepts=("a",), latent_shape=(128,), num_features=128)
    with pytest.raises(
        ShapeError,
        match=r"made for decoder inputs of shape \(128,\) and 128 encoder features; the base 'modules' has "
        r"\(2, 2, 2\) and 8",
    ):
        ContextualDecoder(make_base("modules"), config)
    with pytest.raises(TypeError, match="wings"):
        wrap_decoder(make_base("modules"), ["a"], wings=2)
    with pytest.raises(ValueError, match="noise_width must be"):
        wrap_decoder(make_base("modules"), ["a"], noise_width=0)


def test_widths_that_are_left_out_are_chosen(make_base):
    def widths(**options):
        config = wrap_decoder(make_base("modules"), ["a"], **options).config
        return config.noise_width, config.concept_width, config.depth, config.free_blocks, config.inversion_width

    assert widths() == widths(depth=None) == (8, 8, 2, 2, 64)
    assert widths(noise_width=3, free_blocks=0, inversion_width=0) == (3, 8, 2, 0, 0)
    assert widths(reference=True, form="reduced") == (32, 8, 2, 0, 0)  # the paper's


# -- files


@pytest.mark.parametrize("options", [{"free_blocks": 1, "depth": 3}, {"form": "reduced", "reference": True}], ids=str)
def test_saves_and_loads_bit_for_bit(options, make_base, tmp_path):
    model = wrapped(make_base("modules"), **options)
    model.train()(images(model), CONTEXTS)  # moves the module's batch-norm statistics, if it has any
    model.save_pretrained(tmp_path / "new" / "folder")
    again = ContextualDecoder.from_pretrained(tmp_path / "new" / "folder", base=make_base("modules"))
    assert not any(module.training for module in again.modules())
    assert again.config == model.config
    assert same(state(again), state(model))
    for do in CONTEXTS:
        one, other = (m.generate(2, do=do, generator=seeded()) for m in (model, again))
        assert torch.equal(one, other)


def test_the_file_holds_module_and_heads_only(base, tmp_path, capsys):
    model = wrapped(base)
    model.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([CARD, CONFIG, WEIGHTS])
    tensors = safetensors.torch.load_file(tmp_path / WEIGHTS)
    assert {name.partition(".")[0] for name in tensors} == {"module", "posterior_heads"}
    count = sum(tensor.numel() for tensor in tensors.values())
    total = count + sum(parameter.numel() for parameter in model.base.parameters())
    assert model.get_nb_trainable_parameters() == (count, total)
    model.print_trainable_parameters()
    share = f"{100 * count / total:.4f}"
    assert (
        capsys.readouterr().out == f"trainable params: {count:,d} || all params: {total:,d} || trainable%: {share}\n"
    )
    config = json.loads((tmp_path / CONFIG).read_text())
    assert len(config.pop("sha256")) == 64
    assert config == {
        "base_adapter": model.base.name,
        "base_fingerprint": fingerprint(model.base),
        "base_name_or_path": None,
        "context_module_version": importlib.metadata.version("context-module"),
        "module": model.config.to_dict(),
    }
    card = (tmp_path / CARD).read_text()
    for part in (
        "- `a`\n- `b`\n- `c`\n",
        f"{count:,d} values",
        "tags: [context-module, causal-representation-learning",
    ):
        assert part in card


@pytest.fixture
def saved(make_base, tmp_path):
    """A saved module for the tiny modules base."""
    wrapped(make_base("modules")).save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def test_saving_again_keeps_an_edited_card(saved, make_base):
    (saved / CARD).write_text("mine")
    model = wrapped(make_base("modules"), depth=4)
    model.save_pretrained(saved)
    assert (saved / CARD).read_text() == "mine"
    assert ContextualDecoder.from_pretrained(saved, base=make_base("modules")).config.depth == 4
    assert not list(saved.glob("*.tmp")) + list(saved.glob(".*"))


def truncate(path, keep):
    path.write_bytes(path.read_bytes()[:keep])


BIAS = "module.intervention.bias"
SPOILED = {
    "missing tensor": (
        lambda d: edit_tensors(d / WEIGHTS, lambda t: t.pop(BIAS)),
        f"does not fit the model.*missing: {BIAS}",
    ),
    "extra tensor": (lambda d: edit_tensors(d / WEIGHTS, lambda t: t.update(tail=torch.ones(1))), "unexpected: tail"),
    "base tensor": (
        lambda d: edit_tensors(d / WEIGHTS, lambda t: t.update({"base.encoder.0.bias": torch.ones(4)})),
        "unexpected: base.encoder.0.bias",
    ),
    "wrong shape": (
        lambda d: edit_tensors(d / WEIGHTS, lambda t: t.update({BIAS: torch.ones(4)})),
        rf"{BIAS}: shape \(4,\) in the file, \(9,\) in the model",
    ),
    "no tensors": (lambda d: edit_tensors(d / WEIGHTS, lambda t: t.clear()), "missing: .*; and [0-9]+ more"),
    "truncated tensors": (lambda d: truncate(d / WEIGHTS, 500), f"{WEIGHTS} is not a readable safetensors file"),
    "empty tensors": (lambda d: truncate(d / WEIGHTS, 0), f"{WEIGHTS} is not a readable safetensors file"),
    "a pickle": (
        lambda d: torch.save({BIAS: torch.ones(9)}, d / WEIGHTS),
        f"{WEIGHTS} is not a readable safetensors file",
    ),
    "header past the end": (
        lambda d: (d / WEIGHTS).write_bytes(struct.pack("<Q", 10**9) + b"{}"),
        f"{WEIGHTS} is not a readable safetensors file",
    ),
    "truncated configuration": (lambda d: truncate(d / CONFIG, 40), f"{CONFIG} is not valid JSON"),
    "binary configuration": (lambda d: (d / CONFIG).write_bytes(b"\xff\xfe\x00"), f"{CONFIG} is not valid JSON"),
    "a list": (lambda d: (d / CONFIG).write_text("[1]"), f"{CONFIG} holds a JSON list, expected an object"),
    "no configuration": (lambda d: (d / CONFIG).unlink(), f"{CONFIG} does not exist: expected a folder written by"),
    "no weights": (lambda d: (d / WEIGHTS).unlink(), f"{WEIGHTS} does not exist: expected a folder written by"),
    "peft's": (
        lambda d: (d / CONFIG).write_text('{"peft_type": "LORA"}'),
        "holds no context module: no base_adapter, base_fingerprint, module in its configuration",
    ),
    "newer version": (
        lambda d: edit_json(d / CONFIG, module={"wings": 2}),
        "unknown fields in the module's configuration: wings",
    ),
    "impossible module": (lambda d: edit_json(d / CONFIG, module={"concepts": []}), "configuration cannot be used"),
    "module of another kind": (lambda d: edit_json(d / CONFIG, module=None), "configuration cannot be used"),
}


@pytest.mark.parametrize("case", SPOILED)
def test_refuses_a_spoiled_folder(case, saved, make_base):
    spoil, message = SPOILED[case]
    spoil(saved)
    with pytest.raises(CheckpointError, match=message):
        ContextualDecoder.from_pretrained(saved, base=make_base("modules"))


def test_refuses_folders_that_are_not_ours(tmp_path, make_base):
    with pytest.raises(CheckpointError, match=f"{CONFIG} does not exist"):
        ContextualDecoder.from_pretrained(tmp_path, base=make_base("modules"))
    make_base("lightweight").save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=f"{CONFIG} does not exist"):
        ContextualDecoder.from_pretrained(tmp_path, base=make_base("modules"))


def test_refuses_another_base_and_names_both(saved, make_base):
    with pytest.raises(CheckpointError, match="trained on another base: its 'modules' base .*the 'nvae' base given"):
        ContextualDecoder.from_pretrained(saved, base=make_base("nvae"))
    prints = [fingerprint(make_base("modules", seed)) for seed in (0, 1)]
    with pytest.raises(
        CheckpointError, match=rf"\(no path recorded\) has fingerprint {prints[0]}.*given has {prints[1]}"
    ):
        ContextualDecoder.from_pretrained(saved, base=make_base("modules", seed=1))


def test_finds_the_base_where_it_was(make_base, tmp_path):
    make_base("lightweight").save_pretrained(tmp_path / "base")
    model = wrapped(get_adapter("lightweight").load(tmp_path / "base"))
    model.save_pretrained(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / CONFIG).read_text())["base_name_or_path"] == str(tmp_path / "base")
    card = (tmp_path / "saved" / CARD).read_text()
    assert "| base | base (lightweight, " in card
    assert str(tmp_path) not in card  # folders of this machine say nothing to others
    again = ContextualDecoder.from_pretrained(tmp_path / "saved")
    assert torch.equal(model.generate(2, generator=seeded()), again.generate(2, generator=seeded()))
    (tmp_path / "base").rename(tmp_path / "moved")
    with pytest.raises(CheckpointError, match="the base of .*saved cannot be loaded: .*base: no such file"):
        ContextualDecoder.from_pretrained(tmp_path / "saved")
    assert ContextualDecoder.from_pretrained(
        tmp_path / "saved", base=get_adapter("lightweight").load(tmp_path / "moved")
    )


def test_a_base_that_cannot_be_found(saved):
    with pytest.raises(CheckpointError, match="does not say where its base is: pass base=..."):
        ContextualDecoder.from_pretrained(saved)
    edit_json(saved / CONFIG, base_name_or_path="somewhere")
    with pytest.raises(
        CheckpointError, match=r"'modules' base cannot be rebuilt from a file: .*base=ModulesAdapter\(...\)"
    ):
        ContextualDecoder.from_pretrained(saved)
    edit_json(saved / CONFIG, base_adapter="pixie")
    with pytest.raises(ValueError, match="unknown base 'pixie': expected some of .*modules, "):
        ContextualDecoder.from_pretrained(saved)


# -- families of others


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 16)


class ToyAdapter(DecoderAdapter):
    """The least an adapter needs."""

    name = "toy"
    latent = LatentSpec((2,))
    image_shape = (1, 4, 4)
    num_features = 16

    def __init__(self, net):
        super().__init__()
        self.net = net

    @classmethod
    def matches(cls, base):
        return isinstance(base, Toy)

    @classmethod
    def wrap(cls, base):
        return cls(base)

    def encode(self, x):
        return Encoding(features=x.flatten(1), mean=x.flatten(1)[:, :2])

    def decode(self, latent, encoding=None, residuals=(), temperature=1.0, generator=None):
        logits = self.net.linear(latent).unflatten(1, self.image_shape)
        return Decoding(BernoulliLikelihood(logits), kl=latent.new_zeros(len(latent)))


def check_toy():
    model = wrapped(Toy())
    assert isinstance(model.base, ToyAdapter)
    assert get_adapter("toy") is ToyAdapter
    known = ["dcgan", "decoder_only", "denoiser", "diffusers", "lightweight", "modules", "nvae", "scvi", "toy"]
    known += ["transformers", "vector_vae"]
    assert available_adapters() == known
    assert model.generate(2, do="a+b").shape == (2, 1, 4, 4)
    assert model(images(model), CONTEXTS).loss.shape == (6,)


def test_a_registered_adapter(monkeypatch):
    assert register_adapter(ToyAdapter) is ToyAdapter
    assert register_adapter(ToyAdapter) is ToyAdapter
    check_toy()
    with pytest.raises(ContextModuleError, match="a base named 'toy' exists already"):
        register_adapter(type("Other", (ToyAdapter,), {}))
    with pytest.raises(ContextModuleError, match="a base named 'nvae' exists already"):
        register_adapter(type("Other", (ToyAdapter,), {"name": "nvae"}))


def test_an_installed_adapter(monkeypatch):
    group = "context_module.adapters"
    point = importlib.metadata.EntryPoint("toy", f"{__name__}:ToyAdapter", group)
    monkeypatch.setattr(
        "context_module.registry.entry_points", lambda **query: [point] if query == {"group": group} else []
    )
    check_toy()
    with pytest.raises(ContextModuleError, match="a base named 'toy' exists already"):
        register_adapter(type("Other", (ToyAdapter,), {}))


def test_a_base_nobody_knows():
    known = "known families: dcgan, decoder_only, denoiser, diffusers, lightweight, modules, nvae, scvi, transformers"
    with pytest.raises(TypeError, match=f"no adapter for a base of type Linear; {known}"):
        adapt(nn.Linear(2, 2))
    with pytest.raises(CheckpointError, match="some/path: no such file or folder; expected"):
        wrap_decoder("some/path", ["a"])
    with pytest.raises(ValueError, match="unknown base 'toy': expected some of .*modules, "):
        get_adapter("toy")


def test_an_adapter_is_its_own_adapter(make_base):
    adapter = make_base("modules")
    assert adapt(adapter) is adapter
    assert wrapped(adapter).base is adapter


def test_the_larger_lightweight_base():
    model = wrapped(LightweightVAE("simple64bn"))
    assert model.generate(1, do="a+b").shape == (1, 3, 64, 64)
    assert model(torch.rand(2, 3, 64, 64), ["obs", "a"]).loss.shape == (2,)
