"""The training loop: it learns, resumes exactly, and stops in an orderly way; in-process and on tiny nets."""

import json
import os
import pickle
import signal
import sys

import pytest
import torch
from torch import nn

from context_module import wrap_decoder
from context_module.adapters.nvae import NVAEObjective
from context_module.cli.training import TrainingArguments
from context_module.data import ArrayContextDataset
from context_module.errors import CheckpointError, NonFiniteError, OutputExistsError
from context_module.io import write_manifest
from context_module.io.files import load_tensors
from context_module.io.interruption import Interruption, TrainingInterrupted
from context_module.objective import Objective
from context_module.training import Trainer, make_accelerator
from context_module.training.encodings import encode_dataset
from context_module.training.objectives.latent import LatentObjective, latent_terms
from context_module.training.objectives.pixel import PixelObjective
from context_module.training.run_directory import RunDirectory
from context_module.training.weights import trainable_state_dict
from helpers.loop import a_process_of_its_own


@pytest.fixture(autouse=True)
def one_thread_and_fresh_accelerate():
    with a_process_of_its_own():
        yield


def make_data(shape=(1, 8, 8), per_context=20):
    """Contexts that differ in brightness."""
    images = torch.rand(3 * per_context, *shape, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(3).repeat_interleave(per_context)
    images = images * torch.tensor([0.3, 0.6, 1.0])[labels].view(-1, 1, 1, 1)
    return ArrayContextDataset((images * 255).to(torch.uint8), labels, ("obs", "a", "b"), ("a", "b"))


class Stub(Objective):
    """One weight per pixel, drawn to the images; nothing in it is random. `spoil` may change a training's losses."""

    optimizer = torch.optim.SGD

    def __init__(self, spoil=None, scores=None):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, 8, 8))
        self.spoil, self.scores, self.passes, self.validated = spoil, scores, 0, []

    def forward(self, batch, progress=1.0):
        loss = (batch["x"] - self.weight).square().flatten(1).sum(1)
        if self.training:
            self.passes += 1
            if self.spoil is not None:
                loss = self.spoil(self, loss, batch)
        elif self.scores is not None:
            self.validated.append(self.weight.detach().clone())
            loss = loss * 0 + self.scores[len(self.validated) - 1]
        return {"loss": loss, "fine": torch.zeros_like(loss)}


def make_trainer(directory, build=Stub, *, overwrite=False, resume=None, after_step=None, **arguments):
    """A trainer as the recipes make it; `build` gives the objective, alone or with training data in images' place."""
    defaults = {"max_train_steps": 6, "train_batch_size": 6, "lr_warmup_steps": 1, "logging_steps": 1}
    args = TrainingArguments(
        output_dir=str(directory), overwrite=overwrite, resume_from_checkpoint=resume, **{**defaults, **arguments}
    )
    run = RunDirectory(directory, overwrite=overwrite, resume=resume)
    accelerator = make_accelerator(args)
    train_data, val_data = make_data((3 if build in (latent, pretraining) else 1, 8, 8)).split(0.1)  # 54 and 6 images
    if build in OBJECTIVES:
        objective, train_data, val_data = build(train_data, val_data)
    else:
        objective = build()
    if after_step is not None:
        own = objective.after_step
        objective.after_step = lambda: (own(), after_step())
    return Trainer(accelerator, args, run, objective, train_data, val_data)


@pytest.fixture
def bases(make_base):
    """The tiny bases, for the objectives below."""
    global _make_base
    _make_base = make_base


def pixel(train, val):
    return PixelObjective(wrap_decoder(_make_base("modules"), ["a", "b"], noise_width=4, concept_width=2)), train, val


def pixel_reference(train, val):
    options = {"noise_width": 4, "concept_width": 2, "form": "reduced", "reference": True}
    return PixelObjective(wrap_decoder(_make_base("modules"), ["a", "b"], **options)), train, val


def latent(train, val):
    model = wrap_decoder(_make_base("nvae"), ["a", "b"], noise_width=4, concept_width=2, latent_noise=True)
    encoded = [encode_dataset(model.base, images, progress=False) for images in (train, val)]
    terms = latent_terms(matching=1e-4)  # pictures of noise by a random decoder are thousands apart
    return LatentObjective(model, encoded[0], terms, beta=0.01), *encoded


def pretraining(train, val):
    return NVAEObjective(_make_base("nvae")), train, val


