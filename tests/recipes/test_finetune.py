"""recipes/finetune.py and recipes/compose.py as a user runs them."""

import contextlib
import json
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from context_module import ContextualDecoder
from context_module.io.files import load_tensors
from helpers.files import metrics
from helpers.pictures import write_photos

QUAD = ["--samples_per_context", "40", "--train_batch_size", "28", "--val_fraction", "0.1", "--value_draws", "0"]
QUICK = [*QUAD, "--max_train_steps", "6", "--validation_steps", "3", "--logging_steps", "1", "--score_samples", "10"]
NVAE_CHECKPOINTS = Path(__file__).parents[1] / "fixtures" / "nvae"


@pytest.fixture(scope="module")
def trained(run, check, tmp_path_factory):
    """The shipped base with a module trained for six steps: (its folder, what was printed)."""
    cwd = tmp_path_factory.mktemp("finetune")
    options = ["--output_dir", "out", "--checkpointing_steps", "4", *QUICK]
    return cwd / "out", check.succeeded(run("finetune.py", *options, cwd=cwd))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder per context, of PNGs in sizes that a recipe must bring to the base's; a table needs 20."""
    return write_photos(tmp_path_factory.mktemp("photos"), (40, 36), {"obs": 8, "a": 8, "b": 8, "a+b": 20})


# --- finetune


def test_result(trained):
    folder, out = trained
    assert "trainable params: " in out
    assert "out: best validation loss" in out
    assert "| quad2+orientation |" in out
    assert "not in the table of single concepts, of validation images: quad1 (4), " in out
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "arguments.json",
        "checkpoint-4",
        "composition.md",
        "contexts.png",
        "manifest.json",
        "metrics.jsonl",
        "result.json",
        "samples",
    ]
    assert [line["step"] for line in metrics(folder)] == [0, 1, 2, 3, 3, 4, 5, 6, 6]  # edits are of use at once
    assert (folder / "composition.md").read_text().strip() in out
    assert len((folder / "composition.md").read_text().splitlines()) == 2 + 2 + 9 + 1 + 2
    assert "| context | base | latent arithmetic | Gaussian maps | the base's reconstructions |" in out
    assert "Of what the base allows beyond Gaussian maps: " in out
    model = ContextualDecoder.from_pretrained(folder)
    assert model.generate(2, do="quad1+size").shape == (2, 3, 32, 32)
    card = (folder / "README.md").read_text()
    assert "| trained on | quad |" in card
    assert "| licence of the base | apache-2.0 |" in card
    assert "](contexts.png)" in card
    assert (folder / "composition.md").read_text().strip() in card


def test_tables_name_what_has_too_few_images(here, check, tmp_path):
    """One composition with a single image does not take the others' table away."""
    counts = {"obs": 60, "a": 60, "b": 60, "a+b": 20, "a+c": 1, "c": 60}
    write_photos(tmp_path / "photos", (8, 8), counts)
    options = ["--data", "photos", "--val_fraction", "0.4", "--max_train_steps", "0", "--value_draws", "0"]
    out = check.succeeded(here("finetune.py", *options, "--output_dir", "out"))
    assert "not in the table of compositions never trained on: a+c (1); it takes 20 images of a context" in out
    rows = (tmp_path / "out" / "interventions.md").read_text().splitlines()
    assert [row.split(" | ")[0] for row in rows[4:]] == ["| a", "| b", "| c"]
    assert "| a+b | " in (tmp_path / "out" / "composition.md").read_text()
    card = (tmp_path / "out" / "README.md").read_text()
    assert "to real images of single concepts, of validation images (12 of each):" in card


