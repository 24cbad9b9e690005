"""Drawings of the report's page, and the Pareto front."""

import base64
import io
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from ressa.report.drawings import bars_of_blocks, map_uri, picture_uri
from ressa.report.pareto import front, pareto_figure

BLOCKS = [("layers 0", "vision", [(0.5, 100), (0.7, 100)]), ("layers 0", "language", [(0.25, 300)])]


def opened(uri):
    return Image.open(io.BytesIO(base64.b64decode(uri.partition("base64,")[2])))


def test_a_bar_is_as_high_as_its_block_is_sparse():
    svg = ElementTree.fromstring(bars_of_blocks(BLOCKS, 'of <b> & "c"'))
    bars = {bar.get("class"): float(bar.get("height")) for bar in svg.iter("rect")}
    assert bars["bar-vision"] / bars["bar-language"] == pytest.approx(0.6 / 0.25)
    assert svg.find("title").text == 'of <b> & "c"'
    assert sum(line.get("class") == "mark" for line in svg.iter("line")) == 3


def test_a_map_is_orange_where_it_speaks_for_and_blue_where_against():
    pixels = np.array(opened(map_uri([[4.0, 0.0], [0.0, -4.0]])))
    assert pixels.shape == (16, 16, 4)
    red, _, blue, strong = pixels[0, 0]
    assert red > blue
    assert strong > 200
    red, _, blue, strong = pixels[-1, -1]
    assert blue > red
    assert strong > 200
    assert pixels[0, -1, 3] < 30
    assert np.array(opened(map_uri([[0.0, 0.0], [0.0, 0.0]])))[..., 3].max() == 0


def test_large_pictures_are_made_smaller_and_keep_their_shape():
    assert opened(picture_uri(Image.new("RGB", (2000, 1000)))).size == (336, 168)
    assert opened(picture_uri(Image.new("RGB", (112, 112)))).size == (112, 112)


def test_the_front_holds_what_no_other_point_beats(tmp_path):
    points = [
        (1.0, 50.0, "a", "m"),
        (2.0, 40.0, "b", "m"),
        (3.0, 80.0, "c", "m"),
        (3.0, 70.0, "d", "m"),
        (9.0, 80.0, "e", "m"),
    ]
    assert [name for _, _, name, _ in front(points)] == ["a", "c"]
    pareto_figure({"model": points}, tmp_path / "figure.png")
    assert opened("base64," + base64.b64encode((tmp_path / "figure.png").read_bytes()).decode()).width > 500