OBJECTIVES = (pixel, pixel_reference, latent, pretraining)


def lines(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def power_cut(at_step):
    """An `after_step` that fails after so many steps."""
    steps = iter(range(1, at_step + 1))

    def after_step():
        if next(steps) == at_step:
            raise RuntimeError("power cut")

    return after_step


def crash(directory, build=Stub, at_step=5, **arguments):
    """Leave a run in `directory` that was cut off at a step."""
    with pytest.raises(RuntimeError, match="power cut"):
        make_trainer(directory, build, after_step=power_cut(at_step), **arguments).train()


# --- learning


@pytest.mark.parametrize("build", [pixel, latent], ids=lambda build: build.__name__)
def test_loss_falls_and_base_stays_bit_identical(build, tmp_path, bases):
    trainer = make_trainer(tmp_path, build, max_train_steps=40, validation_steps=10, learning_rate=1e-2)
    base = trainer.bare.model.base
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    assert any("running_mean" in name for name in before)
    result = trainer.train()
    losses = [line["loss"] for line in lines(tmp_path) if "loss" in line]
    assert sum(losses[-10:]) < sum(losses[:10]) - 1
    assert (result.steps, result.stopped_early) == (40, False)
    assert result.loss == min(line["val_loss"] for line in lines(tmp_path) if "val_loss" in line)
    for name, tensor in base.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert all(parameter.grad is None for parameter in base.parameters())


def test_pretraining_trains_batch_norms(tmp_path, bases):
    trainer = make_trainer(tmp_path, pretraining, max_train_steps=3)
    before = {name: tensor.clone() for name, tensor in trainer.bare.net.state_dict().items()}
    trainer.train()
    moved = [name for name, tensor in trainer.bare.net.state_dict().items() if not torch.equal(tensor, before[name])]
    assert any("running_mean" in name for name in moved)
    assert any("weight" in name for name in moved)


@pytest.mark.parametrize("build", [pixel, latent], ids=lambda build: build.__name__)
def test_bf16_keeps_weights_float32(build, tmp_path, bases):
    trainer = make_trainer(tmp_path, build, max_train_steps=3, mixed_precision="bf16")
    trainer.train()
    assert all(torch.isfinite(torch.tensor(list(line.values()))).all() for line in lines(tmp_path))
    assert all(tensor.dtype != torch.bfloat16 for tensor in trainer.bare.state_dict().values())
    model = trainer.bare.model
    assert model.generate(2, do="a+b").dtype == torch.float32


def test_accumulation_equals_one_pass(tmp_path):
    weights = []
    for passes in (1, 2, 4):
        options = {"train_batch_size": 12, "gradient_accumulation_steps": passes, "max_grad_norm": 1.0}
        trainer = make_trainer(tmp_path / str(passes), learning_rate=0.1, **options)
        trainer.train()
        assert trainer.bare.passes == 6 * passes
        weights.append(trainer.bare.weight.detach())
    assert weights[0].abs().max() > 0.01
    torch.testing.assert_close(weights[1], weights[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(weights[2], weights[0], rtol=0, atol=1e-5)


def test_learning_rate_warms_up_and_falls_to_a_hundredth(tmp_path):
    make_trainer(tmp_path, max_train_steps=20, lr_warmup_steps=4, learning_rate=0.1).train()
    rates = [line["lr"] for line in lines(tmp_path) if "lr" in line]
    assert len(rates) == 20
    assert rates[0] == pytest.approx(0.025)
    assert rates[0] < rates[1] < rates[2] < rates[3] <= 0.1
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert 0.001 < rates[-1] < 0.002


# --- metrics, checkpoints, early stopping


def test_lines_have_the_right_steps(tmp_path):
    make_trainer(tmp_path, max_train_steps=7, logging_steps=3, validation_steps=2).train()
    logged = [line["step"] for line in lines(tmp_path) if "lr" in line]
    validated = [line["step"] for line in lines(tmp_path) if "val_loss" in line]
    assert logged == [3, 6, 7]
    assert validated == [2, 4, 6, 7]
    assert set(lines(tmp_path)[-1]) == {"step", "val_loss", "val_fine"}


@pytest.mark.parametrize("build", [pixel, pixel_reference, latent], ids=lambda build: build.__name__)
def test_checkpoints_hold_only_what_trains(build, tmp_path, bases):
    trainer = make_trainer(tmp_path, build, max_train_steps=2, checkpointing_steps=1, validation_steps=1)
    trainer.train()
    files = sorted(path.name for path in (tmp_path / "checkpoint-2").iterdir())
    assert files == [
        "best.safetensors",
        "manifest.json",
        "noise.safetensors",
        "optimizer.bin",
        "random_states_0.pkl",
        "train_state.json",
        "weights.safetensors",
    ]
    for name in ("weights", "best"):
        tensors = load_tensors(tmp_path / "checkpoint-2" / f"{name}.safetensors")
        kept = {f"model.slot.{key}" for key in trainer.bare.model.adapter_state_dict()}
        # and of the latent objective the critic, which goes on with the module, and the edges that it kept
        assert {key for key in tensors if not key.startswith(("terms.", "kept_edges"))} == kept


def test_rotation_keeps_the_newest(tmp_path):
    make_trainer(tmp_path, checkpointing_steps=1, checkpoints_total_limit=2).train()
    assert sorted(path.name for path in tmp_path.iterdir() if "checkpoint" in path.name) == [
        "checkpoint-5",
        "checkpoint-6",
    ]


def test_no_limit_keeps_all(tmp_path):
    make_trainer(tmp_path, checkpointing_steps=2, checkpoints_total_limit=None).train()
    assert [path.name for path in RunDirectory(tmp_path, overwrite=True).checkpoints()] == [
        "checkpoint-2",
        "checkpoint-4",
        "checkpoint-6",
    ]


def test_early_stopping_and_best_weights(tmp_path):
    scores = [5.0, 3.0, 2.0, 2.5, 2.1, 1.0, 1.0]
    trainer = make_trainer(
        tmp_path,
        lambda: Stub(scores=scores),
        max_train_steps=100,
        learning_rate=0.1,
        validation_steps=2,
        early_stopping_patience=2,
    )
    result = trainer.train()
    assert (result.steps, result.best_step, result.loss, result.stopped_early) == (10, 6, 2.0, True)
    validated = trainer.bare.validated
    assert torch.equal(trainer.bare.weight, validated[2])
    assert not torch.equal(trainer.bare.weight, validated[4])


def test_where_losses_say_nothing_the_last_weights_are_kept(tmp_path):
    def build():
        stub = Stub(scores=[1.0, 4.0, 3.0])
        stub.comparable = False
        return stub

    trainer = make_trainer(tmp_path, build, max_train_steps=6, validation_steps=2)
    result = trainer.train()
    assert (result.best_step, result.loss) == (6, 3.0)
    assert torch.equal(trainer.bare.weight, trainer.bare.validated[-1])
    with pytest.raises(ValueError, match="early_stopping_patience must be 0: validation losses of this objective do"):
        make_trainer(tmp_path, build, max_train_steps=6, early_stopping_patience=2)


def test_the_best_weights_are_of_the_last_stage(tmp_path):
    """Losses of different stages are of different terms, and so are the weights that they are of."""

    def build():
        stub = Stub(scores=[1.0, 4.0, 3.0, 5.0, 5.0])
        stub.stages = (0.4,)  # of ten steps: the fifth is the first of the second stage
        return stub

    options = {"max_train_steps": 10, "validation_steps": 2, "early_stopping_patience": 2}
    result = make_trainer(tmp_path, build, **options).train()
    assert (result.steps, result.best_step, result.loss, result.stopped_early) == (10, 6, 3.0, True)


def test_improvements_below_the_threshold_do_not_count(tmp_path):
    scores = [5.0, 4.999, 4.998, 4.997, 4.996]
    options = {"validation_steps": 1, "early_stopping_patience": 3, "early_stopping_threshold": 0.01}
    result = make_trainer(tmp_path, lambda: Stub(scores=scores), max_train_steps=100, **options).train()
    assert (result.steps, result.best_step) == (4, 4)


def test_preview_is_saved_at_every_validation(tmp_path):
    from PIL import Image

    trainer = make_trainer(tmp_path, validation_steps=4)
    trainer.preview = lambda: Image.new("RGB", (4, 3))
    trainer.train()
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == ["step-000004.png", "step-000006.png"]


# --- resuming


@pytest.mark.parametrize(
    ("build", "at_step"),
    [*((build, 5) for build in OBJECTIVES), (latent, 8)],  # before and after its graph is settled
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_resumed_run_is_bit_equal_to_an_uninterrupted_one(build, at_step, tmp_path, bases):
    # checkpoint-3 is no validation, and the run is cut off between a checkpoint and the next one
    options = {"max_train_steps": 9, "checkpointing_steps": 3, "validation_steps": 2}
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    expected = make_trainer(straight, build, **options).train()
    crash(resumed, build, at_step, **options)
    assert lines(resumed)[-1]["step"] == at_step - 1
    torch.manual_seed(123)  # nothing hangs on the state of the process
    trainer = make_trainer(resumed, build, resume="latest", **options)
    result = trainer.train()
    assert (result.steps, result.best_step, result.loss) == (9, expected.best_step, expected.loss)
    for name in ("weights", "best"):
        theirs, mine = (load_tensors(path / "checkpoint-9" / f"{name}.safetensors") for path in (straight, resumed))
        assert theirs.keys() == mine.keys()
        for key in theirs:
            assert torch.equal(theirs[key], mine[key]), (name, key)
    for key, tensor in trainable_state_dict(trainer.bare).items():
        assert torch.equal(tensor, mine[key])
    assert lines(resumed) == lines(straight)


def test_resume_in_the_middle_of_accumulation_of_another_size(tmp_path):
    options = {"train_batch_size": 12, "checkpointing_steps": 3, "learning_rate": 0.1}
    straight = make_trainer(tmp_path / "straight", **options)
    straight.train()
    crash(tmp_path / "resumed", gradient_accumulation_steps=2, **options)
    resumed = make_trainer(tmp_path / "resumed", resume="latest", gradient_accumulation_steps=4, **options)
    resumed.train()
    torch.testing.assert_close(resumed.bare.weight, straight.bare.weight, rtol=0, atol=1e-5)


def test_a_line_cut_off_by_a_crash_is_dropped(tmp_path):
    crash(tmp_path, checkpointing_steps=3)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')
    make_trainer(tmp_path, resume="latest", checkpointing_steps=3).train()
    assert [line["step"] for line in lines(tmp_path) if "lr" in line] == [1, 2, 3, 4, 5, 6]


def test_a_checkpoint_cut_off_by_a_crash_is_removed(tmp_path):
    crash(tmp_path, checkpointing_steps=3)
    (tmp_path / ".checkpoint-4.tmp").mkdir()
    make_trainer(tmp_path, resume="latest").train()
    assert not list(tmp_path.glob(".checkpoint*"))


def test_resume_from_a_path(tmp_path):
    crash(tmp_path, checkpointing_steps=2)
    trainer = make_trainer(tmp_path, resume=str(tmp_path / "checkpoint-2"))
    trainer.train()
    assert trainer.bare.passes == 4


def test_resume_after_the_last_step_only_finishes(tmp_path):
    crash(tmp_path, at_step=6, checkpointing_steps=5)
    options = {"max_train_steps": 5}
    result = make_trainer(tmp_path, resume="latest", **options).train()
    assert (result.steps, result.best_step) == (5, 5)
    assert result.loss < float("inf")
    RunDirectory(tmp_path, resume="latest").finish({})
    with pytest.raises(CheckpointError, match="at step 5 already: raise max_train_steps"):
        make_trainer(tmp_path, resume="latest", **options).train()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"seed": 1}, r"made with seed 0, not 1"), ({"train_batch_size": 9}, r"made with train_batch_size 6, not 9")],
)
def test_resume_with_other_batches_is_refused(arguments, message, tmp_path):
    crash(tmp_path, checkpointing_steps=3)
    with pytest.raises(CheckpointError, match=message):
        make_trainer(tmp_path, resume="latest", **arguments).train()


