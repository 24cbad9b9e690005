"""Metrics against values worked out by hand and against the official formulas."""

import itertools
import math

import pytest
import torch

from ressa.errors import RunError, UsageError
from ressa.evaluation.metrics import tokens
from ressa.evaluation.metrics.captions import score_captions
from ressa.evaluation.metrics.exact_match import exact_match, llava_exact_match, normalised_match
from ressa.evaluation.metrics.normalising import CONTRACTIONS, normalise
from ressa.evaluation.metrics.object_recall import object_recall
from ressa.evaluation.metrics.recall import Rank, owners, ranks, recall_at
from ressa.evaluation.metrics.tokens import missing_for_ptb, ptb_tokenize, regex_tokenize
from ressa.evaluation.metrics.vqa_accuracy import vqa_accuracy

needs_java = pytest.mark.skipif(missing_for_ptb() is not None, reason="no Java or pycocoevalcap")

# -- VQA -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "normal"),
    [
        ("The Dog.", "dog"),
        ("a man, the dog", "man dog"),  # a mark beside a space goes away, everywhere
        ("left-handed", "left handed"),  # else it becomes a space
        ("1,000", "1000"),
        ("1,000-2", "10002"),  # a comma inside a number changes how every mark is treated
        ("3.5", "3.5"),
        ("3. ", "3"),
        ("two", "2"),
        ("None", "0"),
        ("dont", "don't"),
        ("couldnt've", "couldn't've"),
        ("Ten  birds\n", "10 birds"),
        ("what?", "what"),
        ("yes", "yes"),
    ],
)
def test_answers_are_normalised_as_the_official_code_does(answer, normal):
    assert normalise(answer) == normal


def test_contractions_are_mended_from_every_missing_apostrophe():
    assert {CONTRACTIONS[k] for k in ("yall'd've", "y'alld've", "y'all'dve")} == {"y'all'd've"}
    assert CONTRACTIONS["dont"] == "don't"
    assert "its" not in CONTRACTIONS
    assert "were" not in CONTRACTIONS


def by_definition(prediction, answers):
    """min(#matches / 3, 1) over each of the subsets of nine, averaged: the formula on visualqa.org."""
    subsets = itertools.combinations(answers, len(answers) - 1)
    return sum(min(subset.count(prediction) / 3, 1) for subset in subsets) / len(answers)


@pytest.mark.parametrize("matches", range(11))
def test_vqa_accuracy_is_the_mean_over_the_ten_subsets(matches):
    answers = ["cat"] * matches + ["dog"] * (10 - matches)
    assert vqa_accuracy("cat", answers) == pytest.approx(by_definition("cat", answers))


@pytest.mark.parametrize(("matches", "accuracy"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0)])
def test_vqa_accuracy_by_hand(matches, accuracy):
    answers = ["cat"] * matches + [f"other {n}" for n in range(10 - matches)]
    assert vqa_accuracy("cat", answers) == pytest.approx(accuracy)


def test_a_prediction_is_normalised_only_where_people_disagree():
    assert vqa_accuracy("the cat", ["cat"] * 9 + ["dog"]) == 1.0
    assert vqa_accuracy("the cat", ["cat"] * 10) == 0.0
    assert vqa_accuracy(" cat\n", ["cat"] * 10) == 1.0


def test_gqa_asks_for_the_very_answer_or_one_that_is_normalised():
    assert exact_match("dog", "dog") == 1.0
    assert exact_match("The dog.", "dog") == 0.0
    assert llava_exact_match("Dog.", "dog") == 1.0
    assert llava_exact_match("The dog.", "dog") == 0.0
    assert normalised_match("The dog.", "dog") == 1.0
    assert normalised_match("dogs", "dog") == 0.0


# -- captions ------------------------------------------------------------------------------------------------


def cider_d(predictions, references):
    """The mean × 100, and what the metric is called."""
    found = score_captions(predictions, references)
    return 100 * sum(found.cider) / len(found.cider), found.metric


@pytest.fixture(params=[pytest.param("java", marks=needs_java), "regex"])
def tokenizer(request, monkeypatch):
    if request.param == "regex":
        monkeypatch.setattr(tokens.shutil, "which", lambda name: None)
    return request.param


def test_identical_captions_reach_the_highest_score(tokenizer):
    captions = ["a dog runs on green grass", "two cats sleep on a mat", "one red bus waits"]
    score, metric = cider_d(captions, [[caption] for caption in captions])
    assert score == pytest.approx(1000)
    assert metric == ("CIDEr-D" if tokenizer == "java" else "CIDEr-D (regex tokenizer)")


def test_case_and_punctuation_do_not_matter(tokenizer):
    references = [["a dog on grass"], ["two cats on a mat"]]
    assert cider_d(["A dog, on grass.", "two cats on a mat!"], references)[0] == pytest.approx(1000)


