"""A data set as its base sees it: encoded once, so that training in the latent space never runs the base again."""

from __future__ import annotations

import torch
from torch import Tensor
from tqdm.auto import tqdm

from context_module.adapters.base import DecoderAdapter
from context_module.data.base import ContextDataset, LabelledDataset
from context_module.data.loader import evaluation_loader

__all__ = ["EncodedDataset", "encode_dataset"]


class EncodedDataset(LabelledDataset):
    """Encodings in place of images, in memory; the same contexts and order as the data set they come from.

    Item i is ``{"features" (D,), "mean" (*latent_shape), "log_var" (*latent_shape), "mask": bool (K,)}``, float32.
    A deterministic encoder has a log-variance of minus infinity.
    """

    def __init__(self, dataset: ContextDataset, features: Tensor, mean: Tensor, log_var: Tensor, mask: Tensor) -> None:
        self.concepts, self.context_names, self.labels = dataset.concepts, dataset.context_names, dataset.labels
        self.features, self.mean, self.log_var, self.mask = features, mean, log_var, mask

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {
            "features": self.features[index],
            "mean": self.mean[index],
            "log_var": self.log_var[index],
            "mask": self.mask[index],
        }


@torch.no_grad()
def encode_dataset(
    base: DecoderAdapter, dataset: ContextDataset, *, batch_size: int = 256, progress: bool = True
) -> EncodedDataset:
    """Encode every image of a data set with a base, on the base's device.

    Raises:
        ShapeError: for images the base does not take.
    """
    parts: dict[str, list[Tensor]] = {"features": [], "mean": [], "log_var": [], "mask": []}
    for batch in tqdm(evaluation_loader(dataset, batch_size), desc="encoding", unit="batch", disable=not progress):
        base.check_images(batch["x"])
        encoding = base.encode(batch["x"].to(base.device))
        log_var = torch.full_like(encoding.mean, -torch.inf) if encoding.log_var is None else encoding.log_var
        for name, value in (("features", encoding.features), ("mean", encoding.mean), ("log_var", log_var)):
            parts[name].append(value.float().cpu())
        parts["mask"].append(batch["mask"])
    return EncodedDataset(dataset, **{name: torch.cat(values) for name, values in parts.items()})
