"""The model card that is saved beside a context module."""

from __future__ import annotations

from context_module.adapters.base import DecoderAdapter
from context_module.config import ContextModuleConfig

__all__ = ["model_card"]


def model_card(base: DecoderAdapter, config: ContextModuleConfig, num_saved: int) -> str:
    """A README.md in the Hub's format: what the module controls, which base it needs, how to load it.

    Args:
        base: the base it was trained on.
        config: of the module.
        num_saved: values in the saved tensors.
    """
    concepts = "\n".join(f"- `{name}`" for name in config.concepts)
    joint = " and ".join(f"`{name}`" for name in config.concepts[:2])
    return f"""---
library_name: context-module
tags: [context-module, causal-representation-learning, {base.name}]
---

# Context module for a {base.name} base

It goes in front of the decoder of a pretrained generative model and controls these concepts, alone or together:

{concepts}

| | |
|---|---|
| base | {base.source or "given by the caller"} ({base.name}, images {"x".join(map(str, base.image_shape))}) |
| tensors saved | {num_saved:,d} values: context module and posterior heads; the base is not in this folder |
| widths | noise {config.noise_width}, concept {config.concept_width}, depth {config.depth} |
| free blocks | {config.free_blocks} |
| intervention layer | {config.form} |

```python
from context_module import ContextualDecoder

model = ContextualDecoder.from_pretrained("path/to/this/folder", base=base)
images = model.generate(16, do={list(config.concepts[:2])!r})  # {joint}
```

Method: 'Intervening to Learn and Compose Causally Disentangled Representations', CLeaR 2026.
"""
