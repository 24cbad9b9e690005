"""Which tokens a statistic counts: all of them, or all text and the visual tokens that a block changes most.

ATV-Pruning (arXiv 2603.16001): in a block that sees text and image together, visual tokens outnumber text and
drown it in the statistics. What a visual token is worth is the cosine distance between the block's input and
output at its place; per sample the k most changed count, k = round(min(1, α · mean distance) · text tokens).

How the walk calls it, for each block whose tokens are of both kinds (`--tokens atv`):
1. run the dense block over all calibration batches and give every batch's input and output to one
   `VisualDistance`: the mean is over the whole calibration set (summed over processes by `all_reduce`);
2. run the block again with hooks; before each batch set
   `keep = select_tokens(block_input, block_output, is_visual, keep, alpha, distance.mean())` and pass that
   keep to `statistics.update`. Outputs may be those of step 1: the weights are the same.
Linears whose tokens are of one kind (a vision tower) or not the block's own (the keys and values of a
cross-attention) count all their tokens.
"""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F


class VisualDistance:
    """Mean cosine distance between a block's input and output over all visual tokens seen so far."""

    def __init__(self) -> None:
        self.total = 0.0
        self.count = 0

    def update(
        self, block_input: Tensor, block_output: Tensor, is_visual: Tensor, keep: Tensor | None = None
    ) -> None:
        """block_input, block_output: (..., tokens, width); is_visual, keep: bool (..., tokens)."""
        visual = is_visual if keep is None else is_visual & keep.bool()
        distances = _distance(block_input, block_output)[visual.to(block_input.device)]
        self.total += float(distances.double().sum())
        self.count += distances.numel()

    def merge(self, other: "VisualDistance") -> None:
        """Take in what `other` has seen."""
        self.total += other.total
        self.count += other.count

    def all_reduce(self, device: torch.device | str = "cpu") -> None:
        """Sum over all processes, if there are several; `device` is where the process group communicates."""
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            sums = torch.tensor([self.total, self.count], dtype=torch.float64, device=device)
            dist.all_reduce(sums)
            self.total, self.count = float(sums[0]), int(sums[1])

    def mean(self) -> float:
        """0 when no visual token was seen."""
        return self.total / max(self.count, 1)


@torch.no_grad()
def select_tokens(
    block_input: Tensor,
    block_output: Tensor,
    is_visual: Tensor,
    keep: Tensor | None = None,
    alpha: float = 1.0,
    mean_distance: float | None = None,
) -> Tensor:
    """bool (batch, tokens): every kept text token and, per sample, the k kept visual ones that change most.

    block_input, block_output: (batch, tokens, width), any float dtype. is_visual, keep: bool (batch, tokens);
    keep is False at padding. k = min(visual, round(min(1, alpha · mean_distance) · text)), halves to even,
    text and visual counted within the sample. mean_distance: over the calibration set; without one, over this
    batch. A sample without text keeps all its tokens: there is nothing that they could drown. Of equally
    distant tokens the earlier stays.
    """
    is_visual = is_visual.to(block_input.device, torch.bool)
    keep = torch.ones_like(is_visual) if keep is None else keep.to(block_input.device, torch.bool)
    visual, text = is_visual & keep, ~is_visual & keep
    distances = _distance(block_input, block_output)
    if mean_distance is None:
        mean_distance = float(distances[visual].mean()) if visual.any() else 0.0
    texts = text.sum(1)
    k = (texts * min(1.0, alpha * mean_distance)).round()
    k = torch.where(texts > 0, k, visual.sum(1)).unsqueeze(1)
    order = distances.masked_fill(~visual, -torch.inf).argsort(dim=1, descending=True, stable=True)
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(1, order, places)
    return text | (visual & (rank < k))


def _distance(block_input: Tensor, block_output: Tensor) -> Tensor:
    """1 − cos(input, output), fp32, per token."""
    return 1 - F.cosine_similarity(block_input.float(), block_output.float(), dim=-1)
