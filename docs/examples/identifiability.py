"""The paper's theorem on data that satisfies it: single interventions tell every concept from all others.

    python docs/examples/identifiability.py outputs/identifiability

Four concepts, a -> b -> d and a -> c, and two numbers that nothing intervenes on, are mixed by a matrix and drawn by
an injective decoder, which is also the base. For several numbers of images a context the picture shows how much of the
variance of the true concepts a linear map of what a module takes for them explains, on images that were not trained
on; and of b, where its context has observational images: then nothing tells b from what it goes along with.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from context_module import ContextualDecoder, wrap_decoder
from context_module.adapters.modules import ModulesAdapter
from context_module.data import ArrayContextDataset
from context_module.training import (
    RunDirectory,
    Trainer,
    TrainingSettings,
    encode_dataset,
    fit_maps,
    make_accelerator,
)
from context_module.training.objectives import LatentObjective

CONCEPTS, WIDTH, FREE, PIXELS = ("a", "b", "c", "d"), 1, 2, (1, 8, 8)
CAUSES = {"b": "a", "c": "a", "d": "b"}
SIZE = WIDTH * len(CONCEPTS) + FREE
COUNTS = (100, 1000, 10_000)
BLOCKS = {"noise_width": WIDTH, "concept_width": WIDTH, "latent_noise": True, "inversion_width": 0}
MODULES = {
    "structural form": {"form": "structural", "free_blocks": 2, **BLOCKS},
    "the paper's module": {"form": "reduced", "free_blocks": 0, **BLOCKS},
    "edits, in closed form": {"form": "edits", "latent_noise": True, "concept_width": WIDTH},
}


class World:
    """How concepts act on each other, and how they are drawn; by its seed."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.effects = {effect: 0.8 * self._turned(WIDTH) for effect in CAUSES}
        self.means = {name: 2 * nn.functional.normalize(self._drawn(WIDTH), dim=0) for name in CONCEPTS}
        self.mixing = self._turned(SIZE) * torch.linspace(0.6, 1.4, SIZE)
        self.curving, self.drawing = self._turned(SIZE), self._turned(PIXELS[1] * PIXELS[2])[:SIZE]

    def _drawn(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)

    def _turned(self, size: int) -> Tensor:
        return torch.linalg.qr(self._drawn(size, size)).Q

    def latents(self, context: str, n: int) -> Tensor:
        """(n, SIZE): the concepts one after the other, then what is free."""
        values: dict[str, Tensor] = {}
        for name in CONCEPTS:
            own = self._drawn(n, WIDTH)
            cause = CAUSES.get(name)
            if name == context:
                values[name] = self.means[name] + 0.6 * own
            else:
                values[name] = own if cause is None else values[cause] @ self.effects[name] + 0.6 * own
        return torch.cat([*values.values(), self._drawn(n, FREE)], dim=1)

    def base(self) -> ModulesAdapter:
        """The decoder of mixed latents, and its inverse."""
        drawer = _Drawer(self)
        return ModulesAdapter(_Reader(drawer), drawer, (SIZE,), PIXELS)

    def images(self, latents: Tensor) -> Tensor:
        """Pictures of latents, uint8 (n, 1, 8, 8)."""
        return (255 * _Drawer(self)(latents @ self.mixing).sigmoid()).round().to(torch.uint8)

    def data(self, n: int, missing: str | None) -> ArrayContextDataset:
        """n images of each context; those of a missing intervention are observational."""
        contexts = ("obs", *CONCEPTS)
        drawn = ["obs" if context == missing else context for context in contexts]
        images = torch.cat([self.images(self.latents(context, n)) for context in drawn])
        labels = torch.arange(len(contexts)).repeat_interleave(n)
        return ArrayContextDataset(images, labels, contexts, CONCEPTS)


