"""OWL: more outliers, fewer zeros; within λ; on budget."""

import pytest
import torch
from families import FAMILIES

from ressa.allocation.budget import Layer, make_pools, saved
from ressa.allocation.owl import outlier_share, owl
from ressa.anatomy import find_anatomy

FAMILY = FAMILIES["instructblip-t5"]


def test_outliers_are_counted_over_all_layers_of_a_block_together():
    modules = {"a": torch.nn.Linear(4, 3, bias=False), "b": torch.nn.Linear(5, 2, bias=False)}
    norms = {"a": torch.rand(4), "b": torch.rand(5) * 3}
    layers = [Layer("a", "vision", "x", 3, 4), Layer("b", "vision", "x", 2, 5)]
    scores = torch.cat([(modules[n].weight.abs() * norms[n]).flatten() for n in ("a", "b")])
    expected = (scores > 1.5 * scores.mean()).float().mean().item()
    assert outlier_share(modules, norms, layers, 1.5) == pytest.approx(expected)
    assert 0 < expected < 1


@pytest.mark.parametrize("joint", [True, False])
def test_shares_follow_outliers_within_the_spread(joint):
    model = FAMILY.model()
    anatomy = find_anatomy(model)
    targets = {"vision": 0.5, "language": 0.6}
    made = owl(model, [FAMILY.batch(0)], targets, threshold=2.0, spread=0.1, joint=joint)
    for pool in make_pools(model, anatomy, targets, joint=joint):
        assert abs(saved(made.plan, pool.layers) - pool.zeros) <= min(l.rows for l in pool.layers) / 2
        shares = {name: made.plan[layers[0].name].sparsity for name, layers in pool.groups().items()}
        assert max(shares.values()) - min(shares.values()) == pytest.approx(
            0.2, abs=0.07
        )  # narrow rows: steps
        most = max(shares, key=lambda name: made.details["outliers"][name])
        assert shares[most] == min(shares.values())
