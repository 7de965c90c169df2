"""Any Gymnasium vector environment as a source of trajectories and of transitions."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray
from torch import Tensor

from operant.core.errors import InputError
from operant.core.record import Policy, Trajectory
from operant.envs.normalise import ObservationNormalizer, RewardNormalizer
from operant.envs.prioritised import PrioritisedReplay
from operant.envs.replay import Replay
from operant.envs.saving import environment_state, resumes, set_environment_state
from operant.envs.tally import Tally

Choose = Callable[[NDArray[Any]], NDArray[Any]]
"""Observations [B, ...] to actions [B, ...]."""
EPISODE_PIECE = 64
"""Steps between looks at whether all episodes are over."""


@runtime_checkable
class Reflex(Protocol):
    """A policy that can choose without computing anything else: the rest of the record comes in one pass at the end."""

    def choose(self, observation: Any, greedy: bool = False) -> Tensor: ...

    def value(self, observation: Any) -> Tensor: ...


@runtime_checkable
class Quick(Protocol):
    """A policy that can choose in NumPy: for the few rows of a step that is quicker than in PyTorch."""

    def reflex(self, steps: int, rows: int, greedy: bool) -> Callable[[NDArray[Any], int], NDArray[Any]]:
        """A function (observation [B, ...], step) -> action [B, ...] for so many steps of so many rows."""
        ...


class Runner:
    """B environments that step together and go on where the last rollout stopped.

    With Gymnasium's NEXT_STEP autoreset the step after an episode's end ignores the action and returns the reset
    observation: it is no decision (`mask` False), and the observation at the ending step is the true last one. With
    SAME_STEP that one is in `info["final_obs"]`; with DISABLED the runner resets what ended. In all three `next_value`
    is the value of the state really reached, truncated or not.

    Observations are recorded as float32, images of bytes as bytes, and actions as they were chosen. Those for a Box are
    clipped to it for the environment, unless `clip_actions` is off. `observations` and `rewards` normalise what is
    recorded; returns of episodes are sums of the environment's rewards, or what the environment's own `tally` counts.
    Raises `InputError` for spaces that do not fit, and for an observation or a reward that is no finite number.
    """

    def __init__(
        self,
        env: str | VectorEnv,
        envs: int = 8,
        seed: int = 0,
        clip_actions: bool = True,
        observations: ObservationNormalizer | None = None,
        rewards: RewardNormalizer | None = None,
    ) -> None:
        self.env: Any = gymnasium.make_vec(env, num_envs=envs) if isinstance(env, str) else env
        self.mode = self.env.metadata.get("autoreset_mode")
        if not isinstance(self.mode, AutoresetMode):
            raise InputError(f"{self.env} names no autoreset mode but {self.mode}: make it with an AutoresetMode")
        self.actions = self.env.single_action_space
        if not isinstance(self.actions, spaces.Discrete | spaces.MultiDiscrete | spaces.Box):
            raise InputError(f"the runner takes Discrete, MultiDiscrete and Box actions, not {self.actions}")
        if not isinstance(self.env.single_observation_space, spaces.Box):
            raise InputError(
                f"the runner sees Box observations, not {self.env.single_observation_space}: "
                "make a Box of them with gymnasium.wrappers.FlattenObservation"
            )
        self.seed, self.steps = seed, 0
        self.clip_actions, self.observations, self.rewards = clip_actions, observations, rewards
        self._begin(seed)

    def _begin(self, seed: int | None) -> None:
        """New episodes in all environments."""
        observation, _ = self.env.reset(seed=seed)
        self._check(observation, "observation")
        self.observation = self._see(observation)
        self.resetting = np.zeros(self.env.num_envs, dtype=bool)
        self.tally = getattr(self.env, "tally", None) or Tally(self.env.num_envs)

    def rollout(self, policy: Policy, size: int, greedy: bool = False) -> Trajectory:
        """`size` steps of every environment, as [B, size] decisions."""
        if policy.memory:
            raise InputError("the runner carries no recurrent state: it takes policies whose `memory` is False")
        place, first = (self.env.num_envs, size), self.steps
        seen = np.empty((*place, *self.observation.shape[1:]), self.observation.dtype)
        action = np.empty((*place, *self.actions.shape), np.float32 if isinstance(self.actions, spaces.Box) else int)
        log_prob, value = (np.empty(place, np.float32) for _ in range(2))
        reward = np.empty(place)
        terminated, truncated, mask = (np.empty(place, bool) for _ in range(3))
        finals: list[NDArray[Any]] = []
        choose = _chooser(policy, size, place[0], greedy)
        for t in range(size):
            seen[:, t], mask[:, t] = self.observation, ~self.resetting
            if choose is not None:
                action[:, t] = choose(self.observation, t)
            else:
                action[:, t], log_prob[:, t], value[:, t], _ = policy.act(_tensor(self.observation), None, greedy)
            reward[:, t], terminated[:, t], truncated[:, t], final = self._step(action[:, t])
            finals += [] if final is None else [final]
        self._check(seen, "observation", first)
        self._check(self.observation, "observation", self.steps)
        self._check(reward, "reward", first + 1)
        self._count(reward, terminated | truncated, mask)
        if self.rewards is not None:
            reward = self.rewards(reward, terminated | truncated, mask)
        record = {k: _tensor(x) for k, x in {
            "observation": seen, "action": action, "log_prob": log_prob, "value": value,
            "reward": reward.astype(np.float32), "terminated": terminated, "truncated": truncated, "mask": mask,
        }.items()}  # fmt: skip
        reached = _tensor(np.concatenate([self.observation, *finals]))
        with torch.no_grad():
            if choose is not None:
                record["log_prob"], _, record["value"] = policy.evaluate(record["observation"], record["action"])
            reached_value = policy.value(reached) if isinstance(policy, Reflex) else policy.act(reached)[2]
        next_value = torch.cat([record["value"][:, 1:], reached_value[: place[0], None]], dim=1)
        if finals:  # in the order of time, and of environments within a step
            steps, environments = (record["terminated"] | record["truncated"]).T.nonzero(as_tuple=True)
            next_value[environments, steps] = reached_value[place[0] :]
        return Trajectory(next_value=next_value, discount=(~record["terminated"]).float(), **record)

    def episodes(self, policy: Policy, greedy: bool = False, limit: int = 100_000) -> Trajectory:
        """One whole episode of every environment, [B, T] for the longest; the rest of a shorter one has `mask` False.

        Raises `InputError` if an episode does not end within `limit` steps.
        """
        self._begin(None)
        pieces: list[Trajectory] = []
        over = torch.zeros(self.env.num_envs, 1, dtype=torch.bool)
        while not over.all():
            if len(pieces) * EPISODE_PIECE >= limit:
                raise InputError(f"an episode of {self.name} has not ended after {limit} steps: give it a time limit")
            piece = self.rollout(policy, EPISODE_PIECE, greedy)
            ended = piece.done.cumsum(1)
            before = over | ((ended - piece.done.long()) > 0)
            over = over | (ended[:, -1:] > 0)
            pieces.append(dataclasses.replace(piece, mask=piece.mask & ~before))
        joined = {f.name: torch.cat([getattr(x, f.name) for x in pieces], 1) for f in dataclasses.fields(Trajectory)}
        longest = int(joined["mask"].any(0).sum())
        return Trajectory(**{name: x[:, :longest] for name, x in joined.items()})

    def collect(
        self, choose: Callable[[NDArray[Any], int], NDArray[Any]], replay: Replay | PrioritisedReplay, size: int
    ) -> None:
        """`size` steps of every environment into `replay`. `choose`: (observation [B, ...], step) -> action [B, ...]."""
        place, first = (size, self.env.num_envs), self.steps
        seen, reached = (np.empty((*place, *self.observation.shape[1:]), self.observation.dtype) for _ in range(2))
        action = np.empty((*place, *self.actions.shape), np.float32 if isinstance(self.actions, spaces.Box) else int)
        reward = np.empty(place)
        terminated, truncated, mask = (np.empty(place, bool) for _ in range(3))
        for t in range(size):
            seen[t], mask[t] = self.observation, ~self.resetting
            action[t] = choose(self.observation, t)
            reward[t], terminated[t], truncated[t], final = self._step(action[t])
            reached[t] = self.observation
            if final is not None:
                reached[t, terminated[t] | truncated[t]] = final
        # Statistics have the environments first.
        rewards, done, decided = (np.ascontiguousarray(x.T) for x in (reward, terminated | truncated, mask))
        self._check(np.swapaxes(reached, 0, 1), "observation", first + 1)
        self._check(rewards, "reward", first + 1)
        self._count(rewards, done, decided)
        if self.rewards is not None:
            reward = self.rewards(rewards, done, decided).T
        replay.add(seen, action, reward, terminated, truncated, reached, mask)

    def replay(self, capacity: int, gamma: float, n: int = 1) -> Replay:
        """An empty buffer for what `collect` sees here."""
        shape, kind = self.observation.shape[1:], np.float32 if isinstance(self.actions, spaces.Box) else np.int64
        envs = self.env.num_envs
        return Replay(capacity, shape, self.actions.shape, envs, gamma, n, self.observation.dtype, kind)

    def play(self, policy: Any, size: int, greedy: bool = True) -> None:
        """`size` steps of every environment of which only the returns of episodes are kept: evaluation, or a film."""
        for _ in range(size):
            mask = ~self.resetting
            reward, terminated, truncated, _ = self._step(policy.choose(_tensor(self.observation), greedy).numpy())
            self._count(reward[:, None], (terminated | truncated)[:, None], mask[:, None])

    def _step(self, action: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any] | None]:
        """(reward, terminated, truncated, the last observations of episodes that ended and were reset at once)."""
        observation, reward, terminated, truncated, info = self.env.step(self._executed(action))
        self.steps += 1
        final = None
        if self.mode == AutoresetMode.NEXT_STEP:
            self.resetting = terminated | truncated
        elif (done := terminated | truncated).any():
            last = observation[done]
            if self.mode == AutoresetMode.SAME_STEP:
                last = np.stack(list(info["final_obs"][done]))
            else:
                observation, _ = self.env.reset(options={"reset_mask": done.copy()})
            self._check(last, "observation", self.steps, done.nonzero()[0])
            final = self._see(last)
        self.observation = self._see(observation)
        return reward, terminated, truncated, final

    def _count(self, reward: NDArray[Any], done: NDArray[np.bool_], mask: NDArray[np.bool_]) -> None:
        if self.tally is not getattr(self.env, "tally", None):
            self.tally.add(reward, done, mask)

    def _see(self, observation: NDArray[Any]) -> NDArray[Any]:
        if self.observations is not None:
            return self.observations(observation)
        return np.array(observation, dtype=np.uint8 if observation.dtype == np.uint8 else np.float32)

    def _executed(self, action: NDArray[Any]) -> NDArray[Any]:
        if isinstance(self.actions, spaces.Box):
            clipped = action.clip(self.actions.low, self.actions.high) if self.clip_actions else action
            return clipped.astype(self.actions.dtype)
        return action + self.actions.start

    def _check(self, x: NDArray[Any], what: str, step: int = 0, environments: NDArray[Any] | None = None) -> None:
        """Raise `InputError` if there is no finite number in x [B, ...] of one step, or [B, T, ...] from `step` on."""
        if x.dtype.kind != "f":
            return
        # One sum is quicker than many comparisons; it may overflow where no value is wrong.
        with np.errstate(all="ignore"):
            total = x.sum()
        if not math.isfinite(total) and not (fine := np.isfinite(x)).all():
            many = x.ndim > self.observation.ndim if what == "observation" else x.ndim > 1
            places = (~fine).reshape(*x.shape[: 1 + many], -1).any(-1).T.nonzero()
            row = places[-1][0]
            value = x[row, places[0][0]] if many else x[row]
            environment = row if environments is None else environments[row]
            raise InputError(
                f"environment {environment} gave the {what} {value} at step {step + many * places[0][0]}, which is no "
                "finite number: look into the environment, or into the actions it was given"
            )

    def pop_returns(self) -> list[float]:
        """Returns of the episodes that ended since the last call."""
        returns, self.tally.returns = self.tally.returns, []
        return returns

    def pop_lengths(self) -> list[int]:
        """Steps of the episodes that ended since the last call."""
        lengths, self.tally.lengths = self.tally.lengths, []
        return lengths

    @property
    def resumes(self) -> bool:
        """Whether the environments' own state is saved too. Where it is not, a resumed run begins new episodes."""
        return resumes(self.env)

    @property
    def name(self) -> str:
        """What the environments are: a checkpoint fits no others."""
        spec = self.env.spec or getattr(self.env, "envs", [self.env])[0].spec
        return f"{self.env.num_envs} x {type(self.env.unwrapped).__name__ if spec is None else spec.id}"

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides the next rollout, the environments' state where it can be had."""
        return {
            "name": self.name,
            "steps": self.steps,
            "observation": self.observation.copy(),
            "resetting": self.resetting.copy(),
            "tally": self.tally.state_dict(),
            "observations": None if self.observations is None else self.observations.state_dict(),
            "rewards": None if self.rewards is None else self.rewards.state_dict(),
            "environment": environment_state(self.env) if self.resumes else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken. Raises `InputError` if it is of other environments."""
        if state["name"] != self.name:
            raise InputError(f"the saved state is of {state['name']}, and this run has {self.name}: use the same ones")
        self.steps = state["steps"]
        if self.observations is not None:
            self.observations.load_state_dict(state["observations"])
        if self.rewards is not None:
            self.rewards.load_state_dict(state["rewards"])
        if state["environment"] is None:
            self._begin(self.seed + self.steps)  # another seed, or the run's first episodes would come again
            self.tally.returns, self.tally.lengths = list(state["tally"]["returns"]), list(state["tally"]["lengths"])
            if self.rewards is not None:
                self.rewards.running[:] = 0.0
            return
        set_environment_state(self.env, state["environment"])
        self.observation, self.resetting = state["observation"].copy(), state["resetting"].copy()
        self.tally.load_state_dict(state["tally"])


def _tensor(x: NDArray[Any]) -> Tensor:
    return torch.from_numpy(x)


def _chooser(policy: Any, steps: int, rows: int, greedy: bool) -> Callable[[NDArray[Any], int], NDArray[Any]] | None:
    """(observation, step) -> action, by the quickest way that the policy has; None if it has to `act`."""
    if isinstance(policy, Quick):
        return policy.reflex(steps, rows, greedy)
    if isinstance(policy, Reflex):
        return lambda observation, _: policy.choose(_tensor(observation), greedy).numpy()
    return None
