"""Any Gymnasium vector environment as a source of trajectories and of transitions."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import concatenate, create_empty_array
from numpy.typing import NDArray
from torch import Tensor

from operant.core.errors import InputError
from operant.core.record import Trajectory
from operant.envs.masks import ActionMasks, renewed
from operant.envs.normalise import ObservationNormalizer, RewardNormalizer
from operant.envs.observation import numbers
from operant.envs.prioritised import PrioritisedReplay
from operant.envs.replay import Replay
from operant.envs.saving import environment_state, resumes, set_environment_state
from operant.envs.tally import Tally
from operant.networks.masks import MaskedBox
from operant.networks.recurrent import Remembered

Choose = Callable[[NDArray[Any], int], NDArray[Any]]
"""(observations [B, ...], step) to actions [B, ...]."""
CPU = torch.device("cpu")
EPISODE_PIECE = 64
"""Steps between looks at whether all episodes are over."""


class Runner:
    """B environments that step together and go on where the last rollout stopped.

    With Gymnasium's NEXT_STEP autoreset the step after an episode's end ignores the action and returns the reset
    observation: it is no decision (`mask` False), and the observation at the ending step is the true last one. With
    SAME_STEP that one is in `info["final_obs"]`; with DISABLED the runner resets what ended. In all three `next_value`
    is the value of the state really reached, truncated or not.

    Observations are recorded as float32, images of bytes as bytes, and actions as they were chosen. Those for a Box are
    clipped to it for the environment, unless `clip_actions` is off. `observations` and `rewards` normalise what is
    recorded; returns of episodes are sums of the environment's rewards, or what the environment's own `tally` counts.

    What a policy sees is in `observation_space`: one-hot numbers for choices, all parts of a Dict side by side, and a
    mask behind them where the environment says which actions are allowed (`envs.masks`). The last state of an
    episode has its own mask, since values are computed of it, and ones only where that allows nothing or is not known:
    after a SAME_STEP reset a method `action_masks()` can no longer be asked about it.

    A policy that computes on another `device` than the CPU is given what it sees there, and so are the records that are
    made with it.

    A policy with memory sees `Remembered` observations. Its state goes on from step to step and is 0 where an episode
    begins; a reset step still belongs to the episode that ended, because the value of its last state needs what was
    remembered.
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
        self.observation_space, self.numbers = numbers(self.env.single_observation_space)
        self.seed, self.steps = seed, 0
        self.clip_actions, self.observations, self.rewards = clip_actions, observations, rewards
        self.memory: Tensor | None = None
        self.tally = Tally(self.env.num_envs)
        self._begin(seed)
        if self.masks.size:
            self.observation_space = MaskedBox(self.observation_space, self.masks.size)

    def _begin(self, seed: int | None) -> None:
        """New episodes in all environments."""
        observation, info = self.env.reset(seed=seed)
        self.masks = ActionMasks(self.env, info)
        self.resetting = np.zeros(self.env.num_envs, dtype=bool)
        self.begins = ~self.resetting
        self._check(self.numbers(observation), "observation")
        self.observation = self._see(observation, info)
        self.tally = getattr(self.env, "tally", None) or self.tally
        self.tally.restart()
        if self.rewards is not None:
            self.rewards.running[:] = 0.0

    def rollout(self, policy: Any, size: int, greedy: bool = False) -> Trajectory:
        """`size` steps of every environment, as [B, size] decisions."""
        place, first = (self.env.num_envs, size), self.steps
        seen = np.empty((*place, *self.observation.shape[1:]), self.observation.dtype)
        action = np.empty((*place, *self.actions.shape), np.float32 if isinstance(self.actions, spaces.Box) else int)
        log_prob, value = (np.empty(place, np.float32) for _ in range(2))
        reward = np.empty(place)
        terminated, truncated, mask, begins = (np.empty(place, bool) for _ in range(4))
        finals: list[NDArray[Any]] = []
        last_memories: list[Tensor] = []
        self._recall(policy)
        first_memory, device = self.memory, _device(policy)
        choose = policy.reflex(size, place[0], greedy) if hasattr(policy, "reflex") else None
        for t in range(size):
            seen[:, t], mask[:, t], begins[:, t] = self.observation, ~self.resetting, self.begins
            if choose is not None:
                action[:, t] = choose(self.observation, t)
            else:
                *step, self.memory = policy.act(_tensor(self.observation).to(device), self._recall(policy), greedy)
                action[:, t], log_prob[:, t], value[:, t] = (x.cpu() for x in step)
            reward[:, t], terminated[:, t], truncated[:, t], final = self.step(action[:, t])
            if final is not None:
                finals.append(final)
                if self.memory is not None:
                    last_memories.append(self.memory[_tensor(terminated[:, t] | truncated[:, t])])
        self._check(seen, "observation", first)
        self._check(self.observation, "observation", self.steps)
        self._check(reward, "reward", first + 1)
        self._count(reward, terminated | truncated, mask)
        if self.rewards is not None:
            reward = self.rewards(reward, terminated | truncated, mask)
        record: dict[str, Any] = {k: _tensor(x).to(device) for k, x in {
            "observation": seen, "action": action, "log_prob": log_prob, "value": value,
            "reward": reward.astype(np.float32), "terminated": terminated, "truncated": truncated, "mask": mask,
        }.items()}  # fmt: skip
        reached = _tensor(np.concatenate([self.observation, *finals])).to(device)
        memory = None if self.memory is None else torch.cat([self.memory, *last_memories])
        with torch.no_grad():
            if choose is not None:
                record["log_prob"], _, record["value"] = policy.evaluate(record["observation"], record["action"])
            reached_value = policy.value(reached) if choose is not None else policy.act(reached, memory)[2]
        next_value = torch.cat([record["value"][:, 1:], reached_value[: place[0], None]], dim=1)
        if finals:  # in the order of time, and of environments within a step
            steps, environments = (record["terminated"] | record["truncated"]).T.nonzero(as_tuple=True)
            next_value[environments, steps] = reached_value[place[0] :]
        if first_memory is not None:
            record["observation"] = Remembered(record["observation"], _tensor(begins).to(device), first_memory)
        return Trajectory(next_value=next_value, discount=(~record["terminated"]).float(), **record)

    def episodes(self, policy: Any, greedy: bool = False, limit: int = 100_000) -> Trajectory:
        """One whole episode of every environment, [B, T] for the longest; the rest of a shorter one has `mask` False.

        Environments whose episode is over play on until the longest is; what they do then counts nowhere. Raises
        `InputError` if an episode does not end within `limit` steps.
        """
        self._begin(None)
        pieces: list[Trajectory] = []
        over = torch.zeros(self.env.num_envs, 1, dtype=torch.bool, device=_device(policy))
        while not over.all():
            if len(pieces) * EPISODE_PIECE >= limit:
                raise InputError(f"an episode of {self.name} has not ended after {limit} steps: give it a time limit")
            piece = self.rollout(policy, EPISODE_PIECE, greedy)
            ended = piece.done.cumsum(1)
            before = over | ((ended - piece.done.long()) > 0)
            over = over | (ended[:, -1:] > 0)
            pieces.append(dataclasses.replace(piece, mask=piece.mask & ~before))
            if self.tally is not getattr(self.env, "tally", None):
                self.tally.keep((~before).T[piece.done.T].tolist())
        longest = int(torch.cat([piece.mask for piece in pieces], 1).any(0).sum())
        return _joined(pieces, longest)

    def collect(self, choose: Choose, replay: Replay | PrioritisedReplay, size: int) -> None:
        """`size` steps of every environment into `replay`, with the actions that `choose` makes of what is seen."""
        place, first = (size, self.env.num_envs), self.steps
        seen, reached = (np.empty((*place, *self.observation.shape[1:]), self.observation.dtype) for _ in range(2))
        action = np.empty((*place, *self.actions.shape), np.float32 if isinstance(self.actions, spaces.Box) else int)
        reward = np.empty(place)
        terminated, truncated, mask = (np.empty(place, bool) for _ in range(3))
        for t in range(size):
            seen[t], mask[t] = self.observation, ~self.resetting
            action[t] = choose(self.observation, t)
            reward[t], terminated[t], truncated[t], final = self.step(action[t])
            reached[t] = self.observation
            if final is not None:
                reached[t, terminated[t] | truncated[t]] = final
        # Statistics have the environments first.
        rewards = np.ascontiguousarray(reward.T)
        done, decided = np.ascontiguousarray((terminated | truncated).T), np.ascontiguousarray(mask.T)
        self._check(np.swapaxes(reached, 0, 1), "observation", first + 1)
        self._check(rewards, "reward", first + 1)
        self._count(rewards, done, decided)
        if self.rewards is not None:
            reward = self.rewards(rewards, done, decided).T
        replay.add(seen, action, reward, terminated, truncated, reached, mask)

    def at_random(self, size: int) -> Choose:
        """Actions of `size` steps to come, drawn uniformly from the Box."""
        low, high = self.actions.low, self.actions.high
        drawn = low + (high - low) * torch.rand(size, self.env.num_envs, *self.actions.shape).numpy()
        return lambda observation, t: drawn[t]

    def replay(self, capacity: int, gamma: float, n: int = 1) -> Replay:
        """An empty buffer for what `collect` sees here."""
        shape, kind = self.observation.shape[1:], np.float32 if isinstance(self.actions, spaces.Box) else np.int64
        envs = self.env.num_envs
        return Replay(capacity, shape, self.actions.shape, envs, gamma, n, self.observation.dtype, kind)

    def play(self, policy: Any, size: int, greedy: bool = True) -> None:
        """`size` steps of every environment of which only the returns of episodes are kept: evaluation, or a film."""
        for _ in range(size):
            mask = ~self.resetting
            reward, terminated, truncated, _ = self.step(self.choose(policy, greedy))
            self._count(reward[:, None], (terminated | truncated)[:, None], mask[:, None])

    def choose(self, policy: Any, greedy: bool = False) -> NDArray[Any]:
        """What `policy` does next, for whoever steps the environments; one with memory remembers that it was asked."""
        if not policy.memory:
            return policy.choose(_tensor(self.observation).to(_device(policy)), greedy).cpu().numpy()
        seen = _tensor(self.observation).to(_device(policy))
        action, _, _, self.memory = policy.act(seen, self._recall(policy), greedy)
        return action.cpu().numpy()

    def _recall(self, policy: Any) -> Tensor | None:
        """The state [B, S] before the next step of a policy with memory."""
        if not policy.memory:
            self.memory = None
        elif self.memory is None:
            self.memory = policy.initial_state(self.env.num_envs)
        if self.memory is None:
            return None
        begins = _tensor(self.begins).to(self.memory.device)
        return torch.where(begins[:, None], 0.0, self.memory)

    def step(self, action: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any] | None]:
        """(reward, terminated, truncated, the last observations of episodes that ended and were reset at once)."""
        observation, reward, terminated, truncated, info = self.env.step(self._executed(action))
        self.steps += 1
        done, final = terminated | truncated, None
        self.begins = done
        if self.mode == AutoresetMode.NEXT_STEP:
            self.begins, self.resetting = self.resetting, done
        elif done.any():
            final = self._last(observation, info, done)
            if self.mode == AutoresetMode.DISABLED:
                observation, anew = self.env.reset(options={"reset_mask": done.copy()})
                info = renewed(info, anew)
        self.observation = self._see(observation, info)
        return reward, terminated, truncated, final

    def _count(self, reward: NDArray[Any], done: NDArray[np.bool_], mask: NDArray[np.bool_]) -> None:
        if self.tally is not getattr(self.env, "tally", None):
            self.tally.add(reward, done, mask)

    def _see(self, observation: Any, info: dict[str, Any]) -> NDArray[Any]:
        """What a policy sees of the environments, [B, ...]."""
        seen = self._scaled(self.numbers(observation))
        return self.masks.behind(seen, observation, info, self.resetting, self.steps)

    def _last(self, observation: Any, info: dict[str, Any], done: NDArray[np.bool_]) -> NDArray[Any]:
        """What a policy would see of the states [D, ...] in which episodes ended that do not wait for a reset step."""
        if self.mode == AutoresetMode.SAME_STEP:
            observation = _batch(self.env.single_observation_space, info["final_obs"][done])
            last = self.numbers(observation)
        else:
            last = self.numbers(observation)[done]
        self._check(last, "observation", self.steps, done.nonzero()[0])
        return self.masks.behind_last(self._scaled(last), observation, info, done, self.steps)

    def _scaled(self, seen: NDArray[Any]) -> NDArray[Any]:
        # Row by row, as a checkpoint gives it back: the last bit of a matrix product depends on the order in memory.
        if self.observations is not None:
            return np.ascontiguousarray(self.observations(seen))
        return np.array(seen, dtype=np.uint8 if seen.dtype == np.uint8 else np.float32, order="C")

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
            places = np.nonzero((~fine).reshape(*x.shape[: 1 + many], -1).any(-1).T)
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
            "begins": self.begins.copy(),
            "memory": self.memory,
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
            return
        set_environment_state(self.env, state["environment"])
        self.observation, self.memory = state["observation"].copy(), state["memory"]
        self.resetting, self.begins = state["resetting"].copy(), state["begins"].copy()
        self.tally.load_state_dict(state["tally"])


def _tensor(x: NDArray[Any]) -> Tensor:
    return torch.from_numpy(x)


def _device(policy: Any) -> torch.device:
    return getattr(policy, "device", CPU)


def _batch(space: spaces.Space[Any], observations: NDArray[Any]) -> Any:
    """Single observations as a vector environment would give them."""
    return concatenate(space, observations, create_empty_array(space, len(observations)))


def _joined(pieces: list[Trajectory], size: int) -> Trajectory:
    """Rollouts that follow one another as one, cut to `size` steps."""

    def join(parts: list[Any]) -> Any:
        if isinstance(parts[0], Remembered):
            seen, begins = (join([getattr(x, name) for x in parts]) for name in ("observation", "begins"))
            return Remembered(seen, begins, parts[0].state)
        return torch.cat(parts, 1)[:, :size]

    return Trajectory(**{f.name: join([getattr(x, f.name) for x in pieces]) for f in dataclasses.fields(Trajectory)})
