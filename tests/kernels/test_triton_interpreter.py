"""Where there is no GPU, the Triton tests run in Triton's interpreter, chosen before triton is imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

NAMES = ("test_triton_kernels.py", "test_column_sweep.py", "test_token_losses.py")
TESTS = [str(Path(__file__).with_name(name)) for name in NAMES]


@pytest.mark.skipif(torch.cuda.is_available(), reason="the Triton tests run on the GPU itself")
def test_the_triton_kernels_in_the_interpreter():
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-o", "addopts=", "-x", "-p", "no:cacheprovider", *TESTS],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


def test_everything_but_the_kernels_works_without_triton():
    program = """
import sys
sys.modules["triton"] = None
import torch
from ressa.kernels import sparse_lora_linear
x = torch.ones(2, 8, requires_grad=True)
a, b = torch.ones(1, 8, requires_grad=True), torch.ones(3, 1, requires_grad=True)
y = sparse_lora_linear(x, torch.ones(3, 8), torch.full((3, 1), 0b10101010, dtype=torch.uint8), a, b, 2.0)
y.sum().backward()
assert torch.equal(y, torch.full((2, 3), 12.0)) and torch.equal(x.grad[0], torch.tensor([0.0, 9.0] * 4))
"""
    subprocess.run([sys.executable, "-c", program], check=True)
