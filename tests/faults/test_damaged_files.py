"""Damaged and hostile files of every kind: the same as before, or an error that says so; never anything else.

``FAULTS=10000`` tries so many versions of every kind; by default there are few. `context-module`'s own files have
checksums: what they hold never changes silently. Files of others may be read with other values.
"""

import os

import pytest

from helpers.harness import damaged
from helpers.loaders import LOADERS

COUNT = int(os.environ.get("FAULTS") or 0)
SLOW = {"training checkpoint": 40, "context module": 120, "published vae.pth": 60, "images": 150}


@pytest.mark.parametrize("name", LOADERS)
def test_damaged_files_are_errors_or_change_nothing(name, tmp_path):
    counts, wrong = damaged(name, range(COUNT or SLOW.get(name, 300)), tmp_path)
    assert not wrong, "\n".join([f"{len(wrong)} of {sum(counts.values())}", *wrong[:12]])
    assert counts["an error that says so"] or name.startswith("cache of")
