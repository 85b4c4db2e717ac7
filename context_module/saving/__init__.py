"""A folder that holds a context module: what is in it, and its model card."""

__all__: list[str] = []
