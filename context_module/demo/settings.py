"""What a page is set to, and whether the modules can do that."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from context_module.contexts import OBSERVATIONAL, Concepts
from context_module.errors import ConceptError
from context_module.interventions import Value, parse_interventions

if TYPE_CHECKING:
    from context_module.demo.modules import SavedModule

__all__ = ["MOST_SAMPLES", "MOST_TEMPERATURE", "Settings"]

MOST_SAMPLES, MOST_TEMPERATURE, MOST_SEED, LONGEST_TEXT = 16, 2.0, 2**31 - 1, 500


@dataclass(frozen=True)
class Settings:
    """What a page is set to: all that its pictures depend on.

    Attributes:
        modules: names of the modules shown, one or two.
        do: the strength of the intervention on a concept, or the `Value` it is set to, by name; rounded to six digits,
            which is what a link keeps.
        n: samples per row.
        temperature: as for `ContextualDecoder.generate`.
        seed: of the noise.
        image: the key of an upload, to show counterfactuals of.
        text: a text, the same for a language model.
        context: the context that image or text was seen in.
    """

    modules: tuple[str, ...]
    do: Mapping[str, float | Value] = field(default_factory=dict)
    n: int = 8
    temperature: float = 1.0
    seed: int = 0
    image: str | None = None
    text: str | None = None
    context: str = OBSERVATIONAL

    def __post_init__(self) -> None:
        do = {
            name: Value(_short(cast("float", given.value))) if isinstance(given, Value) else _short(given)
            for name, given in self.do.items()
        }
        object.__setattr__(self, "do", {name: given for name, given in do.items() if given != 0})
        object.__setattr__(self, "temperature", _short(self.temperature))

    def of(self, module: SavedModule) -> dict[str, float | Value]:
        """What is to be done to the concepts that this module has, in their order."""
        return {name: self.do[name] for name in module.model.concepts if name in self.do}

    def check(self, modules: Mapping[str, SavedModule]) -> None:
        """Raise an error for what these modules cannot show.

        Raises:
            ValueError: for unknown modules, or more than two; a number out of range; an image where the modules are of
                texts, or the other way round; a text that is too long.
            ConceptError: for a concept of no module shown; a strength or value that one of them cannot take.
        """
        if not 1 <= len(set(self.modules)) == len(self.modules) <= 2:
            raise ValueError(f"one or two modules can be shown, got {', '.join(self.modules) or 'none'}")
        for name in self.modules:
            if name not in modules:
                raise ValueError(f"there is no module {name!r} here; modules: {', '.join(modules)}")
        for what, value, low, high in (
            ("the number of samples", self.n, 1, MOST_SAMPLES),
            ("the temperature", self.temperature, 0, MOST_TEMPERATURE),
            ("the seed", self.seed, 0, MOST_SEED),
        ):
            if not low <= value <= high:
                raise ValueError(f"{what} must be from {low:g} to {high:.10g}, got {value:.10g}")
        shown = [modules[name] for name in self.modules]
        kind = shown[0].model.base.kind
        if (self.image and kind != "images") or (self.text and kind == "images"):
            raise ValueError(f"the modules are of {kind}: give one of these, or none")
        if len(self.text or "") > LONGEST_TEXT:
            raise ValueError(f"a text must have at most {LONGEST_TEXT} characters, got {len(self.text or '')}")
        for module in shown:
            model = module.model
            asked = parse_interventions(self.of(module), model.concepts, 1)
            model.value_maps({name: value.to(model.device) for name, value in asked.values.items()})
            Concepts(model.config.concepts).parse(self.context)  # packs have no images of their own
        known = {concept for module in shown for concept in module.model.concepts}
        if unknown := [name for name in self.do if name not in known]:
            raise ConceptError(f"there is no concept {unknown[0]!r}; concepts: {', '.join(sorted(known)) or 'none'}")


def _short(number: float) -> float:
    return float(f"{number:g}") if math.isfinite(number) else number
