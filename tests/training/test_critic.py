"""The critic of embeddings: who learns from which loss, and what it finds."""

import torch

from context_module.training.objectives.critic import Critic

MASK = torch.tensor([[False], [True]]).repeat(128, 1)


def gradients(loss, parameters):
    found = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
    return [gradient is not None and bool(gradient.abs().sum() > 0) for gradient in found]


def test_each_player_has_gradients_of_its_own_loss_alone():
    torch.manual_seed(0)
    critic, generated = Critic(3, 1), torch.randn(256, 3, requires_grad=True)
    losses = critic.losses(torch.randn(256, 3), generated, MASK)
    weights = list(critic.parameters())
    assert [loss.shape for loss in losses] == [(256,), (256,)]
    assert all(gradients(losses.critic.mean(), weights))
    assert gradients(losses.critic.mean(), [generated]) == [False]
    assert not any(gradients(losses.adversarial.mean(), weights))
    assert gradients(losses.adversarial.mean(), [generated]) == [True]


def test_losses_are_those_of_the_literature(monkeypatch):
    """Of a linear critic, whose slope is known."""
    critic, real, generated = Critic(2, 1), torch.randn(256, 2), torch.randn(256, 2)
    slope = torch.tensor([3.0, -2.0])
    monkeypatch.setattr(critic, "forward", lambda embedding, mask: embedding @ slope)
    losses = critic.losses(real, generated, MASK)
    judged = torch.sigmoid(real @ slope), torch.sigmoid(generated @ slope)
    expected = -judged[0].log() - (1 - judged[1]).log() + 0.1 * slope.square().sum(), -judged[1].log()
    torch.testing.assert_close(tuple(losses), expected, atol=1e-4, rtol=1e-4)


def test_it_tells_contexts_apart():
    """Samples that are real in one context and not in the other: only the mask says which."""
    torch.manual_seed(0)
    critic = Critic(1, 1)
    optimizer = torch.optim.Adam(critic.parameters(), 3e-3)
    side = MASK.float() * 2 - 1
    for _ in range(200):
        noise = 0.1 * torch.randn(2, 256, 1)
        loss = critic.losses(side + noise[0], noise[1] - side, MASK).critic.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (critic(side, MASK) > 0).all()
    assert (critic(-side, MASK) < 0).all()


def test_generated_samples_leave_the_gap_between_two_modes():
    """What sliced distances hardly see: few samples in between, which the critic moves to a mode."""
    torch.manual_seed(0)
    critic = Critic(2, 1)
    generated = (0.3 * torch.randn(256, 2)).requires_grad_()
    optimizer = torch.optim.Adam([*critic.parameters(), generated], 1e-2)
    for _ in range(300):
        modes = torch.randint(2, (256, 1)) * 2.0 - 1
        losses = critic.losses(modes + 0.05 * torch.randn(256, 2), generated, MASK)
        optimizer.zero_grad()
        sum(losses).sum().backward()
        optimizer.step()
    nearest = torch.minimum((generated - 1).norm(dim=1), (generated + 1).norm(dim=1))
    assert nearest.median() < 0.3
    assert {round(value) for value in generated.detach().mean(1).tolist()} >= {-1, 1}


def test_losses_keep_their_precision_under_autocast():
    torch.manual_seed(0)
    critic, real, generated = Critic(3, 1), torch.randn(256, 3), torch.randn(256, 3)
    expected = critic.losses(real, generated, MASK)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(critic.losses(real, generated, MASK), expected)