def test_a_base_whose_images_are_not_square(here, check, tmp_path):
    pytest.importorskip("diffusers")
    from diffusers import AutoencoderKL

    halves = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    sizes = {"block_out_channels": (8, 8), "norm_num_groups": 4, "sample_size": (16, 32)}
    AutoencoderKL(**halves, **sizes).save_pretrained(tmp_path / "kl")
    write_photos(tmp_path / "wide", (16, 32), {"obs": 12, "a": 12})
    write_photos(tmp_path / "tall", (50, 40), {"obs": 12, "a": 12})
    options = ["--base", "diffusers", "--base_checkpoint", "kl", "--max_train_steps", "0", "--value_draws", "0"]
    for data in ("wide", "tall"):
        out = check.succeeded(here("finetune.py", *options, "--data", data, "--output_dir", f"of-{data}"))
        assert out.splitlines()[0] == "contexts: obs (12), a (12)"
        assert out.endswith(f"next: context-module run compose --model of-{data} --do a\n")
    other = ["--data", "wide", "--output_dir", "out", "--sample_size"]
    assert check.succeeded(here("finetune.py", *options, *other, "32x16"))
    message = check.failed(here("finetune.py", *options, *other, "32;16", "--overwrite"))
    assert message == "error: --sample_size is a number of pixels, or height and width, as in 32x48; got '32;16'"
    message = check.failed(here("finetune.py", *options, "--data", "quad", "--output_dir", "square"))
    assert "the quad data makes square images, got 16x32: use a base for square ones" in message


def test_a_corrupt_image_is_named_and_skipped_only_if_asked(here, check, photos, tmp_path):
    shutil.copytree(photos, tmp_path / "photos")
    (tmp_path / "photos" / "a" / "3.png").write_bytes(b"no image")
    options = ["--data", "photos", "--output_dir", "out", "--max_train_steps", "1", "--train_batch_size", "6"]
    assert "a/3.png" in check.failed(here("finetune.py", *options))
    with pytest.warns(UserWarning, match="a/3.png"):
        check.succeeded(here("finetune.py", *options, "--skip_corrupt"))


def test_logs_to_a_tracker(run, check, tmp_path):
    options = ["--output_dir", "out", "--report_to", "tensorboard", "--score_samples", "0", *QUICK[:-2]]
    check.succeeded(run("finetune.py", *options, cwd=tmp_path))
    events = list((tmp_path / "out" / "logs").rglob("events.out.tfevents.*"))
    assert any(path.stat().st_size for path in events)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = EventAccumulator(str(max(events, key=lambda path: path.stat().st_size).parent), {"images": 0}).Reload()
    assert log.Tags()["images"] == ["samples"]
    assert [event.step for event in log.Images("samples")] == [0, 3, 6]


def test_through_accelerate_launch_on_folders(run, check, photos, tmp_path):
    """--score_samples asks for more images than there are: the table makes do with those."""
    launcher = ["-m", "accelerate.commands.launch", "--num_processes", "1", "--num_machines", "1"]
    launcher += ["--mixed_precision", "no", "--dynamo_backend", "no", "--cpu"]
    options = ["--data", photos, "--output_dir", "out", "--max_train_steps", "2", "--train_batch_size", "6"]
    out = check.succeeded(run("finetune.py", *options, cwd=tmp_path, launcher=launcher))
    assert "| a+b |" in out
    assert (tmp_path / "out" / "adapter_model.safetensors").exists()


def test_paper_module_on_a_public_checkpoint(here, check, tmp_path):
    options = ["--base_checkpoint", NVAE_CHECKPOINTS / "cifar10-res_mbconv.checkpoint.pt", "--objective", "pixel"]
    options += [
        "--form",
        "reduced",
        "--reference",
        "--free_blocks",
        "0",
        "--inversion_width",
        "0",
        "--noise_width",
        "4",
        "--concept_width",
        "2",
    ]
    options += ["--samples_per_context", "4", "--val_fraction", "0.25", "--train_batch_size", "14"]
    options += ["--max_train_steps", "2", "--score_samples", "10", "--output_dir", "out"]
    assert "| quad1+size |" in check.succeeded(here("finetune.py", *options))
    effects = load_tensors(tmp_path / "out" / "adapter_model.safetensors")["module.intervention.effects"]
    assert 0 <= effects.min() <= effects.max() <= 1


