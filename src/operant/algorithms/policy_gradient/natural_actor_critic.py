"""Natural actor-critic (Kakade 2001, "A natural policy gradient"; Peters and Schaal 2008, "Natural actor-critic").

    repeat
        roll out   a batch of decisions with π
        evaluate   advantages Â by GAE, targets Â + v
        optimise   g = ∇ mean(Â log π);  F x = g by conjugate gradient;  θ ← θ + √(2δ / gᵀx) x
                   some epochs of minibatch steps of the critic towards its targets

The plain gradient measures a step by its length in parameters, the natural one by the KL between the policies before
and after: the same policy written with other parameters takes the same step. Nothing checks how far a step went;
`trpo.py` does.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from operant.core.adam import adam
from operant.core.conjugate_gradient import conjugate_gradient, fisher_product, flat_gradient, sampled_fisher_product
from operant.core.errors import InputError
from operant.core.finite import require_finite
from operant.core.flat import Flat, flatten
from operant.core.losses import importance_ratio, standardize, value_loss
from operant.core.optimise import descend
from operant.core.record import Record, Trajectory, World, minibatches
from operant.core.returns import gae
from operant.networks.actor_critic import ActorCritic

Metrics = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Config:
    iterations: int = 100
    """Rollouts, each followed by one step of the actor."""
    rollout: int = 512
    """Size of a rollout: steps of every environment."""
    gamma: float = 0.99
    """Discount γ."""
    lambda_: float = 0.97
    """GAE's λ: 0 trusts the value function, 1 the returns."""
    standardize_advantages: bool = True
    """Advantages of a rollout get mean 0 and deviation 1."""
    entropy_coefficient: float = 0.0
    """Weight c_e of the entropy bonus."""
    max_kl: float = 0.01
    """δ: the KL to the old policy, a mean over decisions, that a step makes where KL is quadratic."""
    fisher: Literal["exact", "sampled"] = "exact"
    """F: the Hessian of the KL, or the mean of ∇log π ∇log πᵀ at the actions taken: x is then the compatible critic."""
    fisher_every: int = 1
    """F is a mean over every n-th decision."""
    damping: float = 0.1
    """Added to F's diagonal: where the policy hardly depends on a parameter, its step stays small."""
    conjugate_gradient_iterations: int = 10
    """Products of F and a vector for one step."""
    epochs: int = 10
    """The critic's passes over each rollout."""
    minibatch: int = 64
    """Decisions in a minibatch of the critic."""
    learning_rate: float = 1e-3
    """Step size of the critic's Adam."""
    adam_epsilon: float = 1e-5
    """Adam's ε."""


@dataclasses.dataclass
class State:
    policy: Any
    optimizer: torch.optim.Optimizer
    """Of the critic."""
    world: World
    weights: Flat = dataclasses.field(metadata={"saved": False})
    """All parameters of the actor, a Gaussian's log σ among them, as one vector."""
    step: int = 0


@dataclasses.dataclass(frozen=True)
class Batch(Record):
    """The decisions of a rollout, without its reset steps, and what is learned from them."""

    observation: Shaped[Tensor, "N ..."] | Record
    action: Shaped[Tensor, "N ..."]
    log_prob: Float[Tensor, " N"]
    advantage: Float[Tensor, " N"]
    target: Float[Tensor, " N"]


def init(policy: Any, world: World, config: Config) -> State:
    """Raises `InputError` for a policy whose actor and critic share layers, or that has a memory."""
    if not isinstance(policy, ActorCritic):
        raise InputError(
            f"a natural step needs an actor with parameters of its own and no memory, and the policy is a "
            f"{type(policy).__name__}: give an ActorCritic, or learn with PPO or A2C"
        )
    if config.fisher not in ("exact", "sampled"):
        raise InputError(f'fisher is "exact" or "sampled", not {config.fisher!r}')
    for name in ("max_kl", "conjugate_gradient_iterations", "fisher_every", "epochs", "minibatch"):
        if not getattr(config, name) > 0:
            raise InputError(f"{name} is {getattr(config, name)}: an update needs more than 0")
    weights, critic = flatten(actor(policy)), flatten(policy.critic)
    optimizer = adam([critic], config.learning_rate, config.adam_epsilon)
    return State(policy, optimizer, world, weights)


