"""Compose concepts on a trained model: a labelled picture of each concept alone and of all together.

    python recipes/compose.py --model outputs/finetune --do quad1 size
    python recipes/compose.py --model outputs/finetune --do quad1 size --image photo.png
    python recipes/compose.py --model outputs/finetune --do quad1:0.5 size=0.7
    python recipes/compose.py --model outputs/sentences --do number tense --text "the cat found a red apple ."

``quad1`` is a full intervention, ``quad1:0.5`` one of half its strength, and ``size=0.7`` sets the concept to a value,
where the training data had its values. All rows share their noise, so a column shows one image under each
intervention. With ``--image`` or ``--text``, the first row is that, the second its reconstruction, and the others are
its counterfactuals.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from context_module import ContextualDecoder
from context_module.cli import BaseArguments, argument, parse_arguments, run_recipe
from context_module.data import ImageReader
from context_module.drawing import labelled_samples, save_samples
from context_module.interventions import read_interventions, spell_interventions
from context_module.model import contexts_on_one_noise


@dataclass(kw_only=True)
class ComposeArguments(BaseArguments):
    """The flags of this recipe."""

    model: str = argument(help="folder written by recipes/finetune.py, or a Hub repository")
    do: list[str] = argument(help="concepts to intervene on: size, size:0.5 (strength), size=0.7 (value)")
    concept_pack: list[str] = argument([], help="further concepts: files of train_concept.py, here or on the Hub")
    image: str | None = argument(None, help="an image to show counterfactuals of")
    text: str | None = argument(None, help="a text to show counterfactuals of, for a language model")
    image_context: str = argument("obs", help="the context the image, or text, was seen in")
    n: int = argument(8, help="images or texts per row, without --image or --text")
    temperature: float = argument(1.0, help="of the noise and of the base's deeper latents")
    seed: int = argument(0, help="of the noise")
    output: str = argument("composition.png", help="the picture; of a language model a table, ending with .md")


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(ComposeArguments, description=__doc__.splitlines()[0], argv=argv)
    model = ContextualDecoder.from_pretrained(args.model, base=args.given_base())
    for pack in args.concept_pack:
        model.add_concept(pack)
    do = read_interventions(args.do, model.concepts)
    contexts = {spell_interventions(some): some for some in ({}, *({name: do[name]} for name in do), do)}
    rows: dict[str, Any] = {}
    abduction, kind = None, model.base.kind
    given = {"images": args.image, "texts": args.text}
    if other := next((value for of, value in given.items() if value and of != kind), None):
        hint = f"give --{kind[:-1]}" if kind in given else "give none"
        raise ValueError(f"{other}: the model is of {kind}, {hint}")
    if args.text:
        rows["text"], abduction = [args.text], model.abduct([args.text], args.image_context)
    if args.image:
        x = ImageReader(model.base.image_shape, resize=True)(Path(args.image))[None]
        rows["image"], abduction = x, model.abduct(x, args.image_context)
    rows |= contexts_on_one_noise(
        model, contexts, n=args.n, abduction=abduction, temperature=args.temperature, seed=args.seed
    )
    samples = labelled_samples(rows, getattr(model.base, "columns", ()))
    if isinstance(samples, str):
        print(samples, end="\n\n")
    print(f"{save_samples(args.output, samples)}: {', '.join(rows)}")


if __name__ == "__main__":
    run_recipe(main)
