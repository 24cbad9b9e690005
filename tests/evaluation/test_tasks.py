"""Each task from the official files to its score: what is asked, how it is answered, what counts as right."""

from types import SimpleNamespace

import pytest
import torch

from ressa.data import Batcher, Question
from ressa.errors import UsageError
from ressa.evaluation import draw, evaluate, rate, settings_of
from ressa.evaluation.likelihood import log_likelihoods
from ressa.evaluation.tasks import TASKS_BY_NAME
from ressa.task_names import EVERY_TASK, METRICS, PROTOCOLS
from tests.data import official
from tests.data.vlms import VLMS


@pytest.fixture(scope="module", params=VLMS)
def vlm(request):
    model, processor = VLMS[request.param]()
    return SimpleNamespace(model=model, processor=processor)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Task → a folder of its official files."""
    root = tmp_path_factory.mktemp("official")
    numbers = range(4)
    found = {name: root / name for name in ("textvqa", "vizwiz", "scienceqa", "mmbench", "nocaps", "aokvqa")}
    for name, folder in found.items():
        if name == "aokvqa":
            official.coco(folder, {"val2017": numbers})
            official.aokvqa(folder, {"val": numbers})
        else:
            getattr(official, name)(folder)
    found["pope"] = official.pope(official.coco(root / "pope", {"val2014": numbers}), numbers)
    found["flickr30k"] = official.flickr30k(root / "flickr30k")
    return {**found, "aokvqa-choice": found["aokvqa"]}


SPLITS = {"scienceqa": "test", "pope": "test", "flickr30k": "test"}  # the others have val only


def drawn(folders, task, **own):
    return draw(folders[task], (task,), split=SPLITS.get(task, "val"), **own)


def test_every_name_is_a_task_and_has_settings_in_every_protocol():
    assert tuple(TASKS_BY_NAME) == EVERY_TASK
    for protocol in PROTOCOLS:
        for task in EVERY_TASK:
            settings = settings_of(task, protocol)
            assert settings.metric in METRICS
            assert settings.prompt.count("{}") == (
                task not in ("caption", "retrieval", "nocaps", "flickr30k")
            )
    with pytest.raises(UsageError, match="no protocol 'blip'"):
        settings_of("vqa", "blip")


@pytest.mark.parametrize(
    ("task", "protocol", "asked"),
    [
        ("textvqa", "ressa", "Question: what is the brand? Short answer:"),
        ("textvqa", "llava", "what is the brand?\nAnswer the question using a single word or phrase."),
        (
            "vizwiz",
            "llava",
            "What is this?\nWhen the provided information is insufficient, respond with 'Unanswerable'.\n"
            "Answer the question using a single word or phrase.",
        ),
        (
            "scienceqa",
            "instructblip",
            "Context: Living things grow. Question: Which of these is alive? Options: (a) a rock (b) a cat. Answer:",
        ),
        (
            "scienceqa",
            "llava",
            "Living things grow.\nWhich of these is alive?\nA. a rock\nB. a cat\n"
            "Answer with the option's letter from the given choices directly.",
        ),
        ("vizwiz", "instructblip", "Question: what is this? Short answer:"),
        ("nocaps", "instructblip", "A short image caption."),
    ],
)
def test_what_is_asked(folders, task, protocol, asked):
    assert drawn(folders, task, protocol=protocol).samples[task][0].prompt == asked


RIGHT = {
    "textvqa": lambda sample: sample.answers[0].upper() + "?",
    "vizwiz": lambda sample: "Unanswerable." if sample.answer_type == "unanswerable" else "The basil leaves",
    "aokvqa": lambda sample: sample.answers[0],
    "pope": lambda sample: {"yes": "Yes, there is.", "no": "There is not."}[sample.answers[0]],
    "scienceqa": lambda sample: [float(place == sample.correct) for place in range(len(sample.choices))],
    "aokvqa-choice": lambda sample: [float(place == sample.correct) for place in range(len(sample.choices))],
    "mmbench": lambda sample: "ABCD"[sample.correct],
    "nocaps": lambda sample: sample.captions[0],
    "flickr30k": lambda sample: sample.captions[0],
}


@pytest.mark.parametrize("task", RIGHT)
def test_right_answers_score_fully_and_wrong_ones_nothing(folders, task):
    found = drawn(folders, task)
    samples = found.samples[task]
    right = rate(found, {task: [RIGHT[task](sample) for sample in samples]})["tasks"][task]
    wrong = {str: "something", list: [1.0, 1.0]}[type(RIGHT[task](samples[0]))]
    if task == "pope":
        wrong = "maybe"
    nothing = rate(found, {task: [wrong for _ in samples]})["tasks"][task]
    assert right["n"] == len(samples)
    if task in ("nocaps", "flickr30k"):
        assert right["score"] > 400
        assert nothing["score"] == 0
    elif task == "pope":
        assert right["score"] == right["f1"] == 100
        assert (nothing["score"], nothing["recall"], nothing["yes_ratio"]) == (50, 100, 100)
        assert set(right["kinds"]) == {"adversarial", "popular", "random"}
        assert right["kinds"]["random"]["f1"] == 100
    elif task == "aokvqa-choice":
        assert right["score"] == 100
        assert nothing["score"] == 25  # the first of equals
    else:
        assert right["score"] == 100
        assert nothing["score"] == 0


def test_what_each_task_asks_about(folders):
    """A-OKVQA's difficult questions count for choices only; of MMBench's rotations one is asked."""
    assert len(drawn(folders, "aokvqa").samples["aokvqa"]) == 3
    assert len(drawn(folders, "aokvqa-choice").samples["aokvqa-choice"]) == 4
    assert [sample.id for sample in drawn(folders, "mmbench").samples["mmbench"]] == ["241"]
    assert len(drawn(folders, "scienceqa").samples["scienceqa"]) == 2


def test_vizwiz_tells_what_a_model_knows_to_be_unanswerable(folders):
    found = drawn(folders, "vizwiz")
    said = ["unanswerable", "basil", "Unanswerable"]
    result = rate(found, {"vizwiz": said})["tasks"]["vizwiz"]
    assert result["unanswerable"] == {
        "f1": pytest.approx(100 * 2 / 3),
        "average_precision": pytest.approx(50),
        "n": 1,
    }
    assert result["answer_types"]["unanswerable"] == {"score": 100, "n": 1}


def test_nocaps_is_scored_by_domain_too(folders):
    found = drawn(folders, "nocaps")
    result = rate(found, {"nocaps": ["a red cat", "a blue dog", "a sky", "a white car"]})["tasks"]["nocaps"]
    kinds = result["kinds"]
    assert {kind: each["n"] for kind, each in kinds.items()} == {
        "in-domain": 1,
        "near-domain": 2,
        "out-domain": 1,
    }
    assert result["score"] == pytest.approx(sum(each["score"] * each["n"] for each in kinds.values()) / 4)


@pytest.mark.parametrize(
    ("metric", "score"), [("official", 0), ("lavis", 100), ("llava", 0), ("normalised", 100)]
)
def test_a_metric_has_forms_that_are_named(tmp_path, metric, score):
    found = SimpleNamespace(
        samples={"gqa": [Question(None, "", answers=("dog",))]},
        settings={"gqa": settings_of("gqa", metric=metric)},
    )
    result = rate(found, {"gqa": ["the Dog."]})["tasks"]["gqa"]
    assert result["score"] == score
    assert result.get("metric") == {"lavis": "LAVIS", "llava": "LLaVA"}.get(
        metric, metric if metric == "normalised" else None
    )


@pytest.mark.parametrize("choose", ["text", "letter"])
def test_options_are_scored_by_their_likelihood(vlm, folders, choose):
    """As the definition gives it, one option at a time."""
    found = drawn(folders, "aokvqa-choice", choose=choose)
    samples = found.samples["aokvqa-choice"]
    result = evaluate(vlm, folders["aokvqa"], ("aokvqa-choice",), split="val", batch_size=3, choose=choose)
    batcher = Batcher(vlm.processor, vlm.model.config)
    options = official.THINGS if choose == "text" else "abcd"
    right = 0
    for sample in samples:
        with torch.inference_mode():
            scores = [
                log_likelihoods(vlm.model, batcher, [Question(sample.image, sample.prompt, option)])[0].item()
                for option in options
            ]
        right += scores.index(max(scores)) == sample.correct
    assert result["tasks"]["aokvqa-choice"]["score"] == 100 * right / 4


def test_circular_evaluation_asks_every_rotation_and_counts_what_is_right_in_all(folders):
    found = drawn(folders, "aokvqa-choice", circular=True)
    samples = found.samples["aokvqa-choice"]
    assert len(samples) == 16
    assert [sample.choices[sample.correct] for sample in samples[4:8]] == ["dog"] * 4
    assert [sample.choices[0] for sample in samples[:4]] == list(official.THINGS)
    assert "(a) dog (b) bird (c) car (d) cat" in samples[1].prompt
    first = [[1.0, 0.0, 0.0, 0.0]] * 16  # always the first option: right once in four rotations
    assert rate(found, {"aokvqa-choice": first})["tasks"]["aokvqa-choice"]["score"] == 0
    knows = [[float(place == sample.correct) for place in range(4)] for sample in samples]
    assert rate(found, {"aokvqa-choice": knows})["tasks"]["aokvqa-choice"] == {
        "score": 100,
        "n": 4,
        "metric": "circular",
        "kinds": {},
    }
    knows[5] = [0.0, 0.0, 0.0, 1.0]
    assert rate(found, {"aokvqa-choice": knows})["tasks"]["aokvqa-choice"]["score"] == 75


def test_letters_are_read_from_generated_answers(folders):
    found = drawn(folders, "scienceqa", protocol="llava")
    result = rate(found, {"scienceqa": ["B", "I cannot say."]})["tasks"]["scienceqa"]
    assert (result["score"], result["unreadable"]) == (50, 1)


def test_a_tiny_model_takes_every_task(vlm, folders):
    for task in RIGHT:
        result = evaluate(vlm, folders[task], (task,), split=SPLITS.get(task, "val"), beams=1)
        assert result["tasks"][task]["n"] >= 1
        assert result["asked"][task]["metric"] == "official"
