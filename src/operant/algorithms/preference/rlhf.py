"""Reinforcement learning from human feedback by PPO (Ziegler et al. 2019; Ouyang et al. 2022, step 3).

    repeat
        roll out   responses to prompts; the reward model scores each one
        evaluate   r_t = -β (log π - log π_ref) + [last] score, then GAE
        optimise   PPO; with a pretraining stream, plus γ_ptx times its loss (PPO-ptx)

    objective: E[r(x, y) - β log π/π_ref] + γ_ptx E_pretraining[log π]      (Ouyang et al. 2022, eq. 2)

What is PPO's is in `policy_gradient/ppo.py`, the file that also trains CartPole; here is what language adds: the KL to
the reference as a reward for every token, and the pretraining stream.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from operant.algorithms.policy_gradient import ppo
from operant.algorithms.preference import pretrain
from operant.core.divergences import AdaptiveKL, kl_estimate, kl_shaped_reward
from operant.core.losses import rescale
from operant.core.record import Trajectory
from operant.core.schedules import Schedule
from operant.core.shuffle import Shuffle
from operant.text.language_model import LanguageModel, as_reference
from operant.text.world import PromptWorld, evaluate

Metrics = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Config(ppo.Config):
    iterations: int = 40
    """Rollouts, each followed by one update."""
    rollout: int = 128
    """Prompts in a rollout."""
    epochs: int = 2
    """Passes over each rollout."""
    minibatch: int = 64
    """Responses in a minibatch."""
    micro_batch: int = 8192
    """Tokens that go through the network at once, padding included."""
    learning_rate: float = 3e-4
    """Peak step size of Adam."""
    schedule: Schedule = "constant"
    """How the step size goes down to 0 over the run."""
    gamma: float = 1.0
    """Discount γ between tokens."""
    value_clip: float | None = 0.2
    """Limit on how far a value may move in one update; none = no limit."""
    value_coefficient: float = 0.1
    """Weight c_v of the value loss."""
    entropy_coefficient: float = 0.0
    """Weight c_e of the entropy bonus; the KL to the reference does its work."""
    max_gradient_norm: float = 1.0
    """Gradients longer than this are shortened to it."""
    reference_beta: float = 0.1
    """β: the price of KL to the reference, per nat."""
    reference_target: float = 6.0
    """KL per response that an adaptive β steers to."""
    reference_rule: Literal["fixed", "ziegler", "schulman"] = "fixed"
    """How β follows the KL: not at all, in proportion (Ziegler 2019), or by doubling and halving (Schulman 2017)."""
    reference_horizon: float = 10_000.0
    """Responses over which the proportional rule acts."""
    whiten_rewards: bool = False
    """Shaped rewards get deviation 1, their mean kept; often harmful."""
    ptx_coefficient: float = 0.0
    """γ_ptx: weight of the pretraining loss, a mean per token; 0 is plain PPO (InstructGPT used 27.8)."""
    ptx_batch: int = 8
    """Blocks of pretraining text that go with each minibatch."""


@dataclasses.dataclass
class State:
    ppo: ppo.State
    reference_penalty: AdaptiveKL
    text_order: Shuffle
    reference: LanguageModel | None = dataclasses.field(metadata={"saved": False})
    text: Int[Tensor, "N L"] | None = dataclasses.field(metadata={"saved": False})

    @property
    def step(self) -> int:
        return self.ppo.step

    @property
    def policy(self) -> LanguageModel:
        return self.ppo.policy


def init(
    policy: LanguageModel,
    reference: LanguageModel | None,
    world: PromptWorld,
    config: Config,
    text: Int[Tensor, "N L"] | None = None,
    seed: int = 0,
) -> State:
    """`reference` None: the policy without its LoRA adapter. `text`: blocks of pretraining text, for PPO-ptx."""
    if config.ptx_coefficient and text is None:
        raise ValueError("ptx_coefficient > 0 needs pretraining text")
    penalty = AdaptiveKL(
        config.reference_beta, config.reference_target, config.reference_rule, config.reference_horizon
    )
    order = Shuffle(len(text) if text is not None else 1, seed)
    return State(ppo.init(policy, world, config), penalty, order, reference, text)


def shape(
    trajectory: Trajectory, ref_log_prob: Float[Tensor, "B T"], beta: float, config: Config
) -> tuple[Trajectory, Metrics]:
    """The trajectory with KL-shaped rewards, and what the rollout was worth before shaping."""
    t = trajectory
    score = t.reward.sum(-1)
    reward = kl_shaped_reward(score, t.log_prob, ref_log_prob, t.mask, beta)
    if config.whiten_rewards:
        reward = rescale(reward, t.mask)
    kl = torch.where(t.mask, kl_estimate(t.log_prob, ref_log_prob, "k1"), 0.0).sum(-1)
    metrics = {
        "objective/kl": kl.mean().item(),
        "objective/score": score.mean().item(),
        "objective/rlhf_reward": (score - beta * kl).mean().item(),
        "objective/reference_beta": beta,
    }
    return dataclasses.replace(t, reward=reward), metrics


def train(
    state: State, config: Config, prepare: Callable[[Trajectory, Config], ppo.Batch] = ppo.prepare
) -> Iterator[Metrics]:
    """Roll out, evaluate, optimise; yields after every update. RLOO and GRPO put another `prepare` in GAE's place."""
    world: PromptWorld = state.ppo.world  # pyright: ignore[reportAssignmentType]

    def pretraining_loss() -> Tensor:
        assert state.text is not None
        text = state.text[state.text_order.take(config.ptx_batch)].to(state.policy.model.device)
        return config.ptx_coefficient * pretrain.loss(state.policy, text)

    while state.step < config.iterations:
        trajectory = world.rollout(state.policy, config.rollout)
        with as_reference(state.policy, state.reference) as reference:
            ref_log_prob = evaluate(reference, trajectory.observation, trajectory.action).log_prob
        trajectory, metrics = shape(trajectory, ref_log_prob, state.reference_penalty.coefficient, config)
        auxiliary = pretraining_loss if config.ptx_coefficient else None
        metrics |= world.measured() | ppo.update(state.ppo, prepare(trajectory, config), config, auxiliary)
        state.reference_penalty.update(metrics["objective/kl"], len(trajectory.reward))
        state.ppo.step += 1
        yield metrics
