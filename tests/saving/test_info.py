"""``python -m context_module info DIR``."""

import runpy
import sys
from pathlib import Path

import pytest
import torch

from context_module import wrap_decoder
from context_module.adapters import get_adapter
from context_module.base.fingerprint import fingerprint
from context_module.cli.training import TrainingArguments
from context_module.errors import CheckpointError
from context_module.io.files import write_json
from context_module.saving.details import CardDetails
from context_module.saving.info import describe
from context_module.training.objectives.pack import new_pack
from helpers.models import SMALL


def lines_of(folder):
    """Rows by section: {"context module": {"concepts": "a, b", ...}, ...}."""
    sections, rows = {}, None
    for line in describe(folder).splitlines()[1:]:
        if line.startswith("  "):
            name, _, value = line.strip().partition("  ")
            rows[name] = value.strip()
        elif line:
            rows = sections.setdefault(line, {})
    return sections


@pytest.fixture
def folder(make_base, tmp_path):
    """A run: a module with LoRA on a base beside it, another module, a concept pack, flags and a result."""
    make_base("lightweight").save_pretrained(tmp_path / "base")
    torch.manual_seed(0)
    model = wrap_decoder(get_adapter("lightweight").load(tmp_path / "base"), ["a", "b"], free_blocks=2, **SMALL)
    model.details = CardDetails("photos")
    model.save_pretrained(tmp_path / "run" / "letters")
    pack = new_pack(model, "size", rank=2, noise_width=3, hidden_width=4)
    pack.save(tmp_path / "run" / "size.safetensors")
    model.add_lora(rank=3).save_pretrained(tmp_path / "run")
    arguments = TrainingArguments(output_dir="run", data="photos", data_options=["x=1", "y=2"])
    write_json(tmp_path / "run" / "arguments.json", vars(arguments))
    write_json(tmp_path / "run" / "result.json", {"steps": 9, "loss": 12.5, "stopped_early": False})
    return tmp_path / "run"


def test_all_that_is_in_a_folder(folder, make_base):
    found = lines_of(folder)
    flags = "flags (python recipes/... --config arguments.json repeats them)"
    assert list(found) == [
        "context module",
        "context module 'letters'",
        "concept pack size.safetensors",
        "result",
        flags,
    ]
    module = found["context module"]
    assert module["concepts"] == "a, b"
    assert module["widths"] == "noise 4, concept 3, depth 2, 2 free blocks"
    assert (module["form"], module["decoder input"], module["trained on"]) == ("structural", "128", "photos")
    assert module["base"] == f"lightweight, {folder.parent / 'base'} (there)"
    assert module["fingerprint"] == fingerprint(get_adapter("lightweight").wrap(make_base("lightweight")))
    assert module["LoRA"].startswith("rank 3, on ")
    assert "LoRA" not in found["context module 'letters'"]
    counts = [int(found[name]["tensors"].split()[0].replace(",", "")) for name in list(found)[:2]]
    assert counts[0] > counts[1] > 1000
    assert found["concept pack size.safetensors"]["concept"] == "size"
    assert found["concept pack size.safetensors"]["fingerprints"].startswith(f"base {module['fingerprint']}, module ")
    assert found["result"] == {"steps": "9", "loss": "12.5", "stopped_early": "false"}
    assert found[flags]["data_options"] == "x=1 y=2"
    assert "resume_from_checkpoint" not in found[flags]  # not given
    (folder.parent / "base").rename(folder.parent / "moved")
    assert lines_of(folder)["context module"]["base"].endswith("base (not there now)")


def test_a_base_and_its_module(make_base, tmp_path):
    model = wrap_decoder(make_base("lightweight"), ["a"], **SMALL)
    model.save_pretrained(tmp_path / "frozen")
    assert lines_of(tmp_path / "frozen")["context module"]["base"] == "lightweight, given by the caller: pass base=..."
    model.unfreeze_base().save_pretrained(tmp_path / "trained")
    assert lines_of(tmp_path / "trained")["context module"]["base"].endswith(f"in {tmp_path / 'trained' / 'base'}")
    base = lines_of(tmp_path / "trained" / "base")["base"]
    count = sum(tensor.numel() for tensor in model.base.state_dict().values())
    assert base == {"family": "lightweight", "tensors": f"{count:,d} values"}
    shipped = Path(__file__).parents[2] / "recipes" / "pretrained" / "nvae-quad32"
    assert lines_of(shipped)["base"]["tensors"].endswith(" values")


def spoil(path, content):
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: spoil(d / "adapter_config.json", b"{"), "adapter_config.json is not valid JSON"),
        (
            lambda d: spoil(d / "adapter_config.json", b'{"peft_type": "LORA"}'),
            "is not of a context module: it has",
        ),
        (
            lambda d: spoil(d / "adapter_model.safetensors", b""),
            "adapter_model.safetensors is not a readable",
        ),
        (lambda d: (d / "adapter_model.safetensors").unlink(), "adapter_model.safetensors is not a readable"),
        (lambda d: spoil(d / "size.safetensors", b"x" * 100), "size.safetensors is not a readable safetensors file"),
    ],
)
def test_what_cannot_be_read(change, message, folder):
    change(folder)
    with pytest.raises(CheckpointError, match=message):
        describe(folder)


def test_a_pipeline_of_diffusers(make_base, tmp_path):
    base = make_base("denoiser")
    base.save(tmp_path)
    count = sum(parameter.numel() for parameter in base.net.parameters())
    assert f"  family   DDIMPipeline\n  tensors  {count:,d} values" in describe(tmp_path)
    base = make_base("denoiser of a diffusion autoencoder")
    base.save(tmp_path)
    encoder = sum(tensor.numel() for tensor in base.encoder.state_dict().values())
    assert f"  tensors  {encoder:,d} values, {count:,d} values" in describe(tmp_path)


def test_nothing_of_ours(tmp_path):
    with pytest.raises(CheckpointError, match="no such folder; expected one of a module, a concept pack or a base"):
        describe(tmp_path / "gone")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(CheckpointError, match="holds no context module, concept pack or base: none of adapter_config"):
        describe(tmp_path)


def test_the_command(folder, tmp_path, monkeypatch, capsys):
    def run(*argv):
        monkeypatch.setattr(sys, "argv", ["context_module", *map(str, argv)])
        monkeypatch.delitem(sys.modules, "context_module.__main__", raising=False)  # as nobody has imported it
        runpy.run_module("context_module", run_name="__main__")

    run("info", folder)
    assert capsys.readouterr().out == describe(folder) + "\n"
    with pytest.raises(SystemExit) as stop:
        run("info", tmp_path / "gone")
    assert (
        stop.value.code
        == f"error: {tmp_path / 'gone'}: no such folder; expected one of a module, a concept pack or a base"
    )
    with pytest.raises(SystemExit) as stop:
        run()
    assert stop.value.code == 2
    assert "COMMAND" in capsys.readouterr().err