def test_captions_without_a_shared_word_score_nothing(tokenizer):
    assert cider_d(["blue sky", ""], [["a dog"], ["two cats"]])[0] == 0


def test_cider_d_by_hand():
    """One-word captions: only 1-grams count, so the n-gram mean is a quarter of 10·cosine, the length equal.

    Image 1 says its word (cosine 1); image 2 says a word of no image (0).
    """
    score, _ = cider_d(["dog", "sky"], [["dog"], ["cat"]])
    assert score == pytest.approx(100 * (10 / 4 + 0) / 2)


def test_the_length_penalty_is_the_papers_gaussian():
    """Saying the reference three times: the clipped cosine of 1-grams, times exp(−Δ²/2σ²) with σ = 6."""
    once = cider_d(["dog", "sky"], [["dog"], ["cat"]])[0]
    longer = cider_d(["dog dog dog", "sky"], [["dog"], ["cat"]])[0]
    # tf 3 is clipped to 1, and the caption's norm is 3 times as long; COCO's scorer takes Δ in 2-grams.
    assert longer == pytest.approx(once * (1 / 3) * math.exp(-(2**2) / (2 * 6**2)))


def test_the_regex_tokenizer_agrees_with_java_on_plain_captions():
    captions = [
        "A man isn't riding a red bike, is he?",
        "two dogs; one cat's tail",
        "t-shirt and 3.5 apples",
        "",
    ]
    words = ["a man is n't riding a red bike is he", "two dogs one cat 's tail", "t-shirt and 3.5 apples", ""]
    assert regex_tokenize(captions) == words
    if missing_for_ptb() is None:
        assert ptb_tokenize(captions) == words


@needs_java
def test_ptb_tokens_are_those_of_cocos_wrapper():
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    captions = ['He said "no" (twice) -- didn\'t he?', "", "1,000 $5 dogs' bowls ..."]
    official = PTBTokenizer().tokenize({0: [{"caption": caption} for caption in captions]})[0]
    assert ptb_tokenize(captions) == official


@needs_java
def test_line_breaks_inside_a_caption_do_not_shift_the_others():
    assert ptb_tokenize(["a\ndog\u2028runs", "cat"]) == ["a dog runs", "cat"]


def test_a_java_that_fails_is_a_run_error(monkeypatch, tmp_path):
    (tmp_path / "java").write_text("#!/bin/sh\necho broken >&2\nexit 3\n")
    (tmp_path / "java").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(RunError, match="broken"):
        ptb_tokenize(["a dog"])


def test_one_image_is_too_few_for_cider():
    with pytest.raises(UsageError, match="at least two images"):
        cider_d(["a"], [["a"]])


def test_object_recall_counts_any_form_of_a_name():
    captions = ["two dogs and a cat", "a police car", "nothing"]
    objects = [[("dog", "dogs"), ("cat",)], [("car", "cars"), ("police car",)], [("tree",)]]
    assert object_recall(captions, objects) == pytest.approx(3 / 5)  # "police car" does not name a car
    assert object_recall(["a dog"], [[]]) == 0


# -- retrieval -----------------------------------------------------------------------------------------------


def recall(scores, image_of, k=1):
    own = owners(image_of, len(scores))
    return recall_at(ranks(scores, own), k), recall_at(ranks(scores.T, own.T), k)


def test_recall_at_one_by_hand():
    # Two captions of image 0, one of image 1. Image 0's best is its second, image 1's best is image 0's.
    scores = torch.tensor([[0.1, 0.9, 0.3], [0.8, 0.2, 0.4]])
    text, image = recall(scores, torch.tensor([0, 0, 1]))
    assert text == pytest.approx(1 / 2)
    assert image == pytest.approx(2 / 3)
    assert recall(scores, torch.tensor([0, 0, 1]), 2) == (1.0, 1.0)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_a_constant_score_is_worth_a_guess(k):
    text, image = recall(torch.zeros(4, 8), torch.arange(4).repeat_interleave(2), k)
    assert image == pytest.approx(k / 4)
    assert text == pytest.approx(1 - math.comb(6, k) / math.comb(8, k))


def test_equals_are_taken_in_any_order():
    """By trying every order of four equal candidates, two of them right, behind one that is better."""
    for k in range(7):
        orders = [
            any(right for right in order[: max(0, k - 1)])
            for order in itertools.permutations([True, True, False, False])
        ]
        assert Rank(better=1, equal=4, right=2).within(k) == pytest.approx(sum(orders) / len(orders))


def test_a_pair_that_is_no_candidate_is_behind_all_that_are():
    scores = torch.tensor([[-torch.inf, 1.0, -torch.inf]])
    assert ranks(scores, torch.tensor([[True, False, False]])) == [Rank(better=1, equal=2, right=1)]