def test_two_processes_share_a_run(run, check, trained, tmp_path):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    options = ["--output_dir", "out", "--checkpointing_steps", "4", *QUICK]
    result = run("finetune.py", *options, cwd=tmp_path, launcher=launcher, ACCELERATE_USE_CPU="true")
    out = check.succeeded(result)
    assert out.count("best validation loss") == 1
    one, two = metrics(trained[0]), metrics(tmp_path / "out")
    assert [line["step"] for line in two] == [line["step"] for line in one]
    assert [line.get("lr") for line in two] == [line.get("lr") for line in one]
    for ours, theirs in zip(two, one, strict=True):
        assert ours == pytest.approx(theirs, rel=0.01, abs=0.02)
    states = sorted(path.name for path in (tmp_path / "out" / "checkpoint-4").glob("random_states_*"))
    assert states == ["random_states_0.pkl", "random_states_1.pkl"]


@pytest.fixture(scope="module")
def interrupted(command, tmp_path_factory):
    """Endless runs, one stopped by Ctrl-C, one by SIGTERM, one by SIGTERM to its launcher: (folder, code, stderr)."""
    cwd = tmp_path_factory.mktemp("interrupted")
    options = [*QUAD, "--max_train_steps", "100000", "--logging_steps", "1"]
    launched = ("-m", "accelerate.commands.launch", "--quiet", "--cpu", "--num_processes", "1", "--num_machines", "1")
    launched += ("--mixed_precision", "no", "--dynamo_backend", "no")
    stopped = {"Ctrl-C": (signal.SIGINT, ()), "SIGTERM": (signal.SIGTERM, ()), "launcher": (signal.SIGTERM, launched)}
    running = {
        name: command("finetune.py", "--output_dir", name, *options, cwd=cwd, launcher=launcher)
        for name, (_, launcher) in stopped.items()
    }
    try:
        deadline = time.monotonic() + 90
        for name, process in running.items():
            while not (cwd / name / "metrics.jsonl").exists() and process.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            process.send_signal(stopped[name][0])
        errors = {name: process.communicate(timeout=60)[1] for name, process in running.items()}
        return {name: (cwd / name, process.returncode, errors[name]) for name, process in running.items()}
    finally:
        for process in running.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # what it launched, too
            process.communicate()


@pytest.mark.parametrize(("stopped", "exit_code"), [("Ctrl-C", 130), ("SIGTERM", 143), ("launcher", -15)])
def test_a_signal_leaves_a_checkpoint_to_resume(stopped, exit_code, interrupted, here, check):
    folder, code, err = interrupted[stopped]
    assert code == exit_code
    assert "Traceback" not in err
    (checkpoint,) = folder.glob("checkpoint-*")
    step = int(checkpoint.name.partition("-")[2])
    assert f"interrupted at step {step}; " in err
    assert f"{checkpoint.name} is kept: go on with resume_from_checkpoint=latest" in err
    assert not (folder / "result.json").exists()
    options = [*QUAD, "--output_dir", folder, "--max_train_steps", str(step + 2), "--score_samples", "0"]
    assert "unfinished run" in check.failed(here("finetune.py", *options))
    check.succeeded(here("finetune.py", *options, "--resume_from_checkpoint", "latest"))
    assert json.loads((folder / "result.json").read_text())["steps"] == step + 2
    assert [line["step"] for line in metrics(folder) if "lr" in line][:step] == list(range(1, step + 1))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "out holds a finished run: give another output_dir, or overwrite to replace it"),
        (["--overwrite", "--data", "nowhere"], "unknown data 'nowhere'"),
        (["--overwrite", "--base_checkpoint", "nowhere"], "nowhere"),
        (["--overwrite", "--base", "nonsense"], "unknown base 'nonsense': expected some of "),
        (["--overwrite", "--base", "lightweight"], "no base ships for --base lightweight: give --base_checkpoint"),
        (
            ["--overwrite", "--subfolder", "vae"],
            "a 'nvae' base takes no option subfolder ('vae'): it takes revision, token, local_files_only",
        ),
        (
            ["--overwrite", "--base", "diffusers", "--revision", "v2"],
            "--revision is of the base to load: give --base and --base_checkpoint, too",
        ),
        (["--overwrite", "--reference"], "reference=True is the paper's module: it needs form='reduced'"),
        (["--overwrite", "--noise_width", "0"], "noise_width must be an integer of at least 1"),
        (["--overwrite", "--val_fraction", "2"], "val_fraction must lie between 0 and 1"),
        (["--resume_from_checkpoint", "nowhere"], "nowhere is no checkpoint; checkpoints in "),
        (["--resume_from_checkpoint", "latest", "--seed", "1"], "checkpoint-4 was made with seed 0, not 1"),
        (["--resume_from_checkpoint", "latest", "--train_batch_size", "14"], "was made with train_batch_size 28"),
        (["--resume_from_checkpoint", "latest", "--max_train_steps", "4"], "at step 4 already: raise"),
        (["--resume_from_checkpoint", "latest", "--noise_width", "8"], "does not fit the model"),
    ],
)
def test_errors_leave_the_earlier_run_in_place(argv, message, trained, here, check):
    folder, _ = trained
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("[!.]*")}
    assert message in check.failed(here("finetune.py", "--output_dir", folder, *QUICK, *argv))
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("[!.]*")} == before


