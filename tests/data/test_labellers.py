"""Labellers by name, and data of a base's own samples by them."""

import json

import pytest
import torch

from context_module.data import load_data, load_labellers, own_samples
from context_module.errors import CheckpointError, DataError
from helpers.halves import halves

FILE = """
import torch

def top(images):
    return images[:, 0, :4].mean((1, 2)) - 0.6

def bottom(images):
    return images[:, 0, 4:].mean((1, 2)) - 0.6

def _hidden(images):
    return top(images)
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "labels.py").write_text(FILE)
    return tmp_path / "labels.py"


@pytest.fixture
def classifier(tmp_path):
    """A folder of a small classifier at random, of 8 x 8 grey images, and the network."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)

    def make(problem_type="multi_label_classification", labels=("Top_Half", "bottom", "left"), **processor):
        sizes = {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1], "layer_type": "basic"}
        config = transformers.ResNetConfig(
            num_channels=1, id2label=dict(enumerate(labels)), problem_type=problem_type, **sizes
        )
        net = transformers.ResNetForImageClassification(config).eval()
        with torch.no_grad():
            net.classifier[1].weight.normal_(std=3)
        net.save_pretrained(tmp_path / "net")
        if processor:
            (tmp_path / "net" / "preprocessor_config.json").write_text(json.dumps(processor))
        return str(tmp_path / "net"), net

    return make


def test_a_file_has_a_function_for_each_concept(file):
    images = torch.rand(6, 1, 8, 8)
    found = load_labellers(file, ["bottom", "top"])
    assert list(found) == ["bottom", "top"]
    torch.testing.assert_close(found["top"](images), images[:, 0, :4].mean((1, 2)) - 0.6)


def test_a_classifier_says_it_by_its_labels(classifier):
    images = torch.rand(6, 1, 8, 8)
    source, net = classifier(size={"height": 16, "width": 16}, image_mean=[0.5], image_std=[0.25])
    found = load_labellers(source, ["bottom", "top half"])
    larger = torch.nn.functional.interpolate(images, (16, 16), mode="bilinear", antialias=True)
    with torch.no_grad():
        logits = net((larger - 0.5) / 0.25).logits
    torch.testing.assert_close(found["top half"](images), logits[:, 0])
    torch.testing.assert_close(found["bottom"](images), logits[:, 1])


def test_one_label_of_several_is_shown_by_its_odds(classifier):
    images = torch.rand(6, 1, 8, 8)
    source, net = classifier("single_label_classification")
    with torch.no_grad():
        share = net(images).logits.softmax(1)[:, 2]
    torch.testing.assert_close(load_labellers(source, ["left"])["left"](images), (share / (1 - share)).log())


def test_a_classifier_of_texts(tmp_path):
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {word: number for number, word in enumerate(["[UNK]", "[PAD]", "good", "bad", "day"])}
    fast = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    fast.pre_tokenizer = pre_tokenizers.Whitespace()
    sizes = {"vocab_size": 5, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    config = transformers.BertConfig(
        **sizes, num_attention_heads=1, id2label={0: "happy", 1: "sad"}, problem_type="multi_label_classification"
    )
    torch.manual_seed(0)
    net = transformers.BertForSequenceClassification(config).eval()
    net.save_pretrained(tmp_path)
    transformers.PreTrainedTokenizerFast(tokenizer_object=fast, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(
        tmp_path
    )
    found = load_labellers(tmp_path, ["sad"])["sad"](["good day", "bad"])
    with torch.no_grad():
        logits = [
            net(torch.tensor([[words[word] for word in text]])).logits[0, 1] for text in (["good", "day"], ["bad"])
        ]
    torch.testing.assert_close(found, torch.stack(logits))


def test_a_package_installs_some(monkeypatch):
    from importlib.metadata import EntryPoint

    point = EntryPoint("halves", "helpers.halves:LABELLERS", "context_module.labellers")
    found = {"context_module.labellers": [point]}
    monkeypatch.setattr("context_module.data.labellers._LABELLERS._registered", {})
    monkeypatch.setattr("context_module.registry.entry_points", lambda group: found.get(group, []))
    assert list(load_labellers("halves", ["top"])) == ["top"]
    with pytest.raises(DataError, match="halves has no labeller left: it has top, bottom"):
        load_labellers("halves", ["left"])


def test_data_by_name(file, tmp_path):
    base = halves()
    options = {"labeller": str(file), "concepts": "top,bottom", "n": 2000}
    data = load_data("samples", **base.data_settings(), **options, cache_dir=tmp_path, seed=3)
    assert data.train.context_names == ("obs", "top", "bottom")
    assert list(data.labellers) == ["top", "bottom"]
    assert len(list(tmp_path.glob("samples-*-2000.npy"))) == 1
    again = own_samples(str(file), ["top", "bottom"], n=2000, base=base, seed=3)
    assert again.train.fingerprint() == data.train.fingerprint()
    assert list(data.of_concepts(["top"]).labellers) == ["top"]
    with torch.no_grad():
        base.decoder.scale.mul_(1.1)
    load_data("samples", **base.data_settings(), **options, cache_dir=tmp_path, seed=3)
    assert len(list(tmp_path.glob("samples-*-2000.npy"))) == 2  # another base, other samples


@pytest.mark.parametrize(
    ("source", "concepts", "message"),
    [
        ("nothing", ["a"], r"no labeller 'nothing': expected a Python file, .* \(there are none\)"),
        ("missing.py", ["a"], "no labeller 'missing.py': no such file"),
        ("labels.py", ["top", "left"], "labels.py has no labeller left: it has top, bottom"),
        ("labels.py", ["_hidden"], "has no labeller _hidden"),
    ],
)
def test_errors_name_what_there_is(file, monkeypatch, source, concepts, message):
    monkeypatch.chdir(file.parent)
    with pytest.raises(DataError, match=message):
        load_labellers(source, concepts)


def test_what_cannot_be_run_or_read(file, tmp_path, classifier):
    file.write_text("1 / 0")
    with pytest.raises(ImportError, match=r"labels.py cannot be run: ZeroDivisionError"):
        load_labellers(file, ["top"])
    source, _ = classifier()
    with pytest.raises(DataError, match="has no label right: it has Top_Half, bottom, left"):
        load_labellers(source, ["right"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty is no classifier of transformers that can be read"):
        load_labellers(str(tmp_path / "empty"), ["top"])
    with pytest.raises(CheckpointError, match="nobody/here"):
        load_labellers("nobody/here", ["top"])


def test_samples_take_a_base():
    with pytest.raises(DataError, match="samples are drawn of a base: give one"):
        load_data("samples", labeller="labels.py", concepts="top")
