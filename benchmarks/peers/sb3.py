"""Stable-Baselines3 (TRPO: sb3-contrib) on one task of control.toml. Prints one JSON line; see `control.py`.

    python peers/sb3.py ppo_cartpole --timed
    python peers/sb3.py ppo_cartpole --threshold 475 --seed 3
    python peers/sb3.py ppo_halfcheetah --evaluate 20

One thread. `seconds` are those of `learn` alone, after a short run of a throw-away model. Environments are made as the
zoo makes them: a DummyVecEnv of monitored ones, with VecNormalize or the Atari wrappers where the task says so.
"""

import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from sb3_contrib import TRPO
from side import Clock, Task, Threshold, parse_arguments, report, task
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_atari_env, make_vec_env
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, VecNormalize

ALGORITHMS: dict[str, Any] = {"a2c": A2C, "ddpg": DDPG, "dqn": DQN, "ppo": PPO, "sac": SAC, "td3": TD3, "trpo": TRPO}


class Watch(BaseCallback):
    """Stops learning at the threshold, which is looked at after an update, before the next rollout."""

    def __init__(self, threshold: Threshold, model: Any) -> None:
        super().__init__()
        self.threshold, self.act, self.solved = threshold, greedy(model), False

    def _on_rollout_start(self) -> None:
        returns = [value for _, value in episodes(self.training_env)]
        self.solved = self.threshold.reached(self.num_timesteps, self.act, returns)

    def _on_step(self) -> bool:
        return not self.solved


def build(asked: Task, seed: int) -> Any:
    settings: dict[str, Any] = asked.settings | {
        "learning_rate": _scheduled(asked.settings["learning_rate"], asked.schedule)
    }
    if "clip_range" in settings:
        settings["clip_range"] = _scheduled(settings["clip_range"], asked.clip_schedule)
    env = environments(asked, seed)
    if asked.noise:
        size = env.action_space.shape
        settings["action_noise"] = NormalActionNoise(np.zeros(size), asked.noise * np.ones(size))
    if asked.hidden:
        settings["policy_kwargs"] = {"net_arch": list(asked.hidden)}
    policy = "CnnPolicy" if asked.images else "MlpPolicy"
    return ALGORITHMS[asked.algorithm](policy, env, seed=seed, device="cpu", **settings)


def environments(asked: Task, seed: int) -> VecEnv:
    if asked.images:
        import ale_py

        gymnasium.register_envs(ale_py)
        return VecFrameStack(make_atari_env(asked.environment, asked.envs, seed), 4)
    env = make_vec_env(asked.environment, asked.envs, seed)
    return VecNormalize(env, gamma=asked.settings["gamma"]) if asked.normalize else env


def _scheduled(value: float, schedule: str) -> float | Callable[[float], float]:
    return (lambda remaining: remaining * value) if schedule == "linear" else value


def greedy(model: Any) -> Callable[[NDArray[Any]], NDArray[Any]]:
    normal = model.get_vec_normalize_env()

    def act(observation: NDArray[Any]) -> NDArray[Any]:
        seen = observation if normal is None else normal.normalize_obs(observation)
        return model.predict(seen, deterministic=True)[0]

    return act


def episodes(env: VecEnv) -> list[tuple[int, float]]:
    """(environment steps until its end, return) of every finished training episode, in order."""
    returns, lengths = env.env_method("get_episode_rewards"), env.env_method("get_episode_lengths")
    ended = [np.cumsum(own) * env.num_envs for own in lengths]
    return sorted((int(at), value) for a, r in zip(ended, returns, strict=True) for at, value in zip(a, r, strict=True))


def main() -> None:
    args = parse_arguments(__doc__)
    torch.set_num_threads(1)
    asked, clock = task(args.task, args.timed), Clock()
    build(asked, args.seed).learn(asked.warmup)
    model = build(asked, args.seed)
    threshold = Threshold(args.threshold, asked.environment, clock) if args.threshold else None
    clock.start()
    model.learn(args.steps or asked.steps, Watch(threshold, model) if threshold else None)
    clock.stop()
    report(
        "sb3", version("stable-baselines3"), asked, args, model.num_timesteps, clock,
        [] if asked.images else episodes(model.get_env()), threshold, greedy(model),
    )  # fmt: skip


if __name__ == "__main__":
    main()
