"""A policy and a value for images."""

import ctypes
import sys

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from operant.core.errors import InputError
from operant.core.record import Evaluation
from operant.networks.heads import Head
from operant.networks.mlp import Initialisation, initialise

LAYERS = ((32, 8, 4), (64, 4, 2), (64, 3, 1))
"""(channels, size, stride) of the convolutions."""
SMALLEST = 36
CHUNK = 256
"""Images that go through the network at once where no gradient is kept."""
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""glibc's numbers of these settings (malloc.h)."""


class NatureCNN(nn.Module):
    """Images [..., C, H, W] of bytes, scaled to [0, 1], to 512 features: three convolutions and one layer, with ReLU.

    Mnih et al. 2015, "Human-level control through deep reinforcement learning". Raises `InputError` for images of fewer
    than 36 pixels a side, of which the convolutions leave nothing.
    """

    in_bfloat16 = False
    """Whether it computes in that format; weights and features are float32 all the same."""

    def __init__(self, shape: tuple[int, ...], initialisation: Initialisation = "orthogonal") -> None:
        super().__init__()
        if len(shape) != 3 or min(shape[1:]) < SMALLEST:
            raise InputError(
                f"an image of the shape {shape}: the Nature CNN takes (channels, height, width), from {SMALLEST} "
                "pixels a side, as gymnasium's AtariPreprocessing and FrameStackObservation make it; with "
                "gymnasium.wrappers.FlattenObservation something smaller is seen as numbers"
            )
        layers: list[nn.Module] = []
        channels = shape[0]
        for out, size, stride in LAYERS:
            layers += [nn.Conv2d(channels, out, size, stride), nn.ReLU(inplace=True)]
            channels = out
        layers += [nn.Flatten()]
        self.size = 512
        width = nn.Sequential(*layers)(torch.zeros(1, *shape)).shape[1]
        self.network = nn.Sequential(*layers, nn.Linear(width, self.size), nn.ReLU(inplace=True))
        for layer in self.network:
            if isinstance(layer, nn.Linear | nn.Conv2d):
                initialise(layer, initialisation, 2**0.5)

    def forward(self, image: Shaped[Tensor, "..."]) -> Float[Tensor, "..."]:
        rows = image.flatten(0, -4)
        pieces = [rows] if torch.is_grad_enabled() else rows.split(CHUNK)
        return torch.cat([self._features(piece) for piece in pieces]).unflatten(0, image.shape[:-3])

    def _features(self, image: Shaped[Tensor, "N C H W"]) -> Float[Tensor, "N 512"]:
        # Convolutions are quicker where the channels of a pixel are neighbours.
        kind = torch.bfloat16 if self.in_bfloat16 else torch.float32
        scaled = image.contiguous(memory_format=torch.channels_last).to(kind, copy=True).div_(255)
        with torch.autocast(image.device.type, torch.bfloat16, enabled=self.in_bfloat16):
            return self.network(scaled).float()


def torsos(policy: nn.Module) -> list[NatureCNN]:
    """What sees images in it."""
    return [module for module in policy.modules() if isinstance(module, NatureCNN)]


def compute_in_bfloat16(policy: nn.Module) -> None:
    """Let the Nature CNN in `policy` compute in bfloat16: quicker on processors that have such instructions.

    Raises `InputError` if there is none.
    """
    if not (found := torsos(policy)):
        raise InputError("bfloat16 is for networks that see images, and this one sees none: leave it out")
    for module in found:
        module.in_bfloat16 = True


def keep_freed_memory() -> None:
    """Let this process keep the memory that tensors free, where the C library is glibc.

    It would give large pieces back to the system, which fills them with zeros when they are next asked for: with a
    minibatch of images that was an eighth of an update.
    """
    change = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if change is not None:
        change(ctypes.c_int(MMAP_THRESHOLD), ctypes.c_int(1 << 30))
        change(ctypes.c_int(TRIM_THRESHOLD), ctypes.c_int(-1))


class ImageActorCritic(nn.Module):
    """π(a|s) and v(s) on one Nature CNN (Huang et al. 2022, Atari details). A `Policy` without memory."""

    memory = False

    def __init__(self, shape: tuple[int, ...], actions: Head) -> None:
        super().__init__()
        self.head = actions
        self.torso = NatureCNN(shape)
        self.actor = nn.Linear(self.torso.size, self.head.size)
        self.critic = nn.Linear(self.torso.size, 1)
        initialise(self.actor, "orthogonal", 0.01)
        initialise(self.critic, "orthogonal", 1.0)

    @property
    def device(self) -> torch.device:
        """Where it computes: what it is given is moved there."""
        return self.critic.weight.device

    @torch.no_grad()
    def choose(self, observation: Shaped[Tensor, "..."], greedy: bool = False) -> Shaped[Tensor, "..."]:
        """The action alone."""
        output = self.actor(self.torso(observation))
        return self.head.mode(output) if greedy else self.head.sample(output)

    def value(self, observation: Shaped[Tensor, "..."]) -> Float[Tensor, "..."]:
        return self.critic(self.torso(observation)).squeeze(-1)

    @torch.no_grad()
    def act(
        self, observation: Shaped[Tensor, "B C H W"], state: None = None, greedy: bool = False
    ) -> tuple[Shaped[Tensor, "B ..."], Float[Tensor, " B"], Float[Tensor, " B"], None]:
        features = self.torso(observation)
        output = self.actor(features)
        action = self.head.mode(output) if greedy else self.head.sample(output)
        return action, self.head.log_prob(output, action), self.critic(features).squeeze(-1), None

    def evaluate(self, observation: Shaped[Tensor, "B T C H W"], action: Shaped[Tensor, "B T ..."]) -> Evaluation:
        features = self.torso(observation)
        output, value = self.actor(features), self.critic(features).squeeze(-1)
        return Evaluation(self.head.log_prob(output, action), self.head.entropy(output), value)
