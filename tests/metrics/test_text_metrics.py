"""Distances between texts by their factors, on cases whose answer is known."""

import pytest
import torch

from context_module.errors import DataError, ShapeError
from context_module.metrics.texts import UNREADABLE, intended_share, read_factors, total_variation
from helpers.draws import seeded


def table(*rows, times=10):
    return torch.tensor(rows, dtype=torch.float32).repeat(times, 1)


def test_reads_factors_and_marks_what_is_none():
    found = read_factors(
        ["1 2", "no", "3 0"], lambda t: None if t == "no" else torch.tensor(list(map(float, t.split()))), 2
    )
    assert found.tolist() == [[1, 2], [UNREADABLE, UNREADABLE], [3, 0]]


def test_total_variation_by_hand():
    a, b = table([0, 0], [1, 1]), table([0, 1], [1, 0])  # the same columns, no row in common
    assert total_variation(a, b).value == 1
    assert total_variation(a, b, joint=False).value == 0
    assert total_variation(a, a).value == 0
    c = table([0, 0], [0, 0], [0, 0], [1, 1])
    assert total_variation(a, c).value == pytest.approx(0.25)
    assert total_variation(a, c, joint=False).value == pytest.approx(0.25)
    assert total_variation(c, a).value == pytest.approx(0.25)
    unread = torch.full((20, 2), UNREADABLE)
    assert total_variation(torch.cat([a, unread]), a).value == pytest.approx(0.5)


def test_the_interval_narrows_with_the_sample():
    widths = []
    for n in (40, 4000):
        a, b = (torch.randint(3, (n, 1), generator=seeded(seed)).float() for seed in (0, 1))
        found = total_variation(a, b)
        widths.append(found.high - found.low)
        assert found.low <= found.value <= found.high
    assert widths[1] < widths[0] / 5


def test_intended_share():
    obs, changed = table([0, 0, 0], [0, 0, 1]), table([1, 0, 0], [1, 0, 1])  # an intervention on the first of three
    others = [obs, table([0, 1, 0], [0, 1, 1]), table([0, 0, 2])]
    assert intended_share(changed, changed, others).value == 1
    assert intended_share(obs, changed, others).value == pytest.approx(2 / 3)  # the first is as without
    assert intended_share(table([1, 1, 0], [1, 1, 1]), changed, others).value == pytest.approx(2 / 3)  # one too many


def test_what_cannot_be_compared():
    with pytest.raises(ShapeError, match=r"two tables of one width, got shapes \(10, 2\) and \(10, 3\)"):
        total_variation(table([0, 0]), table([0, 0, 0]))
    with pytest.raises(DataError, match="at least 10 items, got 3"):
        total_variation(table([0, 0], times=3), table([0, 0]))
    with pytest.raises(DataError, match="at least 10 items, got 5"):
        intended_share(table([0]), table([0]), [table([0], times=5)])
