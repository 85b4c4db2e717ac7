"""Classifiers of transformers as labellers: of images, scaled and normalised as theirs were, and of texts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from context_module.errors import DataError
from context_module.io import CONFIG_FILE, local_folder, read_json

__all__ = ["Classifier"]

_PROCESSOR = "preprocessor_config.json"
_TOKENIZER = ("tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "spiece.model", "*.spm")
_FILES = (CONFIG_FILE, _PROCESSOR, "model*.safetensors*", *_TOKENIZER)
_OF_TEXTS = "ForSequenceClassification"


class Classifier:
    """Scores (B, labels) of images (B, C, H, W) in [0, 1], on their device, or of B texts.

    Labellers of several concepts ask for the same samples one after the other: the last scores are kept.

    Args:
        source: folder or Hub id of an image or sequence classifier.

    Attributes:
        labels: number -> name.

    Raises:
        CheckpointError: for what cannot be found.
        DataError: for what is no classifier.
        ImportError: without transformers.
    """

    def __init__(self, source: str) -> None:
        folder = local_folder(source, _FILES, expected="a classifier of transformers")
        try:
            import transformers
        except ImportError as error:
            message = f"the labeller {source} needs transformers: pip install context-module[transformers]"
            raise ImportError(message) from error
        config = read_json(folder / CONFIG_FILE) if (folder / CONFIG_FILE).is_file() else {}
        of_texts = any(str(name).endswith(_OF_TEXTS) for name in config.get("architectures") or ())
        auto = "AutoModelForSequenceClassification" if of_texts else "AutoModelForImageClassification"
        self._tokenizer: Any = None
        try:
            net = getattr(transformers, auto).from_pretrained(folder, use_safetensors=True)
            if of_texts:
                self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        except (OSError, ValueError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise DataError(f"{source} is no classifier of transformers that can be read ({reason})") from error
        self._net: Any = net.eval().requires_grad_(False)
        self.labels: dict[int, str] = net.config.id2label
        self._independent = net.config.problem_type == "multi_label_classification"
        self._settings = _settings(folder)
        self._last: tuple[Any, Tensor] | None = None

    def __call__(self, samples: Any) -> Tensor:
        if self._last is None or self._last[0] is not samples:
            self._last = samples, self._scores(samples)
        return self._last[1]

    @torch.no_grad()
    def _scores(self, samples: Any) -> Tensor:
        if self._tokenizer is None:
            net = self._net.to(samples.device)
            logits = net(self._prepared(samples).to(net.dtype)).logits.float()
        else:
            tokens = self._tokenizer(list(samples), padding=True, truncation=True, return_tensors="pt")
            logits = self._net(**tokens.to(self._net.device)).logits.float()
        if self._independent:
            return logits
        every = logits.logsumexp(1, keepdim=True)
        others = every + torch.log1p(-(logits - every).exp().clamp_max(1 - 1e-6))
        return logits - others

    def _prepared(self, images: Tensor) -> Tensor:
        """At the classifier's size, and normalised as it was trained."""
        settings = self._settings
        size = _sides(settings.get("size"))
        if settings.get("do_resize", True) and size is not None and tuple(images.shape[2:]) != size:
            images = F.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)
        if settings.get("do_normalize", True) and settings.get("image_mean") is not None:
            mean, std = (images.new_tensor(settings[name]).view(-1, 1, 1) for name in ("image_mean", "image_std"))
            images = (images - mean) / std
        return images


def _settings(folder: Path) -> Mapping[str, Any]:
    file = folder / _PROCESSOR
    return read_json(file) if file.is_file() else {}


def _sides(size: Any) -> tuple[int, int] | None:
    """Height and width, as the configurations of image processors write them."""
    if isinstance(size, Mapping):
        side = size.get("shortest_edge")
        return (size.get("height", side), size.get("width", side)) if side or "height" in size else None
    return None if size is None else (int(size), int(size))
