"""What a pruning method needs to know of a linear's inputs, accumulated batch by batch.

Each class knows padding (`keep`), can be merged with another of its kind and summed over processes, and gives
the same answer however the tokens were split. A richer one answers everything a poorer one does:
`InputNorm.norm` ⊂ `InputMoments.mean, .variance` ⊂ `Hessian.matrix`.

Sums of one batch are fp32 and are added up over batches in fp64, where a sum of fp32 numbers is exact but for some that
are a billion times as small as the others: so masks do not depend on which process saw which batch.

On a GPU nothing of the size of the inputs is copied to fp32: sums of squares convert as they read, and tensor cores
multiply 16-bit numbers exactly and add the products in fp32.
"""

from collections.abc import Callable, Hashable
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from ressa.calibration.precision import full_precision
from ressa.errors import RunError

_ROWS = 2048  # tokens on a GPU whose deviations from their mean are held in fp32 at a time
_BAND = 2048  # rows of a Hessian that are computed at a time


class Statistics(Protocol):
    """What every statistic can do; methods read the rest."""

    def __init__(self, in_features: int, device: torch.device | str = "cpu") -> None: ...

    @staticmethod
    def size(in_features: int) -> int:
        """Bytes that it takes."""

    @property
    def count(self) -> int:
        """Tokens seen."""

    def update(self, x: Tensor, keep: Tensor | None = None) -> None:
        """Take in x (..., in) of any float dtype; tokens where keep (...) is False are left out."""

    def merge(self, other) -> None:
        """Take in what another statistic of the same kind and width has seen."""

    def all_reduce(self) -> None:
        """Sum over all processes; without an initialised process group, nothing."""

    def norm(self) -> Tensor:
        """fp32 (in,): √(mean of x_j² over tokens)."""


class InputNorm:
    """Root mean square of each input over the kept tokens: Wanda's ‖x_j‖₂ up to the constant √tokens."""

    def __init__(self, in_features: int, device: torch.device | str = "cpu") -> None:
        self.count = 0
        self.sum_squares = _zeros(in_features, device)

    @staticmethod
    def size(in_features: int) -> int:
        """Bytes that it takes."""
        return 8 * in_features

    @torch.no_grad()
    def update(self, x: Tensor, keep: Tensor | None = None) -> None:
        """x: (..., in), any float dtype; keep: bool (...), False for tokens to leave out, such as padding."""
        tokens = _tokens(x, keep, self.sum_squares)
        self.sum_squares += _sum_squares(tokens)
        self.count += len(tokens)

    def merge(self, other: "InputNorm") -> None:
        """Take in what `other` has seen."""
        self.sum_squares += other.sum_squares.to(self.sum_squares.device)
        self.count += other.count

    def all_reduce(self) -> None:
        """Sum over all processes, if there are several."""
        if _several_processes():
            dist.all_reduce(self.sum_squares)
            self.count = _total(self.count, self.sum_squares.device)

    def norm(self) -> Tensor:
        """fp32 (in,): √(mean of x_j² over tokens). Raises RunError if no token was seen."""
        return (self.sum_squares / _seen(self.count)).sqrt().float()


class InputMoments:
    """Mean and variance of each input over the kept tokens, and the number of samples they came from.

    Means and squared deviations are combined by Chan's parallel update: nothing cancels when a mean is large.
    """

    def __init__(self, in_features: int, device: torch.device | str = "cpu") -> None:
        self.count = 0
        self.samples = 0
        self._mean = _zeros(in_features, device)
        self._deviations = _zeros(in_features, device)  # Σ (x − mean)²

    @staticmethod
    def size(in_features: int) -> int:
        """Bytes that it takes."""
        return 16 * in_features

    @torch.no_grad()
    def update(self, x: Tensor, keep: Tensor | None = None) -> None:
        """x: (..., in), any float dtype; keep: bool (...), False for tokens to leave out, such as padding.

        A batch (batch, tokens, in) counts as `batch` samples, anything of fewer dimensions as one.
        """
        self.take(_tokens(x, keep, self._mean), samples=x.shape[0] if x.dim() > 2 else 1)

    def take(self, tokens: Tensor, samples: int) -> None:
        """tokens: (tokens, in) on this statistic's device, all of them counted."""
        self.samples += samples
        if tokens.is_cuda and tokens.dtype == torch.bfloat16 and len(tokens):
            # Numbers of 8 bits whose mean is hundreds of times their deviation are all the same one, so fp32
            # has bits enough for the difference of the sums.
            mean = tokens.sum(0, dtype=torch.float32) / len(tokens)
            self._combine(len(tokens), mean, (_sum_squares(tokens) - len(tokens) * mean**2).clamp_min(0))
            return
        for part in tokens.split(_ROWS) if tokens.is_cuda else (tokens,):
            if len(part):
                part = part.float()
                mean = part.mean(0)
                self._combine(len(part), mean, _sum_squares(part - mean))

    def merge(self, other: "InputMoments") -> None:
        """Take in what `other` has seen."""
        self.samples += other.samples
        if other.count:
            device = self._mean.device
            self._combine(other.count, other._mean.to(device), other._deviations.to(device))

    def all_reduce(self) -> None:
        """Combine over all processes, if there are several."""
        if not _several_processes():
            return
        device = self._mean.device
        own, total = self.count, _total(self.count, device)
        mean = self._mean * (own / max(total, 1))
        dist.all_reduce(mean)
        self._deviations += own * (self._mean - mean).square()
        dist.all_reduce(self._deviations)
        self._mean = mean
        self.count = total
        self.samples = _total(self.samples, device)

    def norm(self) -> Tensor:
        """fp32 (in,): √(mean of x_j² over tokens). Raises RunError if no token was seen."""
        return (self._deviations / _seen(self.count) + self._mean.square()).sqrt().float()

    def mean(self) -> Tensor:
        """fp32 (in,): mean of x_j over tokens. Raises RunError if no token was seen."""
        _seen(self.count)
        return self._mean.float()

    def variance(self) -> Tensor:
        """fp32 (in,): population variance of x_j over tokens. Raises RunError if no token was seen."""
        return (self._deviations / _seen(self.count)).float()

    def _combine(self, count: int, mean: Tensor, deviations: Tensor) -> None:
        total = self.count + count
        apart = mean - self._mean
        self._deviations += deviations + apart.square() * (self.count * count / total)
        self._mean = self._mean + apart * (count / total)
        self.count = total


