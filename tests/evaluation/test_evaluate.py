"""`evaluate` from a dataset folder to the result, on both kinds of language model."""

import copy
import dataclasses
import json
from types import SimpleNamespace

import pytest
import torch
import transformers as hf
from PIL import Image
from torch import nn

from ressa.data import Batcher, DatasetFolder
from ressa.data.sample import image_key
from ressa.errors import UsageError
from ressa.evaluation import evaluate, generation
from ressa.evaluation.metrics import tokens
from ressa.evaluation.metrics.vqa_accuracy import vqa_accuracy
from ressa.evaluation.shared_vision import shared_vision
from ressa.task_names import TASKS
from ressa.warned import RessaWarning, recorded
from tests.data.more_vlms import llava_next
from tests.data.tiny_folders import tiny_dataset
from tests.data.vlms import VLMS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_dataset(tmp_path_factory.mktemp("data") / "tiny", images=6)


@pytest.fixture(scope="module", params=VLMS)
def vlm(request):
    model, processor = VLMS[request.param]()
    return SimpleNamespace(model=model, processor=processor, source="tiny")


@pytest.fixture(scope="module")
def result(vlm, folder):
    return evaluate(vlm, folder, batch_size=4)


def test_every_task_is_scored_and_the_result_is_json(result):
    assert tuple(result["tasks"]) == TASKS
    scores = [task["score"] for task in result["tasks"].values()]
    assert result["average"] == pytest.approx(sum(scores) / 5)
    assert all(0 <= result["tasks"][task]["score"] <= 100 for task in TASKS if task != "caption")
    assert result["data"]["name"] == "tiny"
    assert result["versions"]["transformers"] == hf.__version__
    assert json.loads(json.dumps(result)) == result


def test_kinds_are_scored_apart_and_weigh_up_to_the_whole(result):
    kinds = result["tasks"]["vqa"]["kinds"]
    assert {kind: scores["n"] for kind, scores in kinds.items()} == {"what": 3, "what is": 3}
    whole = sum(scores["score"] * scores["n"] for scores in kinds.values()) / 6
    assert result["tasks"]["vqa"]["score"] == pytest.approx(whole)
    assert result["tasks"]["vqa"]["answer_types"]["other"]["n"] == 6
    assert set(result["tasks"]["gqa"]["kinds"]) == {"structural: verify", "semantic: obj"}
    assert "answer_types" not in result["tasks"]["gqa"]


def test_vqa_scores_what_plain_generation_says(vlm, folder, result):
    """One question at a time, straight through transformers."""
    batcher = Batcher(vlm.processor, vlm.model.config)
    total = 0.0
    questions = DatasetFolder(folder).samples("vqa", "test")
    for question in questions:
        inputs = batcher.generation([question])
        generated = vlm.model.generate(**inputs, max_new_tokens=10, do_sample=False)
        total += vqa_accuracy(batcher.decode(generated, inputs)[0], question.answers)
    assert result["tasks"]["vqa"]["score"] == pytest.approx(100 * total / len(questions))


def test_right_answers_score_fully(vlm, folder, monkeypatch):
    """The path from text to score, with a model that knows."""

    def knows(model, batcher, samples, **options):
        return [s.answers[0] if hasattr(s, "answers") else s.captions[0] for s in samples]

    monkeypatch.setattr("ressa.evaluation.generation.generate", knows)
    found = evaluate(vlm, folder, ("vqa", "okvqa", "gqa", "caption"))["tasks"]
    assert [found[task]["score"] for task in ("vqa", "okvqa", "gqa")] == [100.0] * 3
    assert found["caption"]["recall"] == 100
    assert found["caption"]["score"] > 100


def test_the_same_seed_gives_the_same_result(vlm, folder):
    def run(seed):
        found = evaluate(vlm, folder, ("vqa", "caption"), limit=3, seed=seed)
        return {key: value for key, value in found.items() if key != "seconds"}

    assert run(0) == run(0)
    assert run(0)["data"]["fingerprint"] != run(1)["data"]["fingerprint"]


def test_batch_size_does_not_change_the_answers(vlm, folder):
    samples = DatasetFolder(folder).samples("vqa", "test") + DatasetFolder(folder).samples("gqa", "test")
    batcher = Batcher(vlm.processor, vlm.model.config)
    texts = [
        generation.generate(vlm.model, batcher, samples, max_new_tokens=5, batch_size=size)
        for size in (1, 5, 12)
    ]
    assert texts[0] == texts[1] == texts[2]


def test_beams_are_used(vlm, folder):
    samples = DatasetFolder(folder).samples("gqa", "test")
    batcher = Batcher(vlm.processor, vlm.model.config)
    found = generation.generate(vlm.model, batcher, samples * 2, max_new_tokens=4, beams=3, batch_size=12)
    inputs = batcher.generation(samples[:1])
    alone = vlm.model.generate(**inputs, max_new_tokens=4, num_beams=3, do_sample=False)
    assert found[0] == batcher.decode(alone, inputs)[0]
    assert found[:6] == found[6:]


def test_the_vision_tower_sees_each_image_of_a_batch_once(vlm, folder):
    samples = [sample for sample in DatasetFolder(folder).samples("gqa", "test")[:2] for _ in range(3)]
    tower = vlm.model.get_encoder(modality="image")
    embed = next(module for module in tower.modules() if isinstance(module, torch.nn.Conv2d))
    inside, outside = [], []
    hooks = [
        embed.register_forward_hook(lambda module, args, output: inside.append(len(output))),
        tower.register_forward_hook(lambda module, args, output: outside.append(len(output[0]))),
    ]
    batcher = Batcher(vlm.processor, vlm.model.config)
    try:
        generation.generate(vlm.model, batcher, samples, max_new_tokens=2, batch_size=6)
    finally:
        for hook in hooks:
            hook.remove()
    assert (inside, outside) == ([2], [6])
    assert "forward" not in vars(tower)  # nothing of it stays behind


