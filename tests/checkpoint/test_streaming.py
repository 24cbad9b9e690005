"""Weights that stay on disk: read where they are touched, pruned ones written where they stay."""

import pytest
import torch
from families import FAMILIES
from torch import nn

from ressa.anatomy import find_anatomy
from ressa.checkpoint import StreamedWeights, loading
from ressa.errors import UsageError
from ressa.sparsity import NM


def stored(family: str, folder, **options) -> nn.Module:
    """A model of a family, saved and loaded again."""
    FAMILIES[family].model().save_pretrained(folder, **options)
    return loaded(folder)


def loaded(folder, **options) -> nn.Module:
    config = loading.AutoConfig.from_pretrained(folder)
    return loading.model_class(config).from_pretrained(folder, dtype="auto", **options)


@torch.no_grad()
def prune_block(streamed: StreamedWeights, model: nn.Module, index: int) -> dict[str, torch.Tensor]:
    """Half of a block's weights zero and the others doubled; returns what its weights are then."""
    block = find_anatomy(model).blocks()[index]
    masks = {name: NM(2, 4).select(model.get_submodule(name).weight.abs()) for name in block.linears}
    weights = {name: model.get_submodule(name).weight * mask * 2 for name, mask in masks.items()}
    kept = streamed.keep(block, weights, masks)
    assert all(torch.equal(kept[name], mask) for name, mask in masks.items())
    streamed.put_back(model.get_submodule(block.name))
    return {f"{name}.weight": weight for name, weight in weights.items()}


@pytest.mark.parametrize("shard", ["50GB", "20KB"])
@pytest.mark.parametrize("name", ["llava", "instructblip-t5", "qwen2.5-vl"])
def test_pruned_blocks_go_to_the_outputs_shards_and_all_else_is_copied(name, shard, tmp_path):
    source, work, target = (tmp_path / part for part in ("source", "work", "target"))
    model = stored(name, source, max_shard_size=shard)
    before = {path.name: path.read_bytes() for path in source.iterdir()}
    dense = {key: value.clone() for key, value in model.state_dict().items()}
    streamed = StreamedWeights(model, find_anatomy(model).linears(), source, work)
    streamed.claim("one")
    pruned = prune_block(streamed, model, 0) | prune_block(streamed, model, 2)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in pruned.items())
    target.mkdir()
    streamed.finish(target)
    for path in source.glob("*.json"):
        (target / path.name).write_bytes(path.read_bytes())
    made = loaded(target).state_dict()
    assert made.keys() == dense.keys()
    assert all(torch.equal(value, pruned.get(key, dense[key])) for key, value in made.items())
    assert {path.name: path.read_bytes() for path in source.iterdir()} == before
    assert sorted(path.name for path in target.iterdir()) == sorted(before)


def test_what_was_done_is_taken_up_and_work_of_another_is_refused(tmp_path):
    source, work = tmp_path / "source", tmp_path / "work"
    model = stored("llava", source)
    layers = find_anatomy(model).linears()
    streamed = StreamedWeights(model, layers, source, work)
    streamed.claim("one")
    pruned = prune_block(streamed, model, 1)
    again = loaded(source)
    resumed = StreamedWeights(again, layers, source, work)
    with pytest.raises(UsageError, match="unfinished work of another"):
        resumed.claim("two")
    resumed.claim("one")
    anatomy = find_anatomy(again)
    masks = resumed.restore(anatomy.blocks(), dict(again.named_modules()))
    assert set(masks) == set(anatomy.blocks()[1].linears)
    assert all(torch.equal(again.state_dict()[key], value) for key, value in pruned.items())


def test_changes_that_are_put_back_unwritten_are_forgotten(tmp_path):
    model = stored("llava", tmp_path / "source")
    anatomy = find_anatomy(model)
    streamed = StreamedWeights(model, anatomy.linears(), tmp_path / "source", tmp_path / "work")
    block = model.get_submodule(anatomy.blocks()[0].name)
    block.double()
    streamed.put_back(block)
    assert {parameter.dtype for parameter in block.parameters()} == {torch.float32}


def test_a_model_that_is_not_stored_as_it_computes_is_refused(tmp_path):
    FAMILIES["llava"].model().save_pretrained(tmp_path)
    config = loading.AutoConfig.from_pretrained(tmp_path)
    model = loading.model_class(config).from_pretrained(tmp_path, dtype=torch.bfloat16)
    with pytest.raises(UsageError, match="cannot be streamed"):
        StreamedWeights(model, find_anatomy(model).linears(), tmp_path, tmp_path / "work")
