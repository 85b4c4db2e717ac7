"""What representations are compared with: a network trained end to end on the label itself (empirical risk).

ERM is a classifier of the target alone; ERM-multilabel predicts the labels of other factors beside it, as methods that
learn from labels are told them; either may start from a network pretrained on other images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from context_module.baselines.labels import LabelScale, cross_entropy, mean_of_known
from context_module.baselines.networks import make_networks
from context_module.baselines.sagan import resnet50
from context_module.errors import CheckpointError
from context_module.io import save_network
from context_module.objective import BatchObjective
from context_module.options import argument

__all__ = ["Classifier", "ClassifierSettings"]

_SIDE = 224  # pixels, of what pretrained networks have seen
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(kw_only=True)
class ClassifierSettings:
    """The network of a classifier, and what it predicts beside the target."""

    network: Literal["conv64", "simple64bn", "simple32bn", "conv3", "resnet50"] = argument(
        "conv64", help="encoder of that architecture, or a ResNet-50"
    )
    pretrained: str | None = argument(
        None, help="in place of it an image classifier of transformers, folder or Hub id: microsoft/resnet-50"
    )
    also: list[str] = argument([], help="further factors whose labels are predicted, too (ERM-multilabel)")


class Classifier(BatchObjective):
    """Logits of a target, and of the labels of other factors in [0, 1].

    Its validation losses are of few images or of the correlation it is to be free of: the last weights are kept.

    Args:
        settings: see `ClassifierSettings`.
        image_shape: (C, H, W).
        target: name of a factor that is 0 or 1.

    Raises:
        CheckpointError: for a pretrained network that cannot be read.
    """

    comparable = False

    def __init__(self, settings: ClassifierSettings, image_shape: tuple[int, int, int], target: str) -> None:
        super().__init__()
        self.settings, self.image_shape, self.target = settings, image_shape, target
        self.scale = LabelScale([target, *settings.also])
        outputs = len(self.scale.names)
        self.net: nn.Module
        if settings.pretrained:
            self.net = _pretrained(settings.pretrained, outputs)
        elif settings.network == "resnet50":
            self.net = resnet50(image_shape[0], outputs)
        else:
            self.net = make_networks(settings.network, image_shape, outputs, 1)[0]

    def logits(self, x: Tensor) -> Tensor:
        """(B, 1 + further factors) of images (B, C, H, W) in [0, 1]."""
        if not self.settings.pretrained:
            return self.net(x).float()
        x = F.interpolate(x.expand(-1, 3, -1, -1), (_SIDE, _SIDE), mode="bilinear", antialias=True)
        mean, std = (x.new_tensor(one).view(-1, 1, 1) for one in (_MEAN, _STD))
        return self.net((x - mean) / std).logits.float()

    def represent(self, batch: dict[str, Tensor], progress: float = 1.0) -> dict[str, Tensor]:
        return {"labels": self.scale.unit(batch["factors"]), "logits": self.logits(batch["x"])}

    def combine(self, parts: dict[str, Tensor], progress: float = 1.0) -> dict[str, Tensor]:
        labels, logits = parts["labels"], parts["logits"]
        error = mean_of_known(cross_entropy(logits, labels), labels)
        wrong = ((logits[:, 0] > 0) != (labels[:, 0] > 0.5)).float()
        return {"loss": error.expand(len(logits)), "wrong": wrong}

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """Whether images (B, C, H, W) show the target, bool (B,)."""
        return self.logits(x)[:, 0] > 0

    def save(self, directory: Any) -> None:
        """Write config.json and model.safetensors."""
        config = {"classifier": self.target, "image_shape": list(self.image_shape), **vars(self.settings)}
        save_network(directory, self, config)


def _pretrained(source: str, outputs: int) -> nn.Module:
    try:
        from transformers import AutoModelForImageClassification
    except ImportError as error:
        raise ImportError(
            "a pretrained network needs transformers: pip install context-module[transformers]"
        ) from error
    try:
        return AutoModelForImageClassification.from_pretrained(
            source, num_labels=outputs, ignore_mismatched_sizes=True, use_safetensors=True
        )
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise CheckpointError(f"{source} is no image classifier of transformers that can be read ({reason})") from None