class _Drawer(nn.Module):
    """Logits of 64 pixels, of a curved injective map."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.curving, self.drawing = nn.Parameter(world.curving), nn.Parameter(2 * world.drawing)

    def forward(self, x: Tensor) -> Tensor:
        return (nn.functional.leaky_relu(x @ self.curving, 0.5) @ self.drawing).unflatten(1, PIXELS)


class _Reader(nn.Module):
    """The inverse of a drawer."""

    def __init__(self, drawer: _Drawer) -> None:
        super().__init__()
        self.drawer = drawer

    def forward(self, x: Tensor) -> Tensor:
        bent = x.clamp(1e-3, 1 - 1e-3).logit().flatten(1) @ self.drawer.drawing.mT / 4
        return nn.functional.leaky_relu(bent, 2.0) @ self.drawer.curving.mT


def trained(world: World, options: dict, data: ArrayContextDataset, folder: Path, seed: int) -> ContextualDecoder:
    """A module in front of the world's decoder, of these options."""
    torch.manual_seed(seed)
    model = wrap_decoder(world.base(), CONCEPTS, **options)
    if options["form"] == "edits":
        fit_maps(model, data)
        return model.eval()
    settings = TrainingSettings(
        output_dir=str(folder),
        max_train_steps=1500,
        train_batch_size=256,
        learning_rate=3e-3,
        seed=seed,
        validation_steps=1500,
        checkpointing_steps=1500,
    )
    train, val = (encode_dataset(model.base, part, progress=False) for part in data.split(0.1, seed=seed))
    objective = LatentObjective(model, train, terms=(), beta=1.0, edge_threshold=0)  # likelihood alone
    Trainer(make_accelerator(settings), settings, RunDirectory(folder, overwrite=True), objective, train, val).train()
    return model.eval()


@torch.no_grad()
def concepts_of(model: ContextualDecoder, images: Tensor) -> Tensor:
    """What the module takes for the concepts of observational images, (n, K, width)."""
    mask = torch.zeros(len(images), len(CONCEPTS), dtype=torch.bool)
    if model.config.form == "edits":
        return model.module.values(model.module.coordinates(model.base.encode(images).mean))
    return model.module.concepts(model.posterior(images).mean, mask)[:, : len(CONCEPTS)]


def explained(found: Tensor, true: Tensor) -> float:
    """The share of the variance of true (n, width) that a linear map of found (n, width) explains."""
    rows = torch.cat([found, torch.ones(len(found), 1)], dim=1).double()
    left = true.double() - rows @ torch.linalg.pinv(rows) @ true.double()
    return 1 - (left.square().sum() / (true - true.mean(0)).double().square().sum()).item()


def recovered(title: str, count: int, missing: str | None, seed: int, folder: Path) -> list[float]:
    """By concept, what is explained."""
    world = World(seed)
    data, test = world.data(count, missing), world.latents("obs", 2000)
    found = concepts_of(trained(world, MODULES[title], data, folder / "run", seed), world.images(test) / 255)
    true = test[:, : WIDTH * len(CONCEPTS)].unflatten(1, (-1, WIDTH))
    return [explained(found[:, k], true[:, k]) for k in range(len(CONCEPTS))]


def main(folder: Path, seeds: int = 3) -> None:
    figure = Figure((9, 3.2), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    print(f"| images a context | without | module | {' | '.join(CONCEPTS)} |\n|---|---|---|{'---|' * len(CONCEPTS)}")
    for panel, missing in zip(panels, (None, "b"), strict=True):
        for title in MODULES:
            line = []
            for count in COUNTS:
                scores = [recovered(title, count, missing, seed, folder) for seed in range(seeds)]
                means = torch.tensor(scores).mean(0).tolist()
                shown = " | ".join(f"{value:.3f}" for value in means)
                print(f"| {count:,} | {missing or ''} | {title} | {shown} |", flush=True)
                line.append(means[CONCEPTS.index(missing)] if missing else sum(means) / len(means))
            panel.plot(COUNTS, line, marker="o", label=title)
        panel.set(xscale="log", xlabel="images a context", ylim=(0, 1))
        panel.set_title("b, without do(b)" if missing else "four concepts, all interventions")
    panels[0].set_ylabel("variance explained")
    panels[0].legend(loc="lower right")
    figure.savefig(folder / "identifiability.png", dpi=150)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
