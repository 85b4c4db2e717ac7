"""Grids of samples, and figures."""

__all__: list[str] = []
