"""Anatomy: the right towers, chains and linears in every family, and nothing else."""

import pytest
import torch
import transformers as hf
from families import FAMILIES, LANGUAGE, T5, VISION, Family, every_family
from torch import nn

from ressa.anatomy import find_anatomy
from ressa.errors import UsageError


@every_family
def test_towers_and_chains(family: Family):
    anatomy = find_anatomy(family.model())
    found = {
        name: tuple(len(chain.blocks) for chain in tower.chains) for name, tower in anatomy.towers.items()
    }
    assert found == family.chains


@every_family
def test_linears_are_those_of_the_blocks_alone(family: Family):
    model = family.model()
    anatomy = find_anatomy(model)
    modules = dict(model.named_modules())
    names = anatomy.linears()
    assert len(names) == len(set(names))
    assert all(type(modules[name]) is nn.Linear for name in names)
    assert sorted(names) == sorted(name for tower in anatomy.towers for name in anatomy.linears(tower))
    left_out = {name for name, module in modules.items() if isinstance(module, nn.Linear)} - set(names)
    heads = ("lm_head", "cls.predictions.transform.dense", "cls.predictions.decoder")
    assert all(name.endswith(heads) for name in left_out), left_out
    for block in anatomy.blocks():
        assert all(name == block.name or name.startswith(block.name + ".") for name in block.linears)


@every_family
def test_every_linear_knows_its_tower(family: Family):
    anatomy = find_anatomy(family.model())
    for tower in anatomy.towers:
        assert all(anatomy.tower_of(name) == tower for name in anatomy.linears(tower))
    with pytest.raises(UsageError, match="lm_head"):
        anatomy.tower_of("lm_head")


@every_family
def test_the_structure_alone_decides(family: Family):
    with torch.device("meta"):
        model = family.build()
    assert find_anatomy(model) == find_anatomy(family.model())


def test_which_linears_a_block_has():
    anatomy = find_anatomy(FAMILIES["instructblip-t5"].model())
    tails = [name.rpartition(".")[2] for name in anatomy.blocks("vision")[0].linears]
    assert tails == ["qkv", "projection", "fc1", "fc2"]  # a fused qkv is one linear
    encoder, decoder = anatomy.chains("language")
    assert [n.rpartition(".")[2] for n in encoder.blocks[0].linears] == [
        "q",
        "k",
        "v",
        "o",
        "wi_0",
        "wi_1",
        "wo",
    ]
    assert len(decoder.blocks[0].linears) == 11
    assert (encoder.reads_labels, decoder.reads_labels) == (False, True)
    assert anatomy.blocks("connector")[-1].linears == ("language_projection",)


def test_patch_mergers_within_the_vision_tower_are_the_connector():
    anatomy = find_anatomy(FAMILIES["qwen3-vl"].model())
    assert [chain.name for chain in anatomy.chains("connector")] == [
        "model.visual.merger",
        "model.visual.deepstack_merger_list",
    ]


def test_a_shared_weight_is_counted_once():
    model = FAMILIES["llava"].model()
    layers = model.model.language_model.layers
    layers[1].mlp.up_proj.weight = layers[0].mlp.up_proj.weight
    layers[1].self_attn = layers[0].self_attn
    names = find_anatomy(model).linears("language")
    assert "model.language_model.layers.0.mlp.up_proj" in names
    assert len([name for name in names if ".layers.1." in name]) == 2  # gate_proj and down_proj


def test_an_attention_pool_and_a_bare_vision_encoder():
    config = hf.SiglipConfig(
        vision_config=VISION, text_config={**LANGUAGE, "num_key_value_heads": None, "projection_size": 16}
    )
    anatomy = find_anatomy(hf.SiglipModel(config))
    assert set(anatomy.towers) == {"vision", "language"}  # the pooling heads are not in it


def test_a_vision_encoder_by_no_usual_name():
    text = hf.BertConfig(
        vocab_size=64,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        is_decoder=True,
        add_cross_attention=True,
    )
    config = hf.VisionEncoderDecoderConfig.from_encoder_decoder_configs(hf.ViTConfig(**VISION), text)
    anatomy = find_anatomy(hf.VisionEncoderDecoderModel(config))
    assert len(anatomy.blocks("vision")) == 2
    (decoder,) = anatomy.chains("language")
    assert decoder.reads_labels


@pytest.mark.parametrize(
    "build",
    [
        lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**LANGUAGE)),
        lambda: hf.T5ForConditionalGeneration(hf.T5Config(**T5)),
        lambda: hf.ViTForImageClassification(hf.ViTConfig(**VISION)),
        lambda: nn.Sequential(nn.Linear(4, 4)),
    ],
    ids=["llama", "t5", "vit", "plain"],
)
def test_a_model_that_is_no_vlm_is_refused(build):
    with pytest.raises(UsageError, match="not a vision-language model") as refusal:
        find_anatomy(build())
    assert "\n" not in str(refusal.value)


def test_a_quantised_vision_tower_is_refused():
    class FourBit(nn.Linear):
        pass

    model = FAMILIES["llava"].model()
    for block in model.model.vision_tower.encoder.layers:
        for name, module in list(block.named_modules()):
            if isinstance(module, nn.Linear):
                block.set_submodule(name, FourBit(module.in_features, module.out_features))
    with pytest.raises(UsageError, match="quantised"):
        find_anatomy(model)
