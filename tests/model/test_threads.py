"""Several threads at once: what is global to a process must not come between them."""

import sys
import threading
from contextlib import contextmanager

import pytest
import torch

from context_module import ContextualDecoder
from context_module.adapters.nvae import NVAE
from context_module.io import load_pickled
from helpers.models import wrapped

CHECKPOINT = "tests/fixtures/nvae/cifar10-one_group-5bit.checkpoint.pt"


@contextmanager
def switching_often():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def together(*works, times=4):
    """Run functions in threads of their own, some times each; the errors."""
    errors = []

    def repeat(work):
        try:
            for _ in range(times):
                work()
        except Exception as error:  # noqa: BLE001 (all are reported)
            errors.append(error)

    threads = [threading.Thread(target=repeat, args=(work,)) for work in works]
    with switching_often():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return errors


class Odd:
    """What one thread allows to be read must not be taken from another."""


def test_good_checkpoints_are_read_in_all_threads(request, tmp_path):
    path = request.config.rootpath / CHECKPOINT
    torch.save({"a": torch.ones(2)}, tmp_path / "other.pt")
    other = lambda: load_pickled(tmp_path / "other.pt", "another file", [Odd])  # noqa: E731
    assert together(*[lambda: NVAE.from_checkpoint(path)] * 3, other, other) == []


def test_generating_in_threads_leaves_every_part_its_mode(make_base):
    model = wrapped(make_base("nvae")).train()
    modes = [part.training for part in model.modules()]
    assert any(modes)
    assert together(*[lambda: model.generate(2, do="a")] * 5) == []
    assert [part.training for part in model.modules()] == modes


@pytest.mark.parametrize("form", ["structural", "edits"])
def test_two_saves_into_one_folder_do_not_mix(form, make_base, tmp_path):
    models = [
        wrapped(make_base("nvae"), seed=seed, form=form, latent_noise=True, free_blocks=1, inversion_width=8)
        for seed in (1, 2, 3)
    ]
    assert together(*[lambda model=model: model.save_pretrained(tmp_path) for model in models], times=6) == []
    loaded = ContextualDecoder.from_pretrained(tmp_path, base=make_base("nvae")).adapter_state_dict()
    assert any(
        all(torch.equal(loaded[name], tensor) for name, tensor in model.adapter_state_dict().items())
        for model in models
    )
    assert not list(tmp_path.glob(".*"))
