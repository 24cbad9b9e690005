"""How much the model's words change if a layer gets a little sparser, for all layers at once, at a trial plan.

With m the mask of a layer (1 kept, 0 pruned) and w its dense weights, the derivative of the loss by m_ij is
g_ij·w_ij, g being the gradient by the masked weight. The weights that change when the layer's sparsity moves
by a little are those whose scores lie around the threshold; the mean of −g·w over that band is what one more
zero costs. One backward gives it for every layer, at the plan itself, where pruned layers already interact;
pruning one block at a time in a dense model cannot see that.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor

from ressa.allocation.outputs import Outputs
from ressa.allocation.trial import Trial


def slopes(
    outputs: Outputs, trial: Trial, shares: Mapping[str, float], batches: Sequence[int], reach: float
) -> tuple[float, dict[str, float]]:
    """The distance to the dense model, and layer → its change with each further zero (noisy: may be < 0).

    shares: layer → share of zeros in every row, put on the model and left there. batches: which ones to
    measure on, each token counting alike. reach: how far from the threshold the band reaches to either side,
    as a share of a row. Gradients are read and freed layer by layer as the backward comes to them.
    """
    trial.put(shares)
    bands = {name: trial.band(name, share, reach) for name, share in shares.items()}
    found = dict.fromkeys(shares, 0.0)
    hooks = []

    def read(name: str, weight: Tensor) -> None:
        assert weight.grad is not None
        products = weight.grad.float() * trial.dense[name].float()
        found[name] -= products[bands[name]].mean().item()
        weight.grad = None

    tokens = sum(outputs.tokens[index] for index in batches)
    total = 0.0
    try:
        for name in shares:
            weight = trial.weights[name].requires_grad_(True)
            hooks.append(
                weight.register_post_accumulate_grad_hook(lambda weight, name=name: read(name, weight))
            )
        for index in batches:
            distance = outputs.distance(index) * (outputs.tokens[index] / tokens)
            distance.backward()
            total += distance.item()
    finally:
        for hook in hooks:
            hook.remove()
        for name in shares:
            trial.weights[name].requires_grad_(False)
            trial.weights[name].grad = None
    return total, found
