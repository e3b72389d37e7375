"""A weighted sampler for datasets that grow while they are sampled."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Sampler

from replayring._arguments import whole
from replayring_proto.arrays import as_array
from replayring_proto.errors import InvalidRequestError

__all__ = ["WeightedSampler"]

Weights: TypeAlias = "Tensor | Sequence[float] | npt.NDArray[Any]"
Shares: TypeAlias = npt.NDArray[np.float64]

_BLOCK_DRAWS = 4096


class WeightedSampler(Sampler[int]):
    """Draws positions with given weights, with replacement, for a `DataLoader`.

    As torch's `WeightedRandomSampler`, with two differences. Weights may be a function, which is
    called again as sampling goes on, so that frames which arrived meanwhile are drawn too:

        sampler = WeightedSampler(
            lambda: compute_sampler_weights(offline, 0, online, 0.5, 1), num_samples=100_000
        )
        loader = DataLoader(
            ConcatDataset([offline, online]), batch_size=256, sampler=sampler, collate_fn=collate
        )

    And there is no limit of 2^24 weights: a position is where a uniform number falls among the
    cumulative weights, in float64.

    A `DataLoader` draws ahead: workers times `prefetch_factor` batches. In a full ring that is
    written to, a position that was drawn before its frame was overwritten gives the frame that
    replaced it, which may be one of the last of its episode, even where the weights leave those
    out. It happens to about as many draws in a hundred as frames in a hundred are overwritten while
    a batch waits. What came is told by the item's `index`, and a window that reaches beyond the
    episode by `_is_pad`. Where it may not happen at all, use `BatchDataset`, whose server draws and
    reads at once; who holds values of `index` fetches those with `RemoteDataset.by_index`.

    Each iterator is independent but for the generator. Not thread-safe, as torch's samplers.

    Attributes:
        num_samples: positions drawn in one iteration, or None.
        refresh_every: draws after which a function is called again, or None.
        generator: the source of randomness, or None for torch's own.
    """

    def __init__(
        self,
        weights: Weights | Callable[[], Weights],
        num_samples: int | None = None,
        *,
        refresh_every: int | None = 10_000,
        generator: torch.Generator | None = None,
    ) -> None:
        """Prepares sampling.

        Args:
            weights: a weight for each position, shape (n,), finite and at least 0, that need not
                sum to 1; or a function that returns them. A function is called when an iteration
                begins and after every `refresh_every` draws. Other weights are copied here.
            num_samples: positions drawn in one iteration; None to draw without end.
            refresh_every: draws between two calls of the function; None to call it when an
                iteration begins, and then no more.
            generator: where random numbers come from; None for torch's default generator.

        Raises:
            ValueError: a weight is negative or not finite, all are zero, they are not a flat
                sequence, or a number is below 1. What a function returns is checked when it is
                called.
        """
        self.num_samples = None if num_samples is None else whole(num_samples, "num_samples", 1)
        self.refresh_every = (
            None if refresh_every is None else whole(refresh_every, "refresh_every", 1)
        )
        self.generator = generator
        self._function = weights if callable(weights) else None
        self._fixed = None if callable(weights) else _cumulative(weights)

    def __iter__(self) -> Iterator[int]:
        drawn = 0
        while self.num_samples is None or drawn < self.num_samples:
            cumulative = self._fixed
            if self._function is not None:
                cumulative = _cumulative(self._function())
            assert cumulative is not None  # one of the two is there
            refresh_at = None if self.refresh_every is None else drawn + self.refresh_every
            for count in _blocks(drawn, _earlier(self.num_samples, refresh_at)):
                yield from self._draw(cumulative, count)
                drawn += count

    def __len__(self) -> int:
        """Positions in one iteration.

        Raises:
            TypeError: there is no end.
        """
        if self.num_samples is None:
            raise TypeError("this WeightedSampler draws without end; give num_samples for a length")
        return self.num_samples

    def _draw(self, cumulative: Shares, count: int) -> list[int]:
        # Inverse transform sampling: position i is drawn for a number in [cumulative[i - 1],
        # cumulative[i]), which is empty where the weight is 0. The last entry is 1, which rand
        # never reaches.
        # By name: threads have default devices, which may be any.
        device = "cpu" if self.generator is None else self.generator.device
        uniform = torch.rand(count, dtype=torch.float64, generator=self.generator, device=device)
        drawn: list[int] = np.searchsorted(cumulative, uniform.cpu().numpy(), side="right").tolist()
        return drawn


def _cumulative(weights: Weights) -> Shares:
    """Returns the share of the first i + 1 weights in their sum, for each i."""
    # By numpy: torch would spread this over threads that the training needs.
    try:
        array = as_array(weights).astype(np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidRequestError(f"weights: {error}") from None
    if array.ndim != 1:
        raise InvalidRequestError(f"weights have shape {array.shape}; give a flat sequence")
    wrong = ~(np.isfinite(array) & (array >= 0))
    if wrong.any():
        raise InvalidRequestError(
            f"weights must be finite and at least 0, received {array[wrong][0]}"
        )
    with np.errstate(over="ignore"):  # reported below
        cumulative = np.cumsum(array)
    if not len(array) or not 0 < cumulative[-1] < math.inf:
        raise InvalidRequestError(
            f"the sum of {len(array):,} weights must be finite and above 0; nothing can be drawn"
        )
    shares: Shares = cumulative / cumulative[-1]
    return shares


def _blocks(start: int, end: int | None) -> Iterator[int]:
    """Yields sizes of blocks that lead from `start` to `end`, or without end."""
    while end is None or start < end:
        count = _BLOCK_DRAWS if end is None else min(_BLOCK_DRAWS, end - start)
        yield count
        start += count


def _earlier(first: int | None, second: int | None) -> int | None:
    return min((end for end in (first, second) if end is not None), default=None)
