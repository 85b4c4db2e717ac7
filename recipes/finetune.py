"""Put a context module in front of a pretrained base and train it on per-context data; the base stays as it is.

    accelerate launch recipes/finetune.py --base nvae
    accelerate launch recipes/finetune.py --base nvae --base_checkpoint checkpoint.pt --data photos/ --output_dir out

Without ``--base_checkpoint`` the small NVAE that ships with these recipes is used, on the quad data at its size. The
result is a folder for `ContextualDecoder.from_pretrained` and ``recipes/compose.py``; where the data holds
compositions (pairs of concepts, never trained on), a table says how close the generated ones come.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from context_module import wrap_decoder
from context_module.adapters.base import get_adapter
from context_module.arguments import argument, parse_arguments, run_recipe
from context_module.config import Composition, Form
from context_module.encodings import encode_dataset
from context_module.grids import contexts_on_one_noise, labelled_grid
from context_module.metrics import composition_scores, composition_table
from context_module.objectives import LatentObjective, PixelObjective
from context_module.run_directory import RunDirectory
from context_module.training import Trainer, make_accelerator
from context_module.training_arguments import TrainingArguments

SHIPPED = {"nvae": Path(__file__).resolve().parent / "pretrained" / "nvae-quad32"}


@dataclass(kw_only=True)
class FinetuneArguments(TrainingArguments):
    """The flags of this recipe."""

    output_dir: str = argument("outputs/finetune", help="where the module, checkpoints, metrics and pictures go")
    max_train_steps: int = argument(2000, help="optimiser steps")
    train_batch_size: int = argument(448, help="images per optimiser step, over all processes and accumulation steps")
    learning_rate: float = argument(3e-3, help="peak learning rate; it falls to 1%% along a cosine")
    max_grad_norm: float = argument(5.0, help="gradients are clipped to this norm")
    validation_steps: int = argument(500, help="steps between validations, each with a sample grid")
    base: str = argument("nvae", help="family of the base: nvae, lightweight, or an installed adapter's name")
    base_checkpoint: str | None = argument(None, help="file or folder of the base; default: the NVAE that ships")
    noise_width: int = argument(16, help="width of each noise block")
    concept_width: int = argument(16, help="width of each concept block")
    depth: int = argument(2, help="layers from noise to exogenous values")
    free_blocks: int = argument(2, help="noise blocks that no context intervenes on")
    inversion_width: int = argument(256, help="hidden width of a residual MLP after the linear inversion; 0: none")
    form: Form = argument("structural", help="the intervention layer: along the graph, or total effects (the paper)")
    composition: Composition = argument("do", help="reduced form: how joint interventions compose")
    reference: bool = argument(
        False, help="the paper's module; with --form reduced --free_blocks 0 --inversion_width 0"
    )
    objective: Literal["latent", "pixel"] = argument(
        "latent", help="model the base's embeddings, encoded once; or the pixels, through the base's decoder"
    )
    beta: float | None = argument(None, help="weight of the noise's KL; default: 0.2 for latent, 1 for pixel")
    matching: float = argument(300.0, help="latent: weight of matching generated to encoded embeddings, per context")
    sparsity: float = argument(1.0, help="latent: weight of the norms of the learned edges between concepts")
    score_samples: int = argument(
        1000, help="images per composition in the table, at most half of its own; 0: no table"
    )


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(FinetuneArguments, description=__doc__.splitlines()[0], argv=argv)
    run = RunDirectory(args.output_dir, overwrite=args.overwrite, resume=args.resume_from_checkpoint)
    accelerator = make_accelerator(args)
    adapter = get_adapter(args.base)
    checkpoint = args.base_checkpoint or SHIPPED.get(args.base)
    if checkpoint is None:
        raise ValueError(f"no base ships for --base {args.base}: give --base_checkpoint")
    base = adapter.load(Path(checkpoint).resolve())
    channels, resolution, _ = base.image_shape
    data = args.load(resolution=resolution, channels=channels)
    train_data, val_data = data.train.split(args.val_fraction, seed=args.seed)
    model = wrap_decoder(
        base,
        data.concepts,
        noise_width=args.noise_width,
        concept_width=args.concept_width,
        depth=args.depth,
        free_blocks=args.free_blocks,
        inversion_width=args.inversion_width,
        form=args.form,
        composition=args.composition,
        reference=args.reference,
        latent_noise=args.objective == "latent",
    )
    if accelerator.is_main_process:
        model.print_trainable_parameters()
    contexts = [*data.train.context_names, *(data.held_out.context_names if data.held_out else ())]
    score_samples = args.score_samples
    if data.held_out is not None:  # half of a context's images are compared, half are the floor
        score_samples = min(score_samples, int(data.held_out.labels.bincount().min()) // 2)

    base.to(accelerator.device)
    beta = {} if args.beta is None else {"beta": args.beta}
    objective: LatentObjective | PixelObjective = PixelObjective(model, **beta)
    if args.objective == "latent":
        train_data, val_data = (
            encode_dataset(base, images, progress=accelerator.is_main_process) for images in (train_data, val_data)
        )
        objective = LatentObjective(model, train_data, matching=args.matching, sparsity=args.sparsity, **beta)
    trainer = Trainer(
        accelerator,
        args,
        run,
        objective,
        train_data,
        val_data,
        after_step=model.module.intervention.clamp_effects if args.reference else None,
        preview=lambda: labelled_grid(contexts_on_one_noise(model, contexts)),
    )
    result = trainer.train()
    if accelerator.is_main_process:
        model.eval().save_pretrained(run.path)
        run.finish(dataclasses.asdict(result))
        print(f"{run.path}: best validation loss {result.loss:.1f} at step {result.best_step} of {result.steps}")
        if data.held_out is not None and score_samples >= 2:
            scores = composition_scores(model, data.held_out, samples=score_samples, seed=args.seed)
            table = composition_table(scores)
            (run.path / "composition.md").write_text(table + "\n", encoding="utf-8")
            print(f"\nSliced Wasserstein distance to real images of compositions never trained on:\n\n{table}")


if __name__ == "__main__":
    run_recipe(main)
