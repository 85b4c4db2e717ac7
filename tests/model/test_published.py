"""The paper's `vae.pth`: a checkpoint of its training code (conv3 on digits, 2.15.5), and what that code computes."""

from pathlib import Path

import pytest
import torch

from context_module import ContextualDecoder
from context_module.errors import CheckpointError, ConceptError
from context_module.model import published
from helpers.files import Trap

FIXTURES = Path(__file__).parents[1] / "fixtures" / "published"
CHECKPOINT = FIXTURES / "mnist-conv3-2.15.5.vae.pth"
EXPECTED = torch.load(FIXTURES / "mnist-conv3-2.15.5.expected.pt", weights_only=True)
CONCEPTS = EXPECTED["concepts"][1:]


@pytest.fixture(scope="module")
def model():
    return published.load(CHECKPOINT, CONCEPTS)


def agree(ours, theirs):
    return ours.shape == theirs.shape and (ours - theirs).abs().max() < 1e-4 * theirs.abs().max()


def test_what_the_file_says(model):
    assert isinstance(model, ContextualDecoder)
    assert not model.training
    assert model.concepts == ["scaled", "shear", "shift"]
    assert model.base.name == "lightweight"
    assert model.base.net.architecture == "conv3"
    config = model.config
    assert (config.depth, config.noise_width, config.concept_width) == (2, 15, 5)
    assert config.reference
    assert (config.form, config.composition) == ("reduced", "published")


def test_posterior(model):
    posterior = model.posterior(EXPECTED["x"])
    assert agree(posterior.mean, EXPECTED["mu"])
    assert agree(2 * posterior.stddev.log(), EXPECTED["logvar"])


@pytest.mark.parametrize("context", EXPECTED["decoded_z"])
def test_images(model, context):
    assert agree(model.generate(noise=EXPECTED["z"], do=context), EXPECTED["decoded_z"][context])
    abduction = model.abduct(EXPECTED["x"], context)
    assert agree(model.generate(noise=abduction, do=context), EXPECTED["reconstruction_of_mean"][context])


def test_fixture_covers_singles_and_pairs_and_tells_them_apart():
    assert set(EXPECTED["decoded_z"]) == {"obs", *CONCEPTS, "scaled+shear", "shear+shift"}
    obs, *others = EXPECTED["decoded_z"].values()
    assert not any(agree(obs, other) for other in others)


def test_all_contexts_in_one_batch(model):
    contexts = list(EXPECTED["decoded_z"])
    noise = EXPECTED["z"][:1].expand(len(contexts), -1)
    expected = torch.stack([images[0] for images in EXPECTED["decoded_z"].values()])
    assert agree(model.generate(noise=noise, do=model.concepts.mask(contexts)), expected)


def test_saves_like_any_other(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = ContextualDecoder.from_pretrained(tmp_path, base=published.load(CHECKPOINT, CONCEPTS).base)
    assert agree(again.generate(noise=EXPECTED["z"], do="shear+shift"), EXPECTED["decoded_z"]["shear+shift"])


@pytest.mark.parametrize(
    ("concepts", "message"),
    [
        (
            ["scaled", "shear"],
            "has 3 concepts, got 2 names: scaled, shear. Give the intervened concepts in training order",
        ),
        (list("abcd"), "has 3 concepts, got 4 names"),
        (["obs", *CONCEPTS], "'obs' cannot name a concept"),
    ],
)
def test_refuses_names(concepts, message):
    with pytest.raises(ConceptError, match=message):
        published.load(CHECKPOINT, concepts)


def saved(path, change):
    content = torch.load(CHECKPOINT, weights_only=True)
    change(content["model_state_dict"])
    torch.save(content, path)


BIG = "encoder.6.weight"
UNREADABLE = "cannot be read as the vae.pth of a trained model: truncated, foreign"
MISFIT = r"\(conv3\) does not fit the model it is loaded into: "
SPOILED = {
    "truncated": (lambda p: p.write_bytes(CHECKPOINT.read_bytes()[:200_000]), UNREADABLE),
    "empty": (lambda p: p.write_bytes(b""), UNREADABLE),
    "text": (lambda p: p.write_text("hello, world\n"), UNREADABLE),
    "a list": (lambda p: torch.save([torch.ones(2)], p), "holds no 'model_state_dict'"),
    "a bare state dict": (lambda p: torch.save({"weight": torch.ones(2)}, p), "holds no 'model_state_dict'"),
    "another model": (
        lambda p: torch.save({"model_state_dict": {"weight": torch.ones(2)}}, p),
        r"not a vae.pth of a known architecture \(simple64bn, conv3\): 'ivn_eps.bias'",
    ),
    "no tensors": (lambda p: saved(p, lambda s: s.update({"ivn_eps.bias": 3})), "no 'model_state_dict' of tensors"),
    "no names": (lambda p: saved(p, lambda s: s.update({1: torch.ones(2)})), "no 'model_state_dict' of tensors"),
    "no blocks": (
        lambda p: saved(p, lambda s: s["ivn_eps.block_mask"].zero_()),
        r"not a vae.pth of a known architecture",
    ),
    "another encoder": (
        lambda p: saved(p, lambda s: s.update({"encoder.0.weight": torch.ones(8, 3, 3, 3)})),
        r"not a vae.pth of a known architecture.*\(8, 3, 3, 3\)",
    ),
    "missing tensor": (
        lambda p: saved(p, lambda s: s.pop("decoder.5.bias")),
        f"{MISFIT}missing: base.net.decoder.5.bias",
    ),
    "missing head": (lambda p: saved(p, lambda s: s.pop("fc_var.bias")), "does not fit the conv3.*fc_var.bias"),
    "wrong shape": (
        lambda p: saved(p, lambda s: s.update({BIG: torch.ones(2)})),
        rf"{MISFIT}base.net.{BIG}: shape \(2,\) in the file",
    ),
    "extra layer": (
        lambda p: saved(p, lambda s: s.update({"decoder.12.bias": torch.ones(2)})),
        f"{MISFIT}unexpected: base.net.decoder.12.bias",
    ),
}


@pytest.mark.parametrize("case", SPOILED)
def test_refuses_files(case, tmp_path):
    spoil, message = SPOILED[case]
    spoil(tmp_path / "vae.pth")
    with pytest.raises(CheckpointError, match=f"(?s)vae.pth .*{message}"):
        published.load(tmp_path / "vae.pth", CONCEPTS)


def test_refuses_a_missing_file(tmp_path):
    with pytest.raises(CheckpointError, match="vae.pth does not exist: expected the vae.pth of a trained model"):
        published.load(tmp_path / "vae.pth", CONCEPTS)


def test_executes_nothing(tmp_path):
    marker = tmp_path / "executed"
    torch.save({"model_state_dict": {}, "losses": Trap(marker)}, tmp_path / "vae.pth")
    with pytest.raises(CheckpointError, match="never loaded .it needs [a-z]+.mkdir") as caught:
        published.load(tmp_path / "vae.pth", CONCEPTS)
    assert "weights_only" not in str(caught.value)  # no advice to trust it
    assert not marker.exists()
    torch.load(tmp_path / "vae.pth", weights_only=False)  # the trap works
    assert marker.exists()
