"""A language model as the base, as a user goes about it: pretrain, fine-tune, compose, evaluate."""

import json

import pytest
from PIL import Image

from context_module import ContextualDecoder
from context_module.data import grammar

QUICK = ["--train_batch_size", "12", "--max_train_steps", "2", "--checkpointing_steps", "1"]
GRAMMAR = ["--data", "grammar", "--samples_per_context", "40", "--data_options", "held_out_samples=20"]
TUNE = ["--base", "transformers", "--base_checkpoint", "base", *QUICK]


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    pytest.importorskip("transformers")
    from context_module.adapters.transformers import TransformersAdapter

    folder = tmp_path_factory.mktemp("untrained")
    texts = grammar(samples_per_context=40, held_out_samples=0).train.texts()
    TransformersAdapter.from_texts(texts, hidden_size=16, num_layers=1, max_tokens=16).save(folder)
    return folder


@pytest.fixture
def base(untrained, tmp_path):
    (tmp_path / "base").symlink_to(untrained)


@pytest.fixture
def corpora(tmp_path):
    texts = {
        "obs": "the cat saw a red ball .",
        "plural": "the cats saw a red ball .",
        "green": "the cat saw a green ball .",
    }
    for context, text in {**texts, "plural+green": "the cats saw a green ball ."}.items():
        (tmp_path / "corpora" / context).mkdir(parents=True)
        (tmp_path / "corpora" / context / "1.txt").write_text(f"{text}\n" * 12, encoding="utf-8")


def test_grammar(here, check, tmp_path):
    pytest.importorskip("transformers")
    argv = ["--hidden_size", "16", "--num_layers", "1", "--max_tokens", "16", "--output_dir", "base", *QUICK]
    out = check.succeeded(here("pretrain.py", "--base", "transformers", *GRAMMAR, *argv))
    assert "base: transformers with" in out
    assert "nats per text" in out

    options = [
        "--score_samples",
        "10",
        "--output_dir",
        "module",
        "--base_options",
        "virtual_tokens=2",
        "max_tokens=14",
    ]
    out = check.succeeded(here("finetune.py", *TUNE, *GRAMMAR, *options))
    table = (tmp_path / "module" / "composition.md").read_text()
    assert table in out
    assert "Total variation distance" in out
    assert "| context | base | with context module | real against real | closer by | intended | parses |" in table
    assert table.count("\n") == 2 + 13  # ten pairs and their mean, under the title
    samples = (tmp_path / "module" / "samples" / "step-000002.md").read_text()
    assert "| number+tense |" in samples
    model = ContextualDecoder.from_pretrained(tmp_path / "module")
    assert model.base.options == {"virtual_tokens": 2, "max_tokens": 14}
    assert len(model.generate(3, do="number+tense", sample=True)) == 3

    text = ["--text", "the cat found a red apple ."]
    out = check.succeeded(here("compose.py", "--model", "module", "--do", "number", "tense", *text))
    assert "| text | the cat found a red apple . |" in out
    assert "| number+tense |" in (tmp_path / "composition.md").read_text()
    assert "give --text" in check.failed(here("compose.py", "--model", "module", "--do", "number", "--image", "a.png"))

    out = check.succeeded(here("evaluate.py", "--model", "module", "--samples", "10"))
    assert "| composition | total variation |" in out
    scores = json.loads((tmp_path / "module" / "evaluation" / "report.json").read_text())
    assert set(scores["contexts"]["number+tense"]) == {
        "held_out",
        "total_variation",
        "concept_variation",
        "intended",
        "parses",
    }
    assert scores["contexts"]["obs"]["parses"]["floor"]["value"] == 1
    argv = ["--model", "base", "--output_dir", "alone", "--samples", "10"]
    check.succeeded(here("evaluate.py", *argv, "--metrics", "parses"))
    report = json.loads((tmp_path / "alone" / "report.json").read_text())
    columns = report["summary"]["composition"]["parses"]
    assert columns["model"] == columns["base"]
    message = check.failed(here("evaluate.py", *argv, "--metrics", "mmd"))
    assert "mmd cannot be measured: it is of images, the model makes texts" in message


