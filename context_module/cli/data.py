"""The flags that name data, the same in every recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from context_module.cli.arguments import argument
from context_module.data import ContextData, available_data, data_function, load_data, parse_options

__all__ = ["DataArguments"]


@dataclass(kw_only=True)
class DataArguments:
    """The flags that name data."""

    data: str = argument(
        "quad",
        help=f"{', '.join(available_data())}, or a directory with a folder per context, of images or of .txt files",
    )
    data_options: list[str] = argument(
        [], help="further options of the data, each name=value; training_on=a+b trains on that composition, too"
    )
    samples_per_context: int | None = argument(None, help="training images made per context (generated data)")
    skip_corrupt: bool = argument(False, help="leave out image files that cannot be read, instead of stopping")
    cache_dir: str | None = argument(None, help="keep generated images, encodings and the like in files there")
    seed: int = argument(0, help="of data, initialisation, batches and noise")

    def load(self, **settings: Any) -> ContextData:
        """The data; `settings` are further arguments of `load_data`, errors as there.

        An option among `data_options` wins over a setting of that name.
        """
        flags = {
            "samples_per_context": self.samples_per_context,
            "skip_corrupt": self.skip_corrupt,
            "cache_dir": self.cache_dir,
            "seed": self.seed,
        }
        function = data_function(self.data, texts=settings.get("tokenize") is not None)
        return load_data(self.data, **{**flags, **settings, **parse_options(self.data_options, function, load_data)})

    @property
    def data_name(self) -> str:
        """The data and its options in words; of a folder only its own name."""
        name = Path(self.data).resolve().name if Path(self.data).is_dir() else self.data
        return " ".join([name, *self.data_options])
