"""Play with trained modules in a browser: sliders, your own image or text, two modules side by side.

    python recipes/demo.py --model outputs/finetune
    python recipes/demo.py --model outputs/finetune outputs/small --host 0.0.0.0
    context-module demo outputs/finetune

The page shows observational samples and the same ones under the intervention that the sliders say, with the lines of
Python that make them, and a link that leads back. It works without a network, and reads and writes no file but those
that are uploaded to it.
"""

from __future__ import annotations

from dataclasses import dataclass

from context_module.cli import argument, parse_arguments, run_recipe
from context_module.demo import load_modules, serve


@dataclass(kw_only=True)
class DemoArguments:
    """The flags of this recipe."""

    model: list[str] = argument(help="folders written by recipes/finetune.py, folders of these, or Hub repositories")
    concept_pack: list[str] = argument([], help="further concepts: files of train_concept.py, here or on the Hub")
    base_checkpoint: str | None = argument(None, help="the base, if it is not where it was in training")
    host: str = argument("127.0.0.1", help="address to listen on; 0.0.0.0 lets other machines in, such as your phone")
    port: int = argument(7860, help="port to listen on")


def main(argv: list[str] | None = None) -> None:
    args = parse_arguments(DemoArguments, description=__doc__.splitlines()[0], argv=argv)
    modules = load_modules(args.model, base=args.base_checkpoint, packs=args.concept_pack)
    serve(modules, host=args.host, port=args.port)


if __name__ == "__main__":
    run_recipe(main)
