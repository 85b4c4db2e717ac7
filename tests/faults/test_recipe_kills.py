"""The runs that ``make faults`` kills."""

import pytest

from helpers.recipe_kills import RUNS, SMALL, recipe


@pytest.mark.parametrize("title", RUNS)
def test_recipes_know_their_flags(title, capsys):
    name, flags, _ = RUNS[title]
    with pytest.raises(RuntimeError, match="ended with 2"):
        recipe(name, "--output_dir", "out", *flags, *SMALL, "--no_such_flag")
    assert capsys.readouterr().err.endswith("error: unrecognized arguments: --no_such_flag\n")
