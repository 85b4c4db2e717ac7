"""Who trains: the module on a frozen base, or the base along with it; and what is saved then."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from context_module import ContextualDecoder, wrap_decoder
from context_module.adapters.lightweight import LightweightAdapter
from context_module.base.lora import is_lora
from context_module.errors import CheckpointError, LoraError
from context_module.model import set_train_mode
from context_module.training.objectives.pixel import PixelObjective
from context_module.training.weights import trainable_state_dict
from helpers.draws import seeded
from helpers.models import wrapped
from helpers.tensors import changed, state

SAVED = ("lightweight", "nvae")  # families that can write their base


def step(model, progress=1.0, **options):
    """One optimiser step; the names of the base's tensors that it changed."""
    objective = PixelObjective(model, **options).train()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=1e-2)
    x = torch.rand(6, *model.base.image_shape, generator=seeded(2))
    before = state(model.base), state(model.module)
    losses = objective({"x": x, "mask": torch.tensor([[0, 0], [1, 0], [0, 1]] * 2).bool()}, progress)
    losses["loss"].mean().backward()
    optimizer.step()
    assert changed(before[1], state(model.module))
    return changed(before[0], state(model.base))


def test_a_frozen_base_stays(make_base, family):
    assert step(wrapped(make_base(family))) == set()


@pytest.mark.parametrize("family", SAVED)
def test_an_unfrozen_base_trains_its_batch_norms_too(family, make_base):
    model = wrapped(make_base(family)).unfreeze_base()
    moved = step(model)
    # every weight of the decoder but the last norm's; posterior heads of the base's own take no part
    assert any(name.endswith("running_mean") for name in moved)
    assert any("encoder" in name or "stem" in name or "enc" in name for name in moved)
    assert any("dec" in name for name in moved)


@pytest.mark.parametrize("family", SAVED)
def test_frozen_share_keeps_the_base_still_at_first(family, make_base):
    model = wrapped(make_base(family)).unfreeze_base()
    assert step(model, progress=0.1, frozen_share=0.2) == set()
    assert model.base_trains
    assert all(parameter.requires_grad for parameter in model.base.parameters())  # for optimiser and checkpoints
    assert step(model, progress=0.2, frozen_share=0.2)


def test_frozen_base_is_over_after_an_error(make_base):
    model = wrapped(make_base("nvae")).unfreeze_base().train()

    def fail():
        with model.frozen_base():
            assert not model.base.training
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert model.base_trains
    assert model.base.training


@pytest.mark.parametrize("family", SAVED)
def test_a_base_that_trained_is_saved_with_the_module(family, make_base, tmp_path):
    model = wrapped(make_base(family)).unfreeze_base()
    step(model)
    model.eval().save_pretrained(tmp_path / "out")
    loaded = ContextualDecoder.from_pretrained(tmp_path / "out")
    assert state(loaded).keys() == state(model).keys()
    assert changed(state(loaded), state(model)) == set()
    with pytest.raises(CheckpointError, match="was trained on another base"):
        ContextualDecoder.from_pretrained(tmp_path / "out", base=make_base(family))
    (tmp_path / "out").rename(tmp_path / "moved")  # the folder is whole in itself
    again = ContextualDecoder.from_pretrained(tmp_path / "moved")
    again.save_pretrained(tmp_path / "copy")
    assert changed(state(ContextualDecoder.from_pretrained(tmp_path / "copy")), state(model)) == set()


# --- the modes by name


def trained(model, mode, steps=4, **options):
    """A short training: (names of the tensors that changed, those of the base after each step)."""
    share = set_train_mode(model, mode, **options)
    objective = PixelObjective(model, frozen_share=share).train()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    x = torch.rand(6, *model.base.image_shape, generator=seeded(2))
    mask = torch.tensor([[0, 0], [1, 0], [0, 1]] * 2).bool()
    before, bases = state(model), []
    for number in range(steps):
        optimizer.zero_grad()
        objective({"x": x, "mask": mask}, number / steps)["loss"].mean().backward()
        optimizer.step()
        now = state(model)
        bases.append({name for name in changed({n: before.get(n, now[n]) for n in now}, now) if name[:5] == "held."})
    return changed({name: before[name] for name in now}, now), bases


def parts(model):
    """Names of the tensors of a model: (in front of the base, the base's own, LoRA's)."""
    names = state(model)
    base = {name for name in names if name.startswith("held.")}
    lora = {name for name in base if is_lora(name)}
    return set(dict(model.named_parameters())) - base, base - lora, lora


def test_frozen_trains_module_and_heads(make_base, family):
    model = wrapped(make_base(family))
    assert trained(model, "frozen")[0] == parts(model)[0]


