import itertools

import pytest
import torch
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st

from ressa.calibration.statistics import Hessian, InputMoments, InputNorm
from ressa.errors import RunError

KINDS = [InputNorm, InputMoments, Hessian]


def answers(statistic):
    """Everything a statistic can answer, by name."""
    given_by = ["norm", "mean", "variance", "matrix"]
    return {name: getattr(statistic, name)() for name in given_by if hasattr(statistic, name)}


def assert_same(one, other):
    assert one.count == other.count
    assert getattr(one, "samples", None) == getattr(other, "samples", None)
    for name, value in answers(one).items():
        torch.testing.assert_close(value, answers(other)[name], rtol=1e-5, atol=1e-6)


def reference(tokens):
    """The same answers from their definitions, in fp64."""
    x = tokens.double()
    return {
        "norm": x.square().mean(0).sqrt(),
        "mean": x.mean(0),
        "variance": x.var(0, unbiased=False),
        "matrix": 2 * x.T @ x / len(x),
    }


def batch(seed=0, shape=(3, 7, 5), dtype=torch.float32):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * torch.arange(1.0, shape[-1] + 1)
    return (x + 3).to(dtype)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_answers_are_their_definitions_over_all_tokens(kind, dtype):
    statistic = kind(5)
    batches = [batch(seed, dtype=dtype) for seed in range(4)]
    for each in batches:
        statistic.update(each)
    tokens = torch.cat([each.flatten(0, 1) for each in batches])
    assert statistic.count == len(tokens)
    for name, value in answers(statistic).items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.double(), reference(tokens)[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.lists(st.integers(0, 3), min_size=7, max_size=7))
def test_padding_is_as_if_it_were_never_there(kind, seed, bits):
    x = batch(seed, (2, 7, 5))
    keep = torch.tensor([[b & 1, b >> 1] for b in bits]).T.bool()
    keep[0, 0] = True
    padded, bare = kind(5), kind(5)
    padded.update(torch.where(keep.unsqueeze(-1), x, torch.full_like(x, 1e6)), keep)
    bare.update(x[keep])
    for name, value in answers(padded).items():
        torch.testing.assert_close(value, answers(bare)[name])
    assert padded.count == bare.count == int(keep.sum())


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**31), st.integers(1, 6))
def test_two_merged_halves_equal_one_pass(kind, seed, cut):
    x = batch(seed, (7, 4, 5))
    whole, first, second = kind(5), kind(5), kind(5)
    whole.update(x)
    first.update(x[:cut])
    second.update(x[cut:])
    first.merge(second)
    assert_same(first, whole)
    first.merge(kind(5))
    assert_same(first, whole)


def test_a_large_mean_does_not_swallow_the_variance():
    x = batch(1, (64, 5)) + 4096
    moments = InputMoments(5)
    for part in x.split(8):
        moments.update(part)
    torch.testing.assert_close(moments.variance().double(), reference(x)["variance"], rtol=1e-4, atol=0)


def test_a_hessian_is_symmetric_and_ignores_autocast():
    x = batch(2)
    hessian, plain = Hessian(5), Hessian(5)
    plain.update(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hessian.update(x)
    assert torch.equal(hessian.matrix(), plain.matrix())
    torch.testing.assert_close(hessian.matrix(), hessian.matrix().T)


@pytest.mark.parametrize("band", [1, 2, 3, 5])
def test_a_hessian_in_bands_is_the_whole_one(band, monkeypatch):
    whole = Hessian(5)
    monkeypatch.setattr("ressa.calibration.statistics._BAND", band)
    hessian = Hessian(5)
    for seed in range(3):
        whole.update(batch(seed))
        hessian.update(batch(seed))
    assert_same(hessian, whole)
    assert torch.equal(hessian.matrix(), hessian.matrix().T)
    half = Hessian(5)
    half.update(batch(0))
    half.merge(hessian)
    whole.update(batch(0))
    assert_same(half, whole)


@pytest.mark.parametrize("kind", [InputNorm, Hessian])
def test_the_order_of_batches_changes_no_bit(kind):
    """As with several processes, each of which sees some of them."""
    batches = [batch(seed, (3, 64, 96)) for seed in range(12)]
    one, two, other = kind(96), kind(96), kind(96)
    for each in batches:
        one.update(each)
    for each in batches[1::2]:
        two.update(each)
    for each in reversed(batches[::2]):
        other.update(each)
    two.merge(other)
    for name in ("norm", "matrix") if kind is Hessian else ("norm",):
        assert torch.equal(getattr(one, name)(), getattr(two, name)())


def test_gradients_do_not_cling_to_statistics():
    x = batch().requires_grad_()
    for kind in KINDS:
        statistic = kind(5)
        statistic.update(x)
        assert not any(value.requires_grad for value in answers(statistic).values())


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_that_saw_nothing_says_so(kind):
    statistic = kind(5)
    statistic.update(batch(), torch.zeros(3, 7, dtype=torch.bool))
    with pytest.raises(RunError, match="No calibration token"):
        statistic.norm()


def test_samples_are_sequences():
    moments = InputMoments(5)
    moments.update(batch(shape=(3, 7, 5)))
    moments.update(batch(shape=(7, 5)))
    assert moments.samples == 4


def _reduce(rank, folder):
    meeting = f"file://{folder}/meeting"
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    for kind in KINDS:
        for idle in (False, True):  # whether the second process has no data at all
            statistic = kind(5)
            if rank == 0 or not idle:
                statistic.update(batch(rank, (2 + rank, 4, 5)))
            statistic.all_reduce()
            torch.save(
                answers(statistic) | {"count": statistic.count}, f"{folder}/{kind.__name__}{idle}{rank}.pt"
            )
    torch.distributed.destroy_process_group()


def test_processes_sum_to_what_one_would_have_seen(tmp_path):
    mp.spawn(_reduce, args=(tmp_path,), nprocs=2)
    for kind, idle, rank in itertools.product(KINDS, (False, True), range(2)):
        whole = kind(5)
        whole.update(batch(0, (2, 4, 5)))
        if not idle:
            whole.update(batch(1, (3, 4, 5)))
        saved = torch.load(tmp_path / f"{kind.__name__}{idle}{rank}.pt")
        assert saved.pop("count") == whole.count
        for name, value in saved.items():
            torch.testing.assert_close(value, answers(whole)[name], rtol=1e-5, atol=1e-6)


def test_wandas_norms_do_not_differ_by_one_bit_whichever_process_saw_which_batch():
    batches = [batch(seed, (2, 50, 256), torch.bfloat16) for seed in range(16)]
    alone, *shares = (InputNorm(256) for _ in range(3))
    for number, each in enumerate(batches):
        alone.update(each)
        shares[number // 8].update(each)
    shares[0].merge(shares[1])
    assert torch.equal(alone.norm(), shares[0].norm())
