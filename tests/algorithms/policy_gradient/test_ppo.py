"""PPO: it learns in two worlds with the same code, broken versions of it do not, and its update does what it says."""

import copy
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from operant.algorithms.policy_gradient import ppo
from operant.core.errors import Diverged, InputError
from operant.core.losses import masked_mean, policy_gradient_loss
from operant.core.record import Trajectory
from operant.envs.runner import Runner
from operant.networks.actor_critic import ActorCritic
from operant.text.language_model import LanguageModel, small_model, value_head
from operant.text.sampling import Samples
from operant.text.world import PromptWorld

STOP = 0


@dataclasses.dataclass
class Seen:
    """A world whose padding and reset steps hold nonsense, as they may. It notes the score of every rollout."""

    world: Any
    score: Callable[[Any, Trajectory], list[float]]
    change: Callable[[Trajectory], Trajectory]
    scores: list[list[float]] = dataclasses.field(default_factory=list)

    def rollout(self, policy: Any, size: int) -> Trajectory:
        t = self.world.rollout(policy, size)
        self.scores.append(self.score(self.world, t))

        def nonsense(x: Tensor) -> Tensor:
            return torch.where(t.mask, x, 1e4 * torch.randn(x.shape))

        t = dataclasses.replace(
            t, reward=nonsense(t.reward), value=nonsense(t.value), next_value=nonsense(t.next_value)
        )
        return self.change(t)


@dataclasses.dataclass(frozen=True)
class Task:
    make: Callable[[], tuple[Any, Any]]
    """A fresh (policy, world)."""
    score: Callable[[Any, Trajectory], list[float]]
    """What the episodes that ended in a rollout, or its responses, were worth."""
    config: ppo.Config
    threshold: float


def cartpole() -> tuple[Any, Any]:
    return ActorCritic(4, 2), Runner("CartPole-v1", envs=8, seed=0)


def episode_returns(world: Any, trajectory: Trajectory) -> list[float]:
    return world.pop_returns()


def successor_then_stop(samples: Samples) -> Tensor:
    """Half a point for the token after the prompt's, half for a stop right behind it."""
    pairs = zip(samples.prompts, samples.responses, strict=True)
    return torch.tensor([0.5 * (r[0] == p[-1] % 7 + 1) + 0.5 * (len(r) == 2 and r[1] == STOP) for p, r in pairs])


def tokens() -> tuple[Any, Any]:
    model = small_model(8, 16, 1, 2, 16)
    world = PromptWorld([[a] for a in range(1, 8)], successor_then_stop, {STOP}, 6, missing_stop_score=None)
    return LanguageModel(model, value_head(model)), world


def response_scores(world: Any, trajectory: Trajectory) -> list[float]:
    return trajectory.reward.sum(-1).tolist()


TASKS = {
    "CartPole-v1": Task(
        cartpole, episode_returns, ppo.Config(iterations=25, rollout=128, learning_rate=2.5e-3), threshold=100.0
    ),
    "tokens": Task(
        tokens,
        response_scores,
        ppo.Config(iterations=25, rollout=128, minibatch=32, learning_rate=1e-2, gamma=1.0, max_gradient_norm=1.0),
        threshold=0.6,
    ),
}


def as_it_is(trajectory: Trajectory) -> Trajectory:
    return trajectory


def late(trajectory: Trajectory) -> Trajectory:
    """Every reward one place later than earned."""
    return dataclasses.replace(trajectory, reward=trajectory.reward.roll(1, dims=-1))


def unmasked(trajectory: Trajectory) -> Trajectory:
    """Padding and reset steps count as decisions."""
    return dataclasses.replace(trajectory, mask=torch.ones_like(trajectory.mask))


def flipped(trajectory: Trajectory, config: ppo.Config) -> ppo.Batch:
    batch = PREPARE(trajectory, config)
    return dataclasses.replace(batch, advantage=-batch.advantage)


PREPARE = ppo.prepare


def learn(task: Task, change: Callable[[Trajectory], Trajectory] = as_it_is, **settings: Any) -> float:
    """Mean score over the last five rollouts of a run."""
    torch.manual_seed(0)
    policy, world = task.make()
    seen = Seen(world, task.score, change)
    config = dataclasses.replace(task.config, **settings)
    for _ in ppo.train(ppo.init(policy, seen, config), config):
        pass
    last = [score for scores in seen.scores[-5:] for score in scores]
    return sum(last) / len(last)


