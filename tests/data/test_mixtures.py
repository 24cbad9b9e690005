"""Samples of several folders and tasks by their weights."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ressa.commands.inputs import draw_samples, shares, whence
from ressa.data import training_samples
from ressa.data.training import _in_shares
from ressa.errors import UsageError
from ressa.recipe import PruneRecipe, RepairRecipe, make_recipe
from ressa.recipe.sources import Source, sources_in
from tests.data import official

PRUNE = {"command": "prune", "model": "embedded", "output": "runs/out"}


@pytest.fixture
def folders(tmp_path):
    official.coco(tmp_path / "coco", {"train2017": range(40), "val2017": range(40, 50)})
    official.vqa(tmp_path / "coco", {"train2014": range(40)})
    official.llava(tmp_path / "llava")
    return tmp_path


# -- what a person writes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("./coco", "coco"),
        ("embedded", "embedded"),
        ("hub:owner/name", "hub:owner/name"),
        ("C:/data/coco", "C:/data/coco"),
        ("./coco:2,./llava:1", (Source(data="coco", weight=2), Source(data="llava"))),
        ("./coco, embedded:0.5", (Source(data="coco"), Source(data="embedded", weight=0.5))),
        ("./coco:3", (Source(data="coco", weight=3),)),
        ("hub:owner/name:2,a:b:1", (Source(data="hub:owner/name", weight=2), Source(data="a:b"))),
        (
            [{"data": "a,b:2", "weight": 2, "mixture": "captions", "split": "val2014"}, "./c:3"],
            (
                Source(data="a,b:2", weight=2, mixture="captions", split="val2014"),
                Source(data="c", weight=3),
            ),
        ),
    ],
)
def test_sources_are_read_as_they_are_written(written, meant):
    assert sources_in(written) == meant
    assert PruneRecipe.model_validate(PRUNE | {"calibration": written}).calibration == meant


def test_a_folder_that_is_there_is_one_folder_whatever_its_name_holds(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my,data:2").mkdir()
    assert sources_in("my,data:2") == "my,data:2"
    assert sources_in(["my,data:2"]) == (Source(data="my,data:2"),)


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ([], "[Nn]o dataset folder is named"),
        ([{"weight": 2}], "is no source of samples"),
        ([{"data": "a", "colour": "red"}], "is no source of samples"),
        ([{"data": "a", "weight": 0}], "write a number above 0"),
        ([{"data": "a", "weight": "much"}], "is no weight"),
        ([{"data": "a", "weight": float("nan")}], "write a number above 0"),
        ([{"data": "a", "split": "../b"}], "is no name of a split"),
        ([7], "is no source of samples"),
        ("a:0,b", "write a number above 0"),
        ("a,,b", "[Aa] path cannot be empty"),
    ],
)
def test_what_is_no_source_is_said_in_a_sentence(written, sentence):
    for command, key in (("prune", "calibration"), ("repair", "data")):
        with pytest.raises(UsageError, match=sentence):
            make_recipe(PRUNE | {"command": command, key: written})


def test_a_recipe_with_sources_is_the_same_after_writing_it():
    recipe = PruneRecipe.model_validate(PRUNE | {"calibration": "./coco:2,./llava"})
    assert PruneRecipe.model_validate(recipe.model_dump(mode="json")) == recipe
    assert isinstance(RepairRecipe.model_validate(PRUNE | {"command": "repair"}).data, str)


# -- what is drawn -----------------------------------------------------------------------------------------


def test_each_folder_gives_its_share(folders):
    sources = sources_in(
        [
            {"data": str(folders / "coco"), "weight": 3, "mixture": "captions"},
            {"data": str(folders / "llava"), "weight": 1, "mixture": "instruct"},
        ]
    )
    samples = draw_samples(sources, "auto", 16, "mix", 0)
    assert Counter(bool(sample.earlier) for sample in samples) == {False: 12, True: 4}
    assert samples == draw_samples(sources, "auto", 16, "mix", 0)
    assert samples != draw_samples(sources, "auto", 16, "mix", 1)
    about = whence(sources, "mix", 16, samples)
    assert (about["samples"], about["split"], about["mixture"]) == (16, "train", "mix")
    assert [source["samples"] for source in about["sources"]] == [12, 4]


def test_tasks_may_be_weighted_within_a_folder(folders):
    samples = training_samples(folders / "coco", "train", 30, mixture="caption:2,vqa")
    assert Counter(sample.prompt.startswith("Question") for sample in samples) == {False: 20, True: 10}
    with pytest.raises(UsageError, match="has a weight that is no number above 0"):
        training_samples(folders / "coco", "train", 4, mixture="caption:none,vqa")


def test_the_papers_mixture_is_captions_alone(folders):
    samples = draw_samples(str(folders / "coco"), "auto", 40, "captions", 0)
    assert {sample.prompt for sample in samples} == {"A short description:"}
    assert len({sample.image for sample in samples}) == 40


def test_a_folder_that_is_missing_is_named_before_any_is_read(folders):
    with pytest.raises(UsageError, match="There is no dataset folder nowhere"):
        draw_samples((Source(data=str(folders / "coco")), Source(data="nowhere")), "auto", 4, "mix", 0)


@given(st.integers(1, 10_000), st.lists(st.floats(0.001, 1000), min_size=1, max_size=6))
def test_shares_come_to_the_whole_and_are_off_by_less_than_one(count, weights):
    parts = shares(count, weights)
    assert sum(parts) == count
    assert all(
        abs(part - count * weight / sum(weights)) < 1 for part, weight in zip(parts, weights, strict=True)
    )


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_any_part_from_the_front_has_the_shares(weights):
    """By the definition: after n of a pool with weight w, w/Σ of all that came, give or take one."""
    pools = [(float(weight), [place] * 200) for place, weight in enumerate(weights)]
    drawn = list(_in_shares(pools))  # type: ignore[arg-type]
    assert Counter(drawn) == Counter(place for place, _ in enumerate(weights) for _ in range(200))
    for count in (1, 7, 30, 100):
        for place, weight in enumerate(weights):
            assert abs(drawn[:count].count(place) - count * weight / sum(weights)) <= len(weights)
