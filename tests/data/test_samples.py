"""Contexts from a generator's own samples."""

import pytest
import torch

from context_module import wrap_decoder
from context_module.data import from_samples
from context_module.errors import DataError, ShapeError, UnfittedError
from context_module.evaluation import composition_table, evaluate
from context_module.training import encode_dataset, fit_maps
from helpers.halves import LABELLERS, halves


@pytest.fixture
def base():
    return halves()


def drawn(base, n=2000, **options):
    return from_samples(base, LABELLERS, n=n, progress=False, **options)


def test_samples_are_sorted_by_what_they_show(base):
    data = drawn(base, margin=0.02)
    assert data.concepts == ("top", "bottom")
    assert data.train.context_names == ("obs", "top", "bottom")
    assert data.held_out.context_names == ("top+bottom",)
    for part in (data.train, data.held_out):
        for context in part.context_names:
            images = part.select(context)
            for name, labeller in LABELLERS.items():
                shown = labeller(images) > 0
                assert shown.all() if name in context.split("+") else not shown.any()
                assert labeller(images).abs().min() >= 0.02
    assert "samples near the margin" in data.describe()
    view, _ = data.train.split(0.5)
    torch.testing.assert_close(base.decode(view.latents).mean, view.read(view._rows), atol=1 / 255, rtol=0)


def test_the_seed_says_which(base, tmp_path):
    one, again, other = (drawn(base, 300, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.train.latents, again.train.latents)
    assert one.train.fingerprint() == again.train.fingerprint() != other.train.fingerprint()
    cached = {"seed": 1, "cache_file": tmp_path / "deep" / "samples.npy"}
    kept = drawn(base, 300, **cached)
    assert torch.equal(kept.train.select("top"), one.train.select("top"))
    written = (tmp_path / "deep" / "samples.npy").stat().st_mtime_ns
    assert torch.equal(drawn(base, 300, **cached).train.labels, kept.train.labels)
    assert (tmp_path / "deep" / "samples.npy").stat().st_mtime_ns == written


def test_a_generator_needs_no_encoder(base):
    """Its samples' decoder inputs are known: concepts compose on it in closed form, at once."""
    data = drawn(base, 4000)
    encoded = encode_dataset(base, data.train, progress=False)
    assert torch.equal(encoded.table, data.train.latents)
    torch.manual_seed(0)
    model = wrap_decoder(base, data.concepts, form="edits", latent_noise=True)
    fit_maps(model, data.train)
    shares = {}
    for context in ("obs", "top", "top+bottom"):
        made = model.generate(400, do=context, seed=0)
        shares[context] = [(labeller(made) > 0).float().mean().item() for labeller in LABELLERS.values()]
    assert max(shares["obs"]) < 0.2
    assert shares["top"][0] > 0.7
    assert shares["top"][1] < 0.3
    assert min(shares["top+bottom"]) > 0.6
    scored = evaluate(model, data, samples=20, metrics=["sliced_wasserstein"], contexts=["top+bottom"], progress=False)
    distances = scored.contexts["top+bottom"].scores["sliced_wasserstein"]
    assert distances["recon"] == distances["floor"]  # its own samples a base makes as they are
    assert "| verdict |" in composition_table(scored)
    with pytest.raises(UnfittedError, match="fit_encoder"):
        model.abduct(data.train.select("obs", 2))


def test_samples_of_another_base_are_encoded(base):
    data = drawn(base, 300)
    other = halves()
    other.decoder.scale.data.fill_(0.3)
    with pytest.raises(UnfittedError):
        encode_dataset(other, data.train, progress=False)


def test_it_takes_an_adapter(base):
    with pytest.raises(TypeError, match=r"give adapt\(base\), got Halves"):
        from_samples(base.decoder, LABELLERS, n=10)


@pytest.mark.parametrize(
    ("labellers", "options", "error", "message"),
    [
        ({}, {}, DataError, "no labellers: give a function of images for every concept"),
        (
            LABELLERS,
            {"n": 0},
            DataError,
            "n must be at least 1, margin and temperature at least 0, got 0, 0.0 and 1.0",
        ),
        (LABELLERS, {"margin": 0.39}, DataError, r"no sample of .* among 50 \(\d+ clear of the margin\): draw more"),
        ({"top": lambda x: x.mean()}, {}, ShapeError, r"one finite score per image, \(50,\), got \(\)"),
        ({"top": lambda x: x[:, 0, 0, 0] / 0}, {}, ShapeError, "got .* with values that are not finite"),
    ],
)
def test_what_cannot_be(base, labellers, options, error, message):
    with pytest.raises(error, match=message):
        from_samples(base, labellers, progress=False, **{"n": 50, **options})
