"""Stacks of pictures of which each is kept once: eight are seen in a transition of Atari, and one of them is new."""

from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


def column(shape: tuple[int, ...], kind: Any, mapped: bool, folder: Path | None) -> NDArray[Any]:
    """Zeros, in memory or in a file without a name that is mapped into it. What is never written takes no room."""
    if not mapped:
        return np.zeros(shape, kind)
    with TemporaryFile(dir=folder) as file:  # the mapping outlives the name and the handle, the file goes with it
        return np.memmap(file, kind, "w+", shape=shape)


class Pictures:
    """Up to `most` pictures by number. Who puts one that is there gets its number; who put it has to drop it."""

    def __init__(self, most: int, shape: tuple[int, ...], mapped: bool = False, folder: Path | None = None) -> None:
        self.pixels: Pixels = column((most, *shape), np.uint8, mapped, folder)
        self.uses, self.keys = np.zeros(most, np.int64), np.zeros(most, np.int64)
        self.known: dict[int, int] = {}
        """Numbers by the hash of what they are of."""
        self.free: list[int] = []
        self.begun = 0
        """Numbers from here on were never used."""

    def put(self, picture: Pixels) -> int:
        """The number of a picture."""
        key = hash(picture.tobytes())
        number = self.known.get(key)
        if number is None or not np.array_equal(self.pixels[number], picture):
            if not self.free:
                self.free.append(self.begun)
                self.begun += 1
            number = self.free.pop()
            self.pixels[number] = picture
            self._know(number, key)
        self.uses[number] += 1
        return number

    def drop(self, number: int) -> None:
        """One use less."""
        self.uses[number] -= 1
        if self.uses[number] == 0:
            key = int(self.keys[number])
            if self.known.get(key) == number:
                del self.known[key]
            self.free.append(number)

    def restore(self, pixels: Pixels, used: NDArray[np.int64]) -> None:
        """As they were saved, `used` being all numbers in use, as often as they are."""
        self.begun = len(pixels)
        self.pixels[: self.begun] = pixels
        self.uses[:] = np.bincount(used, minlength=len(self.uses))
        self.known, self.free = {}, []
        for number in range(self.begun):
            if self.uses[number]:
                self._know(number, hash(pixels[number].tobytes()))
            else:
                self.free.append(number)

    def _know(self, number: int, key: int) -> None:
        self.keys[number], self.known[key] = key, number


class Stacks:
    """A column of stacks of pictures, [capacity, depth, ...], that is written and read like an array."""

    def __init__(self, pictures: Pictures, capacity: int, depth: int) -> None:
        self.pictures, self.numbers = pictures, np.full((capacity, depth), -1)

    def __setitem__(self, rows: NDArray[np.int64], stacks: NDArray[np.uint8]) -> None:
        for row, stack in zip(rows, stacks, strict=True):
            before = self.numbers[row].tolist()
            self.numbers[row] = [self.pictures.put(picture) for picture in stack]
            for number in before:
                if number >= 0:
                    self.pictures.drop(number)

    def __getitem__(self, rows: Any) -> NDArray[np.uint8]:
        return self.pictures.pixels[self.numbers[rows]]