def test_resume_latest_without_checkpoints_starts_afresh(tmp_path, capsys):
    make_trainer(tmp_path / "new", resume="latest").train()
    assert "no checkpoint in" in capsys.readouterr().out
    assert [line["step"] for line in lines(tmp_path / "new") if "lr" in line] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("name", ["weights.safetensors", "best.safetensors", "optimizer.bin", "train_state.json"])
@pytest.mark.parametrize("damage", ["truncated", "missing", "empty"])
def test_damaged_checkpoint_is_an_error_by_message(name, damage, tmp_path):
    crash(tmp_path, checkpointing_steps=3)
    path = tmp_path / "checkpoint-3" / name
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 if damage == "truncated" else 0])
    with pytest.raises(CheckpointError, match="checkpoint-3"):
        make_trainer(tmp_path, resume="latest").train()


RANDOM = ("noise.safetensors", "random_states_0.pkl")


@pytest.mark.parametrize("damage", ["missing", "other numbers", "no file of its kind"])
@pytest.mark.parametrize("name", RANDOM)
def test_lost_random_states_are_an_error_with_a_way_on(name, damage, tmp_path, bases):
    options = {"checkpointing_steps": 3, "validation_steps": 2}
    crash(tmp_path, pixel, **options)
    path = tmp_path / "checkpoint-3" / name
    content = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "other numbers":
        content[-40] ^= 1
        path.write_bytes(content)
    else:
        path.write_bytes(b"hello")
    with pytest.raises(CheckpointError, match=f"checkpoint-3 has lost its random states .{name} .*resume_inexactly"):
        make_trainer(tmp_path, pixel, resume="latest", **options).train()
    result = make_trainer(tmp_path, pixel, resume="latest", resume_inexactly=True, **options).train()
    assert result.steps == 6


