"""One table of all algorithms, and what must hold for each of them.

A new algorithm is a new row: how it starts on something tiny, and for every field of its Config another value.
"""

import copy
import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import gymnasium
import pytest
import torch
from torch import Tensor, nn

from operant.algorithms.policy_gradient import (
    a2c,
    actor_critic,
    natural_actor_critic,
    ppo,
    q_actor_critic,
    reinforce,
    trpo,
)
from operant.algorithms.preference import dpo, grpo, pretrain, reward_model, rlhf, rloo, sft
from operant.algorithms.temporal_difference import ddpg, dpg, dqn, sac, td3
from operant.core.errors import InputError
from operant.core.record import Policy, Trajectory
from operant.envs.runner import Runner
from operant.experiment import checkpoint
from operant.networks.action_values import q_network
from operant.networks.actor_critic import ActorCritic
from operant.networks.continuous import deterministic_actor_critic, soft_actor_critic
from operant.networks.linear import LinearActorCritic
from operant.networks.q_actor_critic import QActorCritic
from operant.text.language_model import LanguageModel, frozen, reward_model_from, small_model, value_head
from operant.text.sampling import Samples
from operant.text.tokenizer import Comparison, Example, Judgement
from operant.text.world import PromptWorld

END = 0
TEXTS = [[1, 2, 3, 4, 5], [6, 7], [8, 1, 8, 1], [2], [9, 9, 3]]
EXAMPLES = [Example([1, 2], [3, 0]), Example([4], [5, 6, 7, 0]), Example([6], [0]), Example([8, 8, 8], [1, 2, 0])]
EXAMPLES.append(Example([5], [1, 4, 0, 2, 0], [True, False, True, True, True]))
COMPARISONS = [
    Comparison([1, 2], [[3, 0], [4, 5, 6, 0]], [1, 2]),
    Comparison([7], [[5, 5, 0], [2, 0], [9, 8, 7, 0]], [2, 1, 2]),
    Comparison([3, 3], [[0], [1, 1, 1, 0]], [2, 1]),
    Comparison([2], [[4, 4, 0], [6, 0]], [1, 1]),
    Comparison([9], [[1, 0], [2, 2, 0]], [1, 2]),
]
THUMBS = [Judgement([1, 5], [9, 0], True), Judgement([8], [3, 3, 0], False)]


def causal() -> Any:
    return small_model(10, 8, 1, 2, 16)


def alike() -> tuple[LanguageModel, LanguageModel]:
    """(policy with a value, reference)."""
    model = causal()
    return LanguageModel(model, value_head(model)), frozen(LanguageModel(copy.deepcopy(model)))


def mean_token(samples: Samples) -> Tensor:
    return torch.tensor([sum(r) / len(r) for r in samples.responses])


def prompt_world(seed: int, completions: int = 1) -> PromptWorld:
    prompts = [[1, 2], [3], [4, 5, 6], [7, 7], [8]]
    return PromptWorld(prompts, mean_token, {END}, 5, completions, missing_stop_score=None, seed=seed)


class Walk:
    """Four walkers between 0 and 4; right of 3 they are paid, and at either end they start again."""

    def __init__(self) -> None:
        self.position = torch.full((4,), 2)

    def observation(self) -> Tensor:
        return nn.functional.one_hot(self.position, 5).float()

    def rollout(self, policy: Policy, size: int) -> Trajectory:
        columns = []
        for _ in range(size):
            before = self.observation()
            action, log_prob, value, _ = policy.act(before)
            self.position = self.position + 2 * action - 1
            next_value = policy.act(self.observation())[2]
            reward, ended = (self.position == 4).float(), (self.position == 0) | (self.position == 4)
            self.position = torch.where(ended, 2, self.position)
            columns.append((
                before, action, log_prob, value, next_value, reward, (~ended).float(), ended,
                torch.zeros_like(ended), torch.ones_like(ended),
            ))  # fmt: skip
        return Trajectory(*(torch.stack(column, dim=1) for column in zip(*columns, strict=True)))

    def state_dict(self) -> dict[str, Tensor]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.position = state["position"]


@dataclasses.dataclass(frozen=True)
class With:
    """A changed value that counts only where other settings are as given."""

    value: Any
    given: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Algorithm:
    module: Any
    config: Any
    """Some updates on something tiny."""
    start: Callable[[Any, int], Any]
    """A state from settings and a seed."""
    changed: dict[str, Any]
    """Another value for every field of the Config."""
    refused: frozenset[str] = frozenset()
    """Fields that mean nothing to this algorithm: another value is an error."""


