"""Values that no sample can be made of: each is named with its file and entry, or left out and counted."""

import json
import os

import pytest

from ressa.data import DatasetFolder, training_samples
from ressa.data.faults import Faults
from ressa.data.jsonfile import read_json
from ressa.errors import UsageError
from ressa.warned import RessaWarning
from tests.data.tiny_folders import image_name, tiny_dataset, write


@pytest.fixture
def folder(tmp_path):
    return tiny_dataset(tmp_path / "tiny")


def change(path, edit):
    content = json.loads(path.read_text())
    edit(content)
    write(path, content)


READ = {
    "captions": "caption",
    "questions": "vqa",
    "annotations": "vqa",
    "gqa": "gqa",
    "karpathy": "retrieval",
}
NO_TEXT = [None, 7.5, True, [], ["a"], {}, "", "  ", "\ud800", "a\0b", "x " * 20_000]
NO_ID = [None, [], {}, True, 1.5, "", "\ud800", 10**200]

PLACES = {
    ("captions", "annotations[1]"): [
        *(("caption", value) for value in [*NO_TEXT, 3]),
        *(("image_id", value) for value in NO_ID),
    ],
    ("captions", "images[1]"): [
        *(("id", value) for value in NO_ID),
        ("id", 0),  # twice
        *(("file_name", value) for value in [*NO_TEXT, 3, "../x.png", "/etc/passwd", "gone.png"]),
        ("objects", "cat"),
        ("objects", [["cat", 3]]),
    ],
    ("questions", "questions[1]"): [
        *(("question", value) for value in [*NO_TEXT, 3]),
        *(("question_id", value) for value in NO_ID),
        ("question_id", 100),
        *(("image_id", value) for value in [*NO_ID, 999]),
    ],
    ("annotations", "annotations[1]"): [
        *(
            ("answers", value)
            for value in [None, 3, [], {}, "yes", ["yes"], [{}], [{"answer": None}], [{"answer": ""}]]
        ),
        *(("multiple_choice_answer", value) for value in [7.5, ["a"], "\ud800", "x " * 20_000]),
        *(("question_type", value) for value in [3, {}, [3]]),
        *(("question_id", value) for value in [*NO_ID, 100]),
    ],
    ("karpathy", "images[1]"): [
        *(("filename", value) for value in [*NO_TEXT, "../x.png"]),
        *(("split", value) for value in NO_TEXT),
        *(("cocoid", value) for value in NO_ID),
        *(("sentences", value) for value in [None, 3, [], [3], [{}], [{"raw": None}], [{"raw": " "}]]),
        ("filepath", 3),
    ],
    ("gqa", "question[1]"): [
        *(("question", value) for value in NO_TEXT),
        *(("answer", value) for value in NO_TEXT),
        *(("imageId", value) for value in [*NO_ID, "999"]),
        *(("types", value) for value in [3, "a", [3]]),
    ],
}


def entry_of(content, where):
    name, _, key = where.rstrip("]").partition("[")
    return content["images" if name == "images" else name][int(key)] if name in content else content[key]


@pytest.mark.parametrize("kind", PLACES, ids=str)
def test_each_wrong_value_is_named_with_its_entry_or_left_out(folder, kind):
    """Every case of one list, in turn: pytest's own cost for each would be the larger part."""
    file, where = kind
    path = folder / ("karpathy.json" if file == "karpathy" else f"{file}_test.json")
    plain = path.read_text()
    for name, value in PLACES[kind]:
        content = json.loads(plain)
        entry_of(content, where)[name] = value
        write(path, content)
        with pytest.raises(UsageError) as error:
            DatasetFolder(folder).samples(READ[file], "test")
        said = str(error.value)
        assert str(path) in said, (name, value)
        assert where in said, (name, value, said)
        assert len(said) < 900, (name, value)
        said.encode()
        faults = Faults("skip")
        left = DatasetFolder(folder, faults=faults).samples(READ[file], "test")
        assert 2 <= len(left) <= 4
        with pytest.warns(RessaWarning, match="cannot be used, and are left out"):
            faults.settle()


@pytest.mark.parametrize("kind", PLACES, ids=str)
@pytest.mark.parametrize("value", [None, 3, [], "text"])
def test_an_entry_that_is_no_object_is_named(folder, kind, value):
    file, where = kind
    path = folder / ("karpathy.json" if file == "karpathy" else f"{file}_test.json")
    content = json.loads(path.read_text())
    name, _, key = where.rstrip("]").partition("[")
    if name in content:
        content[name][int(key)] = value
    else:
        content[key] = value
    write(path, content)
    with pytest.raises(UsageError, match="not an object with named fields"):
        DatasetFolder(folder).samples(READ[file], "test")


def test_many_are_one_table_and_the_rest_is_counted(folder):
    def spoil(content):
        content["annotations"] = [{"image_id": 0, "caption": 7.5 + number} for number in range(40)]

    change(folder / "captions_test.json", spoil)
    with pytest.raises(UsageError) as error:
        DatasetFolder(folder).samples("caption", "test")
    assert error.value.sentence.startswith("40 entries of ")
    rows = error.value.table.splitlines()
    assert len(rows) == 21
    assert rows[3].endswith("annotations[3]   the caption is the number 10.5, not text")
    assert rows[-1] == "… and 20 more"


def test_entries_with_one_problem_share_a_line(folder):
    (folder / "images" / "test" / image_name(1)).unlink()
    change(folder / "questions_test.json", lambda v: [q.update(image_id=1) for q in v["questions"]])
    change(folder / "annotations_test.json", lambda v: v["annotations"][0].update(answers=None))
    with pytest.raises(UsageError) as error:
        DatasetFolder(folder).samples("vqa", "test")
    assert error.value.sentence.startswith("4 entries of ")
    (row,) = error.value.table.splitlines()
    assert "questions[0] and 3 more" in row


