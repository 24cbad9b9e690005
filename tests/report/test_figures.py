"""Figures are real PNG files, and the same numbers give the same bytes."""

import numpy as np
from PIL import Image
from test_table import RESULTS

from ressa.report import comparison_bars


def test_bars_are_drawn_and_reproducible(tmp_path):
    first, second = tmp_path / "new" / "a.png", tmp_path / "new" / "b.png"
    for path in (first, second):
        comparison_bars(RESULTS, path, "a title")
    assert first.read_bytes() == second.read_bytes()
    assert sorted(path.name for path in first.parent.iterdir()) == ["a.png", "b.png"]
    with Image.open(first) as image:
        assert image.width >= 900
        colours = np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)
    for colour in ((0x4D, 0x4D, 0x4D), (0xD9, 0x5F, 0x02), (0x1B, 0x9E, 0x77)):
        assert (colours == colour).all(1).any()


def test_a_dense_score_of_zero_does_not_divide(tmp_path):
    nothing = {"tasks": {"vqa": {"score": 0.0}}, "average": 0.0}
    comparison_bars({"dense": nothing, "pruned": nothing}, tmp_path / "zero.png")
    assert (tmp_path / "zero.png").stat().st_size > 1000
