"""Compose concepts on a trained model: a labelled picture of each concept alone and of all together.

    python recipes/compose.py --model outputs/finetune --do quad1 size
    python recipes/compose.py --model outputs/finetune --do quad1 size --image photo.png
    python recipes/compose.py --model outputs/finetune --do quad1:0.5 size=0.7

``quad1`` is a full intervention, ``quad1:0.5`` one of half its strength, and ``size=0.7`` sets the concept to a value,
where the training data had its values. All rows share their noise, so a column shows one image under each
intervention. With ``--image``, the first row is that image, the second its reconstruction, and the others are its
counterfactuals.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from context_module import ContextualDecoder
from context_module.arguments import argument, parse_arguments, run_recipe
from context_module.base_arguments import BaseArguments
from context_module.data.folders import ImageReader
from context_module.files import write_atomically
from context_module.grids import contexts_on_one_noise, labelled_grid
from context_module.interventions import read_interventions, spell_interventions


@dataclass(kw_only=True)
class ComposeArguments(BaseArguments):
    """The flags of this recipe."""

    model: str = argument(help="folder written by recipes/finetune.py, or a Hub repository")
    do: list[str] = argument(help="concepts to intervene on: size, size:0.5 (strength), size=0.7 (value)")
    concept_pack: list[str] = argument([], help="files of recipes/train_concept.py: further concepts of the model")
    image: str | None = argument(None, help="an image to show counterfactuals of")
    image_context: str = argument("obs", help="the context the image was seen in")
    n: int = argument(8, help="images per row, without --image")
    temperature: float = argument(1.0, help="of the noise and of the base's deeper latents")
    seed: int = argument(0, help="of the noise")
    output: str = argument("composition.png", help="the picture")


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(ComposeArguments, description=__doc__.splitlines()[0], argv=argv)
    model = ContextualDecoder.from_pretrained(args.model, base=args.load_base())
    for pack in args.concept_pack:
        model.add_concept(pack)
    do = read_interventions(args.do, model.concepts)
    contexts = {spell_interventions(some): some for some in ({}, *({name: do[name]} for name in do), do)}
    rows, abduction = {}, None
    if args.image:
        x = ImageReader(model.base.image_shape, resize=True)(Path(args.image))[None]
        rows["image"], abduction = x, model.abduct(x, args.image_context)
    rows |= contexts_on_one_noise(
        model, contexts, n=args.n, abduction=abduction, temperature=args.temperature, seed=args.seed
    )
    grid = labelled_grid(rows)
    write_atomically(args.output, lambda temporary: grid.save(temporary, format="PNG"))
    print(f"{args.output}: {', '.join(rows)}")


if __name__ == "__main__":
    run_recipe(main)
