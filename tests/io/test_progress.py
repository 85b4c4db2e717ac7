import io
import sys

from context_module.io import progress_bar


def shown(monkeypatch, terminal):
    stream = io.StringIO()
    stream.isatty = lambda: terminal
    monkeypatch.setattr(sys, "stderr", stream)
    for _ in progress_bar(range(2000), miniters=1, file=stream):
        stream.write("")
    return stream.getvalue()


def test_a_bar_does_not_fill_a_file(monkeypatch):
    """At the start and at the end; and every half minute, which is not waited for here."""
    assert shown(monkeypatch, terminal=False).count("\r") <= 3
    assert "2000/2000" in shown(monkeypatch, terminal=False)


def test_in_a_terminal_it_moves(monkeypatch):
    assert "2000/2000" in shown(monkeypatch, terminal=True)
