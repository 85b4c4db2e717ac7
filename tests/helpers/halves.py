"""A generator whose pictures are two halves, and who says which of them are bright."""

import torch
from torch import nn

from context_module import wrap_decoder
from context_module.adapters.decoder_only import DecoderOnlyAdapter
from context_module.data import from_samples
from context_module.training import encode_dataset, fit_maps


class Halves(nn.Module):
    """Two halves, each as bright as one number says; and a third number shades both."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, z):
        halves = torch.stack([z[:, 0], z[:, 1]], dim=1)[:, None, :, None] + 0.3 * z[:, 2, None, None, None]
        return torch.tanh(0.5 * self.scale * halves.repeat_interleave(4, 2).expand(-1, 1, 8, 8))


LABELLERS = {
    "top": lambda images: images[:, 0, :4].mean((1, 2)) - 0.6,
    "bottom": lambda images: images[:, 0, 4:].mean((1, 2)) - 0.6,
}


def halves():
    return DecoderOnlyAdapter(Halves(), (3,), (1, 8, 8), output="tanh")


def fitted_halves():
    """(model with edits between such samples in closed form, its data, their encodings)."""
    data = from_samples(halves(), LABELLERS, n=4000, progress=False)
    torch.manual_seed(0)
    base = halves()
    model = wrap_decoder(base, data.concepts, form="edits", latent_noise=True)
    encodings = encode_dataset(base, data.train, progress=False)
    fit_maps(model, encodings)
    return model, data, encodings
