"""The contract of what trains: parameter groups, hooks, and other systems' objectives on the same loop."""

import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from context_module.data import ArrayContextDataset
from context_module.normal import standard_normal_kl
from context_module.objective import Objective, ParameterGroup
from context_module.training import RunDirectory, Trainer, TrainingSettings, make_accelerator
from helpers.loop import a_process_of_its_own, forget_accelerate

LATENTS = 4


@pytest.fixture(autouse=True)
def one_thread_and_fresh_accelerate():
    with a_process_of_its_own():
        yield


# --- two systems that others wrote about, as somebody would write them here


class BetaVAE(Objective):
    """Higgins et al. 2017, "beta-VAE: Learning Basic Visual Concepts with a Constrained Variational Framework"."""

    def __init__(self, pixels=64, beta=4.0):
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(pixels, 32), nn.ReLU(), nn.Linear(32, 2 * LATENTS))
        self.decoder = nn.Sequential(nn.Linear(LATENTS, 32), nn.ReLU(), nn.Linear(32, pixels))
        self.beta = beta

    def forward(self, batch, progress=1.0):
        x = batch["x"]
        mean, log_var = self.encoder(x).chunk(2, dim=1)
        self.z = mean + (0.5 * log_var).exp() * torch.randn_like(mean)
        error = F.binary_cross_entropy_with_logits(self.decoder(self.z), x.flatten(1), reduction="none").sum(1)
        kl = standard_normal_kl(mean, log_var.exp(), log_var)
        return {"loss": error + self.beta * kl, "error": error, "kl": kl}


class FactorVAE(BetaVAE):
    """Kim and Mnih 2018, "Disentangling by Factorising": a discriminator tells codes from permuted ones."""

    def __init__(self, gamma=6.4):
        super().__init__(beta=1.0)
        self.discriminator = nn.Sequential(nn.Linear(LATENTS, 32), nn.LeakyReLU(0.2), nn.Linear(32, 2))
        self.gamma, self.steps = gamma, 0

    def forward(self, batch, progress=1.0):
        losses = super().forward(batch, progress)
        frozen = {name: parameter.detach() for name, parameter in self.discriminator.named_parameters()}
        logits = torch.func.functional_call(self.discriminator, frozen, (self.z,))
        correlation = logits[:, 0] - logits[:, 1]
        joint = self.z.detach()
        shuffled = torch.stack([column[torch.randperm(len(column))] for column in joint.unbind(1)], dim=1)
        told = torch.cat([self.discriminator(joint), self.discriminator(shuffled)])
        target = torch.arange(2).repeat_interleave(len(joint))
        guess = F.cross_entropy(told, target, reduction="none").view(2, -1).mean(0)
        losses["loss"] = losses["loss"] + self.gamma * correlation + guess
        return {**losses, "correlation": correlation, "discriminator": guess}

    def parameter_groups(self):
        own = set(self.discriminator.parameters())
        others = [parameter for parameter in self.parameters() if parameter not in own]
        return [ParameterGroup(others), ParameterGroup(own, lr_scale=0.1, betas=(0.5, 0.9), max_norm=1.0)]

    def after_step(self):
        self.steps += 1

    def monitor(self, val_data):
        return {"seen": float(len(val_data))}


