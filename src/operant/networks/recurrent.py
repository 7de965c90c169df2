"""A policy and a value with memory, for worlds in which one observation does not say enough."""

import dataclasses
from typing import Any, Literal, get_args

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from operant.core.errors import InputError
from operant.core.flat import flatten
from operant.core.record import Evaluation, Record
from operant.networks.actor_critic import head
from operant.networks.heads import Head
from operant.networks.image import NatureCNN
from operant.networks.masks import MaskedBox, forbid
from operant.networks.mlp import initialise

Cell = Literal["lstm", "gru"]


@dataclasses.dataclass(frozen=True)
class Remembered(Record):
    """What a policy with memory saw: `begins` is True where an episode begins, `state` is from before the first place.

    Rows are cut and shuffled whole: a state is that of the row's first place alone.
    """

    observation: Shaped[Tensor, "B T ..."]
    begins: Bool[Tensor, "B T"]
    state: Float[Tensor, "B S"]


class Memory(nn.Module):
    """An LSTM (Hochreiter and Schmidhuber 1997) or a GRU (Cho et al. 2014), its state 0 where an episode begins.

    Weights are orthogonal, biases 0 (Huang et al. 2022, LSTM details 1 to 4). A state [B, S] is the output of the step
    before, behind which an LSTM has its cell. PyTorch runs an LSTM on a CPU two to four times as fast as a GRU.
    """

    def __init__(self, inputs: int, size: int, cell: Cell = "lstm") -> None:
        super().__init__()
        if cell not in get_args(Cell):
            raise InputError(f"no memory {cell!r}: choose one of {', '.join(get_args(Cell))}")
        self.network = (nn.LSTM if cell == "lstm" else nn.GRU)(inputs, size, batch_first=True)
        self.size, self.state_size = size, size * (2 if cell == "lstm" else 1)
        for name, p in self.network.named_parameters():
            if name.startswith("weight"):
                nn.init.orthogonal_(p)
            else:
                nn.init.zeros_(p)

    def run(
        self, x: Float[Tensor, "B T D"], state: Float[Tensor, "B S"]
    ) -> tuple[Float[Tensor, "B T H"], Float[Tensor, "B S"]]:
        """(outputs, last state) of rows in which no episode begins."""
        if isinstance(self.network, nn.GRU):
            output, last = self.network(x, state.unsqueeze(0))
            return output, last.squeeze(0)
        output, (hidden, cell) = self.network(x, tuple(s.contiguous() for s in state.unsqueeze(0).chunk(2, -1)))
        return output, torch.cat([hidden, cell], -1).squeeze(0)

    def forward(
        self, x: Float[Tensor, "B T D"], begins: Bool[Tensor, "B T"], state: Float[Tensor, "B S"]
    ) -> Float[Tensor, "B T H"]:
        """Outputs of rows in which episodes begin: they are taken apart, and those of like length go through at once.

        That is faster than step by step, and than stopping all rows wherever an episode begins in one of them.
        """
        row, first, length = episodes(begins)
        states = torch.where(begins[row, first, None], 0.0, state[row])
        output = x.new_empty(*begins.shape, self.size)
        for group in alike(length):
            time = torch.arange(int(length[group].max()), device=x.device)
            inside = time < length[group, None]
            places = row[group, None].expand_as(inside)[inside], (first[group, None] + time)[inside]
            padded = x.new_zeros(*inside.shape, x.shape[-1]).index_put(inside.nonzero(as_tuple=True), x[places])
            output = output.index_put(places, self.run(padded, states[group])[0][inside])
        return output


def episodes(begins: Bool[Tensor, "B T"]) -> tuple[Int[Tensor, " E"], Int[Tensor, " E"], Int[Tensor, " E"]]:
    """(row, first place, length) of the stretches of each row that no beginning divides."""
    starts = begins.clone()
    starts[:, 0] = True
    row, first = starts.nonzero(as_tuple=True)
    place = row * begins.shape[1] + first
    return row, first, torch.diff(place, append=place.new_tensor([begins.numel()]))


def alike(length: Int[Tensor, " E"]) -> list[Int[Tensor, " n"]]:
    """Which lengths lie between the same powers of 2: padded to the longest, less than half of a group is padding."""
    level = length.double().log2().ceil()
    return [(level == one).nonzero().squeeze(1) for one in level.unique()]


