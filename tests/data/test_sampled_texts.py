"""Contexts from what a language model writes by itself."""

import json

import pytest
import torch

pytest.importorskip("transformers")

from context_module import wrap_decoder
from context_module.adapters.transformers import TransformersAdapter
from context_module.data import from_samples, mixed_context_loader, quad, read_by
from context_module.errors import DataError, ShapeError
from context_module.evaluation import evaluate

WORDS = ["one two three four"]


def more_of(word, other):
    return lambda texts: torch.tensor([float(text.count(word) - text.count(other)) for text in texts])


LABELLERS = {"low": more_of("one", "two"), "high": more_of("four", "three")}


@pytest.fixture(scope="module")
def base():
    torch.manual_seed(0)
    base = TransformersAdapter.from_texts(WORDS, hidden_size=8, num_layers=1, virtual_tokens=1, max_tokens=9)
    with torch.no_grad():
        base.net.lm_head.weight.mul_(5)
    return base


def drawn(base, n=300, **options):
    return from_samples(base, LABELLERS, n=n, progress=False, **options)


def test_texts_are_sorted_by_what_they_say(base):
    data = drawn(base, margin=1)
    assert data.concepts == ("low", "high")
    assert data.train.context_names == ("obs", "low", "high")
    assert data.held_out.context_names == ("low+high",)
    for part in (data.train, data.held_out):
        for context in part.context_names:
            for name, labeller in LABELLERS.items():
                scores = labeller(part.texts(context))
                assert (scores >= 1).all() if name in context.split("+") else (scores <= -1).all()
    said = data.describe()
    assert "texts that did not end in time" in said
    assert "texts that are empty or would not be read back" in said  # <unk> is drawn, too
    assert "samples near the margin" in said
    assert not any("<unk>" in text for text in data.train.texts())
    batch = next(iter(mixed_context_loader(data.train, 6, 0, num_steps=1)))
    assert wrap_decoder(base, data.concepts)(batch["x"], batch["mask"]).loss.isfinite().all()


def test_they_are_the_base_s_own(base):
    """The model's distribution of first words, at the temperature asked for."""
    begin = torch.full((1, 2), base.begin)
    logits = base.net(begin).logits[0, -1]
    for temperature in (1.0, 0.3):
        data = from_samples(
            base, {"any": lambda texts: torch.arange(len(texts)) % 2 - 0.5}, n=4000, temperature=temperature,
            batch_size=1000, progress=False,
        )  # fmt: skip
        words = [text.split()[0] for text in data.train.texts()]
        ids = base.tokenizer.convert_tokens_to_ids(WORDS[0].split())
        expected = (logits[ids] / temperature).softmax(0)
        found = torch.tensor([words.count(word) for word in WORDS[0].split()]) / len(words)
        # those that did not end are left out, whatever they began with
        assert (found - expected).abs().max() < 0.1


def test_the_seed_says_which_and_a_cache_can_be_read(base, tmp_path):
    one, again, other = (drawn(base, seed=seed) for seed in (1, 1, 2))
    assert one.train.texts() == again.train.texts() != other.train.texts()
    file = tmp_path / "deep" / "texts.jsonl"
    kept = drawn(base, seed=1, cache_file=file)
    assert kept.train.texts() == one.train.texts()
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 300
    assert set(kept.train.texts()) <= {line["text"] for line in lines if line["ended"]}
    assert drawn(base, seed=2, cache_file=file).train.texts() == kept.train.texts()
    with pytest.raises(DataError, match=r"texts.jsonl holds 300 texts, 200 were asked for: remove it"):
        drawn(base, 200, cache_file=file)
    file.write_text("one two\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"texts.jsonl is no JSONL file of drawn texts"):
        drawn(base, cache_file=file)


def test_another_reader_judges(base):
    """Metrics of texts go by the labellers that sorted them, or by readers given afterwards."""
    data = drawn(base, 3000, margin=1)
    assert data.train.factor_names == ("low", "high")
    torch.testing.assert_close(data.train.factors, data.train.concepts.mask(
        [data.train.context_of(row) for row in range(len(data.train))]
    ).float())  # fmt: skip
    assert data.parser("one four").tolist() == [1, 1]
    other = read_by(data, {"high": more_of("four", "zero"), "low": lambda texts: -torch.ones(len(texts))})
    assert other.train.factors[:, 0].max() == 0
    assert other.held_out.factors[:, 1].min() == 1
    assert other.parser("one two").tolist() == [0, 0]
    model = wrap_decoder(base, data.concepts)
    scored = evaluate(model, other, samples=12, contexts=["low+high"], progress=False)
    assert {"total_variation", "intended"} <= set(scored.contexts["low+high"].scores)


@pytest.mark.parametrize(
    ("labellers", "options", "error", "message"),
    [
        ({}, {}, DataError, "no labellers: give a function of texts for every concept"),
        (LABELLERS, {"temperature": -1}, DataError, "margin and temperature at least 0, got 50, 0.0 and -1"),
        (LABELLERS, {"margin": 9}, DataError, "draw more, lower the margin, or see whether the base makes such texts"),
        ({"low": lambda texts: torch.ones(())}, {}, ShapeError, r"give one finite score per text, \(\d+,\), got \(\)"),
    ],
)
def test_what_cannot_be(base, labellers, options, error, message):
    with pytest.raises(error, match=message):
        from_samples(base, labellers, progress=False, **{"n": 50, **options})


def test_a_base_that_never_ends(base):
    longer = TransformersAdapter(base.net, base.tokenizer, virtual_tokens=1, max_tokens=2)
    with pytest.raises(DataError, match=r"none of 20 texts drawn can be used \(\d+ of them ended\): raise max_tokens"):
        from_samples(longer, LABELLERS, n=20, progress=False)


def test_readers_are_of_the_concepts_and_of_texts(base):
    data = drawn(base)
    with pytest.raises(DataError, match="readers of low for the concepts low, high: give one of each"):
        read_by(data, {"low": LABELLERS["low"]})
    images = quad(samples_per_context=4, held_out_samples=0)
    with pytest.raises(DataError, match="readers are of texts, this data holds images"):
        read_by(images, dict.fromkeys(images.concepts, LABELLERS["low"]))