def make_trainer(directory, objective, **settings):
    images = torch.rand(60, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(3).repeat_interleave(20)
    images = images * torch.tensor([0.1, 0.5, 1.0])[labels].view(-1, 1, 1, 1)
    data = ArrayContextDataset((images * 255).to(torch.uint8), labels, ("obs", "a", "b"), ("a", "b"))
    defaults = {"max_train_steps": 8, "train_batch_size": 12, "logging_steps": 1, "lr_warmup_steps": 1}
    args = TrainingSettings(output_dir=str(directory), **{**defaults, **settings})
    return Trainer(make_accelerator(args), args, RunDirectory(directory), objective, *data.split(0.2))


def lines(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def test_a_beta_vae_learns(tmp_path):
    settings = {"max_train_steps": 150, "learning_rate": 1e-2, "logging_steps": 150, "validation_steps": 150}
    objective = BetaVAE(beta=0.1)
    with torch.no_grad():
        before = objective.eval()({"x": torch.full((1, 1, 8, 8), 0.05)})["error"]
    make_trainer(tmp_path, objective, **settings).train()
    with torch.no_grad():
        after = objective.eval()({"x": torch.full((1, 1, 8, 8), 0.05)})["error"]
    assert after < 0.7 * before


def test_a_factor_vae_trains_both_its_players(tmp_path):
    torch.manual_seed(0)
    objective = FactorVAE()
    before = {name: tensor.clone() for name, tensor in objective.state_dict().items()}
    trainer = make_trainer(tmp_path, objective, validation_steps=4)
    trainer.train()
    assert objective.steps == 8
    assert all(not torch.equal(before[name], tensor) for name, tensor in objective.state_dict().items())
    logged = lines(tmp_path)
    assert {"correlation", "discriminator", "kl"} <= set(logged[0])
    assert [line["seen"] for line in logged if "val_loss" in line] == [12.0, 12.0]


def test_each_players_gradient_is_its_own():
    """The critic's loss does not move the codes, nor theirs the critic: one backward pass serves both."""
    objective = FactorVAE(gamma=0.0)
    out = objective({"x": torch.rand(12, 1, 8, 8)})
    out["discriminator"].mean().backward(retain_graph=True)
    assert all(parameter.grad is None for parameter in objective.encoder.parameters())
    objective.zero_grad()
    out["correlation"].mean().backward()
    assert all(parameter.grad is None for parameter in objective.discriminator.parameters())


# --- groups


class Two(Objective):
    """Two weights, each with a gradient of a given size."""

    optimizer = torch.optim.SGD

    def __init__(self, groups, gradients=(1.0, 1.0)):
        super().__init__()
        self.one, self.two = (nn.Parameter(torch.zeros(1)) for _ in range(2))
        self.groups, self.gradients = groups, gradients

    def forward(self, batch, progress=1.0):
        value = self.gradients[0] * self.one + self.gradients[1] * self.two
        return {"loss": value.expand(len(batch["x"]))}

    def parameter_groups(self):
        return self.groups(self)


def one_step(tmp_path, objective, **settings):
    settings = {"max_train_steps": 1, "learning_rate": 0.01, "max_grad_norm": 1e9, **settings}
    trainer = make_trainer(tmp_path, objective, **settings)
    trainer.train()
    return objective.one.item(), objective.two.item()


def test_groups_have_rates_of_their_own(tmp_path):
    groups = lambda o: [ParameterGroup([o.one]), ParameterGroup([o.two], lr_scale=0.1)]  # noqa: E731
    one, two = one_step(tmp_path, Two(groups))
    assert one == pytest.approx(10 * two, rel=1e-5)
    assert one == pytest.approx(-0.01, rel=1e-5)


def test_groups_are_clipped_each_to_its_norm(tmp_path):
    groups = lambda o: [ParameterGroup([o.one]), ParameterGroup([o.two], max_norm=0.5)]  # noqa: E731
    one, two = one_step(tmp_path, Two(groups, gradients=(3.0, 3.0)), max_grad_norm=2.0)
    assert one == pytest.approx(-0.01 * 2.0, rel=1e-3)
    assert two == pytest.approx(-0.01 * 0.5, rel=1e-3)


def test_groups_have_betas_of_their_own(tmp_path):
    trainer = make_trainer(tmp_path, FactorVAE())
    assert [group["betas"] for group in trainer.optimizer.param_groups] == [(0.9, 0.999), (0.5, 0.9)]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (lambda o: [ParameterGroup([o.one])], "Two.parameter_groups leaves out two"),
        (lambda o: [ParameterGroup([o.one, o.two]), ParameterGroup([o.two])], "holds more than once two"),
        (lambda o: [ParameterGroup([o.one, o.two]), ParameterGroup([])], "a group of which no parameter asks"),
    ],
)
def test_every_parameter_belongs_to_one_group(groups, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path, Two(groups))


def test_an_objective_without_a_loss(tmp_path):
    with pytest.raises(NotImplementedError, match=r"Objective has no forward\(batch, progress\)"):
        Objective()({}, 1.0)


def test_groups_go_on_after_a_resume(tmp_path):
    """Rates, clips and both players' optimiser states."""
    torch.manual_seed(0)
    whole = FactorVAE()
    start = {name: tensor.clone() for name, tensor in whole.state_dict().items()}
    make_trainer(tmp_path / "whole", whole, checkpointing_steps=4, validation_steps=100).train()
    part = FactorVAE()
    part.load_state_dict(start)
    settings = {"checkpointing_steps": 4, "validation_steps": 100}
    trainer = make_trainer(tmp_path / "part", part, **settings)
    own = part.after_step

    def power_cut():
        own()
        if part.steps == 5:
            raise RuntimeError("power cut")

    part.after_step = power_cut
    with pytest.raises(RuntimeError, match="power cut"):
        trainer.train()
    again = FactorVAE()
    forget_accelerate()
    args = trainer.args
    run = RunDirectory(tmp_path / "part", resume="latest")
    Trainer(make_accelerator(args), args, run, again, trainer.train_data, trainer.val_data).train()
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