def test_output_below_a_file(here, check, tmp_path):
    (tmp_path / "file").write_text("")
    assert "file" in check.failed(here("finetune.py", "--output_dir", "file/out", *QUICK))


def test_a_damaged_checkpoint(trained, here, check, tmp_path):
    shutil.copytree(trained[0], tmp_path / "out")
    path = tmp_path / "out" / "checkpoint-4" / "optimizer.bin"
    path.write_bytes(path.read_bytes()[:1000])
    message = check.failed(here("finetune.py", "--output_dir", "out", *QUICK, "--resume_from_checkpoint", "latest"))
    assert "checkpoint-4 is damaged: optimizer.bin has 1000 bytes" in message


@pytest.mark.parametrize("recipe", ["finetune.py", "compose.py"])
def test_help(recipe, here):
    code, out, _ = here(recipe, "--help")
    assert code == 0
    assert "show this help message" in out


# --- compose


def test_compose(run, check, trained, tmp_path):
    out = check.succeeded(run("compose.py", "--model", trained[0], "--do", "quad1", "size", "--n", "3", cwd=tmp_path))
    assert out == "composition.png: obs, quad1, size, quad1+size\n"
    with Image.open(tmp_path / "composition.png") as picture:
        assert picture.mode == "RGB"
        assert picture.height == 4 * 66
        assert 3 * 66 < picture.width < 3 * 66 + 150


def test_compose_one_concept(here, check, trained):
    assert check.succeeded(here("compose.py", "--model", trained[0], "--do", "size")).endswith(": obs, size\n")


def test_compose_strengths_and_values(here, check, trained):
    """The quad data carries the values of its concepts, so the maps were fitted."""
    out = check.succeeded(here("compose.py", "--model", trained[0], "--do", "size=0.7", "quad1:0.5", "--n", "2"))
    assert out.endswith(": obs, quad1:0.5, size=0.7, quad1:0.5+size=0.7\n")


def test_compose_on_an_image(here, check, trained, photos, tmp_path):
    image = ["--image", photos / "obs" / "00.png", "--output", "new.png"]
    out = check.succeeded(here("compose.py", "--model", trained[0], "--do", "quad1+size", *image))
    assert out == "new.png: image, obs, quad1, size, quad1+size\n"
    with Image.open(tmp_path / "new.png") as picture:
        assert picture.height == 5 * 66
        assert picture.width < 66 + 150


