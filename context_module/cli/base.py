"""The flags that name a pretrained base, the same in every recipe that loads one."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from context_module.adapters import DecoderAdapter, get_adapter, load_base
from context_module.cli.arguments import argument
from context_module.data import parse_options
from context_module.io import local_folder

__all__ = ["BaseArguments"]


@dataclass(kw_only=True)
class BaseArguments:
    """The flags that name a pretrained base."""

    base: str | None = argument(None, help="family of the base; default: that in training")
    base_checkpoint: str | None = argument(None, help="the base, if it is not where it was in training")
    subfolder: str | None = argument(None, help="diffusers: folder in the checkpoint's, such as vae in a pipeline's")
    variant: str | None = argument(None, help="diffusers: of the weights' files, such as fp16")
    revision: str | None = argument(None, help="branch, tag or commit of the base's Hub repository")
    sample_size: str | None = argument(
        None, help="diffusers, denoiser: side of the images, or height and width, 32x48; default: the base's own"
    )
    encoder_name_or_path: str | None = argument(
        None, help="transformers: folder or Hub id of a (sentence) encoder that reads texts in the base's place"
    )
    gguf_file: str | None = argument(None, help="transformers: name of a GGUF file in the checkpoint's folder")
    base_options: list[str] = argument(
        [],
        help="further options of the base, each name=value: denoiser: prompt, tokens, num_inference_steps, "
        "guidance_scale, max_snr; transformers: virtual_tokens, max_tokens, prompt, dtype",
    )

    def given_base(self) -> DecoderAdapter | str | None:
        """The base for `ContextualDecoder.from_pretrained`, None for that in training.

        --base_checkpoint alone says where it lies now; its family and options are those saved with the module.

        Raises:
            ValueError: for options without the family, and as `load_base`.
        """
        options = [*self._set(), *self.base_options]
        if self.base_checkpoint and not self.base:
            if options:
                raise ValueError(f"{options[0]} is an option of the base: give --base, too, its family")
            return self.base_checkpoint
        return self.load_base()

    def load_base(self, checkpoint: str | Path | None = None, family: str | None = None) -> DecoderAdapter | None:
        """The base of --base_checkpoint, else that of `checkpoint`; None where there is neither.

        Args:
            checkpoint: file, folder or Hub id that stands in for the flag.
            family: default: --base, else `nvae`.

        Raises:
            ValueError: for an option without a base to load, or one that the family does not take.
            CheckpointError: for a base that cannot be read.
        """
        checkpoint = self.base_checkpoint or checkpoint
        if checkpoint is None:
            if given := [*self._set()] or self.base_options:
                raise ValueError(f"--{given[0]} is of the base to load: give --base and --base_checkpoint, too")
            return None
        family = family or self.base or "nvae"
        adapter = get_adapter(family)
        # some families hand options on to their class, and all those of the Hub to it
        options = {
            **parse_options(self.base_options, adapter.load, adapter, local_folder),
            **{
                name.removesuffix("_name_or_path"): _found(value) if name.endswith("_name_or_path") else value
                for name, value in self._set().items()
            },
        }
        return load_base(family, _found(checkpoint), **options)

    def _set(self) -> dict[str, Any]:
        """The options that were given by flags of their own."""
        given = {name: value for name in _OPTIONS if (value := getattr(self, name)) is not None}
        if self.sample_size is not None:
            given["sample_size"] = _sides(self.sample_size)
        return given


def _sides(text: str) -> int | tuple[int, ...]:
    """``64``, or height and width, ``32x48`` or ``32,48``."""
    if not re.fullmatch(r"\d+([x,]\d+)?", text):
        raise ValueError(f"--sample_size is a number of pixels, or height and width, as in 32x48; got {text!r}")
    sides = tuple(map(int, re.split("[x,]", text)))
    return sides if len(sides) == 2 else sides[0]


def _found(value: Any) -> Any:
    """A path that is there as an absolute one, for the saved configuration; all else, such as a Hub id, as it is."""
    local = Path(value).expanduser() if isinstance(value, str | Path) else None
    return str(local.resolve()) if local is not None and local.exists() else value


_OPTIONS = [
    field.name for field in fields(BaseArguments) if field.name not in ("base", "base_checkpoint", "base_options")
]
