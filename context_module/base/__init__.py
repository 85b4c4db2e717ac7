"""What one does with a base of any family: hold it, adapt it, sample from it alone."""

__all__: list[str] = []
