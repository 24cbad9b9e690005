"""Rebuild the sprite sheet from the npm package `openmoji` (17.0.0, CC BY-SA 4.0).

    npm pack openmoji@17.0.0 && tar xzf openmoji-17.0.0.tgz && pip install resvg-py
    python scripts/build_sprites.py package/

Each object of `objects.tsv` is rasterised at high resolution, trimmed to its visible part and scaled so that its longer
side fills a cell. The sheet is one RGBA PNG, cells row by row in the order of `objects.tsv`.
"""

import argparse
import io
import json
from pathlib import Path

import resvg_py
from PIL import Image

from ressa.embedded.catalog import things
from ressa.embedded.sprites import CELL, COLUMNS, SHEET


def rasterise(svg: str) -> Image.Image:
    """One SVG → RGBA image trimmed to its visible pixels, longer side `CELL` px, centred in a cell."""
    image = Image.open(
        io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=512, height=512)))
    ).convert("RGBA")
    box = image.getchannel("A").point(lambda a: 255 if a > 16 else 0).getbbox()
    image = image.crop(box)
    scale = CELL / max(image.size)
    image = image.resize(
        (max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.LANCZOS
    )
    cell = Image.new("RGBA", (CELL, CELL))
    cell.paste(image, ((CELL - image.width) // 2, (CELL - image.height) // 2))
    return cell


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("package", type=Path, help="the unpacked npm package")
    package = parser.parse_args().package
    entries: dict[str, str] = {}
    for entry in json.loads((package / "data" / "openmoji.json").read_text(encoding="utf-8")):
        entries.setdefault(entry["annotation"], entry["hexcode"])
    rows = -(-len(things()) // COLUMNS)
    sheet = Image.new("RGBA", (COLUMNS * CELL, rows * CELL))
    for thing in things():
        svg = (package / "color" / "svg" / f"{entries[thing.annotation]}.svg").read_text(encoding="utf-8")
        sheet.paste(rasterise(svg), (thing.index % COLUMNS * CELL, thing.index // COLUMNS * CELL))
    sheet.save(SHEET, optimize=True)
    print(f"{SHEET}: {len(things())} sprites, {SHEET.stat().st_size / 2**20:.2f} MB")


if __name__ == "__main__":
    main()