def ppo_walk(config: ppo.Config, seed: int) -> ppo.State:
    return ppo.init(ActorCritic(5, 2, (8,)), Walk(), config)


def a2c_walk(config: a2c.Config, seed: int) -> a2c.State:
    return a2c.init(ActorCritic(5, 2, (8,)), Walk(), config)


def natural_walk(module: Any, config: Any, seed: int) -> Any:
    return module.init(ActorCritic(5, 2, (8,)), Walk(), config)


def actor_critic_pole(config: actor_critic.Config, seed: int) -> actor_critic.State:
    return actor_critic.init(ActorCritic(4, 2, (8,)), Runner("CartPole-v1", envs=1, seed=seed), config)


def q_actor_critic_pole(config: q_actor_critic.Config, seed: int) -> q_actor_critic.State:
    return q_actor_critic.init(QActorCritic(4, 2, (8,)), Runner("CartPole-v1", envs=2, seed=seed), config)


def reinforce_pole(config: reinforce.Config, seed: int) -> reinforce.State:
    return reinforce.init(ActorCritic(4, 2, (8,)), Runner("CartPole-v1", envs=2, seed=seed), config)


def ppo_tokens(config: ppo.Config, seed: int) -> ppo.State:
    return ppo.init(alike()[0], prompt_world(seed), config)


def from_feedback(module: Any, config: Any, seed: int) -> rlhf.State:
    policy, reference = alike()
    if module is not rlhf:
        policy.value = None
    text = pretrain.documents(TEXTS, END, config.ptx_block)
    return module.init(policy, reference, prompt_world(seed, getattr(config, "completions", 1)), config, text, seed)


def sft_start(config: sft.Config, seed: int) -> sft.State:
    return sft.init(LanguageModel(causal()), EXAMPLES, config, seed)


def pretrain_start(config: pretrain.Config, seed: int) -> sft.State:
    return pretrain.init(LanguageModel(causal()), pretrain.documents(TEXTS, END, config.block), config, seed)


def reward_start(config: reward_model.Config, seed: int) -> reward_model.State:
    return reward_model.init(reward_model_from(causal()), [*COMPARISONS, *THUMBS], config, seed)


def dpo_start(config: dpo.Config, seed: int) -> dpo.State:
    model = causal()
    return dpo.init(LanguageModel(model), frozen(LanguageModel(copy.deepcopy(model))), COMPARISONS, config, seed)


