"""Every dataset is read as its official archives unpack, nothing renamed."""

import json

import pytest

from ressa.data import DatasetFolder
from ressa.data.images import open_image
from ressa.data.sample import PICTURE
from ressa.errors import UsageError
from ressa.warned import RessaWarning
from tests.data import official
from tests.data.official import COLOURS, THINGS, captions_of, coco_name, picture, write


def found(folder, **options):
    """Task → splits, of all that is recognised."""
    data = DatasetFolder(folder, **options)
    return {task: data.splits(task) for task in data.tasks()}


def heights(samples):
    """The pictures' numbers, by their size."""
    return [open_image(sample.image).height - 20 for sample in samples]


@pytest.mark.parametrize("year", ["2014", "2017"])
def test_coco(tmp_path, year):
    folder = official.coco(tmp_path, {f"train{year}": range(4), f"val{year}": range(4, 6)})
    assert found(folder) == {"caption": ["train", "val"]}
    data = DatasetFolder(folder)
    samples = data.samples("caption", "val")
    assert [sample.captions for sample in samples] == [tuple(captions_of(n)) for n in (4, 5)]
    assert heights(samples) == [4, 5]
    assert {sample.split for sample in samples} == {"val"}
    assert data.samples("caption", f"val{year}") == samples
    assert len(data.samples("retrieval", "train")) == 4


def test_two_years_of_coco_in_one_folder_are_told_apart_by_the_datasets_own_names(tmp_path):
    official.coco(tmp_path, {"train2014": range(2), "val2014": range(2, 4)})
    official.coco(tmp_path, {"train2017": range(5)})
    data = DatasetFolder(tmp_path)
    assert len(data.samples("caption", "train2014")) == 2
    assert len(data.samples("caption", "train2017")) == 5


def test_of_two_years_that_one_counts_whose_pictures_are_there(tmp_path):
    import shutil

    official.coco(tmp_path, {"train2014": range(2), "train2017": range(5)})
    shutil.rmtree(tmp_path / "train2017")
    assert len(DatasetFolder(tmp_path).samples("caption", "train")) == 2


def test_pictures_may_lie_in_both_years_folders(tmp_path):
    official.coco(tmp_path, {"val2017": range(2), "train2014": range(2, 3), "val2014": range(3, 4)})
    official.aokvqa(tmp_path, {"val": range(4)})
    assert heights(DatasetFolder(tmp_path).samples("aokvqa", "val")) == [0, 1, 2, 3]


def test_annotations_without_their_pictures_are_told(tmp_path):
    import shutil

    official.coco(tmp_path, {"train2017": range(2), "val2017": range(2, 4)})
    shutil.rmtree(tmp_path / "train2017")
    shutil.rmtree(tmp_path / "val2017")
    with pytest.raises(
        UsageError, match=r"no pictures for captions_val2017\.json .*put the folder val2017 there"
    ):
        DatasetFolder(tmp_path).samples("caption", "val")


@pytest.mark.parametrize("pictures", ["val2014", "train2017"])
def test_vqa_and_okvqa_find_cocos_pictures_of_either_year(tmp_path, pictures):
    official.coco(tmp_path, {pictures: range(4)})
    official.vqa(tmp_path, {"val2014": range(4), "test2015": range(2)})
    official.vqa(tmp_path / "okvqa", {"val2014": range(2)}, "")
    data = DatasetFolder(tmp_path)
    assert (data.splits("vqa"), data.splits("okvqa")) == (["val"], ["val"])
    questions = data.samples("vqa", "val")
    assert heights(questions) == [0, 1, 2, 3]
    assert questions[1].answers == ("dog",) * 8 + ("thing",) * 2
    assert questions[1].kinds == ("what is in the",)
    assert [question.id for question in data.samples("okvqa", "val2014")] == ["0", "1000"]


