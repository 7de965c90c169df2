"""Twin delayed DDPG (Fujimoto et al. 2018, "Addressing function approximation error in actor-critic methods").

    repeat
        act        a = μ(s) + noise; keep (s, a, r, γ, s') in the replay buffer
        evaluate   targets r + γ min_i Q_i'(s', ã),  ã = μ'(s') + clipped noise, of transitions drawn from it
        optimise   (Q_i(s, a) - target)² of both critics
                   every second time: -Q_1(s, μ(s)) by the actor's weights; μ', Q_i' a little towards μ, Q_i

DDPG with three repairs: the smaller of two critics, for the maximum of an error is an error; noise on the target's
action, so that sharp peaks of Q cannot be exploited; and an actor that waits until the critics are better.
"""

import copy
import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from operant.core.action_values import td_target
from operant.core.adam import adam
from operant.core.errors import InputError
from operant.core.flat import Flat, flatten, move_towards
from operant.core.losses import value_loss
from operant.core.optimise import descend
from operant.core.record import Transition
from operant.core.settings import OffPolicy, require_counts, require_off_policy, require_within
from operant.envs.replay import Replay
from operant.envs.runner import Choose, Runner
from operant.networks.continuous import DeterministicActorCritic

Metrics = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Config(OffPolicy):
    noise: float = 0.1
    """Deviation of the noise on actions; 1 = half the width of the box."""
    target_noise: float = 0.2
    """Deviation of the noise on the target's actions, in the same unit."""
    target_noise_clip: float = 0.5
    """Limit of that noise."""
    policy_every: int = 2
    """Critic steps for one step of the actor and of the target networks."""


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
    updates: int = 0
    step: int = 0


def init(policy: DeterministicActorCritic, world: Runner, config: Config) -> State:
    require_off_policy(config, world.env.num_envs)
    require_counts(config, "policy_every")
    require_within(config, 0, math.inf, "noise", "target_noise", "target_noise_clip")
    if len(policy.critics.networks) != 2:
        raise InputError(
            f"TD3 has two critics, and this network {len(policy.critics.networks)}: make it with critics=2"
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
    )


def explore(state: State, config: Config, size: int) -> Choose:
    """Actions of `size` steps to come: random ones at first, then μ(s) + noise, clipped to the box."""
    space, envs = state.world.actions, state.world.env.num_envs
    if state.step < config.learning_starts:
        return state.world.at_random(size)
    bounds, actor = state.policy.actor.bounds, state.policy.actor.reflex(size, envs, greedy=True)
    noise = (config.noise * bounds.scale * torch.randn(size, envs, *space.shape)).numpy()

    def choose(observation: NDArray[Any], t: int) -> NDArray[Any]:
        return np.clip(actor(observation, t) + noise[t], space.low, space.high)

    return choose


@torch.no_grad()
def targets(state: State, batch: Transition, config: Config) -> Float[Tensor, " B"]:
    """r + γ min_i Q_i'(s', clip(μ'(s') + clip(ε, ±c))) (Fujimoto et al. 2018, eq. 14 and algorithm 1)."""
    bounds, limit = state.target.actor.bounds, config.target_noise_clip
    noise = bounds.scale * (config.target_noise * torch.randn_like(batch.action)).clamp(-limit, limit)
    action = bounds.clip(state.target.actor(batch.next_observation) + noise)
    return td_target(batch.reward, batch.discount, torch.minimum(*state.target.critics(batch.next_observation, action)))


def critic_loss(state: State, batch: Transition, config: Config) -> tuple[Tensor, Tensor]:
    """(Σ_i mean ½ (Q_i(s, a) - target)², mean Q_1)."""
    target, values = targets(state, batch, config), state.policy.critics(batch.observation, batch.action)
    return sum((value_loss(value, target).mean() for value in values), torch.zeros(())), values[0].detach().mean()


def actor_loss(state: State, batch: Transition) -> Tensor:
    """-mean Q_1(s, μ(s)): its gradient is the deterministic policy gradient (Silver et al. 2014, eq. 9)."""
    action = state.policy.actor(batch.observation)
    return -state.policy.critics(batch.observation, action, count=1)[0].mean()


def update(state: State, config: Config, shown: dict[str, list[Tensor]]) -> None:
    """`gradient_steps` steps of the critics, and every `policy_every` of them one of the actor."""
    drawn = state.replay.sample(config.gradient_steps * config.batch)
    for i in range(0, len(drawn), config.batch):
        batch = drawn[i : i + config.batch] if config.gradient_steps > 1 else drawn
        loss, value = critic_loss(state, batch, config)
        descend(state.critic_optimizer, [loss], config.critic_learning_rate, math.inf, state.step, batch)
        shown.setdefault("loss/value", []).append(loss.detach())
        shown.setdefault("value/action_value", []).append(value)
        state.updates += 1
        if state.updates % config.policy_every == 0:
            state.policy.critics.requires_grad_(False)
            loss = actor_loss(state, batch)
            descend(state.actor_optimizer, [loss], config.actor_learning_rate, math.inf, state.step, batch)
            state.policy.critics.requires_grad_(True)
            shown.setdefault("loss/policy", []).append(loss.detach())
            for target, online in zip(state.target_parameters, state.parameters, strict=True):
                move_towards(target, online, config.tau)


def train(state: State, config: Config) -> Iterator[Metrics]:
    """Act, and learn from what is remembered; yields every `report_every` steps."""
    envs = state.world.env.num_envs
    shown: dict[str, list[Tensor]] = {}
    while state.step < config.steps:
        before, size = state.step, max(min(config.train_every, config.steps - state.step) // envs, 1)
        state.world.collect(explore(state, config, size), state.replay, size)
        state.step += size * envs
        if state.step >= config.learning_starts:
            update(state, config, shown)
        if state.step // config.report_every > before // config.report_every or state.step >= config.steps:
            metrics = {name: torch.stack(values).mean().item() for name, values in shown.items()}
            shown = {}
            yield metrics
