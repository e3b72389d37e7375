"""Soft actor-critic (Haarnoja et al., 2018): the networks and one update, without any I/O.

Twin critics, target critics, a tanh-squashed Gaussian policy, an automatically tuned temperature.
Where batches come from and where the policy goes is the learner's business. Actions always lie in
[-1, 1] here; the environment rescales them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Policy", "SoftActorCritic", "Temperature", "TwinCritic", "UpdateLosses"]

LOG_STD_RANGE = (-5.0, 2.0)


class Policy(nn.Module):
    """A Gaussian over actions, squashed into (-1, 1) by tanh.

    Untrained, its standard deviation is about one, so it already explores the whole action range:
    no separate phase of random actions is needed.
    """

    def __init__(self, observation_size: int, action_size: int, hidden_size: int = 128) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Linear(observation_size, hidden_size),
            nn.ReLU(),
            nn.Linear(hidden_size, hidden_size),
            nn.ReLU(),
            nn.Linear(hidden_size, 2 * action_size),
        )

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """The Gaussian's mean and the logarithm of its standard deviation, before squashing."""
        mean, log_std = self.network(observation).chunk(2, dim=-1)
        return mean, log_std.clamp(*LOG_STD_RANGE)

    def sample(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Draw actions that gradients can flow through, and their log-probabilities."""
        mean, log_std = self(observation)
        noise = torch.randn_like(mean)
        unsquashed = mean + log_std.exp() * noise
        gaussian = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
        # log(1 - tanh(u)^2) written so that it does not underflow for large |u|
        squash = 2 * (math.log(2) - unsquashed - functional.softplus(-2 * unsquashed))
        return unsquashed.tanh(), (gaussian - squash).sum(dim=-1)

    @torch.no_grad()
    def act(self, observation: np.ndarray, *, explore: bool) -> np.ndarray:
        """An action for one observation: drawn when exploring, else the most likely one."""
        features = torch.from_numpy(observation).to(next(self.parameters()).device)
        action = self.sample(features)[0] if explore else self(features)[0].tanh()
        return action.cpu().numpy()

    def load_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        """Take over parameters that another process published."""
        self.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})


class TwinCritic(nn.Module):
    """Two independent action-value networks, evaluated together.

    Each layer is one batched matrix product over (critic, batch, unit): networks this small cost
    mostly call overhead, and this halves it.
    """

    def __init__(self, observation_size: int, action_size: int, hidden_size: int = 128) -> None:
        super().__init__()
        sizes = [observation_size + action_size, hidden_size, hidden_size, 1]
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for fan_in, fan_out in pairwise(sizes):
            bound = 1 / math.sqrt(fan_in)  # nn.Linear's own initialisation
            self.weights.append(
                nn.Parameter(torch.empty(2, fan_in, fan_out).uniform_(-bound, bound))
            )
            self.biases.append(nn.Parameter(torch.empty(2, 1, fan_out).uniform_(-bound, bound)))

    def forward(self, observation: Tensor, action: Tensor) -> Tensor:
        """Both critics' values, with shape (2, batch)."""
        hidden = torch.cat([observation, action], dim=-1).expand(2, -1, -1)
        last = len(self.weights) - 1
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            hidden = torch.baddbmm(bias, hidden, weight)
            if layer < last:
                hidden = functional.relu(hidden)
        return hidden.squeeze(-1)


class Temperature(nn.Module):
    """The weight of entropy against reward, kept positive by storing its logarithm."""

    def __init__(self, initial: float = 1.0) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.tensor(math.log(initial)))

    def forward(self) -> Tensor:
        """The temperature itself."""
        return self.log.exp()


@dataclass(frozen=True)
class UpdateLosses:
    """What one update measured, for logs and tests."""

    critic: float
    policy: float
    temperature: float


