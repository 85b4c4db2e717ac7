"""recipes/train_classifier.py as a user runs it."""

import json

import pytest
import torch

QUICK = ["--max_train_steps", "4", "--train_batch_size", "20", "--samples_per_context", "60", "--val_fraction", "0.1"]
DATA = ["--data_options", "corruption=0.5", "background_correlation=0.8"]


@pytest.mark.parametrize("also", [[], ["pendulum", "length"]], ids=["erm", "multilabel"])
def test_a_classifier_from_few_labels_and_under_a_shift(also, here, check, tmp_path, monkeypatch, load_recipe):
    argv = [*QUICK, *DATA, "--images", "30", "--output_dir", "out", *(["--also", *also] if also else [])]
    out = check.succeeded(here("train_classifier.py", *argv))
    assert "after 4 steps on 30 images" in out
    found = json.loads((tmp_path / "out" / "accuracy.json").read_text())
    assert set(found) == {"accuracy", "average", "worst_group"}
    assert found["worst_group"]["value"] <= found["average"]["value"]
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["classifier"], config["also"]) == ("corrupted", also)
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_it_starts_from_a_pretrained_network(here, check, tmp_path):
    """Whose head is of another number of labels."""
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(0)
    sizes = {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1], "layer_type": "basic"}
    ResNetForImageClassification(ResNetConfig(**sizes, num_labels=5)).save_pretrained(tmp_path / "resnet")
    argv = [*QUICK, *DATA, "--target", "background", "--output_dir", "out"]
    out = check.succeeded(here("train_classifier.py", *argv, "--pretrained", "resnet"))
    assert "on 54 images" in out
    assert set(json.loads((tmp_path / "out" / "accuracy.json").read_text())) == {"accuracy"}  # no shift is known of it
    message = check.failed(here("train_classifier.py", *argv, "--overwrite", "--pretrained", "nowhere"))
    assert "nowhere is no image classifier of transformers that can be read" in message


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--images", "5"], "images must be at least 20, got 5"),
        (["--images", "55"], "there are 54 observational images, fewer than the 55 of --images"),
        (
            ["--target", "smile"],
            "the data has no labels of 'smile'; it has those of pendulum, light, length, position, ",
        ),
        (["--data", "quad"], "the data does not say what is to be predicted: give --target, the name of a factor"),
        (["--network", "conv3"], "the conv3 networks take images of 1x28x28, got 3x64x64"),
        ([*DATA, "--early_stopping_patience", "2"], "early_stopping_patience must be 0"),
    ],
)
def test_errors(argv, message, here, check):
    assert message in check.failed(here("train_classifier.py", "--output_dir", "out", *QUICK, *argv))


def test_it_learns_what_it_is_to_tell():
    """Bright images from dark ones, with half of the labels missing."""
    from context_module.baselines import Classifier, ClassifierSettings

    torch.manual_seed(0)
    x = torch.cat([torch.rand(20, 1, 28, 28) * 0.4, 0.6 + torch.rand(20, 1, 28, 28) * 0.4])
    labels = torch.stack([torch.arange(40) // 20, torch.arange(40) % 7], dim=1).float()
    labels[::2, 1] = torch.nan
    model = Classifier(ClassifierSettings(network="conv3", also=["number"]), (1, 28, 28), "bright")
    model.scale.fit(labels)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(20):
        optimizer.zero_grad()
        model({"x": x, "factors": labels})["loss"].mean().backward()
        optimizer.step()
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert torch.equal(model.eval().predict(x), labels[:, 0] > 0.5)
