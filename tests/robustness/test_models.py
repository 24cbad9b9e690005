"""Model folders as people have them: files that are missing, cut, emptied or of another kind, configs of anything."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.robustness.net import QUICK, Net
from tests.robustness.test_data import MISSING, holding, put

WEIGHTS = "model.safetensors"


def prune(net: Net, model: Path) -> tuple[object, ...]:
    return ("prune", model, "-o", net.out, "--calibration", net.inputs.data, *QUICK)


def inspect(net: Net, model: Path) -> tuple[object, ...]:
    return ("inspect", model)


def repair(net: Net, pruned: Path, *more: object) -> tuple[object, ...]:
    where = ("--dense", net.inputs.model, "--data", net.inputs.data)
    return (
        "repair",
        pruned,
        "-o",
        net.out,
        *where,
        "--samples",
        4,
        "--batch-size",
        4,
        "--no-warm-start",
        *more,
    )


def gone(path: Path) -> None:
    path.unlink()


def cut_at(share: float) -> Callable[[Path], None]:
    def cut(path: Path) -> None:
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])

    return cut


def link(path: Path) -> None:
    path.unlink()
    path.symlink_to("nothing")


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


FAULTS: dict[str, Callable[[Path], Any]] = {
    "missing": gone,
    "empty": holding(b""),
    "zeros": holding(b"\0" * 4096),
    "text": holding(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 14\n"),
    "null": holding(b"null"),
    "a list": holding(b"[]"),
    "a mapping": holding(b"{}"),
    "a number": holding(b"7"),
    "brackets": holding(b"[" * 100_000),
    "Latin-1": holding("{'é'}".encode("latin-1")),
    "cut in half": cut_at(0.5),
    "cut at its end": cut_at(0.999),
    "a link to nothing": link,
    "a folder": folder,
    "a pipe": pipe,
}


def test_files_of_a_model(net: Net) -> None:
    for name in sorted(os.listdir(net.inputs.model)):
        for what, spoil in FAULTS.items():
            model = net.model()
            spoil(model / name)
            for run in (prune, inspect):
                # Some files are not needed, and some faults are none.
                status = net.check((name, what), *run(net, model), may=(0, 1, 2))
                if name in (WEIGHTS, "config.json") and status == 0:
                    net.problems.append(f"{name} {what} was taken by {run.__name__}")


TURN = "{% for turn in messages %}{{ turn['role'] }}: {% for part in turn['content'] %}PART{% endfor %}\n{% endfor %}"
TEXT = "{{ part['text'] }}"
TEMPLATES = {
    "no image": (TURN.replace("PART", TEXT), "leaves out the image"),
    "no question": (TURN.replace("PART", "<image>"), "leaves out the question"),
    "the content as Python shows it": (
        "{% for turn in messages %}{{ turn['content'] }}{% endfor %}",
        "image",
    ),
    "content that has to be text": ("{{ messages[0]['content'] + '!' }}", "fails"),
    "two images": (TURN.replace("PART", f"<image>{TEXT}"), "image"),
    "an error of its own": ("{{ raise_exception('system turn first') }}", "system turn first"),
    "what is no template": ("{% for turn in %}", "fails"),
    "what is forbidden": ("{{ ''.__class__.__mro__ }}", "fails"),
    "an error of Python": ("{{ messages[0]['content'][99]['text']['a'] }}", "fails"),
    "what divides by nothing": ("{{ 1 / 0 }}", "fails"),
}


@pytest.mark.parametrize("what", TEMPLATES)
def test_a_chat_template(net: Net, what: str) -> None:
    template, said = TEMPLATES[what]
    model = net.model()
    (model / "chat_template.jinja").write_text(template)
    for run in (prune(net, model), ("evaluate", model, "--data", net.inputs.data, "--tasks", "vqa")):
        net.check(what, *run, says=said)


VALUES = (MISSING, None, True, 0, -1, 2.5, 10**12, "", "eight", [], {}, [None], float("nan"), "../x", 7)
KEYS = [
    *(
        ("architectures",),
        ("architectures", 0),
        ("model_type",),
        ("text_config",),
        ("vision_config",),
        ("dtype",),
    ),
    *(
        ("text_config", key)
        for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    ),
    *(("text_config", key) for key in ("model_type", "intermediate_size", "max_position_embeddings")),
    *(("vision_config", key) for key in ("hidden_size", "num_hidden_layers", "image_size", "patch_size")),
    *(
        ("image_token_id",),
        ("vision_feature_layer",),
        ("quantization_config",),
        ("auto_map",),
        ("tie_word_embeddings",),
    ),
]


@pytest.mark.parametrize("path", KEYS, ids=lambda path: "-".join(map(str, path)))
def test_a_value_in_a_config(net: Net, path: tuple[Any, ...]) -> None:
    model = net.model()
    original = (model / "config.json").read_text()
    for value in VALUES:
        config = json.loads(original)
        if value is MISSING and path[-1] not in config:
            continue
        put(config, path, value)
        (model / "config.json").write_text(json.dumps(config))
        for run in (prune, inspect):
            net.check((path, "nothing" if value is MISSING else value), *run(net, model), may=(0, 1, 2))


class Evil:
    """What a pickle does when it is opened."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, ("pickle-was-run",))


