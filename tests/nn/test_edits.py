import pytest
import torch

from context_module.errors import ConceptError, ShapeError
from context_module.nn import ContextModuleConfig, EditModule, ancestors_of, auto_widths
from helpers.draws import seeded

CONCEPTS = ("a", "b", "c")


def module(size=6, graph=None, rank=None):
    """With edits and a memory at random, in the plain coordinates of its latents."""
    widths = auto_widths((size,), len(CONCEPTS), "edits")
    widths |= {"noise_width": rank or size, "inversion_width": 8}
    torch.manual_seed(0)
    made = EditModule(
        ContextModuleConfig(
            concepts=CONCEPTS,
            latent_shape=(size,),
            num_features=4,
            form="edits",
            latent_noise=True,
            graph=graph,
            **widths,
        )
    )
    with torch.no_grad():
        made.memory.normal_()
        made.range.fill_(1e3)
        made.edits.linear.normal_(std=0.1)
        made.edits.shift.normal_()
        made.edits.last.normal_(std=0.1)
        for k in range(3):  # concept k is read off, and written to, coordinates 2k and 2k + 1
            for value in range(min(2, made.readers.shape[2])):
                place = (2 * k + value) % (rank or size)
                made.readers[k, place, value] = made.writers[k, value, place] = 1
    return made.eval()


def mask(*rows):
    return torch.tensor(rows, dtype=torch.float32)


def test_no_intervention_changes_nothing():
    made = module()
    noise = made.sample_noise(5, generator=seeded(1))
    nothing = torch.zeros(5, 3, dtype=torch.bool)
    assert torch.equal(made(noise, nothing), made.place(made.observed(noise)))


def test_edits_add_up_with_their_strengths():
    made, coordinates = module(), torch.randn(4, 6, generator=seeded(1))
    first, second = made.edits(coordinates, 0), made.edits(coordinates, 2)
    found = made.changed(coordinates, mask([1, 0, 0], [0.5, 0, 0], [-2, 0, 3], [1, 0, 1]))
    expected = coordinates + mask([1], [0.5], [-2], [1]) * first + mask([0], [0], [3], [1]) * second
    torch.testing.assert_close(found, expected)


def led(made, coordinates, *concepts):
    """Changes one after another, each from where the last has come to."""
    for k in concepts:
        coordinates = coordinates + made.edits(coordinates, k)
    return coordinates


def orders(**leads):
    """``orders(b_c=0.3)``: b leads c."""
    found = torch.zeros(3, 3)
    for name, value in leads.items():
        first, then = name.split("_")
        found[CONCEPTS.index(then), CONCEPTS.index(first)] = value
    return found


def test_what_is_led_starts_from_where_others_have_come_to():
    """A saved module keeps it; a concept that is not intervened on leads nothing."""
    made, coordinates = module(), torch.randn(4, 6, generator=seeded(1))
    made.find_order(orders(c_a=0.2))
    change_b = made.edits(coordinates, 1)
    expected = led(made, coordinates, 2, 0)
    torch.testing.assert_close(made.changed(coordinates, mask(*[[1, 0, 1]] * 4)), expected)
    torch.testing.assert_close(made.changed(coordinates, mask(*[[1, 1, 1]] * 4)), expected + change_b)
    alone = coordinates + made.edits(coordinates, 0) + change_b
    torch.testing.assert_close(made.changed(coordinates, mask(*[[1, 1, 0]] * 4)), alone)
    loaded = module()
    loaded.load_state_dict(made.state_dict())
    torch.testing.assert_close(loaded.changed(coordinates, mask(*[[1, 0, 1]] * 4)), expected)


def test_orders_make_chains_and_half_an_intervention_leads_half_as_far():
    made, coordinates = module(), torch.randn(4, 6, generator=seeded(1))
    made.find_order(orders(a_b=0.2, b_c=0.1, a_c=0.1))
    assert made.leads == (("a", "b"), ("a", "c"), ("b", "c"))
    torch.testing.assert_close(made.changed(coordinates, mask(*[[1, 1, 1]] * 4)), led(made, coordinates, 0, 1, 2))
    half = coordinates + 0.5 * made.edits(coordinates, 0)
    expected = half + made.edits(half, 1)
    torch.testing.assert_close(made.changed(coordinates, mask(*[[0.5, 1, 0]] * 4)), expected)


def test_of_a_circle_the_least_is_left_out():
    made, coordinates = module(), torch.randn(4, 6, generator=seeded(1))
    made.find_order(orders(a_b=0.2, b_c=0.3, c_a=0.1))
    assert made.leads == (("a", "b"), ("b", "c"))
    torch.testing.assert_close(
        made.changed(coordinates, mask(*[[1, 0, 1]] * 4)),
        coordinates + made.edits(coordinates, 0) + made.edits(coordinates, 2),
    )


