"""Plain text beside pictures: the dense model's own or a file's, in calibration and in repair."""

import json
import shutil

import pytest
import torch
from PIL import Image

from ressa.checkpoint import load
from ressa.commands.texts import _warn_of_narrow, mixed, repeated
from ressa.data import Batcher, Sample
from ressa.data.plain_text import english
from ressa.data.rows import IGNORED
from ressa.repairing.config import RepairConfig
from ressa.repairing.forward import lean_forward
from ressa.repairing.held_back import hold_back, hold_back_text
from ressa.repairing.token_objective import TokenObjective
from ressa.warned import RessaWarning

FEW = ("--samples", "6", "--text-samples", "4", "--text-tokens", "8")


def pruned(ressa, world, output, *options):
    return ressa("prune", world.llava, "-o", output, "--calibration", world.data, *FEW, *options)


def test_a_model_is_calibrated_on_what_it_writes_itself(ressa, world, tmp_path, monkeypatch):
    texts = {}
    for name, options in {"own": ("--text", "own"), "again": ("--text", "own"), "none": ()}.items():
        monkeypatch.setenv("RESSA_CACHE", str(tmp_path / "cache" / name))
        said = pruned(ressa, world, tmp_path / name, *options)
        assert said.status == 0, said.err
        manifest = json.loads((tmp_path / name / "ressa.json").read_text())
        texts[name] = manifest["calibration"].get("text")
    assert texts["own"] == texts["again"]
    assert texts["own"]["samples"] == 4
    assert texts["none"] is None
    own, again, none = (load(tmp_path / name).model.state_dict() for name in ("own", "again", "none"))
    assert all(torch.equal(own[key], again[key]) for key in own)
    layers = [key for key in own if not torch.equal(own[key], none[key])]
    assert layers
    assert all("vision" not in key for key in layers), "texts show nothing to the vision tower"


def test_what_it_wrote_is_kept_for_the_next_run(ressa, world, tmp_path, monkeypatch):
    monkeypatch.setenv("RESSA_CACHE", str(tmp_path / "cache"))
    assert pruned(ressa, world, tmp_path / "first", "--text", "own").status == 0
    (kept,) = (tmp_path / "cache" / "texts").glob("*.json")
    note = json.loads(kept.read_text())
    assert len(note["texts"]) == 4
    kept.write_text(json.dumps(note | {"texts": ["red", "blue"]}))
    assert pruned(ressa, world, tmp_path / "second", "--text", "own").status == 0
    assert pruned(ressa, world, tmp_path / "third", "--text", "own", "--seed", "1").status == 0
    counts = [
        json.loads((tmp_path / name / "ressa.json").read_text())["calibration"]["text"]["samples"]
        for name in ("first", "second", "third")
    ]
    assert counts == [4, 2, 4]


def test_texts_of_a_file_are_repaired_on_and_held_back(ressa, world, tmp_path):
    book = tmp_path / "book.txt"
    book.write_text("the red cat sees two blue dogs near a green tree . " * 200)
    assert pruned(ressa, world, tmp_path / "pruned", "--text", book).status == 0
    small = ("--option", "steps=2", "--option", "reconstruct_samples=8", "--option", "reconstruct_epochs=1")
    said = ressa(
        "repair", tmp_path / "pruned", "-o", tmp_path / "repaired", "--data", world.data, "--samples", 8,
        "--text", book, "--text-samples", 20, "--text-tokens", 12, "--text-share", 0.5, "--batch-size", 4, *small,
    )  # fmt: skip
    assert said.status == 0, said.err
    training = json.loads((tmp_path / "repaired" / "ressa.json").read_text())["training"]
    assert training["samples"] == 16
    assert training["texts"] == 8
    assert len(training["history"]) == 2


@pytest.fixture
def spelling(world, tmp_path):
    """A LLaVA whose tokens are letters."""
    folder = shutil.copytree(world.llava, tmp_path / "spelling")
    written = json.loads((folder / "tokenizer.json").read_text())
    words = written["model"]["vocab"]
    tokens = [word for word, _ in sorted(words.items(), key=lambda item: item[1])]
    letters = " etaoinshrdlucmfwypvbgkqjxz,.-\"';:?!0123456"[: len(words) - 5]
    written["model"]["vocab"] = {token: i for i, token in enumerate([*tokens[:5], *letters])}
    pattern = {"type": "Split", "pattern": {"Regex": ""}, "behavior": "Isolated", "invert": False}
    (folder / "tokenizer.json").write_text(json.dumps(written | {"pre_tokenizer": pattern}))
    return folder


@pytest.mark.parametrize("text", ["english", "auto"])
def test_english_ships_with_ressa(ressa, world, spelling, tmp_path, text):
    said = ressa("prune", spelling, "-o", tmp_path / "out", "--calibration", world.data, *FEW, "--text", text)
    assert said.status == 0, said.err
    noted = json.loads((tmp_path / "out" / "ressa.json").read_text())["calibration"]["text"]
    assert (noted["name"], noted["samples"]) == ("english", 4)
    assert len(english().split()) == 1_098_956


def test_who_does_not_know_english_is_not_asked_to_read_it(ressa, world, tmp_path):
    said = pruned(ressa, world, tmp_path / "none", "--text", "auto")
    assert said.status == 0, said.err
    assert "No plain text is taken beside the pictures: 66 % of this text's tokens are unknown" in said.err
    assert "text" not in json.loads((tmp_path / "none" / "ressa.json").read_text())["calibration"]
    said = pruned(ressa, world, tmp_path / "refused", "--text", "english")
    assert said.status == 2
    assert "66 % of this text's tokens are unknown" in said.sentence


