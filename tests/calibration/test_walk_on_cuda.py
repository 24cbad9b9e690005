"""The same on a GPU, with the model there or lent to it block by block."""

import pytest
import torch
from families import FAMILIES, Family, every_family
from torch import Tensor, nn

from ressa import pruning
from ressa.allocation import per_tower
from ressa.anatomy import Block, find_anatomy
from ressa.calibration.statistics import InputNorm
from ressa.calibration.walk import walk
from ressa.pruning import prune
from ressa.sparsity import NM, Unstructured

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def norms(family: Family, home: str, device: str | None) -> dict[str, Tensor]:
    model = family.model().to(home)
    found: dict[str, Tensor] = {}

    def visit(block: Block, statistics: dict[str, InputNorm]) -> None:
        place = torch.device(device or home).type
        assert {p.device.type for p in model.get_submodule(block.name).parameters()} == {place}
        found.update({name: made.norm().cpu() for name, made in statistics.items()})

    batches = [family.batch(seed) for seed in (0, 10)]
    walk(model, find_anatomy(model), batches, visit, norm, device)
    assert {p.device.type for p in model.parameters()} == {torch.device(home).type}
    return found


def norm(_name: str, linear: nn.Linear) -> InputNorm:
    return InputNorm(linear.in_features, linear.weight.device)


@every_family
def test_statistics_are_those_of_the_cpu(family):
    expected = norms(family, "cpu", None)
    for home, device in (("cuda", None), ("cuda", "cuda"), ("cpu", "cuda")):
        found = norms(family, home, device)
        assert found.keys() == expected.keys()
        for name, value in found.items():
            torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("home", ["cpu", "cuda"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt"])
def test_a_run_that_was_cut_short_goes_on_to_the_same_result(home, dtype, method, tmp_path, monkeypatch):
    family = FAMILIES["instructblip-t5"]
    batches = [family.batch(seed) for seed in (0, 10)]

    def pruned(work_dir=None) -> dict[str, Tensor]:
        model = family.model().to(dtype).to(home)
        plan = per_tower(find_anatomy(model), model, {"vision": NM(2, 4), "language": Unstructured(0.6)})
        result = prune(model, batches, plan=plan, method=method, device="cuda", work_dir=work_dir)
        assert all(not mask.is_cuda for mask in result.masks.values())
        return {name: value.cpu() for name, value in model.state_dict().items()}

    expected, keep, kept = pruned(), pruning.FinishedBlocks.keep, []

    def cut(self, block, weights, masks):
        if len(kept) == 3:
            raise KeyboardInterrupt
        kept.append(block)
        keep(self, block, weights, masks)

    monkeypatch.setattr(pruning.FinishedBlocks, "keep", cut)
    with pytest.raises(KeyboardInterrupt):
        pruned(tmp_path)
    monkeypatch.undo()
    found = pruned(tmp_path)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
