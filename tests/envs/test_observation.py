"""What is seen of every space against Gymnasium's own flattening, and masks wherever they come from."""

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import concatenate, create_empty_array

from operant.algorithms.policy_gradient import ppo, q_actor_critic
from operant.algorithms.temporal_difference import dqn
from operant.core.errors import InputError
from operant.envs.normalise import ObservationNormalizer
from operant.envs.observation import numbers
from operant.envs.runner import Runner
from operant.networks.action_values import q_network
from operant.networks.actor_critic import actor_critic
from operant.networks.masks import MaskedBox
from operant.networks.q_actor_critic import q_actor_critic as masked_q_actor_critic
from operant.networks.recurrent import recurrent_actor_critic

SPACES = {
    "Discrete": spaces.Discrete(5),
    "Discrete from 3": spaces.Discrete(4, start=3),
    "MultiDiscrete": spaces.MultiDiscrete([2, 3, 4]),
    "MultiBinary": spaces.MultiBinary((2, 3)),
    "Tuple": spaces.Tuple((spaces.Discrete(3), spaces.Box(-1, 1, (2, 2)))),
    "Dict": spaces.Dict({"z": spaces.Box(-2, 3, (2,)), "a": spaces.Discrete(3), "m": spaces.MultiBinary(2)}),
    "Dict in order": spaces.Dict([("z", spaces.Box(-2, 3, (2,))), ("a", spaces.Discrete(3))]),
    "Dict in Dict": spaces.Dict({"b": spaces.Dict({"d": spaces.Discrete(2), "c": spaces.Box(0, 1, (1,))})}),
}  # fmt: skip


@pytest.mark.parametrize("name", SPACES)
def test_numbers_are_those_of_gymnasium_row_by_row(name):
    space = SPACES[name]
    space.seed(0)
    samples = [space.sample() for _ in range(6)]
    box, convert = numbers(space)
    found = convert(concatenate(space, samples, create_empty_array(space, 6)))
    due = np.stack([spaces.utils.flatten(space, x) for x in samples])
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, due.astype(np.float32))
    assert box.shape == found.shape[1:]
    assert all(row in box for row in found)


def test_a_box_is_left_as_it_is():
    for box in (spaces.Box(-1, 1, (3,)), spaces.Box(0, 255, (4, 84, 84), np.uint8)):
        found, convert = numbers(box)
        x = np.zeros((2, *box.shape), box.dtype)
        assert found is box
        assert convert(x) is x


def test_bytes_without_the_dimensions_of_an_image_are_numbers():
    for shape in ((9,), (3, 3)):
        found, convert = numbers(spaces.Box(0, 2, shape, np.uint8))
        assert (found.shape, found.dtype, found.high.max()) == (shape, np.float32, 2)
        assert convert(np.ones((2, *shape), np.uint8)).dtype == np.float32


def test_a_mask_is_no_part_of_what_is_seen():
    space = spaces.Dict({"action_mask": spaces.MultiBinary(2), "observation": spaces.Box(0, 1, (3,))})
    box, convert = numbers(space)
    seen = {"action_mask": np.ones((4, 2)), "observation": np.full((4, 3), 0.5)}
    assert box.shape == (3,)
    assert (convert(seen) == 0.5).all()


@pytest.mark.parametrize(
    "space",
    [
        spaces.Text(4),
        spaces.Dict({"image": spaces.Box(0, 255, (3, 8, 8), np.uint8)}),
        spaces.Tuple((spaces.Sequence(spaces.Discrete(2)),)),
    ],
)
def test_what_is_no_row_of_numbers_is_refused(space):
    with pytest.raises(InputError, match="no row of numbers"):
        numbers(space)