def test_ids_compare_as_text_whatever_they_are_in_each_file(folder):
    change(
        folder / "questions_test.json",
        lambda v: [q.update(question_id=str(q["question_id"])) for q in v["questions"]],
    )
    change(folder / "annotations_test.json", lambda v: v["annotations"][0].update(question_id=100.0))
    change(folder / "questions_test.json", lambda v: v["questions"][0].update(image_id="0"))
    change(folder / "captions_test.json", lambda v: [i.update(id=str(i["id"])) for i in v["images"]])
    data = DatasetFolder(folder)
    assert [question.image.name for question in data.samples("vqa", "test")] == [
        image_name(n) for n in range(4)
    ]
    assert len(data.samples("caption", "test")) == 4


def test_numbers_as_answers_are_their_digits_and_silent_people_count(folder):
    def numbers(content):
        content["annotations"][0]["answers"] = [{"answer": 2}] * 8 + [{"answer": ""}] * 2
        content["annotations"][0]["multiple_choice_answer"] = 2
        content["annotations"][1]["answers"] = [{"answer": ""}] * 6 + [{"answer": "two"}] * 4
        del content["annotations"][1]["multiple_choice_answer"]
        content["annotations"][2]["question_type"] = ["what", "how many"]

    change(folder / "annotations_test.json", numbers)
    change(folder / "gqa_test.json", lambda v: v["0"].update(answer=3))
    found = DatasetFolder(folder).samples("vqa", "test")
    assert found[0].answers == ("2",) * 8 + ("",) * 2
    assert [question.target for question in found[:2]] == ["2", "two"]
    assert found[2].kinds == ("what", "how many")
    assert DatasetFolder(folder).samples("gqa", "test")[0].target == "3"


def test_what_is_left_out_though_nothing_is_wrong_is_counted(folder):
    change(folder / "annotations_test.json", lambda v: v["annotations"].pop())
    with pytest.warns(RessaWarning, match="questions without answers in .*: 1; left out"):
        assert len(DatasetFolder(folder).samples("vqa", "test")) == 3
    change(folder / "questions_test.json", lambda v: v["questions"].pop(0))
    with pytest.warns(RessaWarning, match="answers to no question of .*: 1; left out"):
        assert len(DatasetFolder(folder).samples("vqa", "test")) == 2
    change(
        folder / "captions_test.json",
        lambda v: v["annotations"].__setitem__(slice(0, 2), [{"image_id": 9, "caption": "a"}]),
    )
    with pytest.warns(RessaWarning) as said:
        assert len(DatasetFolder(folder).samples("caption", "test")) == 3
    texts = [str(each.message) for each in said]
    assert any("images without a caption: 1; left out" in text for text in texts)
    assert any("captions of images that it does not list: 1; left out" in text for text in texts)


def test_nothing_usable_is_an_error_on_skip_too(folder):
    change(folder / "captions_test.json", lambda v: [a.update(caption=None) for a in v["annotations"]])
    with pytest.raises(UsageError, match="no captions that can be used"):
        DatasetFolder(folder, faults=Faults("skip")).samples("caption", "test")


# -- drawing -----------------------------------------------------------------------------------------------


def test_a_bad_picture_stops_a_drawing_or_another_takes_its_place(tmp_path):
    folder = tiny_dataset(tmp_path / "tiny", "train")
    bad = folder / "images" / "train" / image_name(2)
    bad.write_bytes(bad.read_bytes()[:60])
    with pytest.raises(UsageError, match=r"000002\.png: cannot be read"):
        training_samples(folder, "train", 4)
    with pytest.warns(RessaWarning, match="1 entry of .* cannot be used"):
        found = training_samples(folder, "train", 4, on_bad="skip")
    assert len(found) == 4
    assert bad not in {sample.image for sample in found}


def test_fewer_samples_than_asked_for_is_said(folder):
    with pytest.warns(RessaWarning, match="9 samples were asked for; the split 'test' of .* has 8"):
        assert len(training_samples(folder, "test", 9)) == 8


def test_a_drawing_without_bad_samples_does_not_depend_on_what_is_done_with_them(folder):
    assert training_samples(folder, "test", 5, 3) == training_samples(folder, "test", 5, 3, on_bad="skip")


# -- files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "utf-8"])
def test_byte_order_marks_are_read(tmp_path, encoding):
    (tmp_path / "x.json").write_bytes(json.dumps({"a": "ü"}, ensure_ascii=False).encode(encoding))
    assert read_json(tmp_path / "x.json") == {"a": "ü"}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a":' * 200_000, "nested too deeply"),
        (b"1" * 10_000, "is not valid JSON"),
        (b"", "is not valid JSON"),
        (b"\xff\xfe\xff", "is not valid JSON"),
        (b'{"a": "' + b"x" * 50_000, "is not valid JSON"),
    ],
)
def test_a_bomb_is_one_short_sentence(tmp_path, content, sentence):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=sentence) as error:
        read_json(path)
    assert len(str(error.value)) < 400 + len(str(path))


def test_a_file_that_would_fill_the_memory_or_never_end_is_refused(tmp_path):
    with open(tmp_path / "large.json", "wb") as file:
        file.truncate(2**40)  # it has no blocks on the disk
    with pytest.raises(UsageError, match="at most"):
        read_json(tmp_path / "large.json")
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(UsageError, match="pipe"):
        read_json(tmp_path / "pipe.json")
    with pytest.raises(UsageError, match="cannot be read"):
        read_json(tmp_path / ("x" * 5000))