PPO = {"iterations": 3, "rollout": 6, "minibatch": 4, "epochs": 2, "learning_rate": 0.02}
PPO_CHANGED = {
    "iterations": 4,
    "rollout": 5,
    "epochs": 3,
    "minibatch": 2,
    "micro_batch": 3,
    "learning_rate": 0.01,
    "schedule": "cosine",
    "warmup": 0.5,
    "gamma": 0.7,
    "lambda_": 0.5,
    "objective": "kl",
    "clip": 0.001,
    "clip_schedule": With("linear", {"clip": 0.001}),
    "stop_kl": With(1e-9, {"epochs": 3}),
    "old_policy_beta": With(5.0, {"objective": "kl"}),
    "old_policy_target": With(1e-6, {"objective": "kl"}),
    "value_clip": 1e-4,
    "value_coefficient": 0.9,
    "entropy_coefficient": 0.2,
    "standardize_advantages": False,
    "max_gradient_norm": 0.01,
    "adam_epsilon": 0.01,
}
ACTOR_CRITIC_CHANGED = {
    "steps": 60,
    "actor_learning_rate": 0.02,
    "critic_learning_rate": 0.02,
    "schedule": "cosine",
    "gamma": 0.7,
    "lambda_": 0.3,
    "discount_states": True,
    "entropy_coefficient": 0.2,
    "actor_bound": 9.0,
    "critic_bound": 0.0,
    "report_every": 10,
}
Q_ACTOR_CRITIC_CHANGED = {
    "iterations": 6,
    "rollout": 5,
    "actor_learning_rate": 0.02,
    "critic_learning_rate": 0.02,
    "schedule": "cosine",
    "gamma": 0.7,
    "advantage": False,
    "entropy_coefficient": 0.2,
    "adam_epsilon": 0.01,
    "report_every": 1,
}
REINFORCE_CHANGED = {
    "steps": 60,
    "learning_rate": 0.02,
    "schedule": "cosine",
    "gamma": 0.7,
    "baseline": "none",
    "reward_to_go": False,
    "discount_states": True,
    "standardize_returns": False,
    "value_coefficient": 0.9,
    "entropy_coefficient": 0.2,
    "max_gradient_norm": 0.01,
    "adam_epsilon": 0.01,
}
A2C_CHANGED = {
    "iterations": 6,
    "rollout": 5,
    "learning_rate": 0.01,
    "schedule": "cosine",
    "gamma": 0.7,
    "lambda_": 0.5,
    "value_coefficient": 0.9,
    "entropy_coefficient": 0.2,
    "standardize_advantages": True,
    "max_gradient_norm": 0.01,
    "rmsprop_decay": 0.8,
    "rmsprop_epsilon": 0.01,
    "report_every": 1,
}
NATURAL = {"iterations": 4, "rollout": 12, "epochs": 2, "minibatch": 16, "learning_rate": 0.02}
NATURAL_CHANGED = {
    "iterations": 5,
    "rollout": 10,
    "gamma": 0.7,
    "lambda_": 0.5,
    "standardize_advantages": False,
    "entropy_coefficient": 0.5,
    "max_kl": 0.02,
    "fisher": "sampled",
    "fisher_every": 2,
    "damping": 0.5,
    "conjugate_gradient_iterations": 2,
    "epochs": 3,
    "minibatch": 12,
    "learning_rate": 0.01,
    "adam_epsilon": 0.01,
}
RLHF_CHANGED = PPO_CHANGED | {
    "reference_beta": 0.5,
    "reference_target": With(1e-6, {"reference_rule": "ziegler", "reference_horizon": 20.0}),
    "reference_rule": With("ziegler", {"reference_horizon": 20.0}),
    "reference_horizon": With(20.0, {"reference_rule": "ziegler"}),
    "whiten_rewards": True,
    "ptx_coefficient": 2.0,
    "ptx_batch": With(3, {"ptx_coefficient": 2.0}),
    "ptx_block": With(2, {"ptx_coefficient": 2.0}),
}
RLOO = PPO | {"rollout": 3, "minibatch": 6, "epochs": 1}
RLOO_CHANGED = RLHF_CHANGED | {"rollout": 2, "epochs": 2, "standardize_advantages": True, "completions": 2}
CRITIC = frozenset({"gamma", "lambda_", "value_clip", "value_coefficient"})
SUPERVISED = {"batch": 2, "epochs": 2}
SUPERVISED_CHANGED = {
    "epochs": 1,
    "batch": 3,
    "micro_batch": 6,
    "learning_rate": 0.003,
    "schedule": "linear",
    "warmup": 0.6,
    "floor": 0.5,
    "weight_decay": 0.5,
    "max_gradient_norm": 0.01,
}

OFF_POLICY = {"steps": 48, "report_every": 8, "capacity": 24, "learning_starts": 8, "train_every": 4}
OFF_POLICY |= {"gradient_steps": 2, "batch": 4}
OFF_POLICY_CHANGED = {
    "steps": 56,
    "report_every": 4,
    "capacity": 20,
    "learning_starts": 12,
    "train_every": 2,
    "gradient_steps": 1,
    "batch": 3,
    "gamma": 0.7,
}


def dqn_start(config: dqn.Config, seed: int) -> dqn.State:
    world = Runner(gymnasium.make_vec("CartPole-v1", 2, "sync"), seed=seed)
    spaces = world.env.single_observation_space, world.env.single_action_space
    return dqn.init(q_network(*spaces, (8,), config.duelling), world, config)


def dpg_start(config: dpg.Config, seed: int) -> dpg.State:
    world = Runner(gymnasium.make_vec("Pendulum-v1", 2, "sync"), seed=seed)
    spaces = world.env.single_observation_space, world.env.single_action_space
    return dpg.init(LinearActorCritic(*spaces, config.tilings, config.across), world, config)


DPG_CHANGED = {
    "steps": 48,
    "report_every": 4,
    "gamma": 0.7,
    "actor_step": 0.5,
    "advantage_step": 0.4,
    "value_step": 0.1,
    "exploration": 0.3,
    "tilings": 4,
    "across": 5,
}
DQN_CHANGED = OFF_POLICY_CHANGED | {
    "learning_rate": 0.003,
    "max_gradient_norm": 0.01,
    "target_every": 4,
    "tau": 0.5,
    "epsilon_start": 0.5,
    "epsilon_end": 0.9,
    "epsilon_steps": 12,
    "double": With(True, {"learning_rate": 0.3}),  # so that the networks do not agree
    "duelling": True,
    "n_step": 3,
    "huber_threshold": 0.01,
    "prioritised": True,
    "priority_alpha": With(0.1, {"prioritised": True}),
    "priority_beta": With(1.0, {"prioritised": True}),
    "priority_epsilon": With(1.0, {"prioritised": True}),
}