def test_compose_after_the_base_moved(here, check, trained, tmp_path):
    shutil.copytree(trained[0], tmp_path / "moved")
    path = tmp_path / "moved" / "adapter_config.json"
    config = json.loads(path.read_text())
    base = config["base_name_or_path"]
    path.write_text(json.dumps({**config, "base_name_or_path": "/nowhere"}))
    assert "/nowhere" in check.failed(here("compose.py", "--model", "moved", "--do", "size"))
    argv = ["compose.py", "--model", "moved", "--do", "size", "--base_checkpoint", base]
    check.succeeded(here(*argv))
    error = "error: sample_size is an option of the base: give --base, too, its family"
    assert check.failed(here(*argv, "--sample_size", "8")) == error


def test_unknown_concept_as_a_user_sees_it(run, trained, tmp_path):
    code, out, err = run("compose.py", "--model", trained[0], "--do", "colour", cwd=tmp_path)
    assert code == 1
    assert out == ""
    assert err.startswith("error: ")
    assert "colour" in err
    assert "quad1" in err  # those there are
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--do", "size", "size"], "names a concept more than once"),
        (["--do", "size=big"], "'size=big' needs a number after '='"),
        (["--do", "size=3"], "'size' cannot be set to 3: the training data has values from 0.2"),
        (["--do", "size:3.5"], "the strength of an intervention on 'size' must be in [-2, 3]"),
        (["--do", "size", "--n", "0"], "n must be at least 1, got 0"),
        (["--do", "size", "--temperature", "-1"], "temperature must be a number from 0 to"),
        (["--do", "size", "--image", "missing.png"], "missing.png"),
        (["--do", "size", "--output", "nowhere/new.png"], "nowhere"),
        (["--do", "size", "--model", "nowhere"], "'nowhere' is neither a local folder nor a Hub repository"),
        (["--do", "size", "--model", "."], "adapter_config.json does not exist"),
    ],
)
def test_compose_errors(argv, message, trained, here, check):
    assert message in check.failed(here("compose.py", "--model", trained[0], *argv))


