"""The likelihood of token sequences under a causal language model that has a prefix before it."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from context_module.adapters.contract import Decoding
from context_module.adapters.prefix import Prefix, run
from context_module.normal import draw_uniform

__all__ = ["TokenDecoding", "TokenLikelihood", "own_tokens"]

_MARGIN = 1e-3


def own_tokens(ids: Tensor, end: int) -> Tensor:
    """Which of the tokens (B, T) are a text's own, bool: those up to its first end token, that one too."""
    ends = (ids == end).int()
    return ends.cumsum(1) - ends == 0


def gumbel(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard Gumbel noise of a tensor's shape, the same on every device."""
    return -(-draw_uniform(like, generator).clamp_min(1e-20).log()).log()


class TokenLikelihood:
    """Token sequences (B, T), int64, each up to its first end token, after a prefix and the begin token.

    Args:
        net: the language model, of transformers.
        prefix: what it has in its cache before them.
        begin, end: ids of the begin and the end token.
        max_tokens: sequences drawn have at most as many tokens.
        temperature: of drawn tokens; 0 gives the likeliest ones, one by one.
        noise: (B, T, vocabulary), added to the logits of the first T tokens in place of fresh noise; see `noise_of`.
    """

    def __init__(
        self,
        net: Any,
        prefix: Prefix,
        begin: int,
        end: int,
        max_tokens: int,
        temperature: float = 1.0,
        noise: Tensor | None = None,
    ) -> None:
        self.net, self.prefix, self.begin, self.end = net, prefix, begin, end
        self.max_tokens, self.temperature, self.noise = max_tokens, temperature, noise

    @property
    def mean(self) -> Tensor:
        """The likeliest next token, over and over: (B, T), filled up with end tokens; without gradients."""
        return self._draw(0.0, None)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """A draw, (B, T), otherwise like `mean`."""
        return self._draw(self.temperature, generator)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-probability of token ids (B, T), summed over a text's own tokens: (B,), float32, nats."""
        losses = F.cross_entropy(self._logits(x).flatten(0, 1), x.flatten(), reduction="none")
        return -(losses.view_as(x) * own_tokens(x, self.end)).sum(1)

    @torch.no_grad()
    def noise_of(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """A draw of the Gumbel noise (B, T, vocabulary) with which these tokens (B, T) were the largest, float32.

        With it texts come out as they are; under another prefix they become their counterfactuals (Oberst and Sontag
        2019, "Counterfactual Off-Policy Evaluation with Gumbel-Max Structural Causal Models"): a token stays unless
        the prefix makes another one more likely than before. Drawn from the top down (Maddison et al. 2014).
        """
        logits = self._logits(x)
        fresh = logits + gumbel(logits, generator)
        top = logits.logsumexp(-1, keepdim=True) + gumbel(logits[..., :1], generator)
        below = -torch.logaddexp(-top, -fresh)
        own = F.one_hot(x, logits.shape[-1]).bool()
        # what a cache adds up is rounded otherwise than what runs at once
        return torch.where(own, top + _MARGIN, below) - logits

    def _logits(self, x: Tensor) -> Tensor:
        # texts are filled up at their ends, where a causal model's own tokens do not look: no attention mask
        return run(self.net, torch.cat([self._begins(), x[:, :-1]], dim=1), self.prefix.cache(grows=False))

    @torch.no_grad()
    def _draw(self, temperature: float, generator: torch.Generator | None) -> Tensor:
        cache, last = self.prefix.cache(), self._begins()
        ended = torch.zeros_like(last[:, 0], dtype=torch.bool)
        tokens: list[Tensor] = []
        while len(tokens) < self.max_tokens - 1 and not ended.all():
            logits = run(self.net, last, cache)[:, -1]
            if self.noise is not None and len(tokens) < self.noise.shape[1]:
                logits = logits + self.noise[:, len(tokens)]
            elif temperature:  # the largest with Gumbel noise is a draw
                logits = logits / temperature + gumbel(logits, generator)
            tokens.append(torch.where(ended, self.end, logits.argmax(1)))
            last, ended = tokens[-1][:, None], ended | (tokens[-1] == self.end)
        if not ended.all():  # cut off
            tokens.append(torch.full_like(ended, self.end, dtype=torch.int64))
        return torch.stack(tokens, dim=1)

    def _begins(self) -> Tensor:
        return torch.full((len(self.prefix), 1), self.begin, device=self.prefix.device)


class TokenDecoding(Decoding):
    """p(tokens | decoder input). Its residual, the noise of the given tokens, is drawn when it is asked for.

    Args:
        likelihood: of the tokens.
        given: the tokens (B, T) to explain, if any.
        generator: of their noise; without one it is the same for the same tokens.
    """

    def __init__(self, likelihood: TokenLikelihood, given: Tensor | None, generator: torch.Generator | None) -> None:
        self.likelihood, self._tokens, self._given, self._generator = likelihood, likelihood, given, generator
        self.kl = torch.zeros(len(likelihood.prefix), device=likelihood.prefix.device)

    @cached_property
    def residuals(self) -> tuple[Tensor, ...]:  # type: ignore[override]
        if self._given is None:
            return ()
        generator = self._generator or torch.Generator().manual_seed(0)
        return (self._tokens.noise_of(self._given, generator),)
