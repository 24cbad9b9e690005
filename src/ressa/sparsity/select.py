"""Keeping the highest scores, exactly as many as asked, the same ones on every device.

Scores are compared in fp32. Between equal scores the lower index stays, so a mask never depends on the
order in which a device happens to sort. NaN has no place in an order and is refused.
"""

import importlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ressa.errors import RunError, UsageError
from ressa.kernels.has_triton import HAS_TRITON
from ressa.sparsity.pattern import nearest

_PAIRWISE_WIDTH = 32  # up to here comparing all pairs of a group beats a top-k over very many short rows
_BINS = 1 << 16
_SORTED = 1 << 23  # scores on a GPU up to which sorting beats counting, which reads them without a copy


def keep_top_rows(scores: Tensor, keep: int) -> Tensor:
    """bool mask (rows, width) that keeps the `keep` highest scores (rows, width) of every row."""
    scores = _comparable(scores)
    width = scores.shape[1]
    if keep <= 0 or keep >= width:
        return torch.full_like(scores, keep > 0, dtype=torch.bool)
    if keep <= width - keep:
        threshold = scores.topk(keep, dim=1, sorted=False).values.amin(1, keepdim=True)
    else:
        threshold = scores.topk(width - keep + 1, dim=1, largest=False, sorted=False).values.amax(
            1, keepdim=True
        )
    mask = scores >= threshold
    crowded = (mask.sum(1) > keep).nonzero().squeeze(1)  # rows where several scores equal the threshold
    if len(crowded):
        some, bar = scores[crowded], threshold[crowded]
        above = some > bar
        tied = some == bar
        room = keep - above.sum(1, keepdim=True)
        mask[crowded] = above | (tied & (tied.cumsum(1, dtype=torch.int32) <= room))
    return mask


def keep_top_groups(scores: Tensor, n: int, m: int) -> Tensor:
    """bool mask (out, in) that keeps the n highest scores (out, in) of every m consecutive ones of a row."""
    scores = _comparable(scores)
    if m > _PAIRWISE_WIDTH:
        return keep_top_rows(scores.reshape(-1, m), n).reshape(scores.shape)
    if scores.is_cuda and HAS_TRITON:
        return importlib.import_module("ressa.kernels.keep_groups_triton").keep_groups(scores, n, m)
    members = scores.reshape(-1, m).T.contiguous()  # (m, groups): each comparison below runs over all groups
    beaten_by = torch.zeros(members.shape, dtype=torch.uint8, device=scores.device)
    for low in range(m):
        for high in range(low + 1, m):
            loses = members[low] < members[high]  # on a tie the lower index wins
            beaten_by[low] += loses
            beaten_by[high] += ~loses
    return (beaten_by < n).T.reshape(scores.shape)


def keep_top(scores: Sequence[Tensor], keep: int) -> list[Tensor]:
    """bool masks that keep the `keep` highest scores of all tensors taken together.

    No copy of all the scores is made: the threshold is found by counting, first the upper and then the
    lower 16 bits of each score. Between equal scores the earlier tensor, then the lower index stays.
    """
    for each in scores:
        _comparable(each)
    total = sum(each.numel() for each in scores)
    if keep <= 0 or keep >= total:
        return [torch.full_like(each, keep > 0, dtype=torch.bool) for each in scores]
    if len(scores) == 1 and scores[0].is_cuda and total <= _SORTED:
        return [_keep_top_sorted(scores[0], keep)]
    threshold = _kth_highest(scores, keep)
    above = [each.float() > threshold for each in scores]
    room = keep - sum(int(mask.sum()) for mask in above)
    for mask, each in zip(above, scores, strict=True):
        tied = each.float() == threshold
        ties = int(tied.sum())
        if ties > room:
            tied = (tied.flatten() & (tied.flatten().cumsum(0, dtype=torch.int64) <= room)).view_as(tied)
        mask |= tied
        room -= min(ties, room)
    return above


def _keep_top_sorted(scores: Tensor, keep: int) -> Tensor:
    """`keep_top` of one tensor by sorting, which a GPU does in the time that it takes to ask it for a count."""
    flat = scores.float().flatten()
    threshold = flat.sort(descending=True).values[keep - 1]
    mask, tied = flat > threshold, flat == threshold
    mask |= tied & (tied.cumsum(0) <= keep - mask.sum())
    return mask.view(scores.shape)


def select_global(scores: Mapping[str, Tensor], sparsity: float) -> dict[str, Tensor]:
    """Masks of many layers at one threshold over all scores: round(sparsity · all weights) zeros in all.

    scores: layer name → scores of any shape. Raises UsageError unless 0 ≤ sparsity < 1.
    """
    if not 0 <= sparsity < 1:
        raise UsageError(
            f"A sparsity of {sparsity} cannot be had: give a share of zeros from 0 up to, not including, 1."
        )
    total = sum(each.numel() for each in scores.values())
    masks = keep_top(list(scores.values()), total - nearest(sparsity, total))
    return dict(zip(scores, masks, strict=True))


def _comparable(scores: Tensor) -> Tensor:
    scores = scores.detach().float()
    if scores.isnan().any():
        raise RunError(
            "Some scores are not numbers (NaN): the weight or its calibration inputs hold NaN or infinity, "
            "so check the checkpoint and try float32."
        )
    return scores


def _ordered_bits(scores: Tensor) -> Tensor:
    """int32 keys that compare as the fp32 scores do (flipping the magnitude bits of negative floats)."""
    bits = (scores.detach().float().flatten() + 0.0).view(torch.int32)  # + 0.0 turns -0.0 into 0.0
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def _kth_highest(scores: Sequence[Tensor], k: int) -> float:
    """The k-th highest of all scores together (1 ≤ k ≤ their number), by two rounds of counting."""
    upper = torch.zeros(_BINS, dtype=torch.int64)
    for each in scores:
        upper += _histogram((_ordered_bits(each) >> 16) + _BINS // 2)
    top, k = _kth_from_top(upper, k)
    lower = torch.zeros(_BINS, dtype=torch.int64)
    for each in scores:
        keys = _ordered_bits(each)
        lower += _histogram(keys[(keys >> 16) + _BINS // 2 == top] & 0xFFFF)
    rest, _ = _kth_from_top(lower, k)
    key = torch.tensor(((top - _BINS // 2) << 16) | rest, dtype=torch.int32)
    return (key ^ ((key >> 31) & 0x7FFFFFFF)).view(torch.float32).item()


def _histogram(values: Tensor) -> Tensor:
    return torch.bincount(values, minlength=_BINS).cpu()


def _kth_from_top(histogram: Tensor, k: int) -> tuple[int, int]:
    """The bin that holds the k-th highest entry, and that entry's rank within the bin."""
    from_top = histogram.flip(0).cumsum(0)
    place = int(torch.searchsorted(from_top, k))
    before = int(from_top[place - 1]) if place else 0
    return _BINS - 1 - place, k - before
