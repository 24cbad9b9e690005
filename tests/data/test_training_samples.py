"""Which samples calibration and repair are given."""

from collections import Counter

import pytest

from ressa.data import training_samples
from ressa.embedded.dataset import write_dataset
from ressa.errors import UsageError
from tests.data.tiny_folders import tiny_dataset


@pytest.fixture
def folder(tmp_path):
    return tiny_dataset(tmp_path / "tiny", "calibration")


def test_captions_use_every_image_before_any_second_caption(folder):
    samples = training_samples(folder, "calibration", 4)
    assert len({sample.image for sample in samples}) == 4
    assert all(sample.prompt == "A short description:" and sample.target for sample in samples)
    more = training_samples(folder, "calibration", 6)
    assert Counter(Counter(sample.image for sample in more).values()) == {2: 2, 1: 2}


def test_a_split_gives_no_more_than_it_has(folder):
    samples = training_samples(folder, "calibration", 100)
    assert len({(sample.image, sample.target) for sample in samples}) == len(samples) == 8


def test_the_seed_decides(folder):
    one, same, other = (training_samples(folder, "calibration", 3, seed, "mix") for seed in (1, 1, 2))
    assert one == same
    assert one != other


def test_questions_learn_their_most_common_answer(folder):
    samples = training_samples(folder, "calibration", 12, mixture="qa")
    assert len(samples) == 12  # four of each of three sets
    asked = [sample for sample in samples if "What is" in sample.prompt]
    assert {sample.target for sample in asked} == {"cat", "dog", "bird", "car"}


def test_a_mix_is_half_and_half(folder):
    samples = training_samples(folder, "calibration", 8, mixture="mix")
    assert Counter(sample.prompt == "A short description:" for sample in samples) == {True: 4, False: 4}


@pytest.mark.parametrize(("mixture", "captions"), [("mix", 90), ("qa", 0)])
def test_each_set_of_questions_has_its_share(tmp_path, mixture, captions):
    """Of every set there is more than is asked for, and of each another number."""
    write_dataset(tmp_path, 3, {"train": 80})
    tasks = ("caption", "vqa", "okvqa", "gqa")
    prompts = {
        task: {each.prompt for each in training_samples(tmp_path, "train", 10**4, 0, [task])}
        for task in tasks
    }
    samples = training_samples(tmp_path, "train", 180, mixture=mixture)
    found = Counter(task for each in samples for task in tasks if each.prompt in prompts[task])
    share = (180 - captions) // 3
    assert found == Counter(caption=captions, vqa=share, okvqa=share, gqa=share)


def test_named_tasks_share_equally_and_absent_ones_are_passed_over(folder):
    (folder / "gqa_calibration.json").unlink()
    samples = training_samples(folder, "calibration", 6, mixture=("caption", "vqa", "gqa"))
    assert Counter(sample.prompt == "A short description:" for sample in samples) == {True: 3, False: 3}


def test_what_cannot_be_drawn_is_said_in_a_sentence(folder, tmp_path):
    with pytest.raises(UsageError, match="ask for at least one"):
        training_samples(folder, "calibration", 0)
    with pytest.raises(UsageError, match="mixture 'captoins' is unknown"):
        training_samples(folder, "calibration", 1, mixture="captoins")
    with pytest.raises(UsageError, match=r"has no caption, .* in the split 'train'.*there is calibration"):
        training_samples(folder, "train", 1)
    with pytest.raises(UsageError, match=r"has no vqa, okvqa, .* in the split 'train'"):
        training_samples(folder, "train", 1, mixture="qa")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="empty holds no dataset"):
        training_samples(tmp_path / "empty", "calibration", 1)
    (folder / "images" / "calibration" / "COCO_test_000000000001.png").unlink()
    with pytest.raises(UsageError, match=r"000001\.png does not exist"):
        training_samples(folder, "calibration", 1)