def pendulum(algorithm: Any, config: Any, seed: int) -> Any:
    world = Runner(gymnasium.make_vec("Pendulum-v1", 2, "sync"), seed=seed)
    spaces = world.env.single_observation_space, world.env.single_action_space
    critics = 2 if algorithm is td3 else 1
    policy = (
        soft_actor_critic(*spaces, (8,)) if algorithm is sac else deterministic_actor_critic(*spaces, (8,), critics)
    )
    return algorithm.init(policy, world, config)


CONTINUOUS = OFF_POLICY | {"actor_learning_rate": 0.01, "critic_learning_rate": 0.01, "tau": 0.3}
CONTINUOUS_CHANGED = OFF_POLICY_CHANGED | {"actor_learning_rate": 0.003, "critic_learning_rate": 0.003, "tau": 0.5}
OU = {"noise_kind": "ornstein_uhlenbeck"}
DDPG_CHANGED = CONTINUOUS_CHANGED | {"noise": 0.5, "noise_kind": "ornstein_uhlenbeck", "noise_theta": With(0.9, OU)}
TD3_CHANGED = CONTINUOUS_CHANGED | {"noise": 0.5, "target_noise": 0.5, "target_noise_clip": 0.01, "policy_every": 1}
SAC_CHANGED = CONTINUOUS_CHANGED | {"alpha": 0.1, "alpha_start": 0.1, "target_entropy": 1.0}

TABLE = {
    "ppo, steps": Algorithm(
        ppo, ppo.Config(**PPO | {"minibatch": 12}), ppo_walk, PPO_CHANGED | {"minibatch": 8, "micro_batch": 5}
    ),
    "actor_critic": Algorithm(
        actor_critic, actor_critic.Config(steps=70, report_every=20), actor_critic_pole, ACTOR_CRITIC_CHANGED
    ),
    "q_actor_critic": Algorithm(
        q_actor_critic,
        q_actor_critic.Config(iterations=5, report_every=2),
        q_actor_critic_pole,
        Q_ACTOR_CRITIC_CHANGED,
    ),
    "reinforce": Algorithm(reinforce, reinforce.Config(steps=200), reinforce_pole, REINFORCE_CHANGED),
    "a2c": Algorithm(a2c, a2c.Config(iterations=5, rollout=6, report_every=2), a2c_walk, A2C_CHANGED),
    "natural_actor_critic": Algorithm(
        natural_actor_critic,
        natural_actor_critic.Config(**NATURAL),
        functools.partial(natural_walk, natural_actor_critic),
        NATURAL_CHANGED,
    ),
    "trpo": Algorithm(
        trpo,
        trpo.Config(**NATURAL),
        functools.partial(natural_walk, trpo),
        NATURAL_CHANGED
        | {
            "kl_tolerance": With(0.9, {"damping": 0.0}),
            "backtracks": With(1, {"damping": 0.0, "kl_tolerance": 0.1}),
        },
    ),
    "ppo, tokens": Algorithm(ppo, ppo.Config(**PPO), ppo_tokens, PPO_CHANGED),
    "pretrain": Algorithm(pretrain, pretrain.Config(**SUPERVISED), pretrain_start, SUPERVISED_CHANGED | {"block": 2}),
    "sft": Algorithm(sft, sft.Config(**SUPERVISED), sft_start, SUPERVISED_CHANGED),
    "reward_model": Algorithm(
        reward_model, reward_model.Config(**SUPERVISED), reward_start, SUPERVISED_CHANGED | {"ties": "half"}
    ),
    "rlhf": Algorithm(rlhf, rlhf.Config(**PPO), functools.partial(from_feedback, rlhf), RLHF_CHANGED),
    "rloo": Algorithm(rloo, rloo.Config(**RLOO), functools.partial(from_feedback, rloo), RLOO_CHANGED, CRITIC),
    "grpo": Algorithm(
        grpo,
        grpo.Config(**RLOO),
        functools.partial(from_feedback, grpo),
        RLOO_CHANGED | {"advantage_epsilon": 0.5},
        CRITIC,
    ),
    "dpg": Algorithm(dpg, dpg.Config(steps=40, report_every=8, actor_step=0.1), dpg_start, DPG_CHANGED),
    "dqn": Algorithm(
        dqn, dqn.Config(**OFF_POLICY, learning_rate=0.01, target_every=8, epsilon_steps=24), dqn_start, DQN_CHANGED
    ),
    "ddpg": Algorithm(ddpg, ddpg.Config(**CONTINUOUS), functools.partial(pendulum, ddpg), DDPG_CHANGED),
    "td3": Algorithm(td3, td3.Config(**CONTINUOUS), functools.partial(pendulum, td3), TD3_CHANGED),
    "sac": Algorithm(sac, sac.Config(**CONTINUOUS), functools.partial(pendulum, sac), SAC_CHANGED),
    "dpo": Algorithm(
        dpo,
        dpo.Config(**SUPERVISED, floor=0.1),
        dpo_start,
        SUPERVISED_CHANGED | {"schedule": "cosine", "reference_beta": 0.3, "objective": "ipo", "label_smoothing": 0.2},
    ),
}


