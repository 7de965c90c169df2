"""Soft actor-critic (Haarnoja et al. 2018, "Soft actor-critic algorithms and applications", arXiv 1812.05905).

    repeat
        act        a ~ π(·|s); keep (s, a, r, γ, s') in the replay buffer
        evaluate   targets r + γ (min_i Q_i'(s', a') - α log π(a'|s')), a' ~ π, of transitions drawn from it
        optimise   (Q_i(s, a) - target)² of both critics
                   α log π(a|s) - min_i Q_i(s, a), a ~ π, by the actor's weights
                   α towards an entropy of -dim A, in halves of the box
                   Q_i' a little towards Q_i

The best policy is the one with the largest sum of rewards and entropies; it explores by itself.
"""

import copy
import dataclasses
import math
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from operant.core.action_values import soft_value, td_target
from operant.core.adam import adam
from operant.core.errors import InputError
from operant.core.flat import Flat, flatten, move_towards
from operant.core.losses import value_loss
from operant.core.optimise import descend
from operant.core.record import Transition
from operant.core.settings import OffPolicy, require_off_policy
from operant.envs.replay import Replay
from operant.envs.runner import Choose, Runner
from operant.networks.continuous import Critics, SoftActorCritic

Metrics = dict[str, float]
SHOWN = ("loss/value", "loss/policy", "value/action_value", "policy/entropy", "policy/alpha")


@dataclasses.dataclass(frozen=True)
class Config(OffPolicy):
    alpha: float | None = None
    """Weight α of the entropy; none = learned."""
    alpha_start: float = 1.0
    """Where a learned α begins."""
    target_entropy: float | None = None
    """The entropy that a learned α leads to, in nats; none = -1 for each number of an action, in halves of its box."""


@dataclasses.dataclass
class State:
    policy: SoftActorCritic
    target: Critics
    actor_optimizer: torch.optim.Optimizer
    critic_optimizer: torch.optim.Optimizer
    world: Runner
    replay: Replay
    parameters: Flat = dataclasses.field(metadata={"saved": False})
    """Of the critics."""
    target_parameters: Flat = dataclasses.field(metadata={"saved": False})
    step: int = 0


def init(policy: SoftActorCritic, world: Runner, config: Config) -> State:
    require_off_policy(config, world.env.num_envs)
    if config.alpha is not None and (config.alpha_start != 1.0 or config.target_entropy is not None):
        raise InputError(f"alpha {config.alpha} stands still: leave out alpha_start and target_entropy")
    if min(config.alpha_start, 1.0 if config.alpha is None else config.alpha) <= 0:
        raise InputError(f"alpha {config.alpha} and alpha_start {config.alpha_start}: give numbers above 0")
    policy.actor.log_alpha.data.fill_(math.log(config.alpha_start if config.alpha is None else config.alpha))
    target = copy.deepcopy(policy.critics)
    actor, critics = flatten(policy.actor), flatten(policy.critics)
    return State(
        policy,
        target,
        adam([actor], config.actor_learning_rate),
        adam([critics], config.critic_learning_rate),
        world,
        world.replay(config.capacity, config.gamma),
        critics,
        flatten(target),
    )


def explore(state: State, config: Config, size: int) -> Choose:
    """Actions of `size` steps to come: random ones at first, then draws of π."""
    if state.step < config.learning_starts:
        return state.world.at_random(size)
    return state.policy.actor.reflex(size, state.world.env.num_envs, greedy=False)


@torch.no_grad()
def targets(state: State, batch: Transition) -> Float[Tensor, " B"]:
    """r + γ (min_i Q_i'(s', a') - α log π(a'|s')) with a' ~ π (Haarnoja et al. 2018, eq. 5)."""
    action, log_prob = state.policy.actor(batch.next_observation)
    value = torch.minimum(*state.target(batch.next_observation, action))
    return td_target(batch.reward, batch.discount, soft_value(value, log_prob, state.policy.actor.log_alpha.exp()))


def critic_loss(state: State, batch: Transition) -> tuple[Tensor, Tensor]:
    """(Σ_i mean ½ (Q_i(s, a) - target)², mean Q_1)."""
    first, second = state.policy.critics(batch.observation, batch.action)
    target = targets(state, batch)
    return (value_loss(first, target) + value_loss(second, target)).mean(), first.detach().mean()


def actor_loss(state: State, batch: Transition, config: Config) -> tuple[Tensor, Tensor, Tensor]:
    """(mean α log π(a|s) - min_i Q_i(s, a) (eq. 7), the loss of α (eq. 18), mean -log π), where a ~ π by its noise."""
    log_alpha = state.policy.actor.log_alpha
    action, log_prob = state.policy.actor(batch.observation)
    value = torch.minimum(*state.policy.critics(batch.observation, action))
    entropy = -log_prob.detach().mean()
    loss = -soft_value(value, log_prob, log_alpha.detach().exp()).mean()
    if config.alpha is not None:
        return loss, torch.zeros(()), entropy
    target_entropy = config.target_entropy
    if target_entropy is None:
        target_entropy = (state.policy.actor.head.scale.log() - 1).sum()
    return loss, log_alpha.exp() * (entropy - target_entropy), entropy


def update(state: State, config: Config) -> list[Tensor]:
    """`gradient_steps` steps of critics, actor and α; what is `SHOWN` of each."""
    drawn, shown = state.replay.sample(config.gradient_steps * config.batch), []
    for i in range(0, len(drawn), config.batch):
        batch = drawn[i : i + config.batch] if config.gradient_steps > 1 else drawn
        critic, value = critic_loss(state, batch)
        descend(state.critic_optimizer, [critic], config.critic_learning_rate, math.inf, state.step, batch)
        state.policy.critics.requires_grad_(False)  # the actor's gradient goes through them and not to them
        actor, temperature, entropy = actor_loss(state, batch, config)
        descend(state.actor_optimizer, [actor + temperature], config.actor_learning_rate, math.inf, state.step, batch)
        state.policy.critics.requires_grad_(True)
        move_towards(state.target_parameters, state.parameters, config.tau)
        alpha = state.policy.actor.log_alpha.detach().exp()
        shown.append(torch.stack([critic.detach(), actor.detach(), value, entropy, alpha]))
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
