"""The contract of pruning: every method × every pattern × both embedded models, on real images and questions.

A new method grows the matrix by itself, a new pattern or embedded model by one entry. The models are the shipped
ones, cut to the first block of each chain; one that is not shipped is drawn from a seed.
"""

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ressa.anatomy import find_anatomy
from ressa.checkpoint import DENSE, Manifest, Vlm, load, read_manifest, read_masks, save
from ressa.data import batches, training_samples
from ressa.embedded import MODELS, model_folder
from ressa.embedded.architectures import build
from ressa.embedded.dataset import write_dataset
from ressa.errors import UsageError
from ressa.methods import METHODS, dsnot
from ressa.pruning import PruneResult, prune
from ressa.sparsity import NM, Pattern, Plan, Unstructured

DEPTH = 1  # blocks a chain: vision, Q-Former, encoder, decoder; each chain sees what the pruned ones before it give
PATTERNS = [
    Unstructured(0.5, "row"),
    Unstructured(0.5, "layer"),
    Unstructured(0.7, "row"),
    NM(1, 4),
    NM(2, 4),
    NM(4, 8),
    NM(6, 8),
    NM(8, 16),
]


@dataclass(frozen=True)
class Way:
    """One way to prune: a method, its options, and the image tokens that its statistics count."""

    method: str
    options: dict[str, str] = field(default_factory=dict)
    tokens: str = "all"

    def __str__(self) -> str:
        return "-".join([self.method, *self.options.values(), self.tokens])


WAYS = [
    *(Way(name) for name in METHODS),
    *(Way("dsnot", {"start": start}) for start in dsnot.STARTS if start != METHODS["dsnot"].options["start"]),
    *(Way(name, tokens="atv") for name, method in METHODS.items() if method.statistics),
]


@dataclass
class Dense:
    """A model before pruning, and calibration inputs for it."""

    vlm: Vlm
    inputs: list[dict[str, Tensor]]

    def plan(self, pattern: Pattern) -> Plan:
        """Every tower gets the pattern; the first linear of each block stays dense."""
        blocks = find_anatomy(self.vlm.model).blocks()
        return Plan({name: pattern for block in blocks for name in block.linears[1:]})

    def prune(self, way: Way, plan: Plan, **more: Any) -> tuple[nn.Module, PruneResult]:
        model = copy.deepcopy(self.vlm.model)
        result = prune(
            model,
            self.inputs,
            plan=plan,
            method=way.method,
            options=way.options,
            tokens=way.tokens,  # type: ignore[arg-type]
            seed=3,
            **more,
        )
        return model, result


def shallow(name: str) -> Vlm:
    """The first blocks of each chain of an embedded model, with the shipped weights if there are any."""
    try:
        model_folder(name)
    except UsageError:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model, processor = build(name)
        vlm = Vlm(model.bfloat16().eval(), processor, name)
    else:
        vlm = load(name)
    for chain in find_anatomy(vlm.model).chains():
        if isinstance(blocks := vlm.model.get_submodule(chain.name), nn.ModuleList):
            del blocks[DEPTH:]
    parts = (getattr(vlm.model.config, f"{part}_config", None) for part in ("vision", "qformer", "text"))
    for config in parts:
        for depth in ("num_hidden_layers", "num_decoder_layers"):
            if hasattr(config, depth):
                setattr(config, depth, DEPTH)
    return vlm


@pytest.fixture(scope="module", params=MODELS)
def dense(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Dense:
    data = tmp_path_factory.mktemp("scenes")
    write_dataset(data, 0, {"calibration": 4})
    vlm = shallow(request.param)
    return Dense(vlm, batches(vlm, training_samples(data, "calibration", 4, mixture="mix"), 2))


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_exactly_the_zeros_asked_for_and_nothing_else(dense, way, pattern, tmp_path):
    plan = dense.plan(pattern)
    model, result = dense.prune(way, plan)
    assert result.plan == plan
    assert all(lie_as_asked(~mask, pattern) for mask in result.masks.values())
    check_weights(model, result, dense.vlm.model, METHODS[way.method].updates_weights)
    check_forward(model, dense.inputs)
    check_folder(tmp_path / "pruned", Vlm(model, None, dense.vlm.source), result)


@pytest.mark.parametrize("pattern", [Unstructured(0.5), NM(2, 4)], ids=str)
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_the_same_seed_makes_the_same_model(dense, way, pattern):
    first, second = (dense.prune(way, dense.plan(pattern))[0].state_dict() for _ in range(2))
    assert_same(first, second)


@pytest.mark.parametrize("share", [0.5, 0.7])
def test_one_threshold_over_all_layers(dense, share, tmp_path):
    model, result = dense.prune(Way("magnitude"), dense.plan(Unstructured(share)), scope="global")
    total = sum(mask.numel() for mask in result.masks.values())
    assert sum(int((~mask).sum()) for mask in result.masks.values()) == int(share * total + 0.5)
    weights = {name: dense.vlm.model.get_submodule(name).weight.abs() for name in result.masks}
    gone = max(weights[name][~mask].max() for name, mask in result.masks.items())
    kept = min(weights[name][mask].min() for name, mask in result.masks.items())
    assert gone <= kept
    check_weights(model, result, dense.vlm.model, updates=False)
    check_forward(model, dense.inputs)
    check_folder(tmp_path / "pruned", Vlm(model, None, dense.vlm.source), result)


def lie_as_asked(zeros: Tensor, pattern: Pattern) -> bool:
    """zeros (out, in): whether every group, every row or the whole has exactly its zeros."""
    if isinstance(pattern, NM):
        return bool((zeros.unflatten(1, (-1, pattern.m)).sum(2) == pattern.m - pattern.n).all())
    parts = zeros if pattern.scope == "row" else zeros.reshape(1, -1)
    return bool((parts.sum(1) == int(pattern.sparsity * parts.shape[1] + 0.5)).all())


def check_weights(model: nn.Module, result: PruneResult, before: nn.Module, updates: bool) -> None:
    """Zero where the masks say, and elsewhere the dense weights, unless the method updates what it keeps."""
    left, after = before.state_dict(), model.state_dict()
    assert all(value.isfinite().all() for value in after.values())
    for name, mask in result.masks.items():
        old, new = left.pop(f"{name}.weight"), after.pop(f"{name}.weight")
        assert new.dtype == old.dtype
        assert torch.equal(new != 0, mask)
        assert torch.equal(new, old * mask) != updates, name
    assert_same(after, left)


def check_forward(model: nn.Module, inputs: list[dict[str, Tensor]]) -> None:
    with torch.no_grad():
        assert all(model(**batch).logits.isfinite().all() for batch in inputs)


def check_folder(folder: Path, vlm: Vlm, result: PruneResult) -> None:
    """What was done can be read where it was saved: the plan, every layer's zeros as counted, the masks."""
    plan = result.plan.to_dict()
    save(folder, vlm, manifest=Manifest(kind="pruned", source=vlm.source, plan=plan), masks=result.masks)
    manifest = read_manifest(folder)
    assert manifest.plan == plan
    assert [layer.name for layer in manifest.layers] == find_anatomy(vlm.model).linears()
    for layer in manifest.layers:
        weight = vlm.model.get_submodule(layer.name).weight
        assert layer.asked == plan.get(layer.name, DENSE)
        assert layer.achieved == int((weight == 0).sum()) / weight.numel()
    assert [(l.name, l.asked, l.achieved) for l in manifest.layers if l.name in plan] == [
        (l.name, l.asked, l.achieved) for l in result.layers
    ]
    assert_same(read_masks(folder), result.masks)


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
