"""The runtime's kernels on a GPU compute what fp64 does, whatever the shape, dtype, pattern and number of tokens."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from runtime_cases import SHAPES, mask_24, mask_any, packed

if not torch.cuda.is_available():
    pytest.skip("needs a GPU", allow_module_level=True)

from ressa.runtime import kernels
from ressa.runtime.kernels import driver, launches, layout24, nvrtc, sparse24, tuning, variants
from ressa.runtime.linear import PackedLinear
from ressa.runtime.model import find_siblings

if not kernels.supported(torch.device("cuda"), torch.float16):
    pytest.skip("needs a GPU that the kernels are for, and NVRTC", allow_module_level=True)

if os.environ.get("EVERY_LANE_SIGNALS"):  # for racecheck: see SIGNALS in common.cuh
    nvrtc._OPTIONS = (*nvrtc._OPTIONS, "-DSIGNALS=32")

DTYPES = {torch.bfloat16: 4e-3, torch.float16: 6e-4}
TOKENS = [1, 2, 3, 8, 9, 16, 31, 64, 65, 96, 129, 300]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def poison() -> None:
    """Fill the memory that the next outputs will be given with NaN."""
    torch.full((1 << 22,), torch.nan, device="cuda")


def check(layer: PackedLinear, tokens: int, bound: float, *, stride: int = 0) -> None:
    columns = layer.in_features
    x = torch.randn(tokens, columns + stride, device="cuda").to(layer.weight.dtype)[:, :columns]
    exact = x.double() @ layer.dense().double().T
    if layer.bias is not None:
        exact += layer.bias.double()
    poison()
    y = layer(x)
    error = float((y.double() - exact).norm() / exact.norm().clamp_min(1e-30))
    assert error < bound, f"{tokens} tokens: {error:.1e}"
    poison()
    assert torch.equal(layer(x), y), "two runs agree bit for bit"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("form", ["2:4", "bitmask 0.3", "bitmask 0.5", "bitmask 0.7", "bitmask 0.95"])
def test_results_are_those_of_fp64(form, shape, dtype):
    mask = mask_24(*shape) if form == "2:4" else mask_any(*shape, float(form.split()[1]))
    weight = packed(mask, dtype, "cuda")
    bias = torch.randn(shape[0], device="cuda").to(dtype) if shape[0] % 2 else None
    layer = PackedLinear.of(weight, bias)
    assert torch.equal(layer.dense().view(torch.int16), weight.dense().view(torch.int16))
    back = layer.packed()
    assert torch.equal(back.values.view(torch.int16), weight.values.view(torch.int16))
    assert torch.equal(back.positions, weight.positions)
    for tokens in TOKENS:
        check(layer, tokens, DTYPES[dtype])
    check(layer, 5, DTYPES[dtype], stride=8)
    check(layer, 5, DTYPES[dtype], stride=3)
    assert layer(torch.empty(2, 0, shape[1], dtype=dtype, device="cuda")).shape == (2, 0, shape[0])


@pytest.mark.parametrize("mask", ["rows", "columns", "lanes", "empty"])
def test_masks_that_give_some_lanes_more_than_others(mask):
    kept = torch.zeros(128, 2048, dtype=torch.bool)
    if mask == "rows":
        kept[::2] = True
    elif mask == "columns":
        kept[:, 512:] = True
    elif mask == "lanes":
        kept[::8, :] = torch.rand(16, 2048) < 0.9
        kept[1::8, ::3] = True
    weight = packed(kept, torch.bfloat16, "cuda")
    layer = PackedLinear.of(weight)
    layer.prepared = sparse24.SplitBlocks.of(weight)  # which would be larger than dense for some
    assert torch.equal(layer.dense(), weight.dense())
    if mask == "empty":
        assert not layer(torch.randn(3, 2048, device="cuda", dtype=torch.bfloat16)).any()
    else:
        check(layer, 3, 4e-3)


def everything(shape, tokens):
    limit = driver.shared_limit(0)
    if tokens > variants.MOST_TOKENS:
        return [v for v in variants.prefill24_candidates() if v.shared <= limit]
    return list(variants.candidates(variants.Decode24, tokens, shape[1], 0, limit))


@pytest.mark.parametrize("tokens", [1, 7, 13, 32, 61, 200])
@pytest.mark.parametrize("shape", [(1024, 2048), (416, 1280), (8192, 1024), (1100, 4160)], ids=str)
def test_every_variant_of_24(shape, tokens):
    weight = sparse24.Blocks24.of(packed(mask_24(*shape), torch.bfloat16, "cuda"))
    x = torch.randn(tokens, shape[1], device="cuda", dtype=torch.bfloat16)
    exact = x.double() @ weight.dense().double().T
    for variant in everything(shape, tokens):
        y = torch.full((tokens, shape[0]), torch.nan, device="cuda", dtype=torch.bfloat16)
        if isinstance(variant, variants.Prefill24):
            run = launches.prefill_with(variant, *shape, shape[1], x.dtype, 0, tokens)
            run(x, weight.blocks, None, y)
            again = torch.full_like(y, torch.nan)
            run(x, weight.blocks, None, again)
            assert torch.equal(y, again), variant
        else:
            run = launches.decode_with(variant, *shape, shape[1], x.dtype, 0, 0, tokens)
            run(x, weight.blocks, None, None, None, None, y)
        assert float((y.double() - exact).norm() / exact.norm()) < 4e-3, variant


@pytest.mark.parametrize("tokens", [1, 7, 13, 32, 61])
def test_every_variant_of_one_byte_values(tokens):
    weight = sparse24.Fp8Blocks24.of(packed(mask_24(416, 2048), torch.bfloat16, "cuda"))
    x = torch.randn(tokens, 2048, device="cuda", dtype=torch.bfloat16)
    exact = x.double() @ weight.dense().double().T
    for variant in variants.candidates(variants.Fp8Decode24, tokens, 2048, 0, driver.shared_limit(0)):
        y = torch.full((tokens, 416), torch.nan, device="cuda", dtype=torch.bfloat16)
        launches.decode_with(variant, 416, 2048, 2048, x.dtype, 0, 0, tokens)(
            x, weight.blocks, None, None, weight.scale, None, y
        )
        assert float((y.double() - exact).norm() / exact.norm()) < 8e-3, variant


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_of_one_byte(shape, dtype):
    weight = sparse24.Fp8Blocks24.of(packed(mask_24(*shape), dtype, "cuda"))
    values, positions = layout24.from_blocks(weight.blocks, *shape, torch.float8_e4m3fn)
    exact_weight = unpack(values.double() * weight.scale[:, None].double(), positions, shape[1])
    bias = torch.randn(shape[0], device="cuda").to(dtype)
    for tokens in TOKENS:
        x = torch.randn(tokens, shape[1], device="cuda").to(dtype)
        exact = x.double() @ exact_weight.T + bias.double()
        poison()
        y = weight.linear(x, bias)
        assert float((y.double() - exact).norm() / exact.norm()) < 2 * DTYPES[dtype], tokens
        assert torch.equal(weight.linear(x, bias), y), "two runs agree bit for bit"


def unpack(values, positions, columns):
    """(rows, columns) in float64 from the kept values and their places."""
    rows = len(values)
    halves = torch.stack([positions & 15, positions >> 4], 2).view(rows, -1)[:, : columns // 4].long()
    dense = torch.zeros(rows, columns // 4, 4, dtype=torch.float64, device=values.device)
    dense.scatter_(2, torch.stack([halves & 3, halves >> 2], 2), values.view(rows, -1, 2))
    return dense.view(rows, columns)


@pytest.mark.parametrize("tokens", [1, 7, 13, 32])
@pytest.mark.parametrize("shape", [(416, 2048), (8192, 1024)], ids=str)
def test_every_variant_for_any_pattern(shape, tokens):
    weight = sparse24.SplitBlocks.of(packed(mask_any(*shape, 0.6), torch.bfloat16, "cuda"))
    x = torch.randn(tokens, shape[1], device="cuda", dtype=torch.bfloat16)
    exact = x.double() @ weight.dense().double().T
    longest = weight.record_bytes
    for variant in variants.candidates(variants.Split24, tokens, shape[1], longest, driver.shared_limit(0)):
        y = torch.full((tokens, shape[0]), torch.nan, device="cuda", dtype=torch.bfloat16)
        run = launches.decode_with(variant, *shape, shape[1], x.dtype, 0, longest, tokens)
        run(x, weight.blocks, weight.records, weight.offsets, None, None, y)
        assert float((y.double() - exact).norm() / exact.norm()) < 4e-3, variant


@pytest.mark.parametrize("tokens", [1, 8, 300])
@pytest.mark.parametrize("form", ["2:4", "bitmask"])
def test_layers_in_a_row_wait_for_each_other(form, tokens):
    """Kernels start before those ahead have ended; each reads what the one before wrote, into memory used again."""
    masks = [mask_24(2048, 2048) if form == "2:4" else mask_any(2048, 2048, 0.6) for _ in range(12)]
    layers = [PackedLinear.of(packed(mask, torch.bfloat16, "cuda")) for mask in masks]
    x = torch.randn(tokens, 2048, device="cuda", dtype=torch.bfloat16)

    def through(wait):
        y = x
        for layer in layers:
            y = layer(y)
            y = y / y.float().norm(dim=-1, keepdim=True).to(y.dtype) if layer is layers[5] else y
            if wait:
                torch.cuda.synchronize()
        return y

    exact = through(wait=True)
    assert bool(exact.isfinite().all())
    for _ in range(20):
        assert torch.equal(through(wait=False), exact)
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    with torch.cuda.stream(stream):
        through(wait=False)
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        result = through(wait=False)
    for _ in range(20):
        result.fill_(torch.nan)
        graph.replay()
        assert torch.equal(result, exact)


@pytest.mark.parametrize("form", ["2:4", "bitmask"])
def test_compile_and_graphs(form):
    mask = mask_24(256, 512) if form == "2:4" else mask_any(256, 512, 0.6)
    layer = PackedLinear.of(packed(mask, torch.bfloat16, "cuda"))
    x = torch.randn(4, 512, device="cuda", dtype=torch.bfloat16)
    expected = layer(x)
    assert torch.equal(torch.compile(layer, fullgraph=True)(x), expected)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = layer(x)
    x.copy_(torch.randn_like(x))
    graph.replay()
    assert torch.equal(y, layer(x))


def test_portable_copies_compute_the_same(monkeypatch):
    """Those of sm_80 and sm_89, which an H100 can run too."""
    compiled = driver.nvrtc.compiled
    monkeypatch.setattr(
        driver.nvrtc, "compiled", lambda source, macros, arch: compiled(source, {**macros, "BULK": 0}, arch)
    )
    for cached in (driver._function, launches.few_tokens):
        cached.cache_clear()
    shape = (288, 1096)
    for mask in (mask_24(*shape), mask_any(*shape, 0.7)):
        layer = PackedLinear.of(packed(mask, torch.bfloat16, "cuda"))
        for tokens in (1, 7, 30):
            check(layer, tokens, 4e-3)
    for cached in (driver._function, launches.few_tokens):
        cached.cache_clear()


def test_a_thread_may_be_the_first_to_call_and_a_graph_the_first_to_load():
    layer = PackedLinear.of(packed(mask_24(96, 192), torch.bfloat16, "cuda"))
    x = torch.randn(3, 192, device="cuda", dtype=torch.bfloat16)
    expected = layer(x)
    with ThreadPoolExecutor(1) as pool:
        assert torch.equal(pool.submit(layer, x).result(), expected)
    for cached in (driver._function, launches.few_tokens):
        cached.cache_clear()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = layer(x)
    graph.replay()
    assert torch.equal(y, expected)


@pytest.mark.parametrize("form", ["2:4", "bitmask"])
def test_siblings_in_one_call_give_what_they_give_alone(form):
    """Eagerly, compiled, and in a graph; with biases and without, the last with rows of no block's length."""
    torch.manual_seed(0)
    torch._dynamo.reset()  # both forms compile the same function, for five lengths each
    rows, columns = {"q_proj": 256, "k_proj": 64, "v_proj": 70}, 512
    model = torch.nn.ModuleDict()
    for number, (name, out) in enumerate(rows.items()):
        mask = mask_24(out, columns) if form == "2:4" else mask_any(out, columns, 0.8)
        bias = torch.randn(out, device="cuda", dtype=torch.bfloat16) if number else None
        model[name] = PackedLinear.of(packed(mask, torch.bfloat16, "cuda"), bias)

    def alone(x):
        return [layer.prepared.linear(x, layer.bias) for layer in model.values()]

    def together(x):
        return [layer(x) for layer in model.values()]

    find_siblings(model)
    stacked = model["q_proj"].siblings.stacked
    assert stacked is not None
    assert stacked.shape == (390, columns)
    for tokens in (1, 8, 33, 70, 640):
        x = torch.randn(tokens, columns, device="cuda", dtype=torch.bfloat16)
        exact = [x.double() @ layer.dense().double().T for layer in model.values()]
        for layer, y in zip(model.values(), exact, strict=True):
            y += 0 if layer.bias is None else layer.bias.double()
        compiled = torch.compile(together, fullgraph=True, dynamic=False)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            together(x)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = together(x)
        graph.replay()
        for found in (alone(x), together(x), compiled(x), captured):
            for ours, right in zip(found, exact, strict=True):
                assert float((ours.double() - right).norm() / right.norm()) < 4e-3
        assert model["q_proj"].siblings.stacked is stacked
    cpu = model.cpu()
    assert cpu["q_proj"].siblings.stacked is None
    back = cpu.cuda()
    assert back["q_proj"].siblings.stacked is not None
    for ours, right in zip(together(x), exact, strict=True):
        assert float((ours.double() - right).norm() / right.norm()) < 4e-3


