"""--push_to_hub: what every recipe that trains uploads; to a Hub that is none."""

import pytest

from helpers.hub import record_uploads

SHORT = ["--max_train_steps", "1", "--checkpointing_steps", "1", "--train_batch_size", "7", "--val_fraction", "0.2"]
SHORT += ["--samples_per_context", "10", "--push_to_hub"]


@pytest.fixture
def uploads(monkeypatch):
    """What was uploaded: (repository, file names, commit message)."""
    done = []
    record_uploads(monkeypatch, lambda repository, names, private, message: done.append((repository, names, message)))
    return done


def test_module_and_concept_pack(here, check, uploads, tmp_path):
    options = ["--contexts", "obs", "--score_samples", "0", "--value_draws", "0", "--output_dir", "demo"]
    out = check.succeeded(here("finetune.py", *options, *SHORT))
    assert "https://huggingface.co/me/demo" in out
    files = ["README.md", "adapter_config.json", "adapter_model.safetensors", "contexts.png"]
    assert uploads == [("me/demo", files, "Upload context module")]
    assert 'from_pretrained("me/demo", base="path/to/nvae-quad32")' in (tmp_path / "demo" / "README.md").read_text()
    options = ["--module", "demo", "--concept", "size", "--output_dir", "pack", "--hub_model_id", "size-of-things"]
    check.succeeded(here("train_concept.py", *options, *SHORT))
    assert uploads[1:] == [("me/size-of-things", ["size.safetensors"], "Upload concept pack size")]


def test_base(here, check, uploads):
    options = ["--base", "lightweight", "--data", "quad", "--resolution", "64", "--output_dir", "base"]
    check.succeeded(here("pretrain.py", *options, *SHORT))
    assert uploads == [("me/base", ["config.json", "model.safetensors"], "Upload lightweight base")]


def test_what_stops_an_upload_stops_the_run_before_it_trains(here, check, tmp_path):
    error = check.failed(here("finetune.py", "--output_dir", "out", "--data", "nowhere", "--push_to_hub"))
    assert error.startswith("error: cannot upload to the Hub repository 'out' (")
    assert "log in with 'hf auth login'" in error
    assert not (tmp_path / "out").exists()
    error = check.failed(here("pretrain.py", "--output_dir", "out", "--hub_model_id", "me/x"))
    assert error == "error: --hub_model_id is where --push_to_hub uploads to: give both, or neither"
