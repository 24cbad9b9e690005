"""The sprite sheet: OpenMoji graphics (CC BY-SA 4.0), one cell an object, scaled on demand."""

from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

CELL = 64  # px, the side of one cell
COLUMNS = 16
SHEET = Path(__file__).parent / "openmoji" / "sprites.png"


@cache
def _cells() -> list[Image.Image]:
    sheet = Image.open(SHEET).convert("RGBA")
    cells = []
    for top in range(0, sheet.height, CELL):
        for left in range(0, sheet.width, CELL):
            cell = sheet.crop((left, top, left + CELL, top + CELL))
            box = cell.getchannel("A").getbbox()
            cells.append(cell.crop(box) if box else cell)
    return cells


@cache
def sprite(index: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Object `index` scaled so that its longer side is `size` px.

    Returns colour premultiplied by alpha, float32 (h, w, 3) in 0..255, and 1 − alpha, float32 (h, w, 1) in 0..1.
    """
    cell = _cells()[index]
    scale = size / max(cell.size)
    shape = (max(1, round(cell.width * scale)), max(1, round(cell.height * scale)))
    premultiplied = np.asarray(cell.convert("RGBa").resize(shape, Image.Resampling.LANCZOS), dtype=np.float32)
    return premultiplied[..., :3].copy(), 1.0 - premultiplied[..., 3:] / 255.0