def test_karpathys_splits_of_coco(tmp_path):
    splits = {
        "train": ("train2014", range(2)),
        "restval": ("val2014", range(2, 4)),
        "val": ("val2014", range(4, 5)),
    }
    official.karpathy_coco(tmp_path, {**splits, "test": ("val2014", range(5, 8))})
    data = DatasetFolder(tmp_path)
    assert found(tmp_path) == {"caption": ["test", "train", "val"]}
    assert heights(data.samples("caption", "train")) == [0, 1, 2, 3]
    assert heights(data.samples("retrieval", "test")) == [5, 6, 7]


def test_flickr30k(tmp_path):
    data = DatasetFolder(official.flickr30k(tmp_path / "karpathy"))
    assert (data.splits("flickr30k"), heights(data.samples("flickr30k", "test"))) == (
        ["test", "train", "val"],
        [3, 4, 5],
    )
    for number, folder in enumerate(
        (official.flickr30k(tmp_path / "token", False), official.kaggle_flickr30k(tmp_path / "csv"))
    ):
        assert found(folder) == {"flickr30k": ["all"]}
        samples = DatasetFolder(folder).samples("flickr30k", "all")
        assert len(samples) == (6, 3)[number]
        for place in (1, 2):
            assert samples[place].captions == tuple(f"{caption} ." for caption in captions_of(place))


def test_nocaps_says_each_pictures_domain(tmp_path):
    data = DatasetFolder(official.nocaps(tmp_path))
    samples = data.samples("nocaps", "val")
    assert [sample.kinds for sample in samples] == [
        ("in-domain",),
        ("near-domain",),
        ("out-domain",),
        ("near-domain",),
    ]
    assert heights(samples) == [0, 1, 2, 3]


@pytest.mark.parametrize("year", ["2017", "2014"])
def test_aokvqa(tmp_path, year):
    official.coco(tmp_path, {f"val{year}": range(4)})
    official.aokvqa(tmp_path / "aokvqa", {"train": range(2), "val": range(4), "test": range(1)})
    data = DatasetFolder(tmp_path)
    assert data.splits("aokvqa") == ["train", "val"]
    questions = data.samples("aokvqa", "val")
    assert heights(questions) == [0, 1, 2, 3]
    assert (questions[2].choices, questions[2].correct, questions[2].target) == (THINGS, 2, "bird")
    assert questions[2].answers == ("bird",) * 9 + ("thing",)
    assert questions[1].answers == ()  # a difficult direct answer: only its choices are scored


def test_gqa(tmp_path):
    data = DatasetFolder(official.gqa(tmp_path))
    assert data.splits("gqa") == ["testdev", "train", "val"]
    questions = data.samples("gqa", "testdev")
    assert [question.target for question in questions] == ["yes", "no", "no"]
    assert [question.image.name for question in questions] == ["2370799.jpg", "n161313.jpg", "2354786.jpg"]
    assert len(data.samples("gqa", "testdev_all")) == 2
    assert len(data.samples("gqa", "train_all")) == 2  # of two shards


def test_some_of_gqas_pictures_may_lie_elsewhere(tmp_path):
    official.gqa(tmp_path)
    (tmp_path / "gqa" / "images").mkdir(parents=True)
    (tmp_path / "images" / "n161313.jpg").rename(tmp_path / "gqa" / "images" / "n161313.jpg")
    questions = DatasetFolder(tmp_path).samples("gqa", "testdev")
    assert [question.image.name for question in questions] == ["2370799.jpg", "n161313.jpg", "2354786.jpg"]


def test_visual_genome(tmp_path):
    data = DatasetFolder(official.genome(tmp_path))
    questions = data.samples("vg", "train")
    assert [(question.target, question.answers) for question in questions] == [
        ("red", ("Red.",)),
        ("blue", ("Blue.",)),
    ]
    assert heights(questions) == [0, 1]
    assert data.samples("caption", "regions")[1].captions == tuple(captions_of(1))


def test_textvqa(tmp_path):
    data = DatasetFolder(official.textvqa(tmp_path))
    assert data.splits("textvqa") == ["train", "val"]
    question = data.samples("textvqa", "val")[0]
    assert (question.target, question.answers.count("sony"), question.image.stem) == (
        "nokia",
        3,
        "f441f29812b385ad",
    )
    assert question.id == "34602"


