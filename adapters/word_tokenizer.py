"""A tokenizer whose tokens are the words of given texts, for small language models from scratch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from context_module.adapters.pretrained import import_library

__all__ = ["word_tokenizer"]


def word_tokenizer(texts: Sequence[str]) -> Any:
    """Words and punctuation marks are tokens, with single spaces between them."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    model: Any = models.WordLevel(unk_token="<unk>")
    tokenizer = Tokenizer(model)
    splitter: Any = pre_tokenizers.Whitespace()
    tokenizer.pre_tokenizer = splitter
    special = ["<s>", "</s>", "<unk>"]
    tokenizer.train_from_iterator(texts, trainers.WordLevelTrainer(special_tokens=special, show_progress=False))
    return import_library("transformers", "transformers").PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="</s>",
        clean_up_tokenization_spaces=False,
    )