@pytest.mark.parametrize("name", TASKS)
def test_one_train_learns_cartpole_and_a_token_task_and_broken_twins_do_not(name, monkeypatch, unchecked_types):
    """The same `ppo.train` for environment steps and for tokens, against a random agent and against mistakes.

    CartPole pays 1 for every step, so paying late changes nothing there; an answer's score lands in the padding.
    """
    task = TASKS[name]
    assert learn(task) > task.threshold
    broken = {"random agent": learn(task, learning_rate=0.0), "mask ignored": learn(task, unmasked)}
    if name == "tokens":
        broken["score one place late"] = learn(task, late)
    monkeypatch.setattr(ppo, "prepare", flipped)
    broken["advantage flipped"] = learn(task)
    assert all(score < 0.6 * task.threshold for score in broken.values()), broken


def decisions(policy: ActorCritic, rows: int = 6, steps: int = 5, seed: int = 1) -> Trajectory:
    """Random decisions of `policy`, a quarter of the places masked out."""
    g = torch.Generator().manual_seed(seed)
    observation = torch.randn(rows, steps, 4, generator=g)
    action = torch.randint(2, (rows, steps), generator=g)
    with torch.no_grad():
        log_prob, _, value = policy.evaluate(observation, action)
    terminated = torch.rand(rows, steps, generator=g) < 0.2
    mask = torch.rand(rows, steps, generator=g) < 0.75
    truncated = (torch.rand(rows, steps, generator=g) < 0.2) & ~terminated
    return Trajectory(
        observation=observation,
        action=action,
        log_prob=log_prob,
        value=value,
        next_value=torch.randn(rows, steps, generator=g),
        reward=torch.randn(rows, steps, generator=g),
        discount=(~terminated).float(),
        terminated=terminated,
        truncated=truncated,
        mask=mask,
    )


class Given:
    """A world in which everything has happened already."""

    def __init__(self, trajectory: Trajectory) -> None:
        self.trajectory = trajectory

    def rollout(self, policy: Any, size: int) -> Trajectory:
        return self.trajectory


def given(config: ppo.Config, **changes: Tensor) -> tuple[ppo.State, ppo.Batch]:
    """A state and a batch of fixed decisions."""
    policy = ActorCritic(4, 2, (8,))
    trajectory = dataclasses.replace(decisions(policy), **changes)
    return ppo.init(policy, Given(trajectory), config), ppo.prepare(trajectory, config)


def gradients(state: ppo.State) -> list[Tensor]:
    return [p.grad.clone() for p in state.policy.parameters()]


ONE_STEP = ppo.Config(iterations=1, rollout=16, epochs=1, minibatch=1000, max_gradient_norm=math.inf)


def test_advantages_and_targets_are_those_of_the_definition():
    """Â_t = δ_t + γ λ Â_{t+1} until the trace is cut, and the critic's target Â_t + v(s_t).

    A truncated trace is cut too, but the value of its last state counts.
    """
    t = decisions(ActorCritic(4, 2, (8,)))
    assert t.truncated[:, :-1].any()
    batch = ppo.prepare(t, ppo.Config(gamma=0.9, lambda_=0.8))
    for row in range(6):
        following = 0.0
        for i in reversed(range(5)):
            ends = t.terminated[row, i].item()
            delta = t.reward[row, i] - t.value[row, i] + (0 if ends else 0.9 * t.next_value[row, i])
            following = delta + (0 if t.done[row, i] else 0.9 * 0.8 * following)
            assert batch.advantage[row, i].item() == pytest.approx(following.item(), abs=1e-5)
    torch.testing.assert_close(batch.target, batch.advantage + t.value)