def test_lora_trains_module_heads_and_lora(make_base, family):
    """The base's own weights and its batch norms stand still."""
    model = wrapped(make_base(family))
    moved, _ = trained(model, "lora", rank=2)
    front, _, lora = parts(model)
    assert model.lora.rank == 2
    assert lora
    assert moved == front | lora
    assert not model.base.training


@pytest.mark.parametrize("family", SAVED)
@pytest.mark.parametrize(("mode", "still"), [("finetune", 2), ("end_to_end", 0)])
def test_all_train_after_a_share_of_the_steps_or_from_the_first(family, mode, still, make_base):
    """The base's batch norms too; posterior heads of its own take no part, nor do units that a ReLU keeps shut."""
    model = wrapped(make_base(family))
    moved, bases = trained(model, mode, frozen_share=0.5)
    front, base, _ = parts(model)
    assert front <= moved
    assert {name for name in base - moved if ".fc_" not in name and ".se.se." not in name} == set()
    assert [bool(names) for names in bases] == [number >= still for number in range(4)]


def test_modes_follow_each_other(make_base):
    model = wrapped(make_base("lightweight"))
    trained(model, "lora", rank=2)
    front, _, lora = parts(model)
    assert trained(model, "frozen")[0] == front  # LoRA is kept and stands still
    assert trained(model, "lora")[0] == front | lora  # and goes on
    with pytest.raises(LoraError, match="the model has LoRA of rank 2, not 8: leave the rank out to go on with it"):
        set_train_mode(model, "lora", rank=8)
    with pytest.raises(LoraError, match=r"fold LoRA into it first \(model.merge_lora\(\)\)"):
        set_train_mode(model, "finetune")
    model.merge_lora()
    assert len(trained(model, "finetune", frozen_share=0.0)[0]) > len(front)
    assert trained(model, "frozen")[0] == front
    with pytest.raises(ValueError, match="unknown train mode 'all'; known: frozen, lora, finetune, end_to_end"):
        set_train_mode(model, "all")


def test_lora_outlasts_a_frozen_share(make_base):
    model = wrapped(make_base("modules")).add_lora()
    step(model, progress=0.1, frozen_share=0.2)
    assert all(p.requires_grad for name, p in model.base.named_parameters() if is_lora(name))


def test_checkpoints_of_a_training_hold_what_is_saved(family, make_base):
    """LoRA's weights too, and not those of the base."""
    model = wrapped(make_base(family)).add_lora()
    kept = {name.partition(".")[2] for name in trainable_state_dict(model)}  # of the base, and of the slot
    assert kept - {"base.net.prior_ftr0"} == model.adapter_state_dict().keys()


def test_a_base_that_cannot_be_saved_cannot_train(make_base):
    with pytest.raises(ValueError, match="a 'modules' base cannot be saved, so it cannot train: keep it frozen"):
        wrapped(make_base("modules")).unfreeze_base()


def test_a_base_from_scratch():
    assert LightweightAdapter.fresh((1, 28, 28)).image_shape == (1, 28, 28)
    with pytest.raises(ValueError, match="no lightweight architecture for images of shape"):
        LightweightAdapter.fresh((3, 16, 16))


def test_with_latent_noise_the_base_explains_the_decoder_input(make_base):
    """Its own posterior, no wider than the module's noise, with the KL from what the module says: the tighter one."""
    torch.manual_seed(0)
    model = wrap_decoder(make_base("lightweight"), ["a"], noise_width=4, concept_width=3, latent_noise=True).eval()
    with torch.no_grad():
        model.module.log_scale.uniform_(-1, 1)
    x = torch.rand(5, *model.base.image_shape)
    out = model(x, "a", generator=seeded(3))
    generator = seeded(3)
    posterior = model.posterior(x, "a")
    noise = posterior.mean + posterior.stddev * torch.randn(posterior.mean.shape, generator=generator)
    said = Normal(model.module(noise, torch.ones(5, 1).bool()), model.module.scale)
    encoding = model.base.encode(x)
    deviation = (0.5 * encoding.log_var).exp()
    assert 0 < (deviation > said.scale).float().mean() < 1
    own = Normal(encoding.mean, deviation.minimum(said.scale))
    torch.testing.assert_close(out.kl_base, kl_divergence(own, said).sum(1))
    latent = own.mean + own.stddev * torch.randn(5, 128, generator=generator)
    torch.testing.assert_close(out.reconstruction, model.base.decode(latent).mean)


def test_with_latent_noise_and_a_deterministic_encoder_the_module_does(make_base):
    model = wrap_decoder(make_base("modules"), ["a"], noise_width=4, concept_width=3, latent_noise=True).eval()
    out = model(torch.rand(5, *model.base.image_shape), "a")
    assert (out.kl_base == 0).all()
