"""The factor of an inverse, made in the memory of the matrix, by halves where it is large."""

import pytest
import torch

from ressa.methods import inverse_cholesky
from ressa.methods.inverse_cholesky import flip_, inverse_cholesky_, invert_lower_


def positive(width: int, seed: int = 0) -> torch.Tensor:
    x = torch.randn(3 * width, width, generator=torch.Generator().manual_seed(seed))
    return x.T @ x / len(x)


@pytest.mark.parametrize("width", [1, 2, 7, 64, 101])
@pytest.mark.parametrize("direct", [4, 1000])
def test_it_is_the_upper_factor_of_the_inverse(width, direct, monkeypatch):
    monkeypatch.setattr(inverse_cholesky, "_DIRECT", direct)
    monkeypatch.setattr(inverse_cholesky, "_ROWS", 3)
    H = positive(width)
    U = inverse_cholesky_(H.clone())
    assert torch.equal(U, U.triu())
    expected = torch.linalg.cholesky(torch.linalg.inv(H.double()), upper=True)
    torch.testing.assert_close(U.double(), expected, rtol=1e-4, atol=1e-4)


def test_a_singular_matrix_has_none():
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    assert inverse_cholesky_(x.T @ x) is None


@pytest.mark.parametrize("n", [1, 2, 5, 8, 9])
def test_flipping_in_place_is_flipping(n, monkeypatch):
    monkeypatch.setattr(inverse_cholesky, "_ROWS", 2)
    matrix = torch.randn(n, n, generator=torch.Generator().manual_seed(n))
    turned = matrix.flip(0, 1)
    flip_(matrix)
    assert torch.equal(matrix, turned)


def test_inverting_by_halves_is_inverting(monkeypatch):
    monkeypatch.setattr(inverse_cholesky, "_DIRECT", 3)
    L = torch.linalg.cholesky(positive(29))
    inverse = torch.linalg.inv(L.double())
    invert_lower_(L)
    torch.testing.assert_close(L.double(), inverse, rtol=1e-4, atol=1e-5)
    assert torch.equal(L, L.tril())