def with_tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def spoil(model: Path) -> None:
        tensors = load_file(model / WEIGHTS)
        change(tensors)
        save_file(tensors, model / WEIGHTS, metadata={"format": "pt"})

    return spoil


def a_layer(tensors: dict[str, torch.Tensor]) -> str:
    return next(name for name in tensors if name.endswith("up_proj.weight"))


def index(model: Path, files: Any) -> None:
    names = load_file(model / WEIGHTS)
    (model / "model.safetensors.index.json").write_text(
        json.dumps(
            {
                "metadata": {},
                "weight_map": files if not isinstance(files, str) else dict.fromkeys(names, files),
            }
        )
    )
    (model / WEIGHTS).rename(model / "model-00001-of-00001.safetensors")


def pickled(model: Path) -> None:
    (model / WEIGHTS).unlink()
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(Evil()))


def pickled_shards(model: Path, name: str, end: int | None = None) -> None:
    """Two shards, of which the second is called `name` and ends where it is told."""
    tensors = load_file(model / WEIGHTS)
    (model / WEIGHTS).unlink()
    files = {key: name if number % 2 else "first.bin" for number, key in enumerate(sorted(tensors))}
    for file in set(files.values()):
        torch.save({key: tensors[key] for key in tensors if files[key] == file}, model / file)
    if end is not None:
        os.truncate(model / name, end)
    (model / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": files}))


def no_second_shard(model: Path) -> None:
    pickled_shards(model, "second.bin")
    (model / "second.bin").unlink()


def elsewhere(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    config["transformers_weights"] = "other.safetensors"
    (model / "config.json").write_text(json.dumps(config))
    (model / "other.safetensors").write_bytes((model / WEIGHTS).read_bytes())


def own_code(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "code.Config", "AutoModelForImageTextToText": "code.Model"}
    config["model_type"], config["architectures"] = "mine", ["Mine"]
    (model / "config.json").write_text(json.dumps(config))
    (model / "code.py").write_text("import os\nos.mkdir('code-was-run')\n")


def adapter(model: Path) -> None:
    (model / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 8}))


SPOILT: dict[str, Callable[[Path], Any]] = {
    "a tensor too few": with_tensors(lambda tensors: tensors.pop(a_layer(tensors))),
    "a tensor too many": with_tensors(lambda tensors: tensors.update(more=torch.ones(2))),
    "a tensor of another shape": with_tensors(
        lambda tensors: tensors.update({a_layer(tensors): torch.ones(3, 5)})
    ),
    "a tensor without a shape": with_tensors(
        lambda tensors: tensors.update({a_layer(tensors): torch.ones(())})
    ),
    "a weight of numbers that are none": with_tensors(
        lambda tensors: tensors[a_layer(tensors)].fill_(torch.nan)
    ),
    "no tensors": with_tensors(lambda tensors: tensors.clear()),
    "an index to no file": lambda model: index(model, "model-00009-of-00009.safetensors"),
    "an index out of the folder": lambda model: index(model, "../../../../etc/passwd"),
    "an index of numbers": lambda model: index(model, {"a": 1}),
    "an index of a list": lambda model: index(model, []),
    "pickled weights": pickled,
    "a pickled shard that is cut": lambda model: pickled_shards(model, "second.bin", 4000),
    "a pickled shard that is empty": lambda model: pickled_shards(model, "second.bin", 0),
    "a pickled shard out of the folder": lambda model: pickled_shards(model, "../second.bin"),
    "a pickled shard that is missing": no_second_shard,
    "weights of another name": elsewhere,
    "a link to somebody's file": lambda model: (model / "notes.txt").symlink_to("/etc/hostname"),
    "code of its own": own_code,
    "an adapter beside it": adapter,
    "a header of a terabyte": lambda model: (model / WEIGHTS).write_bytes(
        (2**40).to_bytes(8, "little") + b"{}"
    ),
    "a header that is none": lambda model: (model / WEIGHTS).write_bytes((2).to_bytes(8, "little") + b"[]"),
}


