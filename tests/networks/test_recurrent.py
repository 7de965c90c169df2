"""Memory over whole rows against memory step by step."""

import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from operant.core.errors import InputError
from operant.core.flat import Flat, trainable
from operant.networks.heads import Categorical, Gaussian
from operant.networks.masks import MaskedBox
from operant.networks.recurrent import Memory, RecurrentActorCritic, Remembered, recurrent_actor_critic

CELLS = pytest.mark.parametrize("cell", ["lstm", "gru"])


def rows(policy: RecurrentActorCritic, begins: Tensor, size: int = 3) -> Remembered:
    return Remembered(
        torch.randn(*begins.shape, size), begins, torch.randn(len(begins), policy.initial_state(1).shape[1])
    )


def by_steps(policy: RecurrentActorCritic, seen: Remembered) -> tuple[Tensor, Tensor, Tensor]:
    """(actions, log-probs, values) of acting on rows one step at a time."""
    state, steps = seen.state, []
    for t in range(seen.begins.shape[1]):
        state = torch.where(seen.begins[:, t, None], 0.0, state)
        *step, state = policy.act(seen.observation[:, t], state)
        steps.append(step)
    action, log_prob, value = (torch.stack(x, 1) for x in zip(*steps, strict=True))
    return action, log_prob, value


def beginnings(rows: int, steps: int, often: float) -> Tensor:
    return torch.rand(rows, steps) < often


@CELLS
def test_the_last_layers_have_gain_1_hundredth_and_1(cell):
    policy = RecurrentActorCritic((3,), Categorical(4), cell)
    assert torch.linalg.svdvals(policy.actor.output.weight).tolist() == pytest.approx([0.01] * 4)
    assert policy.critic.output.weight.norm().item() == pytest.approx(1)


@CELLS
@pytest.mark.parametrize("often", [0.0, 0.05, 0.5, 1.0])
def test_evaluate_says_what_acting_step_by_step_recorded(cell, often):
    policy = RecurrentActorCritic((3,), Categorical(4), cell, 6)
    seen = rows(policy, beginnings(5, 23, often))
    action, log_prob, value = by_steps(policy, seen)
    again = policy.evaluate(seen, action)
    torch.testing.assert_close((again.log_prob, again.value), (log_prob, value))


@CELLS
def test_gradients_are_those_of_the_loop_over_steps(cell):
    memory = Memory(3, 5, cell)
    x, begins, state = torch.randn(4, 11, 3), beginnings(4, 11, 0.2), torch.randn(4, memory.state_size)

    def loop() -> Tensor:
        outputs, s = [], state
        for t in range(11):
            output, s = memory.run(x[:, t : t + 1], torch.where(begins[:, t, None], 0.0, s))
            outputs.append(output)
        return torch.cat(outputs, 1)

    weights = torch.randn(4, 11, 5)
    due = torch.autograd.grad((loop() * weights).sum(), list(memory.parameters()))
    found = torch.autograd.grad((memory(x, begins, state) * weights).sum(), list(memory.parameters()))
    torch.testing.assert_close(found, due)


@CELLS
def test_an_episode_knows_nothing_of_those_before_it_nor_of_what_comes(cell):
    policy = RecurrentActorCritic((3,), Categorical(2), cell, 6)
    begins = torch.zeros(2, 10, dtype=torch.bool)
    begins[:, 4] = True
    seen = rows(policy, begins)
    action = torch.randint(2, (2, 10))
    whole = policy.evaluate(seen, action)
    other = Remembered(
        torch.cat([torch.randn(2, 4, 3), seen.observation[:, 4:]], 1), begins, torch.randn_like(seen.state)
    )
    after = policy.evaluate(other, action)
    torch.testing.assert_close(after.value[:, 4:], whole.value[:, 4:])
    assert not torch.isclose(after.value[:, :4], whole.value[:, :4]).any()
    later = Remembered(torch.cat([seen.observation[:, :4], torch.randn(2, 6, 3)], 1), begins, seen.state)
    torch.testing.assert_close(policy.evaluate(later, action).value[:, :4], whole.value[:, :4])


@CELLS
def test_within_an_episode_the_past_counts(cell):
    policy = RecurrentActorCritic((3,), Categorical(2), cell, 6)
    seen = rows(policy, torch.zeros(2, 10, dtype=torch.bool))
    action = torch.randint(2, (2, 10))
    changed = seen.observation.clone()
    changed[:, 0] += 1.0
    found = policy.evaluate(Remembered(changed, seen.begins, seen.state), action)
    whole = policy.evaluate(seen, action)
    assert not torch.isclose(found.value[:, -1], whole.value[:, -1], rtol=0, atol=0).any()
    assert not torch.isclose(found.log_prob[:, -1], whole.log_prob[:, -1], rtol=0, atol=0).any()


def test_nothing_flows_back_into_an_episode_before():
    memory = Memory(2, 4)
    x = torch.randn(3, 8, 2, requires_grad=True)
    begins = torch.zeros(3, 8, dtype=torch.bool)
    begins[:, 5] = True
    memory(x, begins, torch.zeros(3, memory.state_size))[:, 5:].sum().backward()
    assert (x.grad[:, :5] == 0).all()
    assert (x.grad[:, 5:] != 0).all()