@pytest.mark.skipif(torch.cuda.is_available() and not launches.has_prefill(0), reason="needs sm_90a")
@pytest.mark.parametrize("rows", [17_408, 17_400, 17_386])
def test_a_tail_makes_the_rows_that_are_left_and_no_bit_differs(rows):
    """Of 200 tokens a wave of 132 CTAs takes 8,448 rows or 16,896; the rest is another variant's."""
    torch.manual_seed(1)
    weight = sparse24.Blocks24.of(packed(mask_24(rows, 320), torch.bfloat16, "cuda"))
    x = torch.randn(200, 320, device="cuda", dtype=torch.bfloat16)
    bias = torch.randn(rows, device="cuda", dtype=torch.bfloat16)
    few = [(1, 1, 1, 6, 128), (2, 1, 2, 5, 160), (2, 2, 1, 6, 112), (1, 1, 2, 7, 160), (1, 4, 1, 8, 64)]
    exact = x.double() @ weight.dense().double().T + bias.double()
    multiprocessors = torch.cuda.get_device_properties(0).multi_processor_count
    tails = 0
    for main in few:
        found = []
        for tail in [(), *few]:
            variant = variants.Prefill24(*main, tail=tail)
            tails += len(variant.parts(rows, 200, multiprocessors)) - 1
            y = torch.full((200, rows), torch.nan, device="cuda", dtype=torch.bfloat16)
            launches.prefill_with(variant, rows, 320, 320, x.dtype, 0, 200)(x, weight.blocks, bias, y)
            found.append(y)
        assert float((found[0].double() - exact).norm() / exact.norm()) < 4e-3
        for other in found[1:]:
            assert torch.equal(other, found[0]), main
    assert tails


def test_an_input_that_learns_gets_its_gradient():
    layer = PackedLinear.of(packed(mask_24(64, 128), torch.bfloat16, "cuda"))
    x = torch.randn(3, 128, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    layer(x).sum().backward()
    assert torch.allclose(x.grad, layer.dense().sum(0).expand(3, -1), rtol=2e-2, atol=2e-2)


def test_tuning_finds_variants_and_keeps_them(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    masks = (mask_24(128, 512), mask_24(128, 512), mask_any(128, 512, 0.6))
    weights = [PackedLinear.of(packed(mask, torch.bfloat16, "cuda")).prepared for mask in masks]
    found = [entry for entry, _ in tuning.tune(weights, (1, 32, 300))]
    assert [(entry["rows"], entry["tokens"]) for entry in found[:2]] == [(128, 1), (128, 32)]
    kept = [entry for entries in variants.user_table().values() for entry in entries]
    assert len(kept) == len(found)
    assert all(entry in kept for entry in found)
    variants.forget()
    launches.forget()