def test_vizwiz(tmp_path):
    data = DatasetFolder(official.vizwiz(tmp_path))
    assert data.splits("vizwiz") == ["train", "val"]
    questions = data.samples("vizwiz", "val")
    assert [question.answer_type for question in questions] == ["other", "other", "unanswerable"]
    assert [question.target for question in questions] == ["basil leaves", "basil leaves", "unanswerable"]
    assert questions[0].image == tmp_path / "val" / "VizWiz_val_00000000.jpg"


def test_scienceqa_reads_problems_with_a_picture(tmp_path):
    data = DatasetFolder(official.scienceqa(tmp_path))
    assert data.splits("scienceqa") == ["test", "train", "val"]
    with pytest.warns(RessaWarning, match="problems of train without a picture: 1; left out"):
        assert [question.id for question in data.samples("scienceqa", "train")] == ["1"]
    first, second = data.samples("scienceqa", "test")
    assert (first.choices, first.correct, first.target, first.context) == (
        ("a rock", "a cat"),
        1,
        "a cat",
        "Living things grow.",
    )
    assert second.kinds == ("natural science", "grades 7-12")
    assert heights([first, second]) == [4, 5]


def test_mmbench_holds_its_pictures_itself(tmp_path):
    data = DatasetFolder(official.mmbench(tmp_path))
    first, second = data.samples("mmbench", "val")
    assert (first.question, first.context, first.choices, first.correct) == (
        "Which colour\nis it?",
        "Look.",
        ("blue", "red"),
        1,
    )
    assert (second.image, second.correct) == (first.image, 0)
    assert open_image(first.image).size == (24, 20)
    assert first.kinds == ("finegrained_perception", "attribute_recognition")


def test_pope_has_three_kinds(tmp_path):
    official.coco(tmp_path, {"val2014": range(4)})
    data = DatasetFolder(official.pope(tmp_path, range(4)))
    questions = data.samples("pope", "test")
    assert len(questions) == 12
    assert {question.kinds for question in questions} == {("random",), ("popular",), ("adversarial",)}
    assert [question.target for question in questions[:4]] == ["no", "yes", "no", "yes"]
    assert heights(questions[:4]) == [0, 1, 2, 3]


@pytest.mark.parametrize("split", ["train", "val"])
def test_cc3m_pictures_are_found_by_the_addresses_checksum(tmp_path, split):
    data = DatasetFolder(official.cc3m(tmp_path))
    with pytest.warns(RessaWarning, match="rows whose picture was not fetched: 1; left out"):
        samples = data.samples("caption", split)
    assert heights(samples) == [0, 1, 3]
    assert samples[2].captions == (captions_of(3)[0],)


def test_img2datasets_files_are_captions_beside_pictures(tmp_path):
    samples = DatasetFolder(official.img2dataset(tmp_path)).samples("caption", "train")
    assert heights(samples) == [0, 1, 2, 3]
    assert [sample.captions for sample in samples] == [(captions_of(n)[0],) for n in range(4)]


def test_shards_are_read_where_they_lie(tmp_path):
    data = DatasetFolder(official.shards(tmp_path))
    samples = data.samples("caption", "train")
    assert heights(samples) == list(range(6))
    assert samples[4].captions == (captions_of(4)[0],)
    assert samples[4].image.read_bytes()[:2] == b"\xff\xd8"


def test_no_more_shards_are_read_than_a_drawing_takes(tmp_path):
    official.shards(tmp_path)
    assert len(DatasetFolder(tmp_path, enough=6).samples("caption", "train")) == 6
    first = [DatasetFolder(tmp_path, enough=1, seed=seed).samples("caption", "train") for seed in range(6)]
    assert {len(samples) for samples in first} == {3} or {len(samples) for samples in first} == {6}


def test_a_damaged_shard_is_told(tmp_path):
    official.shards(tmp_path)
    (tmp_path / "00001.tar").write_bytes((tmp_path / "00001.tar").read_bytes()[:1300])
    with pytest.raises(UsageError, match=r"00001\.tar"):
        DatasetFolder(tmp_path).samples("caption", "train")