@pytest.mark.parametrize(
    ("space", "seen"), [(spaces.Discrete(4, start=1), [2, 5]), (spaces.MultiDiscrete([3, 4]), [[0, 0], [3, 1]])]
)
def test_a_choice_outside_the_space_is_named_and_not_seen_as_none(space, seen):
    with pytest.raises(InputError, match=r"environment 1 shows number [34] of [34] choices"):
        numbers(space)[1](np.array(seen))


MASKED = spaces.Dict({"action_mask": spaces.MultiBinary(4), "observation": spaces.Box(0, 1, (2,))})


@pytest.mark.parametrize("space", [spaces.Dict({"part": MASKED}), spaces.Tuple((MASKED, spaces.Discrete(2)))])
def test_a_mask_inside_a_part_is_refused(space):
    with pytest.raises(InputError, match="inside one of its parts"):
        numbers(space)


def test_a_mask_of_actions_that_are_no_choices_is_refused():
    class Odd(gymnasium.Env):
        observation_space, action_space = MASKED, spaces.Box(-1, 1, (4,))

        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
            super().reset(seed=seed)
            return {"action_mask": np.ones(4, np.int8), "observation": np.zeros(2, np.float32)}, {}

    with pytest.raises(InputError, match="can mask Discrete and MultiDiscrete actions only"):
        Runner(SyncVectorEnv([Odd]))


LAST = 4


class Door(gymnasium.Env):
    """Of four actions one is locked: the number of steps so far. Taking it is an error. Ends after `length` steps.

    `how` says where the mask is: in the observation, in the info, or in a method.
    """

    action_space = spaces.Discrete(4)

    def __init__(self, how: str, length: int, truncates: bool = False) -> None:
        self.how, self.length, self.truncates, self.steps = how, length, truncates, 0
        plain = spaces.Box(0, 10, (2,), np.float32)
        self.observation_space: Any = plain
        if how == "observation":
            self.observation_space = spaces.Dict({"action_mask": spaces.MultiBinary(4), "observation": plain})
        if how == "method":
            self.action_masks = lambda: self._mask().astype(bool)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.steps = 0
        return self._seen()

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict]:
        assert self._mask()[action], f"action {action} is locked after {self.steps} steps"
        self.steps += 1
        over = self.steps == self.length
        seen, info = self._seen()
        return seen, 1.0, over and not self.truncates, over and self.truncates, info

    def _mask(self) -> np.ndarray:
        mask = np.ones(4, np.int8)
        mask[self.steps % 4] = 0
        return mask if self.steps < self.length else np.zeros(4, np.int8)

    def _seen(self) -> tuple[Any, dict]:
        seen = np.array([self.steps, self.length], np.float32)
        if self.how == "observation":
            return {"action_mask": self._mask(), "observation": seen}, {}
        return seen, {"action_mask": self._mask()} if self.how == "info" else {}


HOW = pytest.mark.parametrize("how", ["observation", "info", "method"])
MODES = pytest.mark.parametrize("mode", list(AutoresetMode))


class Going(Door):
    """The last state locks an action too, as one that is truncated may."""

    def _mask(self) -> np.ndarray:
        return (np.arange(4) != self.steps % 4).astype(np.int8)


def doors(how: str, mode: AutoresetMode = AutoresetMode.NEXT_STEP, kind: type[Door] = Door, **settings: Any) -> Runner:
    lengths = [(3, False), (6, True), (1, False)]
    return Runner(SyncVectorEnv([lambda x=x: kind(how, *x) for x in lengths], autoreset_mode=mode), **settings)


def policies(world: Runner) -> list[Any]:
    return [
        make(world.observation_space, world.env.single_action_space) for make in (actor_critic, recurrent_actor_critic)
    ]


