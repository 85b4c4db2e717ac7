"""Everything that reads files, each with a small good folder of its own and a digest of what it read."""

import csv
import gzip
import hashlib
import random
import shutil
import struct
import warnings
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from context_module import ContextualDecoder
from context_module.adapters.lightweight import LightweightVAE
from context_module.adapters.nvae import NVAE
from context_module.baselines import get_baseline, load_baseline
from context_module.cli import parse_arguments
from context_module.cli.training import TrainingArguments
from context_module.data import ArrayContextDataset, load_data
from context_module.data.mnist import load_mnist
from context_module.data.texts import text_folders
from context_module.io import MANIFEST, MappedArray, cached_table, misfitting
from context_module.io.rendered import rendered_array
from context_module.model import published
from context_module.nn import ConceptPack, ConceptPackConfig
from context_module.objective import Objective
from context_module.saving import describe
from context_module.training import RunDirectory, Trainer, make_accelerator
from helpers.bases import TINY_BASES
from helpers.loop import forget_accelerate
from helpers.models import wrapped

FIXTURES = Path(__file__).parents[1] / "fixtures"
TABLE = torch.arange(96.0).view(24, 4)


def digest(*values):
    """Of tensors and whatever else prints the same."""
    found = hashlib.sha256()
    for value in values:
        found.update(
            value.detach().cpu().numpy().tobytes() if isinstance(value, torch.Tensor) else repr(value).encode()
        )
    return found.hexdigest()


def state_digest(module):
    return digest(*module.state_dict().values())


@dataclass
class Loader:
    """How a kind of file is made and read.

    Attributes:
        make: writes a good folder.
        load: reads it, and gives a digest of all that it read.
        ours: whether this library writes it, with checksums: nothing in it may change silently.
        errors: what else than errors of this library may say that it cannot be read.
        files: a pattern of those that are damaged.
    """

    make: object
    load: object
    ours: bool = True
    errors: tuple = ()
    files: str = "*"


def base():
    torch.manual_seed(0)
    return TINY_BASES["nvae"]().eval()


def make_module(folder):
    wrapped(base(), latent_noise=True).save_pretrained(folder)
    (folder / "README.md").unlink()


def load_module(folder):
    model = ContextualDecoder.from_pretrained(folder, base=base())
    return digest(model.config, model.slot.value_maps.sizes, *model.adapter_state_dict().values())


def make_pack(folder):
    torch.manual_seed(0)
    ConceptPack(ConceptPackConfig(concept="a", latent_shape=(2, 4, 4), rank=4, hidden_width=8)).save(
        folder / "a.safetensors"
    )


def make_baseline(folder):
    torch.manual_seed(0)
    kind = get_baseline("beta_vae")
    kind(kind.settings_class(), (1, 64, 64), 10).save(folder)


def make_lightweight(folder):
    torch.manual_seed(0)
    LightweightVAE("conv3").save_pretrained(folder)


def load_table(folder):
    table = cached_table(folder, {"of": "x"}, 24, TABLE[0], lambda start: TABLE[start:].split(8), progress=False)
    return digest(table[torch.arange(24)])


def load_rendered(folder):
    rows = (torch.arange(240) % 251).to(torch.uint8).view(20, 3, 4)
    path = rendered_array(folder / "a.npy", (20, 3, 4), lambda start: rows[start:].split(7))
    return digest(MappedArray(path)[torch.arange(20)])


class Stub(Objective):
    """A weight that is drawn to noisy images."""

    optimizer = torch.optim.Adam

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1, 8, 8))

    def forward(self, batch, progress=1.0):
        noisy = batch["x"] + torch.randn_like(batch["x"])
        return {"loss": (noisy - self.weight).square().flatten(1).sum(1)}


def train(folder, steps, resume=None):
    images = (torch.rand(60, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 255).to(torch.uint8)
    labels = torch.arange(3).repeat_interleave(20)
    train_data, val_data = ArrayContextDataset(images, labels, ("obs", "a", "b"), ("a", "b")).split(0.1)
    args = TrainingArguments(
        output_dir=str(folder), max_train_steps=steps, train_batch_size=6, checkpointing_steps=2, validation_steps=2,
        resume_from_checkpoint=resume,
    )  # fmt: skip
    objective = Stub()
    try:
        accelerator = make_accelerator(args)
        Trainer(accelerator, args, RunDirectory(folder, resume=resume), objective, train_data, val_data).train()
    finally:
        forget_accelerate()
    return state_digest(objective)


def make_checkpoint(folder):
    train(folder, 2)


def load_checkpoint(folder):
    return train(folder, 4, resume="latest")


def make_run(folder):
    (folder / "weights.bin").write_bytes(bytes(100))
    RunDirectory(folder, results=["*.bin"]).finish({"loss": 1.0})


def load_run(folder):
    problems = misfitting(folder)
    return digest(sorted(problems))


def make_config(folder):
    (folder / "run.json").write_text(
        '{"output_dir": "o", "max_train_steps": 3, "learning_rate": 0.1, "overwrite": true}'
    )


def load_config(folder, name="run.json"):
    args = parse_arguments(TrainingArguments, description="", argv=["--config", str(folder / name)])
    return digest([(field.name, getattr(args, field.name)) for field in fields(args)])


def make_yaml(folder):
    (folder / "run.yaml").write_text(
        "output_dir: o\nmax_train_steps: 3\nlearning_rate: 0.1\ndata_options: [a=1, b=2]\n"
    )


def make_images(folder):
    rng = np.random.default_rng(0)
    for context in ("obs", "a"):
        (folder / context).mkdir()
        for number in range(3):
            pixels = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / context / f"{number}.{('png', 'jpg', 'bmp')[number]}")
        np.save(folder / context / "3.npy", rng.random((12, 12)).astype(np.float32))


