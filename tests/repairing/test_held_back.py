"""Samples held back say what repair did, and a repair that makes a model worse says so itself."""

import math

import pytest
import torch
from PIL import Image
from repairing.tiny import pruned_pair, samples

from ressa.data.batcher import Batcher
from ressa.data.rows import IGNORED
from ressa.data.sample import Sample
from ressa.repairing import RepairConfig, repair
from ressa.repairing.forward import Forward
from ressa.repairing.held_back import (
    HeldBack,
    TokenExamination,
    examine,
    hold_back,
    hold_back_text,
    loss_by_frequency,
    warn_of_repaired,
)
from ressa.repairing.token_objective import TokenObjective
from ressa.warned import RessaWarning, recorded

CPU = Forward(torch.device("cpu"))


def test_whole_images_are_held_back_up_to_a_tenth_of_the_samples():
    images = [Image.new("RGB", (4, 4)) for _ in range(50)]
    asked = [Sample(images[number // 4], "which ?", "red") for number in range(200)]
    held = hold_back(asked, most=64, seed=3)
    assert len(held) == 20
    assert held == hold_back(asked, most=64, seed=3) == sorted(held)
    assert held != hold_back(asked, most=64, seed=4)
    seen = {id(asked[number].image) for number in held}
    assert all(id(asked[number].image) not in seen for number in set(range(200)) - set(held))
    assert len(hold_back(asked, most=9, seed=0)) == 8
    assert hold_back(asked, most=7, seed=0) == hold_back(asked[:79], most=64, seed=0) == []
    assert hold_back([Sample(images[0], "which ?", "red")] * 200, most=64, seed=0) == []


@pytest.mark.parametrize("family", ["instructblip", "llava"])
def test_an_answer_is_right_where_greedy_decoding_gives_it(family):
    _, _, dense = pruned_pair(family)
    batcher = Batcher(dense.processor, dense.model.config, dense.model.generation_config)
    asked = samples(6)
    found = examine(dense.model, batcher, asked, CPU, batch_size=4)
    batch = batcher.training(asked)
    assert found.tokens.tolist() == (batch["labels"] != IGNORED).sum(1).tolist()
    with torch.no_grad():
        assert found.loss == pytest.approx(dense.model(**batch).loss.item(), rel=1e-5)
    # The model's own answers as targets: all right, but the one that is another's.
    generated = dense.model.generate(**batcher.generation(asked[:1]), max_new_tokens=3, do_sample=False)
    new = generated[0, -3:] if family == "llava" else generated[0, 1:]
    batcher.targets = lambda given: [new if s.id == "0" else new + 1 for s in given]
    own = examine(dense.model, batcher, [samples(1)[0], samples(2)[1]], CPU, batch_size=1)
    assert own.answers.tolist() == [1, 0]


def test_the_loss_by_frequency_is_that_of_a_model_that_counts_words():
    _, _, dense = pruned_pair("llava")
    batcher = Batcher(dense.processor, dense.model.config, dense.model.generation_config)
    image = Image.new("RGB", (4, 4))
    known = [Sample(image, "which ?", word) for word in ("red", "red", "blue")]  # and an end token each
    asked = [Sample(image, "which ?", "red"), Sample(image, "which ?", "dog")]
    counts, seen, kinds = {"red": 2, "blue": 1, "end": 3, "dog": 0}, 6, 4
    words = ["red", "end", "dog", "end"]
    want = -sum(math.log((counts[word] + 1) / (seen + kinds)) for word in words) / len(words)
    assert loss_by_frequency(batcher, known, asked) == pytest.approx(want)


def examination(losses, right):
    count = len(losses)
    return TokenExamination(torch.tensor(losses), torch.full((count,), 2.0), torch.tensor(right).float())


def test_a_dense_model_no_better_than_frequencies_is_told():
    class Known(TokenObjective):
        """Knows what it would find."""

        def __init__(self, baseline):
            self.known = baseline

        def examine(self, *_):
            return examination([6.0] * 8, [0] * 8)

        def baseline(self, *_):
            return self.known

    with pytest.warns(RessaWarning, match=r"loses 3.00 nats .* no less than the 2.50"):
        HeldBack(samples(8), [], Known(2.5), CPU, 4).examine("dense", None)
    with recorded() as said:
        HeldBack(samples(8), [], Known(3.5), CPU, 4).examine("dense", None)
    assert said == []


def test_a_repaired_model_that_is_worse_is_told():
    pruned = examination([1.0] * 16, [2] * 12 + [1] * 4)
    with pytest.warns(RessaWarning, match="WORSE"):
        warn_of_repaired(pruned, examination([1.1] * 16, [2] * 16), TokenObjective)
    with pytest.warns(RessaWarning, match="from 75.0 to 25.0 %"):
        warn_of_repaired(pruned, examination([0.9] * 16, [2] * 4 + [1] * 12), TokenObjective)
    with pytest.warns(RessaWarning, match="WORSE"):
        warn_of_repaired(pruned, examination([float("nan")] * 16, [2] * 16), TokenObjective)
    with recorded() as said:
        warn_of_repaired(
            pruned, examination([0.9] * 16, [2] * 11 + [1] * 5), TokenObjective
        )  # one fewer: chance
    assert said == []


@pytest.mark.parametrize("family", ["instructblip", "llava"])
def test_repair_reports_all_three_models_on_samples_that_it_does_not_train_on(family):
    pruned, masks, dense = pruned_pair(family)
    config = RepairConfig(
        objective="task", learning_rate=3e-2, batch_size=16, steps=6, device="cpu", precision="fp32"
    )
    with recorded() as said:
        result = repair(pruned, masks, dense, samples(96), config)
    report = result.held_back
    assert report["samples"] == 9
    assert result.end == "</s> (the tokenizer's end of text)"
    assert report["repaired"]["loss"] < report["pruned"]["loss"]
    assert set(report["dense"]) == {"loss", "tokens", "answers"}
    # A model of random weights was not trained on these answers.
    assert [sentence for sentence in said if "not what it was trained on" in sentence]
    assert not [sentence for sentence in said if "WORSE" in sentence]


def test_texts_held_back_say_what_is_forgotten():
    pruned, masks, dense = pruned_pair("llava")
    words = [
        "a",
        "red",
        "cat",
        "sees",
        "two",
        "blue",
        "dogs",
        "near",
        "the",
        "green",
        "tree",
        "and",
        "one",
        "small",
        "house",
    ]
    texts = [Sample(None, "", " ".join([*words[n:], *words[:n]])) for n in range(14)]
    asked = [*samples(96), *texts]
    config = RepairConfig(
        objective="task", learning_rate=3e-2, batch_size=16, steps=6, device="cpu", precision="fp32"
    )
    with recorded():
        report = repair(pruned, masks, dense, asked, config).held_back
    assert report["samples"] == 9
    held = [asked[numbers[0]] for numbers in hold_back_text(asked, config.held_back, config.seed).values()]
    assert len(held) == 1
    batcher = Batcher(dense.processor, dense.model.config)
    for name, model in (("dense", dense.model), ("repaired", pruned.model)):
        loss = examine(model, batcher, held, CPU, batch_size=16).loss
        assert report[name]["text_loss"] == pytest.approx(loss, abs=1e-3)
    assert report["repaired"]["text_loss"] < report["pruned"]["text_loss"]


def test_a_repair_gone_wrong_is_loud():
    """A teacher that knows nothing of the task takes the student away from it."""
    pruned, masks, dense = pruned_pair("llava")
    config = RepairConfig(
        objective="kd", learning_rate=3e-2, batch_size=16, steps=12, device="cpu", precision="fp32"
    )
    with pytest.warns(RessaWarning, match="REPAIR MADE THE MODEL WORSE: on 9 samples"):
        repair(pruned, masks, dense, samples(96), config)


def test_few_samples_are_all_trained_on():
    pruned, masks, dense = pruned_pair()
    config = RepairConfig(batch_size=8, steps=1, device="cpu")
    assert repair(pruned, masks, dense, samples(8), config).held_back == {}