def test_gradients_reach_what_leads():
    made, coordinates = module(), torch.randn(4, 6, generator=seeded(1))
    made.find_order(orders(a_b=0.2))
    with torch.no_grad():
        made.edits.linear[1] = torch.eye(6)  # b's change is where a has led, and once more
        made.edits.last[1] = made.edits.shift[1] = 0
    made.changed(coordinates, mask(*[[1, 1, 0]] * 4)).sum().backward()
    torch.testing.assert_close(made.edits.shift.grad[0], torch.full((6,), 8.0))


def test_mixed_batches_are_what_single_ones_are():
    made, noise = module(graph=[("a", "b")]), torch.randn(4, 6, generator=seeded(1))
    rows = mask([1, 0, 0], [0, 0, 0], [1, 1, 0], [0, 0, 1])
    alone = torch.cat([made(noise[i : i + 1], rows[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(made(noise, rows), alone)


def test_half_is_cut_of_what_is_undecided():
    """And nothing where the reverse edge is as likely, or once edges are given; a saved module keeps it."""
    made, coordinates = module(), torch.randn(4, 6, generator=seeded(1))
    undecided = torch.zeros(3, 3)
    undecided[1, 0], undecided[0, 1] = 0.2, 0.1  # a -> b, twice as likely as b -> a
    undecided[2, 0], undecided[0, 2] = 0.2, 0.15
    made.find_graph(torch.zeros(3, 3), undecided)
    assert set(made.graph().undecided) == {("a", "b"), ("b", "a"), ("a", "c"), ("c", "a")}
    change, both = made.edits(coordinates, 0), mask(*[[1, 1, 0]] * 4)
    expected = coordinates + change - 0.5 * change @ made.readers[1] @ made.writers[1] + made.edits(coordinates, 1)
    torch.testing.assert_close(made.changed(coordinates, both), expected)
    with_c = coordinates + change + made.edits(coordinates, 2)
    torch.testing.assert_close(made.changed(coordinates, mask(*[[1, 0, 1]] * 4)), with_c)
    loaded = module()
    loaded.load_state_dict(made.state_dict())
    torch.testing.assert_close(loaded.changed(coordinates, both), expected)
    made.fix_graph([])
    assert made.graph().undecided == ()
    torch.testing.assert_close(made.changed(coordinates, both), coordinates + change + made.edits(coordinates, 1))


def test_an_effect_that_is_intervened_on_does_not_follow_its_ancestors():
    coordinates = torch.randn(4, 6, generator=seeded(1))
    given, none = module(graph=[("a", "b"), ("b", "c")]), module(graph=())
    with torch.no_grad():  # b and c set nothing, so that what a does to them is seen
        for made in (given, none):
            made.edits.linear[1:] = made.edits.shift[1:] = made.edits.last[1:] = 0
    both = mask([1, 0, 1]).expand(4, 3)
    change = none.edits(coordinates, 0)
    found = given.changed(coordinates, both) - coordinates
    torch.testing.assert_close(found[:, :4], change[:, :4])
    torch.testing.assert_close(found[:, 4:], torch.zeros(4, 2))  # c's own directions
    torch.testing.assert_close(none.changed(coordinates, both) - coordinates, change)
    alone = mask([1, 0, 0]).expand(4, 3)
    assert torch.equal(given.changed(coordinates, alone), none.changed(coordinates, alone))


def test_of_what_is_ordered_nothing_is_cut():
    coordinates, both = torch.randn(4, 6, generator=seeded(1)), mask([1, 0, 1]).expand(4, 3)
    for given, order, expected in (
        ([("a", "c")], orders(a_c=0.2), (0, 2)),
        ([("a", "c")], orders(c_a=0.2), (2, 0)),
    ):
        made = module(graph=given)
        made.find_order(order)
        torch.testing.assert_close(made.changed(coordinates, both), led(made, coordinates, *expected))


def test_noise_is_found_again():
    made = module()
    noise = made.sample_noise(200, generator=seeded(2))
    found = made.noise_of(made.observed(noise))
    torch.testing.assert_close(made.observed(found), made.observed(noise), atol=1e-3, rtol=1e-3)
    other = 1.5 * torch.randn(200, 6, generator=seeded(3)).clamp(-2, 2)  # of images that are not in the memory
    torch.testing.assert_close(made.observed(made.noise_of(other)), other, atol=5e-3, rtol=5e-3)


def test_observed_is_as_the_memory():
    made = module()
    drawn = made.observed(made.sample_noise(20_000, generator=seeded(3)))
    assert (drawn.mean(0) - 0.98 * made.memory.mean(0)).abs().max() < 0.05
    assert (drawn.std(0) - 1).abs().max() < 0.05


def test_a_value_is_read_back():
    made, noise = module(), torch.randn(3, 6, generator=seeded(1))
    wanted = torch.tensor([[0.5, -1.0]]).expand(3, 2)
    values = made.concepts(noise, mask([0, 1, 0]).expand(3, 3), {"b": wanted})
    torch.testing.assert_close(values[:, 1], wanted)


def test_changes_are_undone():
    made = module()
    with torch.no_grad():
        made.edits.last.mul_(0.1)
    before, rows = 0.5 * torch.randn(5, 6, generator=seeded(4)), mask([1, 0, 1]).expand(5, 3)
    torch.testing.assert_close(made.unchanged(made.changed(before, rows), rows), before, atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("times", [-2.0, -0.9, 10.0])
def test_steep_and_turning_changes_are_undone(times):
    """Such as interventions that spread a concept out, or mirror it; of each row its own."""
    made = module()
    with torch.no_grad():
        made.edits.last.mul_(0.1)
        made.edits.linear.copy_(times * torch.eye(6) + 0.1 * made.edits.linear)
    before = 0.3 * torch.randn(6, 6, generator=seeded(4))
    rows = mask([1, 0, 0], [0, 1, 0], [0, 0, 1]).repeat(2, 1)
    torch.testing.assert_close(made.unchanged(made.changed(before, rows), rows), before, atol=2e-2, rtol=2e-2)
    assert torch.equal(made.unchanged(before, torch.zeros(6, 3, dtype=torch.bool)), before)


def test_changes_are_undone_as_well_in_half_precision():
    made, rows = module(), mask([1, 0, 1]).expand(5, 3)
    coordinates = made.changed(0.5 * torch.randn(5, 6, generator=seeded(4)), rows).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = made.unchanged(coordinates, rows)
    torch.testing.assert_close(found, made.unchanged(coordinates.float(), rows))


def test_what_is_lost_comes_back_as_in_an_observational_image():
    made = module()
    with torch.no_grad():
        made.edits.last.zero_()
        made.edits.linear[0] = -torch.eye(6)  # all images become one
    rows = mask([1, 0, 0]).expand(4, 3)
    found = made.unchanged(made.changed(torch.randn(4, 6, generator=seeded(4)), rows), rows)
    assert (torch.cdist(found, made.memory).min(1).values < 1e-2).all()


def test_nothing_goes_far_beyond_what_was_seen():
    made = module()
    made.range.fill_(2.0)
    found = made.changed(torch.randn(50, 6, generator=seeded(5)).clamp(-2, 2), mask([3, 3, 3]).expand(50, 3))
    assert found.abs().max() == 2
    beyond = 5 * torch.randn(50, 6, generator=seeded(6))  # an image of its own kind stays what it is
    assert torch.equal(made.changed(beyond, torch.zeros(50, 3)), beyond)


def test_a_large_latent_has_fewer_coordinates():
    widths = auto_widths((4, 64, 64), 3, "edits")
    config = ContextModuleConfig(
        concepts=CONCEPTS, latent_shape=(4, 64, 64), num_features=4, form="edits", latent_noise=True, **widths
    )
    assert config.noise_size == 256
    made = EditModule(config)
    assert made(made.sample_noise(2, generator=seeded(0)), mask([1, 0, 0]).expand(2, 3)).shape == (2, 4, 64, 64)


def test_ancestors():
    assert ancestors_of([("a", "b"), ("b", "c")], CONCEPTS) == {
        "a": frozenset(),
        "b": frozenset({"a"}),
        "c": frozenset({"a", "b"}),
    }


def test_refuses():
    made = module()
    with pytest.raises(ShapeError, match=r"noise must have shape \(batch, 6\), got \(2, 5\)"):
        made(torch.zeros(2, 5), torch.zeros(2, 3, dtype=torch.bool))
    with pytest.raises(ShapeError, match=r"mask .* must be torch.bool of shape \(2, 3\)"):
        made(torch.zeros(2, 6), torch.zeros(2, 2, dtype=torch.bool))
    with pytest.raises(ConceptError, match=r"'b' must be in \[-2, 3\].* got 3.5"):
        made(torch.zeros(1, 6), mask([0, 3.5, 0]))
    with pytest.raises(ValueError, match="form='edits' needs concepts, free_blocks and an inversion_width"):
        ContextModuleConfig(concepts=CONCEPTS, latent_shape=(6,), num_features=4, form="edits")
