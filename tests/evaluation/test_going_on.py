"""An evaluation that was cut short goes on where it was; a model that computes no numbers is not scored."""

import copy
import json
from types import SimpleNamespace

import pytest
import torch

from ressa.data import Batcher
from ressa.errors import RunError, UsageError
from ressa.evaluation import Decoding, Kept, draw, evaluate, fitted, generation, kept, score
from ressa.warned import RessaWarning, recorded
from tests.data.tiny_folders import image_name, tiny_dataset
from tests.data.vlms import VLMS
from tests.evaluation.test_retrieval import blip_itm, retrieve


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_dataset(tmp_path_factory.mktemp("data") / "tiny", images=6)


@pytest.fixture(scope="module", params=VLMS)
def vlm(request):
    model, processor = VLMS[request.param]()
    return SimpleNamespace(model=model, processor=processor)


class Killed(Exception):
    pass


def killed_at(monkeypatch, model, call):
    """The model's `generate` fails at its nth call, as a kill would end it."""
    plain, calls = model.generate, []

    def generate(**inputs):
        calls.append(inputs)
        if len(calls) == call:
            raise Killed
        return plain(**inputs)

    monkeypatch.setattr(model, "generate", generate)
    return calls


def scores(result):
    return {key: value for key, value in result.items() if key != "seconds"}


@pytest.mark.parametrize("call", [1, 2, 4, 6])
def test_a_killed_evaluation_asks_only_what_is_left_and_ends_the_same(
    vlm, folder, tmp_path, monkeypatch, capsys, call
):
    drawn = draw(folder, ("vqa", "caption"))
    whole = score(vlm, drawn, batch_size=2)
    path = tmp_path / "answers.jsonl"
    with monkeypatch.context() as patch:
        killed_at(patch, vlm.model, call)
        with pytest.raises(Killed):
            score(vlm, drawn, batch_size=2, kept=Kept(path))
    capsys.readouterr()
    with monkeypatch.context() as patch:
        calls = killed_at(patch, vlm.model, 0)
        again = score(vlm, drawn, batch_size=2, kept=Kept(path))
    assert len(calls) == 6 - (call - 1)
    assert scores(again) == scores(whole)
    said = " ".join(capsys.readouterr().err.split())
    assert (f"it left {2 * (call - 1)} answers" in said) == (call > 1)


