"""What the kernels' instructions do to registers, as PTX defines it (mma.sp.m16n8k32 for 16-bit types), in numpy.

PTX ISA 9, "Matrix fragments for sparse mma.m16n8k32 with .f16 and .bf16 types": lane = 4 · group + pair.
"""

import numpy as np


def sparse_product(a: np.ndarray, x: np.ndarray, metadata: np.ndarray, selector: int) -> np.ndarray:
    """(16, 8) = A (16 × 32, 2:4 sparse) B (32 × 8).

    a (32 lanes, 4 words, 2 values): the lanes' registers; x (32, 8): B; metadata (32 lanes): words; selector: which
    pair of each four lanes gives the metadata.
    """
    codes = np.zeros((16, 8), int)  # of row and group of four columns
    for lane in range(32):
        group, pair = divmod(lane, 4)
        if pair // 2 != selector:
            continue
        for half in range(2):
            for i in range(4):
                codes[group + 8 * half, pair % 2 * 4 + i] = int(metadata[lane]) >> (16 * half + 4 * i) & 15
    assert ((codes & 3) < (codes >> 2)).all(), "ordered metadata"
    dense = np.zeros((16, 32))
    for lane in range(32):
        group, pair = divmod(lane, 4)
        for word in range(4):
            row, four = group + word % 2 * 8, word // 2 * 4 + pair
            code = codes[row, four]
            dense[row, four * 4 + (code & 3)] += a[lane, word, 0]
            dense[row, four * 4 + (code >> 2)] += a[lane, word, 1]
    return dense @ x
