"""The model card that is saved beside a context module."""

from __future__ import annotations

from context_module.adapters.base import DecoderAdapter
from context_module.config import ContextModuleConfig
from context_module.lora import LoraSettings

__all__ = ["model_card"]


def model_card(
    base: DecoderAdapter, config: ContextModuleConfig, num_saved: int, lora: LoraSettings | None = None
) -> str:
    """A README.md in the Hub's format: what the module controls, which base it needs, how to load it.

    Args:
        base: the base it was trained on.
        config: of the module.
        num_saved: values in the saved tensors.
        lora: of LoRA on the base's decoder, if there is any.
    """
    saved = "context module and posterior heads" if lora is None else "context module, posterior heads and LoRA"
    adapted = "" if lora is None else f"\n| LoRA | rank {lora.rank}, on {len(lora.target_modules)} decoder layers |"
    concepts = "\n".join(f"- `{name}`" for name in config.concepts) or "- none: add concept packs to it"
    joint = " and ".join(f"`{name}`" for name in config.concepts[:2]) or "no intervention"
    return f"""---
library_name: context-module
tags: [context-module, causal-representation-learning, {base.name}]
---

# Context module for a {base.name} base

It goes in front of the decoder of a pretrained generative model and controls these concepts, alone or together:

{concepts}

| | |
|---|---|
| base | {base.source or "given by the caller"} ({base.name}, {base.takes}) |
| tensors saved | {num_saved:,d} values: {saved}; the base is not in this folder |
| widths | noise {config.noise_width}, concept {config.concept_width}, depth {config.depth} |
| free blocks | {config.free_blocks} |
| intervention layer | {config.form} |{adapted}

```python
from context_module import ContextualDecoder

model = ContextualDecoder.from_pretrained("path/to/this/folder", base=base)
{base.kind} = model.generate(16, do={list(config.concepts[:2])!r})  # {joint}
```

Method: 'Intervening to Learn and Compose Causally Disentangled Representations', CLeaR 2026.
"""