@HOW
@MODES
def test_a_forbidden_action_is_never_taken(how, mode):
    """The environment itself checks every action, chosen by rollouts, greedily, and step by step."""
    world = doors(how, mode)
    assert isinstance(world.observation_space, MaskedBox)
    for policy in [*policies(world), masked_q_actor_critic(world.observation_space, world.actions)]:
        t = world.rollout(policy, 60)
        seen = t.observation.observation if policy.memory else t.observation
        assert seen.shape == (3, 60, 6)
        steps, allowed = seen[..., 0].long() % 4, seen[..., 2:]
        assert (allowed.gather(-1, t.action.unsqueeze(-1)) == 1).all()
        locked = 1 - torch.nn.functional.one_hot(steps, 4)
        assert torch.equal(allowed[t.mask], locked[t.mask].float())
        assert all(len(t.action[t.mask & (steps == s)].unique()) == 3 for s in range(3))
        world.rollout(policy, 20, greedy=True)
        world.play(policy, 20, greedy=True)


class Doors(Door):
    """Two choices at once, the one of a `Door` and one of two, of which the second is locked at every other step."""

    action_space: Any = spaces.MultiDiscrete([4, 2])

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        assert self._mask()[4 + action[1]], f"the second choice {action[1]} is locked after {self.steps} steps"
        return super().step(action[0])

    def _mask(self) -> np.ndarray:
        second = [1, self.steps % 2] if self.steps < self.length or self.length == 6 else [0, 0]
        return np.append(super()._mask(), np.array(second, np.int8))


@pytest.mark.parametrize("how", ["info", "method"])
@MODES
def test_each_of_several_choices_has_its_mask(how, mode):
    """In the last state one choice may be left nothing, and the other something."""
    world = doors(how, mode, Doors)
    assert world.observation_space.shape == (8,)
    for policy in policies(world):
        t = world.rollout(policy, 60)
        seen = t.observation.observation if policy.memory else t.observation
        steps, allowed = seen[..., 0].long(), seen[..., 2:]
        assert (allowed[..., :4].gather(-1, t.action[..., :1]) == 1).all()
        assert (allowed[..., 4:].gather(-1, t.action[..., 1:]) == 1).all()
        assert (t.action[..., 1][t.mask & (steps % 2 == 0)] == 0).all()
        assert t.action[..., 1][t.mask].any()
        evaluation = policy.evaluate(t.observation, t.action)
        torch.testing.assert_close(evaluation.log_prob, t.log_prob, rtol=1e-4, atol=1e-5)
        assert evaluation.entropy[t.mask].isfinite().all()
        world.rollout(policy, 20, greedy=True)


@HOW
def test_log_probs_and_entropies_are_those_of_the_masked_distribution(how):
    world = doors(how)
    policy = actor_critic(world.observation_space, world.env.single_action_space)
    t = world.rollout(policy, 30)
    again = policy.evaluate(t.observation, t.action)
    torch.testing.assert_close(again.log_prob, t.log_prob)
    free = policy.actor[0].network(t.observation[..., :2])
    logits = torch.where(t.observation[..., 2:] == 1, free, torch.finfo(torch.float32).min)
    due = torch.distributions.Categorical(logits=logits)
    torch.testing.assert_close(t.log_prob, due.log_prob(t.action))
    torch.testing.assert_close(again.entropy, due.entropy())


@MODES
def test_learning_goes_on_with_masks(mode):
    """No gradient is lost to an infinite logit, with and without memory, and the first ratio is 1."""
    world = doors("info", mode)
    config = ppo.Config(iterations=3, rollout=32, minibatch=48)
    for policy in policies(world):
        before = [p.clone() for p in policy.parameters()]
        metrics = list(ppo.train(ppo.init(policy, world, config), config))
        assert all(np.isfinite(list(m.values())).all() for m in metrics)
        assert any(not torch.equal(a, b) for a, b in zip(before, policy.parameters(), strict=True))


