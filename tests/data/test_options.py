"""Options as words: the declared type decides what a value is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest

from context_module.cli import BaseArguments, DataArguments
from context_module.data import parse_options
from context_module.errors import DataError
from helpers.pictures import flat, save_picture

if TYPE_CHECKING:
    from elsewhere import Unknown


def loads(
    root: str | Path,
    *,
    words: str = "",
    maybe: str | None = None,
    folder: Path | None = None,
    names: Iterable[str] | None = None,
    more: tuple[str, ...] = (),
    count: int = 0,
    limit: int | None = None,
    share: float = 0.0,
    rate: float | None = None,
    switch: bool = False,
    form: Literal["round", "square"] = "round",
    size: int | tuple[int, int] = 0,
    number_or_name: int | str = 0,
    table: Mapping[str, int] | None = None,
    theirs: Unknown = None,
    ours: str | Unknown = "",
    anything: Any = None,
    untyped=None,
    **others: Any,
) -> None: ...


@pytest.mark.parametrize("value", ["2024", "12e4567", "true", "null", "NaN", "0.10", '"x"', "[1]", "", "a=b", "x~y"])
@pytest.mark.parametrize("name", ["root", "words", "maybe", "folder", "ours"])
def test_what_is_text_stays_text(name, value):
    assert parse_options([f"{name}={value}"], loads) == {name: value}


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("names=1", "1"),
        ("names=a,b", "a,b"),
        ('names=["a", "b"]', ["a", "b"]),
        ("more=[1, 2]", ["1", "2"]),
        ("count=7", 7),
        ("limit=7", 7),
        ("limit=null", None),
        ("limit=None", None),
        ("share=1", 1.0),
        ("rate=1e-3", 0.001),
        ("switch=False", False),
        ("form=square", "square"),
        ("size=8", 8),
        ("size=[8, 9]", [8, 9]),
        ("number_or_name=8", 8),
        ("number_or_name=eight", "eight"),
        ('table={"a": 1}', {"a": 1}),
        ("theirs=1", 1),
        ("anything=true", True),
        ("untyped=0.5", 0.5),
        ("untyped=half", "half"),
        ("not_there=3", 3),
    ],
)
def test_other_values_are_read_as_declared(word, value):
    for function in (loads, partial(loads, "here")):
        (found,) = parse_options([word], function).values()
        assert found == value
        assert type(found) is type(value)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("count=many", "the option count must be a whole number, got 'many'"),
        ("count=1.5", "must be a whole number, got '1.5'"),
        ("limit=", "must be a whole number, got ''"),
        ("rate=fast", "must be a number, got 'fast'"),
        ("switch=1", "must be true or false, got '1'"),
        ("form=oval", "must be one of round, square, got 'oval'"),
    ],
)
def test_other_values_are_refused(word, message):
    with pytest.raises(DataError, match=message):
        parse_options([word], loads)


def test_the_first_function_that_declares_an_argument_says_its_type():
    def first(count: str, untyped): ...

    def second(untyped: str, share: str): ...

    words = ["count=1", "untyped=2", "share=3", "limit=4"]
    found = parse_options(words, first, second, loads)
    assert found == {"count": "1", "untyped": "2", "share": "3", "limit": 4}


class Base:
    def __init__(self, prompt: str | None = None, steps: int = 1) -> None: ...

    @classmethod
    def load(cls, revision: str | None = None, **options: Any) -> Base:
        return cls(**options)


def test_methods_and_classes_declare_types_too():
    words = ["revision=12e4", "prompt=1984", "steps=3"]
    assert parse_options(words, Base.load, Base) == {"revision": "12e4", "prompt": "1984", "steps": 3}


def test_home_is_where_it_is(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    found = parse_options(["root=~/a", "untyped=~/b", "words=a~/b"], loads)
    assert found == {"root": "/home/me/a", "untyped": "/home/me/b", "words": "a~/b"}


def test_numbers_are_names_of_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i in range(4):
        save_picture(Path("2024") / f"{i}.png", flat(10 * i))
    Path("1e3").write_text("file,7\n0.png,0\n1.png,0\n2.png,1\n3.png,1\n")
    flags = DataArguments(data="attributes", data_options=["root=2024", "table=1e3", "concepts=7", "min_images=1"])
    assert flags.load().concepts == ["7"]
    flags.data_options[-1] = "min_images=few"
    with pytest.raises(DataError, match="the option min_images must be a whole number, got 'few'"):
        flags.load()


def test_numbers_are_names_of_folders(tmp_path):
    for name in ("obs", "1", "2", "1+2"):
        save_picture(tmp_path / name / "0.npy", np.full((8, 8), 0.5))
    data = DataArguments(data=str(tmp_path), data_options=["concepts=2,1", "training_on=1+2", "seed=3"]).load()
    assert data.train.context_names == ("obs", "2", "1", "2+1")


def test_options_of_a_base_are_of_its_types(monkeypatch):
    asked = {}

    def load_base(family, path, **options):
        asked.update(options)

    monkeypatch.setattr("context_module.cli.base.load_base", load_base)
    words = ["prompt=1984", "revision=12e4567", "num_inference_steps=3"]
    BaseArguments(base="denoiser", base_checkpoint="there", base_options=words).load_base()
    assert asked == {"prompt": "1984", "revision": "12e4567", "num_inference_steps": 3}