@pytest.mark.parametrize("objective", ["clip", "kl"])
def test_the_loss_is_that_of_the_paper(objective):
    """-surrogate + c_v ½ (v - G)² - c_e H (Schulman et al. 2017, eq. 7 to 9), decision by decision."""
    config = ppo.Config(objective=objective, clip=0.1, value_coefficient=0.7, entropy_coefficient=0.3)
    state, batch = given(config)
    with torch.no_grad():
        for p in state.policy.parameters():
            p.add_(0.3 * torch.randn(p.shape))
    t, terms, far, kl = batch.trajectory, [], [], []
    for row, column in t.mask.nonzero().tolist():
        seen = t.observation[row, column]
        chosen = torch.distributions.Categorical(logits=state.policy.actor(seen))
        log_ratio = chosen.log_prob(t.action[row, column]) - t.log_prob[row, column]
        ratio, advantage = log_ratio.exp().item(), batch.advantage[row, column].item()
        far.append(abs(ratio - 1) > 0.1)
        kl.append(ratio - 1 - log_ratio.item())
        if objective == "clip":
            surrogate = min(ratio * advantage, min(max(ratio, 0.9), 1.1) * advantage)
        else:
            surrogate = ratio * advantage - 2.5 * (ratio - 1 - log_ratio.item())
        error = (state.policy.critic(seen) - batch.target[row, column]).item()
        terms.append(-surrogate + 0.7 * 0.5 * error**2 - 0.3 * chosen.entropy().item())
    total, shown = ppo.loss(state.policy, batch, config, 2.5, t.mask.sum())
    assert 0 < sum(far) < len(far)
    assert shown[ppo.SHOWN.index("policy/clip_fraction")].item() == pytest.approx(sum(far) / len(far))
    assert shown[ppo.SHOWN.index("policy/approx_kl")].item() == pytest.approx(sum(kl) / len(kl), rel=1e-4)
    assert total.item() == pytest.approx(sum(terms) / len(terms), rel=1e-4)


def test_the_first_step_follows_the_policy_gradient():
    """At ratio 1 the clipped surrogate's gradient is that of -Â log π (Schulman et al. 2017, section 2.1)."""
    config = dataclasses.replace(ONE_STEP, value_coefficient=0.0, entropy_coefficient=0.0, standardize_advantages=False)
    state, batch = given(config)
    t = batch.trajectory
    twin = copy.deepcopy(state.policy)
    expected = policy_gradient_loss(twin.evaluate(t.observation, t.action).log_prob, batch.advantage)
    expected = torch.autograd.grad(masked_mean(expected, t.mask), list(twin.actor.parameters()))
    ppo.update(state, batch, config)
    torch.testing.assert_close([p.grad for p in state.policy.actor.parameters()], list(expected))


def test_an_update_does_not_see_what_the_mask_hides():
    state, batch = given(ONE_STEP)
    ppo.update(state, batch, ONE_STEP)
    expected, t = gradients(state), batch.trajectory

    def spoil(x: Tensor) -> Tensor:
        hidden = (~t.mask).reshape(t.mask.shape + (1,) * (x.dim() - 2))
        return torch.where(hidden, torch.full_like(x, 77.0), x) if x.is_floating_point() else x

    torch.manual_seed(0)
    state, _ = given(ONE_STEP)
    spoiled = batch.map(spoil)
    ppo.update(
        state, dataclasses.replace(spoiled, trajectory=dataclasses.replace(spoiled.trajectory, mask=t.mask)), ONE_STEP
    )
    torch.testing.assert_close(gradients(state), expected)


@pytest.mark.parametrize("budget", [1, 4, 7])
def test_micro_batches_add_up_to_the_minibatch(budget):
    state, batch = given(ONE_STEP)
    whole = ppo.update(state, batch, ONE_STEP)
    expected = gradients(state)
    torch.manual_seed(0)
    config = dataclasses.replace(ONE_STEP, micro_batch=budget)
    state, _ = given(config)
    pieces = ppo.update(state, batch, config)
    torch.testing.assert_close(gradients(state), expected)
    assert pieces == pytest.approx(whole, abs=1e-5)


def test_no_decision_is_dropped_when_the_minibatch_does_not_divide_the_batch(monkeypatch):
    config = dataclasses.replace(ONE_STEP, epochs=3, minibatch=7)
    state, batch = given(config)
    everything = batch.trajectory.observation.flatten(0, 1)
    seen = []
    evaluate = state.policy.evaluate

    def watched(observation: Tensor, action: Tensor) -> Any:
        seen.append(observation.squeeze(1))
        return evaluate(observation, action)

    monkeypatch.setattr(state.policy, "evaluate", watched)
    ppo.update(state, batch, config)
    assert [len(x) for x in seen] == [6] * 15
    orders = []
    for epoch in torch.cat(seen).split(30):
        order = (epoch.unsqueeze(1) == everything).all(-1).long().argmax(-1)
        assert sorted(order.tolist()) == list(range(30))
        orders.append(tuple(order.tolist()))
    assert len(set(orders)) == 3


