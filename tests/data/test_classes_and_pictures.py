"""Folders of classes, lists of labels, and pictures alone."""

import json

import pytest
from PIL import Image

from ressa.data import DatasetFolder, training_samples
from ressa.data.prompts import CLASS
from ressa.errors import UsageError


def picture(path, colour="red"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), colour).save(path)


def labels(folder, split):
    return sorted(
        (sample.label, sample.image.name) for sample in DatasetFolder(folder).samples("zeroshot", split)
    )


@pytest.mark.parametrize("home", ["val", "images/val", "classes/val"])
def test_a_folder_for_each_class(tmp_path, home):
    for name in ("polar_bear/1.png", "polar_bear/2.jpg", "cat/1.png"):
        picture(tmp_path / home / name)
    assert labels(tmp_path, "val") == [("cat", "1.png"), ("polar bear", "1.png"), ("polar bear", "2.jpg")]
    assert not DatasetFolder(tmp_path).has("pictures", "val")


def test_classes_without_splits_are_for_training_and_for_testing(tmp_path):
    for name in ("dog/1.png", "cat/1.png"):
        picture(tmp_path / name)
    assert labels(tmp_path, "test") == [("cat", "1.png"), ("dog", "1.png")]
    drawn = training_samples(tmp_path, "auto", 2, mixture="pairs")
    assert sorted(sample.target for sample in drawn) == [CLASS.format("cat"), CLASS.format("dog")]


def test_annotated_pictures_are_no_classes(tmp_path):
    """COCO's folders, before and after their annotations are there."""
    for name in ("train2014/1.png", "val2014/1.png"):
        picture(tmp_path / name)
    assert DatasetFolder(tmp_path).tasks() == ["pictures"]
    caption = {
        "images": [{"id": 1, "file_name": "1.png"}],
        "annotations": [{"image_id": 1, "caption": "a cat"}],
    }
    (tmp_path / "captions_val.json").write_text(json.dumps(caption))
    assert DatasetFolder(tmp_path).tasks() == ["caption"]


@pytest.mark.parametrize("name", ["labels_test.jsonl", "test/metadata.jsonl"])
def test_a_list_of_labels(tmp_path, name):
    picture(tmp_path / "test" / "a.png")
    picture(tmp_path / "test" / "b.png")
    key = "file_name" if "metadata" in name else "image"
    lines = [{key: "a.png", "label": "cat"}, {key: "b.png", "label": "polar_bear"}]
    (tmp_path / name).write_text("\n".join(map(json.dumps, lines)))
    assert labels(tmp_path, "test") == [("cat", "a.png"), ("polar bear", "b.png")]


def test_a_label_that_is_no_name_is_told(tmp_path):
    picture(tmp_path / "a.png")
    (tmp_path / "labels_test.jsonl").write_text('{"image": "a.png", "label": 7}\n')
    with pytest.raises(UsageError, match="label"):
        DatasetFolder(tmp_path).samples("zeroshot", "test")


def test_pictures_alone_have_no_target(tmp_path):
    for number in range(3):
        picture(tmp_path / "images" / "train" / f"{number}.png")
    drawn = training_samples(tmp_path, "train", 3, mixture="mix")
    assert len(drawn) == 3
    assert {sample.target for sample in drawn} == {None}
    with pytest.raises(UsageError, match="has nothing for"):
        training_samples(tmp_path, "train", 3, mixture="qa")
