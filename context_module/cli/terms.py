"""The flags of the latent objective's terms, made from the terms themselves: a new one needs no other place."""

from __future__ import annotations

import dataclasses
from typing import Any

from context_module.options import argument
from context_module.training.objectives import EDIT_TERMS, LATENT_TERMS, Term, latent_terms

__all__ = ["TermArguments", "edit_terms_of", "terms_of"]

_KINDS = dict.fromkeys((*EDIT_TERMS, *LATENT_TERMS))

#: A dataclass with a field for the weight of every term of `EDIT_TERMS` and `LATENT_TERMS`, by the term's name.
TermArguments: Any = dataclasses.make_dataclass(
    "TermArguments",
    [(term.name, float, argument(term.weight, help=f"latent: weight of {term.help}")) for term in _KINDS],
    kw_only=True,
)


def edit_terms_of(args: Any) -> list[Term]:
    """The terms on edits with the weights of a `TermArguments`."""
    return [term(getattr(args, term.name)) for term in EDIT_TERMS]


def terms_of(args: Any) -> list[Term]:
    """The terms of the latent objective with the weights of a `TermArguments`."""
    return latent_terms(**{term.name: getattr(args, term.name) for term in LATENT_TERMS})
