"""One batch over shares of it: its random draws, its batch statistics, its rows together.

A process, or a pass of gradient accumulation, works on a share of a batch. Noise is drawn for the whole batch, of
which every share takes its rows, and batch norm takes the moments of all processes' rows, so that the number of shares
does not change what is computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from context_module.rows import Rows, at_rows, rows_in_hand

__all__ = ["WholeBatch", "gathered", "world_size"]

_BY_SHAPE = (torch.randn, torch.rand)
_LIKE: dict[Any, Callable[..., Tensor]] = {torch.randn_like: torch.randn, torch.rand_like: torch.rand}
_IN_PLACE = (Tensor.normal_, Tensor.uniform_, Tensor.exponential_, Tensor.bernoulli_)


def world_size() -> int:
    """How many processes train together."""
    distributed = torch.distributed
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


class WholeBatch(TorchFunctionMode):
    """Within `share`, draws and batch norms are those of a whole batch.

    Draws without a generator of their own come from a stream that is the same for all shares: of tensors with as many
    rows as the share, or a multiple, those of the whole batch are drawn, and its rows taken.

    Args:
        seed: of the stream, which is that of a process alone after ``torch.manual_seed(seed)``.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed
        self.generators: dict[str, torch.Generator] = {}

    @contextmanager
    def share(self, rows: Rows | None) -> Iterator[None]:
        """Compute rows of a batch; None: what is computed of all of it."""
        with at_rows(rows), self:
            yield

    def state(self) -> dict[str, Tensor]:
        """Where the stream is, by kind of device."""
        return {kind: generator.get_state() for kind, generator in self.generators.items()}

    def set_state(self, state: Mapping[str, Tensor]) -> None:
        """Go back, or on, to a `state`."""
        for kind in {*self.generators, *state}:
            generator = self._generator(torch.device(kind))
            if kind in state:
                generator.set_state(state[kind])
            else:  # not drawn from at that time
                generator.manual_seed(self.seed)

    def _generator(self, device: torch.device) -> torch.Generator:
        if device.type not in self.generators:
            self.generators[device.type] = torch.Generator(device.type).manual_seed(self.seed)
        return self.generators[device.type]

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if given.get("generator") is None:
            options = {name: value for name, value in given.items() if name != "generator"}
            if func in _BY_SHAPE:
                shape = options.pop("size") if "size" in options else args if isinstance(args[0], int) else args[0]
                return self._drawn(func, tuple(shape), options)
            if func in _LIKE:
                options = {"dtype": args[0].dtype, "device": args[0].device, **options}
                options.pop("memory_format", None)
                return self._drawn(_LIKE[func], tuple(args[0].shape), options)
            if func is torch.randint:
                *bounds, shape = (*args, options.pop("size")) if "size" in options else args
                draw: Any = torch.randint
                return self._drawn(lambda size, **rest: draw(*bounds, size, **rest), tuple(shape), options)
            if func in _IN_PLACE and not any(isinstance(value, Tensor) for value in (*args[1:], *options.values())):
                tensor, *rest = args
                return tensor.copy_(
                    self._noise(tensor, lambda noise, use: func(noise, *rest, **options, generator=use))
                )
            if func is torch.normal and isinstance(args[0], Tensor) and isinstance(args[1], Tensor):
                return args[0] + args[1] * self._noise(args[0], lambda noise, use: noise.normal_(generator=use))
        if func is F.dropout:
            return self._dropout(*args, **given)
        if func is F.batch_norm:
            return _batch_norm(*args, **given)
        return func(*args, **given)

    def _drawn(self, draw: Callable[..., Tensor], shape: tuple[int, ...], options: dict[str, Any]) -> Tensor:
        """A draw of this shape: the share's rows of that of the whole batch."""
        device = torch.device(options.get("device") or torch.get_default_device())
        whole, rows = _whole(shape)
        drawn = draw(whole, generator=self._generator(device), **options)
        return drawn if rows is None else _taken(drawn, shape, rows)

    def _noise(self, like: Tensor, fill: Callable[[Tensor, torch.Generator], Tensor]) -> Tensor:
        """Numbers of the shape, type and device of `like` that `fill` draws in place, for the whole batch."""
        whole, rows = _whole(tuple(like.shape))
        noise = fill(torch.empty(whole, dtype=like.dtype, device=like.device), self._generator(like.device))
        return noise if rows is None else _taken(noise, tuple(like.shape), rows)

    def _dropout(self, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if not training or p in (0, 1):
            return F.dropout(x, p, training, inplace)
        return x * self._noise(x, lambda noise, use: noise.bernoulli_(1 - p, generator=use)).div_(1 - p)


def _whole(shape: tuple[int, ...]) -> tuple[tuple[int, ...], Rows | None]:
    """The shape of a draw for all rows of the batch, and which of them are asked for; None: it is not of rows."""
    rows = rows_in_hand()
    if rows is None or not shape or shape == (1,) or not shape[0] or shape[0] % rows.count:
        return shape, None
    return (shape[0] // rows.count * rows.total, *shape[1:]), rows


def _taken(whole: Tensor, shape: tuple[int, ...], rows: Rows) -> Tensor:
    """The rows of a draw for several batches on top of one another."""
    return whole.unflatten(0, (-1, rows.total))[:, rows.place].reshape(shape)


class _Gather(torch.autograd.Function):
    """The rows of all processes, in their order. Each then computes the same of them, and averages gradients."""

    @staticmethod
    def forward(context: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(world_size())]
        torch.distributed.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        world, rank = world_size(), torch.distributed.get_rank()
        return gradients[0].chunk(world)[rank] * world


class _Sum(torch.autograd.Function):
    """The sum over all processes, each of which has a loss of its own that hangs on it."""

    @staticmethod
    def forward(context: Any, value: Tensor) -> Tensor:
        total = value.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total)
        return total


def gathered(rows: Tensor) -> Tensor:
    """The rows of all processes together, differentiable; as many of each."""
    if world_size() == 1:
        return rows
    if not rows.is_floating_point():
        return _Gather.apply(rows.to(torch.int64)).to(rows.dtype)
    return _Gather.apply(rows)


def _batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`torch.nn.functional.batch_norm` by the moments of all processes' rows; without gradients it keeps none."""
    if training and not torch.is_grad_enabled():  # a rehearsal: the pass that counts is yet to come
        running_mean, running_var = (None if kept is None else kept.clone() for kept in (running_mean, running_var))
    world = world_size()
    if not training or world == 1:
        return F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
    shape = (1, -1) + (1,) * (x.ndim - 2)
    over = [dim for dim in range(x.ndim) if dim != 1]
    wide = x.float()
    mean = _Sum.apply(wide.mean(over)) / world
    centred = wide - mean.view(shape)
    variance = _Sum.apply(centred.square().mean(over)) / world
    if running_mean is not None and running_var is not None:
        count = world * math.prod(x.shape[dim] for dim in over)
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean), momentum)
            running_var.lerp_((variance * count / max(count - 1, 1)).to(running_var), momentum)
    normal = centred * (variance + eps).rsqrt().view(shape)
    if weight is not None:
        normal = normal * weight.float().view(shape)
    if bias is not None:
        normal = normal + bias.float().view(shape)
    return normal.to(x.dtype)
