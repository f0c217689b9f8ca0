"""Pictures of one batch as one array, in memory that is used again and again.

A fresh array for each batch would have the kernel zero its pages each time, which takes longer than the
copy itself; and a backend on a GPU wants pages that stay where they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
MakeArray = Callable[[tuple[int, ...]], Pixels]


class ImageStack(Sequence[Pixels]):
    """Pictures of one shape: a sequence of [H, W, 3], and `array` [N, H, W, 3], without a copy.

    The memory is used again after the run: a backend must not keep it or hand out views of it.
    """

    def __init__(self, array: Pixels, whole: Pixels | None = None) -> None:
        self.array = array
        self.whole = whole

    def __len__(self) -> int:
        return len(self.array)

    @overload
    def __getitem__(self, at: int) -> Pixels: ...
    @overload
    def __getitem__(self, at: slice) -> ImageStack: ...
    def __getitem__(self, at: int | slice) -> Pixels | ImageStack:
        return ImageStack(self.array[at]) if isinstance(at, slice) else self.array[at]


def stack_images(payloads: Sequence[Any]) -> Pixels:
    """uint8 [N, H, W, 3] of a batch's pictures, whether they were stacked already or not."""
    if isinstance(payloads, ImageStack):
        return payloads.array
    return np.stack([one for one in payloads if isinstance(one, np.ndarray)])


class Stacker:
    """Lays pictures of one shape into arrays that are made once. Safe to use from several threads."""

    def __init__(self, most: int, shape: tuple[int, ...], make_array: MakeArray) -> None:
        self._shape = (most, *shape)
        self._make_array = make_array
        self._free: list[Pixels] = []

    def stack(self, pictures: Sequence[Pixels]) -> ImageStack:
        """The batch in memory of its own until `give_back`."""
        try:
            whole = self._free.pop()
        except IndexError:
            whole = self._make_array(self._shape)
        for at, picture in enumerate(pictures):
            whole[at] = picture
        return ImageStack(whole[: len(pictures)], whole)

    def give_back(self, stack: ImageStack) -> None:
        """The run is over; the memory may be used again."""
        if stack.whole is not None:
            self._free.append(stack.whole)
