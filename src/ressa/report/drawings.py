"""Small drawings for a page: bars as SVG in the page's own colours, maps and pictures as data URIs."""

import io
from base64 import b64encode
from collections.abc import Sequence
from html import escape

import numpy as np
from PIL import Image

LARGEST = 336  # px, the longer side of a picture on the page

Blocks = Sequence[Sequence]  # (label, tower, [(share of zeros, weights)]) each, as `plan_blocks` gives them


def bars_of_blocks(blocks: Blocks, title: str) -> str:
    """How sparse each block is: a bar a block, a mark for each of its layers, the towers apart; as inline SVG.

    Its colours are the page's classes: `bar-TOWER`, `mark`, `axis`; its text takes the page's.
    """
    step, height, left, below = 26, 150, 40, 96
    towers = list(dict.fromkeys(tower for _, tower, _ in blocks))
    width = left + step * len(blocks) + 14 * (len(towers) - 1) + 12
    parts = [
        f'<svg viewBox="0 0 {width} {height + below + 24}" width="{width}" height="{height + below + 24}" role="img" '
        f'aria-label="{escape(title)}"><title>{escape(title)}</title>'
    ]
    for share in (0, 25, 50, 75, 100):
        y = 14 + height * (1 - share / 100)
        parts.append(f'<line class="axis" x1="{left}" x2="{width - 6}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{share} %</text>')
    x, before = float(left + 8), None
    for label, tower, layers in blocks:
        x += 14 if before not in (None, tower) else 0
        before = tower
        weights = sum(size for _, size in layers)
        share = sum(zeros * size for zeros, size in layers) / weights
        top = 14 + height * (1 - share)
        parts.append(
            f'<rect class="bar-{escape(tower)}" x="{x:.1f}" y="{top:.1f}" width="{step - 8}" '
            f'height="{max(0.5, height * share):.1f}"><title>{escape(label)}: {share:.1%} zeros in {weights:,} '
            "weights</title></rect>"
        )
        for zeros in {round(zeros, 3) for zeros, _ in layers}:
            y = 14 + height * (1 - zeros)
            parts.append(
                f'<line class="mark" x1="{x - 1:.1f}" x2="{x + step - 7:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
            )
        middle = x + (step - 8) / 2 + 4
        foot = height + 24
        parts.append(
            f'<text transform="translate({middle:.1f} {foot}) rotate(-90)" text-anchor="end">{escape(label)}</text>'
        )
        x += step
    parts.append("</svg>")
    return "".join(parts)


def picture_uri(picture: Image.Image) -> str:
    """A picture, made smaller where it is large, as a data URI: PNG where it is small, else JPEG."""
    small = picture.copy()
    small.thumbnail((LARGEST, LARGEST))
    return _uri(small, "PNG" if small.width * small.height <= 160 * 160 else "JPEG")


def map_uri(values: Sequence[Sequence[float]]) -> str:
    """A map as a small transparent PNG to lay over its picture, one pixel a cell.

    Orange is what speaks for the answer, blue what speaks against it (negative values); full colour is the largest
    absolute value.
    """
    grid = np.array(values, dtype=float)
    top = float(np.abs(grid).max()) or 1.0
    share = np.sqrt(np.abs(grid) / top)  # so that half of the largest is seen as more than half
    pixels = np.zeros((*grid.shape, 4), dtype=np.uint8)
    pixels[..., :3] = np.where((grid >= 0)[..., None], (255, 112, 0), (40, 96, 255))
    pixels[..., 3] = np.rint(225 * share)
    return _uri(
        Image.fromarray(pixels, "RGBA").resize(
            (grid.shape[1] * 8, grid.shape[0] * 8), Image.Resampling.BICUBIC
        ),
        "PNG",
    )


def _uri(picture: Image.Image, form: str) -> str:
    file = io.BytesIO()
    picture.save(file, form, **({"quality": 82} if form == "JPEG" else {"optimize": True}))
    return f"data:image/{form.lower()};base64,{b64encode(file.getvalue()).decode()}"
