"""The house: every folder one idea, imports one way, no file too long to read."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# from left to right: a room imports those before it, not those after or beside it
ORDER = (
    "errors options rows",
    "normal registry",
    "contexts objective",
    "interventions io",
    "data",
    "adapters",
    "nn",
    "base drawing",
    "saving",
    "model",
    "training metrics",
    "baselines demo evaluation",
    "cli",
    "study",
    "__init__ __main__",
)
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms.split()}
OUTSIDE = ("adapters", "baselines")  # rooms that are folders of the repository
FILES = [file for folder in ("context_module", *OUTSIDE) for file in sorted((ROOT / folder).rglob("*.py"))]
LONGEST = 400


def room_of(module):
    """The room of a module's full name."""
    return module.removeprefix("context_module").lstrip(".").partition(".")[0] or "__init__"


def name_of(file):
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts if parts[0] == "context_module" else ("context_module", *parts))


def imports(file):
    """The modules of ours that a file imports, those for type checkers included."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("context_module"):
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("context_module"))


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_imports_go_one_way(file):
    here = room_of(name_of(file))
    for module in imports(file):
        there = room_of(module)
        assert there == here or LEVEL[there] < LEVEL[here], f"{name_of(file)} imports {module}, to the right of it"


@pytest.mark.parametrize("file", [*FILES, *sorted((ROOT / "recipes").glob("*.py"))], ids=lambda file: file.stem)
def test_rooms_are_entered_by_their_door(file):
    """What others may use of a room is in its ``__init__``; of adapters each family is a room of its own."""
    here = room_of(name_of(file)) if "recipes" not in file.parts else "recipes"
    for module in imports(file):
        there = room_of(module)
        if there in (here, "adapters") or "." not in module.removeprefix("context_module."):
            continue
        place = module.removeprefix("context_module.") if there in OUTSIDE else module
        inside = ROOT / place.replace(".", "/")
        assert inside.is_dir(), f"{file.name} imports {module}: import it from context_module.{there}"


def test_every_room_is_in_the_order():
    found = {path.stem for path in (ROOT / "context_module").iterdir() if path.suffix == ".py" or path.is_dir()}
    assert {*found, *OUTSIDE} - {"__pycache__", "py"} == set(LEVEL)


def test_every_room_says_what_it_is_for():
    for init in (file for file in FILES if file.name == "__init__.py"):
        tree = ast.parse(init.read_text(encoding="utf-8"))
        assert len(ast.get_docstring(tree) or "") > 20, init
        names = [node.targets[0].id for node in tree.body if isinstance(node, ast.Assign)]
        assert names == ["__all__"], init


@pytest.mark.parametrize("file", [*FILES, *sorted((ROOT / "recipes").glob("*.py"))], ids=lambda file: file.stem)
def test_files_are_read_in_one_sitting(file):
    assert len(file.read_text(encoding="utf-8").splitlines()) <= LONGEST
