"""Pruning with the weights on disk comes to the same bits as in memory, in the memory of a few blocks."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers as hf
from families import FAMILIES, IMAGE_TOKEN, LANGUAGE, VISION, Family, every_family
from torch import nn

from ressa.allocation import per_tower
from ressa.anatomy import find_anatomy
from ressa.checkpoint import StreamedWeights, loading
from ressa.checkpoint.stored import READERS
from ressa.pruning import prune
from ressa.sparsity import NM, Plan, Unstructured


def loaded(folder: Path) -> nn.Module:
    config = loading.AutoConfig.from_pretrained(folder)
    return loading.model_class(config).from_pretrained(folder, dtype="auto").eval()


def plan_of(model: nn.Module) -> Plan:
    anatomy = find_anatomy(model)
    asked = {"vision": NM(2, 4), "connector": NM(2, 4), "language": Unstructured(0.5)}
    return per_tower(anatomy, model, {tower: asked[tower] for tower in anatomy.towers})


def streamed(model: nn.Module, source: Path, work: Path, **more) -> StreamedWeights:
    return StreamedWeights(model, list(plan_of(model)), source, work, **more)


def assert_same(model: nn.Module, expected: nn.Module) -> None:
    state = model.state_dict()
    assert state.keys() == expected.state_dict().keys()
    assert [key for key, value in expected.state_dict().items() if not torch.equal(state[key], value)] == []


def check(
    family: Family, method: str, folder: Path, half: torch.dtype | None = None, *, resident: bool = False
) -> None:
    """half: a dtype that the weights are stored in, while they compute in float32."""
    source, work, target = folder / "source", folder / "work", folder / "target"
    family.model().to(half or torch.float32).save_pretrained(source, max_shard_size="40KB")
    batches = [family.batch(0), family.batch(10)]
    expected, wide = loaded(source), torch.float32 if half else None
    before = {name: tensor.dtype for name, tensor in expected.state_dict().items()}
    if half:
        expected.float()
    in_memory = prune(expected, batches, plan_of(expected), method=method, stored_in=half)
    for name, tensor in [*expected.named_parameters(), *expected.named_buffers()]:
        tensor.data = tensor.data.to(before.get(name, tensor.dtype))
    model = loaded(source)
    weights = StreamedWeights(model, list(plan_of(model)), source, work, computes_in=wide, resident=resident)
    if resident and half:
        model.float()
    result = prune(model, batches, plan_of(model), method=method, streamed=weights, stored_in=half)
    if not resident:
        assert_same(model, expected)
    assert result.layers == in_memory.layers
    assert all(torch.equal(result.masks[name], mask) for name, mask in in_memory.masks.items())
    target.mkdir()
    weights.finish(target)
    (target / "config.json").write_bytes((source / "config.json").read_bytes())
    assert_same(loaded(target), expected)


@every_family
def test_the_same_bits_as_in_memory(family, tmp_path):
    check(family, "wanda", tmp_path)


@pytest.mark.parametrize("method", ["magnitude", "sparsegpt", "dsnot"])
@pytest.mark.parametrize("name", ["llava", "instructblip-t5", "qwen3-vl", "mllama"])
def test_the_same_bits_with_every_method(name, method, tmp_path):
    check(FAMILIES[name], method, tmp_path)


@pytest.mark.parametrize("method", ["wanda", "sparsegpt"])
@pytest.mark.parametrize("name", ["llava", "instructblip-t5", "instructblip-llama", "qwen2.5-vl", "gemma3"])
def test_the_same_bits_where_half_precision_computes_in_float32(name, method, tmp_path):
    check(FAMILIES[name], method, tmp_path, torch.bfloat16)


@pytest.mark.parametrize("half", [None, torch.bfloat16])
@pytest.mark.parametrize("name", ["llava", "instructblip-t5"])
def test_a_model_in_memory_writes_its_blocks_where_they_stay(name, half, tmp_path):
    check(FAMILIES[name], "sparsegpt", tmp_path, half, resident=True)


class Cut(Exception):
    pass


@pytest.mark.parametrize("resident", [False, True])
@pytest.mark.parametrize("after", range(6))
@pytest.mark.parametrize("name", ["llava", "instructblip-t5"])
def test_cut_short_after_any_block_it_goes_on_to_the_same_bits(name, after, resident, tmp_path, monkeypatch):
    family, source = FAMILIES[name], tmp_path / "source"
    family.model().save_pretrained(source)
    batches = [family.batch(0), family.batch(10)]
    expected = loaded(source)
    prune(expected, batches, plan_of(expected), method="sparsegpt")
    keep, kept = StreamedWeights.keep, []

    def cut(self, block, weights, masks):
        if len(kept) == after:
            self._write(f"{next(iter(weights))}.weight", torch.ones_like(next(iter(weights.values()))))
            raise Cut
        kept.append(block.name)
        return keep(self, block, weights, masks)

    monkeypatch.setattr(StreamedWeights, "keep", cut)
    model = loaded(source)
    total = len(find_anatomy(model).blocks())
    if after >= total:
        pytest.skip("it has not that many blocks")
    weights = streamed(model, source, tmp_path / "work", resident=resident)
    with pytest.raises(Cut):
        prune(model, batches, plan_of(model), method="sparsegpt", streamed=weights)
    again, done = loaded(source), []
    monkeypatch.setattr(StreamedWeights, "keep", lambda *given: (done.append(given[1].name), keep(*given))[1])
    weights = streamed(again, source, tmp_path / "work", resident=resident)
    prune(again, batches, plan_of(again), method="sparsegpt", streamed=weights)
    assert len(done) == total - after
    assert not set(done) & set(kept)
    assert_same(again, expected)


@pytest.mark.skipif(sys.platform != "linux", reason="weights are streamed on Linux only")
def test_a_model_is_pruned_and_saved_in_a_fraction_of_its_own_memory(tmp_path):
    """A language tower of 24 blocks of 16 MiB; in memory, the pruned model alone is larger than the limit."""
    source = tmp_path / "source"
    text = {**LANGUAGE, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 24}
    config = hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(**VISION),
        text_config=hf.LlamaConfig(**text),
        image_token_index=IMAGE_TOKEN,
        image_seq_length=4,
    )
    torch.manual_seed(0)
    hf.LlavaForConditionalGeneration(config).save_pretrained(source, max_shard_size="100MB")
    size = sum(path.stat().st_size for path in source.glob("*.safetensors"))
    block = size / 24
    script = Path(__file__).with_name("streamed_run.py")

    def grown(how: str) -> int:
        command = [sys.executable, script, source, tmp_path / how, how]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])

    # Mapped pages count as resident as well: counting looks at a tensor in each of its threads.
    looked_at = READERS * text["hidden_size"] * text["intermediate_size"] * 4
    assert grown("stream") < 3 * block + looked_at + 100 * 2**20 < size / 2
    assert grown("memory") > size
    assert_same(loaded(tmp_path / "stream"), loaded(tmp_path / "memory"))