def test_shards_may_hold_conversations(tmp_path):
    samples = DatasetFolder(official.shards(tmp_path, records=True)).samples("instruct", "train")
    assert len(samples) == 6
    assert samples[0].turns == ((f"{PICTURE}What is it?", "It is a cat."), ("And the colour?", "It is red."))
    assert heights(samples) == list(range(6))


def test_llava_instruct(tmp_path):
    data = DatasetFolder(official.llava(tmp_path))
    samples = data.samples("instruct", "train")
    assert heights(samples[:4]) == [0, 1, 2, 3]
    assert samples[0].earlier == ((f"{PICTURE}What is it?", "It is a cat."),)
    assert samples[1].turns[0][0] == f"What is it?{PICTURE}"
    assert (samples[1].prompt, samples[1].target) == ("And the colour?", "It is blue.")
    assert (samples[4].image, samples[4].images) == (None, ())
    assert data.samples("instruct", "llava_v1_5_mix665k") == samples


def test_files_of_conversations_are_read_together_and_each_once(tmp_path):
    official.llava(tmp_path)
    content = json.loads((tmp_path / "llava_v1_5_mix665k.json").read_text())
    write(tmp_path / "conversation_58k.json", content[:2])
    official.sharegpt4v(tmp_path)
    data = DatasetFolder(tmp_path)
    assert len(data.samples("instruct", "train")) == 7
    assert len(data.samples("instruct", "conversation_58k")) == 2


def test_sharegpt4v(tmp_path):
    samples = DatasetFolder(official.sharegpt4v(tmp_path)).samples("instruct", "train")
    assert [sample.target for sample in samples] == [captions_of(2)[0], captions_of(1)[0]]
    assert heights(samples) == [2, 1]


def test_chats_may_show_several_pictures(tmp_path):
    for number in range(2):
        picture(tmp_path / "images" / f"{number}.png", number)
    message = {
        "images": ["images/0.png", "images/1.png"],
        "messages": [
            {"role": "system", "content": "Be short."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "First "},
                    {"type": "image"},
                    {"type": "text", "text": " then "},
                    {"type": "image"},
                ],
            },
            {"role": "assistant", "content": [{"type": "text", "text": "Red, blue."}]},
        ],
    }
    write(tmp_path / "chats.jsonl", json.dumps(message) + "\n")
    (sample,) = DatasetFolder(tmp_path).samples("instruct", "train")
    assert [path.name for path in sample.images] == ["0.png", "1.png"]
    assert sample.turns == ((f"Be short.\nFirst {PICTURE} then {PICTURE}", "Red, blue."),)


@pytest.mark.parametrize(
    ("turns", "sentence"),
    [
        ([{"from": "gpt", "value": "a"}], "its first turn is an answer"),
        ([{"from": "bing", "value": "a"}, {"from": "gpt", "value": "a"}], "a turn is from 'bing'"),
        (
            [{"from": "human", "value": "<image><image>a"}, {"from": "gpt", "value": "a"}],
            "it shows 2 pictures and names 1",
        ),
        ([{"from": "human"}, {"from": "gpt", "value": "a"}], "a turn is null, not text"),
        (["a"], "not an object with named fields"),
        ("a", "the conversation is text, not a list"),
    ],
)
def test_a_conversation_that_cannot_be_read_is_named(tmp_path, turns, sentence):
    official.llava(tmp_path)
    path = tmp_path / "llava_v1_5_mix665k.json"
    content = json.loads(path.read_text())
    content[1]["conversations"] = turns
    write(path, content)
    with pytest.raises(UsageError) as error:
        DatasetFolder(tmp_path).samples("instruct", "train")
    assert sentence in str(error.value)
    assert "[1]" in str(error.value)


@pytest.mark.parametrize("table", ["jsonl", "csv"])
def test_imagefolder(tmp_path, table):
    data = DatasetFolder(official.imagefolder(tmp_path, table))
    assert data.splits("caption") == ["test", "train"]
    samples = data.samples("caption", "test")
    assert heights(samples) == [3, 4, 5]
    assert samples[0].captions == (captions_of(3)[0],)


