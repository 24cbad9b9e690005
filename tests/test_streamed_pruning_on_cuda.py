"""Weights on disk, blocks on a GPU: the same bits as with the model there, in the room of two blocks."""

from pathlib import Path

import pytest
import torch
import transformers as hf
from families import FAMILIES, IMAGE_TOKEN, LANGUAGE, VISION
from test_streamed_pruning import assert_same, loaded, plan_of

from ressa.checkpoint import StreamedWeights
from ressa.pruning import prune

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt"])
@pytest.mark.parametrize("name", ["llava", "instructblip-t5", "qwen3-vl", "gemma3"])
def test_the_same_bits_as_on_the_gpu(name, method, dtype, tmp_path):
    family, source = FAMILIES[name], tmp_path / "source"
    family.model().to(dtype).save_pretrained(source)
    batches = [family.batch(0), family.batch(10)]
    expected = loaded(source).cuda()
    prune(expected, batches, plan_of(expected), method=method, device="cuda")
    model = loaded(source)
    weights = StreamedWeights(model, list(plan_of(model)), source, tmp_path / "work")
    prune(model, batches, plan_of(model), method=method, device="cuda", streamed=weights)
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}
    assert_same(model, expected.cpu())


def large(folder: Path) -> int:
    """A language tower of 16 blocks of 64 MiB; returns a block's size."""
    text = {**LANGUAGE, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 16}
    config = hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(**VISION),
        text_config=hf.LlamaConfig(**text),
        image_token_index=IMAGE_TOKEN,
        image_seq_length=4,
    )
    model = hf.LlavaForConditionalGeneration(config)
    model.save_pretrained(folder)
    return sum(parameter.nbytes for parameter in model.model.language_model.layers[0].parameters())


def test_two_blocks_are_on_the_gpu_at_most(tmp_path):
    block = large(tmp_path / "source")
    model = loaded(tmp_path / "source")
    weights = StreamedWeights(model, list(plan_of(model)), tmp_path / "source", tmp_path / "work")
    batches = [FAMILIES["llava"].batch(0)]
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    prune(model, batches, plan_of(model), device="cuda", streamed=weights)
    # Beside them what one linear's scores and their choice take: fp32 scores, masks, the pruned weight.
    linear = 4 * 1024 * 4096
    assert torch.cuda.max_memory_allocated() - before < 2 * block + 6 * linear
