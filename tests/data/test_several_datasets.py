"""Several datasets with one task in a folder: one is taken and that is said, lists of records are read together."""

import json
import warnings

import pytest

from ressa.data import DatasetFolder, training_samples
from ressa.errors import UsageError
from ressa.evaluation import draw
from ressa.warned import RessaWarning, recorded
from tests.data.official import cc3m, coco, picture
from tests.data.tiny_folders import tiny_dataset


@pytest.fixture
def both(tmp_path):
    coco(tmp_path, {"train2014": range(4)})
    cc3m(tmp_path)
    return tmp_path


def drawn(folder, split="auto", mixture="captions", count=2):
    return {str(sample.image) for sample in training_samples(folder, split, count, mixture=mixture)}


def test_of_two_datasets_the_one_that_is_taken_is_said_and_how_to_take_the_other(both):
    with pytest.warns(
        RessaWarning, match=r"2014 and CC3M: COCO captions 2014's is taken \(--split cc3m_train takes"
    ):
        assert all("train2014" in image for image in drawn(both))


@pytest.mark.parametrize("split", ["cc3m_train", "cc3m_train,auto", "nowhere, cc3m_train"])
def test_the_first_split_that_there_is_of_several_is_taken(both, split):
    with recorded() as said:
        assert all("training" in image for image in drawn(both, split))
    assert not any("is taken" in sentence for sentence in said)


def test_what_is_not_there_is_passed_by(tmp_path):
    folder = tiny_dataset(tmp_path / "tiny", "train", images=4)
    assert drawn(folder, "cc3m_train,auto") <= {str(path) for path in (folder / "images").rglob("*")}
    with pytest.raises(UsageError, match="cc3m_train"):
        drawn(folder, "cc3m_train,val2014")


def test_an_evaluation_says_it_too(tmp_path):
    coco(tmp_path, {"val2014": range(4), "val2017": range(10, 14)})
    with pytest.warns(
        RessaWarning, match=r"caption in the split 'val' of COCO captions 2014 and COCO captions 2017"
    ):
        draw(tmp_path, ("caption",), split="val")


def test_lists_of_records_in_one_folder_are_read_together(tmp_path):
    for name, numbers in (("a", range(4)), ("b", range(3, 8))):
        lines = []
        for number in numbers:
            picture(tmp_path / f"{number}.png", number)
            lines.append(json.dumps({"id": str(number), "image": f"{number}.png", "caption": f"no {number}"}))
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    data = DatasetFolder(tmp_path)
    assert len(data.samples("caption", "train")) == 8
    assert len(data.samples("caption", "b")) == 5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(drawn(tmp_path, count=8)) == 8


def test_a_task_of_a_mixture_that_is_not_there_is_said(both):
    with pytest.warns(RessaWarning, match="has no vqa and no gqa in the split .*: the mixture is the rest"):
        drawn(both, "train2014,auto", "caption,vqa,gqa")
