"""A new language model: its training on texts of all contexts."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from context_module.adapters.contract import DecoderAdapter
from context_module.adapters.pretraining import Pretraining
from context_module.adapters.transformers import TransformersAdapter
from context_module.data import ContextDataset, TextContextDataset
from context_module.errors import DataError
from context_module.objective import Objective
from context_module.options import argument

__all__ = ["LanguageModelObjective", "LanguageModelPretraining"]


class LanguageModelObjective(Objective):
    """Pretraining: -log p(x) after virtual tokens that say nothing. Returns a dict like every objective."""

    def __init__(self, base: TransformersAdapter) -> None:
        super().__init__()
        self.base = base

    def forward(self, batch: dict[str, Tensor], progress: float = 1.0) -> dict[str, Tensor]:
        x = self.base.check_inputs(batch["x"])
        return {"loss": -self.base.decode(self.base.sample_latent(len(x))).log_prob(x)}


@dataclass(kw_only=True)
class LanguageModelPretraining(Pretraining):
    """A small causal language model of transformers, whose tokens are words."""

    files = ("config.json", "model.safetensors", "generation_config.json", "special_tokens_map.json", "tokenizer*")
    max_tokens: int = argument(64, help="limit of texts, their end token included")
    hidden_size: int = argument(96, help="width of the language model")
    num_layers: int = argument(3, help="layers of the language model")

    def build(self, data: ContextDataset) -> tuple[DecoderAdapter, LanguageModelObjective]:
        if not isinstance(data, TextContextDataset):
            raise DataError("the data holds images, a language model takes texts: such as --data grammar")
        sizes = {"hidden_size": self.hidden_size, "num_layers": self.num_layers, "max_tokens": self.max_tokens}
        base = TransformersAdapter.from_texts(data.texts(), **sizes)
        return base, LanguageModelObjective(base)