def test_tiles_of_one_image_are_not_taken_for_copies_of_it(folder):
    """LLaVA-NeXT's tower sees each image as several rows, none like another."""
    model, processor = llava_next()
    batcher = Batcher(processor, model.config)
    samples = [sample for sample in DatasetFolder(folder).samples("gqa", "test")[:2] for _ in range(2)]
    noisy = [
        dataclasses.replace(sample, image=Image.effect_noise((40, 70), 50 + index // 2).convert("RGB"))
        for index, sample in enumerate(samples)
    ]
    noisy = [dataclasses.replace(s, image=noisy[index // 2 * 2].image) for index, s in enumerate(noisy)]
    inputs = batcher.generation(noisy)
    with torch.inference_mode(), shared_vision(model) as sharing:
        sharing.show([image_key(sample) for sample in noisy])
        shared = model(**inputs).logits
    with torch.inference_mode():
        plain = model(**inputs).logits
    assert torch.equal(shared, plain)


@pytest.mark.parametrize("images", ["aabb", "aaaa"])
def test_patches_of_all_images_in_one_row_are_not_shared(images):
    """As Pixtral lays them; of one image alone they look like any tower's."""

    class Tower(nn.Module):
        def forward(self, pixel_values):
            return pixel_values.flatten(2).mT.flatten(0, 1)[None]

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.tower = Tower()

        def get_encoder(self, modality=None):
            return self.tower

        def forward(self, pixel_values):
            return self.tower(pixel_values=pixel_values)

    model = Model()
    pictures = {name: torch.randn(3, 4, 4) for name in "ab"}
    pixels = torch.stack([pictures[name] for name in images])
    with shared_vision(model) as sharing:
        for _ in range(2):
            sharing.show(images)
            assert torch.equal(model(pixels), model.tower.__class__().forward(pixels))


def test_a_limit_takes_that_many_images_and_all_their_questions(vlm, folder, tmp_path):
    found = evaluate(vlm, folder, ("vqa", "retrieval"), limit=2)["tasks"]
    assert found["vqa"]["n"] == 2
    assert (found["retrieval"]["n"], found["retrieval"]["captions"]) == (2, 4)
    assert evaluate(vlm, folder, ("retrieval",), pool=3)["tasks"]["retrieval"]["n"] == 3


def test_the_model_is_left_in_its_mode(vlm, folder):
    vlm.model.train()
    evaluate(vlm, folder, ("gqa",), limit=1)
    assert vlm.model.training
    vlm.model.eval()


def test_bfloat16_models_are_scored(vlm, folder):
    narrow = SimpleNamespace(model=copy.deepcopy(vlm.model).to(torch.bfloat16), processor=vlm.processor)
    found = evaluate(narrow, folder, ("gqa", "retrieval"), limit=3)
    assert set(found["tasks"]) == {"gqa", "retrieval"}


@pytest.mark.parametrize(
    ("lacking", "said"),
    [("have_java", "Java was not found"), ("have_coco_tools", "pycocoevalcap is not installed")],
)
def test_without_java_the_metric_has_another_name_and_it_is_said(vlm, folder, monkeypatch, lacking, said):
    monkeypatch.setattr(tokens, lacking, lambda: False)
    with recorded() as warned:
        found = evaluate(vlm, folder, ("caption",), limit=3, caption_metrics=("bleu", "meteor"))
    found = found["tasks"]["caption"]
    assert found["metric"] == "CIDEr-D (regex tokenizer)"
    assert "BLEU-4" in found
    assert "METEOR" not in found
    assert [sentence.startswith(said) for sentence in warned] == [True, True]


def test_what_cannot_be_evaluated_is_said_in_a_sentence(vlm, folder, tmp_path):
    with pytest.raises(UsageError, match="task 'vqq' is unknown: choose some of vqa, okvqa"):
        evaluate(vlm, folder, ("vqq",))
    with pytest.raises(UsageError, match="no task was named"):
        evaluate(vlm, folder, ())
    with pytest.raises(UsageError, match="limit of 0 images"):
        evaluate(vlm, folder, limit=0)
    with pytest.raises(UsageError, match="caption at least two images"):
        evaluate(vlm, folder, ("caption",), limit=1)
    with pytest.raises(UsageError, match="no dataset folder"):
        evaluate(vlm, tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"has no vqa in the split 'val': .*there is test"):
        evaluate(vlm, folder, ("vqa",), split="val")


def test_bad_data_of_a_later_task_is_known_before_the_model_runs(vlm, tmp_path, monkeypatch):
    monkeypatch.setattr("ressa.evaluation.scoring.answer", lambda *_, **__: pytest.fail("the model ran"))
    lacking = tiny_dataset(tmp_path / "lacking")
    (lacking / "gqa_test.json").write_text("{")
    with pytest.raises(UsageError, match=r"gqa_test\.json is not valid JSON"):
        evaluate(vlm, lacking, ("vqa", "gqa"))


def test_a_task_that_the_data_has_nothing_for_is_left_out_and_said(vlm, tmp_path):
    lacking = tiny_dataset(tmp_path / "lacking", "val")
    (lacking / "gqa_val.json").unlink()
    with pytest.warns(RessaWarning, match="has nothing for gqa: left out"):
        result = evaluate(vlm, lacking, ("vqa", "gqa"))
    assert list(result["tasks"]) == ["vqa"]
    assert (result["split"], result["splits"]) == ("val", {"vqa": "val"})
    with pytest.raises(UsageError, match="has nothing for gqa: it has caption, vqa, okvqa"):
        evaluate(vlm, lacking, ("gqa",))
