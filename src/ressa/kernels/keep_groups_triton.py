"""`keep_top_groups` of `sparsity/select.py`, which says what it computes, in one pass over the scores on a GPU."""

import torch
import triton
import triton.language as tl
from torch import Tensor

_PAIRS = 8192  # compared by one program


def keep_groups(scores: Tensor, n: int, m: int) -> Tensor:
    """bool mask that keeps the n highest of every m consecutive fp32 scores; of equal ones the lower index."""
    scores = scores.contiguous()
    mask = torch.empty(scores.shape, dtype=torch.bool, device=scores.device)
    groups, members = scores.numel() // m, triton.next_power_of_2(m)
    at_once = max(1, _PAIRS // members**2)
    keep_groups_kernel[(triton.cdiv(groups, at_once),)](
        scores, mask.view(torch.uint8), groups, N=n, M=m, MEMBERS=members, GROUPS=at_once
    )
    return mask


@triton.jit
def keep_groups_kernel(
    scores, mask, groups, N: tl.constexpr, M: tl.constexpr, MEMBERS: tl.constexpr, GROUPS: tl.constexpr
):
    group = tl.program_id(0).to(tl.int64) * GROUPS + tl.arange(0, GROUPS)[:, None]
    member = tl.arange(0, MEMBERS)
    place = group * M + member[None, :]
    inside = (group < groups) & (member[None, :] < M)
    score = tl.load(scores + place, mask=inside, other=-float("inf"))
    mine, theirs = score[:, :, None], score[:, None, :]
    loses = (theirs > mine) | ((theirs == mine) & (member[None, None, :] < member[None, :, None]))
    lost = tl.sum(loses.to(tl.int32), axis=2)
    tl.store(mask + place, (lost < N).to(tl.int8), mask=inside)
