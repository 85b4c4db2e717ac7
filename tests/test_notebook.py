"""The notebooks run as they are written, on a small budget."""

import importlib.util
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "notebooks"


def run(notebook, monkeypatch, tmp_path, **budget):
    """Execute a notebook where it lies, in a kernel of its own."""
    for name, value in {"STEPS": "3", **budget, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    client = NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": FOLDER}})
    return client.execute()


def shown(name, monkeypatch, tmp_path, **budget):
    """The pictures that a notebook shows, and its texts."""
    notebook = run(nbformat.read(FOLDER / f"{name}.ipynb", as_version=4), monkeypatch, tmp_path, **budget)
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    found = [output.get("data", {}) for output in outputs]
    pictures = [data for data in found if "image/png" in data]
    texts = [output.get("text", "") for output in outputs]
    texts += [data.get("text/markdown", data.get("text/plain", "")) for data in found]
    return pictures, "\n".join(texts)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::RuntimeWarning", "ignore::ResourceWarning")
def test_first_steps(monkeypatch, tmp_path):
    pictures, texts = shown("first_steps", monkeypatch, tmp_path, IMAGES="60")
    assert len(pictures) == 3
    assert "| quad1+size |" in texts


@pytest.mark.skipif(
    importlib.util.find_spec("gan_face_generate") is None, reason="pip install --no-deps gan-face-generate"
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::RuntimeWarning", "ignore::ResourceWarning")
def test_faces(monkeypatch, tmp_path):
    pictures, texts = shown("faces", monkeypatch, tmp_path, IMAGES="400")
    assert len(pictures) == 3
    assert "smile+glasses (" in texts
    assert "| smile+glasses | context module |" in texts
    assert texts.endswith("True")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::RuntimeWarning", "ignore::ResourceWarning")
def test_a_cell_that_fails_is_seen(monkeypatch, tmp_path):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 / 0")])
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        run(notebook, monkeypatch, tmp_path)


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.ipynb")), ids=lambda file: file.stem)
def test_is_committed_without_outputs(file):
    notebook = nbformat.read(file, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells)
