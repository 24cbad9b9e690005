"""Scenes, questions, captions and the folder they are written to."""

import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from ressa.embedded import SIZES, dataset_folder
from ressa.embedded.baselines import blind_scores, constant_score
from ressa.embedded.captions import captions
from ressa.embedded.catalog import held_out, things
from ressa.embedded.questions import KINDS, questions
from ressa.embedded.scenes import CANVAS, SPLITS, patch_labels, render, sample_scene
from ressa.embedded.sprites import CELL, SHEET

SCENES = 150


@pytest.fixture(scope="module")
def scenes():
    return {split: [sample_scene(split, index) for index in range(SCENES)] for split in SPLITS}


def test_at_least_200_objects_have_distinct_names_and_a_sprite_each():
    names = [thing.name for thing in things()]
    assert len(names) == len(set(names)) >= 200
    sheet = Image.open(SHEET)
    alpha = np.asarray(sheet.getchannel("A"))
    columns = sheet.width // CELL
    for thing in things():
        top, left = thing.index // columns * CELL, thing.index % columns * CELL
        assert (alpha[top : top + CELL, left : left + CELL] > 128).mean() > 0.03, thing.name
    assert SHEET.stat().st_size < 3 * 2**20
    assert "Attribution-ShareAlike 4.0" in (SHEET.parent / "LICENSE.txt").read_text(encoding="utf-8")


def test_the_same_seed_draws_the_same_scene_and_another_seed_another():
    first, again, other = sample_scene("train", 7), sample_scene("train", 7), sample_scene("train", 7, seed=1)
    assert str(first) == str(again) != str(other)
    np.testing.assert_array_equal(render(first), render(again))
    assert questions(first) == questions(again)


def test_no_scene_comes_twice_in_or_across_splits(scenes):
    drawn = [str(scene) for split in SPLITS for scene in scenes[split]]
    assert len(set(drawn)) == len(drawn)


def test_reserved_pairs_come_in_every_novel_scene_and_in_no_other(scenes):
    def has_reserved_pair(scene):
        kinds = sorted({placed.thing.index for placed in scene.objects})
        return any(held_out(a, b) for i, a in enumerate(kinds) for b in kinds[:i])

    assert all(map(has_reserved_pair, scenes["novel"]))
    assert not any(has_reserved_pair(scene) for split in SPLITS[:-1] for scene in scenes[split])


def test_scenes_hold_one_to_five_objects_inside_the_canvas(scenes):
    counts = Counter(len(scene.objects) for scene in scenes["train"])
    assert set(counts) == {1, 2, 3, 4, 5}
    for scene in scenes["train"]:
        for o in scene.objects:
            assert o.left >= 0
            assert o.top >= 0
            assert o.left + o.width <= CANVAS
            assert o.top + o.height <= CANVAS


def test_patch_labels_name_exactly_the_objects_of_the_scene(scenes):
    for scene in scenes["val"][:40]:
        labels = set(np.unique(patch_labels(scene, 14))) - {-1}
        assert labels <= {placed.thing.index for placed in scene.objects}
        assert labels


def test_every_caption_names_every_object(scenes):
    for scene in scenes["test"]:
        told = captions(scene)
        assert len(told) == 5
        assert len(set(told)) == 5
        for caption in told:
            for thing in {placed.thing for placed in scene.objects}:
                assert thing.name in caption or thing.plural in caption


def test_spatial_answers_agree_with_the_positions(scenes):
    checked = 0
    for scene in scenes["test"]:
        at = {placed.thing.name: placed for placed in scene.objects}
        for question in questions(scene):
            words = question.text.rstrip("?")
            if question.kind == "where":
                placed = at[words.removeprefix("Where is the ")]
                vertical, horizontal = question.answer.split()
                assert (placed.y < CANVAS / 2) == (vertical == "top")
                assert (placed.x < CANVAS / 2) == (horizontal == "left")
                checked += 1
            if question.kind == "relation" and words.startswith("What is to the left of the "):
                reference = at[words.removeprefix("What is to the left of the ")]
                left = [o for o in scene.objects if o is not reference and o.x < reference.x]
                assert [o.thing.name for o in left] == [question.answer]
                checked += 1
    assert checked > 50


def test_counts_agree_with_the_scene(scenes):
    for scene in scenes["test"]:
        for question in questions(scene):
            if question.text in ("How many objects are there?", "How many things are in the picture?"):
                assert question.answer == str(len(scene.objects))


def test_guessing_without_looking_does_badly():
    assert constant_score("test", scenes=400) < 35
    blind = blind_scores("test", scenes=400, known=3000)
    assert set(blind) == {"all", *KINDS}
    assert blind["all"] < 55


def test_the_folder_holds_the_public_formats(tmp_path):
    folder = dataset_folder(seed=3, sizes={"train": 6, "novel": 4}, cache=tmp_path)
    asked = json.loads((folder / "questions_train.json").read_text())["questions"]
    answered = json.loads((folder / "annotations_train.json").read_text())["annotations"]
    assert [q["question_id"] for q in asked] == [a["question_id"] for a in answered]
    assert all(len(a["answers"]) == 10 for a in answered)
    coco = json.loads((folder / "captions_novel.json").read_text())
    assert len(coco["images"]) == 4
    assert len(coco["annotations"]) == 20
    for image in coco["images"]:
        with Image.open(folder / "images" / "novel" / image["file_name"]) as picture:
            assert picture.size == (CANVAS, CANVAS)
    karpathy = json.loads((folder / "karpathy.json").read_text())["images"]
    sentences = [sentence["sentid"] for image in karpathy for sentence in image["sentences"]]
    assert sorted(sentences) == list(range(10 * 5))
    assert "Attribution-ShareAlike" in (folder / "LICENSE-images.txt").read_text(encoding="utf-8")
    before = (folder / "info.json").stat().st_mtime_ns
    assert dataset_folder(seed=3, sizes={"train": 6, "novel": 4}, cache=tmp_path) == folder
    assert (folder / "info.json").stat().st_mtime_ns == before


def test_an_interrupted_drawing_leaves_no_folder(tmp_path, monkeypatch):
    drawn = []

    def stop(scene):
        drawn.append(scene)
        if len(drawn) > 3:
            raise KeyboardInterrupt
        return render(scene)

    monkeypatch.setattr("ressa.embedded.dataset.render", stop)
    with pytest.raises(KeyboardInterrupt):
        dataset_folder(seed=4, sizes={"train": 6}, cache=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_default_sizes_cover_every_split():
    assert set(SIZES) == set(SPLITS)
    assert SIZES["test"] >= 2000
