import pytest
import torch

from context_module.contexts import Concepts
from context_module.errors import ConceptError, ContextModuleError, ShapeError

CONCEPTS = Concepts(["quad1", "quad2", "size"])


def test_is_a_sequence_of_names():
    assert list(CONCEPTS) == ["quad1", "quad2", "size"]
    assert len(CONCEPTS) == 3
    assert CONCEPTS[0] == "quad1"
    assert CONCEPTS[1:] == ("quad2", "size")
    assert "size" in CONCEPTS
    assert CONCEPTS == ["quad1", "quad2", "size"] == CONCEPTS
    assert Concepts(CONCEPTS) == CONCEPTS
    assert CONCEPTS != ("size", "quad1", "quad2")
    assert CONCEPTS != "quad1"
    assert len({CONCEPTS, Concepts(("quad1", "quad2", "size"))}) == 1
    assert repr(CONCEPTS) == "Concepts(['quad1', 'quad2', 'size'])"
    assert CONCEPTS.training_contexts == ("obs", "quad1", "quad2", "size")


def test_no_concepts_have_one_context():
    none = Concepts([])
    assert none.training_contexts == ("obs",)
    assert none.name([]) == "obs"
    assert none.mask("obs", 3).shape == (3, 0)
    with pytest.raises(ConceptError, match="unknown concept 'size'; known concepts: none "):
        none.parse("size")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("size", r"got the single string 'size': write \['size'\]"),
        (["size", ""], "'' cannot name a concept"),
        (["obs"], "'obs' cannot name a concept: expected a non-empty string other than 'obs'"),
        (["a+b"], r"'a\+b' cannot name a concept"),
        (["a b"], "'a b' cannot name a concept"),
        (["a/b"], "'a/b' cannot name a concept"),
        ([3], "3 cannot name a concept"),
        (["b", "a", "b", "a"], "named more than once: a, b"),
    ],
)
def test_refuses_names(names, message):
    with pytest.raises(ConceptError, match=message) as caught:
        Concepts(names)
    assert isinstance(caught.value, ContextModuleError)


@pytest.mark.parametrize(
    ("context", "name"),
    [
        ("obs", "obs"),
        ((), "obs"),
        ("size", "size"),
        (["size"], "size"),
        ("size+quad1", "quad1+size"),
        (("size", "quad2", "quad1"), "quad1+quad2+size"),
        ({"size"}, "size"),
        (torch.tensor([True, False, True]), "quad1+size"),
        (torch.tensor([False, False, False]), "obs"),
    ],
)
def test_one_name_per_context(context, name):
    assert CONCEPTS.name(context) == name
    intervened = CONCEPTS.parse(name)
    assert CONCEPTS.mask(name).tolist() == [[concept in intervened for concept in CONCEPTS]]


@pytest.mark.parametrize(
    ("context", "message"),
    [
        (
            "quad1+sizes",
            r"'sizes' in context 'quad1\+sizes'; known concepts: quad1, quad2, size \(and .*\). Did you mean 'size'\?",
        ),
        ("zebra", r"unknown concept 'zebra'; known concepts: .*intervention\)\.$"),
        ("size+obs", "unknown concept 'obs' in context"),
        ("", "unknown concept ''"),
        ("size+", r"unknown concept '' in context 'size\+'"),
        ("size+size", r"context 'size\+size' names a concept more than once"),
        (["size", "size"], "names a concept more than once"),
        ([1], "unknown concept 1"),
    ],
)
def test_refuses_contexts(context, message):
    with pytest.raises(ConceptError, match=message):
        CONCEPTS.parse(context)


def test_masks_of_a_batch():
    mask = CONCEPTS.mask(["obs", "size+quad1", "quad2", "obs"], 4)
    assert mask.dtype == torch.bool
    assert mask.tolist() == [[False] * 3, [True, False, True], [False, True, False], [False] * 3]
    assert torch.equal(CONCEPTS.mask(mask, 4), mask)
    assert torch.equal(CONCEPTS.mask(mask), mask)
    assert torch.equal(CONCEPTS.mask("size", 2), torch.tensor([[False, False, True]] * 2))
    assert torch.equal(CONCEPTS.mask(mask[1], 2), mask[[1, 1]])
    assert CONCEPTS.mask(mask[1]).shape == (1, 3)
    assert CONCEPTS.mask([], 0).shape == (0, 3)


@pytest.mark.parametrize(
    ("contexts", "message"),
    [
        (["obs", "size"], "2 context names for a batch of 3: give one name, or one per sample"),
        (torch.zeros(3, 3), r"must be torch.bool, got torch.float32: use mask.bool\(\)"),
        (torch.zeros(3, 2).bool(), r"shape \(batch, 3\) for the concepts quad1, quad2, size, got \(3, 2\)"),
        (torch.zeros(1, 3, 3).bool(), r"got \(1, 3, 3\)"),
        (torch.zeros(4, 3).bool(), "has 4 rows for a batch of 3"),
    ],
)
def test_refuses_masks_that_do_not_fit(contexts, message):
    with pytest.raises(ShapeError, match=message):
        CONCEPTS.mask(contexts, 3)