def test_any_changed_file_of_a_checkpoint_is_an_error_that_names_it(tmp_path):
    crash(tmp_path, checkpointing_steps=3)
    checkpoint = tmp_path / "checkpoint-3"
    for path in sorted(checkpoint.iterdir()):
        whole = path.read_bytes()
        for place in (0, len(whole) // 2, len(whole) - 2):
            changed = bytearray(whole)
            changed[place] ^= 4
            path.write_bytes(changed)
            with pytest.raises(CheckpointError, match=path.name.replace(".", r"\.")):
                make_trainer(tmp_path, resume="latest").train()
        path.write_bytes(whole)
    make_trainer(tmp_path, resume="latest").train()


def rewritten(checkpoint):
    """Give a changed checkpoint a manifest that fits."""
    write_manifest(checkpoint, sorted(path.name for path in checkpoint.iterdir() if path.name != "manifest.json"))


def test_foreign_train_state_is_an_error_by_message(tmp_path):
    crash(tmp_path, checkpointing_steps=3)
    (tmp_path / "checkpoint-3" / "train_state.json").write_text('{"seed": 0, "train_batch_size": 6}')
    rewritten(tmp_path / "checkpoint-3")
    with pytest.raises(CheckpointError, match=r"no whole checkpoint: train_state\.json lacks best_loss"):
        make_trainer(tmp_path, resume="latest").train()


@pytest.mark.parametrize("change", [{"step": "x"}, {"step": -5}, {"step": 1.5}, {"failures": None}, {"best_loss": []}])
def test_train_state_of_wrong_types_is_an_error_by_message(change, tmp_path):
    crash(tmp_path, checkpointing_steps=3)
    path = tmp_path / "checkpoint-3" / "train_state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError, match=rf"unusable train_state\.json: {next(iter(change))} is"):
        make_trainer(tmp_path, resume="latest").train()


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("write", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content, 2))])
def test_code_in_a_checkpoint_does_not_run(write, tmp_path):
    crash(tmp_path, checkpointing_steps=3)
    write({"state": {}, "param_groups": [], "extra": Malicious(str(tmp_path / "owned"))}, tmp_path / "evil")
    (tmp_path / "evil").replace(tmp_path / "checkpoint-3" / "optimizer.bin")
    rewritten(tmp_path / "checkpoint-3")
    with pytest.raises(CheckpointError, match="checkpoint-3 cannot be read"):
        make_trainer(tmp_path, resume="latest").train()
    assert not (tmp_path / "owned").exists()


