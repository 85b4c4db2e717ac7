"""Where factors are correlated, an independent prior keeps codes from being disentangled; a structural one does not.

    python docs/examples/correlated.py outputs/correlated

On the pendulum, whose shadow follows from two angles, supervised VAEs and DEAR trained as a VAE see the same images
and labels; their priors alone differ. For several weights of the label loss the picture shows, on images that were not
trained on, that loss against how far every labelled code is its factor: its correlation with that one, and by how much
its correlations with the other factors are not those of the factors themselves.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from context_module.baselines import LabelledBaseline, load_baseline
from context_module.data import load_data

RECIPE = Path(__file__).parents[2] / "recipes" / "train_baseline.py"
PRIORS = {
    "independent": ["--method", "supervised_vae", "--penalty_options", "beta=4"],
    "structural": ["--method", "dear", "--match", "likelihood", "--graph_lr", "1"],
}
WEIGHTS = (1.0, 10.0, 100.0, 1000.0)
COMMON = ["--data", "pendulum", "--contexts", "obs", "--latents", "6", "--learning_rate", "1e-3"]
COMMON += ["--samples_per_context", "6000", "--max_train_steps", "1000", "--train_batch_size", "32"]


def trained(folder: Path, prior: str, weight: float, seed: int) -> LabelledBaseline:
    """The model in its folder, trained if it is not there."""
    path = folder / f"{prior}-{weight:g}-{seed}"
    if not (path / "result.json").exists():
        flags = [*PRIORS[prior], *COMMON, "--label_weight", str(weight), "--seed", str(seed)]
        words = [sys.executable, str(RECIPE), "--output_dir", str(path), "--cache_dir", str(folder / "cache"), *flags]
        subprocess.run(words, check=True)
    return load_baseline(path)


def shares(codes: Tensor, factors: Tensor) -> tuple[float, float]:
    """Mean |correlation| of codes with their own factors; how far those with others are from the factors' own."""
    size = factors.shape[1]
    found = torch.corrcoef(torch.cat([codes[:, :size], factors], dim=1).T)
    among, across = found[size:, size:].abs(), found[:size, size:].abs()
    others = ~torch.eye(size, dtype=torch.bool)
    return across.diagonal().mean().item(), (across - among)[others].abs().mean().item()


@torch.no_grad()
def main(folder: Path, seeds: int = 3) -> None:
    test = load_data("pendulum", samples_per_context=2000, held_out_samples=0, seed=1).train.only(["obs"])
    assert test.factors is not None
    images = test.select("obs")
    figure = Figure((8, 3.5), layout="constrained")
    panels = figure.subplots(1, 2)
    print("| prior | weight of labels | label loss | own factor | other factors |\n|---|---|---|---|---|")
    for prior in PRIORS:
        lines = []
        for weight in WEIGHTS:
            found = []
            for seed in range(seeds):
                model = trained(folder, prior, weight, seed)
                factors = test.factors[:, [test.factor_names.index(name) for name in model.scale.names]]
                factors = factors.clamp(
                    model.scale.low, model.scale.high
                )  # a label beyond those trained on has no loss
                codes = torch.cat([model.centre(part) for part in images.split(250)])
                error = model.label_error(codes, factors, 1.0).item() / weight
                found.append((error, *shares(codes, factors)))
            error, own, other = torch.tensor(found).mean(0).tolist()
            lines.append((error, own, other))
            print(f"| {prior} | {weight:g} | {error:.3f} | {own:.3f} | {other:.3f} |", flush=True)
        errors, own, other = zip(*lines, strict=True)
        for panel, values in zip(panels, (own, other), strict=True):
            panel.plot(errors, values, marker="o", label=f"{prior} prior")
    for panel, title in zip(panels, ("correlation with its factor", "off by, with other factors"), strict=True):
        panel.set(xlabel="label loss (nats)", title=title)
        panel.legend()
    figure.savefig(folder / "correlated.png", dpi=150)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