def actor(policy: Any) -> nn.ModuleList:
    """What a natural step changes: the actor's network, and its head for the sake of log σ."""
    return nn.ModuleList([policy.actor, policy.head])


def prepare(trajectory: Trajectory, config: Config) -> Batch:
    """Advantages by GAE; the critic's target is advantage + value."""
    t = trajectory
    advantage = gae(t.reward, t.value, t.next_value, config.gamma * t.discount, t.done, config.lambda_)
    target = advantage + t.value
    if config.standardize_advantages:
        advantage = standardize(advantage, t.mask)
    return Batch(t.observation[t.mask], t.action[t.mask], t.log_prob[t.mask], advantage[t.mask], target[t.mask])


def distribution(policy: Any, observation: Shaped[Tensor, "N ..."] | Record) -> Float[Tensor, "N P"]:
    """What the head makes distributions of, and `policy.head.kl` compares."""
    return policy.head.describe(policy.actor(observation))


def surrogate(policy: Any, batch: Batch, config: Config) -> Float[Tensor, ""]:
    """mean(ρ Â) + c_e H, to be maximised; at the old policy its gradient is that of mean(Â log π) + c_e H."""
    output = policy.actor(batch.observation)
    ratio = importance_ratio(policy.head.log_prob(output, batch.action), batch.log_prob)
    return (ratio * batch.advantage + config.entropy_coefficient * policy.head.entropy(output)).mean()


def natural_step(state: State, batch: Batch, config: Config) -> tuple[Float[Tensor, " P"], Metrics]:
    """√(2δ / gᵀx) x, where (F + damping I) x = g: ½ xᵀ(F + damping I)x is then δ."""
    policy, parameters = state.policy, list(actor(state.policy).parameters())
    objective = surrogate(policy, batch, config)
    g = flat_gradient(objective, parameters)
    require_finite(g.norm(), "gradient's norm", state.step, batch)
    part = batch[:: config.fisher_every]
    if config.fisher == "exact":
        now = distribution(policy, part.observation)
        product = fisher_product(policy.head.kl(now.detach(), now).mean(), parameters, config.damping)
    else:
        log_prob = policy.head.log_prob(policy.actor(part.observation), part.action)
        product = sampled_fisher_product(log_prob, parameters, config.damping)
    x = conjugate_gradient(product, g, config.conjugate_gradient_iterations)
    step = (2 * config.max_kl / (g @ x).clamp(min=1e-30)).sqrt() * x
    return step, {"policy/gradient_norm": g.norm().item()}


def fit_critic(state: State, batch: Batch, config: Config) -> float:
    """Some epochs of minibatch steps towards the targets; the mean loss."""
    losses: list[Tensor] = []
    for _ in range(config.epochs):
        order = torch.randperm(len(batch))
        observation, target = batch.observation[order], batch.target[order]
        for part in minibatches(len(batch), config.minibatch):
            loss = value_loss(state.policy.value(observation[part]), target[part]).mean()
            descend(state.optimizer, [loss], config.learning_rate, math.inf, state.step, batch)
            losses.append(loss.detach())
    return torch.stack(losses).mean().item()


@torch.no_grad()
def move(state: State, batch: Batch, step: Float[Tensor, " P"], config: Config) -> Metrics:
    """θ ← θ + step: the KL to the policy before, the growth of the surrogate, and the entropy now."""
    policy = state.policy
    old, before = distribution(policy, batch.observation), surrogate(policy, batch, config)
    state.weights.add_(step)
    now, output = distribution(policy, batch.observation), policy.actor(batch.observation)
    return {
        "policy/kl": policy.head.kl(old, now).mean().item(),
        "policy/improvement": (surrogate(policy, batch, config) - before).item(),
        "policy/entropy": policy.head.entropy(output).mean().item(),
    }


def update(state: State, batch: Batch, config: Config) -> Metrics:
    """One natural step of the actor, and the critic's epochs."""
    step, metrics = natural_step(state, batch, config)
    metrics |= move(state, batch, step, config)
    return metrics | {"loss/value": fit_critic(state, batch, config)}


def train(state: State, config: Config) -> Iterator[Metrics]:
    """Roll out, evaluate, optimise; yields after every update."""
    while state.step < config.iterations:
        trajectory = state.world.rollout(state.policy, config.rollout)
        metrics = update(state, prepare(trajectory, config), config)
        state.step += 1
        yield metrics