def test_weights_of_another_model_are_refused(tmp_path, bases):
    crash(tmp_path, checkpointing_steps=3)
    with pytest.raises(CheckpointError, match="does not fit the model"):
        make_trainer(tmp_path, pixel, resume="latest").train()


# --- stopping


def nan_for_context_a(stub, loss, batch):
    return torch.where(batch["mask"][:, 0], torch.nan, loss) if stub.passes == 5 else loss


def nan_gradient(stub, loss, batch):
    return loss + (stub.weight * 0).sqrt().sum() if stub.passes == 5 else loss


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (nan_for_context_a, r"not finite at step 4 \(terms: loss; contexts: a\)"),
        (nan_gradient, r"not finite at step 4 \(terms: only the gradient; contexts: all\)"),
    ],
)
def test_non_finite_training_stops_and_keeps_the_last_checkpoint(spoil, message, tmp_path):
    trainer = make_trainer(tmp_path, lambda: Stub(spoil), checkpointing_steps=1)
    with pytest.raises(NonFiniteError, match=message) as caught:
        trainer.train()
    assert f"{tmp_path / 'checkpoint-4'} is kept: go on with resume_from_checkpoint=latest" in str(caught.value)
    for checkpoint in RunDirectory(tmp_path, resume="latest").checkpoints():
        assert load_tensors(checkpoint / "weights.safetensors")["weight"].isfinite().all()
    assert trainer.bare.weight.isfinite().all()