@HOW
@MODES
@pytest.mark.parametrize("double", [False, True])
def test_q_learning_explores_and_bootstraps_within_what_is_allowed(how, mode, double):
    """The environment refuses what is locked; every other action is tried, and a forbidden value reaches no target."""
    world = doors(how, mode)
    config = dqn.Config(
        steps=1200, report_every=1200, learning_starts=30, train_every=3, batch=16, epsilon_steps=1200, double=double
    )
    policy = q_network(world.observation_space, world.actions, (16,))
    state = dqn.init(policy, world, config)
    (metrics,) = dqn.train(state, config)
    assert abs(metrics["value/action_value"]) < 10
    drawn = state.replay.sample(2000)
    allowed = drawn.observation[:, 2:]
    assert (allowed.gather(-1, drawn.action.unsqueeze(-1)) == 1).all()
    assert len(torch.unique(torch.stack([drawn.observation[:, 0], drawn.action.float()], 1), dim=0)) == 6 * 3
    assert policy.choose(drawn.observation).unsqueeze(-1).eq((allowed == 0).nonzero()[:, 1:]).sum() == 0


@HOW
@MODES
@pytest.mark.parametrize("kind", [Door, Going])
def test_the_last_state_of_an_episode_has_its_own_mask(how, mode, kind):
    """Ones stand only where it allows nothing, or where a method is asked too late: else what is forbidden there could
    be the best of a truncated state."""
    world = doors(how, mode, kind)
    policy, replay = q_network(world.observation_space, world.actions, (8,)), world.replay(300, 0.9)
    world.collect(policy.explorer(40, 3), replay, 40)
    reached = replay.sample(500).next_observation
    steps, last = reached[:, 0].long() % 4, reached[:, 0] == reached[:, 1]
    assert last.any()
    due = 1 - torch.nn.functional.one_hot(steps, 4)
    if kind is Door or (how == "method" and mode == AutoresetMode.SAME_STEP):
        due[last] = 1
    assert torch.equal(reached[:, 2:], due.float())


def test_a_truncated_state_is_worth_the_best_of_what_it_allows():
    """1 + γ + γ² + ... = 10, although a network would value the locked action, which is never tried, at 100."""

    class Corner(Door):
        action_space = spaces.Discrete(2)

        def _mask(self) -> np.ndarray:
            return np.array([1, 0], np.int8)

        def _seen(self) -> tuple[Any, dict]:
            return np.zeros(2, np.float32), {"action_mask": self._mask()}

    torch.manual_seed(0)
    world = Runner(SyncVectorEnv([lambda: Corner("info", 2, True)], autoreset_mode=AutoresetMode.DISABLED))
    policy = q_network(world.observation_space, world.actions, (8,))
    with torch.no_grad():
        list(policy.parameters())[-1][1] = 100.0
    config = dqn.Config(
        steps=600, report_every=600, learning_starts=32, train_every=1, batch=8, gamma=0.9, target_every=10,
        learning_rate=2e-2,
    )  # fmt: skip
    list(dqn.train(dqn.init(policy, world, config), config))
    assert policy(torch.tensor([0.0, 0.0, 1.0, 0.0]))[0].item() == pytest.approx(10, rel=0.02)
    assert policy(torch.tensor([0.0, 0.0, 1.0, 1.0]))[1].item() > 50


def test_a_q_actor_critic_values_a_state_by_what_it_allows():
    """Q does not depend on the mask, v is a mean over what is allowed, and learning meets no infinite number."""
    world = doors("info")
    policy: Any = masked_q_actor_critic(world.observation_space, world.actions, (8,))
    seen = torch.tensor([[1.0, 3.0, 1, 0, 1, 1], [1.0, 3.0, 0, 0, 1, 0]])
    q, logits = policy.critic(seen), policy.actor[0].network(seen[:, :2])
    assert torch.equal(q[0], q[1])
    left = [0, 2, 3]
    torch.testing.assert_close(policy.value(seen), torch.stack([logits[0, left].softmax(-1) @ q[0, left], q[1, 2]]))
    before = [p.clone() for p in policy.parameters()]
    config = q_actor_critic.Config(iterations=20, report_every=20)
    (metrics,) = q_actor_critic.train(q_actor_critic.init(policy, world, config), config)
    assert np.isfinite(list(metrics.values())).all()
    assert all(not torch.equal(a, b) for a, b in zip(before, policy.parameters(), strict=True))


