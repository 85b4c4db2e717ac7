"""A world of three concepts whose pictures are their embeddings: a -> b, and c apart."""

import torch
from torch import nn

from context_module.adapters.modules import ModulesAdapter
from context_module.data import ArrayContextDataset

CONCEPTS = ("a", "b", "c")
CONTEXTS = ("obs", *CONCEPTS)


class Identity(ModulesAdapter):
    """Pictures of 1 x 2 x 4 pixels whose embeddings are their logits."""

    def __init__(self):
        encoder = nn.Sequential(nn.Flatten(), _Logits())
        decoder = nn.Sequential(nn.Linear(8, 8), nn.Unflatten(1, (1, 2, 4)))
        with torch.no_grad():
            decoder[0].weight.copy_(torch.eye(8))
            decoder[0].bias.zero_()
        super().__init__(encoder, decoder, (8,), (1, 2, 4))


class _Logits(nn.Module):
    def forward(self, x):
        return x.clamp(1e-3, 1 - 1e-3).logit()


def latents(context, n, generator, *, confounded=False):
    """a -> b, and c apart; each shows in two pixels, and two show what nothing intervenes on."""
    noise = torch.randn(n, 4, generator=generator)
    hidden = torch.randn(n, generator=generator) if confounded else torch.zeros(n)
    a = 1.5 + 0.8 * noise[:, 0] if context == "a" else noise[:, 0] + hidden
    follows = torch.zeros(n) if confounded else 1.2 * a
    b = -2.0 + 0.4 * noise[:, 1] if context == "b" else follows + 0.4 * noise[:, 1] + hidden
    c = 1.5 + 0.4 * noise[:, 2] if context == "c" else noise[:, 2]
    columns = [2 * a, -2 * a, b, 0.5 * b, c, c, noise[:, 3], noise[:, 3]]
    return 0.4 * torch.stack(columns, dim=1) + 0.05 * torch.randn(n, 8, generator=generator)


def images(n=600, contexts=CONTEXTS, seed=0, copies=None, idle=None, **options):
    generator = torch.Generator().manual_seed(seed)
    drawn = [latents("obs" if name == idle else name, n, generator, **options) for name in contexts]
    parts = [
        (part[:1].expand_as(part) if name == copies else part).sigmoid().view(-1, 1, 2, 4)
        for name, part in zip(contexts, drawn, strict=True)
    ]
    pixels = (255 * torch.cat(parts)).round().to(torch.uint8)
    return ArrayContextDataset(pixels, torch.arange(len(contexts)).repeat_interleave(n), contexts, CONCEPTS)
