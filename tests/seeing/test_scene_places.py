"""Where named objects are."""

import json

import pytest
from PIL import Image

from ressa.data import DatasetFolder, Question
from ressa.embedded import dataset_folder
from ressa.embedded.scenes import CANVAS, sample_scene
from ressa.errors import UsageError
from ressa.evaluation import draw
from ressa.seeing import find_places, named_places, read_places, swapped


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return dataset_folder(seed=5, sizes={"test": 8}, cache=tmp_path_factory.mktemp("scenes"))


ASKED = Question(None, "", split="test")


def question(folder, text, *answers, index=0):
    image = folder / "images" / "test" / f"test_{index:012d}.png"
    return Question(image, text, None, "q", text, answers)


def test_the_embedded_scenes_say_where_their_objects_are(folder):
    places = find_places(folder, [ASKED])
    for index in range(8):
        scene = sample_scene("test", index, 5)
        found = places[f"test_{index:012d}.png"]
        assert len(found) == len(scene.objects)
        for place, placed in zip(found, scene.objects, strict=True):
            assert place.names == (placed.thing.name, placed.thing.plural)
            assert place.left * CANVAS == pytest.approx(placed.left)
            assert place.bottom * CANVAS == pytest.approx(placed.top + placed.height)


def test_what_question_or_answer_names_is_found_as_whole_words(folder):
    shown = find_places(folder, [ASKED])["test_000000000000.png"]
    name = shown[0].names[0]
    for asked in (question(folder, f"Where is the {name.upper()}?"), question(folder, "What is it?", name)):
        found = named_places(asked, find_places(folder, [ASKED]))
        assert found
        assert all(place.names[0] == name for place in found)
    assert named_places(question(folder, f"Is there a {name}like thing?"), find_places(folder, [ASKED])) == []
    assert named_places(question(folder, f"Where is the {name}?"), {}) == []


def test_the_longest_name_counts_and_coco_needs_no_forms(tmp_path):
    file = tmp_path / "instances_val2017.json"
    boxes = [[0, 0, 10, 10], [50, 20, 50, 20], [0, 0, 1, 1]]
    file.write_text(
        json.dumps(
            {
                "images": [{"id": 1, "file_name": "val2017/a.jpg", "width": 100, "height": 40}],
                "annotations": [
                    {"image_id": 1, "category_id": category, "bbox": box, "iscrowd": crowd}
                    for category, box, crowd in zip((1, 2, 1), boxes, (0, 0, 1), strict=True)
                ],
                "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "hot dog"}],
            }
        )
    )
    places = read_places(file)
    image = tmp_path / "a.jpg"
    Image.new("RGB", (100, 40)).save(image)
    (hot,) = named_places(
        Question(image, "How many hot dogs?", None, "", "How many hot dogs?", ("1",)), places
    )
    assert (hot.left, hot.top, hot.right, hot.bottom) == (0.5, 0.5, 1.0, 1.0)
    (dog,) = named_places(Question(image, "Is the dog left?", None, "", "Is the dog left?", ("yes",)), places)
    assert dog.names[0] == "dog"


@pytest.mark.parametrize("wrong", [{"bbox": [0, 0]}, {"bbox": None}, {"image_id": 9}, {"category_id": 9}])
def test_a_wrong_file_is_one_sentence(tmp_path, wrong):
    file = tmp_path / "instances_test.json"
    entry = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1]} | wrong
    file.write_text(
        json.dumps(
            {
                "images": [{"id": 1, "file_name": "a.jpg", "width": 10, "height": 10}],
                "annotations": [entry],
                "categories": [{"id": 1, "name": "dog"}],
            }
        )
    )
    with pytest.raises(UsageError, match="COCO instances"):
        read_places(file)


def test_swapping_gives_every_question_another_picture_and_leaves_captions_out(folder):
    drawn = draw(folder, ("vqa", "caption"), split="test", limit=5)
    other = swapped(drawn)
    assert set(other.samples) == {"vqa"}
    pairs = list(zip(drawn.samples["vqa"], other.samples["vqa"], strict=True))
    assert all(before.image != after.image and before.prompt == after.prompt for before, after in pairs)
    assert {before.image for before, _ in pairs} == {after.image for _, after in pairs}
    assert other.fingerprint != drawn.fingerprint
    with pytest.raises(UsageError, match="one image only"):
        swapped(draw(folder, ("vqa",), split="test", limit=1))


def test_the_scenes_are_a_dataset_by_their_name():
    assert DatasetFolder("embedded").path == dataset_folder()
    assert {"vqa", "caption", "gqa"} <= {*DatasetFolder("embedded").tasks("test")}
