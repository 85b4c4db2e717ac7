"""Many runs, one table."""

__all__: list[str] = []
