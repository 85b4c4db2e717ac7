import pytest
import torch
from torch import nn

from context_module import ContextualDecoder, wrap_decoder
from context_module.base.batch_norm import readjust_batch_norm
from context_module.base.fingerprint import fingerprint
from context_module.errors import NonFiniteError
from helpers.draws import seeded
from helpers.tensors import changed, state

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


class Net(nn.Module):
    """An encoder's norm, never run by sampling, and a decoder's."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.BatchNorm1d(3)
        self.decoder = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, momentum=0.3))
        for norm in (self.encoder, self.decoder[1]):
            norm.running_mean.normal_()
            norm.num_batches_tracked.fill_(7)

    def sample(self, noise):
        self.eval()  # as generate does
        return self.decoder(noise)


@torch.no_grad()
def test_statistics_are_the_average_over_steps():
    net = Net().eval()
    before = state(net)
    draws = torch.randn(5, 8, 3)
    batches = iter(draws)
    assert readjust_batch_norm(net, lambda: net.sample(next(batches)), steps=5) == 1
    hidden = net.decoder[0](draws)  # (steps, batch, width)
    norm = net.decoder[1]
    assert torch.allclose(norm.running_mean, hidden.mean(1).mean(0), atol=1e-6)
    assert torch.allclose(norm.running_var, hidden.var(1).mean(0), atol=1e-6)
    assert changed(before, state(net)) == {f"decoder.1.{name}" for name in STATISTICS}


@torch.no_grad()
def test_layers_are_otherwise_as_they_were():
    net = Net().eval()
    readjust_batch_norm(net, lambda: net.sample(torch.randn(8, 3)), steps=2)
    assert net.decoder[1].momentum == 0.3
    after = state(net)
    net.sample(torch.randn(8, 3))  # the hooks are gone
    assert not changed(after, state(net))
    assert not net.decoder[1].training


@pytest.mark.parametrize("training", [True, False])
def test_modes_are_as_they_were(training):
    net = Net().train(training)
    readjust_batch_norm(net, lambda: net.decoder(torch.randn(8, 3)), steps=2)
    assert {module.training for module in net.modules()} == {training}


def test_no_batch_norm_no_change():
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3, track_running_stats=False))
    assert readjust_batch_norm(net, lambda: net(torch.randn(8, 3)), steps=2) == 0
    assert readjust_batch_norm(Net(), lambda: None, steps=2) == 0


@pytest.mark.parametrize("failure", ["infinite", "error"])
@torch.no_grad()
def test_a_failure_puts_everything_back(failure):
    net = Net().eval()
    before = state(net)
    batches = iter([torch.randn(8, 3), torch.full((8, 3), torch.inf)])

    def sample():
        batch = next(batches)
        net.sample(batch)
        if failure == "error" and batch.isinf().any():
            raise KeyboardInterrupt

    error = NonFiniteError if failure == "infinite" else KeyboardInterrupt
    with pytest.raises(
        error, match="the old ones are back.*temperature nearer to 1" if failure == "infinite" else None
    ):
        readjust_batch_norm(net, sample, steps=2)
    assert not changed(before, state(net))
    assert net.decoder[1].momentum == 0.3
    assert not any(module.training for module in net.modules())
    net.sample(torch.randn(8, 3))
    assert not changed(before, state(net))


def test_a_wrapped_base_is_still_the_same_base(family, base, make_base, tmp_path):
    model = wrap_decoder(base, ["a", "b"], noise_width=4, concept_width=3, posterior_width=8).eval()
    model.save_pretrained(tmp_path)
    before, print_before = state(model), fingerprint(model.base)
    count = readjust_batch_norm(model, lambda: model.generate(4, temperature=0.7), steps=3)
    names = changed(before, state(model))
    assert count == len({name.rpartition(".")[0] for name in names})
    assert (count > 0) == (family != "diffusers")  # group norms have no statistics
    assert all(name.endswith(STATISTICS) for name in names)
    assert not any("encoder" in name for name in names)
    assert fingerprint(model.base) == print_before
    again = ContextualDecoder.from_pretrained(tmp_path, base=model.base)
    one, other = (m.generate(2, generator=seeded(0)) for m in (model, again))
    assert torch.equal(one, other)
    assert ContextualDecoder.from_pretrained(tmp_path, base=make_base(family))
