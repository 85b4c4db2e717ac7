import pytest
import torch
from torch import nn

from context_module.adapters.modules import ModulesAdapter
from context_module.data import ArrayContextDataset, ContextData
from context_module.errors import DataError
from context_module.evaluation import BaseSubject
from context_module.metrics import Case, unfamiliar
from context_module.metrics.unfamiliar import METRIC
from helpers.draws import seeded


class Grey(ModulesAdapter):
    """Knows pictures of one grey value alone: a decoder input is its logit, up to 1.5 either way."""

    def __init__(self):
        class Encoder(nn.Module):
            def forward(self, x):
                return x.flatten(1).mean(1, keepdim=True).clamp(1e-3, 1 - 1e-3).logit().clamp(-1.5, 1.5)

        class Decoder(nn.Module):
            def forward(self, z):
                return z[:, :, None, None].expand(-1, 1, 4, 4)

        super().__init__(Encoder(), Decoder(), (1,), (1, 4, 4))


def grey(low, high, n=200, seed=0):
    logits = torch.empty(n).uniform_(low, high, generator=seeded(seed))
    return logits.sigmoid()[:, None, None, None].expand(-1, 1, 4, 4)


def test_what_a_base_does_not_find_again_is_counted():
    base, real = Grey(), grey(-1.4, 1.4)
    assert unfamiliar(base, grey(-1, 1, seed=1), real).value < 0.05
    assert unfamiliar(base, grey(2, 3, seed=2), real).value == 1
    mixed = torch.cat([grey(-1, 1, n=150, seed=1), grey(2, 3, n=50, seed=2)])
    assert unfamiliar(base, mixed, real).value == pytest.approx(0.25, abs=0.05)
    noise = torch.rand(50, 1, 4, 4, generator=seeded())  # what is real may be made otherwise: it is not the samples
    assert unfamiliar(base, grey(-1, 1, seed=1), noise).value < 0.5


def test_what_it_takes():
    with pytest.raises(DataError, match="at least 10"):
        unfamiliar(Grey(), grey(-1, 1, n=9), grey(-1, 1))
    pictures = torch.zeros(20, 1, 4, 4, dtype=torch.uint8)
    data = ContextData(ArrayContextDataset(pictures, [0] * 20, ("obs",), ()))
    assert "a base with embeddings" in METRIC.reason(Case(BaseSubject(Grey()), data))
