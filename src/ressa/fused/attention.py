"""`nn.MultiheadAttention`, whose three input projections are one parameter, as an attention of plain linears."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ressa.fused.part import Part
from ressa.fused.stand_in import Split, Views


def splits(module: nn.Module) -> bool:
    """Whether it is one with packed projections and nothing unusual."""
    return (
        isinstance(module, nn.MultiheadAttention)
        and module.in_proj_weight is not None
        and module.bias_k is None
        and not module.add_zero_attn
    )


class SplitAttention(Split):
    """`q_proj`, `k_proj`, `v_proj` and `out_proj`; called as `nn.MultiheadAttention` is."""

    original: nn.MultiheadAttention

    def __init__(self, original: nn.MultiheadAttention, views: Views) -> None:
        super().__init__(original, views)
        width = original.embed_dim
        bias = original.in_proj_bias is not None
        for number, name in enumerate(("q_proj", "k_proj", "v_proj")):
            rows = (number * width, (number + 1) * width, 1)
            self._add(
                name, Part("in_proj_weight", None, rows), Part("in_proj_bias", None, rows) if bias else None
            )
        out_bias = original.out_proj.bias is not None
        self._add("out_proj", Part("out_proj.weight"), Part("out_proj.bias") if out_bias else None)

    def _add(self, name: str, weight: Part, bias: Part | None) -> None:
        self.add_module(name, self.make(weight, bias))
        self.named(name, weight, bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """query (batch, length, width) if batch_first, else (length, batch, width); also without batch.

        Masks are True, or −∞, where nothing is attended to. `is_causal` is a hint beside `attn_mask`: ignored.
        """
        batched = query.dim() == 3
        q, k, v = self.q_proj(query), self.k_proj(key), self.v_proj(value)
        if not batched:
            q, k, v = (each.unsqueeze(0) for each in (q, k, v))
        elif not self.original.batch_first:
            q, k, v = (each.transpose(0, 1) for each in (q, k, v))
        heads = self.original.num_heads
        q, k, v = (each.unflatten(-1, (heads, -1)).transpose(1, 2) for each in (q, k, v))
        added = q.new_zeros(q.shape[0], heads, q.shape[2], k.shape[2])
        if attn_mask is not None:
            each = heads if attn_mask.dim() == 3 else 1  # (batch · heads, length, keys), or one for all
            added = added + _scores(attn_mask, q.dtype).view(-1, each, *attn_mask.shape[-2:])
        if key_padding_mask is not None:
            padding = key_padding_mask if batched else key_padding_mask.unsqueeze(0)
            added = added + _scores(padding, q.dtype)[:, None, None]
        attention = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + added).softmax(-1)
        attention = F.dropout(attention, self.original.dropout, self.training)
        out = self.out_proj((attention @ v).transpose(1, 2).flatten(2))
        weights = None
        if need_weights:
            weights = attention.mean(1) if average_attn_weights else attention
            weights = weights if batched else weights.squeeze(0)
        if not batched:
            return out.squeeze(0), weights
        return out if self.original.batch_first else out.transpose(0, 1), weights


def _scores(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask as what is added to the scores."""
    if mask.dtype == torch.bool:
        return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(mask, float("-inf"))
    return mask.to(dtype)