@pytest.mark.parametrize("what", SPOILT)
def test_weights(net: Net, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    model = net.model()
    SPOILT[what](model)
    net.check(what, *prune(net, model), may=(1, 2))
    net.check(what, *inspect(net, model), may=(0, 1, 2))
    assert not os.listdir()  # nothing of the folder's own was run


MISFITS: dict[str, tuple[str, tuple[str, ...], Any, str]] = {
    "other pictures": (
        "processor_config",
        ("image_processor", "crop_size"),
        {"height": 8, "width": 8},
        "(8*8",
    ),
    "pictures of no size": ("processor_config", ("image_processor", "size"), {"shortest_edge": 0}, ""),
    "pictures larger than any": (
        "processor_config",
        ("image_processor", "crop_size", "width"),
        10**7,
        "10000000",
    ),
    "patches of no size": ("processor_config", ("patch_size",), 0, "fails on any picture"),
    "another number of image tokens": (
        "processor_config",
        ("num_additional_image_tokens",),
        7,
        "tokens do not",
    ),
    "a billion image tokens": ("processor_config", ("num_additional_image_tokens",), 10**9, "1000000000"),
    "a scale that is text": ("processor_config", ("image_processor", "rescale_factor"), "x", "any picture"),
    "pictures divided by nothing": (
        "processor_config",
        ("image_processor", "image_std"),
        [0, 0, 0],
        "not numbers",
    ),
    "an end that is text": ("generation_config", ("eos_token_id",), "</s>", "eos_token_id"),
    "a penalty that cannot be": ("generation_config", ("repetition_penalty",), -1.0, "penalty"),
}


@pytest.mark.parametrize("what", MISFITS)
def test_files_that_are_not_of_one_model(net: Net, what: str) -> None:
    name, path, value, said = MISFITS[what]
    model = net.model()
    config = json.loads((model / f"{name}.json").read_text())
    put(config, path, value)
    (model / f"{name}.json").write_text(json.dumps(config))
    run = ("evaluate", model, "--data", net.inputs.data, "--tasks", "vqa")
    net.check(what, *run, may=(1, 2), says=said)


def test_several_answers_a_question_are_not_asked_for(net: Net) -> None:
    model = net.model()
    config = json.loads((model / "generation_config.json").read_text())
    (model / "generation_config.json").write_text(
        json.dumps({**config, "do_sample": True, "num_return_sequences": 3})
    )
    run = ("evaluate", model, "--data", net.inputs.data, "--tasks", "vqa")
    net.check("three answers", *run, may=(0,))


RESULT_VALUES = (
    MISSING,
    None,
    True,
    0,
    -1,
    2.5,
    "",
    "2:4",
    "9:3",
    [],
    {},
    [None],
    {"a": 1},
    "../x",
    "\ud800",
)
RESULT_KEYS = [
    *(
        ("version",),
        ("kind",),
        ("source",),
        ("recipe",),
        ("seed",),
        ("calibration",),
        ("versions",),
        ("plan",),
    ),
    *(("layers",), ("towers",), ("seconds",), ("layers", 0)),
    *(("layers", 0, key) for key in ("name", "tower", "shape", "asked", "achieved", "tensor")),
]


@pytest.mark.parametrize("path", RESULT_KEYS, ids=lambda path: "-".join(map(str, path)))
def test_a_value_in_a_manifest(net: Net, path: tuple[Any, ...]) -> None:
    pruned = net.pruned()
    original = (pruned / "ressa.json").read_text()
    for value in RESULT_VALUES:
        manifest = json.loads(original)
        put(manifest, path, value)
        (pruned / "ressa.json").write_text(json.dumps(manifest))
        shown = "nothing" if value is MISSING else repr(value)
        net.check((path, shown), *inspect(net, pruned), may=(0, 1, 2))
        # As far as the data, which are not there.
        net.check((path, shown), *repair(net, pruned, "--split", "nowhere"), may=(2,))
        if path == ("plan",):
            plan = ("--plan", pruned)
            net.check((path, shown), *prune(net, net.inputs.model), *plan, may=(0, 2))


def test_files_of_a_result(net: Net) -> None:
    for name in ("ressa.json", "ressa_masks.safetensors", WEIGHTS):
        for what, spoil in FAULTS.items():
            pruned = net.pruned()
            spoil(pruned / name)
            net.check((name, what), *repair(net, pruned), may=(1, 2))
            net.check((name, what), *inspect(net, pruned), may=(0, 1, 2))


def test_masks_that_are_not_the_models(net: Net) -> None:
    for what, change in {
        "one too few": lambda masks: masks.pop(next(iter(masks))),
        "another's": lambda masks: masks.update(stranger=torch.zeros(2, 1, dtype=torch.uint8)),
        "of another shape": lambda masks: masks.update(
            {next(iter(masks)): torch.zeros(1, 1, dtype=torch.uint8)}
        ),
        "of another kind": lambda masks: masks.update({next(iter(masks)): torch.zeros(2, 2)}),
        "none": lambda masks: masks.clear(),
    }.items():
        pruned = net.pruned()
        masks = load_file(pruned / "ressa_masks.safetensors")
        change(masks)
        save_file(
            masks,
            pruned / "ressa_masks.safetensors",
            metadata={"widths": json.dumps(dict.fromkeys(masks, 8))},
        )
        net.check(what, *repair(net, pruned), may=(1, 2))
        net.check(
            what, *inspect(net, pruned), may=(0, 1, 2)
        )  # weights without a mask are held to the pattern
