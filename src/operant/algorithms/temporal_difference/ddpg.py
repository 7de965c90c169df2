"""Deep deterministic policy gradient (Lillicrap et al. 2016, "Continuous control with deep reinforcement learning").

    repeat
        act        a = μ(s) + noise; keep (s, a, r, γ, s') in the replay buffer
        evaluate   targets r + γ Q'(s', μ'(s')) of transitions drawn from it
        optimise   (Q(s, a) - target)² by the critic's weights, -Q(s, μ(s)) by the actor's
                   μ', Q' a little towards μ, Q

Q-learning where no maximum over actions can be computed: an actor is trained to find it.
"""

import copy
import dataclasses
import math
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from operant.core.action_values import ornstein_uhlenbeck, td_target
from operant.core.adam import adam
from operant.core.errors import InputError
from operant.core.flat import Flat, flatten, move_towards
from operant.core.losses import value_loss
from operant.core.optimise import descend
from operant.core.record import Transition
from operant.core.settings import OffPolicy, require_off_policy, require_within
from operant.envs.replay import Replay
from operant.envs.runner import Choose, Runner
from operant.networks.continuous import DeterministicActorCritic

Metrics = dict[str, float]
SHOWN = ("loss/value", "loss/policy", "value/action_value")


@dataclasses.dataclass(frozen=True)
class Config(OffPolicy):
    noise: float = 0.1
    """Size σ of the noise on actions; 1 = half the width of the box."""
    noise_kind: Literal["gaussian", "ornstein_uhlenbeck"] = "gaussian"
    """New noise for every step, or noise that stays on one side for a while, as in the paper (σ 0.2)."""
    noise_theta: float = 0.15
    """Share by which Ornstein-Uhlenbeck noise goes back to 0 at every step."""


@dataclasses.dataclass
class State:
    policy: DeterministicActorCritic
    target: DeterministicActorCritic
    actor_optimizer: torch.optim.Optimizer
    critic_optimizer: torch.optim.Optimizer
    world: Runner
    replay: Replay
    parameters: tuple[Flat, Flat] = dataclasses.field(metadata={"saved": False})
    target_parameters: tuple[Flat, Flat] = dataclasses.field(metadata={"saved": False})
    noise: Float[Tensor, "B A"]
    """Ornstein-Uhlenbeck noise of each environment; it goes on over the ends of episodes, which it soon forgets."""
    step: int = 0


def init(policy: DeterministicActorCritic, world: Runner, config: Config) -> State:
    require_off_policy(config, world.env.num_envs)
    require_within(config, 0, math.inf, "noise")
    require_within(config, 0, 2, "noise_theta")  # beyond 2 it grows and grows
    if config.noise_kind not in ("gaussian", "ornstein_uhlenbeck"):
        raise InputError(f'noise_kind is "gaussian" or "ornstein_uhlenbeck", not {config.noise_kind!r}')
    if config.noise_kind == "gaussian" and config.noise_theta != Config.noise_theta:
        raise InputError(f"noise_theta {config.noise_theta} is one of Ornstein-Uhlenbeck noise: set noise_kind to it")
    if len(policy.critics.networks) != 1:
        raise InputError(
            f"DDPG has one critic, and this network {len(policy.critics.networks)}: make it with critics=1"
        )
    target = copy.deepcopy(policy)
    actor, critics = flatten(policy.actor), flatten(policy.critics)
    return State(
        policy,
        target,
        adam([actor], config.actor_learning_rate),
        adam([critics], config.critic_learning_rate),
        world,
        world.replay(config.capacity, config.gamma),
        (actor, critics),
        (flatten(target.actor), flatten(target.critics)),
        torch.zeros(world.env.num_envs, len(policy.actor.bounds.center)),
    )


def explore(state: State, config: Config, size: int) -> Choose:
    """Actions of `size` steps to come: random ones at first, then μ(s) + noise, clipped to the box."""
    space, envs = state.world.actions, state.world.env.num_envs
    if state.step < config.learning_starts:
        return state.world.at_random(size)
    bounds, actor = state.policy.actor.bounds, state.policy.actor.reflex(size, envs, greedy=True)
    if config.noise_kind == "gaussian":
        noise = config.noise * torch.randn(size, envs, *space.shape)
    else:
        noise = torch.empty(size, envs, *space.shape)
        for t in range(size):
            state.noise = noise[t] = ornstein_uhlenbeck(state.noise, config.noise_theta, config.noise)
    noise = (bounds.scale * noise).numpy()

    def choose(observation: NDArray[Any], t: int) -> NDArray[Any]:
        return np.clip(actor(observation, t) + noise[t], space.low, space.high)

    return choose


@torch.no_grad()
def targets(state: State, batch: Transition) -> Float[Tensor, " B"]:
    """r + γ Q'(s', μ'(s')) (Lillicrap et al. 2016, eq. 5 and algorithm 1)."""
    (next_value,) = state.target.critics(batch.next_observation, state.target.actor(batch.next_observation))
    return td_target(batch.reward, batch.discount, next_value)


def critic_loss(state: State, batch: Transition) -> tuple[Tensor, Tensor]:
    """(mean ½ (Q(s, a) - target)², mean Q)."""
    (value,) = state.policy.critics(batch.observation, batch.action)
    return value_loss(value, targets(state, batch)).mean(), value.detach().mean()


def actor_loss(state: State, batch: Transition) -> Tensor:
    """-mean Q(s, μ(s)): its gradient is the deterministic policy gradient (Silver et al. 2014, eq. 9)."""
    (value,) = state.policy.critics(batch.observation, state.policy.actor(batch.observation))
    return -value.mean()


def update(state: State, config: Config) -> list[Tensor]:
    """`gradient_steps` steps of critic and actor; what is `SHOWN` of each."""
    drawn, shown = state.replay.sample(config.gradient_steps * config.batch), []
    for i in range(0, len(drawn), config.batch):
        batch = drawn[i : i + config.batch] if config.gradient_steps > 1 else drawn
        critic, value = critic_loss(state, batch)
        descend(state.critic_optimizer, [critic], config.critic_learning_rate, math.inf, state.step, batch)
        state.policy.critics.requires_grad_(False)  # the actor's gradient goes through them and not to them
        actor = actor_loss(state, batch)
        descend(state.actor_optimizer, [actor], config.actor_learning_rate, math.inf, state.step, batch)
        state.policy.critics.requires_grad_(True)
        for target, online in zip(state.target_parameters, state.parameters, strict=True):
            move_towards(target, online, config.tau)
        shown.append(torch.stack([critic.detach(), actor.detach(), value]))
    return shown


def train(state: State, config: Config) -> Iterator[Metrics]:
    """Act, and learn from what is remembered; yields every `report_every` steps."""
    envs = state.world.env.num_envs
    shown: list[Tensor] = []
    while state.step < config.steps:
        before, size = state.step, max(min(config.train_every, config.steps - state.step) // envs, 1)
        state.world.collect(explore(state, config, size), state.replay, size)
        state.step += size * envs
        if state.step >= config.learning_starts:
            shown += update(state, config)
        if state.step // config.report_every > before // config.report_every or state.step >= config.steps:
            means = torch.stack(shown).mean(0).tolist() if shown else []
            shown = []
            yield dict(zip(SHOWN[: len(means)], means, strict=True))
