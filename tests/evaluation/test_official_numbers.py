"""Every metric equals its official tool, answer by answer, on answers made to trip it.

`official.json` holds what the tools said (its `made` says how); `nasty.py` draws the answers anew from its seeds.
"""

import json
from pathlib import Path

import pytest
import torch
from evaluation import nasty

from ressa.data import Question
from ressa.evaluation.metrics import exact_match, vqa_accuracy
from ressa.evaluation.metrics.answerability import average_precision, f1_score
from ressa.evaluation.metrics.bleu import bleu
from ressa.evaluation.metrics.captions import score_captions
from ressa.evaluation.metrics.choices import chosen_letter
from ressa.evaluation.metrics.cider import cider_d
from ressa.evaluation.metrics.recall import owners, ranks, recall_at
from ressa.evaluation.metrics.tokens import missing_for_ptb
from ressa.evaluation.metrics.yes_no import says_yes, yes_no_scores
from ressa.evaluation.tasks import task_named

OFFICIAL = json.loads(Path(__file__).with_name("official.json").read_text())

needs_ptb = pytest.mark.skipif(missing_for_ptb() is not None, reason="needs Java and pycocoevalcap")


@pytest.mark.parametrize(
    ("tool", "metric"),
    [
        ("vqa", vqa_accuracy.vqa_accuracy),
        ("lavis", vqa_accuracy.lavis_vqa_accuracy),
        ("llava_vqa", vqa_accuracy.llava_vqa_accuracy),
        ("llava_vizwiz", vqa_accuracy.llava_vizwiz_accuracy),
        ("textvqa", vqa_accuracy.textvqa_accuracy),
        ("vizwiz", vqa_accuracy.vizwiz_accuracy),
        ("aokvqa", vqa_accuracy.direct_answer_accuracy),
        ("lavis_gqa", lambda said, given: exact_match.lavis_exact_match(said, given[0])),
    ],
)
def test_accuracy_of_every_answer(tool, metric):
    ours = [30 * metric(said, given) for said, given in nasty.answers()]
    assert ours == pytest.approx(OFFICIAL[tool], abs=1e-9)
    # The answers are of use only where the tools neither always nor never find them right, nor all agree.
    assert 0.05 < sum(OFFICIAL[tool]) / (30 * len(ours)) < 0.95
    assert all(OFFICIAL[tool] != OFFICIAL[other] for other in ("vqa", "textvqa", "aokvqa") if other != tool)


def test_gqas_own_tool_compares_strings():
    for said, given in nasty.answers():
        assert exact_match.exact_match(said, given[0]) == float(said == given[0])


def test_unanswerability():
    labels, confidence = nasty.answerable()
    lacking, unsure = [not label for label in labels], [1 - each for each in confidence]
    official = OFFICIAL["unanswerability"]
    assert 100 * average_precision(lacking, unsure) == pytest.approx(official["average_precision"])
    assert 100 * f1_score(lacking, [each > 0.5 for each in unsure]) == pytest.approx(official["f1_score"])


def test_yes_and_no():
    cases = nasty.yes_no_answers()
    for category, numbers in OFFICIAL["pope"].items():
        chosen = [(says_yes(text), right) for text, right, kind in cases if kind == category]
        ours = yes_no_scores(*zip(*chosen, strict=True))
        assert list(ours.values()) == pytest.approx([100 * number for number in numbers])


def test_the_option_that_an_answer_names():
    ours = [chosen_letter(text, len(options)) for text, options, _ in nasty.choice_answers()]
    assert [-1 if place is None else place for place in ours] == OFFICIAL["scienceqa"]
    assert {-1, 0, 1, 2, 3, 4} == set(OFFICIAL["scienceqa"])


def test_the_option_that_is_right_by_what_it_says():
    task = task_named("aokvqa-choice")
    ours = [
        task.is_right(chosen, Question(None, "", choices=tuple(options), correct=right))
        for chosen, options, right in nasty.chosen_options()
    ]
    assert ours == list(map(bool, OFFICIAL["aokvqa_choices"]))
    assert ours != [chosen == right for chosen, _, right in nasty.chosen_options()]


def test_recall_at_1_5_and_10_both_ways():
    scores = torch.from_numpy(nasty.pair_scores())
    images, captions = scores.shape
    own = owners(torch.arange(captions) // (captions // images), images)
    found = [recall_at(ranks(scores, own), k) for k in (1, 5, 10)]
    found += [recall_at(ranks(scores.T, own.T), k) for k in (1, 5, 10)]
    assert [100 * each for each in found] == pytest.approx(OFFICIAL["retrieval"])


def test_captions_in_tokens():
    said, truth = nasty.captions()
    official = OFFICIAL["captions"]["tokens"]
    assert cider_d(said, truth) == pytest.approx(official["cider"], rel=1e-8)
    for n, number in enumerate(official["bleu"], 1):
        assert bleu(said, truth, n) == pytest.approx(number, rel=1e-12)


@needs_ptb
def test_captions_as_people_write_them():
    official = OFFICIAL["captions"]["raw"]
    said, truth = nasty.raw_captions()
    found = score_captions(said, truth)
    assert found.metric == "CIDEr-D"
    assert sum(found.cider) / len(found.cider) == pytest.approx(official["cider"], rel=1e-8)
    assert found.more["BLEU-4"] == pytest.approx(100 * official["bleu"])
    first = score_captions(said[: nasty.METEOR], truth[: nasty.METEOR], ("meteor",))
    assert first.more == {"METEOR": pytest.approx(100 * official["meteor"])}
