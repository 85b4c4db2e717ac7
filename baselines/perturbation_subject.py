"""A method for perturbations as a subject: what metrics ask for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from context_module.baselines.gaussian import reparameterised
from context_module.baselines.perturbation import PerturbationVAE
from context_module.baselines.transfer import fitted_to, importance_bound
from context_module.contexts import OBSERVATIONAL
from context_module.data import ContextDataset
from context_module.errors import DataError
from context_module.metrics import SHIFTED, TRANSFER_DRAWS, Subject

__all__ = ["PerturbationSubject"]

_ENCODED = 2000  # rows of a context that stand for all


class PerturbationSubject(Subject):
    """A `PerturbationVAE`, to be scored.

    Under perturbations it draws codes from its prior, told of them. One whose prior is told of none answers by
    arithmetic: codes of observational rows, and the mean shifts of codes of the perturbed ones added up. Of one that
    does not say which dimensions a perturbation shifts, it is those in which mean codes move by a deviation or more.

    Args:
        model: the method.
        data: that it was trained on.

    Raises:
        DataError: for data of other concepts, or without observational rows.
    """

    kind = "vectors"

    def __init__(self, model: PerturbationVAE, data: ContextDataset) -> None:
        if set(model.concepts) != set(data.concepts):
            raise DataError(
                f"the method was trained on the perturbations {', '.join(model.concepts[:3])}, ... "
                f"({len(model.concepts)}), this data has {', '.join(data.concepts[:3])}, ... ({len(data.concepts)})"
            )
        if OBSERVATIONAL not in data.context_names:
            raise DataError(f"no {OBSERVATIONAL!r} rows, the control, among the training data")
        self.model = self.network = model
        self.device, self.concepts, self.learned = model.device, model.concepts, model.learned
        self._data = data
        self._means: dict[str, tuple[Tensor, Tensor]] = {}
        self._order = [data.concepts.index(name) for name in model.concepts]

    def sample(self, n: int, context: str, generator: torch.Generator) -> Tensor:
        model = self.model
        mask = model.concepts.mask(context)[0].to(self.device)
        if type(model).prior_of is PerturbationVAE.prior_of:
            return model.generated(self._by_arithmetic(n, context, generator), generator)
        return model.generated(model.composed(n, mask, generator), generator)

    def codes(self, x: Tensor) -> Tensor:
        return self.contextual_codes(x, torch.zeros(len(x), len(self.model.concepts), device=x.device) > 0)

    def contextual_codes(self, x: Tensor, mask: Tensor) -> Tensor:
        """Posterior means (B, latents) of rows, told of interventions (B, K) in the order of the data's concepts."""
        return self.model.represented(self.model.posterior(self.model.values(x), mask[:, self._order])[0])

    def nats(self, x: Tensor, mask: Tensor, generator: torch.Generator) -> Tensor:
        error, kl = self.model.bound_in(x, mask[:, self._order], generator)
        return error + kl

    def transfer(
        self, train: ContextDataset, test: ContextDataset, contexts: Sequence[str], seed: int
    ) -> tuple[Tensor, Tensor]:
        """The ELBO and the importance-weighted bound (n,) of test rows of contexts that it was not trained on."""
        with torch.enable_grad():
            fitted = fitted_to(self.model, train, contexts, seed=seed)
        generator = torch.Generator().manual_seed(seed)
        bounds: list[tuple[Tensor, Tensor]] = []
        for rows in torch.arange(len(test)).split(_ENCODED):
            items = test.__getitems__(rows.tolist())
            x, mask = (torch.stack([item[key] for item in items]).to(self.device) for key in ("x", "mask"))
            mask = mask[:, self._order]
            with torch.no_grad():
                error, kl = fitted.bound_in(x, mask, generator)
            bounds.append((-(error + kl), importance_bound(fitted, x, mask, TRANSFER_DRAWS, generator)))
        elbo, weighted = (torch.cat(parts).cpu() for parts in zip(*bounds, strict=True))
        return elbo, weighted

    @torch.no_grad()
    def targets(self) -> Tensor:
        """bool (K, latents), in the order of the method's concepts."""
        found = self.model.targets()
        if found is None:
            center, spread = self._moments(OBSERVATIONAL)
            learned = [name if name in self.learned else OBSERVATIONAL for name in self.model.concepts]
            shifts = [(self._moments(name)[0] - center) / spread for name in learned]
            found = torch.stack(shifts).abs() > SHIFTED
        return found.cpu()

    def _by_arithmetic(self, n: int, context: str, generator: torch.Generator) -> Tensor:
        center = self._moments(OBSERVATIONAL)[0]
        places = self._data.places(OBSERVATIONAL, _ENCODED)
        x, mask = self._read(places[torch.randint(len(places), (n,), generator=generator)])
        codes = reparameterised(*self.model.posterior(x, mask), generator)
        for name in self.model.concepts.parse(context):
            codes = codes + self._moments(name)[0] - center
        return codes

    def _moments(self, context: str) -> tuple[Tensor, Tensor]:
        """Mean and deviation (latents,) of the codes of a context."""
        if context not in self._means:
            codes = self.model.posterior(*self._read(self._data.places(context, _ENCODED)))[0]
            self._means[context] = codes.mean(0), codes.std(0).clamp_min(1e-6)
        return self._means[context]

    def _read(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        items: list[dict[str, Any]] = self._data.__getitems__(rows.tolist())
        x, mask = (torch.stack([item[key] for item in items]).to(self.device) for key in ("x", "mask"))
        return self.model.values(x), mask[:, self._order]
