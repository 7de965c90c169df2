import copy
import math

import pytest
import torch
from gymnasium import spaces

from operant.core.errors import InputError
from operant.networks.actor_critic import ActorCritic, actor_critic


@pytest.fixture
def policy() -> ActorCritic:
    return ActorCritic(observation_size=4, actions=3, hidden=(8, 8))


def test_evaluate_says_what_act_recorded(policy):
    observation = torch.randn(5, 7, 4)
    steps = [policy.act(observation[:, t]) for t in range(7)]
    action, log_prob, value = (torch.stack([step[i] for step in steps], dim=1) for i in range(3))
    again = policy.evaluate(observation, action)
    torch.testing.assert_close((again.log_prob, again.value), (log_prob, value))
    assert all(step[3] is None for step in steps)


def test_decisions_do_not_depend_on_one_another(policy):
    assert policy.memory is False
    observation, action = torch.randn(5, 7, 4), torch.randint(3, (5, 7))
    whole = policy.evaluate(observation, action)
    apart = policy.evaluate(observation.flatten(0, 1).unsqueeze(1), action.flatten().unsqueeze(1))
    torch.testing.assert_close(tuple(x.flatten() for x in whole), tuple(x.flatten() for x in apart))


def test_greedy_takes_the_most_likely_action(policy):
    observation = torch.randn(50, 4)
    action, log_prob, _, _ = policy.act(observation, greedy=True)
    every = policy.actor(observation).log_softmax(-1)
    assert torch.equal(action, every.argmax(-1))
    torch.testing.assert_close(log_prob, every.amax(-1))


def test_starts_undecided(policy):
    """The policy's last layer has gain 0.01: all actions are about equally likely."""
    entropy = policy.evaluate(torch.randn(10, 10, 4), torch.zeros(10, 10, dtype=torch.long)).entropy
    assert (entropy > math.log(3) - 1e-3).all()


def test_the_last_layers_have_gain_1_hundredth_and_1(policy):
    assert torch.linalg.svdvals(policy.actor[-1].weight).tolist() == pytest.approx([0.01] * 3)
    assert policy.critic[-1].weight.norm().item() == pytest.approx(1)


def test_actor_and_critic_share_no_weights(policy):
    policy = copy.deepcopy(policy)  # its gradients are no parts of one vector
    evaluation = policy.evaluate(torch.randn(2, 3, 4), torch.randint(3, (2, 3)))
    for output, own, other in (("value", policy.critic, policy.actor), ("log_prob", policy.actor, policy.critic)):
        policy.zero_grad()
        getattr(evaluation, output).sum().backward(retain_graph=True)
        assert all(p.grad is not None for p in own.parameters())
        assert all(p.grad is None for p in other.parameters())


def test_acting_builds_no_graph(policy):
    _, log_prob, value, _ = policy.act(torch.randn(2, 4))
    assert not log_prob.requires_grad
    assert not value.requires_grad


SPACES = {
    "Discrete": spaces.Discrete(3),
    "MultiDiscrete": spaces.MultiDiscrete([2, 3]),
    "Box": spaces.Box(-0.4, 0.4, (2,)),
}
OBSERVED = spaces.Box(-1, 1, (4,))


@pytest.mark.parametrize("name", SPACES)
class TestSpaces:
    def test_evaluate_says_what_act_recorded(self, name):
        policy = actor_critic(OBSERVED, SPACES[name])
        observation = torch.randn(5, 7, 4)
        steps = [policy.act(observation[:, t]) for t in range(7)]
        action, log_prob, value = (torch.stack([step[i] for step in steps], dim=1) for i in range(3))
        assert action.shape == (5, 7, *SPACES[name].shape)
        again = policy.evaluate(observation, action)
        torch.testing.assert_close((again.log_prob, again.value), (log_prob, value))
        assert again.entropy.shape == (5, 7)

    def test_choose_and_value_are_the_parts_of_act(self, name):
        policy, observation = actor_critic(OBSERVED, SPACES[name]), torch.randn(6, 4)
        for greedy in (False, True):
            torch.manual_seed(1)
            action, _, value, _ = policy.act(observation, greedy=greedy)
            torch.manual_seed(1)
            assert torch.equal(policy.choose(observation, greedy), action)
            torch.testing.assert_close(policy.value(observation), value)

    def test_greedy_is_the_most_likely_action(self, name):
        policy, observation = actor_critic(OBSERVED, SPACES[name]), torch.randn(20, 4)
        for layer in policy.actor:
            if isinstance(layer, torch.nn.Linear):
                torch.nn.init.normal_(layer.weight)
        _, best, _, _ = policy.act(observation, greedy=True)
        for _ in range(30):
            assert (policy.act(observation)[1] <= best + 1e-6).all()

    def test_every_parameter_of_the_actor_moves(self, name):
        """Also log σ, which is no output of the network."""
        policy = actor_critic(OBSERVED, SPACES[name])
        observation = torch.randn(2, 3, 4)
        policy.evaluate(observation, policy.choose(observation)).log_prob.sum().backward()
        parameters = [*policy.actor.parameters(), *policy.head.parameters()]
        assert all(p.grad is not None and p.grad.any() for p in parameters)


def test_spaces_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="FlattenObservation"):
        actor_critic(spaces.Box(0, 1, (8, 8, 3)), SPACES["Box"])
    with pytest.raises(InputError, match="no policy for the actions Dict"):
        actor_critic(OBSERVED, spaces.Dict({"a": spaces.Discrete(2)}))