@pytest.fixture(params=TABLE)
def algorithm(request: pytest.FixtureRequest) -> Algorithm:
    return TABLE[request.param]


def network(state: Any) -> nn.Module:
    return state.model if hasattr(state, "model") else state.policy


def start(algorithm: Algorithm, config: Any, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return algorithm.start(config, seed)


def weights(state: Any) -> list[Tensor]:
    return [x.clone() for x in network(state).state_dict().values()]


def run(algorithm: Algorithm, config: Any, seed: int = 0) -> tuple[list[dict[str, float]], list[Tensor], int]:
    """(metrics of every update, final weights, how often the network was called)."""
    state, calls = start(algorithm, config, seed), []
    first = next(m for m in network(state).modules() if not list(m.children()))
    first.register_forward_hook(lambda *_: calls.append(1))
    metrics = list(algorithm.module.train(state, config))
    return metrics, weights(state), len(calls)


def same(a: Any, b: Any) -> bool:
    """Bit for bit."""
    return a[0] == b[0] and all(map(torch.equal, a[1], b[1])) and a[2:] == b[2:]


def test_training_changes_the_weights_and_yields_finite_metrics(algorithm):
    before = weights(start(algorithm, algorithm.config))
    metrics, after, _ = run(algorithm, algorithm.config)
    assert len(metrics) >= 3
    assert all(m.keys() == metrics[0].keys() for m in metrics)
    assert all(isinstance(x, float) and math.isfinite(x) for m in metrics for x in m.values())
    assert not all(map(torch.equal, before, after))


def test_a_seed_gives_one_result_and_another_seed_another(algorithm):
    first = run(algorithm, algorithm.config)
    assert same(first, run(algorithm, algorithm.config))
    assert not same(first, run(algorithm, algorithm.config, seed=1))


def test_a_run_resumed_after_any_update_ends_as_if_uninterrupted(algorithm, tmp_path):
    config = algorithm.config
    if isinstance(config, rlhf.Config):
        config = dataclasses.replace(
            config, ptx_coefficient=0.5, ptx_batch=2, reference_rule="ziegler", reference_horizon=20.0
        )
    state, metrics = start(algorithm, config), []
    for update in algorithm.module.train(state, config):
        metrics.append(update)
        checkpoint.save(tmp_path / str(len(metrics)), state)
    for stopped in range(1, len(metrics)):
        resumed = start(algorithm, config)
        next(algorithm.module.train(resumed, config))  # what is loaded must replace all of it
        checkpoint.load(tmp_path / str(stopped), resumed)
        rest = list(algorithm.module.train(resumed, config))
        assert same((rest, weights(resumed)), (metrics[stopped:], weights(state))), f"after update {stopped}"


def result_or_refusal(algorithm: Algorithm, config: Any) -> Any:
    try:
        return run(algorithm, config)
    except InputError as error:
        return str(error)


def test_every_setting_changes_the_result_or_is_refused(algorithm, unchecked_types):
    assert algorithm.changed.keys() == {field.name for field in dataclasses.fields(algorithm.config)}
    known: dict[str, Any] = {}
    idle, refused = set(), set()
    for name, value in algorithm.changed.items():
        change = value if isinstance(value, With) else With(value, {})
        base = dataclasses.replace(algorithm.config, **change.given)
        assert getattr(base, name) != change.value
        before = known[str(base)] = known.get(str(base)) or run(algorithm, base)
        after = result_or_refusal(algorithm, dataclasses.replace(base, **{name: change.value}))
        if isinstance(after, str):
            assert name in after
            refused.add(name)
        elif same(before, after):
            idle.add(name)
    assert (idle, refused) == (set(), algorithm.refused)


def test_a_config_is_frozen_and_has_defaults(algorithm):
    config = type(algorithm.config)()
    name = dataclasses.fields(config)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, name, 1)
