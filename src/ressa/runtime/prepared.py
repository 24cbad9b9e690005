"""A packed weight as a device computes with it; made from the canonical form once, and turned back on demand."""

from collections.abc import Sequence
from typing import Any, Self

from torch import Tensor, nn
from torch.nn import functional as F

from ressa.runtime.packing import Form, PackedWeight, pack
from ressa.sparsity import pack_mask, unpack_mask


class PreparedWeight(nn.Module):
    """What a kernel, or the dense fallback, holds in place of a packed weight.

    Its tensors are parameters and buffers, so that they count as the model's memory; none is ever part of a
    state dict, which holds the canonical form. A kernel subclasses this in `ressa.runtime.kernels`.
    """

    weight: nn.Parameter
    """What a model's own code sees as the layer's `weight` (some read its dtype and device): the dense weight
    (out, in), or an empty tensor of the same dtype where there is none."""
    portable: bool = False
    """Whether the tensors mean the same on every device and in every dtype."""

    @classmethod
    def stack(cls, weights: Sequence[Self]) -> "PreparedWeight | None":
        """The weights (out, in) below one another as one, of which they hold parts from then on, so that it takes no
        memory of its own. None where such weights do not stack, or that gains nothing."""
        return None

    def linear(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """x (…, in) → x Wᵀ + bias, (…, out); for any number of tokens, none included."""
        raise NotImplementedError

    def packed(self) -> PackedWeight:
        """The canonical form again, bit for bit, on the same device."""
        raise NotImplementedError

    def dense(self) -> Tensor:
        """The weight (out, in)."""
        return self.packed().dense()

    def _save_to_state_dict(self, *_: Any) -> None:
        pass

    def _load_from_state_dict(self, *_: Any) -> None:
        pass


class DenseWeight(PreparedWeight):
    """The weight unpacked once: as fast as a dense layer and as large, and its mask (one bit a weight)."""

    portable = True
    packed_mask: Tensor

    def __init__(self, packed: PackedWeight) -> None:
        super().__init__()
        self.form: Form = packed.form
        self.weight = nn.Parameter(packed.dense(), requires_grad=False)
        self.register_buffer("packed_mask", pack_mask(packed.mask()), persistent=False)

    def linear(self, x: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, self.weight, bias)

    def packed(self) -> PackedWeight:
        return pack(self.weight, unpack_mask(self.packed_mask, self.weight.shape[1]), self.form)

    def dense(self) -> Tensor:
        return self.weight
