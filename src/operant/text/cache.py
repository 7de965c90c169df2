"""A KV cache with room to grow: a new token is written into it, and the tokens before it stay where they are."""

from typing import Any

from torch import Tensor
from transformers import Cache, DynamicLayer


class RoomyLayer(DynamicLayer):
    """Keys and values of one layer in storage that is a quarter longer than they are when it has to be made anew.

    `transformers`' own dynamic layer copies the whole cache for every token: after a prompt of 500 tokens that takes
    longer than the token.
    """

    storage: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        past = self.get_seq_length()
        length = past + key_states.shape[-2]
        if self.storage is None or self.storage[0].shape[-2] < length:
            self._make_room(key_states, value_states, past, length)
        assert self.storage is not None
        for held, new in zip(self.storage, (key_states, value_states), strict=True):
            held[:, :, past:length] = new
        self.keys, self.values = (held[:, :, :length] for held in self.storage)
        return self.keys, self.values

    def _make_room(self, key_states: Tensor, value_states: Tensor, past: int, length: int) -> None:
        """Storage for more than `length` places that begins with what is held."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        room = length + max(length // 4, 32)
        made = []
        for held, new in ((self.keys, key_states), (self.values, value_states)):
            storage = new.new_empty(*new.shape[:2], room, new.shape[-1])
            if past and held is not None:
                storage[:, :, :past] = held
            made.append(storage)
        self.storage = (made[0], made[1])

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        self.storage = None

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        self.storage = None


def roomy_cache() -> Cache:
    """An empty cache for any number of layers."""
    return Cache(layer_class_to_replicate=RoomyLayer)