def test_non_finite_validation_stops(tmp_path):
    trainer = make_trainer(tmp_path, lambda: Stub(scores=[1.0, torch.inf]), validation_steps=2, checkpointing_steps=4)
    with pytest.raises(NonFiniteError, match=r"validation loss at step 4 is inf \(terms: loss\); no checkpoint had"):
        trainer.train()
    assert not list(tmp_path.glob("checkpoint-*"))


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_after_the_step_with_a_checkpoint(signum, tmp_path):
    before = signal.getsignal(signum)
    trainer = make_trainer(tmp_path, after_step=lambda: os.kill(os.getpid(), signum))
    with pytest.raises(TrainingInterrupted, match="interrupted at step 1; .*checkpoint-1 is kept") as caught:
        trainer.train()
    assert caught.value.exit_code == 128 + signum
    assert signal.getsignal(signum) is before
    trainer = make_trainer(tmp_path, resume="latest")
    trainer.train()
    assert trainer.bare.passes == 5


def test_a_signal_before_the_first_step_leaves_a_checkpoint_too(tmp_path):
    """The validation of a model that is of use before it trains has written the first line of the log by then."""
    trainer = make_trainer(tmp_path)
    trainer.bare.ready = True
    trainer.preview = lambda: os.kill(os.getpid(), signal.SIGTERM) or "a table"
    with pytest.raises(TrainingInterrupted, match="interrupted at step 1; .*checkpoint-1 is kept"):
        trainer.train()


def test_a_second_signal_interrupts_at_once():
    with Interruption() as interruption:
        os.kill(os.getpid(), signal.SIGINT)
        assert interruption.signum == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


# --- the output directory


def test_an_unfinished_run_is_not_touched_without_leave(tmp_path):
    crash(tmp_path, checkpointing_steps=3)
    with pytest.raises(OutputExistsError, match="unfinished run, last checkpoint checkpoint-3"):
        make_trainer(tmp_path)


def test_overwrite_starts_anew(tmp_path):
    crash(tmp_path, checkpointing_steps=3)
    (tmp_path / "notes.txt").write_text("mine")
    trainer = make_trainer(tmp_path, overwrite=True, max_train_steps=2)
    assert (tmp_path / "checkpoint-3").is_dir()  # until the inputs were found good
    trainer.train()
    assert [line["step"] for line in lines(tmp_path) if "lr" in line] == [1, 2]
    assert sorted(path.name for path in tmp_path.glob("[!.]*")) == ["arguments.json", "metrics.jsonl", "notes.txt"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_train_steps": 0}, "max_train_steps must be at least 1, got 0"),
        ({"train_batch_size": 0}, "train_batch_size must be at least 1"),
        (
            {"gradient_accumulation_steps": 4},
            "train_batch_size 6 does not divide by gradient_accumulation_steps 4",
        ),
        ({"checkpoints_total_limit": 0}, "checkpoints_total_limit must be at least 1"),
        ({"learning_rate": -1.0}, "Invalid learning rate"),
    ],
)
def test_bad_arguments(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path / "new", **arguments)
    assert not (tmp_path / "new").exists()


# --- trackers


def test_a_tracker_that_cannot_be_had(tmp_path, monkeypatch):
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", list)
    for name, kind, message in (
        ("wandb", ImportError, "report_to='wandb' needs a package that is not installed: pip install wandb"),
        ("comet_ml", ImportError, "pip install comet-ml"),
        ("paper", ValueError, "unknown tracker 'paper' for report_to; accelerate knows .*tensorboard, wandb"),
    ):
        with pytest.raises(kind, match=message):
            make_accelerator(TrainingArguments(output_dir=str(tmp_path), report_to=name))


def test_needs_accelerate(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(ImportError, match=r"training needs accelerate: pip install context-module\[train\]"):
        make_accelerator(TrainingArguments(output_dir=str(tmp_path)))
