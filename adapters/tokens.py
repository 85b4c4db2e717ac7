"""The likelihood of token sequences under a causal language model that has a prefix before it."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from context_module.normal import draw_uniform

__all__ = ["Prefix", "TokenLikelihood", "own_tokens", "run"]

#: Keys and values (B, heads, P, head width) of P virtual tokens, of each layer.
Prefix = Sequence[tuple[Tensor, Tensor]]


def own_tokens(ids: Tensor, end: int) -> Tensor:
    """Which of the tokens (B, T) are a text's own, bool: those up to its first end token, that one too."""
    ends = (ids == end).int()
    return ends.cumsum(1) - ends == 0


def run(net: Any, ids: Tensor, cache: Any) -> Tensor:
    """Logits (B, T, vocabulary), float32, of token ids (B, T) after those in the cache, which then holds all."""
    name = (
        "cache" if "cache" in inspect.signature(net.forward).parameters else "past_key_values"
    )  # until transformers 5
    return net(ids, use_cache=True, **{name: cache}).logits.float()


class TokenLikelihood:
    """Token sequences (B, T), int64, each up to its first end token, after a prefix and the begin token.

    Args:
        net: the language model, of transformers.
        prefix: what it has in its cache.
        begin, end: ids of the begin and the end token.
        max_tokens: sequences drawn have at most as many tokens.
        temperature: of drawn tokens; 0 gives the likeliest ones, one by one.
    """

    def __init__(
        self, net: Any, prefix: Prefix, begin: int, end: int, max_tokens: int, temperature: float = 1.0
    ) -> None:
        self.net, self.prefix, self.begin, self.end = net, prefix, begin, end
        self.max_tokens, self.temperature = max_tokens, temperature

    @property
    def mean(self) -> Tensor:
        """The likeliest next token, over and over: (B, T), filled up with end tokens; without gradients."""
        return self._draw(0.0, None)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """A draw, (B, T), otherwise like `mean`."""
        return self._draw(self.temperature, generator)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-probability of token ids (B, T), summed over a text's own tokens: (B,), float32, nats."""
        # texts are filled up at their ends, where a causal model's own tokens do not look: no attention mask
        logits = run(self.net, torch.cat([self._begins(), x[:, :-1]], dim=1), self._cache())
        losses = F.cross_entropy(logits.flatten(0, 1), x.flatten(), reduction="none")
        return -(losses.view_as(x) * own_tokens(x, self.end)).sum(1)

    @torch.no_grad()
    def _draw(self, temperature: float, generator: torch.Generator | None) -> Tensor:
        cache, last = self._cache(), self._begins()
        ended = torch.zeros_like(last[:, 0], dtype=torch.bool)
        tokens: list[Tensor] = []
        while len(tokens) < self.max_tokens - 1 and not ended.all():
            logits = run(self.net, last, cache)[:, -1]
            if temperature:  # the largest with Gumbel noise is a draw; the noise is the same on every device
                noise = draw_uniform(logits, generator).clamp_min(1e-20)
                logits = logits / temperature - (-noise.log()).log()
            tokens.append(torch.where(ended, self.end, logits.argmax(1)))
            last, ended = tokens[-1][:, None], ended | (tokens[-1] == self.end)
        if not ended.all():  # cut off
            tokens.append(torch.full_like(ended, self.end, dtype=torch.int64))
        return torch.stack(tokens, dim=1)

    def _begins(self) -> Tensor:
        keys = self.prefix[0][0]
        return torch.full((len(keys), 1), self.begin, device=keys.device)

    def _cache(self) -> Any:
        from transformers import DynamicCache

        cache = DynamicCache()
        for layer, (keys, values) in enumerate(self.prefix):
            cache.update(keys, values, layer)
        return cache
