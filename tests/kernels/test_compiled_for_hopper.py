"""What Triton makes of the kernels for a Hopper GPU, which needs none: the habits their speed rests on."""

import os
import re

import pytest
import torch

triton = pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("Triton's interpreter compiles nothing", allow_module_level=True)

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from ressa.kernels import sparse_lora_triton as kernels  # noqa: E402
from ressa.kernels import triton_programs as programs  # noqa: E402

# By name, as the launchers give them at rank 8, in bf16, with 64 × 128 blocks and 4 warps; "*": a pointer.
MODE = dict(
    zip(
        ("OPERAND", "HALF", "SPLIT", "PRECISION"),
        kernels.dot_mode(torch.bfloat16, torch.bfloat16),
        strict=True,
    )
)
BLOCK = {"RANK": 8, "BLOCK_ROWS": 64, "CHUNKS": 4, "WARPS": 4} | MODE
NOT_DIVISIBLE = {"scaling", "mask_columns", "rows_per_program", "number_a", "number_b", "rank", "first_rank"}
NOT_DIVISIBLE |= {"programs_a", "programs"}


def compiled(kernel, types: dict[str, str], constants: dict) -> str:
    """The PTX of a kernel for sm_90, its pointers and sizes multiples of 16."""
    signature = {name: types.get(name, "i32") for name in kernel.arg_names}
    signature |= dict.fromkeys(constants, "constexpr")
    places = {name: (place,) for place, name in enumerate(kernel.arg_names)}
    sixteen = [["tt.divisibility", 16]]
    attributes = {
        places[name]: sixteen for name in signature if name not in constants and name not in NOT_DIVISIBLE
    }
    source = ASTSource(
        kernel, signature, {places[name]: value for name, value in constants.items()}, attributes
    )
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4}).asm["ptx"]


def count(ptx: str, operation: str) -> int:
    return len(re.findall(rf"\b{operation}", ptx))


def test_the_effective_weight_never_passes_through_shared_memory():
    types = dict.fromkeys(("weight", "lora_a", "lora_b", "out"), "*bf16") | {"mask": "*u8", "scaling": "fp32"}
    ptx = compiled(programs.effective_weight_kernel, types, BLOCK | {"RANK_SLICE": 16})
    assert (
        count(ptx, r"st\.global\.v4") == count(ptx, r"st\.global") == 8
    )  # 64 elements a thread, 8 at a time
    assert count(ptx, r"ld\.global[.\w:]*\.v4") >= 8
    assert count(ptx, "wgmma.mma_async")
    assert not count(ptx, r"ld\.shared")
    assert count(ptx, r"bar\.sync") <= 1  # A and B on their way to the tensor cores


def test_beside_the_last_sums_the_weight_is_written_as_it_is_alone():
    types = dict.fromkeys(("weight", "lora_a", "lora_b", "out", "grad_a", "grad_b"), "*bf16")
    types |= {"mask": "*u8", "parts": "*fp32", "scaling": "fp32"}
    sums = {"RANKS": 8, "BLOCK_PARTS": 32, "BLOCK": 128}
    ptx = compiled(programs.finish_and_weight_kernel, types, BLOCK | sums | {"RANK_SLICE": 16})
    assert count(ptx, r"st\.global\.v4") == 8
    assert count(ptx, "wgmma.mma_async")


def test_the_reduction_turns_its_tile_in_shared_memory_once():
    types = dict.fromkeys(("gradient", "lora_a", "lora_b"), "*bf16") | {"mask": "*u8", "parts": "*fp32"}
    ptx = compiled(programs.masked_reduction_kernel, types, BLOCK | {"RANKS": 8, "RANK_TILE": 8})
    assert count(ptx, r"ld\.global[.\w:]*\.v4") >= 16  # the first tile, and the next in the loop
    assert count(ptx, r"stmatrix[.\w]*x4") <= 12  # 8 of them the tile
