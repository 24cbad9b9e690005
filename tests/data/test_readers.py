"""The public formats, read as their official files are, and the sentence for each way they can be wrong."""

import json

import pytest
from PIL import Image

from ressa.data import DatasetFolder
from ressa.data.formats.coco import read_captions
from ressa.data.formats.gqa import read_gqa
from ressa.data.formats.karpathy import read_karpathy
from ressa.data.formats.vqa import most_common, read_vqa
from ressa.errors import UsageError
from tests.data.tiny_folders import image_name, tiny_dataset, write


@pytest.fixture
def folder(tmp_path):
    return tiny_dataset(tmp_path / "tiny")


def test_captions_carry_their_references_and_objects(folder):
    first = DatasetFolder(folder).samples("caption", "test")[0]
    assert first.captions == ("a red cat", "the cat")
    assert first.objects == (("cat", "cats"),)
    assert first.prompt == "A short description:"
    assert first.image == folder / "images" / "test" / image_name(0)


def test_an_object_may_be_a_plain_name(folder):
    path = folder / "captions_test.json"
    content = json.loads(path.read_text())
    content["images"][0]["objects"] = ["cat"]
    write(path, content)
    assert read_captions(path, folder / "images" / "test")[0].objects == (("cat",),)


@pytest.mark.parametrize("read", ["vqa", "okvqa"])
def test_questions_carry_ten_answers_and_their_kind(folder, read):
    question = DatasetFolder(folder).samples(read, "test")[1]
    assert question.prompt == "Question: What is in the picture? Short answer:"
    assert question.answers == ("dog",) * 7 + ("house",) * 3
    assert question.target == "dog"
    assert question.kinds == ("what is",)
    assert question.id == "101"


def test_official_file_names_are_found_by_the_image_id(folder):
    """`names` is what a captions file says; without one the number in the file name decides."""
    images = folder / "images" / "test"
    found = read_vqa(folder / "questions_test.json", folder / "annotations_test.json", images)
    assert [question.image.name for question in found] == [image_name(n) for n in range(4)]


def test_gqa_is_read_with_both_types(folder):
    question = DatasetFolder(folder).samples("gqa", "test")[0]
    assert question.answers == ("yes",)
    assert question.kinds == ("structural: verify", "semantic: obj")
    assert question.image.name == image_name(0)


def test_gqa_images_are_named_by_their_stem(tmp_path):
    write(tmp_path / "q.json", {"7": {"imageId": "n12", "question": "Is it?", "answer": "no"}})
    (tmp_path / "images").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "images" / "n12.jpg")
    assert read_gqa(tmp_path / "q.json", tmp_path / "images")[0].image.name == "n12.jpg"


def test_karpathys_list_gives_one_split(folder):
    found = DatasetFolder(folder).samples("retrieval", "test")
    assert [image.captions for image in found][3] == ("a white car", "the car")
    with pytest.raises(UsageError, match=r"no images of the split 'val': it has test"):
        DatasetFolder(folder).samples("retrieval", "val")


def test_karpathys_images_may_lie_flat(folder, tmp_path):
    flat = tmp_path / "flat"
    (folder / "images" / "test").rename(flat)
    found = read_karpathy(folder / "karpathy.json", flat, "test")
    assert found[2].image == flat / image_name(2)


def test_retrieval_falls_back_to_the_captions_file(folder):
    (folder / "karpathy.json").unlink()
    assert len(DatasetFolder(folder).samples("retrieval", "test")) == 4


def test_splits_may_share_one_image_folder(folder):
    for image in (folder / "images" / "test").iterdir():
        image.rename(folder / "images" / image.name)
    (folder / "images" / "test").rmdir()
    assert DatasetFolder(folder).samples("caption", "test")[0].image == folder / "images" / image_name(0)


def test_prompts_can_be_others(folder):
    data = DatasetFolder(folder, question="Q: {} {A}", caption="Describe.")
    assert data.samples("vqa", "test")[0].prompt == "Q: What is in the picture? {A}"
    assert data.samples("gqa", "test")[0].prompt == "Q: Is there a cat? {A}"
    assert {
        sample.prompt for sample in data.samples("caption", "test") + data.samples("retrieval", "test")
    } == {"Describe."}
    with pytest.raises(UsageError, match="needs one"):
        DatasetFolder(folder, question="What?")


def test_most_common_prefers_the_first_among_equals():
    assert most_common(("b", "a", "a", "b")) == "b"


def test_questions_without_answers_are_left_out(folder):
    path = folder / "annotations_test.json"
    content = json.loads(path.read_text())
    content["annotations"] = content["annotations"][:1]
    write(path, content)
    assert len(DatasetFolder(folder).samples("vqa", "test")) == 1


# -- what goes wrong ---------------------------------------------------------------------------------------


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"no dataset folder .*nowhere"):
        DatasetFolder(tmp_path / "nowhere")


def test_a_missing_file_is_named(folder):
    (folder / "annotations_test.json").unlink()
    with pytest.raises(UsageError, match=r"annotations_test\.json does not exist"):
        DatasetFolder(folder).samples("vqa", "test")


def test_a_missing_image_is_named(folder):
    (folder / "images" / "test" / image_name(2)).unlink()
    for read in ("caption", "vqa", "gqa", "retrieval"):
        with pytest.raises(UsageError, match=r"COCO_test_000000000002\.png does not exist"):
            DatasetFolder(folder).samples(read, "test")


def test_a_missing_image_folder_is_named(folder, tmp_path):
    with pytest.raises(UsageError, match=r"image folder .*gone does not exist"):
        read_captions(folder / "captions_test.json", tmp_path / "gone")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "is not valid JSON"),
        ("[]", "is not in the format of COCO captions"),
        ('{"images": []}', "is not in the format of COCO captions .no 'annotations'"),
        ('{"images": [], "annotations": []}', "has no captions"),
    ],
)
def test_a_wrong_captions_file_is_told_apart(folder, content, sentence):
    (folder / "captions_test.json").write_text(content)
    with pytest.raises(UsageError, match=sentence):
        DatasetFolder(folder).samples("caption", "test")


def test_a_wrong_questions_file_is_told(folder):
    write(folder / "gqa_test.json", {})
    with pytest.raises(UsageError, match="has no questions"):
        DatasetFolder(folder).samples("gqa", "test")
    write(folder / "questions_test.json", {"questions": [{"question": "What?"}]})
    with pytest.raises(UsageError, match=r"questions_test.json, questions\[0\]: it has no 'question_id'"):
        DatasetFolder(folder).samples("vqa", "test")
