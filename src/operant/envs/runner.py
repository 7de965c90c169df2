"""Any Gymnasium vector environment as a source of trajectories and of transitions."""

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
from operant.envs.replay import Replay
from operant.envs.saving import environment_state, resumes, set_environment_state

COUNTS = ("resetting", "running_return", "running_length")


@runtime_checkable
class Reflex(Protocol):
    """A policy that can choose without computing anything else: the rest of the record comes in one pass at the end."""

    def choose(self, observation: Any, greedy: bool = False) -> Tensor: ...

    def value(self, observation: Any) -> Tensor: ...


class Runner:
    """B environments that step together and go on where the last rollout stopped.

    With Gymnasium's NEXT_STEP autoreset the step after an episode's end ignores the action and returns the reset
    observation: it is no decision (`mask` False), and the observation at the ending step is the true last one. With
    SAME_STEP that one is in `info["final_obs"]`; with DISABLED the runner resets what ended. In all three `next_value`
    is the value of the state really reached, truncated or not.

    Observations are recorded as float32, images of bytes as bytes, and actions as they were chosen. Those for a Box are
    clipped to it for the environment, unless `clip_actions` is off. `observations` and `rewards` normalise what is
    recorded; returns of episodes are sums of the environment's rewards.
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
        self.finished_returns: list[float] = []
        self.finished_lengths: list[int] = []
        self._begin(seed)

    def _begin(self, seed: int) -> None:
        """New episodes in all environments."""
        observation, _ = self.env.reset(seed=seed)
        self._check(observation, "observation")
        self.observation = self._see(observation)
        self.resetting = np.zeros(self.env.num_envs, dtype=bool)
        self.running_return = np.zeros(self.env.num_envs)
        self.running_length = np.zeros(self.env.num_envs, dtype=np.int64)

    def rollout(self, policy: Policy, size: int, greedy: bool = False) -> Trajectory:
        """`size` steps of every environment, as [B, size] decisions."""
        if policy.memory:
            raise InputError("the runner carries no recurrent state: it takes policies whose `memory` is False")
        place = (self.env.num_envs, size)
        seen = np.empty((*place, *self.observation.shape[1:]), self.observation.numpy().dtype)
        action = np.empty((*place, *self.actions.shape), np.float32 if isinstance(self.actions, spaces.Box) else int)
        log_prob, value, reward = (np.empty(place, np.float32) for _ in range(3))
        terminated, truncated, mask = (np.empty(place, bool) for _ in range(3))
        finals: list[Tensor] = []
        reflex = isinstance(policy, Reflex)
        for t in range(size):
            seen[:, t], mask[:, t] = self.observation.numpy(), ~self.resetting
            if reflex:
                action[:, t] = policy.choose(self.observation, greedy).numpy()
            else:
                action[:, t], log_prob[:, t], value[:, t], _ = policy.act(self.observation, None, greedy)
            reward[:, t], terminated[:, t], truncated[:, t], final = self._step(action[:, t])
            finals += [] if final is None else [final]
        record = {k: torch.from_numpy(x) for k, x in {
            "observation": seen, "action": action, "log_prob": log_prob, "value": value, "reward": reward,
            "terminated": terminated, "truncated": truncated, "mask": mask,
        }.items()}  # fmt: skip
        reached = torch.cat([self.observation, *finals])
        with torch.no_grad():
            if reflex:
                record["log_prob"], _, record["value"] = policy.evaluate(record["observation"], record["action"])
            reached_value = policy.value(reached) if reflex else policy.act(reached)[2]
        next_value = torch.cat([record["value"][:, 1:], reached_value[: place[0], None]], dim=1)
        if finals:  # in the order of time, and of environments within a step
            steps, environments = (record["terminated"] | record["truncated"]).T.nonzero(as_tuple=True)
            next_value[environments, steps] = reached_value[place[0] :]
        return Trajectory(next_value=next_value, discount=(~record["terminated"]).float(), **record)

    def collect(self, choose: Callable[[Tensor], Tensor], replay: Replay, size: int) -> None:
        """`size` steps of every environment into `replay`, with the actions that `choose` makes of observations."""
        for _ in range(size):
            observation, mask = self.observation.numpy(), ~self.resetting
            action = choose(self.observation).numpy()
            reward, terminated, truncated, final = self._step(action)
            reached = self.observation.numpy()
            if final is not None:
                reached = reached.copy()
                reached[terminated | truncated] = final.numpy()
            replay.add(observation, action, reward, terminated, truncated, reached, mask)

    def play(self, policy: Any, size: int, greedy: bool = True) -> None:
        """`size` steps of every environment of which only the returns of episodes are kept: evaluation, or a film."""
        for _ in range(size):
            self._step(policy.choose(self.observation, greedy).numpy())

    def _step(self, action: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], Tensor | None]:
        """(reward, terminated, truncated, the last observations of episodes that ended and were reset at once)."""
        observation, reward, terminated, truncated, info = self.env.step(self._executed(action))
        self.steps += 1
        self._check(observation, "observation")
        self._check(reward, "reward")
        mask, done, final = ~self.resetting, terminated | truncated, None
        self._count(reward, done, mask)
        if self.mode == AutoresetMode.NEXT_STEP:
            self.resetting = done
        elif done.any():
            last = observation[done]
            if self.mode == AutoresetMode.SAME_STEP:
                last = np.stack(list(info["final_obs"][done]))
                self._check(last, "observation", done.nonzero()[0])
            else:
                observation, _ = self.env.reset(options={"reset_mask": done.copy()})
                self._check(observation, "observation")
            final = self._see(last)
        self.observation = self._see(observation)
        if self.rewards is not None:
            reward = self.rewards(reward, done, mask)
        return reward, terminated, truncated, final

    def _see(self, observation: NDArray[Any]) -> Tensor:
        seen = observation if self.observations is None else self.observations(observation)
        return torch.from_numpy(np.array(seen, dtype=np.uint8 if seen.dtype == np.uint8 else np.float32))

    def _executed(self, action: NDArray[Any]) -> NDArray[Any]:
        if isinstance(self.actions, spaces.Box):
            clipped = action.clip(self.actions.low, self.actions.high) if self.clip_actions else action
            return clipped.astype(self.actions.dtype)
        return action + self.actions.start

    def _check(self, x: NDArray[Any], what: str, environments: NDArray[Any] | None = None) -> None:
        if x.dtype.kind != "f":
            return
        # One sum is quicker than many comparisons; it may overflow where no value is wrong.
        with np.errstate(all="ignore"):
            total = x.sum()
        if not np.isfinite(total) and not (fine := np.isfinite(x)).all():
            row = int((~fine).reshape(len(x), -1).any(1).argmax())
            environment = row if environments is None else environments[row]
            raise InputError(
                f"environment {environment} gave the {what} {x[row]} at step {self.steps}, which is no finite number: "
                "look into the environment, or into the actions it was given"
            )

    def _count(self, reward: NDArray[Any], done: NDArray[np.bool_], mask: NDArray[np.bool_]) -> None:
        self.running_return += np.where(mask, reward, 0.0)
        self.running_length += mask
        if done.any():
            self.finished_returns += self.running_return[done].tolist()
            self.finished_lengths += self.running_length[done].tolist()
            self.running_return[done], self.running_length[done] = 0.0, 0

    def pop_returns(self) -> list[float]:
        """Returns of the episodes that ended since the last call."""
        returns, self.finished_returns = self.finished_returns, []
        return returns

    def pop_lengths(self) -> list[int]:
        """Steps of the episodes that ended since the last call."""
        lengths, self.finished_lengths = self.finished_lengths, []
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
            "observation": self.observation.clone(),
            **{name: getattr(self, name).copy() for name in COUNTS},
            "finished_returns": list(self.finished_returns),
            "finished_lengths": list(self.finished_lengths),
            "observations": None if self.observations is None else self.observations.state_dict(),
            "rewards": None if self.rewards is None else self.rewards.state_dict(),
            "environment": environment_state(self.env) if self.resumes else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken. Raises `InputError` if it is of other environments."""
        if state["name"] != self.name:
            raise InputError(f"the saved state is of {state['name']}, and this run has {self.name}: use the same ones")
        self.steps = state["steps"]
        self.finished_returns, self.finished_lengths = list(state["finished_returns"]), list(state["finished_lengths"])
        if self.observations is not None:
            self.observations.load_state_dict(state["observations"])
        if self.rewards is not None:
            self.rewards.load_state_dict(state["rewards"])
        if state["environment"] is None:
            self._begin(self.seed + self.steps)  # another seed, or the run's first episodes would come again
            if self.rewards is not None:
                self.rewards.running[:] = 0.0
            return
        set_environment_state(self.env, state["environment"])
        self.observation = state["observation"].clone()
        for name in COUNTS:
            setattr(self, name, state[name].copy())
