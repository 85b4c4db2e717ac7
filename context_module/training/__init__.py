"""One loop for everything that trains, and what it trains on."""

__all__: list[str] = []
