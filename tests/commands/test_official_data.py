"""README's commands on folders as they are downloaded: a plain COCO folder, LLaVA's conversations, tar shards."""

import json

import pytest

from tests.data import official

QUICK = ("--option", "steps=4", "--no-warm-start", "--batch-size", 4)


@pytest.fixture
def coco(tmp_path):
    """COCO 2017 and nothing else: no split called calibration, no questions, no test."""
    return official.coco(tmp_path / "coco", {"train2017": range(24), "val2017": range(24, 30)})


def warnings_in(said):
    return [line for line in said.err.splitlines() if line.startswith("Warning: ")]


def test_a_plain_coco_folder_works_in_every_command(ressa, world, coco, tmp_path):
    pruned, repaired = tmp_path / "pruned", tmp_path / "repaired"
    said = ressa(
        "prune", world.llava, "-o", pruned, "--pattern", "2:4", "--calibration", coco, "--samples", 8
    )
    assert said.status == 0
    assert warnings_in(said) == [f"Warning: {coco} has no questions: the mixture is the rest."]
    manifest = json.loads((pruned / "ressa.json").read_text())
    assert (manifest["calibration"]["split"], manifest["calibration"]["samples"]) == ("train", 8)
    said = ressa("repair", pruned, "-o", repaired, "--data", coco, "--samples", 16, *QUICK)
    assert said.status == 0
    training = json.loads((repaired / "ressa.json").read_text())["training"]
    assert (training["data"]["split"], training["data"]["samples"], training["samples"]) == ("train", 16, 16)
    for split in (("--split", "val"), ()):
        said = ressa(
            "evaluate", repaired, "--data", coco, *split, "--pool", 4, "--json", tmp_path / "scores.json"
        )
        assert said.status == 0
        assert any(
            "has nothing for vqa, okvqa, gqa" in line and "left out" in line for line in warnings_in(said)
        )
        scores = json.loads((tmp_path / "scores.json").read_text())
        assert list(scores["tasks"]) == ["caption", "retrieval"]
        assert scores["splits"] == {"caption": "val", "retrieval": "val"}
        assert scores["tasks"]["caption"]["n"] == 6
    assert ressa("inspect", repaired).status == 0
    assert ressa("pack", repaired, "-o", tmp_path / "packed").status == 0


def test_nothing_that_was_asked_for_by_name_is_left_out_in_silence(ressa, world, coco):
    said = ressa("evaluate", world.llava, "--data", coco, "--tasks", "gqa")
    assert said.status == 2
    assert "has nothing for gqa: it has caption" in said.sentence
    said = ressa("evaluate", world.llava, "--data", coco, "--split", "test")
    assert said.status == 2
    assert "there is train and val" in said.sentence


def test_official_questions_are_scored_each_in_its_own_split(ressa, world, coco, tmp_path):
    official.vqa(coco, {"val2014": range(24, 30)})
    official.gqa(coco / "gqa")
    said = ressa(
        "evaluate", world.llava, "--data", coco, "--tasks", "vqa,gqa", "--json", tmp_path / "scores.json"
    )
    assert said.status == 0
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["splits"] == {"vqa": "val", "gqa": "testdev"}
    assert [scores["tasks"][task]["n"] for task in ("vqa", "gqa")] == [6, 3]


def test_conversations_and_captions_are_mixed_by_weight_for_pruning_and_repair(ressa, world, coco, tmp_path):
    official.llava(tmp_path / "llava")
    pruned = tmp_path / "pruned"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"""
command: prune
model: {world.llava}
output: {pruned}
samples: 10
calibration:
  - {{data: {coco}, weight: 4, mixture: captions}}
  - {{data: {tmp_path / "llava"}, weight: 1, mixture: instruct}}
---
command: repair
model: {pruned}
output: {tmp_path / "repaired"}
data: "{coco}:1,{tmp_path / "llava"}:1"
mixture: caption,instruct
samples: 10
batch_size: 4
warm_start: false
options: {{steps: 3}}
"""
    )
    assert ressa("run", recipe).status == 0
    calibration = json.loads((pruned / "ressa.json").read_text())["calibration"]
    assert [source["samples"] for source in calibration["sources"]] == [8, 2]
    assert calibration["name"] == f"{coco}:4,{tmp_path / 'llava'}:1"
    data = json.loads((tmp_path / "repaired" / "ressa.json").read_text())["training"]["data"]
    assert [source["samples"] for source in data["sources"]] == [5, 5]
    assert len(data["fingerprint"]) > 8


def test_tar_shards_are_calibrated_on_where_they_lie(ressa, world, tmp_path):
    official.shards(tmp_path / "cc3m")
    said = ressa(
        "prune", world.llava, "-o", tmp_path / "out", "--calibration", tmp_path / "cc3m", "--samples", 6
    )
    assert said.status == 0
    assert (
        ressa(
            "prune", world.llava, "-o", tmp_path / "out", "--calibration", tmp_path / "cc3m", "--samples", 6
        ).status
        == 0
    )


def test_an_encoder_decoder_learns_each_turn_of_a_conversation(ressa, world, tmp_path):
    """Text alone is left out, as a Q-Former cannot do without a picture; that is said."""
    official.llava(tmp_path / "llava")
    command = ("--calibration", tmp_path / "llava", "--mixture", "instruct", "--samples", 5)
    said = ressa("prune", world.instructblip, "-o", tmp_path / "out", *command)
    assert said.status == 2
    assert "shows no picture" in said.sentence
    said = ressa("prune", world.instructblip, "-o", tmp_path / "out", *command, "--on-bad-sample", "skip")
    assert said.status == 0
    assert json.loads((tmp_path / "out" / "ressa.json").read_text())["calibration"]["samples"] == 8


def test_a_picture_in_a_shard_that_is_damaged_is_named(ressa, world, tmp_path):
    official.shards(tmp_path / "cc3m")
    shard = tmp_path / "cc3m" / "00000.tar"
    content = bytearray(shard.read_bytes())
    place = content.find(b"\xff\xd8")
    content[place : place + 200] = bytes(200)
    shard.write_bytes(bytes(content))
    said = ressa(
        "prune", world.llava, "-o", tmp_path / "out", "--calibration", tmp_path / "cc3m", "--samples", 6
    )
    assert said.status == 2
    assert "00000.tar, 000000000.jpg: cannot be read" in said.sentence