def test_a_model_that_writes_what_the_samples_say_is_told_of():
    samples = [Sample(None, "What is it?", "a red cat on a mat", earlier=(("Is it red?", None),))]
    assert repeated(["A red cat, on a mat."], samples) == 1
    assert repeated(["a red cat on the moon"], samples) == 0.5
    assert repeated(["so it goes", "is it red"], samples) == 0.5
    assert repeated(["", "too short"], samples) == 0
    with pytest.warns(RessaWarning, match="100 % of its triples"):
        _warn_of_narrow(["a red cat"] * 3, samples)
    _warn_of_narrow(["all of the rest of the language"], samples)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--text", "nowhere.txt"), "no text file"),
        (("--text", "own", "--stream"), "name a text file"),
        (("--text", "own", "--text-tokens", "3"), "text_tokens"),
    ],
)
def test_what_cannot_be_had_is_told(ressa, world, tmp_path, options, sentence):
    said = pruned(ressa, world, tmp_path / "out", *options)
    assert said.status == 2
    assert sentence in said.sentence
    assert not (tmp_path / "out").exists()


def test_an_encoder_decoder_continues_no_text(ressa, world, tmp_path):
    said = ressa(
        "prune",
        world.instructblip,
        "-o",
        tmp_path / "out",
        "--calibration",
        world.data,
        *FEW,
        "--text",
        "own",
    )
    assert said.status == 2
    assert "leave out --text" in said.sentence


def test_the_mixture_has_the_share_that_was_asked_for():
    samples = [Sample(None, f"which {number} ?", "red") for number in range(30)]
    texts = [Sample(None, "", f"text {number}", f"text {number}") for number in range(4)]
    found = mixed(samples, texts, 0.25, seed=1)
    assert found == mixed(samples, texts, 0.25, seed=1) != mixed(samples, texts, 0.25, seed=2)
    assert sum(sample.plain for sample in found) == 10
    assert {sample.id for sample in found if sample.plain} == {sample.id for sample in texts}
    assert mixed(samples, texts, 0.0, seed=1) == samples


def test_held_back_texts_are_held_back_with_all_their_copies():
    texts = [Sample(None, "", f"text {number}") for number in range(40)]
    samples = [*texts, *(Sample(None, "which ?", "red") for _ in range(100)), *texts]
    held = hold_back_text(samples, most=16, seed=0)
    assert len(held) == 4
    assert all(samples[number].target == text for text, numbers in held.items() for number in numbers)
    assert sorted(map(len, held.values())) == [2] * 4
    assert all(not samples[number].plain for number in hold_back(samples, most=8, seed=0))


def test_plain_text_is_all_label_and_ends_with_nothing(world):
    vlm = load(world.llava)
    batcher = Batcher(vlm.processor, vlm.model.config)
    text = "a red cat and a blue dog"
    alone = batcher.training([Sample(None, "", text)])
    expected = vlm.processor.tokenizer(text)["input_ids"]
    begins = len(vlm.processor.tokenizer("")["input_ids"])
    assert alone["input_ids"].tolist() == [expected]
    assert alone["labels"][0, begins:].tolist() == expected[begins:]
    assert (alone["labels"][0, :begins] == IGNORED).all()
    seen = Sample(Image.new("RGB", (16, 16)), "which colour ?", "red")
    both = batcher.training([seen, Sample(None, "", text)])
    real = both["attention_mask"][1].bool()
    assert both["input_ids"][1][real].tolist() == expected
    with torch.no_grad():
        together, apart = vlm.model(**both).logits[1][real], vlm.model(**alone).logits[0]
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-4)


def test_texts_weigh_by_their_number_and_not_by_their_tokens(world):
    vlm = load(world.llava)
    batcher = Batcher(vlm.processor, vlm.model.config)
    objective = TokenObjective(batcher, RepairConfig(objective="task"))
    picture = Image.new("RGB", (16, 16))
    seen = [Sample(picture, "which colour ?", target) for target in ("red", "the blue dog", "two")]
    read = [Sample(None, "", "a red cat sees two blue dogs near a green tree . " * 3)]

    def loss(samples, whole=None):
        batch = batcher.training(samples)
        counts = objective.counts([batch] if whole is None else [batcher.training(part) for part in whole])
        ((weight, value),) = objective.losses(vlm.model, vlm.model, None, batch, counts).values()
        return weight * value

    made = []
    vlm.model.lm_head.register_forward_hook(
        lambda _module, _args, logits: made.append(tuple(logits.shape[:2]))
    )
    with torch.no_grad(), lean_forward(vlm.model):
        together, answers, texts = loss(seen + read), loss(seen), loss(read)
        parts = [seen[:2], seen[2:] + read]
        in_parts = sum(loss(part, parts) for part in parts)
    torch.testing.assert_close(together, 0.75 * answers + 0.25 * texts)
    torch.testing.assert_close(in_parts, together)
    learned = [
        int(objective.counts([batcher.training(part)])[:2].sum()) for part in (seen + read, seen, read)
    ]
    assert made[:3] == [(1, count) for count in learned], "logits are made where words are learned"
    assert not torch.isclose(answers, texts, rtol=1e-3)