@pytest.mark.parametrize("make", [cartpole, tokens])
def test_the_first_ratio_is_one_and_the_first_distance_zero(make):
    metrics = next(ppo.train(ppo.init(*make(), ONE_STEP), ONE_STEP))
    assert metrics["policy/ratio"] == pytest.approx(1, abs=1e-5)
    assert metrics["policy/approx_kl"] == pytest.approx(0, abs=1e-9)
    assert metrics["policy/clip_fraction"] == 0


def test_a_policy_that_is_not_the_one_that_acted_is_noticed():
    policy, world = tokens()
    rollout = world.rollout

    def hot(policy: LanguageModel, size: int) -> Trajectory:
        policy.temperature = 2.0
        trajectory = rollout(policy, size)
        policy.temperature = 1.0
        return trajectory

    world.rollout = hot
    with pytest.warns(UserWarning, match="ratio .* first minibatch"):
        next(ppo.train(ppo.init(policy, world, ONE_STEP), ONE_STEP))


def test_the_kl_objective_holds_the_policy_near_the_old_one():
    def distance(beta: float) -> float:
        config = ppo.Config(iterations=1, epochs=20, objective="kl", old_policy_beta=beta, learning_rate=1e-2)
        torch.manual_seed(0)
        state, batch = given(config)
        return ppo.update(state, batch, config)["policy/approx_kl"]

    free, held = distance(0.0), distance(30.0)
    assert held < 0.2 * free


def test_the_coefficient_of_the_kl_objective_is_steered():
    config = ppo.Config(iterations=1, epochs=20, objective="kl", old_policy_target=1e-9, learning_rate=1e-2)
    state, batch = given(config)
    assert ppo.update(state, batch, config)["policy/old_policy_beta"] == config.old_policy_beta
    assert state.old_policy_penalty.coefficient == 2 * config.old_policy_beta
    fixed = dataclasses.replace(config, old_policy_target=None)
    state, batch = given(fixed)
    ppo.update(state, batch, fixed)
    assert state.old_policy_penalty.coefficient == fixed.old_policy_beta


def test_what_steers_the_coefficient_is_the_distance_after_the_update():
    """With a single step the distance before it is 0, and says nothing of where it leads."""
    config = dataclasses.replace(ONE_STEP, objective="kl", old_policy_target=1e-9, learning_rate=1e-2)
    state, batch = given(config)
    found = ppo.update(state, batch, config)["policy/kl"]
    t = batch.trajectory
    old, new = t.log_prob, state.policy.evaluate(t.observation, t.action)[0]
    due = ((new - old).exp() - 1 - (new - old))[t.mask].mean().item()
    assert found == pytest.approx(due, rel=1e-3)
    assert state.old_policy_penalty.coefficient == 2 * config.old_policy_beta
    pieces = dataclasses.replace(config, minibatch=7, micro_batch=3)
    assert ppo.distance(state.policy, batch.flatten(), pieces) == pytest.approx(due, rel=1e-3)


def test_passes_end_where_the_policy_has_gone_too_far(monkeypatch):
    def passes(stop: float | None) -> int:
        count, step = 0, ppo._minibatch_step

        def counted(*arguments: Any) -> Tensor:
            nonlocal count
            count += 1
            return step(*arguments)

        config = dataclasses.replace(ONE_STEP, epochs=6, minibatch=15, learning_rate=1e-2, stop_kl=stop)
        torch.manual_seed(0)
        state, batch = given(config)
        with monkeypatch.context() as patch:
            patch.setattr(ppo, "_minibatch_step", counted)
            ppo.update(state, batch, config)
        return count

    assert passes(None) == 12
    assert passes(math.inf) == 12
    assert passes(0.0) == 2
    assert 2 < passes(1e-3) < 12


