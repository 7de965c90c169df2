"""Deep Q-network (Mnih et al. 2015, "Human-level control through deep reinforcement learning").

    repeat
        act        ε-greedily by Q; keep (s, a, r, γ, s') in the replay buffer
        evaluate   targets r + γ max_a Q'(s', a) of transitions drawn from it
        optimise   the Huber loss between Q(s, a) and the target
        every so often, Q' ← Q

Options: the online network chooses the action that Q' judges (`double`, van Hasselt et al. 2016), returns over n steps
(`n_step`), surprising transitions drawn more often (`prioritised`, Schaul et al. 2016), a target network that follows
slowly (`tau`), a network that adds a state's value and its actions' advantages (`duelling`, Wang et al. 2016).
"""

import copy
import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from operant.core.action_values import double_q_value, huber_loss, td_target
from operant.core.adam import adam
from operant.core.errors import InputError
from operant.core.flat import Flat, flatten, move_towards
from operant.core.optimise import descend
from operant.core.record import Transition
from operant.core.settings import require_counts, require_off_policy, require_within
from operant.envs.prioritised import PrioritisedReplay
from operant.envs.replay import Replay
from operant.envs.runner import Choose, Runner
from operant.networks.action_values import QNetwork
from operant.networks.in_numpy import in_numpy

Metrics = dict[str, float]
TOGETHER = 256
"""Transitions that go through the target network at once: few enough for the caches of a core."""
SHOWN = ("loss/value", "value/action_value", "policy/gradient_norm")


@dataclasses.dataclass(frozen=True)
class Config:
    steps: int = 50_000
    """Steps of all environments together."""
    report_every: int = 1000
    """Steps between two lines of metrics."""
    capacity: int = 100_000
    """Transitions that the replay buffer keeps."""
    learning_starts: int = 1000
    """Steps before the first update."""
    train_every: int = 4
    """Steps between two updates."""
    gradient_steps: int = 1
    """Minibatches of an update."""
    batch: int = 64
    """Transitions in a minibatch."""
    learning_rate: float = 1e-3
    """Step size of Adam."""
    max_gradient_norm: float = 10.0
    """Gradients longer than this are shortened to it."""
    gamma: float = 0.99
    """Discount γ."""
    target_every: int = 500
    """Steps between two changes of the target network."""
    tau: float = 1.0
    """How far the target network then moves towards the online one; 1 = a copy."""
    epsilon_start: float = 1.0
    """Chance of a random action at first."""
    epsilon_end: float = 0.05
    """Chance of a random action in the end."""
    epsilon_steps: int = 10_000
    """Steps over which ε goes from its start to its end, in a line."""
    double: bool = False
    """Double Q-learning: the online network chooses the next action."""
    duelling: bool = False
    """The network adds a state's value and the advantages of its actions."""
    n_step: int = 1
    """Rewards that are summed before the target network takes over."""
    huber_threshold: float = 1.0
    """Errors beyond this count linearly; infinity = the squared error."""
    prioritised: bool = False
    """Draw transitions by their last error, not uniformly."""
    priority_alpha: float = 0.6
    """How much priorities count: 0 = uniform draws."""
    priority_beta: float = 0.4
    """How much of the bias of such draws is corrected at first; in the end all of it."""
    priority_epsilon: float = 1e-6
    """What is added to an error to make its priority."""


@dataclasses.dataclass
class State:
    policy: QNetwork
    target: QNetwork
    optimizer: torch.optim.Optimizer
    world: Runner
    replay: Replay | PrioritisedReplay
    parameters: Flat = dataclasses.field(metadata={"saved": False})
    target_parameters: Flat = dataclasses.field(metadata={"saved": False})
    step: int = 0


def init(policy: QNetwork, world: Runner, config: Config) -> State:
    require_off_policy(config, world.env.num_envs)
    require_counts(config, "target_every", "epsilon_steps")
    require_within(config, 0, 1, "epsilon_start", "epsilon_end")
    if not config.huber_threshold > 0:
        raise InputError(
            f"huber_threshold is {config.huber_threshold}: give a number above 0; infinity squares all errors"
        )
    for name in ("priority_alpha", "priority_beta", "priority_epsilon"):
        if not config.prioritised and getattr(config, name) != getattr(Config, name):
            raise InputError(f"{name} {getattr(config, name)} is one of prioritised replay: switch prioritised on")
    if policy.duelling != config.duelling:
        raise InputError(f"duelling is {config.duelling} and the network's is {policy.duelling}: make it with the same")
    replay = world.replay(config.capacity, config.gamma, config.n_step)
    if config.prioritised:
        replay = PrioritisedReplay(replay, config.priority_alpha, config.priority_epsilon)
    target = copy.deepcopy(policy)
    parameters, target_parameters = flatten(policy), flatten(target)
    optimizer = adam([parameters], config.learning_rate)
    return State(policy, target, optimizer, world, replay, parameters, target_parameters)


