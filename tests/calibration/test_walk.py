"""The walk gives every linear's statistics as a whole forward through the model would, block by block."""

import pytest
import torch
from families import FAMILIES, QUERIES, Family, every_family
from torch import Tensor, nn

from ressa.anatomy import Anatomy, Block, find_anatomy
from ressa.calibration.capture import Call, capture, independent
from ressa.calibration.padding import Kept
from ressa.calibration.statistics import Hessian, InputNorm
from ressa.calibration.walk import walk
from ressa.errors import UsageError


def reference_keep(family: Family, anatomy: Anatomy, layer: str, batch: dict[str, Tensor]) -> Tensor | None:
    """What counts, layer by layer, from what is known of each family: None for all."""
    tower = anatomy.tower_of(layer)
    text = batch["attention_mask"].bool()
    if tower == "vision":
        return None
    if tower == "connector":
        if not layer.startswith("qformer") or "qformer_attention_mask" not in batch:
            return None
        words = batch["qformer_attention_mask"].bool()
        if "crossattention" in layer or "_query" in layer:
            return None
        queries = torch.ones(len(words), QUERIES, dtype=torch.bool)
        return torch.cat([queries, words], 1) if ".attention." in layer else words
    reads = {chain.name: chain.reads_labels for chain in anatomy.chains("language")}
    if next(reads[name] for name in reads if layer.startswith(name + ".")):
        if layer.endswith(("EncDecAttention.k", "EncDecAttention.v")):
            return text
        if layer.endswith(("crossattention.self.key", "crossattention.self.value")):
            return text  # of the question
        return batch["labels"] != -100
    if layer.endswith(("crossattention.self.key", "crossattention.self.value")):
        return None  # of the image
    return text


@torch.no_grad()
def reference(family, model, anatomy, batches, layers) -> dict[str, InputNorm]:
    """Statistics by plain hooks on whole forwards."""
    modules = dict(model.named_modules())
    found = {name: InputNorm(modules[name].in_features) for name in layers}
    for batch in batches:
        hooks = []
        for name in layers:
            keep = reference_keep(family, anatomy, name, batch)

            def take(_m, args, name=name, keep=keep):
                x = args[0] if keep is None else args[0].reshape(*keep.shape, -1)  # OPT flattens
                found[name].update(x, keep)

            hooks.append(modules[name].register_forward_pre_hook(take))
        model(**batch)
        for hook in hooks:
            hook.remove()
    return found


def equal(mine: InputNorm, other: InputNorm) -> bool:
    return mine.count == other.count and torch.equal(mine.sum_squares, other.sum_squares)


def batches_of(family: Family) -> list[dict[str, Tensor]]:
    return [family.batch(seed) for seed in (0, 10)]


def norm(_name: str, linear: nn.Linear) -> InputNorm:
    return InputNorm(linear.in_features, linear.weight.device)


@every_family
def test_statistics_equal_those_of_whole_forwards(family):
    model = family.model()
    anatomy = find_anatomy(model)
    batches = batches_of(family)
    expected = reference(family, model, anatomy, batches, anatomy.linears())
    seen: list[str] = []

    def visit(block: Block, statistics: dict[str, InputNorm]) -> None:
        assert list(statistics) == list(block.linears)
        for name, found in statistics.items():
            assert equal(found, expected[name]), name
        seen.extend(statistics)

    walk(model, anatomy, batches, visit, norm)
    assert sorted(seen) == sorted(anatomy.linears())


@every_family
def test_each_block_is_fed_by_its_pruned_predecessors(family):
    model = family.model()
    anatomy = find_anatomy(model)
    batches = batches_of(family)
    modules = dict(model.named_modules())

    def visit(block: Block, statistics: dict[str, InputNorm]) -> None:
        expected = reference(family, model, anatomy, batches, block.linears)
        for name, found in statistics.items():
            assert equal(found, expected[name]), name
            weight = modules[name].weight
            weight.data[weight.abs() < weight.abs().median()] = 0

    walk(model, anatomy, batches, visit, norm)
