"""On a GPU the masks are those of the CPU (skipped where there is no GPU)."""

import pytest
import torch

from ressa.calibration.statistics import Hessian
from ressa.methods import METHODS, get_method
from ressa.sparsity import NM, Unstructured, select_global

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

PATTERNS = [Unstructured(0.5), Unstructured(0.3), Unstructured(0.7, "layer"), NM(2, 4), NM(8, 16), NM(20, 64)]


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equal_scores_give_equal_masks(pattern, dtype):
    scores = torch.randn(96, 512, generator=torch.Generator().manual_seed(0))
    for each in (scores, scores.round(), torch.zeros(96, 512), -scores.abs().to(torch.bfloat16)):
        here, there = each.to(dtype), each.to("cuda", dtype)
        assert torch.equal(pattern.select(there).cpu(), pattern.select(here))


def test_a_global_threshold_is_the_same():
    layers = {
        str(i): torch.randn(64, 96, generator=torch.Generator().manual_seed(i)).round(decimals=1)
        for i in range(3)
    }
    here = select_global(layers, 0.55)
    there = select_global({name: scores.cuda() for name, scores in layers.items()}, 0.55)
    assert all(torch.equal(there[name].cpu(), here[name]) for name in layers)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("pattern", [Unstructured(0.5), Unstructured(0.5, "layer"), NM(2, 4)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_methods_agree_even_when_the_process_allows_tf32(name, pattern, dtype):
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(4, 256, 128, generator=generator) @ torch.randn(128, 128, generator=generator)
    weight = torch.randn(64, 128, generator=generator).to(dtype)
    results = {}
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        for device in ("cpu", "cuda"):
            statistics = Hessian(128, device)
            statistics.update(inputs.to(device, dtype))
            results[device] = get_method(name).apply(weight.to(device), statistics, pattern, name="fc")
        assert torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    (mask, pruned), (cuda_mask, cuda_pruned) = results["cpu"], results["cuda"]
    assert cuda_mask.is_cuda
    assert cuda_pruned.is_cuda
    assert int((~cuda_mask).sum()) == pattern.zeros(weight.shape)
    differing = (cuda_mask.cpu() != mask).float().mean()
    # sums of another order may swap weights whose scores are equal but for rounding, never more
    assert differing < (0.002 if get_method(name).statistics else 1e-9)
    same = (cuda_mask.cpu() == mask).all(1)
    torch.testing.assert_close(cuda_pruned.cpu()[same], pruned[same], rtol=2e-2, atol=2e-2)
