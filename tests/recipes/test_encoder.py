"""recipes/finetune.py on a base without an encoder: one is trained first, kept, and gone on with."""

import torch
from torch import nn

from context_module import ContextualDecoder
from context_module.adapters import register_adapter
from context_module.adapters.decoder_only import DecoderOnlyAdapter


class Generators(DecoderOnlyAdapter):
    """A family of generators, as a package would bring it."""

    name = "generators"

    @classmethod
    def load(cls, path, **options):
        torch.manual_seed(int(path))
        net = nn.Sequential(nn.Linear(4, 3 * 8 * 8), nn.Unflatten(1, (3, 8, 8)))
        adapter = cls(net, (4,), (3, 8, 8))
        adapter.source = str(path)
        return adapter


def test_in_a_recipe(monkeypatch, here, check, tmp_path):
    register_adapter(Generators)
    flags = ["--base", "generators", "--base_checkpoint", "3", "--samples_per_context", "6", "--output_dir", "out"]
    flags += ["--train_batch_size", "7", "--val_fraction", "0.2", "--score_samples", "0", "--value_draws", "0"]
    flags += ["--encoder_steps", "3", "--checkpointing_steps", "1"]
    out = check.succeeded(here("finetune.py", *flags, "--max_train_steps", "1"))
    assert "an encoder for the base: " in out
    encoder = (tmp_path / "out" / "encoder.safetensors").read_bytes()
    model = ContextualDecoder.from_pretrained(tmp_path / "out")
    assert model.abduct(torch.rand(1, 3, 8, 8)).noise.isfinite().all()
    out = check.succeeded(here("finetune.py", *flags, "--max_train_steps", "2", "--resume_from_checkpoint", "latest"))
    assert "an encoder" not in out
    assert (tmp_path / "out" / "encoder.safetensors").read_bytes() == encoder
    error = check.failed(here("finetune.py", *flags, "--overwrite", "--encoder_steps", "0"))
    assert error == "error: --encoder_steps must be at least 1 for a generators base, got 0"
