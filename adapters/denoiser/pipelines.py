"""Which pipelines of diffusers are one denoiser and one scheduler that starts from noise."""

from __future__ import annotations

import inspect
import math
from typing import Any

from context_module.adapters.denoiser.conditioning import SUPPORTED
from context_module.adapters.denoiser.schedule import NoiseSchedule
from context_module.adapters.pretrained import network_of
from context_module.errors import ShapeError

__all__ = ["DENOISERS", "denoiser_of", "schedule_of"]

DENOISERS = ("unet", "transformer")  # names of the denoiser among a pipeline's components
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_STEP = 4  # arguments that a scheduler's step may ask for: itself, the output, the timestep, the noisy data
_LEARNED = 2  # times as many channels come out of a denoiser that learned variances


def denoiser_of(pipeline: Any) -> Any:
    """The denoiser of a pipeline, out of a `peft.PeftModel` if it is in one.

    Raises:
        TypeError: that names the pipeline, for one without a denoiser, with one of a class that is not supported, or
            whose scheduler asks for more than the denoiser's output at each step.
        ShapeError: for a denoiser that does not give what it takes.
    """
    name, components = type(pipeline).__name__, pipeline.components
    net = network_of(next((components[part] for part in DENOISERS if components.get(part) is not None), None))
    if net is None:
        raise TypeError(f"a {name} has no denoiser: no component {' or '.join(DENOISERS)}")
    if type(net).__name__ not in SUPPORTED:
        raise TypeError(
            f"a {name} is not supported: no conditioning known for a denoiser of the class {type(net).__name__}; "
            f"supported: {', '.join(SUPPORTED)}"
        )
    step = inspect.signature(type(pipeline.scheduler).step).parameters
    asked = [key for key, value in step.items() if value.default is value.empty and value.kind in _POSITIONAL]
    if extra := asked[_STEP:]:
        raise TypeError(
            f"a {name} is not supported: its {type(pipeline.scheduler).__name__} asks for {', '.join(extra)} at every "
            "step; supported are pipelines that make images from noise alone, such as DDIMPipeline(unet=..., "
            "scheduler=DDIMScheduler.from_config(pipeline.scheduler.config))"
        )
    takes, gives = net.config.in_channels, net.config.get("out_channels")
    latent = any(components.get(part) is not None for part in ("vae", "vqvae"))
    if not latent and gives not in (None, takes, _LEARNED * takes):
        raise ShapeError(
            f"the denoiser of this {name} takes {takes} channels and gives {gives}: denoisers that read more than the "
            "noisy data are not supported"
        )
    return net


def schedule_of(pipeline: Any, scheduler: Any, max_snr: float | None) -> NoiseSchedule:
    """The noise levels of a pipeline's scheduler; TypeError that names the pipeline if none are known."""
    try:
        return NoiseSchedule(scheduler, math.inf if max_snr is None else max_snr)
    except TypeError as error:
        raise TypeError(f"a {type(pipeline).__name__} is not supported: {error}") from error