@pytest.mark.parametrize("build", [*VLMS.values(), blip_itm], ids=[*VLMS, "ITM head"])
def test_rows_of_retrieval_are_kept_too(build, folder, tmp_path):
    model, processor = build()
    images = draw(folder, ("retrieval",)).samples["retrieval"]
    whole = retrieve(model, processor, images)
    kept = Kept(tmp_path / "answers.jsonl")
    retrieve(model, processor, images, kept)
    lines = (tmp_path / "answers.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "answers.jsonl").write_text("".join(lines[:4]))
    kept = Kept(tmp_path / "answers.jsonl")
    assert sorted(kept.of("retrieval").done) == [0, 1, 2, 3]
    assert retrieve(model, processor, images, kept) == whole


@pytest.mark.parametrize(
    "damage", [b'["vqa", {"2": "a', b'["vqa", {"2": "a"}]', b"\xff\xfe\n", b"[]\n", b'["vqa", 3]\n']
)
def test_a_line_that_was_cut_short_is_cut_off(tmp_path, damage):
    path = tmp_path / "answers.jsonl"
    Kept(path).of("vqa").keep({0: "yes", 1: "no"})
    whole = path.read_bytes()
    path.write_bytes(whole + damage)
    kept = Kept(path)
    assert kept.of("vqa").done == {0: "yes", 1: "no"}
    assert path.read_bytes() == whole
    kept.of("vqa").keep({2: "ü"})
    assert Kept(path).of("vqa").done == {0: "yes", 1: "no", 2: "ü"}


def test_each_process_keeps_its_own_answers_and_reads_them_all(tmp_path, monkeypatch):
    path = tmp_path / "answers.jsonl"
    for rank in range(3):
        monkeypatch.setattr(kept, "place", lambda rank=rank: (rank, 3))
        answers = Kept(path).of("vqa")
        assert answers.share([[0, 1], [2, 3], [4], [5]]) == [[[0, 1], [5]], [[2, 3]], [[4]]][rank]
        answers.keep({rank: f"of {rank}"})
    assert sorted(each.name for each in tmp_path.iterdir()) == [
        "answers.1.jsonl", "answers.2.jsonl", "answers.jsonl",
    ]  # fmt: skip
    with (tmp_path / "answers.1.jsonl").open("a") as file:
        file.write('["vqa", {"7')
    monkeypatch.setattr(kept, "place", lambda: (0, 2))  # two go on where three were
    assert Kept(path).of("vqa").done == {0: "of 0", 1: "of 1", 2: "of 2"}
    assert (tmp_path / "answers.1.jsonl").read_text().endswith('{"7')  # another's is left as it is


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize("beams", [1, 2])
def test_logits_that_are_no_numbers_are_an_error(vlm, folder, beams, number):
    broken = SimpleNamespace(model=copy.deepcopy(vlm.model), processor=vlm.processor)
    with torch.no_grad():
        broken.model.get_output_embeddings().weight[3] = number
    for task in ("vqa", "gqa", "caption"):
        with pytest.raises(
            RunError, match=r"outputs are not numbers \(NaN or infinite, computed in float32\)"
        ):
            evaluate(broken, folder, (task,), decoding=Decoding(beams=beams))


def test_scores_of_pairs_that_are_no_numbers_are_an_error(vlm, folder):
    for build in (lambda: (copy.deepcopy(vlm.model), vlm.processor), blip_itm):
        model, processor = build()
        for parameter in model.parameters():
            torch.nn.init.constant_(parameter, float("nan"))
        with pytest.raises(RunError, match="not numbers"):
            evaluate(SimpleNamespace(model=model, processor=processor), folder, ("retrieval",))


def test_a_bad_picture_is_known_before_the_model_runs_or_is_left_out(vlm, tmp_path, monkeypatch):
    folder = tiny_dataset(tmp_path / "tiny", images=5)
    bad = folder / "images" / "test" / image_name(2)
    bad.write_bytes(bad.read_bytes()[:60])
    (folder / "images" / "test" / image_name(3)).unlink()
    with monkeypatch.context() as patch:
        patch.setattr(vlm.model, "generate", lambda **_: pytest.fail("the model ran"))
        with pytest.raises(UsageError) as error:
            evaluate(vlm, folder, ("vqa", "gqa", "caption"))
    assert {line.rpartition("  ")[2].split(" (")[0] for line in error.value.table.splitlines()} >= {
        "cannot be read"
    }
    assert image_name(2) in error.value.table
    assert image_name(3) in error.value.table
    with pytest.warns(RessaWarning, match="cannot be used, and are left out"):
        found = evaluate(vlm, folder, ("vqa", "caption", "retrieval"), on_bad="skip")["tasks"]
    assert [task["n"] for task in found.values()] == [3, 3, 3]


def test_a_question_too_long_for_the_model_is_known_before_it_runs_or_is_left_out(
    folder, tmp_path, monkeypatch
):
    model, processor = VLMS["llava"]()
    vlm = SimpleNamespace(model=model, processor=processor)
    long = tiny_dataset(tmp_path / "tiny", images=3)
    path = long / "questions_test.json"
    content = json.loads(path.read_text())
    content["questions"][1]["question"] = "what is " * 200
    path.write_text(json.dumps(content))
    with monkeypatch.context() as patch:
        patch.setattr(model, "generate", lambda **_: pytest.fail("the model ran"))
        with pytest.raises(
            UsageError, match=r"sample 101: has [\d,]+ tokens with its image, and the model reads 256"
        ):
            evaluate(vlm, long, ("gqa", "vqa"))
    with pytest.warns(RessaWarning, match="1 entry"):
        assert evaluate(vlm, long, ("vqa",), on_bad="skip")["tasks"]["vqa"]["n"] == 2


def test_what_is_said_of_texts_is_said_once_however_often_they_are_asked(folder, tmp_path):
    model, processor = VLMS["llava"]()
    vlm = SimpleNamespace(model=model, processor=processor)
    placed = tiny_dataset(tmp_path / "tiny", images=3)
    path = placed / "questions_test.json"
    path.write_text(path.read_text().replace("What is", "<image> What is"))
    drawn = draw(placed, ("vqa",))
    with recorded() as said:
        left = fitted(drawn, vlm)
        first, second = score(vlm, left), score(vlm, left)
    assert scores(first) == scores(second)
    assert len([each for each in said if "<image>" in each]) == 1


def test_fewer_images_than_asked_for_is_said(vlm, folder):
    with pytest.warns(RessaWarning, match="9 images were asked for; gqa has 6 in the split 'test'"):
        evaluate(vlm, folder, ("gqa",), limit=9)


def test_batches_are_the_same_whether_answers_are_kept_or_not(vlm, folder, tmp_path):
    samples = draw(folder, ("gqa",)).samples["gqa"]
    batcher = Batcher(vlm.processor, vlm.model.config)
    answers = Kept(tmp_path / "answers.jsonl").of("gqa")
    options = {"max_new_tokens": 4, "batch_size": 4}
    first = generation.generate(vlm.model, batcher, samples, answers=answers, **options)
    assert first == generation.generate(vlm.model, batcher, samples, **options)
    assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == 2
