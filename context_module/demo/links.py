"""Settings as the query string of a link, and back; whoever follows a link may have written it, too."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode

from context_module.contexts import OBSERVATIONAL, Concepts
from context_module.demo.settings import Settings
from context_module.interventions import read_interventions, spell_interventions

if TYPE_CHECKING:
    from context_module.demo.modules import SavedModule

__all__ = ["read_link", "write_link"]

_LONGEST, _MOST_FIELDS = 6000, 100
_SEVERAL = ("module", "do")
_NUMBERS = {"n": r"\d{1,3}", "seed": r"\d{1,10}", "temperature": r"\d{1,3}(\.\d{1,6})?"}
_WORDS = ("image", "text", "context")


def write_link(settings: Settings) -> str:
    """The query string of settings, which `read_link` reads: ``?module=demo&do=quad1%3A0.5&n=8&...``."""
    fields = [("module", name) for name in settings.modules]
    fields += [("do", spell_interventions({name: given})) for name, given in settings.do.items()]
    fields += [(name, f"{getattr(settings, name):.10g}") for name in _NUMBERS]
    given = ((name, getattr(settings, name)) for name in _WORDS)
    fields += [(name, value) for name, value in given if value and (name, value) != ("context", OBSERVATIONAL)]
    return f"?{urlencode(fields)}"


def read_link(query: str, modules: Mapping[str, SavedModule]) -> Settings:
    """The settings of a link; what it leaves out is as on a new page.

    Args:
        query: with or without its question mark. Names that begin with ``__`` are the page's own, and left alone.
        modules: the modules there are, by name.

    Raises:
        ValueError: for what is no such link, is too long, or what `Settings.check` refuses; says what.
    """
    if len(query) > _LONGEST:
        raise ValueError(f"the link has {len(query)} characters, of at most {_LONGEST}")
    fields = _fields(query.removeprefix("?"))
    for name, pattern in _NUMBERS.items():
        if name in fields and not re.fullmatch(pattern, fields[name][0], re.ASCII):
            raise ValueError(f"{name} must be a number, got {fields[name][0]!r}")
    shown = [modules[name] for name in fields.get("module", list(modules)[:1]) if name in modules]
    concepts = Concepts(dict.fromkeys(concept for module in shown for concept in module.model.concepts))
    given: dict[str, Any] = {name: fields[name][0] for name in _WORDS if name in fields}
    given |= {name: int(fields[name][0]) for name in ("n", "seed") if name in fields}
    given |= {name: float(fields[name][0]) for name in ("temperature",) if name in fields}
    settings = Settings(
        modules=tuple(fields.get("module", list(modules)[:1])),
        do=read_interventions(fields.get("do", ()), concepts) if shown else {},
        **given,
    )
    settings.check(modules)
    return settings


def _fields(query: str) -> dict[str, list[str]]:
    """The values of every field by its name; ValueError for malformed, unknown and repeated ones."""
    try:
        pairs = parse_qsl(query, True, bool(query), errors="strict", max_num_fields=_MOST_FIELDS)
    except ValueError as error:  # UnicodeDecodeError is one
        raise ValueError(f"the link is damaged: {error}") from None
    fields: dict[str, list[str]] = {}
    for name, value in pairs:
        if not name.startswith("__"):
            fields.setdefault(name, []).append(value)
    known = (*_SEVERAL, *_NUMBERS, *_WORDS)
    for name, values in fields.items():
        if name not in known:
            raise ValueError(f"the link sets {name[:40]!r}, which is not known; a link sets {', '.join(known)}")
        if len(values) > 1 and name not in _SEVERAL:
            raise ValueError(f"the link sets {name} more than once")
    return fields