def test_random_actions_are_uniform_over_what_is_allowed():
    policy = q_network(MaskedBox(spaces.Box(0, 1, (1,)), 4), spaces.Discrete(4))
    observation = np.tile(np.array([0.3, 1, 0, 1, 1], np.float32), (3000, 1))
    found = np.bincount(policy.explorer(1, 3000)(observation, 0), minlength=4)
    assert found[1] == 0
    assert (abs(found[[0, 2, 3]] - 1000) < 100).all()


def test_a_mask_is_not_normalised():
    world = doors("info", observations=ObservationNormalizer((2,)))
    t = world.rollout(actor_critic(world.observation_space, world.env.single_action_space), 30)
    assert set(t.observation[..., 2:].unique().tolist()) == {0.0, 1.0}
    assert t.observation[..., 0].min() < 0


def test_taxi_says_what_it_allows():
    world = Runner("Taxi-v4", envs=3)
    assert world.observation_space.shape == (506,)
    t = world.rollout(actor_critic(world.observation_space, world.env.single_action_space), 30)
    assert (t.observation[..., :500].sum(-1) == 1).all()
    assert (t.observation[..., 500:].gather(-1, t.action.unsqueeze(-1)) == 1).all()
    assert 0 < t.observation[..., 500:].mean() < 1


class Stuck(Door):
    def _mask(self) -> np.ndarray:
        return np.zeros(4, np.int8) if self.steps == 2 else np.ones(4, np.int8)


def test_a_mask_that_allows_nothing_is_named():
    world = Runner(SyncVectorEnv([lambda: Door("info", 9), lambda: Stuck("info", 9)]))
    with pytest.raises(InputError, match="environment 1 allows no action after step 2"):
        world.rollout(actor_critic(world.observation_space, world.env.single_action_space), 5)


def test_a_mask_of_other_actions_is_refused():
    class Odd(Door):
        action_space = spaces.Discrete(5)

    with pytest.raises(InputError, match=r"shape \(4,\)"):
        Runner(SyncVectorEnv([lambda: Odd("info", 9)]))


@MODES
def test_parts_of_a_dict_are_seen_in_every_mode(mode):
    """Also those of the last state of an episode, which SAME_STEP hides in an array of objects."""

    class Parts(gymnasium.Env):
        observation_space = spaces.Dict({"b": spaces.Box(0, 9, (1,)), "a": spaces.Discrete(10)})
        action_space = spaces.Discrete(2)

        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
            super().reset(seed=seed)
            self.steps = 0
            return self._seen(), {}

        def step(self, action: int) -> tuple[Any, float, bool, bool, dict]:
            self.steps += 1
            return self._seen(), 0.0, False, self.steps == LAST, {}

        def _seen(self) -> dict:
            return {"b": np.array([self.steps], np.float32), "a": self.steps}

    class Sums:
        memory = False

        def act(self, observation: torch.Tensor, state: None = None, greedy: bool = False) -> Any:
            value = (observation[:, :10] * torch.arange(10)).sum(-1) + 100 * observation[:, 10]
            return torch.zeros(len(value), dtype=torch.long), torch.zeros_like(value), value, None

        def evaluate(self, observation: torch.Tensor, action: torch.Tensor) -> Any:
            raise NotImplementedError

    world = Runner(SyncVectorEnv([Parts] * 2, autoreset_mode=mode))
    t = world.rollout(Sums(), 12)
    steps = t.observation[..., 10]
    assert torch.equal(t.observation[..., :10].argmax(-1).float(), steps)
    assert torch.equal(t.next_value[t.mask], 101 * (steps[t.mask] + 1))
    assert t.truncated.any()