def load_images(folder):
    data = load_data(folder, resolution=8, channels=3)
    return digest(*[item["x"] for item in data.train])


def make_attributes(folder):
    rng = np.random.default_rng(0)
    (folder / "im").mkdir()
    with (folder / "table.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "a", "b"])
        for number, row in enumerate([(0, 0), (0, 0), (1, 0), (1, 0), (0, 1), (0, 1)]):
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / "im" / f"{number}.png")
            writer.writerow([f"{number}.png", *row])


def load_attributes(folder):
    data = load_data("attributes", root=folder / "im", table=folder / "table.csv")
    return digest(data.train.context_names, data.train.labels, data.train.factors)


def make_idx(folder):
    rng = np.random.default_rng(0)
    for part, count in (("train", 12), ("t10k", 4)):
        images, labels = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8), np.arange(count, dtype=np.uint8) % 10
        for name, array in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", labels)):
            head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
            content = head + array.tobytes()
            zipped = part == "t10k"
            (folder / f"{name}{'.gz' * zipped}").write_bytes(gzip.compress(content) if zipped else content)


def load_idx(folder):
    return digest(*[torch.from_numpy(part.astype(np.int64)) for part in load_mnist(folder)])


def make_texts(folder):
    for context in ("obs", "a"):
        (folder / context).mkdir()
        (folder / context / "a.txt").write_text("".join(f"{context} line {number}\n" for number in range(4)))


def load_texts(folder):
    data = text_folders(folder, tokenize=lambda texts, names: torch.tensor([[len(text)] for text in texts]))
    return digest(data.train.texts(), data.train.context_names)


def copied(name):
    """Makes a folder of a file among the fixtures."""
    return lambda folder: shutil.copy(FIXTURES / name, folder)


VAE, NET = "mnist-conv3-2.15.5.vae.pth", "cifar10-one_group-5bit.checkpoint.pt"
LOADERS = {
    "context module": Loader(make_module, load_module),
    "concept pack": Loader(make_pack, lambda folder: state_digest(ConceptPack.load(folder / "a.safetensors"))),
    "base: NVAE": Loader(
        lambda folder: base().save_pretrained(folder), lambda f: state_digest(NVAE.from_pretrained(f))
    ),
    "base: lightweight": Loader(make_lightweight, lambda f: state_digest(LightweightVAE.from_pretrained(f))),
    "baseline": Loader(make_baseline, lambda folder: state_digest(load_baseline(folder)), errors=(ValueError,)),
    "what info says": Loader(
        make_module, lambda folder: digest(describe(folder).replace(str(folder), "")), ours=False
    ),
    "published vae.pth": Loader(
        copied(f"published/{VAE}"),
        lambda folder: state_digest(published.load(folder / VAE, ["a", "b", "c"])),
        ours=False,
    ),
    "NVAE's checkpoint.pt": Loader(
        copied(f"nvae/{NET}"),
        lambda folder: state_digest(NVAE.from_checkpoint(folder / NET)),
        ours=False,
    ),
    "cache of encodings": Loader(load_table, load_table),
    "cache of images": Loader(load_rendered, load_rendered),
    "training checkpoint": Loader(make_checkpoint, load_checkpoint, files="checkpoint-2/*"),
    "manifest of a run": Loader(make_run, load_run, files=MANIFEST),
    "configuration, JSON": Loader(make_config, load_config, ours=False, errors=(ValueError, SystemExit)),
    "configuration, YAML": Loader(
        make_yaml, lambda folder: load_config(folder, "run.yaml"), ours=False, errors=(ValueError, SystemExit)
    ),
    "images": Loader(make_images, load_images, ours=False, errors=(OSError,)),
    "table of attributes": Loader(make_attributes, load_attributes, ours=False, files="*.csv"),
    "idx": Loader(make_idx, load_idx, ours=False),
    "texts": Loader(make_texts, load_texts, ours=False, errors=(OSError,)),
}


def loaded(loader, folder):
    """The digest, without warnings and progress bars."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return loader.load(folder)


def files_of(loader, folder):
    """The files of a good folder that are damaged."""
    return sorted(path for path in folder.rglob(loader.files) if path.is_file())


def chooser(name, number):
    """The random numbers of one damaged version."""
    return random.Random(f"{name} {number}")
