"""Train one concept alone on a module that stays as it is: a concept pack, one file to add to it beside others.

    python recipes/finetune.py --contexts obs --output_dir outputs/obs
    python recipes/train_concept.py --module outputs/obs --concept size --output_dir outputs/size
    python recipes/compose.py --model outputs/obs --concept_pack outputs/size/size.safetensors --do size

It learns from the images of the concept's context and no others. Packs that were trained apart compose.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from context_module import ContextualDecoder
from context_module.cli import BaseArguments, TrainingArguments, argument, next_command, parse_arguments, run_recipe
from context_module.contexts import OBSERVATIONAL
from context_module.drawing import labelled_grid
from context_module.model import contexts_on_one_noise
from context_module.training import Trainer, encode_dataset, make_accelerator
from context_module.training.objectives import PackObjective, new_pack


@dataclass(kw_only=True)
class TrainConceptArguments(BaseArguments, TrainingArguments):
    """The flags of this recipe."""

    output_dir: str = argument(help="where CONCEPT.safetensors, checkpoints, metrics and pictures go")
    module: str = argument(help="folder written by recipes/finetune.py, or a Hub repository: it is left as it is")
    concept: str = argument(help="the concept's name: that of its context in the data")
    max_train_steps: int = argument(600, help="optimiser steps")
    train_batch_size: int = argument(512, help="images per optimiser step, over all processes and accumulation steps")
    learning_rate: float = argument(3e-3, help="peak learning rate; it falls to 1%% along a cosine")
    max_grad_norm: float = argument(5.0, help="gradients are clipped to this norm")
    rank: int = argument(32, help="directions of the decoder input that the concept reads and writes")
    noise_width: int = argument(16, help="width of the concept's own noise")
    hidden_width: int = argument(256, help="hidden width of the MLP that says what changes")
    matching: float = argument(300.0, help="weight of matching generated to encoded embeddings")
    change: float = argument(0.1, help="weight of the squared change of decoder inputs: the rest is to stay")
    half_encodings: bool = argument(False, help="keep encodings in float16, half the room")


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(TrainConceptArguments, description=__doc__.splitlines()[0], argv=argv)
    run = args.run_directory([f"{args.concept}.safetensors"])
    accelerator = make_accelerator(args)
    repository = args.hub_repository() if accelerator.is_main_process else None
    model = ContextualDecoder.from_pretrained(args.module, base=args.given_base()).to(accelerator.device)
    pack = new_pack(model, args.concept, rank=args.rank, noise_width=args.noise_width, hidden_width=args.hidden_width)
    model.add_concept(pack)
    images = args.load(**model.base.data_settings()).train.only([args.concept])
    shown = accelerator.is_main_process or args.cache_dir is not None
    train_data, val_data = (
        encode_dataset(model.base, part, cache_dir=args.cache_dir, half=args.half_encodings, progress=shown)
        for part in images.split(args.val_fraction, seed=args.seed)
    )
    trainer = Trainer(
        accelerator,
        args,
        run,
        PackObjective(model, args.concept, train_data, matching=args.matching, change=args.change),
        train_data,
        val_data,
        preview=lambda: labelled_grid(contexts_on_one_noise(model, [OBSERVATIONAL, args.concept])),
    )
    result = trainer.train()
    if accelerator.is_main_process:
        file = run.path / f"{args.concept}.safetensors"
        pack.save(file)
        print(f"{file}: best validation loss {result.loss:.1f} at step {result.best_step} of {result.steps}")
        with run.finishing(dataclasses.asdict(result)):
            args.publish(run.path, repository, (file.name,), f"concept pack {args.concept}")
        words = ("--model", args.module, "--concept_pack", file, "--do", args.concept)
        print(next_command(__file__, "compose", *words))


if __name__ == "__main__":
    run_recipe(main)
