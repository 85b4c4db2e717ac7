"""What is in a module, before and after."""

import torch


def state(module):
    """A copy of all tensors, by name."""
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def changed(before, after):
    """Names of the tensors of `before` that are others in `after`."""
    return {name for name in before if not torch.equal(before[name], after[name])}


def same(one, other):
    """Whether two states have the same tensors by the same names, bit for bit."""
    return one.keys() == other.keys() and not changed(one, other)