class Hessian:
    """H = 2 Σ x xᵀ / tokens of the layer's squared output error, and the moments of its inputs beside it.

    SparseGPT divides by sequences, not tokens; its result does not depend on that factor.
    """

    def __init__(self, in_features: int, device: torch.device | str = "cpu") -> None:
        # Σ x xᵀ up to the diagonal: bands of rows (a : b), columns (0 : b)
        self._bands = [_zeros(shape, device) for shape in _bands(in_features)]
        self._moments = InputMoments(in_features, device)
        self._made: dict[Hashable, Any] = {}

    @staticmethod
    def size(in_features: int) -> int:
        """Bytes that it takes."""
        return sum(8 * rows * end for rows, end in _bands(in_features)) + InputMoments.size(in_features)

    @property
    def count(self) -> int:
        """Tokens seen."""
        return self._moments.count

    @property
    def samples(self) -> int:
        """Samples seen."""
        return self._moments.samples

    @torch.no_grad()
    def update(self, x: Tensor, keep: Tensor | None = None) -> None:
        """x: (..., in), any float dtype; keep: bool (...), False for tokens to leave out."""
        tokens = _tokens(x, keep, self._bands[0])
        if not tokens.is_cuda or tokens.dtype not in (torch.bfloat16, torch.float16):
            tokens = tokens.float()
        with full_precision(tokens.device):
            for band in self._bands:
                rows, end = band.shape
                some, all_before = tokens[:, end - rows : end].T, tokens[:, :end]
                if tokens.dtype == torch.float32:
                    band += some @ all_before
                else:
                    band += torch.mm(some, all_before, out_dtype=torch.float32)
        self._moments.take(tokens, samples=x.shape[0] if x.dim() > 2 else 1)
        self._made.clear()

    def merge(self, other: "Hessian") -> None:
        """Take in what `other` has seen."""
        for band, theirs in zip(self._bands, other._bands, strict=True):
            band += theirs.to(band.device)
        self._moments.merge(other._moments)
        self._made.clear()

    def all_reduce(self) -> None:
        """Sum over all processes, if there are several."""
        if _several_processes():
            for band in self._bands:
                dist.all_reduce(band)
            self._moments.all_reduce()
            self._made.clear()

    def once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What `make` makes of this Hessian, made once: linears that share it share its factors."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def matrix(self) -> Tensor:
        """fp32 (in, in): H, a fresh tensor. Raises RunError if no token was seen."""
        factor, width = 2 / _seen(self.count), self._bands[-1].shape[1]
        H = torch.empty(width, width, device=self._bands[0].device)
        for band in self._bands:
            rows, end = band.shape
            begin = end - rows
            H[begin:end, :end] = band * factor
            H[:begin, begin:end] = H[begin:end, :begin].T
        return H

    def norm(self) -> Tensor:
        """fp32 (in,): √(mean of x_j² over tokens). Raises RunError if no token was seen."""
        diagonal = torch.cat([band.diagonal(band.shape[1] - band.shape[0]) for band in self._bands])
        return (diagonal / _seen(self.count)).sqrt().float()

    def mean(self) -> Tensor:
        """fp32 (in,): mean of x_j over tokens. Raises RunError if no token was seen."""
        return self._moments.mean()

    def variance(self) -> Tensor:
        """fp32 (in,): variance of x_j over tokens. Raises RunError if no token was seen."""
        return self._moments.variance()


def _bands(width: int) -> list[tuple[int, int]]:
    return [(min(_BAND, width - begin), min(begin + _BAND, width)) for begin in range(0, width, _BAND)]


def _zeros(shape: int | tuple[int, int], device: torch.device | str) -> Tensor:
    """fp64 where the device has it."""
    exact = torch.device(device).type != "mps"
    return torch.zeros(shape, dtype=torch.float64 if exact else torch.float32, device=device)


def _tokens(x: Tensor, keep: Tensor | None, like: Tensor) -> Tensor:
    """The kept tokens of x as (tokens, in), of x's dtype, on the device of `like`."""
    chosen = x.reshape(-1, x.shape[-1]) if keep is None else x[keep.to(x.device, torch.bool)]
    return chosen.to(like.device)


def _sum_squares(tokens: Tensor) -> Tensor:
    """fp32 (in,): Σ x_j² over tokens (tokens, in)."""
    if tokens.is_cuda:
        return torch.linalg.vector_norm(tokens, dim=0, dtype=torch.float32).square()
    return tokens.float().square().sum(0)


def _seen(count: int) -> int:
    if not count:
        raise RunError(
            "No calibration token reached this layer: the calibration set is empty or all padding, or the "
            "model never runs this layer, so leave it out of the plan."
        )
    return count


def _several_processes() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _total(number: int, device: torch.device) -> int:
    tensor = torch.tensor(number, dtype=torch.int64, device=device)
    dist.all_reduce(tensor)
    return int(tensor)
