"""When an output directory may be used, and what it keeps."""

import json

import pytest
from PIL import Image

from context_module.errors import CheckpointError, OutputExistsError
from context_module.training.run_directory import RunDirectory, read_metrics


def make_checkpoint(path, step):
    (path / f"checkpoint-{step}").mkdir(parents=True)
    (path / f"checkpoint-{step}" / "train_state.json").write_text("{}")


def test_nothing_is_made_before_begin(tmp_path):
    run = RunDirectory(tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()
    run.begin({"seed": 0})
    assert json.loads((run.path / "arguments.json").read_text()) == {"seed": 0}


def test_a_file_is_refused(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(OutputExistsError, match="out is a file: give another output_dir"):
        RunDirectory(tmp_path / "out", overwrite=True)


def test_a_finished_run_is_refused(tmp_path):
    RunDirectory(tmp_path).finish({"loss": 1.0})
    with pytest.raises(OutputExistsError, match="holds a finished run: give another output_dir, or overwrite"):
        RunDirectory(tmp_path)
    # a job that is always started with `latest` must not train again what it had finished without checkpoints
    with pytest.raises(OutputExistsError, match="holds a finished run"):
        RunDirectory(tmp_path, resume="latest")


def test_an_unfinished_run_is_refused(tmp_path):
    make_checkpoint(tmp_path, 9)
    make_checkpoint(tmp_path, 10)
    with pytest.raises(OutputExistsError, match="unfinished run, last checkpoint checkpoint-10: go on with resume"):
        RunDirectory(tmp_path)
    assert RunDirectory(tmp_path, overwrite=True).checkpoint is None
    assert RunDirectory(tmp_path, resume="latest").checkpoint == tmp_path / "checkpoint-10"


def test_other_files_are_no_run(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "checkpoint-old").mkdir()
    assert RunDirectory(tmp_path).checkpoints() == []


def test_overwrite_deletes_only_ours_and_only_at_begin(tmp_path):
    make_checkpoint(tmp_path, 5)
    ours = ["metrics.jsonl", "arguments.json", "result.json", "composition.md", "interventions.md"]
    theirs = ["notes.txt", "checkpoints.csv", "photo.png"]
    for name in [*ours, *theirs]:
        (tmp_path / name).write_text("")
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "step-000001.png").write_text("")
    before = sorted(tmp_path.rglob("*"))
    run = RunDirectory(tmp_path, overwrite=True)
    assert sorted({*tmp_path.rglob("*")} - {tmp_path / ".lock"}) == before
    run.begin({})
    assert sorted(path.name for path in tmp_path.glob("[!.]*")) == sorted(["arguments.json", *theirs])


@pytest.mark.parametrize("overwrite", [False, True])
def test_resuming_deletes_nothing(overwrite, tmp_path):
    make_checkpoint(tmp_path, 5)
    (tmp_path / "metrics.jsonl").write_text("")
    RunDirectory(tmp_path, overwrite=overwrite, resume="latest").begin({})
    assert (tmp_path / "checkpoint-5").is_dir()
    assert (tmp_path / "metrics.jsonl").exists()


def test_overwrite_holds_when_there_is_nothing_to_resume(tmp_path):
    (tmp_path / "result.json").write_text("{}")
    RunDirectory(tmp_path, overwrite=True, resume="latest").begin({})
    assert not (tmp_path / "result.json").exists()


def test_a_path_that_is_no_checkpoint_lists_those_there_are(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere is no checkpoint; checkpoints in .*: none"):
        RunDirectory(tmp_path, resume="nowhere")
    make_checkpoint(tmp_path, 9)
    make_checkpoint(tmp_path, 10)
    with pytest.raises(CheckpointError, match=r"no checkpoint; checkpoints in .*checkpoint-9, .*checkpoint-10$"):
        RunDirectory(tmp_path, resume=str(tmp_path / "checkpoint-11"))


def test_rotation_goes_by_number(tmp_path):
    run = RunDirectory(tmp_path)
    for step in (8, 9, 10, 100):
        run.temporary_checkpoint(step).mkdir()
        assert run.keep_checkpoint(step, limit=2) == tmp_path / f"checkpoint-{step}"
    assert sorted(path.name for path in tmp_path.glob("[!.]*")) == ["checkpoint-10", "checkpoint-100"]


def test_the_same_checkpoint_again_replaces_the_old_one(tmp_path):
    run = RunDirectory(tmp_path)
    make_checkpoint(tmp_path, 5)
    run.temporary_checkpoint(5).mkdir()
    run.keep_checkpoint(5, limit=None)
    assert not list((tmp_path / "checkpoint-5").iterdir())


def test_metrics_after_a_step_are_forgotten(tmp_path):
    run = RunDirectory(tmp_path)
    run.forget_metrics_after(3)  # none yet
    for step in (1, 3, 4):
        run.log(step, loss=step / 2)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('[1]\n"x"\n{"step": 3, "lo')
    run.forget_metrics_after(3)
    run.log(4, loss=0.5)
    text = (tmp_path / "metrics.jsonl").read_text()
    assert text == '{"step": 1, "loss": 0.5}\n{"step": 3, "loss": 1.5}\n{"step": 4, "loss": 0.5}\n'


def test_pictures(tmp_path):
    RunDirectory(tmp_path).save_preview(20, Image.new("RGB", (3, 2)))
    assert [path.name for path in (tmp_path / "samples").iterdir()] == ["step-000020.png"]
    with Image.open(tmp_path / "samples" / "step-000020.png") as picture:
        assert picture.size == (3, 2)


def test_overwriting_leaves_files_that_others_name_so_too(tmp_path):
    """A base or a card in the folder is not the run's to delete; a result is replaced when the new one is whole."""
    for name in ("README.md", "config.json", "model.safetensors", "adapter_config.json"):
        (tmp_path / name).write_text("somebody's")
    RunDirectory(tmp_path, overwrite=True).begin({})
    assert (tmp_path / "README.md").read_text() == "somebody's"
    assert sorted(path.name for path in tmp_path.glob("[!.]*")) == [
        "README.md",
        "adapter_config.json",
        "arguments.json",
        "config.json",
        "model.safetensors",
    ]


def test_metrics_are_read_but_for_a_line_cut_off(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": 2.0}]
    assert read_metrics(tmp_path / "nowhere.jsonl") == []