class SoftActorCritic:
    """A policy and everything needed to improve it from batches of transitions.

    Not thread-safe; one learner owns it.
    """

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        *,
        hidden_size: int = 128,
        learning_rate: float = 1e-3,
        discount: float = 0.99,
        target_rate: float = 0.005,
        device: str | torch.device = "cpu",
    ) -> None:
        """Build fresh networks.

        Args:
            observation_size: Length of an observation vector.
            action_size: Length of an action vector; minus this is also the entropy aimed at.
            hidden_size: Units in each of the two hidden layers.
            learning_rate: Adam's step size, for all three optimisers.
            discount: How much a reward one step later is worth.
            target_rate: Share of the critics blended into their targets at each update.
            device: Where the networks are, and batches have to be.
        """
        self.discount = discount
        self.target_rate = target_rate
        self.target_entropy = -float(action_size)
        # Made on the CPU, so that a seed gives the same networks wherever they go from there.
        self.policy = Policy(observation_size, action_size, hidden_size).to(device)
        self.critic = TwinCritic(observation_size, action_size, hidden_size).to(device)
        self.target_critic = TwinCritic(observation_size, action_size, hidden_size).to(device)
        self.target_critic.load_state_dict(self.critic.state_dict())
        self.target_critic.requires_grad_(False)
        self.temperature = Temperature().to(device)
        self._policy_optimizer = _adam(self.policy, learning_rate)
        self._critic_optimizer = _adam(self.critic, learning_rate)
        self._temperature_optimizer = _adam(self.temperature, learning_rate)

    def update(self, batch: Mapping[str, Tensor]) -> UpdateLosses:
        """Improve critics, policy and temperature once.

        Args:
            batch: `observation` holds (now, next) pairs with shape (batch, 2, size); `action`,
                `reward` and `terminated` belong to the step between the two.
        """
        observation, next_observation = batch["observation"].unbind(dim=1)
        action, reward = batch["action"], batch["reward"]

        target = self._critic_target(reward, batch["terminated"], next_observation)
        critic_loss = (self.critic(observation, action) - target).square().mean(dim=1).sum()
        _step(self._critic_optimizer, critic_loss)

        temperature = self.temperature().detach()
        new_action, log_probability = self.policy.sample(observation)
        self.critic.requires_grad_(False)  # the policy's gradient passes through the critics only
        value = self.critic(observation, new_action).amin(dim=0)
        policy_loss = (temperature * log_probability - value).mean()
        _step(self._policy_optimizer, policy_loss)
        self.critic.requires_grad_(True)

        excess_entropy = -log_probability.detach().mean() - self.target_entropy
        _step(self._temperature_optimizer, self.temperature() * excess_entropy)

        self._blend_targets()
        return UpdateLosses(critic_loss.item(), policy_loss.item(), temperature.item())

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that `update` changes, as tensors by name: networks and optimisers."""
        state = {
            f"{part}.{name}": tensor
            for part, module in self._modules.items()
            for name, tensor in module.state_dict().items()
        }
        for part, optimizer in self._optimizers.items():
            for number, moments in optimizer.state_dict()["state"].items():
                state |= {f"{part}.{number}.{name}": value for name, value in moments.items()}
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on where another agent of these sizes was when `state_dict` was called on it."""
        for part, module in self._modules.items():
            module.load_state_dict(_below(part, state))
        for part, optimizer in self._optimizers.items():
            moments: dict[int, dict[str, Tensor]] = {}
            for name, value in _below(part, state).items():
                number, _, moment = name.partition(".")
                moments.setdefault(int(number), {})[moment] = value
            optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})

    @property
    def _modules(self) -> dict[str, nn.Module]:
        return {
            "policy": self.policy,
            "critic": self.critic,
            "target_critic": self.target_critic,
            "temperature": self.temperature,
        }

    @property
    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {
            "policy_optimizer": self._policy_optimizer,
            "critic_optimizer": self._critic_optimizer,
            "temperature_optimizer": self._temperature_optimizer,
        }

    @torch.no_grad()
    def _critic_target(
        self, reward: Tensor, terminated: Tensor, next_observation: Tensor
    ) -> Tensor:
        """Reward plus the discounted soft value of what follows, which is nothing after the end.

        Only `terminated` ends an episode's value. One that was truncated by a time limit would
        have gone on, so its last step looks ahead like any other.
        """
        next_action, log_probability = self.policy.sample(next_observation)
        value = self.target_critic(next_observation, next_action).amin(dim=0)
        soft_value = value - self.temperature() * log_probability
        return reward + self.discount * torch.where(terminated, 0.0, soft_value)

    @torch.no_grad()
    def _blend_targets(self) -> None:
        pairs = zip(self.target_critic.parameters(), self.critic.parameters(), strict=True)
        for target, source in pairs:
            target.lerp_(source, self.target_rate)


def _below(part: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    prefix = f"{part}."
    return {k.removeprefix(prefix): value for k, value in state.items() if k.startswith(prefix)}


def _adam(module: nn.Module, learning_rate: float) -> torch.optim.Optimizer:
    # fused: one kernel for all parameters, which is most of the cost for networks this small
    return torch.optim.Adam(module.parameters(), lr=learning_rate, fused=True)


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    optimizer.step()
