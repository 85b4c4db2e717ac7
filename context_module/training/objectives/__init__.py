"""What is trained for: losses that the loop calls, and their terms, one a file."""

__all__: list[str] = []