class Stream(nn.Module):
    """Features to outputs: a layer with tanh, a memory, and a layer."""

    def __init__(self, inputs: int, size: int, outputs: int, gain: float, cell: Cell) -> None:
        super().__init__()
        self.encoder = nn.Linear(inputs, size)
        self.memory = Memory(size, size, cell)
        self.output = nn.Linear(size, outputs)
        initialise(self.encoder, "orthogonal", 2**0.5)
        initialise(self.output, "orthogonal", gain)

    def step(
        self, x: Float[Tensor, "B D"], state: Float[Tensor, "B S"]
    ) -> tuple[Float[Tensor, "B O"], Float[Tensor, "B S"]]:
        """(outputs, the state after them)."""
        remembered, state = self.memory.run(self.encoder(x).tanh().unsqueeze(1), state)
        return self.output(remembered.squeeze(1)), state

    def forward(
        self, x: Float[Tensor, "B T D"], begins: Bool[Tensor, "B T"], state: Float[Tensor, "B S"]
    ) -> Float[Tensor, "B T O"]:
        return self.output(self.memory(self.encoder(x).tanh(), begins, state))


class RecurrentActorCritic(nn.Module):
    """π(a|s) and v(s) of all that was seen in an episode. A `Policy` with memory.

    Actor and critic have a memory each: with one for both, the values' errors drown what the policy needs to remember.
    Images go through one Nature CNN for both. A state is the actor's, then the critic's. `masked` is the number of
    places at the end of an observation which say what actions are allowed.
    """

    memory = True

    def __init__(
        self, shape: tuple[int, ...], actions: Head, cell: Cell = "lstm", size: int = 32, masked: int = 0
    ) -> None:
        super().__init__()
        self.head, self.masked = actions, masked
        self.eye = NatureCNN(shape) if len(shape) == 3 else nn.Identity()
        inputs = self.eye.size if isinstance(self.eye, NatureCNN) else shape[0] - masked
        self.actor = Stream(inputs, size, self.head.size, 0.01, cell)
        self.critic = Stream(inputs, size, 1, 1.0, cell)
        flatten(self)

    @property
    def device(self) -> torch.device:
        """Where it computes: what it is given is moved there."""
        return self.critic.output.weight.device

    def initial_state(self, rows: int) -> Float[Tensor, "B S"]:
        """Nothing is remembered."""
        return self.critic.output.weight.new_zeros(rows, 2 * self.critic.memory.state_size)

    @torch.no_grad()
    def act(
        self, observation: Shaped[Tensor, "B ..."], state: Float[Tensor, "B S"] | None = None, greedy: bool = False
    ) -> tuple[Shaped[Tensor, "B ..."], Float[Tensor, " B"], Float[Tensor, " B"], Float[Tensor, "B S"]]:
        """One step, and the state after it. Where an episode begins, the state before it has to be 0."""
        actor, critic = (self.initial_state(len(observation)) if state is None else state).chunk(2, -1)
        seen, allowed = self._split(observation)
        output, actor = self.actor.step(seen, actor)
        value, critic = self.critic.step(seen, critic)
        output = forbid(output, allowed)
        action = self.head.mode(output) if greedy else self.head.sample(output)
        return action, self.head.log_prob(output, action), value.squeeze(-1), torch.cat([actor, critic], -1)

    def evaluate(self, observation: Remembered, action: Shaped[Tensor, "B T ..."]) -> Evaluation:
        """What `act` would say today, step by step, of whole rows."""
        actor, critic = observation.state.chunk(2, -1)
        seen, allowed = self._split(observation.observation)
        output = forbid(self.actor(seen, observation.begins, actor), allowed)
        value = self.critic(seen, observation.begins, critic).squeeze(-1)
        return Evaluation(self.head.log_prob(output, action), self.head.entropy(output), value)

    def _split(self, observation: Shaped[Tensor, "..."]) -> tuple[Tensor, Tensor | None]:
        """(features, the mask if there is one)."""
        if not self.masked:
            return self.eye(observation), None
        return observation[..., : -self.masked], observation[..., -self.masked :]


def recurrent_actor_critic(
    observation_space: spaces.Space[Any], action_space: spaces.Space[Any], cell: Cell = "lstm", size: int = 32
) -> RecurrentActorCritic:
    """A policy with memory for one environment's spaces: numbers, or images of bytes.

    Raises `InputError` for spaces that it cannot see or act in, and for another `cell`.
    """
    image = isinstance(observation_space, spaces.Box) and observation_space.dtype == np.uint8
    if not isinstance(observation_space, spaces.Box) or (len(observation_space.shape) != 1 and not image):
        raise InputError(
            f"a recurrent network sees a Box of one dimension or an image, not {observation_space}: "
            "flatten the observation with gymnasium.wrappers.FlattenObservation"
        )
    masked = observation_space.actions if isinstance(observation_space, MaskedBox) else 0
    return RecurrentActorCritic(observation_space.shape, head(action_space), cell, size, masked)
