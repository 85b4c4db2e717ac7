"""What holds of the public API whatever it is given: shapes, types, masks, names, strengths, modes, copies."""

import copy
import io
import itertools
import pickle

import pytest
import torch

from context_module.contexts import Concepts
from context_module.data import MixedContextBatchSampler
from context_module.errors import ContextModuleError
from context_module.io.sums import Sums
from context_module.normal import standard_normal_kl
from context_module.rows import Rows
from context_module.training.whole_batch import WholeBatch
from helpers.models import randomise, wrapped

hypothesis = pytest.importorskip("hypothesis")
given, settings, st = hypothesis.given, hypothesis.settings, hypothesis.strategies
few = settings(max_examples=15, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
NAMES = st.text(st.characters(codec="utf-8"), min_size=0, max_size=6)
CONCEPTS = ("a", "b", "c")
FORMS = ("structural", "reduced", "edits")


@pytest.fixture(scope="module")
def models():
    """A module of each form, at random, on a tiny base."""
    from helpers.bases import TINY_BASES

    found = {}
    for form in FORMS:
        torch.manual_seed(0)
        widths = {"free_blocks": 1, "inversion_width": 8} if form == "edits" else {}
        found[form] = wrapped(TINY_BASES["nvae"]().eval(), CONCEPTS, form=form, latent_noise=True, **widths)
        randomise(found[form].module)
    return found


def unless_refused(work, *errors):
    """What `work` gives; None if it says by an error of these why not."""
    try:
        return work()
    except errors as error:
        if not str(error):
            raise
        return None


@given(names=st.lists(NAMES, max_size=4))
@few
def test_names_are_concepts_or_an_error(names):
    try:
        concepts = Concepts(names)
    except ContextModuleError:
        return
    assert tuple(concepts) == tuple(names)
    for name in concepts:
        assert concepts.mask(name, 2).sum() == 2
        assert concepts.name(concepts.mask(name, 1)[0]) == name


@given(text=st.text(max_size=12))
@few
def test_any_text_as_an_intervention_is_one_or_an_error(text, models):
    images = unless_refused(lambda: models["structural"].generate(1, do=text, seed=0), ContextModuleError)
    assert images is None or images.shape == (1, 3, 8, 8)


@given(
    form=st.sampled_from(FORMS),
    do=st.sets(st.sampled_from(CONCEPTS)),
    n=st.integers(1, 5),
    temperature=st.floats(0, 1.5),
    seed=st.integers(0, 2**31),
)
@few
def test_images_are_finite_in_range_and_the_same_for_the_same_seed(form, do, n, temperature, seed, models):
    options = {"do": tuple(sorted(do)), "temperature": temperature, "seed": seed}
    images = models[form].generate(n, **options)
    assert images.shape == (n, 3, 8, 8)
    assert images.dtype == torch.float32
    assert images.isfinite().all()
    assert images.min() >= 0
    assert images.max() <= 1
    assert torch.equal(images, models[form].generate(n, **options))


@given(form=st.sampled_from(FORMS), strength=st.floats(allow_nan=True, allow_infinity=True))
@few
def test_any_strength_is_taken_or_an_error(form, strength, models):
    images = unless_refused(lambda: models[form].generate(2, do={"a": strength}, seed=0), ValueError)
    assert images is None or images.isfinite().all()


@given(rows=st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=4))
@few
def test_a_mask_is_its_contexts_one_by_one(rows, models):
    model = models["structural"]
    mask = torch.tensor(rows)
    noise = torch.randn(len(rows), model.config.noise_size, generator=torch.Generator().manual_seed(0))
    whole = model.generate(noise=noise, do=mask, temperature=0.0)
    names = [tuple(name for name, on in zip(CONCEPTS, row, strict=True) if on) for row in rows]
    for number, do in enumerate(names):
        alone = model.generate(noise=noise[number : number + 1], do=do, temperature=0.0)
        torch.testing.assert_close(whole[number : number + 1], alone, rtol=1e-4, atol=1e-5)


@given(shape=st.lists(st.integers(0, 4), max_size=3), kind=st.sampled_from([torch.bool, torch.float32, torch.int64]))
@few
def test_any_tensor_as_an_intervention_is_a_mask_or_an_error(shape, kind, models):
    do = torch.zeros(shape, dtype=kind)
    images = unless_refused(lambda: models["structural"].generate(2, do=do), ContextModuleError, ValueError, TypeError)
    assert images is None or images.shape == (2, 3, 8, 8)


@pytest.mark.parametrize("form", FORMS)
def test_copies_modes_and_contexts_change_nothing(form, models):
    model = models[form]
    expected = model.generate(3, do="a", seed=1)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other.generate(3, do="a", seed=1), expected)
    with torch.inference_mode():
        assert torch.equal(model.generate(3, do="a", seed=1), expected)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(model.generate(3, do="a", seed=1), expected, rtol=0.1, atol=0.1)
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    model.load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(model.generate(3, do="a", seed=1), expected)


@given(concepts=st.integers(1, 3), free=st.integers(0, 2), width=st.integers(1, 4), depth=st.integers(2, 4))
@few
def test_every_shape_of_module_generates_every_context(concepts, free, width, depth):
    from helpers.bases import TINY_BASES

    names = CONCEPTS[:concepts]
    widths = {"free_blocks": free, "noise_width": width, "concept_width": width, "depth": depth, "form": "structural"}
    torch.manual_seed(0)
    model = wrapped(TINY_BASES["nvae"]().eval(), names, **widths)
    for do in (None, names[0], names):  # everything at once, too
        assert model.generate(2, do=do, seed=0).isfinite().all()


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    batch=st.integers(1, 4),
    world=st.integers(1, 3),
    start=st.integers(0, 5),
)
@few
def test_shares_of_batches_make_up_the_batches(sizes, batch, world, start):
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    options = {"num_steps": 8, "start_step": start}
    whole = list(MixedContextBatchSampler(labels, batch * world, 0, **options))
    parts = [
        MixedContextBatchSampler(labels, batch * world, 0, rank=r, world_size=world, **options) for r in range(world)
    ]
    assert [list(itertools.chain(*shares)) for shares in zip(*parts, strict=True)] == whole


@given(share=st.integers(2, 4), shares=st.integers(1, 4), stacked=st.integers(1, 3), width=st.integers(1, 20))
@few
def test_shares_of_draws_make_up_the_draws(share, shares, stacked, width):
    total = share * shares
    torch.manual_seed(5)
    whole = torch.randn(stacked * total, width).view(stacked, total, width)
    parts = []
    for start in range(0, total, share):
        batch = WholeBatch(5)
        with batch.share(Rows(start, share, total)):
            parts.append(torch.randn(stacked * share, width).view(stacked, share, width))
    assert torch.equal(torch.cat(parts, dim=1), whole)


@given(pieces=st.lists(st.binary(max_size=50), max_size=8))
@few
def test_sums_are_of_the_bytes_and_not_of_their_pieces(pieces):
    whole, parts = Sums(), Sums()
    whole.add(b"".join(pieces))
    for piece in pieces:
        parts.add(piece)
    assert whole.values == parts.values
    assert whole.size == parts.size


@given(mean=st.floats(-30, 30), log_var=st.floats(-30, 5))
@few
def test_a_kl_is_never_negative(mean, log_var):
    value = torch.tensor([[log_var]])
    assert standard_normal_kl(torch.tensor([[mean]]), value.exp(), value) >= -1e-6
