"""Flags, once for all recipes."""

__all__: list[str] = []
