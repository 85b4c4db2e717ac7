"""recipes/train_concept.py, beside finetune.py and compose.py, as a user runs them."""

import numpy as np
import pytest
import torch
from PIL import Image

from context_module import ContextualDecoder
from context_module.nn.pack import ConceptPack
from helpers.files import metrics

QUAD = ["--samples_per_context", "40", "--train_batch_size", "16", "--val_fraction", "0.1", "--logging_steps", "1"]
QUICK = [*QUAD, "--max_train_steps", "4", "--validation_steps", "2", "--rank", "4", "--hidden_width", "8"]


@pytest.fixture(scope="module")
def trained(run, check, tmp_path_factory):
    """A module without concepts and two packs for it, in folders ``obs``, ``quad1`` and ``size``."""
    cwd = tmp_path_factory.mktemp("concepts")
    options = [*QUAD, "--max_train_steps", "4", "--score_samples", "10"]
    out = check.succeeded(run("finetune.py", "--contexts", "obs", "--output_dir", "obs", *options, cwd=cwd))
    assert "| quad1+quad2 |" not in out
    before = {path: path.read_bytes() for path in (cwd / "obs").rglob("*") if path.is_file()}
    for concept in ("quad1", "size"):
        flags = ["--module", "obs", "--concept", concept, "--output_dir", concept, "--checkpointing_steps", "2"]
        out = check.succeeded(run("train_concept.py", *flags, *QUICK, cwd=cwd))
        assert f"{concept}/{concept}.safetensors: best validation loss" in out
    assert before == {path: path.read_bytes() for path in (cwd / "obs").rglob("*") if path.is_file()}
    return cwd


def test_a_pack_is_one_file(trained):
    assert sorted(path.name for path in (trained / "size").iterdir()) == [
        "arguments.json",
        "checkpoint-2",
        "checkpoint-4",
        "manifest.json",
        "metrics.jsonl",
        "result.json",
        "samples",
        "size.safetensors",
    ]
    assert [line["step"] for line in metrics(trained / "size")] == [1, 2, 2, 3, 4, 4]
    assert {"loss", "matching", "change"} <= metrics(trained / "size")[0].keys()
    model = ContextualDecoder.from_pretrained(trained / "obs")
    assert model.concepts == []
    for concept in ("size", "quad1"):
        model.add_concept(trained / concept / f"{concept}.safetensors")
    assert model.generate(2, do="quad1+size").shape == (2, 3, 32, 32)


def test_compose_with_packs(here, check, trained, tmp_path):
    packs = [trained / concept / f"{concept}.safetensors" for concept in ("quad1", "size")]
    options = ["--model", trained / "obs", "--concept_pack", *packs, "--do", "quad1", "size:0.5", "--n", "2"]
    assert check.succeeded(here("compose.py", *options)).endswith(": obs, quad1, size:0.5, quad1+size:0.5\n")
    with Image.open(tmp_path / "composition.png") as picture:
        assert picture.height == 4 * 66
    options = ["--model", trained / "obs", "--concept_pack", packs[0], packs[0], "--do", "quad1"]
    assert "there is a concept 'quad1' already" in check.failed(here("compose.py", *options))


def test_a_resumed_run_goes_on_where_it_stopped(here, check, trained, tmp_path):
    flags = ["--module", trained / "obs", "--concept", "size", "--output_dir", "new", *QUICK]
    flags += ["--half_encodings", "--cache_dir", "cache"]
    check.succeeded(here("train_concept.py", *flags, "--checkpointing_steps", "2"))
    assert {np.load(file, mmap_mode="r").dtype for file in tmp_path.glob("cache/*/*.npy")} == {np.dtype("float16")}
    whole = ConceptPack.load("new/size.safetensors").state_dict()
    for file in ("size.safetensors", "result.json"):
        (tmp_path / "new" / file).unlink()
    assert "unfinished run" in check.failed(here("train_concept.py", *flags))
    check.succeeded(here("train_concept.py", *flags, "--resume_from_checkpoint", "new/checkpoint-2"))
    resumed = ConceptPack.load("new/size.safetensors").state_dict()
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--concept", "nonsense"], "unknown concept 'nonsense'"),
        (["--concept", "quad1+size"], "'quad1+size' cannot name a concept"),
        (["--concept", "size", "--rank", "999"], "rank must be at most 128"),
        (["--concept", "size", "--module", "nowhere"], "'nowhere' is neither a local folder nor a Hub repository"),
        (["--concept", "size", "--train_batch_size", "64"], "context 'size' has 36 images to train on, fewer than"),
    ],
)
def test_errors(argv, message, here, check, trained):
    flags = ["--module", trained / "obs", "--output_dir", "new", *QUICK]
    assert message in check.failed(here("train_concept.py", *flags, *argv))


def test_two_processes_share_a_run(run, check, trained, tmp_path):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    settings = {"cwd": tmp_path, "launcher": launcher, "ACCELERATE_USE_CPU": "true"}
    options = [*QUAD, "--max_train_steps", "3"]
    check.succeeded(run("finetune.py", "--contexts", "obs", "--output_dir", "obs", *options, **settings))
    flags = ["--module", "obs", "--concept", "size", "--output_dir", "size", *QUICK]
    assert check.succeeded(run("train_concept.py", *flags, **settings)).count("best validation loss") == 1
    model = ContextualDecoder.from_pretrained(tmp_path / "obs")
    model.add_concept(tmp_path / "size" / "size.safetensors")
    directions = model.packs["size"].directions
    torch.testing.assert_close(directions.t() @ directions, torch.eye(4))
