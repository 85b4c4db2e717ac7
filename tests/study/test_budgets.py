"""What budgets say of every training."""

import runpy

import pytest

from context_module.study import budgets


@pytest.mark.parametrize(("instructions", "precision"), [(True, "bf16"), (False, "no")])
def test_half_precision_only_where_the_processor_has_it(instructions, precision, monkeypatch):
    monkeypatch.setattr("context_module.training.multiplies_bf16", lambda: instructions)
    budget = runpy.run_path(budgets.__file__)["CPU"]
    trainings = [flags["mixed_precision"] for flags in budget.values() if "mixed_precision" in flags]
    assert len(trainings) > 5
    assert set(trainings) == {precision}