def test_compose_with_an_image_that_is_none(trained, here, check, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    argv = ["--model", trained[0], "--do", "size", "--image", "text.png"]
    assert "cannot read text.png" in check.failed(here("compose.py", *argv))


def test_contexts_smaller_than_their_share_of_a_batch(here, check, photos):
    message = check.failed(here("finetune.py", "--data", photos, "--output_dir", "out", "--max_train_steps", "1"))
    assert message == (
        "error: context 'obs' has 7 images to train on, fewer than its 299 of every batch: add images, or lower "
        "train_batch_size to 21"
    )


# --- train modes


def test_the_base_trains_along(here, check, tmp_path):
    """From scratch, then on from the result with the base still at first; each folder holds its base."""
    options = [*QUICK[:-2], "--objective", "pixel", "--score_samples", "0"]
    argv = ["--base", "lightweight", "--train_mode", "end_to_end", "--output_dir", "joint"]
    check.succeeded(here("finetune.py", *argv, *options))
    argv = ["--module", "joint", "--train_mode", "finetune", "--frozen_share", "0.5", "--output_dir", "tuned"]
    check.succeeded(here("finetune.py", *argv, *options))
    joint, tuned = (load_tensors(tmp_path / name / "base" / "model.safetensors") for name in ("joint", "tuned"))
    assert not (joint["decoder.0.weight"] == tuned["decoder.0.weight"]).all()
    (tmp_path / "joint").rename(tmp_path / "elsewhere")
    assert ContextualDecoder.from_pretrained(tmp_path / "tuned").generate(2, do="size").shape == (2, 3, 64, 64)


@pytest.fixture
def lora(trained):
    """Flags of a short LoRA phase on pixels, after the latent objective."""
    options = ["--module", trained[0], "--train_mode", "lora", "--lora_rank", "2"]  # of pixels: nothing else can be
    return [*options, "--checkpointing_steps", "4", *QUICK[:-2], "--score_samples", "0", "--output_dir", "out"]


def test_lora_after_the_latent_objective(here, check, lora, tmp_path):
    check.succeeded(here("finetune.py", *lora))
    saved = load_tensors(tmp_path / "out" / "adapter_model.safetensors")
    assert any(".lora_B." in name and tensor.any() for name, tensor in saved.items())
    assert not (tmp_path / "out" / "base").exists()
    model = ContextualDecoder.from_pretrained(tmp_path / "out")
    assert model.lora.rank == 2
    assert model.generate(2, do="size+quad1").shape == (2, 3, 32, 32)
    # from its checkpoint it goes on exactly
    check.succeeded(here("finetune.py", *lora, "--resume_from_checkpoint", "latest"))
    again = load_tensors(tmp_path / "out" / "adapter_model.safetensors")
    assert again.keys() == saved.keys()
    assert all((again[name] == saved[name]).all() for name in saved)
    for mode, message in {
        "lora": "error: the model has LoRA of rank 2, not 3: leave the rank out to go on with it",
        "finetune": "error: a base with LoRA cannot train: fold LoRA into it first (model.merge_lora())",
    }.items():
        argv = ["--module", "out", "--train_mode", mode, "--lora_rank", "3", "--objective", "pixel", *QUICK]
        assert message in check.failed(here("finetune.py", *argv, "--output_dir", "new"))


def test_lora_in_bf16_on_two_processes(run, check, lora, tmp_path):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    lora += ["--mixed_precision", "bf16", "--max_train_steps", "2", "--checkpointing_steps", "2"]
    check.succeeded(run("finetune.py", *lora, cwd=tmp_path, launcher=launcher, ACCELERATE_USE_CPU="true"))
    saved = load_tensors(tmp_path / "out" / "adapter_model.safetensors")
    assert any(".lora_B." in name and tensor.any() for name, tensor in saved.items())
    kept = load_tensors(tmp_path / "out" / "checkpoint-2" / "weights.safetensors")
    assert {name for name in kept if ".lora_" in name} == {f"model.held.{name}" for name in saved if ".lora_" in name}
    assert not any("base_layer" in name for name in kept)


def test_a_module_of_other_concepts(here, check, trained, photos):
    message = check.failed(here("finetune.py", "--module", trained[0], "--data", photos, "--output_dir", "new"))
    assert "has the concepts quad1, quad2, quad3, quad4, size, orientation, the data a, b: train it on" in message


def test_a_graph_is_given_or_found(here, check, photos, tmp_path):
    options = ["--data", photos, "--output_dir", "out", "--max_train_steps", "2", "--train_batch_size", "6"]
    options += ["--logging_steps", "1", "--validation_steps", "1", "--form", "structural"]
    options += ["--lr_warmup_steps", "1", "--learning_rate", "0.02"]  # so that interventions do something after a step
    penalties = {"sparsity", "val_sparsity", "acyclicity", "val_acyclicity"}

    def logged():
        """What is logged of the first and of the last step."""
        names = [set(), set()]
        for line in metrics(tmp_path / "out"):
            names[line["step"] - 1] |= line.keys()
        return names

    check.succeeded(here("finetune.py", *options))
    first, last = logged()
    assert penalties <= first
    assert not penalties & last
    assert len(ContextualDecoder.from_pretrained(tmp_path / "out").config.graph) == 1  # of a -> b and b -> a
    options = [*options, "--overwrite"]
    check.succeeded(here("finetune.py", *options, "--edge_threshold", "0"))
    assert penalties <= logged()[1]
    assert ContextualDecoder.from_pretrained(tmp_path / "out").config.graph is None
    check.succeeded(here("finetune.py", *options, "--graph", "a:b"))
    assert not penalties & set.union(*logged())
    model = ContextualDecoder.from_pretrained(tmp_path / "out")
    assert model.config.graph == (("a", "b"),)
    assert model.graph().strengths.nonzero().tolist() == [[1, 0]]
    assert "--graph a>b: expected cause:effect" in check.failed(here("finetune.py", *options, "--graph", "a>b"))
    assert "the graph has a cycle, " in check.failed(here("finetune.py", *options, "--graph", "a:b", "b:a"))


def test_edits_take_no_steps(here, check, photos, tmp_path):
    """In closed form: a module that is saved, loaded and composed with, strengths beyond both ends among it."""
    options = ["--data", photos, "--output_dir", "out", "--max_train_steps", "0", "--train_batch_size", "6"]
    out = check.succeeded(here("finetune.py", *options, "--graph", "none"))
    assert "at step 0 of 0" in out
    assert [path.name for path in (tmp_path / "out" / "samples").iterdir()] == ["step-000000.png"]
    model = ContextualDecoder.from_pretrained(tmp_path / "out")
    assert (model.config.form, model.config.graph) == ("edits", ())
    check.succeeded(here("compose.py", "--model", "out", "--do", "a:-2", "b:3", "--n", "2", "--output", "both.png"))
    check.succeeded(here("finetune.py", *options, "--overwrite", "--graph", "a:b"))
    assert ContextualDecoder.from_pretrained(tmp_path / "out").graph().edges() == (("a", "b"),)
    options[5] = "1"  # on from there
    check.succeeded(here("finetune.py", *options[:2], "--module", "out", "--output_dir", "on", *options[4:]))
    more = ["--module", "out", "--output_dir", "pixels", "--objective", "pixel"]
    assert "edits train on embeddings: use --objective latent" in check.failed(
        here("finetune.py", *options[:2], *options[4:], *more)
    )
    message = check.failed(here("finetune.py", *options, "--overwrite", "--form", "edits", "--objective", "pixel"))
    assert "--form edits changes embeddings from one context to another" in message
    options[5] = "0"
    message = check.failed(here("finetune.py", *options, "--overwrite", "--form", "structural"))
    assert "--max_train_steps 0 is for --form edits, which are fitted in closed form; got structural" in message


def test_pooled_trains_the_observational_setting_alone(here, check, tmp_path):
    """No gradient reaches the interventional weights; images and encodings lie in memory-mapped files meanwhile."""
    options = ["--pooled", "--output_dir", "out", "--cache_dir", "cache", "--half_encodings"]
    options += [*QUICK[:-2], "--score_samples", "0"]
    check.succeeded(here("finetune.py", *options))
    assert list((tmp_path / "cache").glob("quad-*.npy"))
    files = list((tmp_path / "cache").glob("encodings-*/encodings.npy"))
    assert [np.load(file, mmap_mode="r").dtype for file in files] == [np.float16] * 2
    embedding = ContextualDecoder.from_pretrained(tmp_path / "out").module.embedding
    assert (embedding.interventional.bias == 0).all()
    assert (embedding.observational.bias != 0).all()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["--train_mode", "finetune", "--objective", "latent"],
            "--train_mode finetune trains the base through its decoder: use --objective pixel",
        ),
        (
            ["--train_mode", "lora", "--objective", "latent"],
            "--train_mode lora trains the base through its decoder: use --objective pixel",
        ),
        (
            ["--objective", "pixel", "--form", "structural", "--half_encodings"],
            "--half_encodings is of the latent objective: the pixel objective keeps no encodings",
        ),
        (["--train_mode", "end_to_end", "--objective", "pixel"], "a 'nvae' base cannot be made from scratch here"),
        (
            ["--train_mode", "end_to_end", "--objective", "pixel", "--module", "out"],
            "--train_mode end_to_end starts from scratch: leave out --module and --base_checkpoint",
        ),
        (["--module", "nowhere"], "'nowhere' is neither a local folder nor a Hub repository"),
    ],
)
def test_train_mode_errors(argv, message, here, check):
    assert message in check.failed(here("finetune.py", "--output_dir", "new", "--samples_per_context", "4", *argv))