def test_lora_on_folders_of_texts_goes_on_after_a_stop(here, check, base, corpora, tmp_path):
    """In bf16, too; words of the texts are the tokenizer's."""
    pytest.importorskip("peft")
    argv = [*TUNE, "--data", "corpora", "--train_mode", "lora", "--lora_rank", "2", "--output_dir", "module"]
    argv += ["--val_fraction", "0.2", "--mixed_precision", "bf16"]
    assert "no parser comes with this data" in check.succeeded(here("finetune.py", *argv))
    (tmp_path / "module" / "result.json").unlink()
    check.succeeded(here("finetune.py", *argv, "--max_train_steps", "3", "--resume_from_checkpoint", "latest"))
    model = ContextualDecoder.from_pretrained(tmp_path / "module")
    assert model.lora.rank == 2
    assert model.concepts == ("green", "plural")


def test_a_sentence_encoder_reads_the_texts(here, check, base, corpora, make_encoder, tmp_path):
    for part in make_encoder():
        part.save_pretrained(tmp_path / "encoder")
    argv = ["--data", "corpora", "--output_dir", "module", "--val_fraction", "0.2"]
    check.succeeded(here("finetune.py", *TUNE, *argv, "--encoder_name_or_path", "encoder"))
    model = ContextualDecoder.from_pretrained(tmp_path / "module")
    assert model.base.options["encoder"] == str(tmp_path / "encoder")
    assert model.base.num_features == 6
    argv = ["--encoder_name_or_path", "encoder", "--output_dir", "other"]
    assert "a 'nvae' base takes no option encoder" in check.failed(here("finetune.py", *argv))


def test_a_gguf_file_by_its_flag(here, check, tmp_path):
    pytest.importorskip("gguf", reason="GGUF files are written with gguf: pip install context-module[gguf]")
    from helpers.gguf_files import write_gguf

    write_gguf(tmp_path / "tiny.gguf")
    for context, text in {"obs": "the cat", "hat": "the hat"}.items():
        (tmp_path / "texts" / context).mkdir(parents=True)
        (tmp_path / "texts" / context / "1.txt").write_text(f"{text}\n" * 12, encoding="utf-8")
    base = ["--base", "transformers", "--base_checkpoint", "."]
    argv = ["--data", "texts", "--output_dir", "module", "--val_fraction", "0.2", "--base_options", "max_tokens=16"]
    message = check.failed(here("finetune.py", *base, *QUICK, *argv, "--gguf_file", "other.gguf"))
    assert "has no file other.gguf; GGUF files there: tiny.gguf" in message
    argv += ["prompt=the hats"]
    check.succeeded(here("finetune.py", *base, *QUICK, *argv, "--gguf_file", "tiny.gguf"))
    model = ContextualDecoder.from_pretrained(tmp_path / "module")
    assert model.base.options == {
        "virtual_tokens": 8, "max_tokens": 16, "prompt": "the hats", "gguf_file": "tiny.gguf"
    }  # fmt: skip
    check.succeeded(here("compose.py", "--model", "module", "--do", "hat", "--text", "the cat"))


@pytest.mark.parametrize(
    ("recipe", "argv", "message"),
    [
        ("finetune.py", [*TUNE, *GRAMMAR, "--objective", "latent"], "no decoder inputs of its own behind texts"),
        ("finetune.py", [*TUNE, "--data", "quad"], "the quad data holds images, a language model takes texts"),
        ("finetune.py", ["--objective", "pixel", *GRAMMAR], "the grammar data holds texts, which have no size"),
        (
            "finetune.py",
            [*TUNE, *GRAMMAR, "--base_options", "max_tokens=7"],
            r"tokens and an end token, the limit is 7",
        ),
        ("pretrain.py", ["--base", "nvae", *GRAMMAR, "--output_dir", "b"], "texts, which have no image shape"),
        (
            "pretrain.py",
            ["--base", "transformers", "--samples_per_context", "2", "--output_dir", "b"],
            "such as --data",
        ),
        (
            "finetune.py",
            ["--base", "transformers", "--train_mode", "end_to_end", *GRAMMAR],
            "which have no image shape: use a language model",
        ),
    ],
)
def test_what_does_not_go_together(here, check, base, recipe, argv, message, tmp_path):
    for context in ("obs", "size"):
        (tmp_path / "photos" / context).mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / "photos" / context / "1.png")
    assert message in check.failed(here(recipe, *argv))


def test_preview(here, check, tmp_path):
    assert "16 contexts of texts" in check.succeeded(here("preview.py", "--data", "grammar", "--n", "2"))
    assert (tmp_path / "preview.md").read_text().count("<br>") == 16
