"""A small part of the long runs of ``make faults``: nothing grows with the number of steps, or of calls."""

from helpers.long_runs import generating, training


def test_training_holds_what_it_held(tmp_path):
    (before, after), files, lines = training(tmp_path, 200)
    assert after[0] < before[0] + 20
    assert after[1] <= before[1]
    assert files < 10
    assert lines < 60


def test_generating_holds_what_it_held():
    before, after = generating(200)
    assert after[0] < before[0] + 10
    assert after[1] <= before[1]
