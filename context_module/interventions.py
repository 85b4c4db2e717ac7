"""What `do` accepts: concepts to intervene on, strengths, and values to set concepts to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from context_module.contexts import OBSERVATIONAL, SEPARATOR, Concepts
from context_module.errors import ConceptError, ShapeError

__all__ = [
    "STRENGTHS",
    "Do",
    "Interventions",
    "Value",
    "check_strengths",
    "parse_interventions",
    "read_interventions",
    "spell_interventions",
]


STRENGTHS = (-2.0, 3.0)  # 0 is no intervention and 1 a full one; beyond, it goes on as far again, or the other way


@dataclass(frozen=True)
class Value:
    """The value to set a concept to, in the units of the training data: ``do={"size": Value(0.7)}``.

    Args:
        value: a finite number, or a sequence or tensor of them, one per image.

    Raises:
        ConceptError: for anything else.
    """

    value: float | Sequence[float] | Tensor

    def __post_init__(self) -> None:
        number = _numbers(self.value)
        if number is None or number.ndim > 1 or not number.isfinite().all():
            raise ConceptError(f"Value takes a finite number, or one per image, got {self.value!r}")
        # plain numbers, so that values compare and hash like the numbers they are
        object.__setattr__(self, "value", tuple(number.tolist()) if number.ndim else number.item())


# None and "obs"; names; strengths and values by name; a bool mask or strengths, (n, K) or (K,)
Do = str | Iterable[str] | Mapping[str, "float | Sequence[float] | Tensor | Value"] | Tensor | None


@dataclass(frozen=True)
class Interventions:
    """What is to be done to each of n images.

    Attributes:
        strengths: (n, K), bool or float; 1 where a concept is set to a value.
        values: the values (n,), float32, that concepts are set to, by name.
    """

    strengths: Tensor
    values: dict[str, Tensor] = field(default_factory=dict)


def parse_interventions(do: Do, concepts: Concepts, n: int) -> Interventions:
    """The interventions on n images that a user asks for.

    Args:
        do: the concepts to intervene on, jointly: ``"size"``, ``"quad1+size"``, ``("quad1", "size")``; or a list of
            n contexts, one per image, ``["quad1", "obs", "quad1+size"]``; or by name a strength or a `Value`, one for
            all images or one each; or a mask, (n, K) or (K,), bool or float; None or ``"obs"`` for no intervention.
        concepts: the K concepts that can be intervened on.
        n: number of images.

    Raises:
        ConceptError: for an unknown concept; for a strength or value that is not a number, or out of range.
        ShapeError: for contexts, a mask, or strengths or values per image that do not fit.

    >>> found = parse_interventions({"quad1": 0.5, "size": Value([0.2, 0.7])}, Concepts(["quad1", "size"]), n=2)
    >>> found.strengths.tolist(), found.values["size"].shape
    ([[0.5, 1.0], [0.5, 1.0]], torch.Size([2]))
    """
    if isinstance(do, Mapping):
        return _parse_mapping(do, concepts, n)
    if isinstance(do, list) and do:
        if len(do) != n:
            raise ShapeError(
                f"a list names the context of each image, got {len(do)} for {n} images: {do!r}; for a joint "
                f"intervention on all of them give a tuple, or {SEPARATOR.join(map(str, do))!r}"
            )
        return Interventions(concepts.mask([concepts.name(context) for context in do], n))
    if not isinstance(do, Tensor):
        return Interventions(concepts.mask(concepts.name(OBSERVATIONAL if do is None else do), n))
    if not do.is_floating_point():
        return Interventions(concepts.mask(do, n))
    concepts.mask(do.bool(), n)  # the shape's errors
    given = do.expand(n, -1)
    check_strengths(given, concepts)
    return Interventions(given)


def read_interventions(words: Iterable[str], concepts: Concepts) -> dict[str, float | Value]:
    """What `parse_interventions` takes, from the words of a command line, in the order of the concepts.

    Args:
        words: ``size`` or ``quad1+size`` for full interventions, ``size:0.5`` for one of strength 0.5, ``size=0.7`` to
            set the concept to the value 0.7.
        concepts: the concepts there are.

    Raises:
        ConceptError: for an unknown or repeated concept, or what is no number after ``:`` or ``=``.

    >>> read_interventions(["size=0.7", "quad1:0.5"], Concepts(["quad1", "size"]))
    {'quad1': 0.5, 'size': Value(value=0.7)}
    """
    given: list[tuple[str, float | Value]] = []
    for word in words:
        mark = next((mark for mark in "=:" if mark in word and word not in concepts), None)
        if mark is None:
            given += [(name, 1.0) for name in concepts.parse(word)]
            continue
        name, _, number = word.rpartition(mark)
        concepts.parse([name])
        try:
            given.append((name, float(number) if mark == ":" else Value(float(number))))
        except ValueError:
            raise ConceptError(
                f"{word!r} needs a number after {mark!r}: {name}:0.5 for an intervention of half strength, {name}=0.5 "
                "to set the concept to 0.5"
            ) from None
    concepts.parse([name for name, _ in given])
    return {name: dict(given)[name] for name in concepts if name in dict(given)}


def spell_interventions(do: Mapping[str, float | Value]) -> str:
    """The words that `read_interventions` reads, joined: ``quad1+size=0.7``; ``obs`` for none.

    >>> spell_interventions({"quad1": 0.5, "size": Value(0.7)})
    'quad1:0.5+size=0.7'
    """
    words = [
        f"{name}={given.value:g}" if isinstance(given, Value) else name if given == 1 else f"{name}:{given:g}"
        for name, given in do.items()
    ]
    return SEPARATOR.join(words) or OBSERVATIONAL


def check_strengths(strengths: Tensor, concepts: Sequence[str]) -> None:
    """ConceptError for strengths (n, K) out of range, NaN among them; names the concept and the value."""
    low, high = STRENGTHS
    wrong = ~((strengths >= low) & (strengths <= high))
    if wrong.any():
        row, column = wrong.nonzero()[0].tolist()
        raise ConceptError(
            f"the strength of an intervention on {concepts[column]!r} must be in [{low:g}, {high:g}], from 0 for none "
            f"to 1 for a full one, got {strengths[row, column].item():g}"
        )


def _parse_mapping(do: Mapping[str, object], concepts: Concepts, n: int) -> Interventions:
    strengths, values = torch.zeros(n, len(concepts)), {}
    for name, given in do.items():
        concepts.parse([name])
        column = concepts.index(name)
        if isinstance(given, Value):
            values[name] = _per_image(torch.tensor(given.value, dtype=torch.float32), name, n)
            strengths[:, column] = 1.0
            continue
        strength = _numbers(given)
        if strength is None:
            raise ConceptError(
                f"the strength of an intervention on {name!r} must be a number, got {given!r}; to set the "
                "concept to a value, write Value(...)"
            )
        strengths[:, column] = _per_image(strength, name, n)
    check_strengths(strengths, concepts)
    return Interventions(strengths, values)


def _numbers(given: object) -> Tensor | None:
    """Numbers as a float64 tensor on the CPU, or None for what is none."""
    try:
        given = given.detach().cpu() if isinstance(given, Tensor) else given
        return torch.as_tensor(given, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        return None


def _per_image(numbers: Tensor, name: str, n: int) -> Tensor:
    if numbers.ndim and tuple(numbers.shape) != (n,):
        raise ShapeError(
            f"{name!r} is given numbers of shape {tuple(numbers.shape)} for {n} images: give one for all, or one each"
        )
    return numbers.expand(n)
