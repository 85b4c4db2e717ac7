"""Reads texts with an encoder of transformers, such as a sentence encoder: one vector a text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from context_module.adapters.pretrained import import_library, parts_of, read_network, reading

__all__ = ["SentenceEncoder"]

_WHAT = "a folder of an encoder of transformers and its tokenizer"


class SentenceEncoder(nn.Module):
    """An encoder model of transformers and its tokenizer: texts to their mean last hidden states.

    The mean is over a text's own tokens, the tokenizer's begin and end among them, as sentence-transformers takes it
    (Reimers & Gurevych 2019, "Sentence-BERT"), before it brings vectors to length one. Texts longer than the model
    reads are cut off. A head or pooler that the model has beyond its hidden states is left out.

    Args:
        net: the model, such as a ``BertModel``; of one with a head, the model without it.
        tokenizer: its tokenizer, with a padding token.
        source: the folder or hub id both were read from, if any.

    Attributes:
        num_features: width of the vectors.

    Raises:
        TypeError: for anything but a model of transformers that reads texts and is no encoder-decoder model.
        ValueError: for a tokenizer without a padding token.
    """

    def __init__(self, net: Any, tokenizer: Any, source: str | None = None) -> None:
        super().__init__()
        config = getattr(net, "config", None)
        if config is None or getattr(config, "is_encoder_decoder", False) or not hasattr(config, "hidden_size"):
            raise TypeError(
                f"a {type(net).__name__} is no sentence encoder: give a model of transformers that AutoModel loads "
                "and that reads texts (BERT, MPNet, RoBERTa, ...), its folder, or its Hub id"
            )
        if tokenizer.pad_token_id is None:
            raise ValueError("the encoder's tokenizer has no padding token: set tokenizer.pad_token")
        self.net = net.base_model.eval()
        if getattr(self.net, "pooler", None) is not None:
            self.net.pooler = None
        self.tokenizer, self.source = tokenizer, source
        self.num_features: int = config.hidden_size
        longest = getattr(config, "max_position_embeddings", None)  # RoBERTa's count from 2 on
        self.max_tokens = min(tokenizer.model_max_length, *(() if longest is None else (longest - 2,)))

    @classmethod
    def of(cls, encoder: Any, **options: Any) -> SentenceEncoder:
        """The encoder behind an object, folder or Hub id.

        Args:
            encoder: a `SentenceEncoder`, a folder of ``save_pretrained`` or Hub id, a feature-extraction pipeline, or
                a model whose tokenizer lies where it was loaded from.
            options: for a folder or id, `dtype`, `token` and `local_files_only` of ``from_pretrained``.

        Raises:
            CheckpointError: for missing or broken files, weights that are not safetensors, and missing tensors.
            TypeError: for a model that does not say where its tokenizer is, and as for the class.
            ValueError: as for the class.
        """
        if isinstance(encoder, cls):
            return encoder
        if isinstance(encoder, str | Path):
            return cls.load(encoder, **options)
        net, tokenizer, source = parts_of(encoder, f"SentenceEncoder(model, tokenizer) of {cls.__module__}", _WHAT)
        return cls(net, tokenizer, source)

    @classmethod
    def load(cls, path: str | Path, **options: Any) -> SentenceEncoder:
        """The encoder of a folder or Hub id; see `of`."""
        library, path = import_library("transformers", "transformers"), str(path)
        with reading(path, _WHAT):
            net = read_network(library.AutoModel, path, path, _unused, **options)
            access = {name: value for name, value in options.items() if name != "dtype"}
            tokenizer = library.AutoTokenizer.from_pretrained(path, trust_remote_code=False, **access)
        return cls(net, tokenizer, path)

    def save(self, directory: str | Path) -> None:
        """Write model and tokenizer, for `load`."""
        self.tokenizer.save_pretrained(directory)
        self.net.save_pretrained(directory)

    def forward(self, texts: Sequence[str]) -> Tensor:
        """Vectors (B, num_features), float32, of B texts."""
        tokens = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt"
        ).to(self.net.device)
        hidden = self.net(**tokens).last_hidden_state.float()
        own = tokens["attention_mask"][..., None].to(hidden.dtype)
        return (hidden * own).sum(1) / own.sum(1)


def _unused(problem: str, name: str) -> bool:
    """Whether a misfit is of a pooler, or of a head beyond the encoder, which do not run."""
    return problem == "unexpected_keys" or (problem == "missing_keys" and name.startswith("pooler."))
