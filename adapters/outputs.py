"""What a decoder ends in, logits or images: the likelihood of each, and whether what comes out says otherwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

from torch import Tensor

from context_module.adapters.likelihoods import BernoulliLikelihood
from context_module.errors import ShapeError

__all__ = ["Output", "checked_output", "contradiction", "likelihood_of"]

#: ``logits`` of images, images with values in [-1, 1] (``tanh``), or images with values in [0, 1] (``unit``).
Output = Literal["logits", "tanh", "unit"]

_LIKELIHOODS: dict[Output, Callable[[Tensor], BernoulliLikelihood]] = {
    "logits": BernoulliLikelihood,
    "tanh": lambda images: BernoulliLikelihood.of_mean((images.float() + 1) / 2),
    "unit": BernoulliLikelihood.of_mean,
}
_RANGES: dict[Output, tuple[float, float]] = {"tanh": (-1.0, 1.0), "unit": (0.0, 1.0)}
_LAST: dict[str, Output] = {"Sigmoid": "unit", "Hardsigmoid": "unit", "Tanh": "tanh", "Hardtanh": "tanh"}
# autograd's names of what moves values and leaves them as they are
_MOVES = ("View", "UnsafeView", "ReshapeAlias", "Permute", "Transpose", "Squeeze", "Unsqueeze", "Clone", "ToCopy")
_TOLERANCE = 1e-3


def checked_output(output: str) -> Output:
    """`output`; ShapeError for what is none of `Output`."""
    if output not in get_args(Output):
        raise ShapeError(f"output must be one of {', '.join(get_args(Output))}, got {output!r}")
    return output  # type: ignore[return-value]


def likelihood_of(decoded: Tensor, output: Output) -> BernoulliLikelihood:
    """The likelihood of images, from what a decoder returned: (B, C, H, W)."""
    return _LIKELIHOODS[output](decoded)


def contradiction(decoded: Tensor, output: Output) -> str | None:
    """What speaks against `output` in images that a decoder made, with gradients, of any decoder inputs; else None.

    That is the step they ended in, a sigmoid or a tanh, or else their range. Logits of either sign say nothing.
    """
    last = _last_step(decoded)
    low, high = (bound.item() for bound in decoded.detach().float().aminmax())
    found = _LAST.get(last) or _range(low, high)
    if found == output:
        return None
    if last in _LAST:
        return f"it ends in a {last.lower()}: give output={found!r}"
    values = f"its values are between {low:.3g} and {high:.3g}"
    if output == "logits":
        return None if found is None else f"{values}, as those of images: give output={found!r} if they are"
    within = _RANGES[output]
    if low < within[0] - _TOLERANCE or high > within[1] + _TOLERANCE:
        return f"{values}, outside of {list(within)}"
    return None


def _last_step(decoded: Tensor) -> str:
    """The name of the last step that made the values, as autograd calls it; empty if none is known."""
    step = decoded.grad_fn
    while step is not None:
        name = step.name().removesuffix("0").removesuffix("Backward")
        if name not in _MOVES:
            return name
        step = step.next_functions[0][0]
    return ""


def _range(low: float, high: float) -> Output | None:
    """Which images have values in this range; None for a range that logits may as well have."""
    if 0 <= low < high <= 1:
        return "unit"
    reaches = low < -1 + _TOLERANCE and high > 1 - _TOLERANCE
    return "tanh" if reaches and low >= -1 and high <= 1 else None
