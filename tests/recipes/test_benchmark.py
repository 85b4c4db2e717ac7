"""recipes/benchmark.py as a user runs it."""

import re


def test_benchmark(run, check, tmp_path):
    out = check.succeeded(run("benchmark.py", "--num_concepts", "2", "--repeats", "2", cwd=tmp_path))
    rows = re.findall(r"^ +2  (\w+) +([\d.]+)x$", out, flags=re.MULTILINE)
    assert [form for form, _ in rows] == ["reduced", "structural"]
    assert all(float(ratio) > 0 for _, ratio in rows)


def test_errors(here, check):
    assert "no concepts given" in check.failed(here("benchmark.py", "--num_concepts", "0"))


def test_help(here):
    code, out, _ = here("benchmark.py", "--help")
    assert code == 0
    assert "--repeats" in out