def test_json_lines_of_questions(tmp_path):
    for number in range(2):
        picture(tmp_path / f"{number}.png", number)
    lines = [
        {"image": f"{n}.png", "question": "What colour?", "answer": COLOURS[n], "id": n} for n in range(2)
    ]
    write(tmp_path / "my_val.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    (first, second) = DatasetFolder(tmp_path).samples("qa", "val")
    assert (first.prompt, first.target, second.id) == ("Question: What colour? Short answer:", "red", "1")


def test_laviss_annotations_are_the_tasks_they_are_called_by(tmp_path):
    official.coco(tmp_path, {"val2014": range(3)})
    records = [{"image": f"val2014/{coco_name('val2014', n)}", "caption": captions_of(n)} for n in range(3)]
    write(tmp_path / "annotations" / "coco_karpathy_test.json", records)
    asked = [
        {
            "question_id": n,
            "question": "What?",
            "answer": ["cat"] * 10,
            "image": f"val2014/{coco_name('val2014', n)}",
        }
        for n in range(2)
    ]
    write(tmp_path / "annotations" / "okvqa_val.json", asked)
    data = DatasetFolder(tmp_path)
    assert heights(data.samples("caption", "test")) == [0, 1, 2]
    assert data.samples("okvqa", "val")[1].answers == ("cat",) * 10


def test_everything_may_lie_in_one_folder(tmp_path):
    official.coco(tmp_path / "coco", {"train2017": range(3), "val2017": range(3, 5), "val2014": range(5, 9)})
    official.vqa(tmp_path / "vqa", {"val2014": range(5, 9)})
    official.gqa(tmp_path / "gqa")
    official.textvqa(tmp_path / "textvqa")
    official.vizwiz(tmp_path / "vizwiz")
    official.scienceqa(tmp_path / "scienceqa")
    official.pope(tmp_path / "pope", range(5, 9))
    official.genome(tmp_path / "vg")
    official.flickr30k(tmp_path / "flickr30k")
    official.nocaps(tmp_path / "nocaps")
    data = DatasetFolder(tmp_path)
    assert data.tasks("val") == [
        "caption",
        "flickr30k",
        "nocaps",
        "vqa",
        "gqa",
        "textvqa",
        "vizwiz",
        "scienceqa",
    ]
    for part in data.parts:
        assert data.samples(part.task, part.own or part.split), part
    assert heights(data.samples("vqa", "val")) == [5, 6, 7, 8]
    assert heights(data.samples("caption", "val2017")) == [3, 4]


def test_a_folder_with_nothing_in_it_says_so(tmp_path):
    write(tmp_path / "notes.json", [{"a": 1}])
    with pytest.raises(UsageError, match="holds no dataset that is recognised"):
        DatasetFolder(tmp_path).samples("caption", "val")
    official.coco(tmp_path, {"val2017": range(2)})
    with pytest.raises(UsageError, match="has nothing for gqa: it has caption"):
        DatasetFolder(tmp_path).samples("gqa", "val")


def test_entries_of_another_split_than_their_files_are_named(tmp_path):
    official.coco(tmp_path, {"train2014": range(2), "val2014": range(2, 4), "val2017": range(2)})
    official.aokvqa(tmp_path, {"train": range(2), "val": range(2)})
    official.textvqa(tmp_path / "textvqa")
    official.vizwiz(tmp_path / "vizwiz")
    swaps = {
        "annotations/captions_{}2014.json": "caption",
        "aokvqa_v1p0_{}.json": "aokvqa",
        "textvqa/TextVQA_0.5.1_{}.json": "textvqa",
        "vizwiz/Annotations/{}.json": "vizwiz",
    }
    for name, task in swaps.items():
        train, val = (tmp_path / name.format(split) for split in ("train", "val"))
        val.write_bytes(train.read_bytes())
        with pytest.raises(UsageError, match="of the split train, and its file of val"):
            DatasetFolder(tmp_path).samples(task, "val2014" if task == "caption" else "val")
