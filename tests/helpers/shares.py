"""Trainings on shares of a batch: in passes, in processes; as a script it trains in several processes."""

import os
import signal
import socket
import sys
import traceback
from pathlib import Path

import torch
from torch import nn

from context_module import wrap_decoder
from context_module.adapters.lightweight import LightweightObjective
from context_module.adapters.nvae import NVAEObjective
from context_module.baselines import get_baseline
from context_module.cli.training import TrainingArguments
from context_module.data import ArrayContextDataset
from context_module.io import load_tensors, save_tensors
from context_module.objective import Objective
from context_module.training import RunDirectory, Trainer, encode_dataset, make_accelerator, trainable_state_dict
from context_module.training.objectives import (
    EditObjective,
    LatentObjective,
    PackObjective,
    PixelObjective,
    latent_terms,
    new_pack,
)
from helpers.bases import TINY_BASES
from helpers.loop import forget_accelerate

BATCH, STEPS = 24, 4


def images_of(shape, per_context=36):
    """Contexts that differ in brightness."""
    images = torch.rand(3 * per_context, *shape, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(3).repeat_interleave(per_context)
    images = images * torch.tensor([0.3, 0.6, 1.0])[labels].view(-1, 1, 1, 1)
    return ArrayContextDataset((images * 255).to(torch.uint8), labels, ("obs", "a", "b"), ("a", "b")).split(0.2)


def wrapped(**options):
    torch.manual_seed(0)
    base = TINY_BASES["nvae"]().eval()
    return wrap_decoder(base, ["a", "b"], **{"noise_width": 4, "concept_width": 2, "latent_noise": True, **options})


def encoded(model):
    return [encode_dataset(model.base, part, progress=False) for part in images_of((3, 8, 8))]


def latent():
    model = wrapped(form="structural")
    train, val = encoded(model)
    return LatentObjective(model, train, latent_terms(matching=1e-2), beta=0.01), train, val


def edits():
    model = wrapped(form="edits")
    train, val = encoded(model)
    return EditObjective(model, train), train, val


def pack():
    model = wrapped(form="structural")
    model.add_concept(new_pack(model, "c", rank=4, noise_width=2, hidden_width=8))
    train, val = encoded(model)
    return PackObjective(model, "c", train, matching=0.1), train, val


def pixel():
    return PixelObjective(wrapped(latent_noise=False)), *images_of((3, 8, 8))


def reference():
    """Its module has batch norms."""
    model = wrapped(form="reduced", reference=True, latent_noise=False)
    return PixelObjective(model), *images_of((3, 8, 8))


def pretraining():
    torch.manual_seed(0)
    return NVAEObjective(TINY_BASES["nvae"](), anneal_share=1.0), *images_of((3, 8, 8))


def regularized():
    from context_module.baselines import regularizer_of

    torch.manual_seed(0)
    base = TINY_BASES["lightweight"]()
    regularizer = regularizer_of("tc_vae", [], 128, 1000)
    return LightweightObjective(getattr(base, "net", base), regularizer=regularizer), *images_of((1, 28, 28))


def baseline(name):
    def build():
        torch.manual_seed(0)
        kind = get_baseline(name)
        train, val = images_of((3, 64, 64), per_context=30)
        model = kind(kind.settings_class(), train.image_shape, len(train))
        return model, model.view(train, 0), val

    return build


class Dropped(Objective):
    """A loss with dropout, and draws as torch's distributions make them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.Dropout(0.5), nn.Linear(8, 2))

    def forward(self, batch, progress=1.0):
        normal = torch.distributions.Normal(*self.net(batch["x"]).exp().unbind(1))
        uniform = torch.rand(len(batch["x"]), 1).squeeze(1) + torch.randint(3, (len(batch["x"]),))
        return {"loss": (normal.rsample() - uniform).square()}


CASES = {
    "latent": latent,
    "edits": edits,
    "pack": pack,
    "pixel": pixel,
    "reference": reference,
    "pretraining": pretraining,
    "regularized": regularized,
    **{name: baseline(name) for name in ("factor_vae", "dip_vae", "joint_vae", "cascade_vae", "tvae", "ada_vae")},
    "dropped": lambda: (Dropped(), *images_of((3, 8, 8))),
}
NORMALISED = {"reference", "pretraining", "regularized"}  # by the moments of what runs at a time


def trained(case, folder, *, resume=None, **settings):
    """Train a case for a few steps; the trainer, with its best weights."""
    given = {"max_train_steps": STEPS, "validation_steps": 2, "checkpointing_steps": 2, "logging_steps": 1, **settings}
    args = TrainingArguments(
        output_dir=str(folder), train_batch_size=BATCH, lr_warmup_steps=1, resume_from_checkpoint=resume, **given
    )
    accelerator = make_accelerator(args)
    objective, train, val = CASES[case]()
    trainer = Trainer(accelerator, args, RunDirectory(folder, resume=resume), objective, train, val)
    result = trainer.train()
    main = accelerator.is_main_process
    if main:
        last = {"best_loss": torch.tensor(result.loss), "best_step": torch.tensor(result.best_step)}
        save_tensors(folder / "end.safetensors", trainable_state_dict(objective) | last)
    forget_accelerate()
    return load_tensors(folder / "end.safetensors") if main else {}


def in_processes(world, folder, case, resume):
    """Train a case in as many processes, forked from this one; whether one failed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(world):
        child = os.fork()
        if not child:
            code = 1
            try:
                os.environ |= {
                    **dict.fromkeys(("RANK", "LOCAL_RANK"), str(rank)),
                    **dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(world)),
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": str(port),
                    "ACCELERATE_USE_CPU": "true",
                }
                trained(case, folder / case, resume="latest" if resume else None)
                code = 0
            except Exception:  # noqa: BLE001 (whatever it is, its end is to be seen)
                traceback.print_exc()
            finally:
                os._exit(code)
        children.append(child)
    while children:
        child, status = os.wait()
        children.remove(child)
        if status:  # the others would wait for it
            for other in children:
                os.kill(other, signal.SIGKILL)
            return True
    return False


if __name__ == "__main__":
    torch.set_num_threads(1)
    _, count, to, how, *names = sys.argv
    sys.exit(any(in_processes(int(count), Path(to), name, how == "resume") for name in names))
