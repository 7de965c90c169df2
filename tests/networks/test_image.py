"""The Nature CNN and its policy on small images."""

import platform
import subprocess
import sys

import pytest
import torch
from gymnasium import spaces
from torch import nn

from operant.core.errors import InputError
from operant.networks.actor_critic import actor_critic
from operant.networks.heads import Categorical
from operant.networks.image import ImageActorCritic, NatureCNN, compute_in_bfloat16

SHAPE = (2, 36, 40)


def images(*lead: int) -> torch.Tensor:
    return torch.randint(256, (*lead, *SHAPE), dtype=torch.uint8)


def test_has_the_layers_of_the_paper():
    """84 x 84 x 4: 8192 + 32, 32768 + 64, 36864 + 64 and 3136 x 512 + 512 numbers."""
    assert sum(p.numel() for p in NatureCNN((4, 84, 84)).parameters()) == 8224 + 32832 + 36928 + 1_606_144


def test_the_last_layers_have_gain_1_hundredth_and_1():
    policy = ImageActorCritic(SHAPE, Categorical(3))
    assert torch.linalg.svdvals(policy.actor.weight).tolist() == pytest.approx([0.01] * 3)
    assert policy.critic.weight.norm().item() == pytest.approx(1)


def test_bytes_are_scaled_to_1():
    network, image = NatureCNN(SHAPE), images(3)
    torch.testing.assert_close(network(image), network.network(image / 255))


def test_leading_dimensions_are_kept_and_images_do_not_depend_on_one_another():
    network, image = NatureCNN(SHAPE), images(2, 3)
    found = network(image)
    assert found.shape == (2, 3, 512)
    torch.testing.assert_close(found[1, 2], network(image[1:2, 2])[0])


def test_many_images_go_through_in_chunks_where_no_gradient_is_kept(monkeypatch):
    network, image, sizes = NatureCNN(SHAPE), images(2, 7), []
    due = network(image)
    monkeypatch.setattr("operant.networks.image.CHUNK", 4)
    network.network[0].register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    with torch.no_grad():
        torch.testing.assert_close(network(image), due)
    assert sizes == [4, 4, 4, 2]
    network(image).sum().backward()
    assert sizes[4:] == [14]


def test_bfloat16_is_nearly_the_same_and_its_gradients_are_float32():
    policy, image = ImageActorCritic(SHAPE, Categorical(3)), images(5)
    network, due = policy.torso, policy.torso(image)
    compute_in_bfloat16(policy)
    found = network(image)
    assert found.dtype == torch.float32
    assert 0 < (found - due).norm() / due.norm() < 0.02
    found.sum().backward()
    assert {p.grad.dtype for p in network.parameters()} == {torch.float32}
    with pytest.raises(InputError, match="images"):
        compute_in_bfloat16(nn.Linear(2, 2))


FAULTS = """
import resource, sys, torch
from operant.networks.image import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
for _ in range(12):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(10_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_memory_that_is_freed_can_be_kept():
    found = [
        int(subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True).stdout)
        for how in ("give back", "keep")
    ]
    assert found[1] < 10 < found[0]  # 40 MB are 10,000 pages, or 20 huge ones


def test_evaluate_says_what_act_recorded():
    policy, image = ImageActorCritic(SHAPE, Categorical(3)), images(2, 3)
    steps = [policy.act(image[:, t]) for t in range(3)]
    action, log_prob, value = (torch.stack([step[i] for step in steps], dim=1) for i in range(3))
    with torch.no_grad():
        again = policy.evaluate(image, action)
    torch.testing.assert_close((again.log_prob, again.value), (log_prob, value))
    torch.manual_seed(1)
    due = policy.act(image[:, 0])[0]
    torch.manual_seed(1)
    assert torch.equal(policy.choose(image[:, 0]), due)
    torch.testing.assert_close(policy.value(image), again.value)


def test_spaces_of_images_get_it_and_small_ones_are_refused():
    policy = actor_critic(spaces.Box(0, 255, SHAPE, "uint8"), spaces.Discrete(4))
    assert isinstance(policy, ImageActorCritic)
    assert isinstance(policy.torso.network[0], nn.Conv2d)
    with pytest.raises(InputError, match=r"\(2, 36, 35\)"):
        actor_critic(spaces.Box(0, 255, (2, 36, 35), "uint8"), spaces.Discrete(4))
