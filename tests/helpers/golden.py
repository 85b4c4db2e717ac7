"""Writes tests/fixtures/golden: ``python -m helpers.golden FOLDER``, once for each version that others must read."""

import json
import shutil
import sys
import tempfile
from pathlib import Path

import torch

from context_module import ContextualDecoder, wrap_decoder
from context_module.adapters import load_base
from context_module.adapters.nvae import NVAE
from context_module.io import load_tensors, save_tensors
from context_module.model import set_train_mode
from context_module.nn import ConceptPack, ConceptPackConfig
from helpers.bases import TINY_BASES
from helpers.loaders import make_checkpoint, train
from helpers.models import randomise, randomise_lora

WIDTHS = {"noise_width": 4, "concept_width": 2, "posterior_width": 8, "latent_noise": True}
FORMS = {"structural": {"free_blocks": 1}, "edits": {"free_blocks": 1, "inversion_width": 8}}


def write(folder):
    """Files of every kind that this library saves, and in expected.safetensors what they are to give."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    base = TINY_BASES["nvae"]().eval()
    base.save_pretrained(folder / "base")
    for form, widths in FORMS.items():
        model = wrap_decoder(NVAE.from_pretrained(folder / "base"), ["a", "b"], form=form, **WIDTHS, **widths)
        randomise(model.module)
        model.eval().save_pretrained(folder / form)
    model = wrap_decoder(NVAE.from_pretrained(folder / "base"), ["a", "b"], form="structural", **WIDTHS)
    set_train_mode(model, "lora", rank=2)
    randomise(model.module)
    randomise_lora(model).eval().save_pretrained(folder / "lora")
    pack = ConceptPack(ConceptPackConfig(concept="c", latent_shape=model.config.latent_shape, rank=2, hidden_width=4))
    randomise(pack)
    pack.save(folder / "c.safetensors")
    make_checkpoint(folder / "run")
    for path in [*folder.rglob("README.md"), *folder.rglob("contexts.png")]:
        path.unlink()
    save_tensors(folder / "expected.safetensors", read(folder) | {"resumed": resumed(folder)})


def resumed(folder):
    """The weights of the run after two steps more."""
    with tempfile.TemporaryDirectory() as place:
        shutil.copytree(folder / "run", Path(place) / "run")
        train(Path(place) / "run", 4, resume="latest")
        return load_tensors(Path(place) / "run" / "checkpoint-4" / "weights.safetensors")["weight"]


def read(folder):
    """What the files give now."""
    found = {}
    for name in (*FORMS, "lora"):
        model = ContextualDecoder.from_pretrained(folder / name, base=load_base("nvae", folder / "base"))
        for do in (None, "a", ("a", "b")):
            found[f"{name} {json.dumps(do)}"] = model.generate(2, do=do, seed=1)
    found["pack"] = ConceptPack.load(folder / "c.safetensors")(
        torch.ones(1, *model.config.latent_shape), torch.ones(1, 16)
    )
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    write(Path(sys.argv[1]))
