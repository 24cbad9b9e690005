import torch

from ressa.calibration.statistics import Hessian
from ressa.solving import share_out, solve_block


def test_layers_that_share_statistics_go_to_one_process_and_all_have_something_to_do():
    shapes = {"q": (64, 64), "k": (64, 64), "v": (64, 64), "o": (64, 64), "up": (160, 64), "down": (64, 160)}
    weights = {name: torch.zeros(shape) for name, shape in shapes.items()}
    first, mlp = Hessian(64), Hessian(64)
    statistics = {"q": first, "k": first, "v": first, "o": Hessian(64), "up": mlp, "down": Hessian(160)}
    owner = share_out(weights, statistics, 2)
    assert owner.keys() == shapes.keys()
    assert owner["q"] == owner["k"] == owner["v"]
    assert owner["down"] == 0  # by far the costliest, so the other process gets all the rest
    assert {owner[name] for name in shapes if name != "down"} == {1}
    assert set(share_out(weights, statistics, 8).values()) == {0, 1, 2, 3}


def test_one_process_solves_all_and_lets_go_of_statistics_as_it_goes():
    weights = {name: torch.zeros(2, 3) for name in "ab"}
    statistics = {"a": Hessian(3), "b": Hessian(3)}
    left = []
    for name, mask, pruned in solve_block(weights, statistics, lambda name, w, _s: (w == 0, w + ord(name))):
        assert mask.all()
        assert pruned.unique() == ord(name)
        left.append(list(statistics))
    assert left == [["b"], []]
