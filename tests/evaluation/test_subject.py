"""What is scored by its methods, whatever its class."""

import pytest
import torch

from context_module import wrap_decoder
from context_module.contexts import Concepts
from context_module.data import ArrayContextDataset, ContextData
from context_module.errors import ConceptError, DataError
from context_module.evaluation import BaseSubject, ModuleSubject, Subject, evaluate, render_report, subject_of
from context_module.metrics import Figure, WholeMetric, mean_estimate, register_metric
from context_module.nn import CausalGraph


class Noise(Subject):
    """Noise in every context, with all that metrics ask for."""

    concepts = Concepts(["a", "b"])
    image_shape = (1, 2, 2)

    def sample(self, n, context, generator):
        return torch.rand(n, 1, 2, 2, generator=generator)

    def nats(self, images, mask, generator):
        return mask.sum(1).float()

    def graph(self, seed):
        return CausalGraph(("a", "b"), torch.tensor([[0.0, 1.0], [0.0, 0.0]]))


def noise_data(n=40):
    images = torch.randint(0, 256, (3 * n, 1, 2, 2), dtype=torch.uint8)
    part = ArrayContextDataset(images, torch.arange(3).repeat_interleave(n), ("obs", "a", "b"), ("a", "b"))
    return ContextData(part, test=part)


def test_what_a_subject_can_do_is_measured_and_nothing_else():
    found = evaluate(Noise(), noise_data(), samples=20, metrics=["reconstruction", "graph"], progress=False)
    bits = found.whole["reconstruction"]["bits_per_pixel"]
    assert bits.value == pytest.approx(2 / 3 / 4 / 0.6931471805599453)  # one nat in two of three contexts, four pixels
    assert found.whole["graph"].graph.edges() == (("b", "a"),)
    with pytest.raises(DataError, match="counterfactual cannot be measured: Noise has no method 'counterfactuals'"):
        evaluate(Noise(), noise_data(), samples=20, metrics=["counterfactual"], progress=False)


def test_a_baseline_of_its_own_is_the_column_beside_it():
    class Dark(Noise):
        def baseline(self, n, generator):
            return torch.rand(n, 1, 2, 2, generator=generator) / 100

    scores = evaluate(Dark(), noise_data(), samples=20, metrics=["mmd"], progress=False).summary["concept"]["mmd"]
    assert scores["base"].value > scores["model"].value + 0.1


def test_a_subject_without_concepts_answers_once_for_all_contexts():
    class Asked(Noise):
        concepts = None
        asked = 0

        def sample(self, n, context, generator):
            self.asked += n
            return super().sample(n, context, generator)

    subject = Asked()
    found = evaluate(subject, noise_data(), samples=20, metrics=["mmd"], progress=False)
    assert subject.asked == 20
    assert all(context.scores["mmd"]["model"] == context.scores["mmd"]["base"] for context in found.contexts.values())


def test_concepts_of_another_subject_are_refused():
    class Other(Noise):
        concepts = Concepts(["a", "c"])

    with pytest.raises(ConceptError, match="the model has the concepts a, c, the data a, b"):
        evaluate(Other(), noise_data(), samples=20, progress=False)


def test_what_becomes_a_subject(make_base):
    model = wrap_decoder(make_base("lightweight"), ["a", "b"], noise_width=2, concept_width=2)
    assert isinstance(subject_of(model), ModuleSubject)
    assert isinstance(subject_of(model.base), BaseSubject)
    assert isinstance(subject_of(make_base("lightweight")), BaseSubject)
    subject = Noise()
    assert subject_of(subject) is subject
    with pytest.raises(TypeError, match=r"of type dict.*subclass context_module.metrics.Subject"):
        subject_of({})


def test_a_pooled_module_knows_no_interventions(make_base):
    model = wrap_decoder(make_base("lightweight"), ["a", "b"], noise_width=2, concept_width=2).eval()
    told, pooled = ModuleSubject(model), ModuleSubject(model, pooled=True)
    assert told.unable("graph") is told.unable("counterfactuals") is None
    assert pooled.unable("graph") == pooled.unable("counterfactuals") == "the model knows no interventions"
    x = torch.rand(3, *model.base.image_shape)
    mask = torch.ones(3, 2, dtype=torch.bool)
    found = pooled.nats(x, mask, torch.Generator().manual_seed(0))
    assert torch.equal(found, told.nats(x, ~mask, torch.Generator().manual_seed(0)))
    assert not torch.equal(found, told.nats(x, mask, torch.Generator().manual_seed(0)))


def test_a_metric_of_a_whole_system_from_elsewhere_has_a_section_of_the_report():
    figure = Figure("Speed", "higher", "Images per second.")
    register_metric(
        WholeMetric(name="speed", figure=figure, score=lambda case: {"per_second": mean_estimate(torch.ones(20))})
    )
    found = evaluate(Noise(), noise_data(), samples=20, metrics=["speed"], progress=False)
    assert found.to_dict()["speed"]["per_second"]["value"] == 1
    html = render_report("x", found)
    assert 'href="#speed"' in html
    assert "per second" in html