@CELLS
def test_rows_of_a_minibatch_say_what_they_say_among_all(cell):
    policy = RecurrentActorCritic((3,), Categorical(2), cell, 6)
    seen, action = rows(policy, beginnings(6, 9, 0.3)), torch.randint(2, (6, 9))
    index = torch.tensor([4, 0, 3])
    whole, part = policy.evaluate(seen, action), policy.evaluate(seen[index], action[index])
    torch.testing.assert_close(tuple(part), tuple(x[index] for x in whole))


@CELLS
def test_weights_are_orthogonal_and_biases_zero(cell):
    memory = Memory(8, 8, cell)
    for name, p in memory.named_parameters():
        if "weight" in name:
            torch.testing.assert_close(p.T @ p, torch.eye(8))
        else:
            assert (p == 0).all()


def test_actor_and_critic_share_no_weights():
    policy = RecurrentActorCritic((3,), Categorical(2))
    seen, action = rows(policy, beginnings(2, 5, 0.3)), torch.randint(2, (2, 5))
    evaluation = policy.evaluate(seen, action)
    for output, own, other in (("log_prob", policy.actor, policy.critic), ("value", policy.critic, policy.actor)):
        for p in policy.parameters():
            p.grad.zero_()
        getattr(evaluation, output).sum().backward(retain_graph=True)
        assert all((p.grad == 0).all() for p in other.parameters())
        assert all((p.grad != 0).any() for p in own.parameters())


def test_all_parameters_are_one_vector():
    policy = RecurrentActorCritic((3,), Categorical(2))
    (vector,) = trainable(policy)
    assert isinstance(vector, Flat)
    assert len(vector) == sum(p.numel() for p in policy.parameters())
    before, seen = policy.evaluate, rows(policy, beginnings(2, 5, 0.3))
    value = before(seen, torch.zeros(2, 5, dtype=torch.long)).value
    with torch.no_grad():
        vector.mul_(0.5)
    assert not torch.isclose(policy.evaluate(seen, torch.zeros(2, 5, dtype=torch.long)).value, value).any()


@CELLS
def test_it_is_made_of_spaces(cell):
    box = spaces.Box(-1, 1, (3,))
    policy = recurrent_actor_critic(box, spaces.Box(-2, 2, (2,)), cell, 8)
    assert isinstance(policy.head, Gaussian)
    action, log_prob, value, state = policy.act(torch.zeros(5, 3))
    assert action.shape == (5, 2)
    assert log_prob.shape == value.shape == (5,)
    assert state.shape == (5, policy.initial_state(1).shape[1])
    image = recurrent_actor_critic(spaces.Box(0, 255, (1, 36, 36), "uint8"), spaces.Discrete(3), cell, 8)
    seen = Remembered(
        torch.randint(256, (2, 4, 1, 36, 36), dtype=torch.uint8), beginnings(2, 4, 0.5), image.initial_state(2)
    )
    action, log_prob, value = by_steps(image, seen)
    torch.testing.assert_close(image.evaluate(seen, action)[::2], (log_prob, value))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((spaces.Box(-1, 1, (3, 2)), spaces.Discrete(2)), "FlattenObservation"),
        ((spaces.Discrete(3), spaces.Discrete(2)), "FlattenObservation"),
        ((spaces.Box(-1, 1, (3,)), spaces.Discrete(2), "rnn"), "no memory 'rnn': choose one of lstm, gru"),
    ],
)
def test_what_cannot_be_is_refused(arguments, message, unchecked_types):
    with pytest.raises(InputError, match=message):
        recurrent_actor_critic(*arguments)


@CELLS
def test_masks_hold_in_acting_and_in_evaluating(cell):
    policy = recurrent_actor_critic(MaskedBox(spaces.Box(-1, 1, (3,)), 4), spaces.Discrete(4), cell, 8)
    seen = rows(policy, beginnings(6, 30, 0.2))
    allowed = torch.rand(6, 30, 4) < 0.5
    allowed[..., 0] |= ~allowed.any(-1)
    seen = Remembered(torch.cat([seen.observation, allowed.float()], -1), seen.begins, seen.state)
    action, log_prob, value = by_steps(policy, seen)
    assert allowed.gather(-1, action.unsqueeze(-1)).all()
    again = policy.evaluate(seen, action)
    torch.testing.assert_close((again.log_prob, again.value), (log_prob, value))
    free = RecurrentActorCritic((3,), Categorical(4), cell, 8)
    free.load_state_dict(policy.state_dict())
    logits = torch.stack([
        free.evaluate(Remembered(seen.observation[..., :3], seen.begins, seen.state), torch.full((6, 30), a)).log_prob
        for a in range(4)
    ], -1)  # fmt: skip
    due = torch.distributions.Categorical(logits=torch.where(allowed, logits, torch.finfo(torch.float32).min))
    torch.testing.assert_close(again.log_prob, due.log_prob(action))
    torch.testing.assert_close(again.entropy, due.entropy())