def epsilon_greedy(state: State, config: Config, size: int) -> Choose:
    """(observation, t) -> action, for `size` steps to come. What chance decides of them is drawn at once."""
    envs, value = state.world.env.num_envs, in_numpy(state.policy.network)
    epsilon = [scheduled_epsilon(state.step + t * envs, config) for t in range(size)]
    explores = torch.rand(size, envs).numpy() < np.array(epsilon)[:, None]
    explore = state.policy.explorer(size, envs)

    def choose(observation: NDArray[Any], t: int) -> NDArray[Any]:
        random = explore(observation, t)
        return random if explores[t].all() else np.where(explores[t], random, value(observation).argmax(-1))

    return choose


def scheduled_epsilon(step: int, config: Config) -> float:
    done = min(step / config.epsilon_steps, 1.0)
    return config.epsilon_start + done * (config.epsilon_end - config.epsilon_start)


def loss(
    state: State, batch: Transition, target_value: Float[Tensor, "B A"], config: Config
) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"], Float[Tensor, " B"]]:
    """(Huber loss, Q(s, a), r + γ v(s')), where v(s') is max_a Q'(s', a), or Q' of what Q would do there."""
    with torch.no_grad():
        if config.double:
            next_value = double_q_value(state.policy(batch.next_observation), target_value)
        else:
            next_value = target_value.amax(-1)
        target = td_target(batch.reward, batch.discount, next_value)
    value = state.policy(batch.observation).gather(-1, batch.action.unsqueeze(-1)).squeeze(-1)
    return huber_loss(value, target, config.huber_threshold), value.detach(), target


def update(state: State, config: Config) -> list[tuple[Tensor, Tensor, Tensor]]:
    """`gradient_steps` steps of the optimiser; what is `SHOWN` the means of, for each.

    The target network stands still meanwhile: it values the next states of many minibatches in one pass.
    """
    together = 1 if config.prioritised else max(TOGETHER // config.batch, 1)
    shown: list[tuple[Tensor, Tensor, Tensor]] = []
    while len(shown) < config.gradient_steps:
        count = min(together, config.gradient_steps - len(shown))
        drawn, rows, weight = draw(state, count * config.batch, config)
        with torch.no_grad():
            target_value = state.target(drawn.next_observation)
        for i in range(0, len(drawn), config.batch):
            part = slice(i, i + config.batch)
            batch = drawn[part] if count > 1 else drawn
            error, value, target = loss(state, batch, target_value[part], config)
            mean = (error if weight is None else weight * error).mean()
            rate, longest = config.learning_rate, config.max_gradient_norm
            norm = descend(state.optimizer, [mean], rate, longest, state.step, batch)
            if isinstance(state.replay, PrioritisedReplay):
                state.replay.update(rows, target - value)
            shown.append((mean.detach(), value, norm))
    return shown


def draw(state: State, size: int, config: Config) -> tuple[Transition, Any, Tensor | None]:
    """(transitions, the rows and the weights of those drawn by priority)."""
    device = state.policy.device
    if not isinstance(state.replay, PrioritisedReplay):
        return state.replay.sample(size).to(device), None, None
    done = min(state.step / config.steps, 1.0)
    drawn, rows, weight = state.replay.sample(size, config.priority_beta + done * (1 - config.priority_beta))
    return drawn.to(device), rows, weight.to(device)


def train(state: State, config: Config) -> Iterator[Metrics]:
    """Act, and learn from what is remembered; yields every `report_every` steps."""
    if not state.world.resumes:
        state.replay.cut()
    envs = state.world.env.num_envs
    shown: list[tuple[Tensor, Tensor, Tensor]] = []
    while state.step < config.steps:
        before, size = state.step, max(min(config.train_every, config.steps - state.step) // envs, 1)
        state.world.collect(epsilon_greedy(state, config, size), state.replay, size)
        state.step += size * envs
        due = state.step // config.target_every - before // config.target_every
        if due:
            move_towards(state.target_parameters, state.parameters, 1 - (1 - config.tau) ** due)  # so many moves in one
        if state.step >= config.learning_starts:
            shown += update(state, config)
        if state.step // config.report_every > before // config.report_every or state.step >= config.steps:
            metrics = {"exploration/epsilon": scheduled_epsilon(state.step, config)}
            if shown:
                means = (torch.stack(column).mean().item() for column in zip(*shown, strict=True))
                metrics |= dict(zip(SHOWN, means, strict=True))
            shown = []
            yield metrics
