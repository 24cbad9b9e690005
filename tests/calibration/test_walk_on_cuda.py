"""The same on a GPU, with the model there or lent to it block by block."""

import pytest
import torch
from families import FAMILIES, Family, every_family
from torch import Tensor, nn

from ressa import pruning
from ressa.allocation import per_tower
from ressa.anatomy import Block, find_anatomy
from ressa.calibration.activations import Activations
from ressa.calibration.statistics import Hessian, InputMoments, InputNorm
from ressa.calibration.walk import walk
from ressa.methods.inverse_cholesky import inverse_cholesky_
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


@pytest.mark.parametrize("home", ["cpu", "cuda"])
def test_activations_that_do_not_fit_wait_on_the_host_and_change_nothing(home, monkeypatch):
    family = FAMILIES["llava"]
    expected = norms(family, home, "cuda")
    laid: list[bool] = []
    lay = Activations.lay

    def noted(self: Activations, tensor: Tensor) -> Tensor:
        laid.append((waits := lay(self, tensor)).is_cuda)
        assert waits.is_pinned() or waits.device.type == tensor.device.type
        return waits

    monkeypatch.setattr(Activations, "lay", noted)
    monkeypatch.setattr("ressa.calibration.activations._free", lambda _device: 0)
    found = norms(family, home, "cuda")
    assert laid
    assert not any(laid)
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_statistics_of_half_precision_inputs_are_exact_products_summed_in_fp32(dtype):
    generator = torch.Generator("cuda").manual_seed(0)
    mixing = torch.randn(384, 384, generator=generator, device="cuda")
    moments, hessian, norm_only = InputMoments(384, "cuda"), Hessian(384, "cuda"), InputNorm(384, "cuda")
    seen = []
    for _ in range(3):
        x = (torch.randn(4, 1500, 384, generator=generator, device="cuda") @ mixing + 3).to(dtype)
        keep = torch.rand(4, 1500, generator=generator, device="cuda") > 0.1
        for statistic in (moments, hessian, norm_only):
            statistic.update(x, keep)
        seen.append(x[keep].double())
    tokens = torch.cat(seen)
    gram = tokens.T @ tokens * (2 / len(tokens))
    size = gram.diagonal().sqrt()
    # Tensor cores cut off what they add, so that sums of squares end some 1e-5 low.
    assert float(((hessian.matrix() - gram) / size / size.unsqueeze(1)).abs().max()) < 5e-5
    rms = tokens.square().mean(0).sqrt()
    for statistic, rtol in ((moments, 1e-5), (hessian, 3e-5), (norm_only, 1e-5)):
        torch.testing.assert_close(statistic.norm().double(), rms, rtol=rtol, atol=0)
    for statistic in (moments, hessian):
        torch.testing.assert_close(statistic.mean().double(), tokens.mean(0), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(
            statistic.variance().double(), tokens.var(0, unbiased=False), rtol=1e-4, atol=0
        )


def test_a_large_mean_does_not_swallow_the_variance_of_bf16_inputs():
    x = (torch.randn(4, 2000, 64, generator=torch.Generator().manual_seed(0)) + 50).bfloat16().cuda()
    moments = InputMoments(64, "cuda")
    for part in x:
        moments.update(part)
    exact = x.double().flatten(0, 1).var(0, unbiased=False)
    torch.testing.assert_close(moments.variance().double(), exact, rtol=2e-3, atol=0)


def test_a_large_hessian_is_inverted_in_its_own_memory():
    x = torch.randn(9000, 5000, generator=torch.Generator("cuda").manual_seed(0), device="cuda")
    H = x.T @ x / len(x)
    exact = torch.linalg.inv(H.double())
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    U = inverse_cholesky_(H)
    assert torch.cuda.max_memory_allocated() - before < 0.8 * U.nbytes
    assert float((U.T.double() @ U.double() - exact).norm() / exact.norm()) < 1e-4


@pytest.mark.parametrize("method", ["wanda", "sparsegpt"])
def test_statistics_of_the_dense_model_with_its_weights_on_the_host(method):
    family = FAMILIES["instructblip-t5"]
    found = {}
    for device in ("cpu", "cuda"):
        model = family.model()
        batches = [family.batch(seed) for seed in range(2)]
        result = prune(model, batches, 0.5, method=method, statistics_of="dense", device=device)
        assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}
        found[device] = result.masks
        for name, mask in result.masks.items():
            assert not model.get_submodule(name).weight[~mask].any()
    for name, mask in found["cpu"].items():
        assert (found["cuda"][name] != mask).float().mean() < 0.02
