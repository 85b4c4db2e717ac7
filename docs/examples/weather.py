"""Texts in contexts from what a language model writes by itself: drawn, to be trained on, and judged.

    python docs/examples/weather.py draw BASE_FOLDER outputs/weather    # then recipes/finetune.py on outputs/weather/texts
    python docs/examples/weather.py judge outputs/weather

The model writes a sentence on the weather. Lists of words say whether it is of the past and whether the weather is
rough; sentences that say neither or both are left out. How many sentences show what they should is judged by what had
no part in that: endings of verbs and words of time, and the bare model, asked which of two words goes on from it.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import torch
from torch import Tensor

from context_module import ContextualDecoder
from context_module.adapters.transformers import TransformersAdapter
from context_module.data import ContextData, from_samples
from context_module.metrics import share_estimate

TASK = "Say in one short sentence how the weather is today, or how it was yesterday."
PROMPT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
MAX_TOKENS, TEMPERATURE = 28, 0.7

_PAST = r"was|were|had|did|wasn't|weren't|went|felt|came|fell|blew|rained|snowed|brought|left|hit|yesterday|said|rolled"
_PRESENT = r"is|are|has|isn't|aren't|it's|i'm|today's|there's|brings|feels|comes|falls|continues|currently|be|will"
_ROUGH = (
    r"rain\w*|storm\w*|thunder\w*|snow\w*|cold\w*|chill\w*|wind\w*|gust\w*|hurricane\w*|blizzard\w*|drizzl\w*|cloud\w*"
    r"|fog\w*|gr[ea]y|gloom\w*|wet|tornado\w*|tempest\w*|freez\w*|frost\w*|overcast|downpour\w*|flood\w*|shower\w*"
)
_FAIR = r"sun|sunny|sunshine|warm\w*|clear|bright\w*|blue|beautiful|pleasant|mild|hot|dry|perfect|lovely|gentle|heat\w*"


def more_of(some: str, others: str):
    """A labeller: by how many words of one list there are more than of the other."""
    these, those = (re.compile(rf"\b({words})\b", re.IGNORECASE) for words in (some, others))

    def score(texts: list[str]) -> Tensor:
        return torch.tensor([float(len(these.findall(text)) - len(those.findall(text))) for text in texts])

    return score


LABELLERS = {"past": more_of(_PAST, _PRESENT), "rough": more_of(_ROUGH, _FAIR)}


def base_of(folder: str, task: str = TASK, **options) -> TransformersAdapter:
    """The model, after the prompt."""
    return TransformersAdapter.load(
        folder, prompt=PROMPT.format(task), max_tokens=MAX_TOKENS, virtual_tokens=2, **options
    )


def contexts_of(base: TransformersAdapter, folder: Path, n: int) -> ContextData:
    """What the model wrote, in contexts."""
    return from_samples(
        base, LABELLERS, n=n, margin=1, temperature=TEMPERATURE, cache_file=folder / f"drawn-{n}.jsonl", seed=0
    )
