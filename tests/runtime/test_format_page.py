"""The example in docs/format.md is what is written, byte for byte."""

import json
import re
from pathlib import Path

import torch

from ressa.checkpoint.stored import read_places
from ressa.checkpoint.writing import Entry, write_tensors
from ressa.runtime.packing import PackedWeight, pack, positions_of
from ressa.runtime.quantizer import PackedConfig

PAGE = (Path(__file__).parents[2] / "docs" / "format.md").read_text(encoding="utf-8")


def example() -> tuple[torch.Tensor, torch.Tensor]:
    """The weight and the mask that the page shows."""
    drawn = re.search(r"in brackets.*?:\n\n(.*?)\n\n", PAGE, re.S)
    rows = [line.split() for line in drawn[1].splitlines()]
    mask = torch.tensor([[word.startswith("[") for word in row] for row in rows])
    return torch.tensor(
        [[float(word.strip("[]")) for word in row] for row in rows], dtype=torch.bfloat16
    ), mask


def told() -> dict[str, tuple[tuple[int, ...], bytes]]:
    """key → shape and bytes, as the page lists them."""
    lines = re.findall(r"^    (\w+\.\w+) +\(([\d, ]+)\) +((?:[0-9A-F]{2} ?)+)$", PAGE, re.M)
    return {key: (tuple(map(int, shape.split(","))), bytes.fromhex(text)) for key, shape, text in lines}


def test_the_bytes_in_the_file_are_those_on_the_page(tmp_path):
    weight, mask = example()
    packed = pack(weight, mask)
    tensors = {
        "layer.weight": packed.values,
        "layer.positions": packed.positions,
        "layer.shape": torch.tensor(packed.shape),
    }
    types = {"layer.weight": "BF16", "layer.positions": "U8", "layer.shape": "I64"}
    path = tmp_path / "model.safetensors"
    write_tensors(path, {k: Entry(types[k], tuple(v.shape)) for k, v in tensors.items()}, tensors.__getitem__)
    raw = path.read_bytes()
    found = {
        key: (place.shape, raw[place.begin : place.begin + place.size])
        for key, place in read_places(path).items()
    }
    listed = told()
    assert found == {key: listed[key] for key in tensors}
    shape, bits = listed["bitmask.positions"]
    as_bitmask = positions_of(mask, "bitmask")
    assert (tuple(as_bitmask.shape), as_bitmask.numpy().tobytes()) == (shape, bits)


def test_the_bytes_on_the_page_are_read_as_the_weight_on_it():
    weight, mask = example()
    listed = told()
    shape, raw = listed["layer.weight"]
    values = torch.frombuffer(bytearray(raw), dtype=torch.bfloat16).reshape(shape)
    shape, raw = listed["layer.positions"]
    positions = torch.frombuffer(bytearray(raw), dtype=torch.uint8).reshape(shape)
    packed = PackedWeight(values, positions, tuple(weight.shape), "2:4")
    packed.check()
    assert torch.equal(packed.dense().view(torch.int16), weight.view(torch.int16))
    assert torch.equal(packed.mask(), mask)


def test_the_config_on_the_page_is_one(tmp_path):
    config = json.loads("{" + re.search(r"```json\n(.*?)```", PAGE, re.S)[1] + "}")["quantization_config"]
    assert PackedConfig.from_dict(dict(config)).to_dict() == config


def test_the_sizes_on_the_page_are_those_that_come_out():
    for zeros, half, whole in re.findall(r"^\| .*?(\d+) % \| ([\d.]+) × \| ([\d.]+) × \|$", PAGE, re.M):
        mask = torch.arange(1000 * 8).reshape(8, 1000) % 10 >= int(zeros) / 10
        for dtype, share in ((torch.bfloat16, half), (torch.float32, whole)):
            weight = torch.ones(8, 1000, dtype=dtype).masked_fill(~mask, 0)
            assert abs(pack(weight, mask).nbytes / weight.nbytes - float(share)) < 1e-4
