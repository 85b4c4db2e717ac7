"""What several files of tests share; pytest finds it by ``pythonpath`` in pyproject.toml."""
