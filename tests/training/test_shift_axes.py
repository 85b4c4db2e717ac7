"""Axes in which edits are sparse, against rotations that are known."""

import pytest
import torch

from context_module import wrap_decoder
from context_module.errors import DataError
from context_module.metrics import latent_scores
from context_module.training import fit_maps, shift_axes
from context_module.training.shift_axes import rotated_sparse
from helpers.draws import seeded
from helpers.screens import mixed_screen, screen, tiny_vector_vae


def sparse(rows, size):
    """Shifts (rows, size) of a fifth of the latents each, by 3 to 6 or less than nothing, and a rotation."""
    generator = seeded(0)
    signs = torch.randint(0, 2, (rows, size), generator=generator).mul(2).sub(1)
    sizes = 3 + 3 * torch.rand(rows, size, generator=generator)
    shifts = signs * sizes * (torch.rand(rows, size, generator=generator) < 0.2)
    return shifts, torch.linalg.qr(torch.randn(size, size, generator=generator)).Q


def test_a_rotation_of_sparse_shifts_is_undone():
    shifts, rotation = sparse(40, 6)
    noisy = shifts @ rotation + 0.1 * torch.randn(shifts.shape, generator=seeded(2))
    found = rotated_sparse(noisy, seed=3)
    torch.testing.assert_close(found.T @ found, torch.eye(6), atol=1e-5, rtol=0)
    same = rotation @ found  # a permutation with signs
    assert (same.abs().amax(0) > 0.99).all()
    assert (same.abs().amax(1) > 0.99).all()
    assert torch.equal(found, rotated_sparse(noisy, seed=3))


def wrapped(concepts, latents=3, **options):
    base = tiny_vector_vae(latents=latents)
    return wrap_decoder(base, concepts, form="edits", latent_noise=True, graph=(), **options)


def test_axes_are_those_in_which_edits_are_sparse():
    concepts = [f"p{number}" for number in range(30)]
    model = wrapped(concepts)
    module, (shifts, rotation) = model.module, sparse(30, 3)
    spread = torch.tensor([[2.0, 0.0, 0.0], [0.5, 1.0, 0.0], [0.0, 0.3, 0.5]])
    with torch.no_grad():
        module.mean.copy_(torch.tensor([1.0, -1.0, 2.0]))
        module.factor.copy_(spread)
        module.memory.copy_(torch.randn(module.memory.shape, generator=seeded(0)) @ spread + module.mean)
        module.edits.shift.copy_(shifts @ rotation @ spread)
    found = shift_axes(model)
    assert found.shifts.shape == (30, 3)
    apart = (found.shifts.T @ shifts).abs() / found.shifts.norm(dim=0)[:, None] / shifts.norm(dim=0)
    assert (apart.amax(0) > 0.99).all()
    torch.testing.assert_close(found.shifts.abs().sum(), shifts.abs().sum(), rtol=0.05, atol=0)
    assert torch.equal(found.shifts, shift_axes(model, seed=0).shifts)
    # as many axes as there are concepts, where these are fewer
    two = wrapped(["a", "b"])
    with torch.no_grad():
        two.module.edits.shift.copy_(3 * torch.eye(3)[:2])
    assert shift_axes(two).shifts.shape == (2, 2)


def test_codes_are_where_shifts_say():
    data = screen()
    model = wrapped(data.concepts)
    fit_maps(model, data.train)
    found = shift_axes(model)
    means = {name: found.codes(data.train.select(name)) for name in data.train.context_names}
    center = means["obs"].mean(0)
    assert (means["obs"].std(0) - 1).abs().max() < 0.3
    moved = torch.stack([means[name].mean(0) - center for name in data.concepts])
    torch.testing.assert_close(found.shifts, moved, atol=0.1, rtol=0.1)


def test_what_has_no_axes():
    model = wrap_decoder(tiny_vector_vae(), ["a", "b"], form="structural", latent_noise=True)
    with pytest.raises(ValueError, match=r"axes are those of edits.*this model has form='structural'"):
        shift_axes(model)
    with pytest.raises(DataError, match=r"edits of this model change nothing: fit them first"):
        shift_axes(wrapped(["a", "b"]))


def test_true_latents_are_found_in_embeddings_that_mix_them():
    data, base = mixed_screen(40)
    model = wrap_decoder(base, data.concepts, form="edits", latent_noise=True, graph=())
    fit_maps(model, data.train)
    rows, latents = data.train.read(torch.arange(len(data.train))), data.train.factors
    assert latent_scores(shift_axes(model).codes(rows), latents)["mcc"].value > 0.97
    assert latent_scores(rows, latents)["mcc"].value < 0.85
