"""From noise and an intervention mask to a base's decoder input; knows no base and no data."""

__all__: list[str] = []