def test_the_clip_range_goes_down_with_the_run(monkeypatch):
    config = dataclasses.replace(ONE_STEP, iterations=3, clip_schedule="linear", clip=0.4)
    state, batch = given(config)
    used, loss = [], ppo.loss

    def watched(policy: Any, batch: ppo.Batch, config: ppo.Config, *rest: Any) -> Any:
        used.append(config.clip)
        return loss(policy, batch, config, *rest)

    monkeypatch.setattr(ppo, "loss", watched)
    for state.step in range(3):
        ppo.update(state, batch, config)
    assert used == pytest.approx([0.3, 0.2, 0.1])


def test_advantages_are_standardised_minibatch_by_minibatch(monkeypatch):
    config = dataclasses.replace(ONE_STEP, minibatch=10)
    state, batch = given(config)
    seen, loss = [], ppo.loss

    def watched(policy: Any, batch: ppo.Batch, *rest: Any) -> Any:
        seen.append(batch.advantage[batch.trajectory.mask])
        return loss(policy, batch, *rest)

    monkeypatch.setattr(ppo, "loss", watched)
    ppo.update(state, batch, config)
    assert len(seen) == 3
    for advantage in seen:
        assert advantage.mean().item() == pytest.approx(0, abs=1e-5)
        assert advantage.std(correction=0).item() == pytest.approx(1, abs=1e-2)


def test_an_auxiliary_loss_adds_its_gradient():
    state, batch = given(ONE_STEP)
    ppo.update(state, batch, ONE_STEP)
    alone = gradients(state)
    torch.manual_seed(0)
    state, _ = given(ONE_STEP)

    def square() -> Tensor:
        return sum(((p - 1) ** 2).sum() for p in state.policy.parameters())

    square().backward()
    extra = gradients(state)
    metrics = ppo.update(state, batch, ONE_STEP, lambda: iter([0.5 * square(), 0.5 * square()]))
    torch.testing.assert_close(gradients(state), [a + b for a, b in zip(alone, extra, strict=True)])
    assert "loss/auxiliary" in metrics


def test_explained_variance_of_a_perfect_a_constant_and_a_single_value():
    config = dataclasses.replace(ONE_STEP, lambda_=1.0)
    _, batch = given(config)
    t = batch.trajectory
    perfect = dataclasses.replace(batch, target=t.value)
    constant = dataclasses.replace(batch, trajectory=dataclasses.replace(t, value=torch.full_like(t.value, 3.0)))
    alone = dataclasses.replace(batch, trajectory=dataclasses.replace(t, mask=torch.zeros_like(t.mask)))
    alone.trajectory.mask[2, 3] = True
    assert ppo._explained_variance(perfect) == 1
    assert ppo._explained_variance(constant) == pytest.approx(0, abs=1e-5)
    assert math.isfinite(ppo._explained_variance(alone))


def test_the_step_size_goes_from_its_peak_to_almost_nothing():
    config = ppo.Config(iterations=10, epochs=1, learning_rate=0.5)
    state, _ = given(config)
    rates = [state.optimizer.param_groups[0]["lr"] for _ in ppo.train(state, config)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > 0.45
    assert 0 < rates[-1] < 0.05


@pytest.mark.parametrize("where", ["reward", "value", "log_prob"])
def test_a_number_that_is_none_stops_the_run_before_the_step(where):
    state, batch = given(ONE_STEP)
    t = batch.trajectory
    bad = getattr(t, where).clone()
    row, column = t.mask.nonzero()[0].tolist()
    bad[row, column] = math.nan
    batch = ppo.prepare(dataclasses.replace(t, **{where: bad}), ONE_STEP)
    before = [p.clone() for p in state.policy.parameters()]
    with pytest.raises(Diverged, match="step 0") as error:
        ppo.update(state, batch, ONE_STEP)
    assert isinstance(error.value.record, ppo.Batch)
    assert all(torch.equal(a, b) for a, b in zip(before, state.policy.parameters(), strict=True))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": "clipped"}, "clipped"),
        ({"old_policy_target": 0.01}, "old_policy_target 0.01"),
        ({"objective": "kl", "old_policy_target": 0.0}, "old_policy_target 0.0"),
    ],
)
def test_settings_that_would_be_ignored_are_refused(settings, message, unchecked_types):
    with pytest.raises(InputError, match=message):
        given(ppo.Config(**settings))
