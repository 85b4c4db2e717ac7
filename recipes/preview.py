"""Look at data before training on it: a picture with a row of images for every context and held-out composition.

python recipes/preview.py --data quad
python recipes/preview.py --data photos/ --resolution 64 --n 12 --output photos.png
"""

from __future__ import annotations

from dataclasses import dataclass

from context_module.cli import DataArguments, argument, parse_arguments, run_recipe
from context_module.data import ContextData, TextContextDataset
from context_module.drawing import labelled_samples, save_samples
from context_module.errors import DataError


@dataclass(kw_only=True)
class PreviewArguments(DataArguments):
    """The flags of this recipe."""

    samples_per_context: int | None = argument(None, help="images made per context (generated data); default: --n")
    resolution: int | None = argument(None, help="height and width of the images; default: the data's own")
    n: int = argument(8, help="images per context; fewer where a context has fewer")
    output: str = argument("preview.png", help="the picture")


def load(args: PreviewArguments) -> ContextData:
    """The data; of data that is made here, no more than is shown."""
    if args.samples_per_context is None:
        try:
            return args.load(resolution=args.resolution, samples_per_context=args.n, held_out_samples=args.n)
        except DataError:  # data that is not made here takes no such number; anything else is raised again
            pass
    return args.load(resolution=args.resolution, held_out_samples=args.n)


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(PreviewArguments, description=__doc__.splitlines()[0], argv=argv)
    if args.n < 1:
        raise ValueError(f"--n must be at least 1, got {args.n}")
    data = load(args)
    rows = {}
    for part in filter(None, (data.train, data.held_out)):
        for label, context in enumerate(part.context_names):
            found = int((part.labels == label).sum())
            n = min(args.n, found)
            rows[context] = part.texts(context, n) if isinstance(part, TextContextDataset) else part.select(context, n)
    output = save_samples(args.output, labelled_samples(rows, getattr(data.train, "columns", ())))
    pictured = data.train.kind == "images"
    items = f"{'x'.join(map(str, data.train.image_shape))} images" if pictured else data.train.kind
    print(f"{output}: {len(rows)} contexts of {items}: {', '.join(rows)}\n{data.describe()}")


if __name__ == "__main__":
    run_recipe(main)
