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
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from operant.algorithms.policy_gradient import ppo
from operant.algorithms.preference import sft
from operant.core.divergences import AdaptiveKL, kl_estimate, kl_shaped_reward
from operant.core.errors import InputError
from operant.core.losses import rescale
from operant.core.record import Trajectory
from operant.core.schedules import Schedule
from operant.core.shuffle import Shuffle
from operant.text.context import Context
from operant.text.language_model import LanguageModel, as_reference
from operant.text.tokenizer import Example
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
    micro_batch: int = 1024
    """Tokens that go through the network at once, padding included; 1,024 suit a CPU's caches, a GPU likes more."""
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
    """Documents of pretraining text, or pieces of long ones, that go with each minibatch."""
    ptx_block: int = 128
    """Longer documents are cut into pieces of so many tokens."""


@dataclasses.dataclass
class State:
    ppo: ppo.State
    reference_penalty: AdaptiveKL
    text_order: Shuffle
    reference: LanguageModel | None = dataclasses.field(metadata={"saved": False})
    text: Sequence[Example] = dataclasses.field(metadata={"saved": False})

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
    text: Sequence[Example] = (),
    seed: int = 0,
) -> State:
    """`reference` None: the policy without its LoRA adapter. `text`: documents of pretraining, for PPO-ptx."""
    if not isinstance(policy, LanguageModel):
        raise InputError(f"the policy is a {type(policy).__name__}; give a LanguageModel, which wraps a causal model")
    if policy.value is None and config.value_coefficient:
        raise InputError(
            f"the policy has no value function and value_coefficient is {config.value_coefficient}: give it a value "
            "head or a value model, or use RLOO or GRPO, which need none"
        )
    if reference is not None and reference.model is policy.model:
        raise InputError("policy and reference are one model, so the KL would always be 0: give the reference a copy")
    with as_reference(policy, reference):
        pass
    if config.ptx_coefficient and not text:
        raise InputError(
            f"ptx_coefficient is {config.ptx_coefficient} and there is no pretraining text: give some, or 0"
        )
    penalty = AdaptiveKL(
        config.reference_beta, config.reference_target, config.reference_rule, config.reference_horizon
    )
    return State(ppo.init(policy, world, config), penalty, Shuffle(max(len(text), 1), seed), reference, text)


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


def _check_start(metrics: Metrics, world: PromptWorld) -> None:
    if abs(metrics["objective/kl"]) > 0.05:
        warnings.warn(
            f"the KL to the reference is {metrics['objective/kl']:.3f} nats before the first step and should be 0: the "
            "policy does not start from its reference",
            stacklevel=3,
        )
    if metrics["rollout/eos_rate"] == 0 and world.missing_stop_score is not None:
        warnings.warn(
            f"no response of the first rollout ended within {world.max_new_tokens} tokens: the policy has not learned "
            "to stop. Fine-tune it on responses that end with the stop token, or allow more tokens",
            stacklevel=3,
        )


def train(
    state: State, config: Config, prepare: Callable[[Trajectory, Config], ppo.Batch] = ppo.prepare
) -> Iterator[Metrics]:
    """Roll out, evaluate, optimise; yields after every update. RLOO and GRPO put another `prepare` in GAE's place."""
    world: PromptWorld = state.ppo.world  # pyright: ignore[reportAssignmentType]

    def pretraining_loss() -> Iterator[Tensor]:
        documents = [state.text[i] for i in state.text_order.take(config.ptx_batch)]
        for part in sft.parts(state.policy, documents, config.micro_batch):
            yield config.ptx_coefficient * part

    while state.step < config.iterations:
        trajectory = world.rollout(state.policy, config.rollout)
        context: Context = trajectory.observation  # pyright: ignore[reportAssignmentType]
        with as_reference(state.policy, state.reference) as reference:
            ref_log_prob = evaluate(reference, context, trajectory.action, config.micro_batch).log_prob
        trajectory, metrics = shape(trajectory, ref_log_prob, state.reference_penalty.coefficient, config)
        metrics |= world.measured()
        if state.step == 0:
            _check_start(metrics, world)
        auxiliary = pretraining_loss if config.ptx_coefficient else None
        metrics |= ppo.update(state.ppo, prepare(trajectory, config), config, auxiliary)
        state.reference_penalty.update(metrics["objective/kl"], len(trajectory.reward))
        state.ppo.step += 1
        yield metrics
