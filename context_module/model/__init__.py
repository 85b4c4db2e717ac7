"""A context module around a base."""

__all__: list[str] = []
